"""Calls like an earlier one: found by one look, and never where something has changed."""

import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrize

import normwise as nw
from normwise.ops import again, choice, known_of
from tolerances import assert_close

MAKE: dict[str, Callable[[], Any]] = {
    "batch": lambda: nw.BatchNorm1d(4),
    "batch in evaluation": lambda: nw.BatchNorm1d(4).eval(),
    "batch that counts": lambda: nw.BatchNorm1d(4, momentum=None),
    "frozen": lambda: nw.FrozenBatchNorm1d(4),
    "instance": lambda: nw.InstanceNorm1d(4, affine=True, track_running_stats=True),
    "group": lambda: nw.GroupNorm(2, 4),
    "layer": lambda: nw.LayerNorm1d(4),
    "rms": lambda: nw.RMSNorm1d(4),
    "trailing": lambda: nw.LayerNorm(7),
    "pattern": lambda: nw.Norm("n c [t]", c=4),
}
each = pytest.mark.parametrize("name", MAKE)


def made(name: str) -> Any:
    layer = MAKE[name]()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for t in (*layer.parameters(), *layer.buffers()):
            if t.is_floating_point():
                t.copy_(torch.rand(t.shape, generator=random) + 0.5)
    return layer


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (3, 4, 7), generator=torch.Generator().manual_seed(seed)) + 1e3


def found(layer: Any, x: Tensor) -> bool:
    """Whether the layer's next call with x is one that is found."""
    return layer._again(x) is not None


@each
def test_a_second_call_is_found_and_computes_the_same(name):
    layer, fresh = made(name), made(name)
    layer(drawn(0))
    fresh(drawn(0))
    assert known_of(layer)
    fresh.eps = fresh.eps  # forgets
    assert not known_of(fresh)
    x, also = drawn(2).requires_grad_(), drawn(2).requires_grad_()
    y, truth = layer(x), fresh(also)
    assert torch.equal(y, truth)
    wanted = [x, *layer.parameters()]
    gradients = torch.autograd.grad(y, wanted, drawn(3))
    for one, other in zip(
        gradients, torch.autograd.grad(truth, [also, *fresh.parameters()], drawn(3)), strict=True
    ):
        assert torch.equal(one, other)
    for key, value in layer.state_dict().items():  # what is remembered goes on
        assert torch.equal(value, fresh.state_dict()[key])


@each
def test_a_second_call_has_gradients_of_gradients(name):
    layer, x = made(name).double(), (drawn(0) - 1e3).double().requires_grad_()
    layer(x)
    assert found(layer, x)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)


