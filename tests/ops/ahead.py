"""Compile the GPU kernels for a GPU that is not there, and print a line of JSON for each.

    python tests/ops/ahead.py 90 "group norm" "layer norm"

Launches are decided as on a device of 132 multiprocessors, and compiled instead of run;
cuobjdump, which comes with Triton, tells registers and spills.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from normwise.axes import SCHEMES, Scheme, trailing
from normwise.ops.operands import Operands
from normwise.ops.plan import Formula
from normwise.ops.triton import kernels
from normwise.ops.triton import plan as planning
from normwise.ops.triton.launch import Device
from normwise.ops.triton.plan import TritonPlan

TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
half = torch.bfloat16


class Driver:
    """As much of a driver as the compiler asks."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


def layer(
    scheme: Scheme,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    weights: torch.dtype | None = None,
    groups: int = 0,
    activation: str | None = None,
    masked: bool = False,
    given: bool = False,
    channels_last: bool = False,
) -> Callable[[], None]:
    """Everything that a training step of a norm launches."""

    def step() -> None:
        x = torch.empty(shape, dtype=dtype, device="meta")
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        fitted = scheme.pattern.fit(x.dim())
        features = fitted.features
        weight = torch.empty([shape[i] for i in features], dtype=weights or dtype, device="meta")
        mask = None
        if masked:
            sizes = [1 if i in features else n for i, n in enumerate(shape)]
            mask = torch.empty(sizes, dtype=torch.bool, device="meta")
        var = torch.empty((1, shape[1], 1), device="meta") if given else None
        sizes = {"g": groups} if groups else {}
        plan = TritonPlan(
            Formula(scheme, sizes, 1e-5, activation), x, weight.dtype,
            None if mask is None else mask.shape, None if var is None else var.shape,
        )  # fmt: skip
        residual = torch.empty_like(x) if activation else None
        of = Operands(x, weight, weight, residual, mask, var, var)
        y, moments = plan.forward(of, not given)
        plan.backward(y, of, moments, (True, True, True, residual is not None))

    return step


def remembering() -> None:
    scheme = SCHEMES["batch"]
    moments = torch.empty((3, 1, 64, 1), device="meta")
    mean = torch.empty(64, device="meta")
    count = torch.empty((), dtype=torch.int64, device="meta")
    planning.remember(
        planning.Running(), planning.Remembered(mean, mean, count),
        planning.Stored(moments, 100), scheme.pattern.fit(3),
    )  # fmt: skip


LAST = Scheme(trailing(1))
CASES: dict[str, Callable[[], None]] = {
    "group norm": layer(SCHEMES["group"], (8, 256, 65536), groups=8),
    "group norm, short": layer(
        SCHEMES["group"], (64, 256, 64), half, groups=8, activation="silu", masked=True
    ),
    "group norm, channels last": layer(
        SCHEMES["group"], (64, 256, 64, 64), groups=8, channels_last=True
    ),
    "instance norm, long": layer(SCHEMES["instance"], (2, 4, 4_000_000)),
    "instance norm, beyond the cache": layer(SCHEMES["instance"], (2, 4, 40_000_000)),
    "instance norm": layer(SCHEMES["instance"], (64, 128, 4096), half, activation="gelu"),
    "instance norm, masked": layer(
        SCHEMES["instance"], (64, 128, 16384), activation="gelu", masked=True
    ),
    "instance norm, rows of 64": layer(SCHEMES["instance"], (4096, 128, 64)),
    "instance norm, odd": layer(SCHEMES["instance"], (64, 128, 1001)),
    "layer norm": layer(SCHEMES["layer"], (64, 128, 4096), activation="leaky_relu"),
    "layer norm, wide": layer(SCHEMES["layer"], (64, 512, 1000), half),
    "layer norm, wide and masked": layer(
        SCHEMES["layer"], (64, 1000, 1000), half, activation="silu", masked=True
    ),
    "layer norm, wider": layer(SCHEMES["layer"], (64, 1024, 1000), activation="gelu"),
    "layer norm, masked": layer(SCHEMES["layer"], (64, 4096, 1000), half, masked=True),
    "rms norm, last": layer(Scheme(trailing(1), centres=False), (16384, 4096), half),
    "rms norm, wide weights": layer(
        Scheme(trailing(1), centres=False), (16384, 4096), half, weights=torch.float32
    ),
    "layer norm, last": layer(LAST, (16384, 8192)),
    "layer norm, long": layer(LAST, (4096, 65536), half),
    "batch norm": layer(SCHEMES["batch"], (64, 128, 4096), activation="relu"),
    "batch norm, masked": layer(SCHEMES["batch"], (64, 128, 4096), half, masked=True),
    "batch norm, inference": layer(SCHEMES["batch"], (64, 128, 4096), given=True),
    "batch norm, channels last": layer(
        SCHEMES["batch"], (64, 256, 64, 64), half, channels_last=True
    ),
    "batch norm, float64": layer(SCHEMES["batch"], (64, 16, 512), torch.float64, activation="gelu"),
    "beyond 32 bits": layer(SCHEMES["instance"], (1 << 15, 128, 4096), half),
    "beyond 32 bits, streamed": layer(SCHEMES["group"], (1 << 9, 64, 1 << 17), half, groups=8),
    "running statistics": remembering,
}


def moved(compiled: Any, tile: list[int]) -> int:
    """How often a tile of numbers is shared out among threads anew, through shared memory."""
    kinds = re.findall(r"ttg\.convert_layout .*-> tensor<([\dx]+)xb?f\d", compiled.asm["ttgir"])
    return sum(sizes == "x".join(map(str, tile)) for sizes in kinds)


def resources(compiled: Any) -> dict[str, int]:
    """What the assembler says of a kernel, as Triton called it."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        said = subprocess.run(
            [TOOL, "--dump-resource-usage", binary], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    return {"registers": int(found[1]), "spilled": int(found[2])}


def main(capability: str, *names: str) -> None:
    driver.set_active(Driver(int(capability)))
    planning.device_of = lambda index: Device(132, 50 << 20)

    def compile_instead(
        kernel: Any, programs: int, device: torch.device, *arguments: Any, **constants: Any
    ) -> None:
        compiled = kernel.warmup(*arguments, grid=(programs,), **constants)
        ptx = compiled.asm["ptx"]
        row = {
            "case": name,
            "kernel": kernel.__name__,
            "tile": [constants.get(letter) for letter in "SRQ"],
            "writes": kernel is not kernels.backward or arguments[9] is not None,
            "warps": constants.get("num_warps", 4),
            "shared": compiled.metadata.shared,
            "wide_loads": len(re.findall(r"ld\.global[.\w:]*\.v4\.b32", ptx)),
            "wide_stores": len(re.findall(r"st\.global[.\w:]*\.v4\.b32", ptx)),
            "moved": moved(compiled, [constants.get(letter) for letter in "SRQ"]),
            "orders": sorted(set(re.findall(r"(?:atom|ld)\.global\.gpu\.(\w+)", ptx))),
            **resources(compiled),
        }
        print(json.dumps(row), flush=True)

    planning.run = compile_instead
    for name in names or CASES:
        CASES[name]()


if __name__ == "__main__":
    main(*sys.argv[1:])
