"""The CPU kernels beside the formulas: every way through memory, and every way out of it."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from forms import (
    CASES,
    DTYPES,
    GROUP,
    INSTANCE,
    LAST_TWO,
    Case,
    Inputs,
    Outcome,
    assert_same,
    each,
    in_float64,
    inputs_of,
    masked_or_not,
    of_a_few,
    outcome,
    stepping,
)
from normwise import reference
from normwise.axes import SCHEMES, Scheme, parse
from normwise.errors import NormError
from normwise.layers import ConditionalInstanceNorm1d, GroupNorm
from normwise.ops import dispatch, native, watch
from normwise.ops.library import packed
from normwise.ops.plan import Formula
from normwise.reference import ACTIVATIONS, Moments
from tolerances import assert_close


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request, monkeypatch):
    """Calls of any size take so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr(native, "ONE_THREAD", 0)
    monkeypatch.setattr(native.NativePlan, "plans", {})
    yield request.param
    torch.set_num_threads(before)


def natively(case: Case, inputs: Inputs, **options: Any) -> Outcome:
    with watch() as calls:
        found = outcome(dispatch.normalize, case, inputs, **options)
    assert [call.kernel for call in calls] == ["native"], calls
    return found


def check(case: Case, inputs: Inputs, **options: Any) -> None:
    found = natively(case, inputs, **options)
    assert_same(found, outcome(reference.normalize, case, in_float64(inputs), **options))


INSTANCE_CASE = next(case for case in CASES if str(case) == "instance")

# -- memory ------------------------------------------------------------------------------------

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not LARGE_PAGES.is_file() or "[never]" in LARGE_PAGES.read_text(),
    reason="this system has no large pages to give",
)
def test_a_large_result_lies_in_large_pages():
    def large_pages() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))

    x = torch.zeros(16, 1024, 1024)
    before = large_pages()
    y, _ = dispatch.normalize(x, SCHEMES["instance"], keeps=False)
    in_kb = y.nbytes // 1024
    assert large_pages() - before >= in_kb // 2  # not each may be there to be had


# -- numbers -----------------------------------------------------------------------------------


@each
@DTYPES
@masked_or_not
def test_the_kernels_compute_the_formula(case, dtype, masked, threads):
    if masked and len(case.features) == len(case.shape) - 1 and case.scheme is LAST_TWO:
        pytest.skip("a mask of one number for each table says nothing that `mask` does not")
    check(case, inputs_of(case, dtype, masked=masked))


@of_a_few
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("adds", [False, True], ids=["", "residual"])
@masked_or_not
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_residual_and_activation_are_part_of_the_formula(case, activation, adds, masked, dtype):
    check(case, inputs_of(case, dtype, masked=masked, adds=adds), activation=activation)


@of_a_few
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@masked_or_not
def test_an_offset_costs_no_digits(case, offset, dtype, masked, threads):
    if not case.scheme.centres and offset:
        pytest.skip("what keeps its offset is all offset")
    check(case, inputs_of(case, dtype, masked=masked, offset=offset))


@each
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_level_that_shifts_costs_no_digits(case, share, threads):
    inputs = inputs_of(case, torch.float32)
    level = torch.zeros(case.shape).flatten()
    level[: int(share * level.numel()) + 1] = 1e4
    inputs["x"] = case.lay(inputs["x"] + level.view(case.shape))
    check(case, inputs)


