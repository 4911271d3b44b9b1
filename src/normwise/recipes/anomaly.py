"""Find what is strange in a series: which norm before the detector?

A small network learns the windows of a part that is taken for normal. It draws
them again from a few numbers (--method reconstruction), or says what comes next
(forecast), and where it is wrong is strange. A row's score is its own squared
error in all windows that hold it (--score row), or the error of these windows
(--score window). What is above a quantile of the training part's scores is
flagged.

    reversible      mean and deviation of each window, taken off and put back
    …median-mad     median and median distance from it in their place
    batch, layer    standardised without a way back; none: as it is
    value, step     no network: squared distance from the training mean, and
                    from the row before

Beside the labelled anomalies, a level shift is put into a normal stretch: what
goes by each window's own level does not see it.

Without --csv, one of --series:

    water     flow in a pipeline, with failures (river); the usual one
    shuttle   nine sensors, rows in no order (river)
    ecg       MIT-BIH excerpt with one strange beat (sktime)
    yahoo     a trend with spikes, made up (sktime)
    ucr       number 135 of the archive, InternalBleeding16 (aeon)

river comes with "normwise[recipes]", from Python 3.11; the files of the others
with pip install --no-deps sktime==1.2.0 aeon==1.6.0.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from normwise.compare import Comparison, Task, Windows, compare
from normwise.compare.trial import AS_IS
from normwise.errors import NormError
from normwise.recipes.outcome import (
    Outcome,
    add_comparison_options,
    counted,
    summary,
    write_figures,
)
from normwise.recipes.series.alarms import (
    Alarms,
    Scorer,
    distance_from_mean,
    distance_from_the_row_before,
    score_rows,
    write_scores,
)
from normwise.recipes.series.drawing import draw
from normwise.recipes.series.labelled import SERIES, Labelled, read
from normwise.recipes.series.networks import (
    ROBUST,
    forecaster,
    models,
    predictions,
    reconstructor,
    reversible_called,
)

METHODS = ("reconstruction", "forecast")
SCORES = ("row", "window")
SHIFT_WINDOWS = 4  # windows that a level shift is long
BASELINES = {"value": distance_from_mean, "step": distance_from_the_row_before}
_COLUMNS = {"roc_auc": "ROC AUC", "f1": "F1", "range_f1": "range F1", "affiliation_f1": "affil. F1"}
_SHORT = {AS_IS: "reversible", ROBUST: "…median-mad"}  # in the table


def anomaly(
    series: str = "water",
    csv: Path | None = None,
    time: str | None = None,
    target: Sequence[str] | None = None,
    label: str | None = None,
    fill: bool = False,
    train: str | None = None,
    method: str = "reconstruction",
    window: int | None = None,
    code: int | None = None,
    score: str | None = None,
    quantile: float = 0.995,
    shift: float = 2.0,
    candidates: Sequence[str] | None = None,
    seeds: int = 5,
    epochs: int | None = None,
    workers: int = 1,
    fresh: bool = False,
    out: Path = Path("runs/anomaly"),
    command: str = "anomaly(...)",
) -> Outcome:
    """Compare norms before a detector of anomalies.

    series    a known one, by name; csv, time, target, label, fill: or a file, its column of
              times, if it has one, the columns to look at (all others), the column that is 1
              for anomalies, if it has one, and whether gaps get the value before them
    train     what is learned: a share or number of rows from the start, or rows as "380:840"
    method    "reconstruction" or "forecast"
    window    steps that are seen at once; code: numbers that a window is squeezed to
    score     "row": a row's own error; "window": that of the windows that hold it
    quantile  of the training part's scores that is the threshold
    shift     size of the level shift, in standard deviations of the training part
    out       folder for pictures, scores.csv, figures.json and the comparison

    Raises
        NormError  for a file that cannot be read as numbers at equal steps, labels that are
                   not 0 and 1 or of one class only, or a series too short for its windows.
    """
    if method not in METHODS:
        raise NormError(f"method {method!r} is not known; write one of {', '.join(METHODS)}")
    if score not in (None, *SCORES):
        raise NormError(f"score {score!r} is not known; write one of {', '.join(SCORES)}")
    if not 0 < quantile < 1:
        raise NormError(f"quantile={quantile:g} must lie between 0 and 1")
    data = read(series, csv, time, target, label, fill, train)
    history = window or (64 if csv else SERIES[series].window)
    score = score or ("row" if csv else SERIES[series].score)
    horizon = 0 if method == "reconstruction" else 1
    compared = _compare(
        data, method, history, horizon, code, epochs, candidates, seeds=seeds,
        out=out / f"compare-{data.name}-{method}", workers=workers, fresh=fresh, command=command,
    )  # fmt: skip
    detectors = _detectors(compared, history, horizon, score == "window")
    shifted = data.shifted(shift, SHIFT_WINDOWS * history)
    views = {"anomaly": data, **({"shift": shifted} if shifted else {})}
    alarms = {
        view: {
            name: [
                Alarms.of(reversible_called(name), scorer, seen, quantile)
                for scorer in counted(scorers, reversible_called(name))
            ]
            for name, scorers in detectors.items()
        }
        for view, seen in views.items()
    }
    found = {
        name: {
            "threshold": summary([one.threshold for one in alarms["anomaly"][name]]),
            "flagged": summary([one.flagged_share(data) for one in alarms["anomaly"][name]]),
            **{view: _measures(alarms[view][name], seen) for view, seen in views.items()},
        }
        for name in detectors
    }
    judged = "anomaly" if data.anomalous is not None else "shift"
    ranked = _ranked(found, judged)
    for view, seen in views.items():
        order = _shown_first(found, judged if view == "anomaly" else view)
        draw(seen, [alarms[view][name][0] for name in order], out / f"{view}.png")
    figures = {
        "series": {"name": data.name, "file": csv and str(csv), "rows": len(data.series)},
        "method": method,
        "window": history,
        "score": score,
        "trained_on": [data.train.start, data.train.stop],
        "anomalies": data.counts(),
        "level_shift": {"size": shift, **((shifted and shifted.counts()) or {"tested": 0})},
        "detectors": found,
    }
    columns, rows = _table(found, ranked, judged)
    scores = write_scores(data, [alarms["anomaly"][name][0] for name in ranked], out / "scores.csv")
    return Outcome(
        figures,
        columns,
        rows,
        notes=_notes(figures, reversible_called(compared.best), quantile, seeds),
        files=[
            *(out / f"{view}.png" for view in views),
            scores,
            compared.folder / "report.html",
            write_figures(figures, out),
        ],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the recipe can be told on the command line."""
    parser.add_argument("--series", choices=SERIES, default="water", help="default: water")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="with a header, in its place")
    parser.add_argument("--time", metavar="COLUMN", help="default: rows are at equal steps")
    parser.add_argument(
        "--target", type=lambda text: text.split(","), metavar="A,B,…", help="columns; default: all"
    )
    parser.add_argument("--label", metavar="COLUMN", help="1 where anomalous, 0 elsewhere")
    parser.add_argument("--fill", action="store_true", help="gaps get the value before them")
    parser.add_argument(
        "--train", metavar="PART", help="0.4, 1200 or 380:840, share or rows; default: 0.4"
    )
    parser.add_argument(
        "--method", choices=METHODS, default="reconstruction", help="what is learned"
    )
    parser.add_argument("--window", type=int, metavar="T", help="steps; default: 64")
    parser.add_argument("--code", type=int, metavar="K", help="numbers it is squeezed to")
    parser.add_argument(
        "--score", choices=SCORES, help="error of the row, or of its windows; default: row"
    )
    parser.add_argument(
        "--quantile", type=float, default=0.995, metavar="Q", help="threshold; default: 0.995"
    )
    parser.add_argument(
        "--shift", type=float, default=2.0, metavar="S", help="level shift; default: 2"
    )
    add_comparison_options(parser, seeds=5)


