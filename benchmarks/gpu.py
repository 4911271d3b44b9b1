"""The GPU kernels checked against float64, and timed beside torch and a copy.

    python benchmarks/gpu.py              # on a GPU: at most 8 minutes
    python benchmarks/gpu.py --apart      # the same, and nothing is streamed
    python benchmarks/gpu.py --interpret  # without one: checks, interpreted
    python benchmarks/gpu.py --rehearse   # without one: all, on small cases

It needs torch and Triton, and src/ on PYTHONPATH; Triton's interpreter needs
NumPy, too. Liger, quack and torchnorm take part where they can be imported.
Results: benchmarks/results/DEVICE.json, of a rehearsal runs/gpu/CPU….json,
written after every case; what they mean is in normwise/bench/gpu. A case that
takes more than two minutes on a GPU, as kernels that wait for each other would,
ends the run and says where it was; one that raises is told, and Ctrl-C leaves
what was found until then.
"""

import argparse
import gc
import json
import math
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch

from normwise.bench.cases import Case
from normwise.bench.gpu import advice, goals
from normwise.bench.gpu.checks import check_compiled, check_graph, checks, launched
from normwise.bench.gpu.device import Gpu, Processor
from normwise.bench.gpu.goals import Programme, Row, judge, table
from normwise.bench.gpu.timing import one_line_of, timed
from normwise.machine import stamp

ROOT = Path(__file__).parents[1]
WIDTH = 80
# So small that a statistic needs several tiles.
SPLIT = {"FORWARD": 32, "BACKWARD": 32, "SHARE": 64}
# What has to be left of the time for the next case to begin, as a share of the whole.
CHECKING, COMPILING, TIMING, TIMING_COMPILED, ADVISING = 0.6, 0.5, 0.15, 0.2, 0.05

Item = TypeVar("Item")


class Run:
    """One run: how much time is left, and what it has found, in a file if there is a folder."""

    def __init__(self, device: Processor, folder: Path | None, seconds: float = math.inf) -> None:
        self.device, self.seconds = device, seconds
        self.start = time.monotonic()
        self.found: dict[str, Any] = {**stamp(), "device": device.name, "checks": []}
        self.file = None
        if folder is not None:
            name = re.sub("[^a-z0-9]+", "-", device.name.lower()).strip("-")
            folder.mkdir(parents=True, exist_ok=True)
            self.file = folder / f"{name}.json"

    def each(self, doing: str, items: Sequence[Item], reserve: float) -> Iterator[Item]:
        """Items one after the other, and a line about each, as long as time is left for one."""
        for i, item in enumerate(items):
            left = self.start + self.seconds - time.monotonic()
            if left < reserve * self.seconds < math.inf:
                print(cut(f"not {doing}, for want of time: {item}, {len(items) - i} in all"))
                return
            times = f", {left:.0f} s left" * (left < math.inf)
            print(cut(f"{doing} {i + 1} of {len(items)}{times}: {item}"), file=sys.stderr)
            with self.device.watched():
                yield item
            gc.collect()

    def keep(self, **found: Any) -> None:
        """Add what was found, or put it in the place of what was."""
        self.found.update(found)
        if self.file is not None:
            new = self.file.with_suffix(".new")
            new.write_text(json.dumps(self.found, indent=1) + "\n")
            new.replace(self.file)

    def check(self, case: Case, variant: str, find: Callable[[], list[Row]]) -> None:
        """Keep the rows of a check; if it raises, one that says so. Those that fail are told."""
        try:
            rows = find()
        except Exception as error:
            why = one_line_of(error)
            rows = [{"case": case.name, "variant": variant, "fine": False, "error": why}]
        for row in rows:
            if not row["fine"]:
                words = [said(key, row[key]) for key in row if key not in ("case", "fine")]
                print(wrapped(f"WRONG   {row['case']}: {', '.join(words)}"), flush=True)
        self.keep(checks=self.found["checks"] + rows)


def said(key: str, figure: Any) -> str:
    """A figure of a row, in words."""
    return f"{key} {figure:.1e}" if isinstance(figure, float) else f"{key} {figure}"


