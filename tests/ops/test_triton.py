"""The GPU kernels beside the formulas: natively where there is a GPU, interpreted elsewhere."""

import itertools
import mmap
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

import normwise as nw
from forms import (
    BATCH,
    CASES,
    DTYPES,
    GROUP,
    INSTANCE,
    LAST,
    LAST_TWO,
    LAYER,
    SAMPLE,
    Case,
    Inputs,
    Outcome,
    assert_same,
    channels_last,
    in_float64,
    inputs_of,
    masked_or_not,
    of_a_few,
    outcome,
    sliced,
)
from normwise import reference
from normwise.axes import SCHEMES
from normwise.ops import choice, dispatch, watch
from normwise.reference import ACTIVATIONS, Moments
from normwise.running import Remembered, Running
from tolerances import assert_close

triton = pytest.importorskip("triton")
tl = triton.language

import interpreted  # noqa: E402
from normwise.ops.triton import launch  # noqa: E402
from normwise.ops.triton import plan as planning  # noqa: E402
from normwise.ops.triton.kernels.tiles import address, positions  # noqa: E402
from normwise.ops.triton.plan import TritonPlan  # noqa: E402

DEVICE = "cpu" if planning.INTERPRETED else "cuda"
interpreted.as_on_a_gpu()


@pytest.fixture(autouse=True)
def on_triton(monkeypatch):
    """Every call takes the kernels, and decides anew how."""
    monkeypatch.setattr(choice, "FORCED", "triton")
    monkeypatch.setattr(TritonPlan, "plans", {})
    monkeypatch.setattr(launch, "WAVES", 1)


@pytest.fixture
def split(monkeypatch):
    """Tiles so small that most statistics need several."""
    monkeypatch.setattr(launch, "FORWARD", 32)
    monkeypatch.setattr(launch, "BACKWARD", 32)
    monkeypatch.setattr(launch, "SHARE", 64)


@pytest.fixture
def apart(split, monkeypatch):
    """So small, and no cache that they could be streamed through."""
    monkeypatch.setattr(launch, "STREAMED", 0)


SPLITS = pytest.mark.parametrize("how", ["split", "apart"])
HOW = pytest.mark.parametrize("how", ["whole", "split", "apart"])


@pytest.fixture
def tiled(how, request):
    """Statistics in tiles as `how` says."""
    if how != "whole":
        request.getfixturevalue(how)


def by_triton(case: Case, inputs: Inputs, **options: Any) -> Outcome:
    inputs = {name: t.to(DEVICE) for name, t in inputs.items()}
    with watch() as calls:
        found = outcome(dispatch.normalize, case, inputs, **options)
    assert [call.kernel for call in calls] == ["triton"], calls
    moments = (t.cpu() if isinstance(t, torch.Tensor) else t for t in found.moments)
    return Outcome(found.y.cpu(), Moments(*moments), [g.cpu() for g in found.gradients])


def check(case: Case, inputs: Inputs, **options: Any) -> None:
    found = by_triton(case, inputs, **options)
    assert_same(found, outcome(reference.normalize, case, in_float64(inputs), **options))


# The interpreter takes 20 ms for each program and kernel: these have few statistics.
SMALL = [
    Case("instance", INSTANCE, (1, 2, 50)),
    Case("instance channels last", INSTANCE, (1, 2, 6, 7), channels_last),
    Case("group", GROUP, (1, 4, 20), sizes={"g": 2}),
    Case("group channels last", GROUP, (2, 6, 5, 3), channels_last, sizes={"g": 2}),
    Case("batch", BATCH, (2, 2, 30)),
    Case("batch of rows", BATCH, (40, 3)),
    Case("sample", SAMPLE, (2, 3, 20)),
    Case("layer", LAYER, (1, 40, 5)),
    Case("trailing", LAST, (3, 40)),
    Case("trailing two", LAST_TWO, (3, 5, 13), sliced),
]


def small(*names: str) -> pytest.MarkDecorator:
    cases = [case for case in SMALL if not names or case.name in names]
    return pytest.mark.parametrize("case", cases, ids=str)


FAST = ("instance of few", "instance sliced", "group", "group transposed", "batch of few", "ghost",
        "sample channels last", "layer of many rows", "layer sliced", "rms transposed")  # fmt: skip
ALL = [pytest.param(c, marks=[] if c.name in FAST else pytest.mark.slow) for c in CASES]


# -- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ALL, ids=str)
@masked_or_not
def test_the_kernels_compute_the_formula(case, masked):
    if masked and len(case.features) == len(case.shape) - 1 and case.scheme is LAST_TWO:
        pytest.skip("a mask of one number for each table says nothing that `mask` does not")
    check(case, inputs_of(case, torch.float32, masked=masked))


