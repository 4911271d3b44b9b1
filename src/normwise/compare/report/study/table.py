"""A study as a table for a terminal of 80 columns: candidates down, comparisons across."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normwise.compare.report import words
from normwise.compare.report.drawing import MARKS
from normwise.compare.report.study.reading import StudyResults, read_study
from normwise.compare.report.table import STYLES, WIDTH, plain_text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_NAME, _GAP = 20, 2


def build_tables(results: Mapping[str, Any]) -> list["Table"]:
    """As many tables as it takes to show all comparisons; the best mean rank comes first.

    A cell is a mean score and the sign of its verdict against the comparison's own baseline.
    """
    study = read_study(results)
    columns = {label: _column(label, study) for label in study.comparisons}
    if study.sensitivity:
        columns["sensitivity"] = _figures(study, study.sensitivity, words.significant)
    columns["mean rank"] = _figures(study, study.ranks, "{:.2f}".format)
    name_width = min(_NAME, max(map(len, study.names)))
    return [
        _table(study.names, {head: columns[head] for head in heads})
        for heads in _lines(columns, WIDTH - name_width)
    ]


def render_study_table(results: Mapping[str, Any]) -> str:
    """The tables as plain text, one below the other, and what their signs mean."""
    return "\n\n".join([*map(plain_text, build_tables(results)), legend(results)])


def legend(results: Mapping[str, Any]) -> str:
    """What the signs in a table mean, of those that are in it."""
    study = read_study(results)
    used = {c.verdict for r in study.comparisons.values() for c in r.candidates}
    return "  ".join(f"{mark.sign} {verdict}" for verdict, mark in MARKS.items() if verdict in used)


def _column(label: str, study: StudyResults) -> list["Text"]:
    from rich.text import Text

    results = study.comparisons[label]
    decimals = study.decimals_of(results)
    cells = []
    for name in study.names:
        candidate = results.named(name)
        if candidate is None:
            cells.append(Text("–", style="dim"))
            continue
        mean = words.fixed(candidate.score.mean, decimals) if candidate.score else "–"
        weight = "bold " if name == results.recommended else ""
        style = weight + STYLES.get(candidate.verdict, "")
        cells.append(Text(f"{mean} {MARKS[candidate.verdict].sign}", style=style.strip()))
    return cells


def _figures(
    study: StudyResults, figures: Mapping[str, float], write: Callable[[float], str]
) -> list["Text"]:
    from rich.text import Text

    return [Text(write(figures[name]) if name in figures else "–") for name in study.names]


def _lines(columns: Mapping[str, Sequence["Text"]], room: int) -> list[list[str]]:
    """The heads of the columns, as many on a line as there is room for."""
    lines: list[list[str]] = [[]]
    left = room
    for head, cells in columns.items():
        wanted = _GAP + max(min(len(head), 14), *(len(cell) for cell in cells))
        if wanted > left and lines[-1]:
            lines.append([])
            left = room
        lines[-1].append(head)
        left -= wanted
    return lines


def _table(names: Sequence[str], columns: Mapping[str, Sequence["Text"]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    table.add_column("candidate", overflow="fold", max_width=_NAME)
    for head, cells in columns.items():
        wide = max(min(len(head), 14), *(len(cell) for cell in cells))
        table.add_column(Text(head), justify="right", overflow="fold", max_width=wide)
    for number, name in enumerate(names):
        table.add_row(Text(name), *(cells[number] for cells in columns.values()))
    return table
