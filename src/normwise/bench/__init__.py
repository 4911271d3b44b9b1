"""How long the layers take on this machine, beside torch.nn and a copy of the input."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normwise.bench.cases import Case, chosen, grid
from normwise.bench.memory import keep_freed_memory, memory_cases, peaks
from normwise.bench.turns import compile_beforehand, contest
from normwise.errors import NormError
from normwise.machine import OtherWork, stamp

__all__ = ["Case", "chosen", "earlier", "measure", "write"]

_COMPILERS = 4  # processes at most: each holds a case's tensors


def measure(
    cases: list[Case],
    *,
    memory: bool = True,
    before: dict[str, Any] | None = None,
    on_progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Time cases one after the other, with a stamp of what they ran on.

    memory       whether to measure the peak memory of those cases that are meant by it, too
    before       what was measured `earlier`: goes into the results, and is not measured again
    on_progress  is told what is done, how many of it are behind, and of how many

    busy_cores, in what is returned, is how many cores other processes had meanwhile, of the
    pieces of a run the most; None where the system does not tell.
    """
    before = before or {"busy_cores": None, "rows": [], "memory": []}
    timed, weighed = ({row["case"] for row in before[part]} for part in ("rows", "memory"))
    heavy = [case for case in memory_cases() if memory and case in cases]
    cases = [case for case in cases if case.name not in timed]
    rows, peaked = list(before["rows"]), list(before["memory"])
    keep_freed_memory()
    workers = min(os.cpu_count() or 1, _COMPILERS)
    for i, _ in enumerate(compile_beforehand(cases, workers)):
        on_progress("compiling torch.nn", i + 1, len(cases))
    others = OtherWork()
    for i, case in enumerate(cases):
        on_progress(case.name, i, len(cases))
        rows.append(contest(case))
    heavy = [case for case in heavy if case.name not in weighed]
    for i, row in enumerate(peaks(heavy)):
        on_progress("measuring memory", i + 1, len(heavy))
        peaked.append(row)
    busy = [cores for cores in (others.cores(), before["busy_cores"]) if cores is not None]
    places = {case.name: place for place, case in enumerate(grid())}
    for part in (rows, peaked):
        part.sort(key=lambda row: places.get(row["case"], len(places)))
    return {**stamp(), "busy_cores": max(busy, default=None), "rows": rows, "memory": peaked}


def earlier(folder: Path) -> dict[str, Any] | None:
    """What the present code has written to a folder on this machine; None if nothing is there.

    Raises
        NormError  if other code or another machine has, or code that is not committed runs,
                   which may be another each time.
    """
    figures, now = folder / "cpu.json", stamp()
    if (now["commit"] or "").endswith("-dirty"):
        raise NormError(
            f"--resume keeps what the same code measured, and this tree has changes that are not "
            f"in {now['commit'].removesuffix('-dirty')}: commit them, or leave --resume out to "
            f"measure everything anew"
        )
    if not figures.is_file():
        return None
    results: dict[str, Any] = json.loads(figures.read_text())
    for key in now:
        if key != "date" and results.get(key) != now[key]:
            raise NormError(
                f"--resume keeps what the same code measured, and {figures} is of {key} "
                f"{results.get(key)}, not {now[key]}: leave --resume out to measure everything "
                f"anew, or name another --out"
            )
    return results


def write(results: dict[str, Any], folder: Path) -> list[Path]:
    """cpu.json and cpu.png in a folder, which is made if need be."""
    from normwise.bench.chart import draw

    folder.mkdir(parents=True, exist_ok=True)
    figures, picture = folder / "cpu.json", folder / "cpu.png"
    figures.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, picture)
    return [figures, picture]
