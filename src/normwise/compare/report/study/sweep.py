"""The scores of all comparisons in one picture: a line for each norm, with its name at its end."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from normwise.compare.report import words
from normwise.compare.report.drawing import LINES, Plot, paint
from normwise.compare.report.layout import arrow_to, padded, spread, window
from normwise.compare.report.study.reading import Cell, StudyResults
from normwise.compare.report.study.words import Quantity, quantity, scores_finding

_MARKERS = "o^DvPXs*"


def sweep(study: StudyResults) -> Plot | None:
    """Mean scores, or errors where the score is an accuracy, against what differs."""
    drawn = [name for name in study.names if study.cells(name)]
    what = quantity(study)
    if what is None or not drawn or len(study.comparisons) < 2:
        return None
    return Plot(
        name="sweep",
        title=f"{words.capital(what.name)} by {study.axis}",
        finding=scores_finding(study),
        reading=f"A line for each norm, with the {study.first.level} interval of each mean; dashed "
        f"{study.first.baseline}, the baseline. Hollow where a candidate was dropped from the "
        "race, and has fewer seeds. An arrow stands for a line that ends beyond the edge.",
        height_inches=max(3.6, 0.8 + 0.22 * len(drawn)),
        draw=partial(_draw, study, what, drawn),
    )


def _draw(study: StudyResults, what: Quantity, drawn: Sequence[str], figure: Figure) -> None:
    axes = figure.subplots()
    places = _places(axes, study)
    lines = {name: study.cells(name) for name in drawn}
    kept = lines.get(study.first.baseline, lines[drawn[0]])
    ends = [what.of(end) for cells in lines.values() for c in cells for end in c.score.span]
    axes.set_ylim(window(ends, keep=[what.of(cell.score.mean) for cell in kept]))
    axes.grid(axis="y")
    others = [name for name in drawn if name != study.first.baseline]
    names = []
    for number, (name, cells) in enumerate(lines.items()):
        # Between two tasks lies nothing: there a line only leads the eye.
        style = {**_style(name, others), "linewidth": 1.5 if study.values else 0.6}
        aside = 0.02 * (number - (len(drawn) - 1) / 2)  # inches, so that uprights stay apart
        _draw_line(figure, axes, cells, places, what, aside, style)
        names.append((what.of(cells[-1].score.mean), name, style["color"]))
    _name_ends(axes, names, study.decimals, 0.16 / (0.72 * figure.get_figheight()))
    axes.set_xlabel(study.axis)
    axes.set_ylabel(f"{what.name} ({what.toward})")


def _places(axes: Axes, study: StudyResults) -> dict[str, float]:
    """Where along x each comparison stands: by its value, on a scale that keeps values apart."""
    values = study.values or list(range(len(study.comparisons)))
    if study.values and min(values) > 0 and max(values) >= 8 * min(values):
        axes.set_xscale("log")
        room = (max(values) / min(values)) ** 0.06
        axes.set_xlim(min(values) / room, max(values) * room)
    else:
        axes.set_xlim(padded(min(values), max(values)))
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"}
    short = [words.shorten(label, 18) for label in study.comparisons]
    axes.set_xticks(values, short, **turned if sum(map(len, short)) > 45 else {})
    return dict(zip(study.comparisons, values, strict=True))


def _style(name: str, others: Sequence[str]) -> dict[str, Any]:
    """The baseline in ink and dashed; the others by colour and marker, and by dash in the end."""
    if name not in others:
        return {"color": paint("ink"), "linestyle": (0, (3, 2)), "marker": "s", "zorder": 4}
    number = others.index(name)
    return {
        "color": paint(LINES[number % len(LINES)]),
        "linestyle": "-" if number < len(LINES) else (0, (5, 1, 1, 1)),
        "marker": _MARKERS[number % len(_MARKERS)],
        "zorder": 3,
    }


def _draw_line(
    figure: Figure,
    axes: Axes,
    cells: Sequence[Cell],
    places: Mapping[str, float],
    what: Quantity,
    aside: float,
    style: Mapping[str, Any],
) -> None:
    x = [places[cell.label] for cell in cells]
    y = [what.of(cell.score.mean) for cell in cells]
    beside = axes.transData + ScaledTranslation(aside, 0, figure.dpi_scale_trans)
    plain = {"color": style["color"], "transform": beside, "zorder": style["zorder"]}
    axes.plot(x, y, linewidth=style["linewidth"], linestyle=style["linestyle"], **plain)
    for at, mean, cell in zip(x, y, cells, strict=True):
        span = [what.of(end) for end in cell.score.span]
        axes.plot([at] * len(span), span, linewidth=1, alpha=0.7, **plain)
        inside = paint("paper") if cell.candidate.dropped else style["color"]
        axes.plot(at, mean, markersize=5, marker=style["marker"], mfc=inside, **plain)


def _name_ends(
    axes: Axes, names: Sequence[tuple[float, str, str]], decimals: int, gap: float
) -> None:
    """Each name beside the end of its line, moved up or down where others would be covered."""
    low, high = axes.get_ylim()
    ordered = sorted(names)
    heights = [min(max((y - low) / (high - low), 0.0), 1.0) for y, _, _ in ordered]
    for (y, name, colour), at, moved in zip(ordered, heights, spread(heights, gap), strict=True):
        arrow = arrow_to(y, axes)
        value = f" {arrow} {words.fixed(y, decimals)}" if arrow else ""
        axes.annotate(
            words.shorten(name, 18) + value,
            (1.0, at),
            xytext=(1.05, moved),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour,
            fontsize=9,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 0},
        )
