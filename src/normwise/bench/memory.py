"""Memory: kept for all while they are timed, and its peak in a training step.

The peak is how far a fresh process grows, ours beside torch's.

A process's resident memory counts everything, also what a kernel takes for itself
without asking torch. Linux tells its peak; elsewhere nothing is measured.
"""

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normwise.bench.cases import KINDS, Case, grid
from normwise.bench.turns import OURS, TORCH

_PROGRAM = "import sys; from normwise.bench.memory import print_peak; print_peak(*sys.argv[1:])"
_TRIM_THRESHOLD, _MAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def keep_freed_memory() -> None:
    """Have glibc keep what is freed: else it hands pages back and asks for them again.

    Which call then pays for pages is chance, and a page costs as much as a thousand elements.
    Tensors of 32 MB and more are mapped anew all the same, by all contestants alike.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MAP_THRESHOLD, 32 << 20)


def memory_cases() -> list[Case]:
    """Training steps on a large signal; none where the system does not tell a peak."""
    large = [case for case in grid() if case.backward and case.sizes == "64x128x4096"]
    return [case for case in large if case.dtype == "float32" and _FORGET_PEAK.exists()]


def peaks(cases: list[Case]) -> Iterator[dict[str, Any]]:
    """What each case takes at most, in megabytes beyond layer, input and output gradient."""
    for case in cases:
        row: dict[str, Any] = {"case": case.name, "input_mb": case.input_bytes / 1e6, "failed": {}}
        for who in (OURS, TORCH):
            words = [sys.executable, "-c", _PROGRAM, case.name, who]
            process = subprocess.run(words, capture_output=True, text=True, check=False)
            row[who] = None if process.returncode else float(process.stdout)
            if process.returncode:
                row["failed"][who] = process.stderr.strip().rpartition("\n")[2]
        yield row


def peak_mb(case: Case, who: str) -> float:
    """Measure in this process, which should have done little before."""
    layer = dict(zip((OURS, TORCH), case.layers(), strict=True))[who]

    def step(x: Tensor, cotangent: Tensor) -> None:
        y = layer(x.requires_grad_())
        torch.autograd.grad(y, [x, *layer.parameters()], cotangent)

    small = (2, 8, case.shape[-1]) if KINDS[case.kind].trailing else (2, case.shape[1], 8)
    few = replace(case, shape=small)
    step(few.input(0), few.input(1))  # code is loaded, and threads are started
    x, cotangent = case.input(0), case.input(1)
    _FORGET_PEAK.write_text("5")
    before = _status_mb("VmRSS")
    step(x, cotangent)
    return _status_mb("VmHWM") - before


def print_peak(name: str, who: str) -> None:
    """Of the case of that name: what a process that was started for it does."""
    print(peak_mb({case.name: case for case in grid()}[name], who))


def _status_mb(entry: str) -> float:
    found = re.search(rf"^{entry}:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
