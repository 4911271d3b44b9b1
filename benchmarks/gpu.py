"""The GPU kernels checked against float64, and timed beside torch and a copy in device memory.

    python benchmarks/gpu.py                                  # on a GPU: at most 8 minutes
    python benchmarks/gpu.py --apart                          # the same, and nothing is streamed
    TRITON_INTERPRET=1 python benchmarks/gpu.py --interpret   # without one: the checks alone

It needs torch, Triton and NumPy, and src/ on PYTHONPATH. Liger, quack and torchnorm take part where
they can be imported. Results: benchmarks/results/DEVICE.json, written after every case; what
they mean is in normwise/bench/gpu. A case that takes more than two minutes, as kernels that
wait for each other would, ends the run and says where it was.
"""

import argparse
import faulthandler
import gc
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from normwise.bench.cases import KINDS, Case
from normwise.bench.gpu import advice
from normwise.bench.gpu.checks import check_compiled, check_graph, checks, launched
from normwise.bench.gpu.goals import CASES, CHECKED, TINY, Row, judge, table
from normwise.bench.gpu.timing import one_line_of, timed
from normwise.machine import stamp

RESULTS = Path(__file__).parent / "results"
HANGS_S = 120
# So small that a statistic needs several tiles.
SPLIT = {"FORWARD": 32, "BACKWARD": 32, "SHARE": 64}


class Clock:
    """What is left of the time that a run may take."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()


class Results:
    """What was found so far, in a file, so that a run that dies has not been for nothing."""

    def __init__(self, folder: Path) -> None:
        device = torch.cuda.get_device_name()
        self.found: dict[str, Any] = {**stamp(), "device": device}
        self.file = folder / f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, **found: Any) -> None:
        """Add what was found, or put it in the place of what was."""
        self.found.update(found)
        self.file.write_text(json.dumps(self.found, indent=1) + "\n")


def tried(case: Case, variant: str, check: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a check; if it raises, one that says so."""
    try:
        return check()
    except Exception as error:
        return [{"case": case.name, "variant": variant, "fine": False, "error": one_line_of(error)}]


def check_all(cases: list[Case], device: str, clock: Clock, reserve_s: float) -> list[Row]:
    """Every check that time is left for; prints those that fail."""
    found: list[Row] = []
    for case in cases:
        if clock.left() < reserve_s:
            print(f"not checked, for want of time: {case.name} and what follows", flush=True)
            break
        if device == "cuda":
            faulthandler.dump_traceback_later(HANGS_S, exit=True)
        rows = tried(case, "any", lambda case=case: list(checks(case, device)))
        if device == "cuda":
            rows += tried(case, "CUDA graph", lambda case=case: [check_graph(case)])
            faulthandler.cancel_dump_traceback_later()
        report(rows)
        found += rows
    print(f"{sum(row['fine'] for row in found)} of {len(found)} checks hold", flush=True)
    return found


def report(rows: list[Row]) -> None:
    """Print the checks that fail."""
    for row in rows:
        if not row["fine"]:
            print("WRONG", json.dumps(row), flush=True)


def compile_all(cases: list[Case], device: str) -> list[Row]:
    """One small case of each norm under torch.compile."""
    found: list[Row] = []
    for kind in KINDS:
        case = next((case for case in cases if case.kind == kind), None)
        if case is not None:
            found += tried(case, "torch.compile", lambda c=case: [check_compiled(c, device)])
    report(found)
    print(f"{sum(row['fine'] for row in found)} of {len(found)} compile to one graph", flush=True)
    return found


def interpret(cases: list[Case]) -> bool:
    """Whether the checks hold in the interpreter: tiles that hold statistics, and smaller ones."""
    clock = Clock(float("inf"))
    found = check_all(cases, "cpu", clock, 0)
    few = [case for case in cases if case.dtype == "float32" and case.shape == TINY[0].shape]
    for way, streamed in (("streamed", {}), ("apart", {"STREAMED": 0.0})):
        print(f"statistics split into tiles, {way}:")
        with launched(**SPLIT, **streamed):
            found += check_all(few, "cpu", clock, 0)
    found += compile_all(few, "cpu")
    return all(row["fine"] for row in found)


def time_all(cases: list[Case], clock: Clock, keep: Callable[[list[Row]], None]) -> list[Row]:
    """Every case, first without torch.compile; then with it, as far as time goes."""
    rows: dict[str, list[Row]] = {}
    for compiled, reserve in ((False, 60), (True, 90)):
        for case in cases:
            if clock.left() < reserve:
                break
            faulthandler.dump_traceback_later(HANGS_S, exit=True)
            try:
                rows[case.name] = list(timed(case, compiled=compiled))
            except Exception as error:
                print(f"not timed: {case.name}: {one_line_of(error)}", flush=True)
            faulthandler.cancel_dump_traceback_later()
            keep([row for case_rows in rows.values() for row in case_rows])
            torch.compiler.reset()
            gc.collect()
            torch.cuda.empty_cache()
    return [row for case_rows in rows.values() for row in case_rows]


def advise(clock: Clock) -> list[Row]:
    """What thresholds are measured by, as far as time goes."""
    rows: list[Row] = []
    for measure in (
        advice.small, advice.streamed, lambda: advice.compiled(lambda: clock.left() > 20)
    ):  # fmt: skip
        faulthandler.dump_traceback_later(HANGS_S, exit=True)
        try:
            rows += measure()
        except Exception as error:
            print(f"a threshold was not measured: {one_line_of(error)}", flush=True)
        faulthandler.cancel_dump_traceback_later()
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interpret", action="store_true", help="tiny checks, without a GPU")
    parser.add_argument("--apart", action="store_true", help="launches apart, nothing streamed")
    parser.add_argument("--budget", type=float, default=450, metavar="S", help="seconds to take")
    parser.add_argument("--only", default="", metavar="KIND", help="norms whose name contains it")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    tiny, large, timed_ones = (
        [case for case in cases if options.only in case.kind] for cases in (TINY, CHECKED, CASES)
    )
    if options.interpret:
        return int(not interpret(tiny))
    if not torch.cuda.is_available():
        print("there is no GPU; TRITON_INTERPRET=1 … --interpret checks without one")
        return 2
    clock, results = Clock(options.budget), Results(options.out)
    with launched(STREAMED=0.0) if options.apart else nullcontext():
        checked = check_all(large, "cuda", clock, 0.6 * options.budget)
        checked += compile_all(tiny, "cuda")
        results.keep(checks=checked, apart=options.apart)
        rows = time_all(timed_ones, clock, lambda rows: results.keep(rows=rows))
    thresholds = advise(clock)
    verdicts = [str(verdict) for verdict in judge(rows)]
    copy = max((2 * row["bytes"] / row["copy_ms"] / 1e6 for row in rows), default=0)
    print(f"a copy: {copy:.0f} GB/s", table(rows), *verdicts, *advice.advised(thresholds), sep="\n")
    results.keep(thresholds=thresholds, verdicts=verdicts, advice=advice.advised(thresholds))
    print(f"written to {results.file}")
    return int(not all(row["fine"] for row in checked))


if __name__ == "__main__":
    sys.exit(main())
