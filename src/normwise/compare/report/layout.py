"""Where things go on the axes of a plot: limits, ticks, and names beside points."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from normwise.compare.report import words
from normwise.compare.report.drawing import MARKS, paint
from normwise.compare.report.reading import Candidate

PANELS_PER_ROW = 3

# Where a label may stand: points off, then to the right or left, then up or down.
_PLACES = [
    (distance, across, up)
    for distance in (8, 14, 22, 32, 44)
    for across, up in ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))
]


def panels(figure: Figure, count: int, across: str) -> list[Axes]:
    """So many small axes in rows of three, which share one scale, named below by `across`."""
    columns = min(PANELS_PER_ROW, count)
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    for number, panel in enumerate(axes[:count]):
        panel.tick_params(labelbottom=number + columns >= count)
        panel.grid(axis="y")
    figure.supxlabel(across, fontsize=9, color=paint("muted"))
    return axes[:count]


def panels_height(count: int) -> float:
    """Inches that so many panels take."""
    return 0.45 + 1.15 * -(-count // PANELS_PER_ROW)


def name_panel(axes: Axes, candidate: Candidate) -> None:
    """Sign and name of the candidate that a panel is about, in its verdict's colour."""
    title = f"{MARKS[candidate.verdict].sign} {words.shorten(candidate.name, 14)}"
    axes.set_title(title, color=paint(candidate.verdict), loc="left")


def window(values: Sequence[float], keep: Sequence[float]) -> tuple[float, float]:
    """Limits that show the bulk of the values, and all to keep.

    Left out is what lies further from the median than eight times the values
    typically do, so that one candidate that failed to learn does not press the
    others into a single line.
    """
    off = np.abs(np.subtract(values, np.median(values)))
    reach = 8 * np.median(off) or np.inf
    shown = [v for v, distance in zip(values, off, strict=True) if distance <= reach] + [*keep]
    return padded(min(shown), max(shown))


def padded(low: float, high: float) -> tuple[float, float]:
    """The limits with some room on both sides, even where they coincide."""
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return float(low - room), float(high + room)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """The ascending heights, moved as little as it takes to keep them a gap apart."""
    # Neighbours that collide become a group, which stands about its own middle.
    groups: list[list[int]] = []
    for number in range(len(heights)):
        groups.append([number])
        while len(groups) > 1 and _start(groups[-2], heights, gap) + gap * len(groups[-2]) > _start(
            groups[-1], heights, gap
        ):
            last = groups.pop()
            groups[-1] += last
    return [
        _start(group, heights, gap) + gap * place for group in groups for place in range(len(group))
    ]


def _start(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    """Where the lowest of a group stands, if the group is centred on the heights it wants."""
    return float(np.mean([heights[i] for i in group]) - gap * (len(group) - 1) / 2)


def scale_by_decades(axes: Axes, direction: str, values: Sequence[float]) -> None:
    """Make x or y logarithmic, with plain digits: matplotlib's own are written in mathtext."""
    axes.set(**{f"{direction}scale": "log"})
    axis = axes.xaxis if direction == "x" else axes.yaxis
    few = max(values) < 100 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 3) if few else (1,), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: words.significant(value, 1)))
    axis.set_minor_formatter(NullFormatter())


def arrow_to(y: float, axes: Axes) -> str:
    """Points to where y lies, if that is beyond the axis."""
    low, high = axes.get_ylim()
    return "▾" if y < low else "▴" if y > high else ""


def label_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float, str]],
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]],
) -> None:
    """Write each (x, y, name) where it covers least, with a thin line where it stands off.

    It keeps clear of the other points and names, and of lines, level or upright, by their ends.
    """
    figure.draw_without_rendering()  # only now does the layout know where the points are
    frame = axes.get_window_extent()
    spots = axes.transData.transform([(x, y) for x, y, _ in points])
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in spots]
    taken += [Bbox(axes.transData.transform(sorted(ends))).padded(1) for ends in lines]
    off: dict[str, Any] = {
        "textcoords": "offset points",
        "fontsize": 9,
        "verticalalignment": "center",
    }
    line = {"arrowstyle": "-", "color": paint("muted"), "linewidth": 0.5, "shrinkB": 4}
    for x, y, name in points:
        label = axes.annotate(name, (x, y), xytext=(0, 0), **off)
        label.set_in_layout(False)
        prices = {place: _price(label, place, taken, frame) for place in _PLACES}
        best = min(_PLACES, key=prices.__getitem__)
        taken.append(_move(label, best))
        if best[0] > _PLACES[0][0]:
            axes.annotate("", (x, y), xytext=label.xyann, arrowprops=line, **off)


def _price(
    label: Annotation, place: tuple[int, int, int], taken: Sequence[Bbox], frame: Bbox
) -> float:
    """The area that the label would cover there, that of the outside included; near is cheap."""
    box = _move(label, place).padded(1)
    covered = sum(_shared_area(box, other) for other in taken)
    return covered + box.width * box.height - _shared_area(box, frame) + 2 * place[0]


def _move(label: Annotation, place: tuple[int, int, int]) -> Bbox:
    distance, across, up = place
    label.set_horizontalalignment(("center", "left", "right")[across])
    label.xyann = (across * distance, up * distance)
    return label.get_window_extent()


def _shared_area(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return float(shared.width * shared.height) if shared else 0.0
