"""A series, its scores and what they flag, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from normwise.recipes.series.alarms import Alarms
from normwise.recipes.series.detection import stretches
from normwise.recipes.series.labelled import Labelled

_COLOURS = ("#1b6ca8", "#b8860b")  # of the two that are shown
_OTHERS = ("#999999", "#6b8e6b", "#8a6d8a", "#444444", "#b07f5a")
_RED = "#d1495b"  # labelled, and flagged
_LOWEST = 1e-3  # that is drawn of score / threshold
_TOLD = {"roc_auc": "ROC AUC", "average_precision": "PR AUC", "f1": "F1", "range_f1": "range F1"}


def draw(data: Labelled, alarms: Sequence[Alarms], path: Path) -> None:
    """The series and the scores of the first two; the longest anomaly close by; all curves."""
    from matplotlib.figure import Figure

    shown, others = alarms[:2], alarms[2:]
    labelled = data.anomalous is not None
    last = ["close", "roc", "curve"] if labelled else ["close"] * 3
    names = [f"score {place}" for place in range(len(shown))]
    mosaic: list[Any] = [["series"] * 3, *([name] * 3 for name in names), last]
    heights = [1.2, *(1.0 for _ in shown), 1.5]
    figure = Figure(figsize=(10, 2.4 + 1.7 * (len(shown) + 1)), layout="constrained")
    panels: dict[str, Any] = figure.subplot_mosaic(mosaic, gridspec_kw={"height_ratios": heights})
    whole = slice(0, len(data.series))
    _draw_series(panels["series"], data, whole)
    start, stop = data.train.start, data.train.stop
    clock = data.series.clock()
    for panel in (panels["series"], *(panels[name] for name in names)):
        panel.axvspan(clock[start], clock[stop - 1], color="#eeeeee", zorder=0)
        panel.set_xlim(clock[0], clock[-1])
    panels["series"].annotate(
        "learned", (clock[start], 1), xycoords=("data", "axes fraction"), fontsize=8,
        textcoords="offset points", xytext=(3, -10), color="#666666",
    )  # fmt: skip
    panels["series"].set_ylabel("std of training")
    if 1 < len(data.series.names) <= 9:
        panels["series"].legend(fontsize=7, ncols=9, loc="lower left")
    for name, one, colour in zip(names, shown, _COLOURS, strict=False):
        _draw_score(panels[name], data, one, colour)
    _draw_close(panels["close"], data, shown)
    if labelled:
        _draw_curves(panels["roc"], panels["curve"], data, shown, others)
        handles, names = panels["roc"].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower right", ncols=6, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def _draw_series(panel: Any, data: Labelled, rows: slice) -> None:
    clock = data.series.clock()
    width = 0.7 if len(data.series.names) == 1 else 0.4
    for values, name in zip(data.series.values, data.series.names, strict=True):
        panel.plot(clock[rows], values[rows], color="black" if width == 0.7 else None,
                   linewidth=width, label=name)  # fmt: skip
    _mark(panel, data, rows)


def _mark(panel: Any, data: Labelled, rows: slice) -> None:
    """Labelled stretches in red, with a triangle above, so that short ones are seen."""
    clock = data.series.clock()
    for first, last in [] if data.anomalous is None else stretches(data.anomalous)[:500]:
        if last <= rows.start or first >= rows.stop:
            continue
        first, last = max(first, rows.start), min(last, rows.stop)
        panel.axvspan(clock[first], clock[last - 1], color=_RED, alpha=0.25, linewidth=1)
        middle = clock[(first + last - 1) // 2]
        panel.plot([middle], [1.0], "v", color=_RED, markersize=5, clip_on=False,
                   transform=panel.get_xaxis_transform())  # fmt: skip


def _draw_score(panel: Any, data: Labelled, one: Alarms, colour: str) -> None:
    from matplotlib.ticker import NullFormatter

    clock = data.series.clock()
    ratio = np.maximum(one.score / (one.threshold or 1.0), _LOWEST)
    panel.plot(clock, ratio, color=colour, linewidth=0.7)
    panel.axhline(1, color="black", linewidth=0.7, linestyle="--")
    flagged = one.flagged & data.tested
    panel.plot(clock[flagged], np.full(flagged.sum(), 0.04), "|", color=_RED, markersize=6,
               transform=panel.get_xaxis_transform())  # fmt: skip
    panel.set_yscale("log")
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylabel("score / threshold")
    found = one.measures(data)
    told = "".join(f", {words} {found[name]:.3f}" for name, words in _TOLD.items() if found)
    panel.set_title(f"{one.name}{told}", fontsize=10, loc="left")
    _mark(panel, data, slice(0, len(data.series)))


def _draw_close(panel: Any, data: Labelled, shown: Sequence[Alarms]) -> None:
    """The longest labelled stretch, or the highest score, with what the two flag below it."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if data.anomalous is None:
        middle = int(np.nanargmax(np.where(data.tested, shown[0].score, np.nan)))
        first, last = middle, middle + 1
    else:
        tested = data.anomalous & data.tested
        first, last = max(stretches(tested), key=lambda one: one[1] - one[0])
    margin = max(last - first, 40)
    rows = slice(max(0, first - margin), min(len(data.series), last + margin))
    _draw_series(panel, data, rows)
    clock = data.series.clock()
    for place, (one, colour) in enumerate(zip(shown, _COLOURS, strict=False)):
        flagged = np.flatnonzero(one.flagged[rows]) + rows.start
        panel.plot(clock[flagged], np.full(len(flagged), 0.10 - 0.06 * place), "|", color=colour,
                   markersize=6, transform=panel.get_xaxis_transform())  # fmt: skip
    low, high = panel.get_ylim()
    panel.set_ylim(low - 0.2 * (high - low), high)
    panel.set_xlim(clock[rows.start], clock[rows.stop - 1])
    if data.series.dated:
        places = AutoDateLocator(minticks=3, maxticks=6)
        panel.xaxis.set_major_locator(places)
        dates = ConciseDateFormatter(places)
        panel.xaxis.set_major_formatter(dates)
    panel.set_title("close by; ticks: flagged rows", fontsize=10, loc="left")


def _draw_curves(
    roc: Any, curve: Any, data: Labelled, shown: Sequence[Alarms], others: Sequence[Alarms]
) -> None:
    from sklearn.metrics import precision_recall_curve, roc_curve

    assert data.anomalous is not None
    styles = [*((colour, 1.8) for colour in _COLOURS), *((colour, 0.9) for colour in _OTHERS)]
    for one, (colour, width) in zip([*shown, *others], styles, strict=False):
        rows = one.scored(data)
        wrong, right, _ = roc_curve(data.anomalous[rows], one.score[rows])
        roc.plot(wrong, right, color=colour, linewidth=width, label=one.name)
        precision, recall, _ = precision_recall_curve(data.anomalous[rows], one.score[rows])
        curve.step(recall, precision, color=colour, linewidth=width, where="post")
    roc.plot([0, 1], [0, 1], color="#cccccc", linewidth=0.7, linestyle=":")
    roc.set_xlabel("false alarms, share of normal rows")
    roc.set_ylabel("anomalies found")
    roc.set_title("ROC", fontsize=10, loc="left")
    curve.set_xlabel("recall")
    curve.set_ylabel("precision")
    curve.set_title("precision and recall", fontsize=10, loc="left")
    for panel in (roc, curve):
        panel.set_xlim(0, 1.01)
        panel.set_ylim(0, 1.02)
