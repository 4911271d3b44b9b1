"""What every layer makes of a mask."""

import copy

import pytest
import torch
from conformance import (
    PADDED,
    assert_same_state,
    clone_state,
    each,
    each_padded,
    gradients,
    in_training_and_evaluation,
)

from tolerances import assert_close


@each
@in_training_and_evaluation
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, 1e38])
def test_masked_positions_get_0_and_send_nothing(case, training, junk):
    mask = case.mask()
    real = case.real(mask)
    cotangent = case.x(seed=3)
    dirty = torch.where(real, case.x(), junk)
    clean = torch.where(real, case.x(), 0.0)
    one, other = (case.make().train(training) for _ in range(2))
    y, found = gradients(one, dirty, cotangent, mask)
    wanted_y, wanted = gradients(other, clean, torch.where(real, cotangent, 7.0), mask)
    assert not y[~real.expand_as(y)].any()
    assert not found["x"][~real.expand_as(y)].any()
    assert torch.equal(y, wanted_y)
    for name, gradient in wanted.items():
        assert torch.equal(found[name], gradient), name
    assert_same_state(one, other)


@pytest.mark.parametrize(
    ("case", "training"), [(c, t) for c in PADDED for t in (True, False) if c.is_by_sample(t)]
)
def test_padded_equals_alone(case, training):
    layer = case.make(torch.float64).train(training)
    x, cotangent = case.x(torch.float64), case.x(torch.float64, seed=3)
    size = case.shape[case.time]
    # At least 3: of two elements, the gradient is a difference of equal numbers.
    lengths = [size - i % (size - 2) for i in range(len(x))]
    mask = torch.stack([torch.arange(size) < length for length in lengths])
    mask = mask.reshape(len(x), *[1] * (case.mask().dim() - 2), size)

    y, together = gradients(copy.deepcopy(layer), x, cotangent, mask)
    summed = {name: 0.0 for name, _ in layer.named_parameters()}
    for i, length in enumerate(lengths):

        def alone(tensor, i=i, length=length):
            return tensor[i : i + 1].narrow(case.time, 0, length)

        y_alone, found = gradients(copy.deepcopy(layer), alone(x), alone(cotangent))
        assert_close(alone(y), y_alone)
        assert_close(alone(together["x"]), found.pop("x"), backward=True)
        summed = {name: summed[name] + gradient for name, gradient in found.items()}
    for name, gradient in summed.items():
        assert_close(together[name], gradient, backward=True)


@each
@in_training_and_evaluation
def test_where_nothing_is_real_all_is_0_and_nothing_changes(case, training):
    layer = case.make().train(training)
    before = clone_state(layer)
    y = layer(torch.full(case.shape, torch.nan), torch.zeros_like(case.mask()))
    assert not y.any()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@each
def test_a_full_mask_is_no_mask(case):
    masked, plain = case.make(torch.float64), case.make(torch.float64)
    x = case.x(torch.float64)
    assert_close(masked(x, torch.ones_like(case.mask())), plain(x))
    for name, buffer in masked.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name), rtol=1e-12, atol=0)


@each_padded
def test_a_mask_of_one_sample_counts_for_all(case):
    x, mask = case.x(torch.float64), case.mask()
    layer = case.make(torch.float64).eval()
    assert torch.equal(layer(x, mask[1:2]), layer(x, mask[1:2].expand_as(mask)))
    assert torch.equal(layer(x, mask[1]), layer(x, mask[1:2].expand_as(mask)))
