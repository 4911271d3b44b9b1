"""Whether the GPU kernels are right: beside float64, repeated, captured, compiled."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from normwise.bench.cases import KINDS, Case
from normwise.bench.gpu.device import Processor
from normwise.bench.gpu.goals import Row
from normwise.ops import choice, dispatch, watch
from normwise.ops.triton import launch, plans

# Relative L2 errors, as tests/tolerances.py has them and says why: forward, backward.
LIMITS = {"float32": (1e-6, 4e-6), "float16": (5e-4, 1e-3), "bfloat16": (4e-3, 8e-3)}
VARIANTS = ("plain", "offset", "masked", "activation and residual")


@contextmanager
def kernels(kernel: choice.Kernel | None) -> Iterator[None]:
    """What NORMWISE_KERNELS does, for a block."""
    before, choice.FORCED = choice.FORCED, kernel
    try:
        yield
    finally:
        choice.FORCED = before


@contextmanager
def launched(**constants: float) -> Iterator[None]:
    """Other constants of ops/triton/launch.py, for a block; launches are decided anew."""
    before = {name: getattr(launch, name) for name in constants}
    try:
        _set(constants)
        yield
    finally:
        _set(before)


def _set(constants: dict[str, float]) -> None:
    for name, constant in constants.items():
        setattr(launch, name, constant)
    plans().plans.clear()


@contextmanager
def compiled_from(elements: int) -> Iterator[None]:
    """Another threshold for torch.compile, for a block; nothing compiled outlives it."""
    before, dispatch.COMPILED_ON_GPU = dispatch.COMPILED_ON_GPU, elements
    try:
        yield
    finally:
        dispatch.COMPILED_ON_GPU = before
        torch.compiler.reset()


def checks(case: Case, device: Processor) -> Iterator[Row]:
    """A training step in every variant, beside the formula in float64."""
    drawn, residual, gradient = (case.input(seed).to(device.kind) for seed in range(3))
    for variant in VARIANTS:
        layer: Any = case.layers()[0].to(device.kind)
        x = drawn
        if layer.eps is None:  # that of x's dtype, which is another in float64
            layer.eps = torch.finfo(x.dtype).eps
        keywords: dict[str, Any] = {}
        if variant == "offset" and case.dtype == "float32" and not case.kind.endswith("rms"):
            x = x + 1e4
        elif variant == "masked" and not KINDS[case.kind].trailing:
            ragged = torch.arange(case.shape[-1]) < torch.arange(1, len(x) + 1)[:, None] * 7
            keywords["mask"] = ragged.to(device.kind)
        elif variant == "activation and residual":
            layer.activation = "gelu"
            keywords["residual"] = residual
        elif variant != "plain":
            continue
        truth = _step(copy.deepcopy(layer).double(), x.double(), gradient.double(), "reference",
                      keywords)  # fmt: skip
        found = _step(layer, x, gradient, "triton", keywords)
        share = device.rounding if case.dtype == "bfloat16" else 1
        forward, *others = (_error(f, t) for f, t in zip(found, truth, strict=True))
        del truth
        bitwise = all(
            all(map(torch.equal, found, _step(layer, x, gradient, "triton", keywords)))
            for _ in range(device.repeats)
        )
        ahead, back = (share * limit for limit in LIMITS[case.dtype])
        fine = forward <= ahead and max(others) <= back and bitwise
        yield {"case": case.name, "variant": variant, "forward": forward,
               "backward": max(others), "repeats": bitwise, "fine": fine}  # fmt: skip


def _step(
    layer: torch.nn.Module,
    x: Tensor,
    gradient: Tensor,
    kernel: choice.Kernel,
    keywords: dict[str, Any],
) -> list[Tensor]:
    x = x.detach().requires_grad_()
    with kernels(kernel), watch() as calls:
        y = layer(x, **keywords)
        leaves = [x, *layer.parameters()]
        gradients = torch.autograd.grad(y, leaves, gradient)
    assert {call.kernel for call in calls} == {kernel}, calls
    return [y.detach(), *gradients]


def _error(found: Tensor, truth: Tensor) -> float:
    size = torch.linalg.vector_norm(truth)
    return float(torch.linalg.vector_norm(found.double() - truth) / size)


def check_graph(case: Case, device: Processor) -> Row:
    """Whether a training step that was captured gives the same on new numbers."""
    layer: Any = case.layers()[0].to(device.kind)
    x, gradient = (case.input(seed).to(device.kind) for seed in (0, 2))

    def step() -> list[Tensor]:
        return _step(layer, x, gradient, "triton", {})

    found, replay = device.captured(step)
    x.copy_(case.input(3))
    replay()
    device.wait()
    same = all(map(torch.equal, found, step()))
    return {"case": case.name, "variant": device.graph, "fine": same}


def check_compiled(case: Case, device: Processor) -> Row:
    """Whether torch.compile makes one graph of a training step, which gives the same."""
    layer: Any = case.layers()[0].to(device.kind)
    x, gradient = (case.input(seed).to(device.kind) for seed in (0, 2))
    with kernels("triton"), compiled_from(0):
        eager = _differentiated(layer, x, gradient)
        compiled = torch.compile(layer, fullgraph=True, dynamic=False)
        found = _differentiated(compiled, x, gradient)
    same = all(map(torch.equal, eager, found))
    return {"case": case.name, "variant": "torch.compile", "fine": same}


def _differentiated(layer: Any, x: Tensor, gradient: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], gradient)]
