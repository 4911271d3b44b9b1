"""What a recipe hands back, and how its figures are written and worded."""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from normwise.catalogue import split_candidates

FIGURES = "figures.json"
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Outcome:
    """What came of a recipe.

    figures  everything that was measured, as it is in figures.json
    columns  headings of the table
    rows     its cells
    notes    sentences below it
    files    what was written, the most telling first
    """

    figures: Mapping[str, Any]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    files: Sequence[Path] = field(default=())


def add_comparison_options(parser: argparse.ArgumentParser, seeds: int) -> None:
    """The options of every recipe that compares norms."""
    parser.add_argument(
        "--candidates", type=split_candidates, metavar="A,B,…", help="norms; default: the recipe's"
    )
    parser.add_argument("--seeds", type=int, default=seeds, metavar="K", help="trials of each norm")
    parser.add_argument("--epochs", type=int, metavar="K", help="instead of the recipe's own")
    parser.add_argument("--workers", type=int, default=1, metavar="K", help="processes")
    parser.add_argument("--fresh", action="store_true", help="forget the trials in the folder")


def counted(items: Sequence[_Item], words: str) -> Iterator[_Item]:
    """The items, with how many are done on the terminal, where there is one."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, words, console=console, transient=True, disable=not console.is_terminal)


def write_figures(figures: Mapping[str, Any], folder: Path) -> Path:
    """Write what was measured to figures.json; where it is."""
    path = folder / FIGURES
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return path


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % interval (of Student's t) over seeds, None where one is all there is."""
    from normwise.compare.verdict import mean_interval  # SciPy loads when it is needed

    low, high = mean_interval(values)
    interval = [low, high] if math.isfinite(low) else None
    return {"values": list(values), "mean": fmean(values), "interval": interval}


def worded(summarized: Mapping[str, Any]) -> str:
    """A summary for a table, with three digits of the mean: 0.386 ±0.002."""
    mean = abs(summarized["mean"])
    places = max(3, 2 - math.floor(math.log10(mean))) if mean > 0 else 3
    text = f"{summarized['mean']:.{places}f}"
    if summarized["interval"] is None:
        return text
    return f"{text} ±{summarized['interval'][1] - summarized['mean']:.{places}f}"
