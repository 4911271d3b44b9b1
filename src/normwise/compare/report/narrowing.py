"""The race as a picture: each candidate's interval, narrowing from look to look."""

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normwise.compare.report import words
from normwise.compare.report.drawing import Plot, marker, paint
from normwise.compare.report.layout import name_panel, panels, panels_height, window
from normwise.compare.report.reading import Candidate, Look, Results


def race(results: Results) -> Plot | None:
    """The intervals of the paired differences after each look at the race."""
    if not results.race:
        return None
    shown = [c for c in results.compared if results.race.of(c.name)]
    if not shown:
        return None
    return Plot(
        name="race",
        title="The race, look by look",
        finding=words.race_finding(results),
        reading="One panel per candidate: its mean difference from the baseline, with its interval "
        "after each number of seeds. The sign of its verdict stands where it left the race. "
        "The intervals allow for having looked more than once.",
        height_inches=panels_height(len(shown)),
        draw=partial(_draw, results, shown),
    )


def _draw(results: Results, shown: Sequence[Candidate], figure: Figure) -> None:
    assert results.race
    axes = panels(figure, len(shown), "seeds")
    looks = [results.race.of(candidate.name) for candidate in shown]
    margin = results.equivalent_within or 0.0
    # The first looks know little: what they say goes beyond the edges.
    latest = [end for mine in looks for end in mine[-1].difference.span]
    axes[0].set_ylim(window(latest, keep=[-margin, 0.0, margin, *looks[0][-1].difference.span]))
    axes[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for panel, candidate, mine in zip(axes, shown, looks, strict=True):
        panel.axhspan(-margin, margin, color=paint("shade"), linewidth=0, zorder=0)
        panel.axhline(0, color=paint("ink"), linewidth=0.8, zorder=1)
        _draw_looks(panel, candidate, mine)
        name_panel(panel, candidate)


def _draw_looks(axes: Axes, candidate: Candidate, looks: Sequence[Look]) -> None:
    colour = paint(candidate.verdict)
    seeds = [look.seeds for look in looks]
    means = [look.difference.mean for look in looks]
    known = [look for look in looks if look.difference.interval]
    low, high = ([look.difference.span[end] for look in known] for end in (0, -1))
    axes.fill_between([look.seeds for look in known], low, high, color=colour, alpha=0.18, lw=0)
    for look in known:
        axes.plot([look.seeds] * 2, look.difference.span, color=colour, linewidth=0.9)
    axes.plot(seeds, means, color=colour, linewidth=1.6, marker=".", markersize=4)
    if looks[-1].state != "in":
        axes.plot(seeds[-1], means[-1], **marker(candidate.verdict) | {"markersize": 6})
