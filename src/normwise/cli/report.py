"""normwise report: what runs came to, drawn again, watched, or as rows."""

import argparse
from pathlib import Path
from typing import Any

from normwise.cli.show import show
from normwise.compare import Comparison, Study
from normwise.compare.study import is_study, side_by_side
from normwise.compare.watching import watch, write_csv
from normwise.errors import NormError


def add(commands: Any) -> None:
    """The command and its options."""
    report = commands.add_parser(
        "report",
        help="draw the report of a run again",
        description="Print a run's table and draw its report.html again, from the trials in its "
        "ledger. Several runs are set side by side.",
    )
    report.add_argument(
        "run",
        type=Path,
        nargs="+",
        help="folder of a run; several: side by side",
    )
    report.add_argument("--out", type=Path, metavar="DIR", help="for several; default: runs/A+B")
    report.add_argument("--json", action="store_true", help="print results.json, not the table")
    report.add_argument(
        "--watch", action="store_true", help="show a run that is going on, here or elsewhere"
    )
    report.add_argument(
        "--csv",
        nargs="?",
        const="-",
        metavar="FILE",
        help="a row for each trial: into FILE, or printed",
    )
    report.set_defaults(call=_report)


def _report(options: argparse.Namespace) -> None:
    first = options.run[0]
    if len(options.run) > 1 and (options.watch or options.csv is not None):
        raise NormError("--watch and --csv take one run at a time")
    if options.csv is not None:
        write_csv(first, options.csv)
        return
    if options.watch:
        options.left = "what was watched goes on"
        watch(first)
    shown: Comparison | Study
    if len(options.run) > 1:
        shown = side_by_side(options.run, options.out, options.command_line)
    else:
        shown = Study.load(first) if is_study(first) else Comparison.load(first)
    shown.write()
    show(shown, as_json=options.json)
