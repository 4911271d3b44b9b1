"""A result as a few lines of HTML for a notebook: the answer and the table, not the whole page."""

from dataclasses import dataclass

from normwise.compare.report import words
from normwise.compare.report.page import headline, render
from normwise.compare.report.reading import Candidate, Estimate, Results
from normwise.compare.report.study import words as study_words
from normwise.compare.report.study.reading import StudyResults


@dataclass(frozen=True)
class Cell:
    """A figure, in the colour and with the sign of a verdict where it has one."""

    text: str
    verdict: str = ""


def comparison_card(results: Results) -> str:
    """The recommendation, and a row for each candidate."""
    head = ["verdict", f"mean {results.metric}", f"minus {results.baseline}", "seeds"]
    rows = [
        (candidate.name, _cells(candidate, results), candidate.name == results.recommended)
        for candidate in results.candidates
    ]
    said = headline(results)
    return render("card.html.j2", [], said=said, why=results.why, head=head, rows=rows)


def study_card(study: StudyResults) -> str:
    """What is recommended where, and a row for each candidate."""
    advice = study_words.advice(study)
    rows = [
        (
            name,
            [_study_cell(name, results, study) for results in study.comparisons.values()],
            False,
        )
        for name in study.names
    ]
    head = list(study.comparisons)
    said = study_words.headline(study)
    return render("card.html.j2", [], said=said, why=advice, head=head, rows=rows)


def _cells(candidate: Candidate, results: Results) -> list[Cell]:
    return [
        Cell(candidate.verdict, candidate.verdict),
        _estimate(candidate.score, results.decimals, signed=False),
        _estimate(candidate.difference, results.decimals, signed=True),
        Cell(str(len(candidate.scores))),
    ]


def _estimate(estimate: Estimate | None, decimals: int, *, signed: bool) -> Cell:
    if estimate is None:
        return Cell("–")
    mean = words.fixed(estimate.mean, decimals, signed=signed)
    span = words.interval(estimate, decimals, signed=signed)
    return Cell(f"{mean} ({span})" if span else mean)


def _study_cell(name: str, results: Results, study: StudyResults) -> Cell:
    candidate = results.named(name)
    if candidate is None:
        return Cell("–")
    if candidate.score is None:
        return Cell("", candidate.verdict)
    return Cell(words.fixed(candidate.score.mean, study.decimals_of(results)), candidate.verdict)
