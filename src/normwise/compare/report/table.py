"""The result as a table for a terminal of 80 columns."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from normwise.compare.ranks import levels
from normwise.compare.report import words

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 80
STYLES = {"better": "green", "worse": "red", "failed": "red", "equivalent": "cyan"}


def build_table(results: Mapping[str, Any]) -> "Table":
    """One row per candidate, the best first.

    `minus` is the paired difference from the model as it is; each end of its interval holds for
    all rows at once. `seeds` is how many count, and about how many more would decide; `best` the
    chance of having the best true mean. The interval of a mean itself is in the report: it says
    little about a difference.
    """
    from rich.table import Table
    from rich.text import Text

    rows = results["candidates"]
    sign = 1 if results["metric"]["higher_is_better"] else -1
    places = _places(rows)
    best_known = any(row.get("probability_best") is not None for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("candidate", overflow="fold", max_width=20)
    table.add_column(results["metric"]["name"], justify="right", overflow="fold", max_width=13)
    table.add_column(f"minus {results['baseline']}", justify="right")
    table.add_column("verdict")
    table.add_column("seeds", justify="right")
    if best_known:
        table.add_column("best", justify="right")
    table.add_column("µs/item", justify="right")
    standing = levels(results)
    ranked = sorted(rows, key=lambda row: -sign * standing.get(row["name"], -sign * math.inf))
    for row in ranked:
        chosen = row["name"] == results["recommendation"]["candidate"]
        probability = row.get("probability_best")
        table.add_row(
            Text(row["name"], style="bold" if chosen else ""),
            _number(row["mean"], places),
            _difference(row, places),
            Text(_verdict(row), style=STYLES.get(row["verdict"], "dim")),
            _seeds(row),
            *(["" if probability is None else words.share(probability)] if best_known else []),
            _number(row["inference_us_per_sample"], 1),
        )
    return table


def render_table(results: Mapping[str, Any]) -> str:
    """The table as plain text, with its footer."""
    return f"{plain_text(build_table(results))}\n{footer(results)}".rstrip()


def plain_text(table: "Table") -> str:
    """A table as it is printed where there are no colours."""
    from rich.console import Console

    console = Console(width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def footer(results: Mapping[str, Any]) -> str:
    """How often such a table is wrong, and how much of the full grid a race took."""
    errors, race = results.get("errors"), results.get("race")
    if not errors:
        return ""
    share = f"{100 * errors['false_better']:g} %"
    said = f"Some false better in at most {share} of comparisons, and some false worse."
    if race is None:
        return said
    return (
        f"{said}\nThe best is dropped in at most {100 * errors['best_dropped']:g} %. "
        f"The race took {race['trials']} of {race['grid']} trials."
    )


def _places(rows: list[dict[str, Any]]) -> int:
    """Decimals that show two digits of the typical uncertainty."""
    widths = sorted(high - low for low, high in filter(None, (row["interval"] for row in rows)))
    typical = widths[len(widths) // 2] / 2 if widths else 0.0
    return min(6, max(0, 1 - math.floor(math.log10(typical)))) if typical > 0 else 4


def _difference(row: Mapping[str, Any], places: int) -> str:
    difference = row.get("difference")
    if difference is None or difference["mean"] is None:
        return ""
    if difference["interval"] is None:
        return f"{difference['mean']:+.{places}f}"
    low, high = difference["interval"]
    if words.hardly_known(low, high, places):
        return "hardly known"
    return f"{low:+.{places}f} to {high:+.{places}f}"


def _verdict(row: Mapping[str, Any]) -> str:
    dropped = row.get("dropped") and row["verdict"] == "undecided"
    return "dropped" if dropped else str(row["verdict"])


def _seeds(row: Mapping[str, Any]) -> str:
    """How many finished, of how many if not all did, and how many more it would take."""
    finished, lost = len(row["scores"]), len(row["failed"]) + len(row.get("stopped") or ())
    said = f"{finished} of {finished + lost}" if lost else str(finished)
    return f"{said} +{row['more_seeds']}" if row["more_seeds"] else said


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"
