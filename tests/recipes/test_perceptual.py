"""Distances of content and style: what they are 0 for, and what they mean."""

import pytest
import torch

from normwise.recipes.images.perceptual import (
    STYLES,
    GramStyle,
    StatisticsStyle,
    content_distance,
    gram,
    variation,
)

each_kind = pytest.mark.parametrize("kind", STYLES.values(), ids=list(STYLES))


def features(seed, *shape, level=0.0):
    generator = torch.Generator().manual_seed(seed)
    return level + torch.randn(shape, generator=generator)


@each_kind
def test_style_is_the_same_wherever_it_is_in_the_picture(kind):
    x = features(0, 1, 6, 8, 10, level=1)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    elsewhere = x.flatten(2)[..., order].reshape(1, 6, 10, 8)
    style = kind([x], [1.0])
    assert style.distance(elsewhere) < 1e-9
    assert style.distance(features(1, 1, 6, 8, 10)) > 0.05


def test_content_is_not():
    x = features(0, 1, 6, 8, 10)
    assert content_distance(x, x) == 0
    assert content_distance(x.flip(3), x) > 0.5
    assert content_distance(torch.zeros_like(x), x) == 1


def test_a_gram_matrix_is_the_mean_of_products_of_channels():
    x = features(0, 2, 3, 4, 5)
    expected = sum(x[..., i, j, None] @ x[..., i, j, None].mT for i in range(4) for j in range(5))
    assert torch.allclose(gram(x), expected / 20, atol=1e-5)
    assert GramStyle([x[:1]], [1.0]).distance(torch.zeros(1, 3, 4, 5)) == 1


def test_the_distance_of_statistics_is_that_of_means_and_deviations():
    x, y = features(0, 1, 6, 8, 10), 2 * features(1, 1, 6, 5, 7, level=1)

    def statistics(z):
        return torch.cat([z.mean((2, 3)), z.std((2, 3), correction=0)])

    difference = (statistics(x) - statistics(y)).square().sum() / statistics(y).square().sum()
    assert StatisticsStyle([y], [1.0]).distance(x) == pytest.approx(float(difference), rel=1e-4)


def test_its_gradient_is_that_of_the_statistics_though_the_norm_has_none():
    x = features(0, 1, 3, 4, 5).double().requires_grad_()
    y = features(1, 1, 3, 6, 7, level=2).double()
    (found,) = torch.autograd.grad(StatisticsStyle([y], [1.0]).distance(x), x)
    means = (x.mean((2, 3)) - y.mean((2, 3))).square()
    deviations = (x.std((2, 3), correction=0) - y.std((2, 3), correction=0)).square()
    expected = (means + deviations).mean() / y.square().mean()
    (truth,) = torch.autograd.grad(expected, x)
    assert torch.allclose(found, truth, rtol=1e-3, atol=1e-7)


@each_kind
def test_several_styles_are_weighed(kind):
    one, other = features(0, 1, 4, 8, 8), features(1, 1, 4, 8, 8, level=3)
    x = features(2, 1, 4, 8, 8)
    assert kind([one, other], [1.0, 0.0]).distance(x) == kind([one], [1.0]).distance(x)
    near = kind([one, other], [0.9, 0.1]).distance(one)
    assert near < kind([one, other], [0.1, 0.9]).distance(one)


def test_a_batch_has_the_mean_distance():
    x, style = features(0, 3, 4, 8, 8), GramStyle([features(1, 1, 4, 6, 6)], [1.0])
    each = [float(style.distance(one[None])) for one in x]
    assert float(style.distance(x)) == pytest.approx(sum(each) / 3, rel=1e-5)


def test_areas_do_not_vary_and_noise_does():
    assert variation(torch.full((1, 3, 8, 8), 0.7)) == 0
    ramp = torch.linspace(0, 1, 8).expand(1, 3, 8, 8)
    assert variation(ramp) == pytest.approx(1 / 49)