def cut(line: str) -> str:
    """As much of a line as a terminal has room for."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def wrapped(line: str) -> str:
    """A line as several, those that follow under the ninth letter of the first."""
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * 8)


def check_all(run: Run, cases: Sequence[Case], how: str) -> None:
    """Every variant of every case, and a step that is captured."""
    for case in run.each(f"checked{how}", cases, CHECKING):
        run.check(case, f"any{how}", lambda case=case: list(checks(case, run.device)))
        run.check(case, run.device.graph, lambda case=case: [check_graph(case, run.device)])


def check_everything(run: Run, programme: Programme, *, eager: bool) -> bool:
    """Whether all checks hold: as it is, statistics split into tiles, under torch.compile."""
    check_all(run, programme.checked, "")
    for how, streamed in (
        (" in small tiles, streamed", {}),
        (" in small tiles", {"STREAMED": 0.0}),
    ):
        with launched(**SPLIT, **streamed):
            check_all(run, programme.split, how)
    for case in run.each("compiled", [] if eager else programme.compiled, COMPILING):
        run.check(case, "torch.compile", lambda case=case: [check_compiled(case, run.device)])
    found = run.found["checks"]
    fine = sum(row["fine"] for row in found)
    print(f"{fine} of {len(found)} checks hold", flush=True)
    return fine == len(found)


def time_all(run: Run, cases: Sequence[Case], *, eager: bool) -> list[Row]:
    """Every case, first without torch.compile; then with it, as far as time goes."""
    rows: dict[str, list[Row]] = {}
    for compiled in (False,) if eager else (False, True):
        doing, reserve = ("timed, compiled", TIMING_COMPILED) if compiled else ("timed", TIMING)
        for case in run.each(doing, cases, reserve):
            try:
                rows[case.name] = list(timed(case, run.device, compiled=compiled))
                run.device.tidy()
                if compiled:
                    torch.compiler.reset()
            except Exception as error:
                print(wrapped(f"WRONG   {case.name}: not timed, {one_line_of(error)}"))
            run.keep(rows=[row for each in rows.values() for row in each])
    return [row for each in rows.values() for row in each]


def advise(run: Run, questions: Sequence[advice.Question]) -> list[str]:
    """What is measured of thresholds says that they should be, as far as time goes."""
    rows: list[Row] = []
    for question in run.each("threshold", questions, ADVISING):
        try:
            rows.append(question.answer(run.device))
        except Exception as error:
            print(wrapped(f"WRONG   {question}: {one_line_of(error)}"))
        run.keep(thresholds=rows)
    return advice.advised(rows)


def measure(run: Run, programme: Programme, *, eager: bool) -> None:
    """Times, which goals they meet, and advice."""
    rows = time_all(run, programme.timed, eager=eager)
    verdicts = [str(verdict) for verdict in judge(rows)]
    run.keep(verdicts=verdicts)
    copy = max((2 * row["bytes"] / row["copy_ms"] / 1e6 for row in rows), default=0)
    print("", f"{run.device.name}, a copy: {copy:.0f} GB/s", table(rows), sep="\n")
    print("", *map(wrapped, verdicts), sep="\n", flush=True)
    advised = advise(run, advice.questions(programme, eager=eager))
    run.keep(advice=advised)
    print("", *map(wrapped, advised), "", f"written to {run.file}", sep="\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    without = parser.add_mutually_exclusive_group()
    without.add_argument("--interpret", action="store_true", help="tiny checks, without a GPU")
    without.add_argument("--rehearse", action="store_true", help="everything, without a GPU")
    parser.add_argument("--apart", action="store_true", help="launches apart, nothing streamed")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    parser.add_argument("--budget", type=float, default=450, metavar="S", help="seconds to take")
    parser.add_argument("--only", default="", metavar="KIND", help="norms whose name contains it")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the results")
    options = parser.parse_args(arguments)
    if (options.interpret or options.rehearse) and find_spec("numpy") is None:
        print("Triton's interpreter computes with NumPy, which is not installed")
        return 2
    if options.interpret or options.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
        programme = goals.INTERPRETED if options.interpret else goals.REHEARSED
        folder = None if options.interpret else options.out or ROOT / "runs" / "gpu"
        run = Run(Processor(), folder)
    elif torch.cuda.is_available():
        programme = goals.ON_A_GPU
        run = Run(Gpu(), options.out or ROOT / "benchmarks" / "results", options.budget)
    else:
        print("there is no GPU; --interpret checks the kernels without one")
        return 2
    programme = programme.only(options.only)
    try:
        with launched(STREAMED=0.0) if options.apart else nullcontext():
            run.keep(apart=options.apart)
            right = check_everything(run, programme, eager=options.eager)
            if programme.timed:
                measure(run, programme, eager=options.eager)
    except KeyboardInterrupt:
        print(f"stopped; what was found until then is in {run.file or 'no file'}")
        return 130
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
