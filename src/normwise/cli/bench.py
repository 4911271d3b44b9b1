"""normwise bench: how fast the layers are on this machine."""

import argparse
import json
from pathlib import Path
from typing import Any

from normwise.cli.terminal import terminal


def add(commands: Any) -> None:
    """The command and its options."""
    timed = commands.add_parser(
        "bench",
        help="time the layers on this machine",
        description="Time every layer on many inputs, beside torch.nn, torch.nn compiled and a "
        "copy of the input, all taking turns; then the peak memory of training steps.",
    )
    timed.add_argument("--quick", action="store_true", help="one input of 8 MB for each norm")
    timed.add_argument(
        "--only", metavar="PATTERN", help="cases by name, as group, *step*bfloat16 or 10x20x100"
    )
    timed.add_argument(
        "--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="for the results"
    )
    timed.add_argument(
        "--resume", action="store_true", help="go on: keep what the same code has measured to DIR"
    )
    timed.add_argument("--json", action="store_true", help="print the figures, not the table")
    timed.set_defaults(call=_bench)


def _bench(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    from normwise import bench
    from normwise.bench.table import build_table, summary

    cases = bench.chosen(options.only, quick=options.quick)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        results = bench.measure(
            cases,
            memory=not options.quick,
            before=bench.earlier(options.out) if options.resume else None,
            on_progress=lambda words, done, total: progress.update(
                task, description=words, completed=done, total=total
            ),
        )
    paths = bench.write(results, options.out)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    console = terminal()
    console.print(build_table(results["rows"]))
    console.print("", *map(Text, summary(results)), "", sep="\n")
    for path in paths:
        console.print(Text(str(path), style="dim"), soft_wrap=True)
