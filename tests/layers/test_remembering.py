"""Running statistics that behave: wide, unmoved by empty batches, safe from what is not finite."""

import copy
from functools import partial

import pytest
import torch

import normwise as nw
from tolerances import assert_close

# every kind of layer that remembers, for x (N, 4, T)
MAKE = {
    "batch": lambda **w: nw.BatchNorm1d(4, **w),
    "instance": lambda **w: nw.InstanceNorm1d(4, track_running_stats=True, **w),
    "norm": lambda **w: nw.Norm("[n] c [t]", c=4, running=nw.Running(), **w),
    "mean square": lambda **w: nw.Norm(
        "[n] c [t]", c=4, centres=False, running=nw.Running(average="cumulative"), **w
    ),
    "groups": lambda **w: nw.Norm("n (g [c]) [t]", g=2, c=2, running=nw.Running(), **w),
}
EACH = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def batch(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3


def state(layer):
    return {name: t.clone() for name, t in layer.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def statistics(layer):
    return {name: b.dtype for name, b in layer.named_buffers() if b.is_floating_point()}


# -- precision -------------------------------------------------------------------

HALVES = {
    "half()": lambda layer: layer.half(),
    "bfloat16()": lambda layer: layer.bfloat16(),
    "to(float16)": lambda layer: layer.to(torch.float16),
    "inside a model": lambda layer: torch.nn.Sequential(layer).to(torch.bfloat16)[0],
}


@pytest.mark.parametrize("halve", HALVES.values(), ids=HALVES)
@EACH
def test_statistics_stay_float32_in_a_layer_made_half(make, halve):
    layer = make()
    layer(batch(3, 4, 5))
    before = state(layer)
    layer = halve(layer)
    assert set(statistics(layer).values()) == {torch.float32}
    for name in statistics(layer):
        assert torch.equal(layer.get_buffer(name), before[name])
    for parameter in layer.parameters():
        assert parameter.dtype in (torch.float16, torch.bfloat16)


@EACH
def test_statistics_are_float32_in_a_layer_that_begins_half(make):
    assert set(statistics(make(dtype=torch.float16)).values()) == {torch.float32}


@EACH
def test_statistics_widen_with_double_and_come_back_with_float(make):
    layer = make().double()
    assert set(statistics(layer).values()) == {torch.float64}
    assert set(statistics(layer.half()).values()) == {torch.float64}
    assert set(statistics(layer.float()).values()) == {torch.float32}


@EACH
def test_statistics_go_to_another_device_with_the_layer(make):
    layer = make().half().to("meta")
    assert {buffer.device.type for buffer in layer.buffers()} == {"meta"}
    assert set(statistics(layer).values()) == {torch.float32}


@EACH
def test_a_layer_made_half_remembers_as_a_float_layer_does(make):
    half, single = make().bfloat16(), make()
    for seed in range(20):
        x = batch(3, 4, 5, seed=seed).bfloat16()
        assert half(x).dtype == torch.bfloat16
        single(x.float())
    for name in statistics(half):
        assert torch.equal(half.get_buffer(name), single.get_buffer(name))


def test_a_small_momentum_still_moves_a_layer_made_half():
    layer = nw.BatchNorm1d(4, momentum=1e-5).half()
    for _ in range(3):
        before = layer.running_var.clone()
        layer(batch(3, 4, 5).half())
        assert (layer.running_var > before).all()  # by less than the 1e-3 that a half can tell
        assert torch.equal(layer.running_var.half(), torch.ones(4).half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@EACH
def test_autocast_leaves_the_statistics_alone(make, dtype):
    layer, plain = make(), make()
    convolution = torch.nn.Conv1d(2, 4, 3)
    with torch.autocast("cpu", dtype):
        x = convolution(batch(3, 2, 9))
        y = layer(x)
    assert x.dtype == y.dtype == dtype
    plain(x.float())
    for name in statistics(layer):
        assert torch.equal(layer.get_buffer(name), plain.get_buffer(name))
    y.float().sum().backward()


def test_half_state_dicts_move_both_ways():
    ours, theirs = nw.BatchNorm1d(4).half(), torch.nn.BatchNorm1d(4).half()
    ours(batch(3, 4, 5).half())
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs.running_mean, ours.running_mean.half())
    ours.load_state_dict(theirs.state_dict())
    assert ours.running_mean.dtype == torch.float32
    assert torch.equal(ours.running_mean.half(), theirs.running_mean)


# -- momentum=None ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["BatchNorm1d", "InstanceNorm1d"])
def test_without_momentum_all_batches_count_alike(name):
    layer = getattr(nw, name)(4, momentum=None, track_running_stats=True)
    seen = [batch(3, 4, 6, seed=seed) * (seed + 1) for seed in range(5)]
    for x in seen:
        layer(x)
    over = (0, 2) if name == "BatchNorm1d" else 2
    means = torch.stack([x.mean(over).reshape(-1, 4).mean(0) for x in seen])
    variances = torch.stack([x.var(over).reshape(-1, 4).mean(0) for x in seen])
    assert_close(layer.running_mean, means.mean(0))
    assert_close(layer.running_var, variances.mean(0))
    assert int(layer.num_batches_tracked) == 5


# -- empty batches ------------------------------------------------------------------

EMPTY = {
    "no samples": (batch(0, 4, 5), None),
    "no samples of one position": (batch(0, 4, 1), None),
    "no positions": (batch(3, 4, 0), None),
    "nothing real": (batch(3, 4, 5), torch.zeros(3, 5, dtype=torch.bool)),
    "no samples, masked": (batch(0, 4, 5), torch.zeros(0, 5, dtype=torch.bool)),
}


@pytest.mark.parametrize(("x", "mask"), EMPTY.values(), ids=EMPTY)
@EACH
def test_an_empty_batch_changes_nothing(make, x, mask):
    layer = make()
    layer(batch(3, 4, 5))
    before = state(layer)
    x = x.clone().requires_grad_()
    y = layer(x, mask)
    assert y.shape == x.shape
    assert not y.any()
    assert_same(state(layer), before)

    y.sum().backward()
    assert not x.grad.any()
    for parameter in layer.parameters():
        assert not parameter.grad.any()

    layer.eval()
    assert not layer(x, mask).any()
    assert_same(state(layer), before)


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 4, 0)])
def test_an_empty_batch_passes_every_other_norm(shape):
    for layer in (nw.GroupNorm1d(2, 4), nw.LayerNorm1d(4), nw.RMSNorm1d(4), nw.InstanceNorm1d(4)):
        x = batch(*shape).requires_grad_()
        y = layer(x)
        y.sum().backward()
        assert y.shape == x.grad.shape == shape