@small()
@masked_or_not
@SPLITS
def test_a_statistic_may_be_split_over_programs(case, masked, how, tiled):
    check(case, inputs_of(case, torch.float32, masked=masked))
    (plan,) = TritonPlan.plans.values()
    for by in (plan._ahead, plan._back[False]):
        assert by.parts > 1
        assert bool(by.lag) == (how == "split")


@small("group", "batch of rows", "layer", "trailing")
@DTYPES
def test_numbers_of_every_format(case, dtype, split):
    check(case, inputs_of(case, dtype, of_weight=torch.float32))


@small("group", "batch of rows", "layer")
@pytest.mark.parametrize("activation", [*ACTIVATIONS])
def test_residual_and_activation_are_part_of_the_formula(case, activation):
    masked = activation in ("gelu", "relu")
    check(case, inputs_of(case, torch.float32, masked=masked, adds=True), activation=activation)


@small("instance", "batch of rows", "layer", "trailing")
@HOW
@masked_or_not
def test_an_offset_costs_no_digits(case, how, masked, tiled):
    check(case, inputs_of(case, torch.float32, masked=masked, offset=1e6))


@small("instance", "batch of rows", "trailing")
@pytest.mark.parametrize("spoiler", [torch.nan, torch.inf])
@HOW
@masked_or_not
def test_what_is_not_finite_spoils_its_own_statistic_and_no_other(
    case, spoiler, how, masked, tiled
):
    inputs = inputs_of(case, torch.float32, masked=masked)
    spoilt = inputs["x"].clone()
    spoilt[0, 1] = spoiler
    if masked:
        inputs["mask"][0] = True
    inputs["x"] = spoilt
    found = by_triton(case, inputs)
    truth = outcome(reference.normalize, case, inputs)
    assert torch.equal(found.y.isfinite(), truth.y.isfinite())
    assert not found.y.isfinite().all()
    assert torch.equal(found.moments.var.isfinite(), truth.moments.var.isfinite())
    for gradient, true in zip(found.gradients, truth.gradients, strict=True):
        assert torch.equal(gradient.isfinite(), true.isfinite())


@small("instance", "batch of rows", "group")
@pytest.mark.parametrize("share", [0.01, 0.9])
def test_a_level_that_shifts_costs_no_digits(case, share, split):
    inputs = inputs_of(case, torch.float32)
    level = torch.zeros(case.shape).flatten()
    level[: int(share * level.numel()) + 1] = 1e4
    inputs["x"] = case.lay(inputs["x"] + level.view(case.shape))
    check(case, inputs)


@small("group", "batch of rows", "layer", "trailing")
@HOW
def test_the_same_call_gives_the_same_bits(case, how, tiled):
    inputs = inputs_of(case, torch.float32, adds=True)
    first, second = (by_triton(case, inputs, activation="silu") for _ in range(2))
    assert torch.equal(first.y, second.y)
    assert torch.equal(first.moments.var, second.moments.var)
    for one, other in zip(first.gradients, second.gradients, strict=True):
        assert torch.equal(one, other)


@small("group", "batch of rows", "batch", "layer")
@masked_or_not
def test_given_statistics_are_taken(case, masked, split):
    inputs = inputs_of(case, torch.float32, masked=masked)
    clean = torch.nan_to_num(inputs["x"].double())
    own = reference.measured(clean, case.scheme, sizes=case.sizes)
    shift = own.mean if case.scheme.centres else own.shift
    given = Moments(shift, shift.new_zeros(()), own.var, 0, kept=True)
    here = Moments(shift.to(DEVICE), given.offset.to(DEVICE), own.var.to(DEVICE), 0, kept=True)
    found = by_triton(case, inputs, given=here, activation="relu")
    truth = outcome(reference.normalize, case, in_float64(inputs), given=given, activation="relu")
    assert_close(found.y, truth.y)
    for gradient, true in zip(found.gradients, truth.gradients, strict=True):
        assert_close(gradient, true, backward=True)


@pytest.mark.slow
@of_a_few
@DTYPES
@masked_or_not
def test_everything_at_once(case, dtype, masked, split):
    inputs = inputs_of(case, dtype, masked=masked, adds=True, of_weight=torch.float32)
    check(case, inputs, activation="gelu")


# -- what is wanted of a gradient --------------------------------------------------------------


@pytest.mark.parametrize("alone", ["x", "weight", "bias", "residual"])
@HOW
def test_each_gradient_may_be_wanted_alone(alone, how, tiled):
    case = next(case for case in SMALL if case.name == "group")
    inputs = inputs_of(case, torch.float32, adds=True)
    gradient = inputs.pop("gradient")
    (true,), (found,) = (
        torch.autograd.grad(
            run(x, case.scheme, sizes=case.sizes, **rest)[0], [leaf], gradient.to(leaf.device)
        )
        for run, tensors in (
            (reference.normalize, inputs),
            (dispatch.normalize, {name: t.to(DEVICE) for name, t in inputs.items()}),
        )
        for leaf in [tensors[alone].detach().requires_grad_()]
        for x, rest in [({**tensors, alone: leaf}.pop("x"),
                         {k: t for k, t in {**tensors, alone: leaf}.items() if k != "x"})]
    )  # fmt: skip
    assert_close(found.cpu(), true, backward=True)