def test_a_gradient_of_the_gradient_is_found_too():
    layer = made("group").double()
    for _ in range(2):
        x = drawn(0).double().requires_grad_()
        (first,) = torch.autograd.grad(layer(x), x, drawn(1).double(), create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
    reference = nw.functional.group_norm(x, 2, layer.weight, layer.bias)
    (true,) = torch.autograd.grad(reference, x, drawn(1).double(), create_graph=True)
    assert_close(second, torch.autograd.grad(true.square().sum(), x)[0], backward=True)


def _strided(layer: Any) -> None:
    layer._parameters["weight"] = torch.nn.Parameter(torch.rand(4, 2)[:, 0] + 2)


CHANGES: dict[str, Callable[[Any], object]] = {
    "eps": lambda layer: setattr(layer, "eps", 10.0),
    "an activation": lambda layer: setattr(layer, "activation", "relu"),
    "another weight": lambda layer: setattr(layer, "weight", torch.nn.Parameter(torch.rand(4))),
    "a weight in place": lambda layer: layer.weight.data.mul_(3),
    "a weight that is strided": _strided,
    "no bias": lambda layer: setattr(layer, "bias", None),
    "evaluation": lambda layer: layer.eval(),
    "training": lambda layer: layer.train(),
    "double weights": lambda layer: layer.double(),
    "half weights": lambda layer: layer.bfloat16(),
    "other groups": lambda layer: setattr(layer, "num_groups", 4),
}


@pytest.mark.parametrize("name", ["batch", "batch in evaluation", "instance", "group"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_layer_is_seen(name, change):
    layer = made(name)
    for _ in range(2):
        layer(drawn(0))
    CHANGES[change](layer)
    fresh = copy.deepcopy(layer)
    assert not known_of(fresh)
    assert torch.equal(layer(drawn(2)), fresh(drawn(2)))


@each
@pytest.mark.parametrize(
    "x",
    [
        drawn(2, 5, 4, 7),
        drawn(2).double(),
        drawn(2).bfloat16(),
        drawn(2, 3, 7, 4).mT,
        torch.complex(torch.zeros(3, 4, 7), -drawn(2)).conj().imag,
        torch._neg_view(-drawn(2)),
    ],
    ids=["sizes", "double", "bfloat16", "strides", "imaginary", "negated"],
)
def test_another_kind_of_x_is_seen(name, x):
    layer = made(name)
    for _ in range(2):
        layer(drawn(0))
    assert not found(layer, x)
    fresh = copy.deepcopy(layer)
    assert torch.equal(layer(x), fresh(x))


@pytest.mark.parametrize("x", [None, [1.0], torch.ones(3, 4, 7).to_sparse()], ids=type)
def test_what_no_layer_takes_is_refused_as_at_first(x):
    layer = made("group")
    for _ in range(2):
        layer(drawn(0))
    with pytest.raises((nw.NormError, RuntimeError)) as later:
        layer(x)
    with pytest.raises(later.type) as first:
        made("group")(x)
    assert str(later.value) == str(first.value)


BUFFERS: dict[str, Callable[[Tensor], Tensor]] = {
    "in double precision": lambda t: t.double(),
    "strided": lambda t: torch.stack([t, t], 1)[:, 0],
    "negated": lambda t: torch._neg_view(-t),
    "with a gradient": lambda t: t.clone().requires_grad_(),
    "of a class of its own": lambda t: torch.nn.Parameter(t).as_subclass(Named),
}


class Named(Tensor):
    """A tensor that is no plain one."""


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize("kind", BUFFERS)
def test_another_kind_of_what_is_remembered_is_seen(kind, name, training):
    layer, x = made("batch").train(training), drawn(2)
    for _ in range(2):
        layer(drawn(0))
    layer._buffers[name] = BUFFERS[kind](layer._buffers[name])
    with torch.no_grad():
        fresh = nw.BatchNorm1d(4).train(training)
        fresh.load_state_dict(layer.state_dict())
        calls = len(known_of(layer))
        assert_close(layer(x), fresh(x))
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(
            value.as_subclass(Tensor), fresh.state_dict()[key], check_dtype=False
        )
    assert kind == "in double precision" or len(known_of(layer)) == calls


@pytest.mark.parametrize("name", ["batch", "batch that counts", "instance"])
def test_autograd_hears_that_statistics_are_taken_in(name):
    layer = made(name)
    layer(drawn(0))
    statistics = [layer.running_mean, layer.running_var, layer.num_batches_tracked]
    before = [t._version for t in statistics]
    assert found(layer, drawn(2))
    moved = [now._version - then for now, then in zip(statistics, before, strict=True)]
    assert moved == [1, 1, int(name != "instance")]
    assert int(layer.num_batches_tracked) == (0 if name == "instance" else 2)


def test_a_batch_that_is_refused_is_refused_again():
    layer, bad = nw.BatchNorm1d(4, on_nonfinite="raise"), drawn(2).fill_(torch.inf)
    layer(drawn(0))
    before = copy.deepcopy(layer.state_dict())
    for _ in range(2):
        with pytest.raises(nw.NormError, match="are not finite"):
            layer(bad)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key])


def test_kernels_that_are_forced_meanwhile_are_seen(monkeypatch):
    layer, x = made("batch"), drawn(2)
    layer(x)
    assert found(layer, x)
    monkeypatch.setattr(choice, "FORCED", "reference")
    assert not found(layer, x)


def test_padding_is_seen():
    layer, x = made("group"), drawn(2)
    for _ in range(2):
        layer(x)
    with nw.padding([7, 3, 5]):
        assert not found(layer, x)
        y = layer(x)
    assert (y[1, :, 3:] == 0).all()
    assert torch.equal(y, layer(x, nw.lengths_to_mask([7, 3, 5])))
    assert found(layer, x)


def test_a_transform_and_a_watcher_are_seen():
    layer, x = made("group"), drawn(2)
    for _ in range(2):
        layer(x)
    together = torch.func.vmap(lambda x: layer(x[None])[0])(x)
    assert_close(together, layer(x))
    assert "native" in str(nw.explain(layer, x))


@pytest.mark.parametrize("times", [0, 2], ids=["at first", "later"])
@pytest.mark.parametrize("graded", [True, False])
def test_a_tensor_that_was_carried_out_of_a_transform_is_taken(times, graded):
    layer, carried = made("group"), []
    for _ in range(times):
        layer(drawn(2))

    def carry(x: Tensor) -> Tensor:
        carried.append(x)
        return x.sum()

    torch.func.grad(carry)(drawn(2))
    with torch.set_grad_enabled(graded):
        assert_close(layer(carried[0]), layer(drawn(2)))


class Doubled(torch.nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_weights_that_are_computed_are_computed_each_time():
    layer, x = made("group"), drawn(2)
    y = layer(x)
    parametrize.register_parametrization(layer, "weight", Doubled())
    with torch.no_grad():
        layer.bias.zero_()
        for factor in (1.0, 3.0):
            layer.parametrizations.weight.original.fill_(factor)
            expected = 2 * factor * nw.GroupNorm(2, 4, affine=False)(x)
            assert_close(layer(x), expected)
    assert y.shape == x.shape


def test_weights_that_are_lent_for_a_call_are_taken():
    layer, x = made("group"), drawn(2)
    for _ in range(2):
        layer(x)
    lent = {"weight": torch.full((4,), 2.0), "bias": torch.zeros(4)}
    y = torch.func.functional_call(layer, lent, (x,))
    assert_close(y, 2 * nw.GroupNorm(2, 4, affine=False)(x))


@pytest.mark.parametrize("times", [0, 2], ids=["at first", "later"])
def test_weights_of_another_size_are_never_read(times):
    layer, x = made("group"), drawn(2)
    for _ in range(times):
        layer(x)
    layer._parameters["weight"] = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(RuntimeError, match="shape"):
        layer(x)


class Halved(nw.GroupNorm):
    """A layer of one's own, on top of one of ours."""

    def normalized(self, x, mask, fitted, residual=None):
        return super().normalized(x / 2, mask, fitted, residual)


def test_a_formula_of_ones_own_is_asked_each_time():
    layer, x = Halved(2, 4, eps=1.0), drawn(2)
    first = layer(x)
    assert not known_of(layer)
    assert torch.equal(layer(x), first)


class Listening(nw.BatchNorm1d):
    """A layer that looks at what it remembers."""

    def remember(self, moments, fitted):
        self.heard.append(moments.elements)
        super().remember(moments, fitted)


def test_a_memory_of_ones_own_is_asked_each_time():
    layer = Listening(4)
    layer.heard = []
    for _ in range(3):
        layer(drawn(2))
    assert layer.heard == [21, 21, 21]


ALONE = """
import torch
del torch.Tensor.__dlpack_c_exchange_api__
import normwise as nw
layer, fresh, x = nw.BatchNorm1d(4), nw.BatchNorm1d(4), torch.randn(3, 4, 7)
for _ in range(3):
    y = layer(x)
fresh.load_state_dict(layer.state_dict())
assert layer._again(x) is None
assert torch.equal(y, fresh(x)), "another result"
assert int(layer.num_batches_tracked) == 3
"""


def test_where_torch_has_no_table_of_functions_each_call_is_checked():
    subprocess.run([sys.executable, "-c", ALONE], check=True)


def test_an_average_of_one_element_is_refused_each_time():
    layer = nw.InstanceNorm1d(4)
    for _ in range(2):
        with pytest.raises(nw.NormError, match="average over one element"):
            layer(drawn(0, 3, 4, 1))


def test_nothing_is_kept_for_a_layer_that_is_gone_or_in_a_copy():
    layer = made("group")
    layer(drawn(0))
    key = id(layer)
    assert key in again.__globals__["_KNOWN"]
    assert not known_of(pickle.loads(pickle.dumps(layer)))
    del layer
    gc.collect()
    assert key not in again.__globals__["_KNOWN"]


def test_lengths_that_never_repeat_do_not_fill_the_memory():
    layer = made("group")
    for size in range(2, 200):
        layer(drawn(0, 1, 4, size))
    assert len(known_of(layer)) <= 64


@each
def test_many_gradients_at_once_are_those_one_by_one(name):
    layer = made(name).double()
    x = drawn(0, 2, 4, 7).double().requires_grad_()
    layer(x)
    y = layer(x)
    wanted = [x, *layer.parameters()]
    cotangents = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    at_once = torch.autograd.grad(y, wanted, cotangents, retain_graph=True, is_grads_batched=True)
    for i, cotangent in enumerate(cotangents):
        one = torch.autograd.grad(y, wanted, cotangent, retain_graph=True)
        for found_at_once, alone in zip(at_once, one, strict=True):
            assert_close(found_at_once[i], alone)
