"""Forecast a series that drifts: which norm before the forecaster?

Every window of a series is normalized, a small network forecasts the next steps of
each channel all at once, and a reversible norm puts level and scale back. The norms are
compared on a part of the series that comes after the one they are trained on, and are
then measured on the last part, which had no say.

    reversible      mean and standard deviation of the window, taken off and put back (RevIN)
    …median-mad     median and median distance from it in their place
    batch, layer    standardised without a way back; none: as it is

Without --csv: the temperature of the sea off Maine, every three hours of a year, from
bokeh-sampledata. The literature's ETTh1.csv and ETTh2.csv are in the folder ETT-small of
github.com/zhouhaoyi/ETDataset (CC BY-ND 4.0); they are forecast by
--csv ETTh2.csv --split 8640,2880,2880.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from normwise.compare import Task, Windows, compare
from normwise.compare.trial import AS_IS
from normwise.data import Series, packaged, read_series
from normwise.errors import NormError
from normwise.recipes.outcome import (
    Outcome,
    add_comparison_options,
    summary,
    worded,
    write_figures,
)
from normwise.recipes.series.networks import (
    FORECASTERS,
    ROBUST,
    forecaster,
    models,
    predictions,
    reversible_called,
)

LAST = "last value"  # the forecast that any other has to beat
SPLIT = (0.7, 0.1, 0.2)
_SHOWN = (AS_IS, "none")  # in the picture
_COLOURS = ("#1b6ca8", "#d1495b")
_SEA = "_data/sea_surface_temperature.csv.gz"


def forecast(
    csv: Path | None = None,
    time: str | None = None,
    target: Sequence[str] | None = None,
    fill: bool = False,
    history: int = 96,
    horizon: int = 96,
    split: Sequence[float] = SPLIT,
    backbone: str = "linear",
    candidates: Sequence[str] | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    workers: int = 1,
    fresh: bool = False,
    out: Path = Path("runs/forecast"),
    command: str = "forecast(...)",
) -> Outcome:
    """Compare norms before a forecaster on the series of a CSV file.

    csv, time, target, fill  the file, its column of times (the first, if left out), the
              columns to forecast (all others), whether gaps get the value before them
    history, horizon  steps that are seen, and steps ahead that are forecast
    split     training, validation and test part, as `Series.split` takes them
    backbone  "linear", "mlp" or "patch"
    candidates  norms to try beside the reversible one, and none
    out       folder for forecast.png, figures.json and the comparison

    Raises
        NormError  for a file that cannot be read as equal steps of numbers, or too short.
    """
    if backbone not in FORECASTERS:
        raise NormError(
            f"backbone {backbone!r} is not known; write one of {', '.join(FORECASTERS)}"
        )
    if len(split) != 3:
        raise NormError(f"the split needs three parts, as 0.7,0.1,0.2; received {len(split)}")
    series = _read(csv, time, target, fill)
    parts = _parts(series, history, horizon, split)
    _, rate, usual = FORECASTERS[backbone]
    channels = len(series.names)
    task = Task(
        model=partial(forecaster, backbone, channels, history, horizon),
        train=parts["train"],
        valid=parts["valid"],
        loss="mse",
        metric="mse",
        epochs=usual if epochs is None else epochs,
        learning_rate=rate,
        schedule="cosine",
        where="norm",
        name=f"forecast-{backbone}",
    )
    if candidates is None:  # one channel has nothing to be normalized over but itself
        candidates = ["none", "batch", *(["layer"] if channels > 1 else []), ROBUST]
    compared = compare(
        task, candidates, seeds=seeds, out=out / "compare", workers=workers, fresh=fresh,
        keep_models="all", command=command,
    )  # fmt: skip
    x, y = parts["test"]
    forecasts = {
        row["name"]: [predictions(model, x) for model in models(compared, row["name"])]
        for row in compared.results["candidates"]
        if not row["failed"]
    }
    errors = {name: _errors(ahead, y) for name, ahead in forecasts.items()}
    errors[LAST] = _errors([x[..., -1:].expand_as(y)], y)
    figures = {
        "series": {"file": str(csv or "sea surface temperature"), "rows": len(series)},
        "windows": {name: len(x) for name, (x, _) in parts.items()},
        "backbone": backbone,
        "test": errors,
    }
    picture = out / "forecast.png"
    shown = {
        reversible_called(name): ahead[0] for name, ahead in forecasts.items() if name in _SHOWN
    }
    _draw(series, split, x, y, shown, picture)
    ran = len(compared.results["seeds"])  # a race may need fewer than it was given
    verdicts = {row["name"]: row["verdict"] for row in compared.results["candidates"]}
    ranked = sorted(errors, key=lambda name: errors[name]["mse"]["mean"])
    return Outcome(
        figures,
        ("norm", "test MSE", "test MAE", "on validation"),
        [
            (
                reversible_called(name),
                *(worded(errors[name][measure]) for measure in ("mse", "mae")),
                "" if name == LAST else verdicts[name],
            )
            for name in ranked
        ],
        notes=[
            f"{backbone}, {history} steps → {horizon}, {channels} channel"
            f"{'s' * (channels > 1)}, {len(x)} test windows, {ran} seed"
            f"{'s' * (ran > 1)}; errors in standard deviations of the training part.",
            f"Recommended by the validation part: {reversible_called(compared.best)}.",
        ],
        files=[picture, compared.folder / "report.html", write_figures(figures, out)],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the recipe can be told on the command line."""
    parser.add_argument("--csv", type=Path, metavar="FILE", help="with a header and a time column")
    parser.add_argument("--time", metavar="COLUMN", help="default: the first column")
    parser.add_argument(
        "--target", type=lambda text: text.split(","), metavar="A,B,…", help="columns; default: all"
    )
    parser.add_argument("--fill", action="store_true", help="gaps get the value before them")
    parser.add_argument(
        "--input", dest="history", type=int, default=96, metavar="T", help="steps that are seen"
    )
    parser.add_argument("--horizon", type=int, default=96, metavar="T", help="steps ahead")
    parser.add_argument(
        "--split",
        type=lambda text: [float(part) for part in text.split(",")],
        default=SPLIT,
        metavar="A,B,C",
        help="shares or rows for training, validation, test; default: 0.7,0.1,0.2",
    )
    parser.add_argument("--backbone", choices=FORECASTERS, default="linear", help="what forecasts")
    add_comparison_options(parser, seeds=3)


