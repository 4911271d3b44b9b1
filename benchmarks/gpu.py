"""The GPU kernels checked against float64, and timed beside torch and a copy in device memory.

    python benchmarks/gpu.py                                  # on a GPU: at most 8 minutes
    TRITON_INTERPRET=1 python benchmarks/gpu.py --interpret   # without one: the checks alone

It needs torch and Triton, and src/ on PYTHONPATH. Liger, quack and torchnorm take part where
they can be imported. A norm's share of the copy is the time of a copy of as many bytes as the
norm has to read and write, over the norm's own. Kernel times are from CUDA events, with enough
work queued ahead that the host is not waited for; wall times are of the host. Inputs rotate
among more memory than the second-level cache holds. Results: benchmarks/results/DEVICE.json.
"""

import argparse
import copy
import gc
import importlib
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normwise.bench.cases import KINDS, Case
from normwise.bench.gpu import (
    BACKWARD,
    CASES,
    CHECKED,
    FORWARD,
    TINY,
    Row,
    judge,
    passes,
    table,
)
from normwise.machine import stamp
from normwise.ops import choice, watch

RESULTS = Path(__file__).parent / "results"
Call = Callable[[], object]

# -- checking -----------------------------------------------------------------------------------

# Relative L2 errors, as tests/tolerances.py has them and says why: forward, backward.
LIMITS = {"float32": (1e-6, 4e-6), "float16": (5e-4, 1e-3), "bfloat16": (4e-3, 8e-3)}
VARIANTS = ("plain", "offset", "masked", "activation and residual")


def checks(case: Case, device: str) -> Iterator[Row]:
    """A training step in every variant, beside the formula in float64; then a CUDA graph."""
    for variant in VARIANTS:
        layer = case.layers()[0].to(device)
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
        again = _step(layer, x, gradient, "triton", keywords)
        forward, backward = LIMITS[case.dtype]
        if device == "cpu" and case.dtype == "bfloat16":  # the interpreter cuts off, a GPU rounds
            forward, backward = 2 * forward, 2 * backward
        errors = [_error(f, t) for f, t in zip(found, truth, strict=True)]
        bitwise = all(map(torch.equal, found, again))
        fine = errors[0] <= forward and max(errors[1:]) <= backward and bitwise
        yield {"case": case.name, "variant": variant, "forward": errors[0],
               "backward": max(errors[1:]), "repeats": bitwise, "fine": fine}  # fmt: skip


def _step(
    layer: torch.nn.Module, x: Tensor, gradient: Tensor, kernel: str, keywords: dict[str, Any]
) -> list[Tensor]:
    x = x.detach().requires_grad_()
    with kernels(kernel), watch() as calls:
        y = layer(x, **keywords)
        leaves = [x, *layer.parameters()]
        gradients = torch.autograd.grad(y, leaves, gradient)
    assert {call.kernel for call in calls} == {kernel}, calls
    return [y.detach(), *gradients]


class kernels:  # noqa: N801 - read as `with kernels("triton")`
    """What NORMWISE_KERNELS does, for a block."""

    def __init__(self, kernel: str | None) -> None:
        self.kernel = kernel

    def __enter__(self) -> None:
        self.before, choice.FORCED = choice.FORCED, self.kernel  # type: ignore[assignment]

    def __exit__(self, *error: object) -> None:
        choice.FORCED = self.before


def _error(found: Tensor, truth: Tensor) -> float:
    size = torch.linalg.vector_norm(truth)
    return float(torch.linalg.vector_norm(found.double() - truth) / size)


def check_graph(case: Case) -> Row:
    """Whether a call that was captured gives the same on new numbers."""
    layer, x = case.layers()[0].cuda(), case.input().cuda()
    with kernels("triton"), torch.no_grad():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            layer(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        x.copy_(case.input(3))
        graph.replay()
        same = torch.equal(y, layer(x))
    return {"case": case.name, "variant": "CUDA graph", "fine": same}


# -- timing -------------------------------------------------------------------------------------

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


def contestants(case: Case, *, compiled: bool) -> tuple[dict[str, torch.nn.Module], Row]:
    """Who takes part, and why others do not."""
    ours, torchs = (layer.cuda() for layer in case.layers())
    found, failed = {"ours": ours, "torch": torchs}, {}
    if compiled:
        found["compiled"] = torch.compile(torchs, dynamic=False)
    channels = case.shape[-1 if KINDS[case.kind].trailing else 1]
    sizes = {"c": channels, "g": math.gcd(channels, 8)}
    for name, module, of_class, arguments in _RIVALS.get(case.kind, []):
        try:
            made = getattr(importlib.import_module(module), of_class)
            layer = made(*(sizes[letter] for letter in arguments))
            found[name] = layer.cuda().to(getattr(torch, case.dtype))
        except Exception as error:  # noqa: PERF203 - whatever stands in the way of a guest
            failed[name] = f"{type(error).__name__}: {error}"[:100]
    return found, failed


def timed(case: Case, *, compiled: bool, cache_bytes: int) -> Iterator[Row]:
    """Rows of a case, forward and backward: milliseconds for each contestant and for a copy."""
    copies = max(2, math.ceil(3 * cache_bytes / case.input_bytes))
    copies = min(copies, 64, max(2, int(0.4 * _free_bytes() / (6 * case.input_bytes))))
    inputs = [_drawn(case) for _ in range(copies)]
    target = torch.empty_like(inputs[0])
    of_copy = _kernel_ms([lambda x=x: target.copy_(x.detach()) for x in inputs])
    layers, failed = contestants(case, compiled=compiled)
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
            "failed": dict(failed),
        }
        for name, layer in layers.items():
            try:
                calls = (_forwards if way == FORWARD else _backwards)(layer, inputs)
                row["kernel_ms"][name] = _kernel_ms(calls)
                row["wall_ms"][name] = _wall_ms(calls)
            except Exception as error:
                row["failed"][name] = f"{type(error).__name__}: {error}"[:100]
            calls = []  # and what they hold
        if "ours" in row["kernel_ms"]:
            row["of_copy"] = passes(case.kind, way) / 2 * of_copy / row["kernel_ms"]["ours"]
        yield row


