"""How well labelled anomalies are found: row by row, and stretch by stretch.

Nothing here counts a whole stretch as found because one of its rows was (point adjustment):
then a score drawn by lot finds nearly all that is long (Kim and others 2022,
arXiv:2109.05257).
"""

from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.bool_]
Stretch = tuple[float, float]


def measured(anomalous: Rows, score: NDArray[np.float64], flagged: Rows) -> dict[str, float]:
    """Every measure of a score, and of what it flags at a threshold.

    Shapes
        anomalous  (T,) bool, True in some rows and False in others
        score      (T,) float64, higher where a row is stranger
        flagged    (T,) bool

    roc_auc, average_precision   over all thresholds (average precision: area below the
                                 precision-recall curve, as a sum of steps)
    precision, recall, f1        of rows
    range_…, affiliation_…       of stretches: see the functions below
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    hits = float((anomalous & flagged).sum())
    of_rows = hits / max(1, flagged.sum()), hits / anomalous.sum()
    found = {
        "roc_auc": float(roc_auc_score(anomalous, score)),
        "average_precision": float(average_precision_score(anomalous, score)),
    }
    of_stretches = range_based(anomalous, flagged), affiliation(anomalous, flagged)
    for prefix, pair in zip(("", "range_", "affiliation_"), (of_rows, *of_stretches), strict=True):
        precision, recall = map(float, pair)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        found |= {f"{prefix}precision": precision, f"{prefix}recall": recall, f"{prefix}f1": f1}
    return found


def stretches(rows: Rows) -> list[tuple[int, int]]:
    """The stretches of True, each from its first row up to the one after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rows.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def range_based(anomalous: Rows, flagged: Rows) -> tuple[float, float]:
    """Precision and recall of stretches, all counting the same however long they are.

        recall    = mean over labelled stretches of covered share / flagged stretches in it
        precision = mean over flagged stretches of labelled share / labelled stretches in it

    Where two or more lie in one, the share is divided by their number: to find a stretch
    in pieces is worth less. Precision is 0 where nothing is flagged.

    Source: Tatbul, Lee, Zdonik, Alam and Gottschlich 2018, arXiv:1803.03639, with flat bias,
    reciprocal cardinality, and no reward for mere existence (alpha = 0).
    """
    labelled, found = stretches(anomalous), stretches(flagged)
    return _mean_share(found, labelled), _mean_share(labelled, found)


def _mean_share(these: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
    shares = []
    for start, end in these:
        inside = _within(others, start, end)
        shares.append(_length(inside) / (end - start) / max(1, len(inside)))
    return fmean(shares) if shares else 0.0


def affiliation(anomalous: Rows, flagged: Rows) -> tuple[float, float]:
    """Precision and recall by distance in time, against a row drawn by lot.

    Every labelled stretch has a zone, up to half the way to the next. A flagged moment in it
    is worth the probability that one drawn from the zone lies as far from the stretch or
    farther; a moment of the stretch that one drawn lies as far from it as the nearest
    flagged one, or farther. Both are averaged over each zone, and then over zones: those
    with something flagged, for precision, which is 0 where nothing is.

    Source: Huet, Navarro and Rossi 2022, arXiv:2206.13167.
    """
    labelled, found = stretches(anomalous), stretches(flagged)
    borders = [0.0, *((a[1] + b[0]) / 2 for a, b in pairwise(labelled)), float(len(anomalous))]
    precision, recall = [], []
    for stretch, zone in zip(labelled, pairwise(borders), strict=True):
        inside = _within(found, *zone)
        recall.append(_affiliated_recall(stretch, zone, inside) if inside else 0.0)
        if inside:
            precision.append(_affiliated_precision(stretch, zone, inside))
    return fmean(precision) if precision else 0.0, fmean(recall)


def _affiliated_precision(stretch: Stretch, zone: Stretch, inside: list[Stretch]) -> float:
    (start, end), (low, high) = stretch, zone
    worth = 0.0
    for first, last in inside:
        worth += _length(_within([(first, last)], start, end)) * (high - low)
        beside = [(start - min(last, start), start - min(first, start)),
                  (max(first, end) - end, max(last, end) - end)]  # fmt: skip
        for near, far in beside:  # the chance falls with distance, and is 0 beyond the zone
            for reach in (start - low, high - end):
                worth += _half_square(reach - near) - _half_square(reach - far)
    return worth / _length(inside) / (high - low)


def _affiliated_recall(stretch: Stretch, zone: Stretch, inside: list[Stretch]) -> float:
    (start, end), (low, high) = stretch, zone
    worth = _length(_within(inside, start, end)) * (high - low)
    gaps = [(-np.inf, inside[0][0]), *((a[1], b[0]) for a, b in pairwise(inside)),
            (inside[-1][1], np.inf)]  # fmt: skip
    for before, after in gaps:
        middle = (before + after) / 2
        for a, b in _within([(before, middle)], start, end):  # nearest: what ends before
            c = high + before
            worth += (before - low) * (b - a)
            worth += (_half_square(c - 2 * a) - _half_square(c - 2 * b)) / 2
        for a, b in _within([(middle, after)], start, end):  # nearest: what comes after
            c = low + after
            worth += (high - after) * (b - a)
            worth += (_half_square(2 * b - c) - _half_square(2 * a - c)) / 2
    return worth / (end - start) / (high - low)


def _within(these: list[Any], start: float, end: float) -> list[Stretch]:
    """The parts of stretches that lie between two moments."""
    parts = [(max(first, start), min(last, end)) for first, last in these]
    return [(first, last) for first, last in parts if last > first]


def _length(these: list[Stretch]) -> float:
    return sum(last - first for first, last in these)


def _half_square(x: float) -> float:
    """The integral of max(x, 0)."""
    return max(x, 0.0) ** 2 / 2
