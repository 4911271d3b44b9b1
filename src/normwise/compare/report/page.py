"""A comparison or a study as one HTML file that needs nothing but itself.

No script, no font, no request: styles and plots are inside, so the file can be
mailed, archived beside the results, and read in ten years.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from normwise.compare.report import words
from normwise.compare.report.drawing import DARK, LIGHT, MARKS, Plot
from normwise.compare.report.plain import plain_words
from normwise.compare.report.plots import draw_plots
from normwise.compare.report.reading import COSTS, Candidate, Cost, Estimate, Results, read_results


def render_report(results: Mapping[str, Any]) -> str:
    """The report of a results dictionary, as it is written to results.json, as HTML.

    The same results give the same text. Missing intervals, means, costs and
    curves leave gaps, not errors.

    Raises
        NormError  if the dictionary is not one of a comparison.
    """
    read = read_results(results)
    return render(
        "comparison.html.j2",
        draw_plots(read),
        results=read,
        headline=headline(read),
        chosen=read.named(read.recommended),
        summary=words.summary(read),
        plain=plain_words(read),
        rows=[_row(candidate, read) for candidate in read.candidates],
        best_known=any(c.probability_best is not None for c in read.candidates),
        costs=_shown_costs(read),
        errors=words.error_rates(read),
        history=_history(read),
        saved=words.race_saving(read),
        lost=_lost(read),
        trials=_trials(read),
        margin=f"{read.equivalent_within or 0:.2g}",
    )


def write_report(results: Mapping[str, Any], path: Path) -> None:
    """Write the report to `path`; a reader sees the old file or the new one, never half of it.

    Raises
        NormError  as `render_report`
        OSError    if the folder is missing or cannot be written to
    """
    write_page(render_report(results), path)


def render(template: str, plots: Sequence[Plot], **values: Any) -> str:
    """A template of this folder with everything that all of them use."""
    environment = Environment(
        loader=PackageLoader("normwise.compare.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = {"light": LIGHT, "dark": DARK, "marks": MARKS, "counted": words.counted}
    drawn = [(plot, Markup(plot.svg())) for plot in plots]
    return environment.get_template(template).render(**shared, plots=drawn, **values)


def write_page(text: str, path: Path) -> None:
    """Replace the file at `path` by this text, all at once."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def headline(results: Results) -> tuple[str, str]:
    """What to do, as a verb and the name it is about."""
    if results.recommended is None:
        return "No recommendation", ""
    return ("Keep" if results.recommended == results.baseline else "Use"), results.recommended


def _trials(results: Results) -> str:
    """How many trials finished, and how many did not."""
    counts = {
        "finished": sum(len(c.scores) for c in results.candidates),
        "stopped early": sum(len(c.stopped) for c in results.candidates),
        "failed": sum(len(c.failures) for c in results.candidates),
    }
    return ", ".join(f"{n} {how}" for how, n in counts.items() if n or how == "finished")


def _history(results: Results) -> list[dict[str, Any]]:
    """Where each candidate's race ended, the longest first."""
    rows = []
    for candidate in results.compared:
        for look in results.race.of(candidate.name)[-1:] if results.race else ():
            row = {"name": candidate.name, "state": look.state, "seeds": look.seeds}
            cell = _estimate_cell(look.difference, results, signed=True)
            rows.append({**row, "difference": cell, "why": look.why})
    return sorted(rows, key=lambda row: -row["seeds"])


def _lost(results: Results) -> list[tuple[str, str, str, str]]:
    """Trials that failed, were stopped for their learning curve, or lost a worker."""
    failed = [(c.name, f.seed, "failed", f.reason) for c in results.candidates for f in c.failures]
    stopped = [
        (c.name, seed, "stopped", words.stop_reason(epoch))
        for c in results.candidates
        for seed, epoch in c.stopped.items()
    ]
    retried = [
        (c.name, seed, "tried again", "; ".join(why))
        for c in results.candidates
        for seed, why in c.retried.items()
        if seed in c.scores
    ]
    return failed + stopped + retried


def _shown_costs(results: Results) -> list[Cost]:
    """Every cost that was measured for at least one candidate."""
    return [cost for cost in COSTS if any(cost.key in c.costs for c in results.candidates)]


def _row(candidate: Candidate, results: Results) -> dict[str, Any]:
    """The table's row: for each cell a figure, and beneath it smaller remarks."""
    best = candidate.probability_best
    return {
        "candidate": candidate,
        "score": _estimate_cell(candidate.score, results),
        "difference": _difference_cell(candidate, results),
        "best": [] if best is None else [words.share(best)],
        "costs": [_cost_cell(candidate, cost, results) for cost in _shown_costs(results)],
        "trials": _trials_cell(candidate),
    }


def _estimate_cell(
    estimate: Estimate | None, results: Results, *, signed: bool = False
) -> list[str]:
    """The mean and its interval, as far as they are there."""
    if estimate is None:
        return []
    cell = [words.fixed(estimate.mean, results.decimals, signed=signed)]
    if estimate.interval:
        cell.append(words.interval(estimate, results.decimals, signed=signed))
    return cell


def _difference_cell(candidate: Candidate, results: Results) -> list[str]:
    """The paired difference, its p value, and its size in units of the seeds' noise."""
    cell = _estimate_cell(candidate.difference, results, signed=True)
    p, effect = candidate.p_adjusted, candidate.effect
    remarks = []
    if p is not None:
        remarks.append("p < 0.001" if p < 0.001 else f"p = {p:.3f}")
    if effect is not None:
        remarks.append(f"effect {words.fixed(effect, 1, signed=True)}")
    return [*cell, ", ".join(remarks)] if cell and remarks else cell


def _trials_cell(candidate: Candidate) -> list[str]:
    """How many of its trials finished; where the others went is said below."""
    total = len(candidate.scores) + len(candidate.failures) + len(candidate.stopped)
    cell = [f"{len(candidate.scores)} of {total}"]
    if candidate.stopped:
        cell.append(f"{len(candidate.stopped)} stopped early")
    return cell


def _cost_cell(candidate: Candidate, cost: Cost, results: Results) -> list[str]:
    """The cost, its ratio to the baseline's, and the compiled one, as far as they are there."""
    own = candidate.costs.get(cost.key)
    if own is None:
        return []
    cell = [words.fixed(own, 0) if cost.whole else words.significant(own)]
    baseline = results.named(results.baseline)
    reference = baseline.costs.get(cost.key) if baseline and candidate != baseline else None
    if reference:
        cell.append(f"× {own / reference:.2f}")
    if cost.compiled in candidate.costs:
        cell.append(f"compiled {words.significant(candidate.costs[cost.compiled])}")
    return cell
