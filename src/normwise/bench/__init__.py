"""How long the layers take on this machine, beside torch.nn and a copy of the input."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normwise.bench.cases import Case, chosen
from normwise.bench.memory import keep_freed_memory, memory_cases, peaks
from normwise.bench.turns import compile_beforehand, contest
from normwise.machine import busy_cores, stamp

__all__ = ["Case", "chosen", "measure", "write"]

_COMPILERS = 4  # processes at most: each holds a case's tensors


def measure(
    cases: list[Case], *, memory: bool = True, on_progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Time cases one after the other, with a stamp of what they ran on.

    memory       whether to measure the peak memory of those cases that are meant by it, too
    on_progress  is told what is done, how many of it are behind, and of how many
    """
    busy = busy_cores()
    keep_freed_memory()
    workers = min(os.cpu_count() or 1, _COMPILERS)
    for i, _ in enumerate(compile_beforehand(cases, workers)):
        on_progress("compiling torch.nn", i + 1, len(cases))
    results: dict[str, Any] = {**stamp(), "busy_cores": busy, "rows": [], "memory": []}
    for i, case in enumerate(cases):
        on_progress(case.name, i, len(cases))
        results["rows"].append(contest(case))
    heavy = [case for case in memory_cases() if memory and case in cases]
    for i, row in enumerate(peaks(heavy)):
        on_progress("measuring memory", i + 1, len(heavy))
        results["memory"].append(row)
    return results


def write(results: dict[str, Any], folder: Path) -> list[Path]:
    """cpu.json and cpu.png in a folder, which is made if need be."""
    from normwise.bench.chart import draw

    folder.mkdir(parents=True, exist_ok=True)
    figures, picture = folder / "cpu.json", folder / "cpu.png"
    figures.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, picture)
    return [figures, picture]
