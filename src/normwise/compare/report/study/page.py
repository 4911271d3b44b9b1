"""A study as one HTML file, like that of a comparison; it links to theirs, beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from normwise.compare.report import words
from normwise.compare.report.drawing import Plot
from normwise.compare.report.page import render, write_page
from normwise.compare.report.reading import Results
from normwise.compare.report.study import words as said
from normwise.compare.report.study.panels import differences
from normwise.compare.report.study.ranks import critical_differences
from normwise.compare.report.study.reading import StudyResults, read_study
from normwise.compare.report.study.sweep import sweep


def render_study(results: Mapping[str, Any]) -> str:
    """The page of a study's results dictionary, as it is written to results.json.

    Raises
        NormError  if the dictionary is not one of a study.
    """
    study = read_study(results)
    return render(
        "study.html.j2",
        draw_study(study),
        study=study,
        question=said.question(study),
        headline=said.headline(study),
        advice=said.advice(study),
        summary=said.summary(study),
        plain=said.plain_words(study),
        links={label: f"{quote(folder)}/report.html" for label, folder in study.folders.items()},
        rows=[_row(name, study) for name in study.names],
        advised={label: r.recommended for label, r in study.comparisons.items()},
        settings=_settings(study),
    )


def write_study(results: Mapping[str, Any], path: Path) -> None:
    """Write the page to `path`; a reader sees the old file or the new one, never half of it."""
    write_page(render_study(results), path)


def draw_study(study: StudyResults) -> list[Plot]:
    """All plots for which there is something to draw."""
    plots = [sweep(study), critical_differences(study), differences(study)]
    return [plot for plot in plots if plot]


def _row(name: str, study: StudyResults) -> dict[str, Any]:
    """A candidate's cells by label, its mean rank, its sensitivity, as far as they are there."""
    sensitivity = study.sensitivity.get(name)
    return {
        "name": name,
        "cells": {
            label: _cell(name, results, study.decimals_of(results))
            for label, results in study.comparisons.items()
        },
        "rank": words.fixed(study.ranks[name], 2) if name in study.ranks else "",
        "sensitivity": "" if sensitivity is None else words.significant(sensitivity, 2),
    }


def _cell(name: str, results: Results, decimals: int) -> dict[str, Any] | None:
    """One candidate in one comparison; None where it took no part."""
    candidate = results.named(name)
    if candidate is None:
        return None
    figures = []
    if candidate.score:
        figures.append(words.fixed(candidate.score.mean, decimals))
        if candidate.score.interval:
            half = (candidate.score.interval[1] - candidate.score.interval[0]) / 2
            figures.append(f"± {words.fixed(half, decimals)}")
    return {"verdict": candidate.verdict, "figures": figures}


def _settings(study: StudyResults) -> dict[str, list[str]]:
    """The settings in which the comparisons differ, each with its value in every one."""
    own = [{"metric": r.metric, **r.settings, **r.versions} for r in study.comparisons.values()]
    keys = dict.fromkeys(key for settings in own for key in settings)
    table = {key: [settings.get(key, "–") for settings in own] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}