def test_an_empty_first_batch_teaches_a_lazy_layer_its_size():
    layer = nw.BatchNorm1d()
    assert layer(batch(0, 4, 5)).shape == (0, 4, 5)
    assert layer.num_features == 4
    assert int(layer.num_batches_tracked) == 0


# -- what is not finite ---------------------------------------------------------------

SPOILED = [float("nan"), float("inf"), -float("inf"), 3e38]


def spoiled(value):
    x = batch(3, 4, 5)
    x[1, 2, 3] = value
    return x


@pytest.mark.parametrize("value", SPOILED)
def test_nonfinite_statistics_are_taken_in_as_torch_does(value):
    ours, theirs = nw.BatchNorm1d(4), torch.nn.BatchNorm1d(4)
    for layer in (ours, theirs):
        layer(spoiled(value))
    assert torch.equal(ours.running_var.isfinite(), theirs.running_var.isfinite())
    assert not ours.running_var.isfinite().all()
    assert int(ours.num_batches_tracked) == 1


# Every layer that remembers, made with what becomes of such a batch.
GUARDED = {
    "batch": nw.BatchNorm1d,
    "sync": nw.SyncBatchNorm,
    "instance": partial(nw.InstanceNorm1d, momentum=None, track_running_stats=True),
    "renorm": nw.BatchRenorm1d,
    "ghost": partial(nw.GhostBatchNorm1d, 2),
    "switchable": nw.SwitchableNorm1d,
    "evonorm-b0": nw.EvoNormB01d,
    "lazy": lambda features, **keywords: nw.LazyBatchNorm1d(**keywords),
}
each_guarded = pytest.mark.parametrize("make", GUARDED.values(), ids=GUARDED)


