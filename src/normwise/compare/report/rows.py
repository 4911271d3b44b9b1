"""The plots with a row per candidate: scores and paired differences.

Colour and marker mean the verdict, in every plot and in the table; which
candidate is meant is always written beside it. So a dozen candidates need no
dozen colours.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normwise.compare.report import words
from normwise.compare.report.drawing import Plot, marker, paint
from normwise.compare.report.layout import window
from normwise.compare.report.reading import Candidate, Estimate, Results


def scores(results: Results) -> Plot | None:
    """Each candidate's scores, one dot a seed, and their mean with its interval."""
    if not any(c.scores for c in results.candidates):
        return None
    return Plot(
        name="scores",
        title=f"{words.capital(results.metric)} of each candidate",
        finding=words.scores_finding(results),
        reading=f"One small dot per seed; above the dots the mean and its {results.level} "
        "interval. An arrow stands for a mean beyond the edge.",
        height_inches=_rows_height(results.candidates),
        draw=partial(_draw_scores, results),
    )


def _draw_scores(results: Results, figure: Figure) -> None:
    axes = figure.subplots()
    baseline = results.named(results.baseline)
    scored = [c.score.mean for c in (results.candidates[0], baseline) if c and c.score]
    seeds = [score for c in results.candidates for score in c.scores.values()]
    axes.set_xlim(window(seeds, keep=scored))
    _name_rows(axes, results.candidates)
    write = partial(words.fixed, decimals=results.decimals)
    for row, candidate in enumerate(results.candidates):
        _draw_row(axes, row, candidate, candidate.score, candidate.scores, write)
    axes.set_xlabel(f"{results.metric} ({words.direction(results)})")


def differences(results: Results) -> Plot | None:
    """Each candidate's paired differences from the baseline, and what they show."""
    compared = [c for c in results.compared if c.difference]
    if not compared:
        return None
    region = ""
    if results.equivalent_within:
        region = (
            f" The shaded region, up to {results.equivalent_within:.2g} either way, "
            "is too small to matter in practice."
        )
    return Plot(
        name="differences",
        title=f"Difference from {results.baseline}, seed by seed",
        finding=words.differences_finding(results),
        reading="One small dot per seed, its difference from the baseline; above the dots the "
        f"mean, with {results.level} intervals that hold for all candidates at once.{region}",
        height_inches=_rows_height(compared),
        draw=partial(_draw_differences, results, compared),
    )


def _draw_differences(results: Results, compared: Sequence[Candidate], figure: Figure) -> None:
    axes = figure.subplots()
    margin = results.equivalent_within or 0.0
    ends = [end for c in compared if c.difference for end in c.difference.span]
    best = compared[0].difference.span if compared[0].difference else ()
    axes.set_xlim(window(ends, keep=[-margin, 0.0, margin, *best]))
    axes.axvspan(-margin, margin, color=paint("shade"), linewidth=0, zorder=0)
    axes.axvline(0, color=paint("ink"), linewidth=1, zorder=1)
    _name_rows(axes, compared)
    baseline = results.named(results.baseline)
    reference = baseline.scores if baseline else {}
    write = partial(words.fixed, decimals=results.decimals, signed=True)
    for row, candidate in enumerate(compared):
        pairs = {s: v - reference[s] for s, v in candidate.scores.items() if s in reference}
        _draw_row(axes, row, candidate, candidate.difference, pairs, write)
    axes.set_xlabel(f"difference in {results.metric} ({words.direction(results)})")


def _draw_row(
    axes: Axes,
    row: int,
    candidate: Candidate,
    estimate: Estimate | None,
    by_seed: Mapping[str, float],
    write: Callable[[float], str],
) -> None:
    """The dots of the seeds, and above them the mean with its interval.

    A mean beyond the edge is written there, behind an arrow.
    """
    colour = paint(candidate.verdict)
    dots = list(by_seed.values())
    dot: dict[str, Any] = {"color": colour, "alpha": 0.5, "markersize": 4, "markeredgewidth": 0}
    axes.plot(dots, [row + 0.24] * len(dots), "o", **dot)
    low, high = axes.get_xlim()
    text: dict[str, Any] = {
        "y": row - 0.1,
        "va": "center",
        "fontsize": 9,
        "transform": axes.get_yaxis_transform(),
    }
    if estimate is None:
        axes.text(0.01, s="no finished trial", color=paint("muted"), style="italic", **text)
        return
    axes.plot(estimate.span, [row - 0.1] * len(estimate.span), color=colour, linewidth=2)
    if estimate.mean < low:
        axes.text(0, s=f"◂ {write(estimate.mean)}", color=colour, **text)
    elif estimate.mean > high:
        axes.text(1, s=f"{write(estimate.mean)} ▸", color=colour, ha="right", **text)
    else:
        axes.plot(estimate.mean, row - 0.1, **marker(candidate.verdict))


def _name_rows(axes: Axes, candidates: Sequence[Candidate]) -> None:
    """One row per candidate, the first on top, its name on the left."""
    axes.set_ylim(len(candidates) - 0.45, -0.55)
    axes.set_yticks(range(len(candidates)), [words.shorten(c.name, 20) for c in candidates])
    axes.tick_params(axis="y", labelcolor=paint("ink"))
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _rows_height(rows: Sequence[Candidate]) -> float:
    return 0.75 + 0.32 * len(rows)