def _compare(
    data: Labelled, method: str, history: int, horizon: int, code: int | None,
    epochs: int | None, candidates: Sequence[str] | None, **options: Any,
) -> Comparison:  # fmt: skip
    """Train every norm on the training part, whose last fifth says how well it is learned."""
    channels = len(data.series.names)
    learned = Windows(data.training, history, horizon)
    if method == "reconstruction":
        squeezed = code or min(16, max(2, channels * history // 32))
        model, rate = partial(reconstructor, channels, history, squeezed), 2e-3
    else:
        model, rate = partial(forecaster, "mlp", channels, history, horizon), 1e-3
    windows = len(learned.arrays()[0])
    task = Task(
        model=model,
        train=learned,
        valid=0.2,
        loss="mse",
        metric="mse",
        epochs=max(4, 20_000 // windows) if epochs is None else epochs,
        learning_rate=rate,
        schedule="cosine",
        where="norm",
        name=f"anomaly-{data.name}-{method}",
    )
    if candidates is None:  # one channel has nothing to be normalized over but itself
        candidates = ["none", "batch", *(["layer"] if channels > 1 else []), ROBUST]
    # No race: who forecasts best has not found most, so every norm gets all seeds.
    compared: Comparison = compare(task, candidates, keep_models="all", race=False, **options)
    return compared


def _detectors(
    compared: Comparison, history: int, horizon: int, whole: bool
) -> dict[str, list[Scorer]]:
    """What scores a series: the models of every norm, and two that learn nothing."""

    def scorer(model: nn.Module) -> Scorer:
        predict = partial(predictions, model)
        return lambda series: score_rows(predict, series, history, horizon, whole)

    found: dict[str, list[Scorer]] = {
        row["name"]: [scorer(model) for model in models(compared, row["name"])]
        for row in compared.results["candidates"]
        if not row["failed"]
    }
    return found | {name: [scores] for name, scores in BASELINES.items()}


def _measures(alarms: Sequence[Alarms], data: Labelled) -> dict[str, Any]:
    """Every measure, summarized over seeds."""
    each = [one.measures(data) for one in alarms]
    return {measure: summary([found[measure] for found in each]) for measure in each[0]}


def _ranked(found: Mapping[str, Any], view: str) -> list[str]:
    """By average precision, the best first."""

    def mean(name: str) -> float:
        measures = found[name].get(view)
        return float(measures["average_precision"]["mean"]) if measures else 0.0

    return sorted(found, key=mean, reverse=True)


def _shown_first(found: Mapping[str, Any], view: str) -> list[str]:
    """The best and the worst of the norms, then all others."""
    ranked = _ranked(found, view)
    norms = [name for name in ranked if name not in BASELINES]
    return list(dict.fromkeys([norms[0], norms[-1], *ranked]))


def _table(
    found: Mapping[str, Any], ranked: Sequence[str], judged: str
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Headings and rows: the labelled anomalies, where there are some, and the level shift."""

    def cells(name: str) -> list[str]:
        of = found[name]
        shift = _share(of["shift"]["average_precision"]) if of.get("shift") else "–"
        if judged == "shift":
            return [f"{100 * of['flagged']['mean']:.2f} %", shift]
        if not of["anomaly"]:
            return ["–"] * (len(_COLUMNS) + 1) + [shift]
        means = [f"{of['anomaly'][measure]['mean']:.3f}" for measure in _COLUMNS]
        return [means[0], _share(of["anomaly"]["average_precision"]), *means[1:], shift]

    headings = list(_COLUMNS.values())
    first = ["flagged"] if judged == "shift" else [headings[0], "PR AUC", *headings[1:]]
    columns = ["norm", *first, "PR AUC, shift"]
    return columns, [(_SHORT.get(name, name), *cells(name)) for name in ranked]


def _share(summarized: Mapping[str, Any]) -> str:
    """A share with three decimals and half its interval: 0.766 ±0.026."""
    mean, interval = summarized["mean"], summarized["interval"]
    return f"{mean:.3f}" + (f" ±{interval[1] - mean:.3f}" if interval else "")


def _notes(figures: Mapping[str, Any], best: str, quantile: float, seeds: int) -> list[str]:
    start, stop = figures["trained_on"]
    counts, shift = figures["anomalies"], figures["level_shift"]
    notes = [
        f"{figures['series']['name']}, {figures['method']}, windows of {figures['window']}, "
        f"score of the {figures['score']}; rows "
        f"{start} to {stop - 1} of {figures['series']['rows']} are learned, the others tested; "
        f"{seeds} seed{'s' * (seeds > 1)}. Threshold: {100 * quantile:g} % quantile of the "
        "training part's scores."
    ]
    if counts is not None:
        share = counts["tested"] / (figures["series"]["rows"] - (stop - start))
        notes.append(
            f"{counts['tested']} tested rows are labelled anomalies, in {counts['stretches']} "
            f"stretch{'es' * (counts['stretches'] > 1)}; a score drawn by lot has PR AUC "
            f"{share:.3f}."
        )
        if counts["training"]:
            notes.append(
                f"The training part holds {counts['training']} rows that are labelled anomalies; "
                "they are learned as normal."
            )
    if shift["tested"]:
        notes.append(
            f"Shift: {shift['tested']} normal rows, raised by {shift['size']:g} standard "
            "deviations."
        )
    else:
        notes.append("No normal stretch is left to put a level shift into.")
    notes.append(f"Best at the held-out end of the training part: {best}.")
    return notes