def _read(csv: Path | None, time: str | None, target: Sequence[str] | None, fill: bool) -> Series:
    if csv is None:
        sea = packaged("bokeh_sampledata", _SEA, 'pip install "normwise[recipes]", or give --csv')
        return read_series(sea, "time (UTC)", fill=True).averaged(6)  # it is half-hourly
    return read_series(csv, 0 if time is None else time, target, fill=fill)


def _parts(
    series: Series, history: int, horizon: int, split: Sequence[float]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Windows of each part, whose forecasts lie in it; what they are forecast from may not."""
    train, valid, test = series.split(split)
    series = series.standardized(by=train)
    parts, start = {}, 0
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        seen = max(0, start - history)
        parts[name] = Windows(series.part(seen, start + len(part)), history, horizon).arrays()
        start += len(part)
    return parts


def _errors(forecasts: Sequence[Tensor], y: Tensor) -> dict[str, Any]:
    errors = [(ahead - y).double() for ahead in forecasts]
    return {
        "mse": summary([float(error.square().mean()) for error in errors]),
        "mae": summary([float(error.abs().mean()) for error in errors]),
    }


def _draw(
    series: Series,
    split: Sequence[float],
    x: Tensor,
    y: Tensor,
    forecasts: dict[str, Tensor],
    path: Path,
) -> None:
    """The whole series with its parts, and two windows of the test part: the median, the worst.

    A window is one channel's; which is the median and which the worst is by the first forecast.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    whole, *panels = figure.subplot_mosaic([["whole", "whole"], ["median", "worst"]]).values()
    _draw_whole(whole, series, split)
    error = (next(iter(forecasts.values())) - y).square().mean(-1)
    order = error.flatten().argsort()
    for panel, title, place in (
        (panels[0], "median window", int(order[len(order) // 2])),
        (panels[1], "worst window", int(order[-1])),
    ):
        n, c = divmod(place, y.shape[1])
        ahead = range(y.shape[2])
        panel.plot(range(-x.shape[2], 0), x[n, c], color="#555555", label="seen")
        panel.plot(ahead, y[n, c], color="black", label="what came")
        for (name, forecast), colour in zip(forecasts.items(), _COLOURS, strict=False):
            panel.plot(ahead, forecast[n, c], color=colour, label=name)
        panel.axvline(0, color="#bbbbbb", linewidth=0.8)
        panel.set_title(f"{title}: {series.names[c]}, MSE {error[n, c]:.2f}", fontsize=10)
        panel.set_xlabel("steps ahead")
    panels[0].set_ylabel("standard deviations")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  frameon=False)  # fmt: skip
    figure.savefig(path, dpi=110)


def _draw_whole(panel: Any, series: Series, split: Sequence[float]) -> None:
    train, valid, test = series.split(split)
    for values, name in zip(series.standardized(by=train).values, series.names, strict=True):
        panel.plot(series.clock(), values, linewidth=0.5, label=name)
    clock, start = series.clock(), 0
    for part, name in ((train, "training"), (valid, "validation"), (test, "test")):
        end = start + len(part)
        panel.axvspan(clock[start], clock[end - 1], color="#f1f1f1" if name != "validation" else
                      "#dddddd", zorder=0)  # fmt: skip
        panel.annotate(name, (clock[start], 1.02), xycoords=("data", "axes fraction"), fontsize=9)
        start = end
    if len(series.names) > 1:
        panel.legend(fontsize=7, ncols=7, loc="lower left")
    panel.set_ylabel("standard deviations")
    panel.margins(x=0)
