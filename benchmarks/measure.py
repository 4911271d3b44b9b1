"""Timing that a noisy machine cannot tilt: all contestants take turns, and medians are compared."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from normwise.compare.machine import processor

RESULTS = Path(__file__).parent / "results"


def side_by_side(
    calls: Mapping[str, Callable[[], object]], rounds: int = 15, round_s: float = 0.02
) -> dict[str, float]:
    """Seconds per call of each contestant: the median over rounds in which all take turns."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(round_s / max(time.perf_counter() - start, 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(times) for name, times in seconds.items()}


def write_results(name: str, rows: list[dict[str, Any]]) -> Path:
    """Keep a table with the machine, the versions and the commit it was measured on."""
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    stamp = {
        "machine": processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**stamp, "rows": rows}, indent=1) + "\n")
    return path