@of_a_few
@pytest.mark.parametrize("of_weight", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("alone", [None, "weight", "bias"])
def test_weights_have_a_dtype_of_their_own(case, of_weight, alone):
    inputs = inputs_of(case, torch.float16, of_weight=of_weight)
    if alone is not None:
        del inputs["bias" if alone == "weight" else "weight"]
    check(case, inputs)


@of_a_few
@DTYPES
@masked_or_not
@pytest.mark.parametrize("name", ["plain", "avx2", "avx512"])
def test_every_instruction_set_computes_the_same(case, dtype, masked, name):
    library = native.library()
    try:
        library.use(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        assert library.in_use() == name
        check(case, inputs_of(case, dtype, masked=masked, adds=True), activation="gelu")
    finally:
        library.use("")


def test_an_instruction_set_that_is_none_is_refused():
    before = native.library().in_use()
    with pytest.raises(ValueError, match="no instruction set named mmx"):
        native.library().use("mmx")
    assert native.library().in_use() == before


@each
@masked_or_not
def test_the_same_threads_give_the_same_bits(case, masked, threads):
    inputs = inputs_of(case, torch.float32, masked=masked, adds=True)
    first, second = (natively(case, inputs, activation="silu") for _ in range(2))
    assert torch.equal(first.y, second.y)
    assert torch.equal(first.moments.var, second.moments.var)
    for one, other in zip(first.gradients, second.gradients, strict=True):
        assert torch.equal(one, other)


@of_a_few
@DTYPES
@masked_or_not
def test_given_statistics_are_taken(case, dtype, masked, threads):
    inputs = inputs_of(case, dtype, masked=masked)
    clean = torch.nan_to_num(inputs["x"].double())
    own = reference.measured(clean, case.scheme, sizes=case.sizes)
    shift = own.mean if case.scheme.centres else own.shift
    given = Moments(shift, shift.new_zeros(()), own.var, 0, kept=True)
    found = natively(case, inputs, given=given, activation="relu")
    truth = outcome(reference.normalize, case, in_float64(inputs), given=given, activation="relu")
    assert_close(found.y, truth.y)
    for gradient, true in zip(found.gradients, truth.gradients, strict=True):
        assert_close(gradient, true, backward=True)


@of_a_few
def test_gradients_of_gradients_follow_the_formula(case):
    inputs = inputs_of(case, torch.float64)
    x, gradient = inputs["x"].requires_grad_(), inputs["gradient"]

    def twice(run: Callable[..., Any]) -> Tensor:
        y = run(x, case.scheme, sizes=case.sizes)[0]
        (first,) = torch.autograd.grad(y, x, gradient, create_graph=True)
        return torch.autograd.grad((first * gradient).sum(), x)[0]

    assert_close(twice(dispatch.normalize), twice(reference.normalize), backward=True)


# -- the operators -----------------------------------------------------------------------------


def operator(case: Case, inputs: Inputs, activation: str | None = None) -> tuple[Any, ...]:
    formula = Formula(case.scheme, case.sizes, 1e-5, activation)
    names = ("x", "weight", "bias", "residual", "mask", "mean", "var")
    return (*(inputs.get(name) for name in names), *packed(formula))


@pytest.mark.parametrize(
    ("name", "masked", "adds", "activation"),
    [
        ("instance of few", False, False, None),
        ("group", True, True, "gelu"),
        ("batch", False, True, "relu"),
        ("trailing", True, False, "silu"),
    ],
)
def test_torch_accepts_the_operator(name, masked, adds, activation):
    case = next(case for case in CASES if case.name == name)
    inputs = inputs_of(case, torch.float32, masked=masked, adds=adds)
    inputs["x"] = torch.nan_to_num(inputs["x"]).requires_grad_()
    inputs["weight"].requires_grad_()
    if adds:
        inputs["residual"] = torch.nan_to_num(inputs["residual"])
    call = operator(case, inputs, activation)
    torch.library.opcheck(torch.ops.normwise.normalize.default, call)


@each
@masked_or_not
def test_the_operator_computes_the_formula(case, masked):
    inputs = in_float64(inputs_of(case, torch.float64, masked=masked))
    truth, _ = reference.normalize(
        inputs["x"], case.scheme, sizes=case.sizes, weight=inputs["weight"], bias=inputs["bias"],
        mask=inputs.get("mask"),
    )  # fmt: skip
    assert_close(torch.ops.normwise.normalize(*operator(case, inputs))[0], truth)


ODD = {
    "a bias alone, of another dtype": lambda i: i.update(weight=None, bias=i["bias"].bfloat16()),
    "strided weights": lambda i: i.update(weight=stepping(i["weight"]), bias=stepping(i["bias"])),
    "a strided mask": lambda i: i.update(mask=stepping(torch.ones(3, 1, 20, dtype=torch.bool))),
    "strided statistics of another dtype": lambda i: i.update(
        mean=stepping(torch.arange(6.0, dtype=torch.float64).reshape(3, 2, 1, 1)),
        var=stepping(torch.arange(1.0, 7.0, dtype=torch.float64).reshape(3, 2, 1, 1)),
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_the_operator_takes_operands_as_they_come(odd):
    case = next(case for case in CASES if case.name == "group")
    inputs = inputs_of(case, torch.float32)
    ODD[odd](inputs)
    mean, var = inputs.get("mean"), inputs.get("var")
    given = None if var is None else Moments(mean, var.new_zeros(()), var, 0, kept=True)
    rest = {k: inputs.get(k) for k in ("weight", "bias", "mask")}
    leaves = [inputs["x"].requires_grad_(), inputs["bias"].requires_grad_()]
    truth, _ = reference.normalize(inputs["x"], case.scheme, sizes=case.sizes, given=given, **rest)
    y, _ = torch.ops.normwise.normalize(*operator(case, inputs))
    assert_close(y, truth)
    expected = torch.autograd.grad(truth, leaves, inputs["gradient"])
    for found, true in zip(torch.autograd.grad(y, leaves, inputs["gradient"]), expected,
                           strict=True):  # fmt: skip
        assert_close(found, true, backward=True)


ALTERNATING = Case("alternating", Scheme(parse("[a] c [d] e")), (3, 4, 5, 6))


def test_the_operator_takes_what_the_kernels_cannot_walk():
    inputs = inputs_of(ALTERNATING, torch.float32)
    x = inputs["x"].requires_grad_()
    y, _ = torch.ops.normwise.normalize(*operator(ALTERNATING, inputs))
    truth, _ = reference.normalize(
        x, ALTERNATING.scheme, weight=inputs["weight"], bias=inputs["bias"]
    )
    assert_close(y, truth)
    found, true = (torch.autograd.grad(t, x, inputs["gradient"])[0] for t in (y, truth))
    assert_close(found, true, backward=True)


@of_a_few
def test_vmap_over_the_operator_is_a_loop(case):
    inputs = inputs_of(case, torch.float64)
    several = torch.stack([inputs["x"] * k for k in (1, 2, 3)])

    def one(x: Tensor) -> Tensor:
        return torch.ops.normwise.normalize(*operator(case, {**inputs, "x": x}))[0]

    together = torch.func.vmap(one)(several)
    assert_close(together, torch.stack([one(x) for x in several]))


# -- what leads to the formula -----------------------------------------------------------------

PLAIN = Case("plain", INSTANCE, (3, 4, 50))
call = partial(dispatch.normalize, scheme=INSTANCE)
formula = partial(reference.normalize, scheme=INSTANCE)


class Marked(Tensor):
    """A tensor of a kind that may want to know what is done to it."""


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        return function(*arguments, **(keywords or {}))


def negated(x: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def by_mode(x: Tensor) -> Tensor:
    with Watching():
        return call(x)[0]


def by_grad(x: Tensor) -> Tensor:
    return torch.func.grad(lambda x: (call(x)[0] ** 3).sum())(x)


def by_forward_mode(x: Tensor) -> Tensor:
    return torch.func.jvp(lambda x: call(x)[0], (x,), (x**2,))[1]


OBSTACLES = [
    ("a subclass", lambda x: call(x.as_subclass(Marked))[0].as_subclass(Tensor),
     lambda x: formula(x)[0], "Marked is not a plain tensor"),
    ("a mode", by_mode, lambda x: formula(x)[0], "a mode wants to see each operation"),
    ("a negated view", lambda x: call(negated(x))[0], lambda x: formula(x)[0], "x is a negated"),
    ("torch.func.grad", by_grad,
     lambda x: torch.func.grad(lambda x: (formula(x)[0] ** 3).sum())(x), "torch.func"),
    ("torch.func.vmap", torch.func.vmap(lambda x: call(x[None])[0][0]),
     lambda x: formula(x)[0], "torch.func"),
    ("torch.func.jvp", by_forward_mode,
     lambda x: torch.func.jvp(lambda x: formula(x)[0], (x,), (x**2,))[1], "torch.func"),
    ("a sparse residual's dtype", lambda x: call(x, residual=x.long())[0],
     lambda x: formula(x, residual=x.long())[0], "residual is torch.int64"),
    ("a negated residual", lambda x: call(x, residual=negated(x))[0],
     lambda x: formula(x, residual=x)[0], "residual is not a plain tensor"),
    ("dtypes that differ",
     lambda x: call(x, weight=x[0, :, 0], bias=x[0, :, 1].double())[0],
     lambda x: formula(x, weight=x[0, :, 0], bias=x[0, :, 1])[0],
     "weight is torch.float32 and bias torch.float64"),
    ("given and not kept",
     lambda x: call(x, given=reference.measured(x, INSTANCE))[0],
     lambda x: formula(x)[0], "were themselves computed"),
    ("an empty batch", lambda x: call(x[:0])[0], lambda x: x[:0], "x is empty"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "expected", "reason"), [row[1:] for row in OBSTACLES], ids=[row[0] for row in OBSTACLES]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
def test_an_obstacle_leads_to_the_formula(run, expected, reason):
    x = PLAIN.x()
    with watch() as calls:
        found = run(x)
    assert calls
    assert all(c.kernel == "reference" and reason in c.reason for c in calls), calls
    assert_close(found, expected(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
def test_dual_numbers_lead_to_the_formula():
    x, tangent = PLAIN.x(torch.float64), PLAIN.draw(7)
    with torch.autograd.forward_ad.dual_level(), watch() as calls:
        y = call(torch.autograd.forward_ad.make_dual(x, tangent))[0]
        found = torch.autograd.forward_ad.unpack_dual(y).tangent
    assert [c.reason for c in calls] == ["forward-mode differentiation is at work"]
    true = torch.func.jvp(lambda x: formula(x)[0], (x,), (tangent,))[1]
    assert_close(found, true, backward=True)


def test_tensors_without_numbers_have_results_of_the_right_sizes():
    with watch() as calls:
        on_meta = call(PLAIN.x().to("meta"))[0]
        with FakeTensorMode() as mode:
            fake = call(mode.from_tensor(PLAIN.x()))[0]
    assert [c.kernel for c in calls] == ["torch" if c.kernel == "torch" else "reference"
                                         for c in calls]  # fmt: skip
    assert calls[0].reason == "x is on meta"
    assert "FakeTensor" in calls[1].reason
    assert on_meta.shape == fake.shape == PLAIN.shape


UNFIT: dict[str, dict[str, Tensor]] = {
    "the weight has 3 elements": {"weight": torch.ones(3)},
    "the bias has 5 elements": {"bias": torch.ones(5)},
    "the mask is short": {"mask": torch.ones(3, 1, 49, dtype=torch.bool)},
    "the mask is of numbers": {"mask": torch.ones(2, 1, 50)},
    "the residual is short": {"residual": torch.ones(3, 4, 49)},
    "the statistics are of 3 channels": {"mean": torch.zeros(3, 3, 1), "var": torch.ones(3, 3, 1)},
    "the mean is of 9 channels": {"mean": torch.zeros(1, 9, 1), "var": torch.ones(3, 4, 1)},
}


@pytest.mark.parametrize("fault", UNFIT)
def test_what_does_not_fit_x_is_never_read(fault):
    given = {name: t for name, t in UNFIT[fault].items() if name in ("mean", "var")}
    rest: dict[str, Any] = {name: t for name, t in UNFIT[fault].items() if name not in given}
    if given:
        rest["given"] = Moments(given["mean"], torch.zeros(()), given["var"], 0, kept=True)
    with watch() as calls, pytest.raises(RuntimeError, match=r"size|shape|boolean"):
        call(PLAIN.x(), **rest)
    assert [c.kernel for c in calls] == ["reference"]
    with pytest.raises(RuntimeError, match=r"size|shape|boolean"):
        torch.ops.normwise.normalize(*operator(PLAIN, {"x": PLAIN.x(), **UNFIT[fault]}))


def test_memory_that_overlaps_is_read_as_any_other():
    x = torch.arange(60.0).sin().as_strided((3, 4, 20), (7, 3, 1)).requires_grad_()
    with watch() as calls:
        y = call(x)[0]
    assert [c.kernel for c in calls] == ["native"]
    truth, gradient = formula(x)[0], PLAIN.draw(1, (3, 4, 20)).float()
    assert_close(y, truth)
    found, true = (torch.autograd.grad(t, x, gradient)[0] for t in (y, truth))
    assert_close(found, true, backward=True)


NO_FLOATING: dict[str, Callable[[], Any]] = {
    "whole numbers": lambda: torch.ones(3, 4, 50, dtype=torch.int32),
    "complex": lambda: torch.ones(3, 4, 50, dtype=torch.complex64),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3, 4, 50), 0.1, 0, torch.quint8),
    "no tensor": lambda: "a word",
}


@pytest.mark.parametrize("what", NO_FLOATING)
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor:UserWarning")  # torch's own
def test_what_is_no_floating_tensor_is_refused(what):
    with watch() as calls, pytest.raises(NormError, match="takes a floating tensor, received"):
        GroupNorm(2, 4)(NO_FLOATING[what]())
    assert not calls


def _zero(shape: tuple[int, ...]) -> Tensor:
    """Zeros that autograd makes: sizes, and no memory."""
    return torch._efficientzerotensor(shape)


@pytest.mark.parametrize("calls_before", [0, 2])
@pytest.mark.parametrize("which", ["x", "weight", "residual"])
def test_zeros_without_memory_are_zeros(which, calls_before):
    layer, x = GroupNorm(2, 4), INSTANCE_CASE.x()
    for _ in range(calls_before):
        layer(x)
    residual = None
    if which == "x":
        x = _zero(x.shape)
    elif which == "weight":
        layer.weight = torch.nn.Parameter(_zero((4,)))
    else:
        residual = _zero(x.shape)
    expected = reference.normalize(
        x, GROUP, weight=layer.weight, bias=layer.bias, sizes={"g": 2}, residual=residual
    )[0]
    assert_close(layer(x, residual=residual), expected.double())


@pytest.mark.parametrize("which", ["x", "weight"])
def test_memory_that_was_emptied_is_refused(which):
    layer, x = GroupNorm(2, 4), INSTANCE_CASE.x()
    layer(x)
    (x if which == "x" else layer.weight).untyped_storage().resize_(0)
    with pytest.raises(NormError, match=f"{which} has .* elements and no memory, .* fill it again"):
        layer(x)


@pytest.mark.parametrize("odd", ["negated", "zero"])
def test_a_gradient_is_read_as_it_is_meant(odd):
    x = INSTANCE_CASE.x().requires_grad_()
    y = GroupNorm(2, 4)(x)
    gradient = torch.randn(y.shape, dtype=torch.complex64).conj().imag
    if odd == "zero":
        gradient = _zero(y.shape)
    (found,) = torch.autograd.grad(y, x, gradient, retain_graph=True)
    plain = torch.zeros_like(y).copy_(gradient)
    assert torch.equal(found, *torch.autograd.grad(y, x, plain))


def test_a_sparse_tensor_never_reaches_the_kernels():
    x = torch.ones(3, 4, 50).to_sparse()
    with watch() as calls, pytest.raises((RuntimeError, NotImplementedError)):
        GroupNorm(2, 4)(x)  # torch's own words: sparse tensors have no such sum
    assert [(c.kernel, c.reason) for c in calls] == [
        ("reference", "x is torch.sparse_coo, torch.float32")
    ]


def test_dimensions_that_alternate_too_often_lead_to_the_formula():
    inputs = inputs_of(ALTERNATING, torch.float32)
    with watch() as calls:
        found = outcome(dispatch.normalize, ALTERNATING, inputs)
    assert [c.reason for c in calls] == ["kept and averaged dimensions alternate too often"]
    assert_same(found, outcome(reference.normalize, ALTERNATING, in_float64(inputs)))


def test_without_the_module_the_formula_runs_and_it_is_said_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "normwise._native", None)
    native.library.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="runs without its CPU kernels") as said:
            first = call(PLAIN.x())[0]
        with watch() as calls:
            second = call(PLAIN.x())[0]  # a second warning would be an error
    finally:
        native.library.cache_clear()
    assert len(said) == 1
    assert [c.reason for c in calls] == ["the kernels were not compiled"]
    assert torch.equal(first, second)
    assert_close(first, formula(PLAIN.x())[0])


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
    ("asked", "said"),
    [
        ("native", "native | "),
        ("reference", "reference | NORMWISE_KERNELS is reference"),
        ("torch", "torch | NORMWISE_KERNELS is torch"),
        (
            "cuda",
            "NORMWISE_KERNELS='cuda' names no kernel; write one of native, triton, torch, "
            "reference",
        ),
    ],
)
def test_a_variable_chooses_the_kernel(asked, said):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "NORMWISE_KERNELS": asked},
        capture_output=True,
        text=True,
    )
    assert said in ran.stdout + ran.stderr
    assert (ran.returncode == 0) == (asked != "cuda")


def test_a_conditional_norm_takes_the_kernel_with_every_sample_in_its_style():
    norm = ConditionalInstanceNorm1d(5, 4)
    torch.nn.init.uniform_(norm.weight)
    x, index = torch.randn(3, 4, 6), torch.tensor([4, 0, 4])
    with watch() as calls:
        y = norm(x, index)
    assert [call.kernel for call in calls] == ["native"]
    every = torch.ones(3, 6, dtype=torch.bool)  # a mask is for the formula
    assert_close(y, norm.double()(x.double(), index, every))
