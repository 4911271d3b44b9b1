"""Whether the GPU kernels are right: beside float64, repeated, captured, compiled."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from normwise.bench.cases import KINDS, Case
from normwise.bench.gpu.goals import Row
from normwise.ops import choice, dispatch, watch
from normwise.ops.triton import launch, plans

# Relative L2 errors, as tests/tolerances.py has them and says why: forward, backward.
LIMITS = {"float32": (1e-6, 4e-6), "float16": (5e-4, 1e-3), "bfloat16": (4e-3, 8e-3)}
VARIANTS = ("plain", "offset", "masked", "activation and residual")
REPEATED = 10  # times a step is repeated on a GPU, where programs come in another order


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


def checks(case: Case, device: str) -> Iterator[Row]:
    """A training step in every variant, beside the formula in float64."""
    for variant in VARIANTS:
        layer: Any = case.layers()[0].to(device)
        x = case.input().to(device)
        if layer.eps is None:  # that of x's dtype, which is another in float64
            layer.eps = torch.finfo(x.dtype).eps
        keywords: dict[str, Any] = {}
        if variant == "offset" and case.dtype == "float32" and not case.kind.endswith("rms"):
            x = x + 1e4
        elif variant == "masked" and not KINDS[case.kind].trailing:
            ragged = torch.arange(case.shape[-1]) < torch.arange(1, len(x) + 1)[:, None] * 7
            keywords["mask"] = ragged.to(device)
        elif variant == "activation and residual":
            layer.activation = "gelu"
            keywords["residual"] = case.input(1).to(device)
        elif variant != "plain":
            continue
        gradient = case.input(2).to(device)
        truth = _step(copy.deepcopy(layer).double(), x.double(), gradient.double(), "reference",
                      keywords)  # fmt: skip
        found = _step(layer, x, gradient, "triton", keywords)
        forward, backward = LIMITS[case.dtype]
        if device == "cpu" and case.dtype == "bfloat16":  # the interpreter cuts off, a GPU rounds
            forward, backward = 2 * forward, 2 * backward
        errors = [_error(f, t) for f, t in zip(found, truth, strict=True)]
        del truth
        bitwise = all(
            all(map(torch.equal, found, _step(layer, x, gradient, "triton", keywords)))
            for _ in range(1 if device == "cpu" else REPEATED)
        )
        fine = errors[0] <= forward and max(errors[1:]) <= backward and bitwise
        yield {"case": case.name, "variant": variant, "forward": errors[0],
               "backward": max(errors[1:]), "repeats": bitwise, "fine": fine}  # fmt: skip


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


def check_graph(case: Case) -> Row:
    """Whether a training step that was captured gives the same on new numbers."""
    layer, x = case.layers()[0].cuda(), case.input().cuda()
    gradient = case.input(2).cuda()
    stream: Any = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _step(layer, x, gradient, "triton", {})
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _step(layer, x, gradient, "triton", {})
    x.copy_(case.input(3))
    graph.replay()
    torch.cuda.synchronize()
    same = all(map(torch.equal, captured, _step(layer, x, gradient, "triton", {})))
    return {"case": case.name, "variant": "CUDA graph", "fine": same}


def check_compiled(case: Case, device: str) -> Row:
    """Whether torch.compile makes one graph of a training step, which gives the same."""
    layer, x = case.layers()[0].to(device), case.input().to(device)
    gradient = case.input(2).to(device)
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
