"""How long norms take on a GPU: ours, torch's, those of others, beside a copy in device memory.

A norm's share of the copy is the time of a copy of as many bytes as the norm has to read and
write, over the norm's own. Kernel times are from CUDA events, with enough work queued ahead
that the host is not waited for; wall times are of the host. Inputs rotate among more memory
than the second-level cache holds.
"""

import importlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config

from normwise.bench.cases import KINDS, Case
from normwise.bench.gpu.device import Processor
from normwise.bench.gpu.goals import BACKWARD, FORWARD, Row, passes

Call = Callable[[], object]
Layer = Any  # a module, or what torch.compile makes of one

_QUEUED_MS, _ROUND_MS = 4, 50  # of calls behind each other: for the device, for the host

_RIVALS = {  # package, module, class, and what it is made with: C, or groups and C
    "trailing layer": [
        ("liger", "liger_kernel.transformers.layer_norm", "LigerLayerNorm", "c"),
        ("torchnorm", "torchnorm", "LayerNorm", "c"),
    ],
    "trailing rms": [
        ("liger", "liger_kernel.transformers.rms_norm", "LigerRMSNorm", "c"),
        ("quack", "quack.rmsnorm", "QuackRMSNorm", "c"),
        ("torchnorm", "torchnorm", "RMSNorm", "c"),
    ],
    "group": [
        ("liger", "liger_kernel.transformers.group_norm", "LigerGroupNorm", "cg"),
        ("torchnorm", "torchnorm", "GroupNorm", "gc"),
    ],
    "instance": [("torchnorm", "torchnorm", "InstanceNorm", "c")],
}


def contestants(case: Case, device: Processor, *, compiled: bool) -> tuple[dict[str, Layer], Row]:
    """Who takes part, and why others do not."""
    ours, torchs = (layer.to(device.kind) for layer in case.layers())
    found: dict[str, Layer] = {"ours": ours, "torch": torchs}
    failed: Row = {}
    if compiled:
        # The backward passes here are run again and again, so they must not eat their inputs.
        config.donated_buffer = False
        found["compiled"] = torch.compile(torchs, dynamic=False)
    channels = case.shape[-1 if KINDS[case.kind].trailing else 1]
    sizes = {"c": channels, "g": math.gcd(channels, 8)}
    for name, module, of_class, arguments in _RIVALS.get(case.kind, []):
        try:
            made = getattr(importlib.import_module(module), of_class)
            layer = made(*(sizes[letter] for letter in arguments))
            found[name] = layer.to(device.kind).to(getattr(torch, case.dtype))
        except Exception as error:  # noqa: PERF203 - whatever stands in the way of a guest
            failed[name] = one_line_of(error)
    return found, failed


def one_line_of(error: Exception) -> str:
    """An error in at most 100 characters."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:100]


def rotation(input_bytes: int, cache_bytes: int, free_bytes: int) -> int:
    """How many inputs rotate: three caches full, as far as two fifths of the memory hold them.

    Each comes with its result, a gradient, and what backward leaves: six times its size.
    """
    room = int(0.4 * free_bytes / (6 * input_bytes))
    return min(max(2, math.ceil(3 * cache_bytes / input_bytes)), 64, max(2, room))


def timed(case: Case, device: Processor, *, compiled: bool) -> Iterator[Row]:
    """Rows of a case, forward and backward: milliseconds for each contestant and for a copy."""
    copies = rotation(case.input_bytes, device.cache_bytes(), device.free_bytes())
    inputs = [drawn(case, device) for _ in range(copies)]
    target = torch.empty_like(inputs[0])
    of_copy = kernel_ms(device, [partial(target.copy_, x.detach()) for x in inputs])
    layers, failed = contestants(case, device, compiled=compiled)
    for way in (FORWARD,) if KINDS[case.kind].inference else (FORWARD, BACKWARD):
        row: Row = {
            "case": case.name,
            "kind": case.kind,
            "pass": way,
            "shape": list(case.shape),
            "dtype": case.dtype,
            "bytes": case.input_bytes,
            "copy_ms": of_copy,
            "kernel_ms": {},
            "wall_ms": {},
            "peak_bytes": {},
            "failed": dict(failed),
        }
        for name, layer in layers.items():
            try:
                calls = (forwards if way == FORWARD else backwards)(layer, inputs)
                figures = kernel_ms(device, calls), wall_ms(device, calls)
                peak = device.peak_bytes(calls[0])
            except Exception as error:
                row["failed"][name] = one_line_of(error)
            else:
                row["kernel_ms"][name], row["wall_ms"][name] = figures
                row["peak_bytes"][name] = peak
            calls = []  # and what they hold
        if "ours" in row["kernel_ms"]:
            row["of_copy"] = passes(case.kind, way) / 2 * of_copy / row["kernel_ms"]["ours"]
        yield row


def drawn(case: Case, device: Processor) -> Tensor:
    """An input on the device."""
    x = torch.randn(case.shape, device=device.kind).to(getattr(torch, case.dtype))
    x = x.contiguous(memory_format=torch.channels_last) if case.channels_last else x
    return x.requires_grad_(not KINDS[case.kind].inference)


def forwards(layer: Layer, inputs: list[Tensor]) -> list[Call]:
    """A forward pass for each input."""
    return [partial(layer, x.detach()) for x in inputs]


def backwards(layer: Layer, inputs: list[Tensor]) -> list[Call]:
    """A backward pass for each input, which can be run again."""

    def call(x: Tensor) -> Call:
        y = layer(x)
        gradient, leaves = torch.randn_like(y), [x, *layer.parameters()]
        return lambda: torch.autograd.grad(y, leaves, gradient, retain_graph=True)

    return [call(x) for x in inputs]


def kernel_ms(device: Processor, calls: list[Call], rounds: int = 5) -> float:
    """Milliseconds of the device for one call: the median of rounds."""
    once, turn = _once_ms(device, calls), itertools.cycle(calls)
    times = max(1, min(50, int(_QUEUED_MS / once)))

    def work() -> None:
        for _ in range(times):
            next(turn)()

    ahead_ms = min(_QUEUED_MS, once * times)  # the host runs ahead meanwhile
    return median(device.span_ms(work, ahead_ms) / times for _ in range(rounds))


def wall_ms(device: Processor, calls: list[Call], rounds: int = 5) -> float:
    """Milliseconds for one call, of whoever waits for the last of ten; of fewer that take long."""
    once, turn = _once_ms(device, calls), itertools.cycle(calls)
    times = max(1, min(10, int(_ROUND_MS / once)))
    return median(_wall_ms(device, turn, times) for _ in range(rounds))


def _once_ms(device: Processor, calls: list[Call]) -> float:
    """About how long a call takes, after the first have paid for what is set up once."""
    for call in calls[:3]:
        call()
    return max(_wall_ms(device, iter(calls), 1), 1e-3)


def _wall_ms(device: Processor, turn: Iterator[Call], times: int) -> float:
    device.wait()
    start = time.perf_counter()
    for _ in range(times):
        next(turn)()
    device.wait()
    return (time.perf_counter() - start) / times * 1e3
