"""The plots of a report: scores, paired differences, learning curves, and cost against quality.

Colour and marker mean the verdict, in every plot and in the table; which
candidate is meant is always written beside it. So a dozen candidates need no
dozen colours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normwise.compare import words
from normwise.compare.curves import PANELS_PER_ROW, draw_curves
from normwise.compare.drawing import PAINTS, draw_inline, marker
from normwise.compare.layout import arrow_to, label_points, scale_by_decades, window
from normwise.compare.outcome import COSTS, Candidate, Cost, Estimate, Outcome


@dataclass(frozen=True)
class Plot:
    """A drawing with its title, what it shows in words, and how to read it."""

    title: str
    finding: str
    reading: str
    svg: str


def draw_plots(outcome: Outcome) -> list[Plot]:
    """All plots for which there is something to draw."""
    plots = [
        _scores(outcome),
        _differences(outcome),
        _curves(outcome, "score"),
        _curves(outcome, "loss"),
        _costs(outcome),
    ]
    return [plot for plot in plots if plot]


def _scores(outcome: Outcome) -> Plot | None:
    if not any(c.scores for c in outcome.candidates):
        return None
    finding = words.scores_finding(outcome)
    draw = partial(_draw_scores, outcome)
    return Plot(
        title=f"{words.capital(outcome.metric)} of each candidate",
        finding=finding,
        reading="One small dot per seed; above the dots the mean and its 95 % interval. "
        "An arrow stands for a mean beyond the edge.",
        svg=draw_inline("scores", finding, _rows_height(outcome.candidates), draw),
    )


def _draw_scores(outcome: Outcome, figure: Figure) -> None:
    axes = figure.subplots()
    baseline = outcome.named(outcome.baseline)
    scored = [c.score.mean for c in (outcome.candidates[0], baseline) if c and c.score]
    seeds = [score for c in outcome.candidates for score in c.scores.values()]
    axes.set_xlim(window(seeds, keep=scored))
    _name_rows(axes, outcome.candidates)
    write = partial(words.fixed, decimals=outcome.decimals)
    for row, candidate in enumerate(outcome.candidates):
        _draw_row(axes, row, candidate, candidate.score, candidate.scores, write)
    axes.set_xlabel(f"{outcome.metric} ({_direction(outcome)})")


def _differences(outcome: Outcome) -> Plot | None:
    compared = [c for c in outcome.compared if c.difference]
    if not compared:
        return None
    finding = words.differences_finding(outcome)
    draw = partial(_draw_differences, outcome, compared)
    region = ""
    if outcome.equivalent_within:
        region = (
            f" The shaded region, up to {outcome.equivalent_within:.2g} either way, "
            "is too small to matter in practice."
        )
    return Plot(
        title=f"Difference from {outcome.baseline}, seed by seed",
        finding=finding,
        reading="One small dot per seed, its difference from the baseline; above the dots "
        f"the mean, with 95 % intervals that hold for all candidates at once.{region}",
        svg=draw_inline("differences", finding, _rows_height(compared), draw),
    )


def _draw_differences(outcome: Outcome, compared: Sequence[Candidate], figure: Figure) -> None:
    axes = figure.subplots()
    margin = outcome.equivalent_within or 0.0
    ends = [end for c in compared if c.difference for end in c.difference.span]
    best = compared[0].difference.span if compared[0].difference else ()
    axes.set_xlim(window(ends, keep=[-margin, 0.0, margin, *best]))
    axes.axvspan(-margin, margin, color=PAINTS["shade"], linewidth=0, zorder=0)
    axes.axvline(0, color=PAINTS["ink"], linewidth=1, zorder=1)
    _name_rows(axes, compared)
    baseline = outcome.named(outcome.baseline)
    reference = baseline.scores if baseline else {}
    write = partial(words.fixed, decimals=outcome.decimals, signed=True)
    for row, candidate in enumerate(compared):
        pairs = {s: v - reference[s] for s, v in candidate.scores.items() if s in reference}
        _draw_row(axes, row, candidate, candidate.difference, pairs, write)
    axes.set_xlabel(f"difference in {outcome.metric} ({_direction(outcome)})")


def _curves(outcome: Outcome, quantity: str) -> Plot | None:
    shown = [c for c in outcome.candidates if c.curves[quantity]]
    if not shown:
        return None
    finding = words.curves_finding(outcome, quantity)
    what = words.capital(outcome.metric) if quantity == "score" else "Training loss"
    height = 0.45 + 1.15 * -(-len(shown) // PANELS_PER_ROW)
    draw = partial(draw_curves, outcome, shown, quantity)
    return Plot(
        title=f"{what} by epoch",
        finding=finding,
        reading="One panel per candidate: thick its mean, and the value this ends at; thin its "
        f"seeds; grey the means of the others; dashed {outcome.baseline}. "
        "The axis leaves out the worst values, mostly the first epochs.",
        svg=draw_inline(quantity, finding, height, draw),
    )


def _costs(outcome: Outcome) -> Plot | None:
    by_key = {cost.key: cost for cost in COSTS}
    for cost in (by_key["inference_us_per_sample"], by_key["train_s_per_step"]):
        priced = [c for c in outcome.candidates if c.score and cost.key in c.costs]
        if priced:
            finding = words.cost_finding(outcome, priced, cost)
            draw = partial(_draw_costs, outcome, priced, cost)
            return Plot(
                title="Cost against quality",
                finding=finding,
                reading="Further left is cheaper. A vertical line is the 95 % interval of the "
                "mean; an arrow stands for a mean beyond the edge.",
                svg=draw_inline("cost", finding, 3.6, draw),
            )
    return None


def _draw_costs(outcome: Outcome, priced: Sequence[Candidate], cost: Cost, figure: Figure) -> None:
    axes = figure.subplots()
    known = [(c, c.score, c.costs[cost.key]) for c in priced if c.score]
    amounts = [amount for _, _, amount in known]
    if min(amounts) > 0 and max(amounts) > 8 * min(amounts):
        scale_by_decades(axes, "x", amounts)
    axes.margins(x=0.1)
    axes.set_ylim(window([end for _, score, _ in known for end in score.span], known[0][1].span))
    axes.grid()
    low, high = axes.get_ylim()
    points = []
    for candidate, score, amount in known:
        colour = PAINTS[candidate.verdict]
        axes.plot([amount] * len(score.span), score.span, color=colour, linewidth=1)
        axes.plot(amount, score.mean, **marker(candidate.verdict))
        arrow = arrow_to(score.mean, axes)
        value = f" {arrow} {words.fixed(score.mean, outcome.decimals)}" if arrow else ""
        name = words.shorten(candidate.name, 18) + value
        points.append((amount, min(max(score.mean, low), high), name))
    axes.set_xlabel(f"{cost.heading.lower()}, {cost.unit}")
    axes.set_ylabel(f"mean {outcome.metric} ({_direction(outcome)})")
    uprights = [(amount, score.span[0], score.span[-1]) for _, score, amount in known]
    label_points(figure, axes, points, uprights)


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
    colour = PAINTS[candidate.verdict]
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
        axes.text(0.01, s="no finished trial", color=PAINTS["muted"], style="italic", **text)
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
    axes.tick_params(axis="y", labelcolor=PAINTS["ink"])
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _rows_height(rows: Sequence[Candidate]) -> float:
    return 0.75 + 0.32 * len(rows)


def _direction(outcome: Outcome) -> str:
    """Where better lies along an axis of scores; on an upright one the text turns with it."""
    return "better →" if outcome.higher_is_better else "← better"
