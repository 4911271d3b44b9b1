"""What a result shows of itself: plots as figures, a data frame, a few lines in a notebook."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normwise.errors import NormError

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from normwise.compare.report.drawing import Plot
    from normwise.compare.report.reading import Results

_COSTS = {
    "inference": "inference_us_per_sample",
    "training": "train_s_per_step",
    "memory": "peak_memory_mb",
}


class ShownComparison:
    """The views of one comparison: each plot is that of its report."""

    results: dict[str, Any]

    def plot_scores(self) -> "Figure":
        """Each candidate's scores, and their mean with its interval."""
        from normwise.compare.report.rows import scores

        return figure_of(scores(self._read()), "no trial finished")

    def plot_differences(self) -> "Figure":
        """Each candidate's paired differences from the baseline."""
        from normwise.compare.report.rows import differences

        return figure_of(differences(self._read()), "no candidate has a pair with the baseline")

    def plot_curves(self, quantity: str = "score") -> "Figure":
        """The "score" or the "loss" of each candidate by epoch."""
        from normwise.compare.report.curves import curves

        known = ("score", "loss")
        _check_known(quantity, known, "quantity")
        return figure_of(curves(self._read(), quantity), f"no trial has reported a {quantity}")

    def plot_costs(self, cost: str = "inference") -> "Figure":
        """The mean score against the cost of "inference", of "training", or of its "memory"."""
        from normwise.compare.report.pareto import PRICES, costs

        _check_known(cost, _COSTS, "cost")
        (price,) = [each for each in PRICES if each.key == _COSTS[cost]]
        return figure_of(costs(self._read(), price), f"{cost} was not measured")

    def plot_race(self) -> "Figure":
        """The intervals of the differences, narrowing as seeds come in."""
        from normwise.compare.report.narrowing import race

        return figure_of(race(self._read()), "this was no race, or had no look yet")

    def frame(self) -> "pandas.DataFrame":
        """The figures with a row for each candidate, as a pandas DataFrame.

        Raises
            NormError  if pandas is not installed.
        """
        return frame_of(rows_of(self.results))

    def _repr_html_(self) -> str:
        from normwise.compare.report.notebook import comparison_card

        return comparison_card(self._read())

    def _read(self) -> "Results":
        from normwise.compare.report.reading import read_results

        return read_results(self.results)


def figure_of(plot: "Plot | None", reason: str) -> "Figure":
    """The plot as a figure.

    Raises
        NormError  if there is nothing to draw; says why.
    """
    if plot is None:
        raise NormError(f"there is nothing to draw: {reason}")
    return plot.figure()


def frame_of(rows: Iterable[Mapping[str, Any]]) -> "pandas.DataFrame":
    """Rows as a pandas DataFrame.

    Raises
        NormError  if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise NormError(
            "frame() returns a pandas DataFrame, and pandas is not installed: pip install pandas; "
            "without it, .results holds the same figures"
        ) from error
    return pandas.DataFrame(list(rows))


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A flat row for each candidate of a comparison."""
    return [_row(entry) for entry in results["candidates"]]


def copy_run(source: Path, target: Path) -> None:
    """Copy a run's folder to one that is new or empty.

    Raises
        NormError  if there is something in it, or it cannot be written.
    """
    check_new(target)
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise NormError(f"{source} could not be saved to {target}: {error}") from error


def check_new(folder: Path) -> None:
    """Refuse a folder in which something is.

    Raises
        NormError  if it is not new or empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise NormError(f"{folder} is there already, and not empty; save to a new folder")


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is a number or a word of a candidate's entry, with intervals as two columns."""
    difference = entry.get("difference") or {}
    low, high = entry["interval"] or (None, None)
    least, most = difference.get("interval") or (None, None)
    costs = ("parameters", *_COSTS.values())
    return {
        "candidate": entry["name"],
        "verdict": entry["verdict"],
        "mean": entry["mean"],
        "low": low,
        "high": high,
        "difference": difference.get("mean"),
        "difference_low": least,
        "difference_high": most,
        "p_adjusted": difference.get("p_adjusted"),
        "effect": entry.get("effect"),
        "probability_best": entry.get("probability_best"),
        "seeds": len(entry["scores"]),
        "failed": len(entry["failed"]),
        "more_seeds": entry["more_seeds"],
        **{cost: entry[cost] for cost in costs},
    }


def _check_known(given: str, known: Iterable[str], what: str) -> None:
    if given not in known:
        raise NormError(f"{what}={given!r} is not known; write one of {', '.join(known)}")
