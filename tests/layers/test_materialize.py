"""Sizes from a sample, and what may be done with parameters before they have one."""

import copy
import io
import random

import numpy as np
import pytest
import torch

import normwise as nw

LAZY = {
    "batch": lambda: nw.BatchNorm1d(),
    "instance": lambda: nw.InstanceNorm1d(),
    "group": lambda: nw.GroupNorm1d(2),
    "layer": lambda: nw.LayerNorm1d(),
    "last": lambda: nw.LayerNorm(),
    "rms": lambda: nw.RMSNorm1d(),
    "norm": lambda: nw.Norm("n (g [c]) [t]", g=2),
    "tanh": lambda: nw.DynamicTanh(),
    "sync": lambda: nw.SyncBatchNorm(),
    "torch's": lambda: torch.nn.LazyBatchNorm1d(),
}
EACH = pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)
X = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(0))


def lazy_model(make):
    return torch.nn.Sequential(
        torch.nn.LazyConv1d(4, 3), make(), torch.nn.Dropout(0.5), nw.BatchNorm1d(4)
    )


@EACH
def test_every_lazy_layer_learns_its_size(make):
    model = nw.materialize(lazy_model(make), X)
    assert not any("Lazy" in type(module).__name__ for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(X).sum().backward()


@EACH
def test_nothing_else_changes(make):
    model = lazy_model(make)
    model[2].eval()
    model[3](torch.randn(3, 4, 5))
    before = {name: buffer.clone() for name, buffer in model[3].named_buffers()}
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert nw.materialize(model, X) is model
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    for name, buffer in model[3].named_buffers():
        assert torch.equal(buffer, before[name])
    for name, buffer in model[1].named_buffers():
        assert torch.equal(buffer, torch.full_like(buffer, name == "running_var"))


def test_samples_are_passed_as_they_are_written():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nw.GroupNorm1d(2)

        def forward(self, x, mask=None):
            return self.norm(x, mask)

    mask = torch.ones(1, 9, dtype=torch.bool)
    for sample in (X, (X,), (X, mask), {"x": X, "mask": mask}):
        assert nw.materialize(Model(), sample).norm.num_channels == 2


def test_buffers_of_layers_that_ignore_the_mode_are_put_back():
    class Counter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return x

    model = nw.materialize(torch.nn.Sequential(Counter(), nw.RMSNorm1d()), X)
    assert int(model[0].count) == 0


def test_a_layer_that_is_not_reached_is_named():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nw.RMSNorm1d()
            self.training_only = nw.InstanceNorm1d()
            self.linear = torch.nn.LazyLinear(3)

        def forward(self, x):
            return self.training_only(x) if self.training else self.norm(x)

    with pytest.raises(nw.NormError) as caught:
        nw.materialize(Model(), X)
    assert str(caught.value) == (
        "the sample did not reach training_only, linear; if training alone goes there, run one "
        "batch in training, or give these layers their sizes"
    )


def test_a_model_that_fails_is_put_back_into_its_mode():
    model = torch.nn.Sequential(nw.RMSNorm1d(), torch.nn.Conv1d(5, 1, 1))
    with pytest.raises(RuntimeError, match="channels"):
        nw.materialize(model, X)
    assert all(module.training for module in model.modules())


# -- before there is a size -------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "LBFGS", "Adafactor"])
def test_an_optimizer_made_before_the_first_batch_trains_as_one_made_after(name):
    def trained(*, early):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), nw.GroupNorm1d(2))
        if not early:
            model(X)
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)

        def loss():
            optimizer.zero_grad()
            error = (model(X) - 1).square().mean()
            error.backward()
            return error

        for _ in range(3):
            optimizer.step(loss)
        return list(model.parameters())

    early, late = trained(early=True), trained(early=False)
    for one, other in zip(early, late, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(early[2], torch.ones(4))


# what asks for a size, and the name torch knows it by
ASKING = [
    (lambda model: torch.optim.Adagrad(model.parameters()), "is_complex"),
    (lambda model: sum(parameter.numel() for parameter in model.parameters()), "numel"),
    (lambda model: torch.nn.init.ones_(model[0].weight), "fill_"),
]


@pytest.mark.parametrize(("ask", "name"), ASKING, ids=[name for _, name in ASKING])
def test_who_needs_a_size_hears_how_to_get_it(ask, name):
    model = torch.nn.Sequential(nw.GroupNorm1d(2))
    with pytest.raises(nw.NormError) as caught:
        ask(model)
    assert str(caught.value) == (
        f"{name} was asked of a parameter that has no size yet; run one batch through its layer, "
        "or nw.materialize(model, sample)"
    )
    ask(nw.materialize(model, X))


@pytest.mark.parametrize("make", [make for name, make in LAZY.items() if name != "torch's"])
def test_a_layer_without_a_size_moves_and_is_copied_and_saved(make):
    layer = copy.deepcopy(make()).to(torch.float64)
    state = layer.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    make().load_state_dict(torch.load(file, weights_only=False))
    assert layer(X.double()).dtype == torch.float64


def test_a_layer_without_a_size_is_no_replica():
    with pytest.raises(RuntimeError, match="uninitialized parameters"):
        nw.GroupNorm1d(2)._replicate_for_data_parallel()