# -- addresses ---------------------------------------------------------------------------------


@triton.jit
def _addresses(
    to, block, part, tiles, sizes, strides, statistics: tl.constexpr, rows: tl.constexpr,
    neighbours: tl.constexpr, vector: tl.constexpr, across: tl.constexpr,
):  # fmt: skip
    _, where, there = positions(
        block, part, tiles, sizes, statistics, rows, neighbours, vector, across, True
    )
    at = address(where, strides, vector, across)
    at = tl.where(there[0] & there[1] & there[2], at, -1)
    s = tl.arange(0, statistics)[:, None, None] * (rows * neighbours)
    r = tl.arange(0, rows)[None, :, None] * neighbours
    q = tl.arange(0, neighbours)[None, None, :]
    tl.store(to + s + r + q, at)


@pytest.mark.parametrize("across", [False, True])
def test_addresses_beyond_32_bits(across):
    o, a, k, p, q = (3, 70_000, 40_000, 1, 1) if across else (3, 1, 5, 70_000, 40_000)
    held = (2, 4, 1) if across else (1, 2, 4)
    strides = (a * k, k, 1, 1) if across else (k * p * q, 0, p * q, q)
    block, row_tile, tile = (o * k // 2 - 1, a // 4 - 1, 0) if across else (o * k - 1, p // 2 - 1,
                                                                           q // 4 - 1)  # fmt: skip
    to = torch.empty(held, dtype=torch.int64, device=DEVICE)
    units = tuple(s // 4 for s in strides)
    tiles = max(q // 4, 1)
    _addresses[(1,)](
        to, block, row_tile * tiles + tile, tiles,
        (o, a, k // 4, p, q) if across else (o, a, k, p, q // 4), units, *held, vector=4,
        across=across,
    )  # fmt: skip
    total = o * a * k * p * q
    assert total > 2**32
    if across:
        expected = [[[total - k - 2 + j - (3 - i) * k + k] for i in range(4)] for j in range(2)]
    else:
        expected = [[[total - (2 - i) * q + q - 4 + j for j in range(4)] for i in range(2)]]
    assert to.tolist() == expected


def test_more_columns_than_32_bits_count():
    k = 3 << 30
    to = torch.empty((2, 4, 1), dtype=torch.int64, device=DEVICE)
    units = (k, k // 4, 1, 1)
    _addresses[(1,)](
        to, k // 2 - 1, 0, 1, (1, 4, k // 4, 1, 1), units, 2, 4, 1, vector=4, across=True
    )
    assert to.tolist() == [[[(i + 1) * k - 2 + j] for i in range(4)] for j in range(2)]


# -- running statistics ------------------------------------------------------------------------

POLICIES = [
    Running(momentum=0.3),
    Running(average="cumulative"),
    Running(start="first-batch"),
    Running(on_nonfinite="skip"),
]


@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda p: f"{p.average} {p.start} {p.on_nonfinite}"
)
@pytest.mark.parametrize("name", ["batch", "instance"])
@masked_or_not
def test_running_statistics_are_updated_as_the_policy_says(policy, name, masked):
    scheme = SCHEMES[name]
    case = next(case for case in SMALL if case.name == name)
    inputs = inputs_of(case, torch.float32, masked=masked)
    buffers = [
        Remembered(*(t.to(device) for t in (torch.zeros(2), torch.ones(2), torch.tensor(0))))
        for device in ("cpu", DEVICE)
    ]
    fitted = scheme.pattern.fit(3)
    for factor in (1, 3, torch.inf if policy.on_nonfinite == "skip" else 2):
        x, mask = inputs["x"] * factor, inputs.get("mask")
        _, moments = reference.normalize(x, scheme, mask=mask)
        policy.update(buffers[0], moments, fitted)
        here = None if mask is None else mask.to(DEVICE)
        _, stored = dispatch.normalize(x.to(DEVICE), scheme, mask=here)
        dispatch.remember(policy, buffers[1], stored, fitted)
    for true, found in zip(*buffers, strict=True):
        assert_close(found.cpu().float(), true.float())


@pytest.mark.skipif(DEVICE == "cuda", reason="72 GB, of which files and CPUs have pages alone")
def test_running_statistics_beyond_32_bits(tmp_path):
    start = 4 << 33  # what overflows would be read before it
    with (tmp_path / "moments").open("wb+") as file:
        file.truncate(start + 4 * 9_400_000_000)
        memory = mmap.mmap(file.fileno(), 0)
    figures, samples, features = 4, 3, 3
    close = torch.rand(figures, samples, features, generator=torch.Generator().manual_seed(0)) * 9
    strides = 1_500_000_000, 1_200_000_007, 1_200_000_000
    for where in itertools.product(range(figures), range(samples), range(features)):
        at = start + 4 * sum(i * stride for i, stride in zip(where, strides, strict=True))
        torch.frombuffer(memory, dtype=torch.float32, count=1, offset=at).copy_(close[where])
    far = torch.frombuffer(memory, dtype=torch.float32, count=1, offset=start)
    found = []
    for moments, (statistics, sample, feature) in ((close, close.stride()), (far, strides)):
        mean, var, batches = torch.zeros(features), torch.ones(features), torch.tensor(0)
        planning.run(
            planning.kernels.remember, 1, far.device, moments, mean, var, batches, statistics,
            samples, features, sample, feature, 0, 0.3, COUNTED=True, CUMULATIVE=False,
            FROM_FIRST=False, SKIPS=False, BLOCK=4,
        )  # fmt: skip
        found.append((mean, var, batches))
    assert all(map(torch.equal, *found))
    assert found[0][2] == 1
    assert found[0][0].min() > 0


def test_a_batch_that_is_refused_changes_nothing():
    x = torch.full((2, 4, 3), torch.nan, device=DEVICE)
    layer = nw.BatchNorm1d(4, on_nonfinite="raise").to(DEVICE)
    with pytest.raises(nw.NormError, match="the statistics of a batch are not finite"):
        layer(x)
    assert layer.num_batches_tracked == 0
    assert torch.equal(layer.running_var.cpu(), torch.ones(4))


# -- layers, operators, and what is said -------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: nw.BatchNorm1d(6, activation="relu"),
        lambda: nw.GroupNorm1d(2, 6),
        lambda: nw.LayerNorm(20),
        lambda: nw.SyncBatchNorm(6),
    ],
    ids=["batch", "group", "trailing", "sync"],
)
def test_a_layer_trains_as_with_the_formula(make, monkeypatch):
    random = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(3, 6, 20, generator=random) for _ in range(2))
    found = []
    for kernel in ("reference", "triton"):
        monkeypatch.setattr(choice, "FORCED", kernel)
        layer, leaf = make().to(DEVICE), x.to(DEVICE).requires_grad_()
        y = layer(leaf)
        y.backward(gradient.to(DEVICE))
        gradients = [leaf.grad, *(p.grad for p in layer.parameters())]
        found.append([y, *layer.buffers(), *gradients])
    for true, ours in zip(*found, strict=True):
        assert_close(ours.float().cpu(), true.float().cpu(), backward=True)


def test_the_operator_runs_the_kernels():
    case = next(case for case in SMALL if case.name == "group")
    inputs = inputs_of(case, torch.float32)
    x = inputs["x"].to(DEVICE).requires_grad_()
    arguments = (x, *(inputs[n].to(DEVICE) for n in ("weight", "bias")), None, None, None, None)
    formula = (case.scheme.pattern.text, True, ["g"], [2], 1e-5, "gelu")
    torch.library.opcheck(torch.ops.normwise.normalize.default, (*arguments, *formula))
    assert TritonPlan.plans


def test_what_is_said_of_a_call(split):
    said = nw.explain(nw.GroupNorm1d(2, 6).to(DEVICE), torch.zeros(3, 6, 20, device=DEVICE))
    assert said.kernel == "triton"
    assert str(said).endswith(
        "triton, 6 statistics of 3 x 20 neighbours; streamed, 3 tiles each, "
        "tiles of 1 x 1 x 32, 18 programs"
    )


PROGRAM = """
import torch
from normwise.axes import SCHEMES
from normwise.ops import dispatch, watch
x = torch.arange(24.).reshape(2, 3, 4)
with watch() as calls:
    dispatch.normalize(x, SCHEMES["instance"], keeps=False)
print(calls[0].kernel, "|", calls[0].reason)
"""


@pytest.mark.parametrize(
    ("interpret", "said"),
    [
        ("1", "triton | 6 statistics of 1 x 4 neighbours; one pass"),
        ("0", "reference | x is on cpu"),
    ],
)
def test_on_the_cpu_the_kernels_run_only_in_the_interpreter(interpret, said):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "NORMWISE_KERNELS": "triton", "TRITON_INTERPRET": interpret},
        capture_output=True,
        text=True,
    )
    assert said in ran.stdout, ran.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton works here")
def test_where_triton_does_not_work_it_is_said():
    program = "from normwise.ops import triton; print(triton.hindrance())"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.startswith("Triton does not work here: ")
    assert "RuntimeWarning: normwise runs without its GPU kernels" in ran.stderr
