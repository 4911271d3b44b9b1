"""normwise compare: try norms on tasks, and say which to take."""

import argparse
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from normwise.catalogue import split_candidates
from normwise.cli.show import show
from normwise.compare import Task, compare, load_task
from normwise.compare.comparison import SEEDS
from normwise.compare.engines import ENGINES
from normwise.compare.loggers import LOGGERS

KEPT = "finished trials are kept, and the same command goes on"  # what is left where one stops


def add(commands: Any) -> None:
    """The command and its options."""
    run = commands.add_parser(
        "compare",
        help="try norms on a task and say which to take",
        description="Try normalization layers on a task, every one with the same seeds, and say "
        "which to take and how sure that is. Without a file: speaker recognition on speech that "
        "comes with normwise. With several, or with --vary, a report of all together as well. "
        "Stopped anywhere, the same command goes on.",
    )
    run.add_argument("task", nargs="*", type=Path, help="Python files with task = nw.Task(...)")
    run.add_argument(
        "--vary",
        type=_values,
        metavar="KEY=A,B,…",
        help="an option of the task and its values, as in batch_size=2,8,32 or lr=1e-4,1e-3",
    )
    run.add_argument(
        "--candidates",
        type=split_candidates,
        metavar="A,B,…",
        help="norms to try, as in group:8,rms (see `normwise list`); all that fit if left out",
    )
    run.add_argument(
        "--seeds", type=int, default=SEEDS, metavar="K", help="trials for each norm at the most"
    )
    run.add_argument(
        "--grid", action="store_true", help="all trials for all norms: no race that drops losers"
    )
    run.add_argument(
        "--budget", type=_seconds, metavar="T", help="when the race is to end: 90s, 10m, 2h"
    )
    run.add_argument(
        "--max-trials", type=int, metavar="N", help="that the race may take, all norms together"
    )
    run.add_argument(
        "--equivalent-within",
        type=float,
        metavar="X",
        help="a difference of the metric that does not matter; what another seed does, if left out",
    )
    run.add_argument("--epochs", type=int, metavar="K", help="instead of the task's own")
    run.add_argument("--batch-size", type=int, metavar="N", help="instead of the task's own")
    run.add_argument("--out", type=Path, metavar="DIR", help="default: runs/<task name>")
    run.add_argument(
        "--workers", type=int, metavar="K", help="trials at a time; default: what there is room for"
    )
    run.add_argument("--engine", choices=ENGINES, help="where trials run; default: processes")
    run.add_argument("--address", metavar="A", help="of the Ray cluster, as in 10.0.0.1:6379")
    run.add_argument(
        "--gpus-per-trial", type=float, metavar="X", help="on Ray: 0.25 lets four share a GPU"
    )
    run.add_argument(
        "--trial-timeout", type=float, metavar="S", help="seconds after which a trial is ended"
    )
    run.add_argument(
        "--log",
        type=_words,
        default=[],
        metavar="A,B,…",
        help=f"log there, too: {', '.join(LOGGERS)}",
    )
    run.add_argument(
        "--compiled", action="store_true", help="time what torch.compile makes of them, too"
    )
    run.add_argument("--fresh", action="store_true", help="forget the trials in the folder")
    run.add_argument("--json", action="store_true", help="print results.json, not the table")
    run.set_defaults(call=_compare, left=KEPT)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _values(text: str) -> dict[str, list[int | float | str]]:
    """batch_size=2,4 → {"batch_size": [2, 4]}."""
    option, equals, values = text.partition("=")
    if not equals or not option:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=A,B,…, as in batch_size=2,8,32")
    return {option.strip().replace("-", "_"): [_value(part) for part in values.split(",")]}


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text.strip()


def _seconds(text: str) -> float:
    """90s, 10m, 2h or 1h30m → seconds."""
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text)
    if not text or parts is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 10m, 2h or 1h30m")
    numbers = [float(part or 0) for part in parts.groups()]
    return numbers[0] * 3600 + numbers[1] * 60 + numbers[2]


def _compare(options: argparse.Namespace) -> None:
    if options.task:
        tasks = [load_task(path) for path in options.task]
    else:
        from normwise.recipes import vowels

        tasks = [vowels.task()]
    tasks = [t.replace(epochs=options.epochs, batch_size=options.batch_size) for t in tasks]
    result = compare(
        tasks[0] if len(tasks) == 1 else tasks,
        options.candidates,
        vary=options.vary,
        seeds=options.seeds,
        out=options.out,
        workers=_workers(options, tasks),
        engine=options.engine,
        trial_timeout=options.trial_timeout,
        address=options.address,
        gpus_per_trial=options.gpus_per_trial,
        log=options.log,
        compiled=options.compiled,
        fresh=options.fresh,
        race=not options.grid,
        equivalent_within=options.equivalent_within,
        budget_s=options.budget,
        max_trials=options.max_trials,
        progress=not options.json,
        command=options.command_line,
    )
    show(result, as_json=options.json)


def _workers(options: argparse.Namespace, tasks: Sequence[Task]) -> int | None:
    """As asked for; else one trial per core at a time, and on a GPU one at a time."""
    if options.workers is not None or options.engine in ("here", "ray"):
        workers: int | None = options.workers
        return workers
    if any(task.device.type != "cpu" for task in tasks):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // max(task.threads for task in tasks))
