"""Scores of the rows of a series, and what they flag above a threshold."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from normwise.compare import Windows
from normwise.data import Series
from normwise.recipes.series.detection import Rows, measured
from normwise.recipes.series.labelled import Labelled

Scorer = Callable[[Series], NDArray[np.float64]]  # a score for each row


@dataclass(frozen=True)
class Alarms:
    """What a detector makes of a series.

    score      (T,) float64, higher where a row is stranger; NaN where it says nothing
    threshold  above which a row is flagged
    """

    name: str
    score: NDArray[np.float64]
    threshold: float

    @classmethod
    def of(cls, name: str, scorer: Scorer, data: Labelled, quantile: float) -> "Alarms":
        """What a scorer makes of a series, with a quantile of the training part as threshold.

        The training part is scored alone: a window of the threshold has no row beyond it.
        """
        threshold = float(np.nanquantile(scorer(data.training), quantile))
        return cls(name, scorer(data.series), threshold)

    @property
    def flagged(self) -> Rows:
        """The rows above the threshold."""
        above: Rows = np.nan_to_num(self.score, nan=-np.inf) > self.threshold
        return above

    def scored(self, data: Labelled) -> Rows:
        """The rows that it can be measured on."""
        rows: Rows = data.tested & ~np.isnan(self.score)
        return rows

    def flagged_share(self, data: Labelled) -> float:
        """How many of the tested rows are flagged."""
        return float(self.flagged[self.scored(data)].mean())

    def measures(self, data: Labelled) -> dict[str, float]:
        """Every measure of it; none where nothing is labelled, or one class only."""
        rows = self.scored(data)
        if data.anomalous is None or len(set(data.anomalous[rows].tolist())) < 2:
            return {}
        return measured(data.anomalous[rows], self.score[rows], self.flagged[rows])


def score_rows(
    predict: Callable[[Tensor], Tensor],
    series: Series,
    history: int,
    horizon: int,
    whole: bool = False,
) -> NDArray[np.float64]:
    """Squared error of each row, its mean over channels and over the windows that hold it.

    whole  whether a window's mean error stands for each of its rows: smoother, and blurred

    Shapes
        out  (T,) float64; NaN in the first rows, where they are only forecast from
    """
    x, y = Windows(series, history, horizon).arrays()
    first = history if horizon else 0
    total, count = np.zeros(len(series)), np.zeros(len(series))
    for start in range(0, len(x), 4096):
        some = slice(start, start + 4096)
        errors = (predict(x[some]) - y[some]).double().square().mean(1)
        if whole:
            errors = errors.mean(1, keepdim=True).expand_as(errors)
        for step, column in enumerate(errors.numpy().T, first + start):
            total[step : step + len(column)] += column
            count[step : step + len(column)] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def distance_from_mean(series: Series) -> NDArray[np.float64]:
    """Squared distance of each row from the training mean, which is 0."""
    score: NDArray[np.float64] = series.values.square().mean(0).numpy()
    return score


def distance_from_the_row_before(series: Series) -> NDArray[np.float64]:
    """Squared distance of each row from the one before; NaN for the first."""
    steps = series.values.diff(dim=1).square().mean(0).numpy()
    return np.concatenate([[np.nan], steps])


def write_scores(data: Labelled, alarms: Sequence[Alarms], path: Path) -> Path:
    """A row for each of the series: its time, and each detector's score over its threshold."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *(one.name for one in alarms)])
        ratios = [one.score / (one.threshold or 1.0) for one in alarms]
        for time, *row in zip(data.series.clock(), *ratios, strict=True):
            cells = ("" if np.isnan(ratio) else f"{ratio:.4g}" for ratio in row)
            writer.writerow([time, *cells])
    return path