@each_guarded
@pytest.mark.parametrize("value", SPOILED)
def test_nonfinite_statistics_are_skipped(make, value):
    layer, clean = make(4, on_nonfinite="skip"), make(4)
    for x in (batch(3, 4, 5), spoiled(value), batch(2, 4, 6)):
        layer(x)
    for x in (batch(3, 4, 5), batch(2, 4, 6)):
        clean(x)
    assert_same(state(layer), state(clean))


@each_guarded
@pytest.mark.parametrize("value", SPOILED)
def test_nonfinite_statistics_are_refused(make, value):
    layer = make(4, on_nonfinite="raise")
    layer(batch(3, 4, 5))
    before = state(layer)
    with pytest.raises(nw.NormError) as caught:
        layer(spoiled(value))
    assert str(caught.value) == (
        "the statistics of a batch are not finite, and on_nonfinite='raise'; what is remembered is "
        "as it was. on_nonfinite='skip' passes such batches over"
    )
    assert_same(state(layer), before)
    layer.eval()
    layer(spoiled(value))


@pytest.mark.parametrize("on_nonfinite", ["skip", "raise"])
def test_what_is_masked_need_not_be_finite(on_nonfinite):
    layer, plain = (nw.BatchNorm1d(4, on_nonfinite=on_nonfinite) for _ in range(2))
    mask = nw.lengths_to_mask([5, 3, 5])
    layer(spoiled(float("nan")), mask)
    plain(batch(3, 4, 5), mask)
    assert_same(state(layer), state(plain))


def test_skipping_does_not_break_a_compiled_graph():
    layer = nw.BatchNorm1d(4, on_nonfinite="skip")
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="eager")
    for x in (batch(3, 4, 5), spoiled(float("nan"))):
        layer(x), compiled(x)
    kept, other = state(layer), state(compiled._orig_mod)
    for name in kept:  # by a kernel here, by the formula there
        torch.testing.assert_close(kept[name], other[name])


def test_only_words_that_are_known():
    with pytest.raises(nw.NormError) as caught:
        nw.BatchNorm2d(4, on_nonfinite="drop")
    assert str(caught.value) == (
        "Running(on_nonfinite='drop') is not known; write one of 'ignore', 'skip', 'raise'"
    )


def test_repr_says_so_where_it_is_not_torchs():
    assert "on_nonfinite" not in repr(nw.BatchNorm1d(4))
    for make in GUARDED.values():
        assert ", on_nonfinite='skip'" in repr(make(4, on_nonfinite="skip"))
    assert nw.make("batch:on_nonfinite=skip", 4).on_nonfinite == "skip"


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize(
    "make", [nw.BatchNorm1d, partial(nw.InstanceNorm1d, track_running_stats=True)]
)
def test_statistics_of_another_number_of_features_are_refused_and_nothing_is_written(make, name):
    layer, x = make(4), torch.randn(3, 4, 7)
    layer(x)
    wide = torch.full((6,), 7.0)  # what lies behind a buffer is somebody else's
    layer._buffers[name] = wide[:2]
    before = {key: buffer.clone() for key, buffer in layer.named_buffers()}
    with pytest.raises(nw.NormError, match="of 2 features cannot take in a batch of 4"):
        layer(x)
    assert torch.equal(wide, torch.full((6,), 7.0))
    for key, buffer in layer.named_buffers():
        assert torch.equal(buffer, before[key])
