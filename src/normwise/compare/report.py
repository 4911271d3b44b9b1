"""One comparison as one HTML file that needs nothing but itself.

No script, no font, no request: styles and plots are inside, so the file can be
mailed, archived beside the results, and read in ten years.
"""

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from normwise.compare import words
from normwise.compare.drawing import MARKS
from normwise.compare.outcome import COSTS, Candidate, Cost, Estimate, Outcome, read_outcome
from normwise.compare.plots import draw_plots


def render_report(results: Mapping[str, Any]) -> str:
    """The report of a results dictionary, as it is written to results.json, as HTML.

    The same results give the same text. Missing intervals, means, costs and
    curves leave gaps, not errors.

    Raises
        NormError  if the dictionary is not one of a comparison.
    """
    outcome = read_outcome(results)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("normwise.compare").joinpath("report.html.j2").read_text("utf-8")
    )
    return template.render(
        outcome=outcome,
        headline=_headline(outcome),
        chosen=outcome.named(outcome.recommended),
        summary=words.summary(outcome),
        rows=[_row(candidate, outcome) for candidate in outcome.candidates],
        costs=_shown_costs(outcome),
        plots=[(plot, Markup(plot.svg)) for plot in draw_plots(outcome)],
        marks=MARKS,
        trials=_trials(outcome),
        margin=f"{outcome.equivalent_within or 0:.2g}",
        counted=words.counted,
    )


def write_report(results: Mapping[str, Any], path: Path) -> None:
    """Write the report to `path`; a reader sees the old file or the new one, never half of it.

    Raises
        NormError  as `render_report`
        OSError    if the folder is missing or cannot be written to
    """
    text = render_report(results)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _headline(outcome: Outcome) -> tuple[str, str]:
    """What to do, as a verb and the name it is about."""
    if outcome.recommended is None:
        return "No recommendation", ""
    return ("Keep" if outcome.recommended == outcome.baseline else "Use"), outcome.recommended


def _trials(outcome: Outcome) -> str:
    """How many trials finished, and how many did not."""
    finished = sum(len(c.scores) for c in outcome.candidates)
    failed = sum(len(c.failures) for c in outcome.candidates)
    return f"{finished} finished" + (f", {failed} failed" if failed else "")


def _shown_costs(outcome: Outcome) -> list[Cost]:
    """Every cost that was measured for at least one candidate."""
    return [cost for cost in COSTS if any(cost.key in c.costs for c in outcome.candidates)]


def _row(candidate: Candidate, outcome: Outcome) -> dict[str, Any]:
    """The table's row: for each cell a figure, and beneath it smaller remarks."""
    total = len(candidate.scores) + len(candidate.failures)
    return {
        "candidate": candidate,
        "score": _estimate_cell(candidate.score, outcome),
        "difference": _estimate_cell(
            candidate.difference, outcome, signed=True, p_adjusted=candidate.p_adjusted
        ),
        "costs": [_cost_cell(candidate, cost, outcome) for cost in _shown_costs(outcome)],
        "trials": [f"{len(candidate.scores)} of {total}"],
    }


def _estimate_cell(
    estimate: Estimate | None,
    outcome: Outcome,
    *,
    signed: bool = False,
    p_adjusted: float | None = None,
) -> list[str]:
    """The mean, its interval, and the p value, as far as they are there."""
    if estimate is None:
        return []
    cell = [words.fixed(estimate.mean, outcome.decimals, signed=signed)]
    if estimate.interval:
        cell.append(words.interval(estimate, outcome.decimals, signed=signed))
    if p_adjusted is not None:
        cell.append("p < 0.001" if p_adjusted < 0.001 else f"p = {p_adjusted:.3f}")
    return cell


def _cost_cell(candidate: Candidate, cost: Cost, outcome: Outcome) -> list[str]:
    """The cost, and its ratio to the baseline's, as far as they are there."""
    own = candidate.costs.get(cost.key)
    if own is None:
        return []
    cell = [words.fixed(own, 0) if cost.whole else words.significant(own)]
    baseline = outcome.named(outcome.baseline)
    reference = baseline.costs.get(cost.key) if baseline and candidate != baseline else None
    return [*cell, f"× {own / reference:.2f}"] if reference else cell
