"""normwise recipe: whole applications on real data."""

import argparse
import json
from pathlib import Path
from typing import Any

from normwise.cli.compare import KEPT
from normwise.cli.terminal import terminal
from normwise.recipes import function_of, recipes


def add(commands: Any) -> None:
    """The command and, below it, one for each recipe."""
    every = commands.add_parser(
        "recipe",
        help="whole applications on real data",
        description="Whole applications on real data, each a start to copy from. "
        "`normwise recipe NAME --help` tells what each does and takes.",
    )
    every.set_defaults(call=_recipes)
    named = every.add_subparsers(metavar="NAME", title="recipes")
    for name, module in recipes().items():
        documentation = (module.__doc__ or "").strip()
        one = named.add_parser(
            name,
            help=documentation.partition("\n")[0],
            description=documentation,
        )
        module.add_options(one)
        one.add_argument(
            "--out", type=Path, default=Path("runs") / name, metavar="DIR", help="for the results"
        )
        one.add_argument("--json", action="store_true", help="print the figures, not the table")
        one.set_defaults(
            call=_recipe,
            recipe=name,
            left=getattr(module, "LEFT", KEPT),
        )


def _recipes(options: argparse.Namespace) -> None:
    longest = max(map(len, recipes()))
    for name, module in recipes().items():
        print(f"{name:{longest + 2}}{(module.__doc__ or '').strip().splitlines()[0]}")
    print("\nnormwise recipe NAME --help tells more.")


def _recipe(options: argparse.Namespace) -> None:
    from rich.table import Table
    from rich.text import Text

    others = ("call", "left", "recipe", "json", "command_line")
    told = {name: value for name, value in vars(options).items() if name not in others}
    outcome = function_of(options.recipe)(**told, command=options.command_line)
    if options.json:
        print(json.dumps(outcome.figures, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, heading in enumerate(outcome.columns):
        table.add_column(heading, overflow="fold", justify="right" if i else "left")
    for row in outcome.rows:
        table.add_row(*map(Text, row))
    console = terminal()
    with console.capture() as captured:
        console.print(table, "", *map(Text, outcome.notes), "", sep="\n")
    for line in captured.get().splitlines():
        print(line.rstrip())
    for path in outcome.files:
        console.print(Text(str(path), style="dim"), soft_wrap=True)