def _drawn(case: Case) -> Tensor:
    x = torch.randn(case.shape, device="cuda").to(getattr(torch, case.dtype))
    x = x.contiguous(memory_format=torch.channels_last) if case.channels_last else x
    return x.requires_grad_(not KINDS[case.kind].inference)


def _forwards(layer: torch.nn.Module, inputs: list[Tensor]) -> list[Call]:
    return [lambda x=x: layer(x) for x in map(Tensor.detach, inputs)]


def _backwards(layer: torch.nn.Module, inputs: list[Tensor]) -> list[Call]:
    def call(x: Tensor) -> Call:
        y = layer(x)
        gradient, leaves = torch.randn_like(y), [x, *layer.parameters()]
        return lambda: torch.autograd.grad(y, leaves, gradient, retain_graph=True)

    return [call(x) for x in inputs]


def _kernel_ms(calls: list[Call], rounds: int = 5, queued_ms: float = 4) -> float:
    """Milliseconds of the device for one call: the median of rounds."""
    for call in calls[:3]:
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    calls[0]()
    torch.cuda.synchronize()
    once = (time.perf_counter() - start) * 1e3
    times = max(2, min(50, int(queued_ms / max(once, 1e-3))))
    turn = itertools.cycle(calls)
    found = []
    for _ in range(rounds):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        torch.cuda._sleep(int(2e6 * min(queued_ms, once * times)))  # the host runs ahead meanwhile
        events[0].record()
        for _ in range(times):
            next(turn)()
        events[1].record()
        torch.cuda.synchronize()
        found.append(events[0].elapsed_time(events[1]) / times)
    return sorted(found)[rounds // 2]


def _wall_ms(calls: list[Call], rounds: int = 5) -> float:
    """Milliseconds for one call, of whoever waits for the last of ten."""
    turn, found = itertools.cycle(calls), []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            next(turn)()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / 10 * 1e3)
    return sorted(found)[rounds // 2]


def _free_bytes() -> int:
    return torch.cuda.mem_get_info()[0]


# -- the run ------------------------------------------------------------------------------------


def thresholds() -> list[Row]:
    """Wall times of small forward calls, ours and torch's: where SMALL_ON_GPU should lie."""
    rows = []
    for kind, power in itertools.product(("instance", "trailing layer"), range(10, 23, 2)):
        case = Case(kind, False, (8, 32, 2 ** (power - 8)))
        layer, x = case.layers()[0].cuda(), _drawn(case).detach()
        row: Row = {"kind": kind, "elements": 2**power}
        for kernel in ("triton", "torch"):
            with kernels(kernel):
                row[kernel] = _wall_ms([lambda layer=layer, x=x: layer(x)])
        rows.append(row)
    return rows


class Clock:
    """What is left of the time that a run may take."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()


def check_all(cases: list[Case], device: str, clock: Clock, reserve_s: float) -> list[Row]:
    """Every check that time is left for; prints those that fail."""
    found: list[Row] = []
    for case in cases:
        if clock.left() < reserve_s:
            print(f"not checked, for want of time: {case.name} and what follows", flush=True)
            break
        found += checks(case, device)
        if device == "cuda":
            found.append(check_graph(case))
    for row in found:
        if not row["fine"]:
            print("WRONG", json.dumps(row), flush=True)
    print(f"{sum(row['fine'] for row in found)} of {len(found)} checks hold", flush=True)
    return found


def time_all(clock: Clock) -> list[Row]:
    """Every case, first without torch.compile; then with it, as far as time goes."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    rows: dict[str, list[Row]] = {}
    for compiled, reserve in ((False, 5), (True, 30)):
        for case in CASES:
            if clock.left() < reserve:
                break
            rows[case.name] = list(timed(case, compiled=compiled, cache_bytes=cache))
            torch.compiler.reset()
            gc.collect()
            torch.cuda.empty_cache()
    return [row for case in rows.values() for row in case]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interpret", action="store_true", help="tiny checks, without a GPU")
    parser.add_argument("--budget", type=float, default=450, metavar="S", help="seconds to take")
    parser.add_argument("--only", default="", metavar="KIND", help="norms whose name contains it")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    clock = Clock(options.budget)
    if options.interpret:
        cases = [case for case in TINY if options.only in case.kind]
        return int(not all(row["fine"] for row in check_all(cases, "cpu", clock, 0)))
    if not torch.cuda.is_available():
        print("there is no GPU; TRITON_INTERPRET=1 … --interpret checks without one")
        return 2
    checked = check_all(
        [c for c in CHECKED if options.only in c.kind], "cuda", clock, 0.6 * options.budget
    )
    rows = [row for row in time_all(clock) if options.only in row["kind"]]
    small = thresholds()
    verdicts = judge(rows)
    device = torch.cuda.get_device_name()
    print(table(rows), *verdicts, *small, sep="\n")
    results = {**stamp(), "device": device, "checks": checked, "rows": rows, "thresholds": small,
               "verdicts": [str(verdict) for verdict in verdicts]}  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {file}")
    return int(not all(row["fine"] for row in checked))


if __name__ == "__main__":
    sys.exit(main())
