"""The result as a table for a terminal of 80 columns."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 80
STYLES = {"better": "green", "worse": "red", "failed": "red", "equivalent": "cyan"}


def build_table(results: Mapping[str, Any]) -> "Table":
    """One row per candidate, the best mean first.

    `score` is mean ± half the 95 % interval of the mean; `difference` is paired
    with the model as it is, each end of its interval holds for all rows at once.
    """
    from rich.table import Table
    from rich.text import Text

    rows = results["candidates"]
    sign = 1 if results["metric"]["higher_is_better"] else -1
    places = _places(rows)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("candidate", overflow="fold", max_width=20)
    table.add_column(results["metric"]["name"], justify="right", overflow="fold", max_width=17)
    table.add_column(f"minus {results['baseline']}", justify="right")
    table.add_column("verdict")
    table.add_column("µs/item", justify="right")
    ranked = sorted(
        rows, key=lambda row: -math.inf if row["mean"] is None else sign * row["mean"], reverse=True
    )
    for row in ranked:
        chosen = row["name"] == results["recommendation"]["candidate"]
        table.add_row(
            Text(row["name"], style="bold" if chosen else ""),
            _score(row, places),
            _difference(row, places),
            Text(_verdict(row, len(results["seeds"])), style=STYLES.get(row["verdict"], "dim")),
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


def _score(row: Mapping[str, Any], places: int) -> str:
    if row["mean"] is None:
        return "–"
    half = "" if row["interval"] is None else f" ±{(row['interval'][1] - row['mean']):.{places}f}"
    return f"{row['mean']:.{places}f}{half}"


def _difference(row: Mapping[str, Any], places: int) -> str:
    difference = row.get("difference")
    if difference is None or difference["mean"] is None:
        return ""
    if difference["interval"] is None:
        return f"{difference['mean']:+.{places}f}"
    low, high = difference["interval"]
    return f"{low:+.{places}f} to {high:+.{places}f}"


def _verdict(row: Mapping[str, Any], seeds: int) -> str:
    words: str = row["verdict"]
    if row.get("dropped") and words == "undecided":
        words = f"dropped after {row['dropped']['after']}"
    elif row["more_seeds"]:
        words += f", +{row['more_seeds']} seed" + "s" * (row["more_seeds"] > 1)
    if row["failed"] and row["mean"] is not None:
        words += f" ({len(row['failed'])} of {seeds} failed)"
    return words


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"
