"""normwise list: the catalogue of norms."""

import argparse
from typing import Any

from normwise.catalogue import catalogue
from normwise.cli.terminal import terminal
from normwise.demands import IN_WORDS


def add(commands: Any) -> None:
    """The command; it has no options."""
    norms = commands.add_parser(
        "list",
        help="print the catalogue of norms",
        description="Print every norm that can be a candidate: what it averages over, when to try "
        "it, who made it, and what it costs at the least.",
    )
    norms.set_defaults(call=_list)


def _list(options: argparse.Namespace) -> None:
    from rich.table import Table

    def table(*columns: str) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            made.add_column(column, overflow="fold")
        return made

    norms = table("candidate", "averages", "when", "source")
    costs = table("candidate", "inference", "sees its", "training", "sees its", "keeps")
    for entry in catalogue().values():
        norms.add_row(entry.usage, entry.averages or "nothing", entry.when, entry.source)
        least = entry.demands
        costs.add_row(
            entry.usage,
            f"{least.inference.reads} + {least.inference.writes}",
            least.infers_from,
            f"{least.training.reads} + {least.training.writes}",
            least.trains_on,
            "\n".join(least.keeps) or "nothing",
        )
    terminal(wide=True).print(norms, "", costs, "", IN_WORDS, sep="\n", markup=False)
