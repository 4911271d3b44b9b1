"""What each candidate's differences from the baseline are in every comparison of a study."""

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normwise.compare.report import words
from normwise.compare.report.drawing import Plot, marker, paint
from normwise.compare.report.layout import panels, panels_height, window
from normwise.compare.report.study.reading import Cell, StudyResults
from normwise.compare.report.study.words import differences_finding


def differences(study: StudyResults) -> Plot | None:
    """Paired differences from the baseline, a panel for each candidate."""
    drawn = [name for name in study.compared if _paired(study, name)]
    if study.metric is None or not drawn:
        return None
    return Plot(
        name="differences",
        title=f"Difference from {study.first.baseline}, by {study.axis}",
        finding=differences_finding(study),
        reading="One panel per candidate: its mean paired difference in each comparison, with the "
        "interval that holds for all candidates of that comparison at once. Sign and colour are "
        "the verdict.",
        height_inches=panels_height(len(drawn)) + 0.25,
        draw=partial(_draw, study, drawn),
    )


def _paired(study: StudyResults, name: str) -> list[Cell]:
    return [cell for cell in study.cells(name) if cell.candidate.difference]


def _draw(study: StudyResults, drawn: Sequence[str], figure: Figure) -> None:
    axes = panels(figure, len(drawn), study.axis)
    paired = {name: _paired(study, name) for name in drawn}
    differences = [c.candidate.difference for cells in paired.values() for c in cells]
    ends = [end for difference in differences if difference for end in difference.span]
    axes[0].set_ylim(window(ends, keep=[0.0]))
    places = {label: place for place, label in enumerate(study.comparisons)}
    axes[0].set_xlim(-0.5, len(places) - 0.5)
    long = max(map(len, places)) > 4
    short = [words.shorten(label, 9) for label in places]
    axes[0].set_xticks(range(len(places)), short)
    for panel, (name, cells) in zip(axes, paired.items(), strict=True):
        panel.tick_params(axis="x", labelsize=8, labelrotation=90 if long else 0)
        panel.axhline(0, color=paint("ink"), linewidth=0.8, zorder=1)
        panel.set_title(words.shorten(name, 16), loc="left")
        for cell in cells:
            _draw_cell(panel, places[cell.label], cell)


def _draw_cell(axes: Axes, place: int, cell: Cell) -> None:
    candidate = cell.candidate
    assert candidate.difference
    span = candidate.difference.span
    axes.plot([place] * len(span), span, color=paint(candidate.verdict), linewidth=1.5)
    style = marker(candidate.verdict) | {"markersize": 5}
    axes.plot(place, candidate.difference.mean, **style)
