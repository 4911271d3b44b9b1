"""Layers as torch.nn's of the same name: arguments, state, defaults; and their copies."""

import copy
import inspect
import pickle

import pytest
import torch
from conformance import (
    assert_same_state,
    each,
    each_class,
    each_twinned,
    gradients,
    unsettled,
)

import normwise as nw
from tolerances import assert_close


@each_twinned
def test_it_agrees_with_torch_over_several_steps(case):
    ours = case.make(torch.float64)
    torchs = unsettled(case.twin(*case.arguments, dtype=torch.float64, **case.keywords))
    cotangent = case.x(torch.float64, seed=9)
    for seed, training in enumerate([True, True, False, True, False]):
        x = case.x(torch.float64, seed)
        y, found = gradients(ours.train(training), x, cotangent)
        wanted_y, wanted = gradients(torchs.train(training), x, cotangent)
        assert_close(y, wanted_y)
        for name, gradient in wanted.items():
            assert_close(found[name], gradient, backward=True)
        for name, buffer in torchs.named_buffers():
            torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=1e-12, atol=0)


@each_twinned
def test_state_dicts_go_both_ways(case):
    ours = case.make()
    torchs = case.twin(*case.arguments, **case.keywords)
    torchs.load_state_dict(ours.state_dict())
    assert_same_state(ours, torchs)
    back = case.layer(*case.arguments, **case.keywords)
    back.load_state_dict(torchs.state_dict())
    assert_same_state(ours, back)


@each_twinned
def test_it_is_torchs_class_and_reads_like_it(case):
    layer, torchs = case.make(), case.twin(*case.arguments, **case.keywords)
    assert isinstance(layer, case.twin)
    assert repr(layer) == repr(torchs)
    for name, value in vars(torchs).items():
        if not name.startswith("_"):
            assert getattr(layer, name) == value, name


@each_twinned
def test_it_takes_the_arguments_that_torchs_class_takes(case):
    ours, torchs = (inspect.signature(c).parameters.values() for c in (case.layer, case.twin))
    ours, torchs = list(ours), list(torchs)
    assert all(more.kind is more.KEYWORD_ONLY for more in ours[len(torchs) :])
    for mine, theirs in zip(ours, torchs, strict=False):
        assert mine.name == theirs.name
        assert mine.kind == theirs.kind
        if theirs.default is not theirs.empty:
            assert mine.default == theirs.default


LAZY_OF_TORCH = [name for name in dir(torch.nn) if name.startswith("Lazy") and hasattr(nw, name)]


def test_torchs_lazy_norms_are_all_here():
    norms = {name for name in dir(torch.nn) if name.startswith("Lazy") and "Norm" in name}
    assert norms <= set(LAZY_OF_TORCH)


@pytest.mark.parametrize("name", LAZY_OF_TORCH)
def test_a_lazy_class_has_the_defaults_of_torchs(name):
    ours, torchs = (inspect.signature(getattr(m, name)).parameters for m in (nw, torch.nn))
    assert {n: ours[n].default for n in torchs} == {n: p.default for n, p in torchs.items()}
    made, wanted = getattr(nw, name)(), getattr(torch.nn, name)()
    for argument in ("eps", "momentum", "affine", "track_running_stats"):
        assert getattr(made, argument) == getattr(wanted, argument)


def test_left_without_a_size_a_layer_keeps_its_own_defaults():
    layer = nw.InstanceNorm1d()
    assert type(layer) is nw.LazyInstanceNorm1d
    assert not layer.affine
    assert not layer.track_running_stats
    assert nw.LazyInstanceNorm1d(6).affine
    assert not nw.LazyInstanceNorm1d(affine=False).affine
    assert not nw.LazyInstanceNorm1d(6, 1e-5, 0.1, False).affine


# -- copies ------------------------------------------------------------------


@each
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_is_the_same_and_its_own(case, copied):
    layer, x = case.make(), case.x()
    layer(x)
    twin = copied(layer)
    assert type(twin) is type(layer)
    assert_same_state(twin, layer)
    assert torch.equal(twin(x), layer(x))
    assert_same_state(twin, layer)
    tensors = {t.data_ptr() for t in layer.state_dict().values()}
    assert tensors.isdisjoint(t.data_ptr() for t in twin.state_dict().values())


@each_class
def test_it_is_moved_to_another_dtype(case):
    layer = case.make().double()
    assert layer(case.x(torch.float64)).dtype == torch.float64


@each_class
def test_what_it_remembers_stays_wide_in_half_precision(case):
    made, moved_later = case.make(torch.float16), case.make().half()
    wanted = case.make()
    for layer in (made, moved_later):
        for name, buffer in layer.named_buffers():
            if name.startswith("running_"):
                assert buffer.dtype == torch.float32
                assert torch.equal(buffer, wanted.get_buffer(name))


@each
def test_repr_names_the_layer_and_its_size(case):
    text = repr(case.make())
    assert text.startswith(f"{case.name}(")
    assert str(case.arguments[-1]) in text
