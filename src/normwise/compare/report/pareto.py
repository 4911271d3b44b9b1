"""What quality costs: each candidate's mean score against what it takes to have it."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normwise.compare.report import words
from normwise.compare.report.drawing import Plot, marker, paint
from normwise.compare.report.layout import arrow_to, label_points, scale_by_decades, window
from normwise.compare.report.reading import COSTS, Candidate, Cost, Results

# What is drawn: that of running a model, of training it, and of the machine it needs.
PRICES = [cost for cost in COSTS if cost.drawn]


def costs(results: Results, cost: Cost) -> Plot | None:
    """One cost against the mean score, with the candidates that nothing else beats in both."""
    priced = [c for c in results.candidates if c.score and cost.key in c.costs]
    if not priced:
        return None
    front = pareto_front(priced, cost)
    return Plot(
        name=cost.key.replace("_", "-"),
        title=f"{cost.heading} against quality",
        finding=words.cost_finding(results, priced, front, cost),
        reading="Further left is cheaper. The line joins those that no other beats in both, going "
        f"by their means. Upright is the {results.level} interval of a mean; an arrow stands for "
        "a mean beyond the edge.",
        height_inches=3.6,
        draw=partial(_draw, results, priced, front, cost),
    )


def pareto_front(candidates: Sequence[Candidate], cost: Cost) -> list[Candidate]:
    """Those that no other equals or beats in both mean and cost, the cheapest first.

    `candidates` come with the best mean first, all with a known cost.
    """
    front: list[Candidate] = []
    for candidate in candidates:
        if not front or candidate.costs[cost.key] < front[-1].costs[cost.key]:
            front.append(candidate)
    return front[::-1]


def _draw(
    results: Results,
    priced: Sequence[Candidate],
    front: Sequence[Candidate],
    cost: Cost,
    figure: Figure,
) -> None:
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
        colour = paint(candidate.verdict)
        axes.plot([amount] * len(score.span), score.span, color=colour, linewidth=1)
        axes.plot(amount, score.mean, **marker(candidate.verdict))
        arrow = arrow_to(score.mean, axes)
        value = f" {arrow} {words.fixed(score.mean, results.decimals)}" if arrow else ""
        name = words.shorten(candidate.name, 18) + value
        points.append((amount, min(max(score.mean, low), high), name))
    stairs = [(c.costs[cost.key], c.score.mean) for c in front if c.score]
    _join(axes, stairs)
    axes.set_xlabel(f"{cost.heading.lower()}, {cost.unit}")
    axes.set_ylabel(f"mean {results.metric} ({words.direction(results)})")
    lines = [((amount, score.span[0]), (amount, score.span[-1])) for _, score, amount in known]
    for (x, y), (next_x, next_y) in pairwise(stairs):
        lines += [((x, y), (next_x, y)), ((next_x, y), (next_x, next_y))]
    label_points(figure, axes, points, lines)


def _join(axes: Axes, front: Sequence[tuple[float, float]]) -> None:
    """The front as stairs: between two of its candidates the cheaper one is all there is."""
    line: dict[str, Any] = {
        "color": paint("muted"),
        "linewidth": 1.2,
        "linestyle": (0, (2, 1.5)),
        "zorder": 1,
    }
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", **line)
