"""The learning curves, candidate by candidate."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normwise.compare.report import words
from normwise.compare.report.drawing import Plot, paint
from normwise.compare.report.layout import (
    arrow_to,
    name_panel,
    padded,
    panels,
    panels_height,
    scale_by_decades,
)
from normwise.compare.report.reading import Candidate, Results


def curves(results: Results, quantity: str) -> Plot | None:
    """The "score" or the "loss" of each candidate by epoch."""
    shown = [c for c in results.candidates if c.curves[quantity]]
    if not shown:
        return None
    what = words.capital(results.metric) if quantity == "score" else "Training loss"
    return Plot(
        name=quantity,
        title=f"{what} by epoch",
        finding=words.curves_finding(results, quantity),
        reading="One panel per candidate: thick its mean, and the value this ends at; thin its "
        f"seeds; grey the means of the others; dashed {results.baseline}. "
        "The axis leaves out the worst values, mostly the first epochs.",
        height_inches=panels_height(len(shown)),
        draw=partial(_draw_curves, results, shown, quantity),
    )


def _draw_curves(
    results: Results, shown: Sequence[Candidate], quantity: str, figure: Figure
) -> None:
    axes = panels(figure, len(shown), "epoch")
    _scale_curves(axes[0], shown, quantity, quantity == "score" and results.higher_is_better)
    for panel, candidate in zip(axes, shown, strict=True):
        _draw_panel(panel, candidate, shown, quantity, results.baseline)


def _draw_panel(
    axes: Axes, candidate: Candidate, shown: Sequence[Candidate], quantity: str, baseline: str
) -> None:
    """One candidate's curves in its colour before those of the others."""
    for other in shown:
        if other.name == baseline:
            style = {"color": paint("baseline"), "linewidth": 0.9, "linestyle": (0, (3, 2))}
            _draw_curve(axes, other.mean_curve(quantity), **style)
        elif other is not candidate:
            _draw_curve(axes, other.mean_curve(quantity), color=paint("rule"), linewidth=0.8)
    colour = paint(candidate.verdict)
    for by_epoch in candidate.curves[quantity].values():
        _draw_curve(axes, by_epoch, color=colour, linewidth=0.6, alpha=0.45)
    mean = candidate.mean_curve(quantity)
    _draw_curve(axes, mean, color=colour, linewidth=1.9)
    name_panel(axes, candidate)
    if mean:
        _write_end(axes, list(mean.values()), colour)


def _write_end(axes: Axes, values: Sequence[float], colour: str) -> None:
    """The last value, in the corner on the right that the curve leaves empty."""
    height = 0.12 if values[-1] >= values[0] else 0.88
    text = f"{arrow_to(values[-1], axes)} {words.significant(values[-1])}".strip()
    corner = axes.text(0.98, height, text, transform=axes.transAxes, color=colour, fontsize=9)
    corner.set(horizontalalignment="right", verticalalignment="center")


def _draw_curve(axes: Axes, by_epoch: Mapping[float, float], **line: Any) -> None:
    marker = "." if len(by_epoch) == 1 else None  # one epoch makes no line
    axes.plot(list(by_epoch), list(by_epoch.values()), marker=marker, **line)


def _scale_curves(
    axes: Axes, shown: Sequence[Candidate], quantity: str, higher_is_better: bool
) -> None:
    """Limits that leave room for what happens late, which is what decides.

    The worst fifth of the values stays outside: first epochs, and runs that
    diverge. A logarithmic axis has room for nearly all.
    """
    curves = [c.mean_curve(quantity) for c in shown]
    curves = [m for m in curves if m] or [v for c in shown for v in c.curves[quantity].values()]
    values = [value for by_epoch in curves for value in by_epoch.values()]
    logarithmic = quantity == "loss" and min(values) > 0 and max(values) > 20 * min(values)
    worst = 0.02 if logarithmic else 0.2
    quantiles = (worst, 1.0) if higher_is_better else (0.0, 1.0 - worst)
    if logarithmic:
        scale_by_decades(axes, "y", values)
        axes.set_ylim(*np.exp(padded(*np.quantile(np.log(values), quantiles))))
    else:
        axes.set_ylim(padded(*np.quantile(values, quantiles)))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
