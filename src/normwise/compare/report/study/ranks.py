"""The critical-difference diagram: who differs from whom, over several tasks."""

from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normwise.compare.report import words
from normwise.compare.report.drawing import Plot, paint
from normwise.compare.report.study.reading import Ranking, StudyResults
from normwise.compare.report.study.words import ranks_finding

_ROW = 0.24  # inches between two names


def critical_differences(study: StudyResults) -> Plot | None:
    """Mean ranks on a line; a bar joins those that the tasks do not tell apart."""
    ranking = study.ranking
    if ranking is None or ranking.critical_difference is None or len(study.ranks) < 2:
        return None
    return Plot(
        name="ranks",
        title="Mean ranks, and which of them differ",
        finding=ranks_finding(study),
        reading="Rank 1 is the best, on the left. A thick bar joins candidates that these "
        f"{len(study.comparisons)} {study.axis}s do not tell apart; two further apart than the "
        "critical difference, CD, differ.",
        height_inches=0.9 + _ROW * ((len(study.ranks) + 1) // 2 + _bars(ranking)),
        draw=partial(_draw, study.ranks, ranking),
    )


def _bars(ranking: Ranking) -> int:
    return sum(len(clique) > 1 for clique in ranking.cliques)


def _draw(ranks: dict[str, float], ranking: Ranking, figure: Figure) -> None:
    axes = figure.subplots()
    count = len(ranks)
    order = sorted(ranks, key=lambda name: ranks[name])
    axes.set_xlim(0.3, count + 0.7)
    height = (count + 1) // 2 + _bars(ranking) + 1.6
    axes.set_ylim(height, -1.4)
    axes.axis("off")
    axes.plot([1, count], [0, 0], color=paint("muted"), linewidth=1)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [0, -0.2], color=paint("muted"), linewidth=1)
        _write(axes, tick, -0.35, str(tick), "center", "muted", "bottom")
    assert ranking.critical_difference is not None
    _draw_length(axes, ranking.critical_difference, count)
    _draw_cliques(axes, ranks, ranking)
    below = _bars(ranking) + 0.6
    half = (count + 1) // 2
    for row, name in enumerate(order[:half]):
        _draw_name(axes, ranks[name], below + row, name, left=True, count=count)
    for row, name in enumerate(order[: half - 1 : -1]):
        _draw_name(axes, ranks[name], below + row, name, left=False, count=count)


def _draw_length(axes: Axes, length: float, count: int) -> None:
    """How long the critical difference is, above the ranks."""
    shown = min(length, count - 1)
    for x in (1, 1 + shown):
        axes.plot([x, x], [-1.3, -1.1], color=paint("ink"), linewidth=1)
    axes.plot([1, 1 + shown], [-1.2, -1.2], color=paint("ink"), linewidth=1)
    beyond = "" if shown == length else ", beyond the axis"
    text = f"CD = {words.fixed(length, 2)}{beyond}"
    _write(axes, 1.1 + shown, -1.2, text, "left", "ink", "center")


def _draw_cliques(axes: Axes, ranks: dict[str, float], ranking: Ranking) -> None:
    cliques = [clique for clique in ranking.cliques if len(clique) > 1]
    for row, clique in enumerate(cliques):
        ends = [ranks[name] for name in clique]
        x = [min(ends) - 0.04, max(ends) + 0.04]
        axes.plot(x, [0.45 + row] * 2, color=paint("ink"), linewidth=3.5, zorder=3)


def _draw_name(axes: Axes, rank: float, row: float, name: str, *, left: bool, count: int) -> None:
    """A line from the rank down and out to the name, which has its rank beside it."""
    edge = 0.75 if left else count + 0.25
    colour = paint("muted")
    axes.plot([rank, rank, edge], [0, row, row], color=colour, linewidth=0.9, zorder=2)
    short, value = words.shorten(name, 20), words.fixed(rank, 2)
    text = f"{short}  {value}" if left else f"{value}  {short}"
    _write(axes, edge, row, text, "right" if left else "left", "ink", "center")


def _write(axes: Axes, x: float, y: float, text: str, ha: str, role: str, va: str) -> None:
    axes.text(x, y, text, ha=ha, va=va, color=paint(role), fontsize=9)
