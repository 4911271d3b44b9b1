"""Tell spoken languages: which norm, if clips are of unequal length?

Clips become log-mel spectrograms, padded to the longest of a batch. A small convolutional
network hears the recorded frames alone: its norms mask the padding, and it averages over
what is left. Norms are compared on prompts that were not learned, and measured on
others that had no say. Then it is shown that a clip among others is heard as it is
alone, and what a network without masks makes of it.

Without --folder: short telephone prompts in five languages, which come with the package; one
of the two Italian voices is never learned from. The whole set is in Debian's packages, in
any folder, without installing anything:

    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-wav
    for package in asterisk-core-sounds-*.deb; do dpkg-deb -x $package prompts; done
    normwise recipe speech --skip --folder prompts/usr/share/asterisk/sounds

With --folder DIR: sound files of one's own in class folders, DIR/english/hello.wav (wav, flac,
ogg, opus; any rate). Where classes share names of files, no name is both learned and asked.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normwise.compare import Comparison, Task, compare
from normwise.compare.task.scoring import accuracy
from normwise.compare.trial import AS_IS
from normwise.data import VOICES, prompts
from normwise.errors import NormError
from normwise.layers import BatchNorm1d, lengths_to_mask, padding
from normwise.recipes.outcome import (
    Outcome,
    add_comparison_options,
    counted,
    summary,
    worded,
    write_figures,
)
from normwise.recipes.sounds.clips import Clip, parted, read_folder
from normwise.recipes.sounds.mel import LogMel

NORMS = ("none", "instance", "group:8", "layer", "rms")  # beside batch norm, which the network has
UNHEARD = ("it", "Menardi")  # of the prompts that ship
SHARES = (0.6, 0.2, 0.2)  # of the prompts: to learn, to choose a norm, to measure
STRIDES = 3
WIDTH = 64


class Recogniser(nn.Module):
    """Convolutions that halve the time, the mean over recorded frames, and a linear readout.

    Shapes
        x        (N, bands, T) float32
        lengths  (N,) int64, in frames; all T if left out
        out      (N, classes), one logit per class
    """

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (bands, *[WIDTH] * (STRIDES - 1)):
            convolution = nn.Conv1d(inputs, WIDTH, kernel_size=5, stride=2, padding=2)
            layers += [convolution, BatchNorm1d(WIDTH), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.readout = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        features = self.features(x)
        if lengths is None:
            mean = features.mean(-1)
        else:
            for _ in range(STRIDES):
                lengths = (lengths + 1) // 2
            recorded = lengths_to_mask(lengths, features.shape[-1])
            mean = (features * recorded[:, None]).sum(-1) / lengths[:, None]
        logits: Tensor = self.readout(mean)
        return logits


class Part(NamedTuple):
    """Clips as the network hears them: spectrograms (bands, T) of unequal T, and classes (N,)."""

    x: list[Tensor]
    y: Tensor

    def padded(self) -> tuple[Tensor, Tensor]:
        """The spectrograms as one array, 0 after each one's end, and their lengths."""
        x = nn.utils.rnn.pad_sequence([one.mT for one in self.x], batch_first=True)
        return x.mT.contiguous(), torch.tensor([one.shape[-1] for one in self.x])


def speech(
    folder: Path | None = None,
    unheard: Path | None = None,
    skip: bool = False,
    rate: int = 8000,
    seconds: float = 3.0,
    candidates: Sequence[str] | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    workers: int = 1,
    fresh: bool = False,
    out: Path = Path("runs/speech"),
    command: str = "speech(...)",
) -> Outcome:
    """Compare norms in a network that tells classes of sound.

    folder   class folders of sound files
    unheard  class folders, of the same names, of other speakers: measured, not learned
    skip     leave out files that hold no sound
    rate, seconds  what clips are resampled to, and how much of a longer one is heard
    candidates  norms to try in place of batch norm
    out      folder for speech.png, figures.json and the comparison

    Raises
        NormError  for folders that are not there, files that hold no sound, or too few of them.
    """
    if seconds <= 0 or rate < 1000:
        raise NormError(f"rate {rate} must be 1000 at least, and seconds {seconds:g} above 0")
    features = LogMel(rate)
    clips, others, left_out = _read(folder, unheard, rate, skip)
    classes = sorted({clip.folders[0] for clip in clips})
    unknown = sorted({clip.folders[0] for clip in others} - set(classes))
    if unknown:
        raise NormError(f"{unheard} has the class {unknown[0]!r}, which is not among {classes}")
    indices = parted(clips, [clip.folders[0] for clip in clips], SHARES)
    heard = [[clips[i].cut(seconds, rate) for i in some] for some in indices]
    if others:
        heard.append([clip.cut(seconds, rate) for clip in others])
    spectra = [[features(clip.wave) for clip in counted(some, "spectrograms")] for some in heard]
    learned = torch.cat(spectra[0], 1)
    mean, deviation = learned.mean(1, keepdim=True), learned.std(1, keepdim=True).clamp(min=0.01)
    train, valid, test, *rest = (
        Part([(x - mean) / deviation for x in every], _classes(some, classes))
        for every, some in zip(spectra, heard, strict=True)
    )
    task = Task(
        model=partial(Recogniser, features.bands, len(classes)),
        train=tuple(train),
        valid=tuple(valid),
        epochs=min(40, max(12, 12_000 // len(train.y))) if epochs is None else epochs,
        learning_rate=2e-3,
        schedule="cosine",
        device="cpu",
        name="speech",
    )
    compared = compare(
        task, NORMS if candidates is None else candidates, seeds=seeds, out=out / "compare",
        workers=workers, fresh=fresh, keep_models="all", race=False, command=command,
    )  # fmt: skip
    rows = [row for row in compared.results["candidates"] if not row["failed"]]
    asked = {"held out": test, **({"unheard": rest[0]} if rest else {})}
    measured = {row["name"]: _measured(compared, row, asked) for row in rows}
    best = compared.model()
    check = batched_and_alone(best, test)
    speed = latency(
        lambda x: best((x - mean)[None] / deviation), features, [clip.wave for clip in heard[2]]
    )
    confusion = _confusion(best, test, len(classes))
    figures = {
        "classes": classes,
        "clips": {"train": len(train.y), "valid": len(valid.y), "test": len(test.y),
                  "unheard": len(others), "left out": left_out},
        "accuracy": measured,
        "recommended": _called(compared.best),
        "batched and alone": check,
        "latency": speed,
        "confusion": confusion.tolist(),
    }  # fmt: skip
    picture = out / "speech.png"
    _draw(spectra[2], test.y, classes, confusion, compared, picture)
    ranked = sorted(rows, key=lambda row: measured[row["name"]]["held out"]["mean"], reverse=True)
    notes = [
        f"Accuracy over {len(classes)} classes on {len(test.y)} clips that had no say"
        + (f", and on {len(others)} of voices never heard" if rest else "")
        + f"; {seeds} seed{'s' * (seeds > 1)}"
        + (f"; {left_out} files without sound left out" if left_out else "")
        + f". Recommended by the validation part: {_called(compared.best)}.",
        f"A clip among others as alone: probabilities differ by {check['masked']:.0e} at most; "
        f"of the same network without masks by {check['unmasked']:.2g}, and "
        f"{check['unmasked decisions']} of {len(test.y)} clips are taken for something else.",
        f"One second of sound takes {1000 * speed['of a second']:.1f} ms on one thread, "
        f"{1000 * speed['of which spectrogram']:.1f} of them the spectrogram.",
        *([VOICES] if folder is None else []),
    ]
    return Outcome(
        figures,
        ("norm", *asked, "on validation"),
        [
            (
                _called(row["name"]),
                *(worded(measured[row["name"]][column]) for column in asked),
                row["verdict"],
            )
            for row in ranked
        ],
        notes=notes,
        files=[picture, compared.folder / "report.html", write_figures(figures, out)],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the recipe can be told on the command line."""
    parser.add_argument("--folder", type=Path, metavar="DIR", help="class folders of sound files")
    parser.add_argument(
        "--unheard", type=Path, metavar="DIR", help="the same of other voices, not learned from"
    )
    parser.add_argument("--skip", action="store_true", help="leave out files that hold no sound")
    parser.add_argument("--rate", type=int, default=8000, metavar="HZ", help="default: 8000")
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="heard of a clip; default: 3"
    )
    add_comparison_options(parser, seeds=3)


@torch.no_grad()
def batched_and_alone(model: nn.Module, part: Part) -> dict[str, float]:
    """How much the probabilities of padded clips differ from those of each clip alone.

    masked    the largest difference where the norms and the mean know the lengths
    unmasked  where they do not, as in a network of torch.nn
    unmasked decisions  how many clips are then taken for something else
    """
    x, lengths = part.padded()
    alone = torch.cat([model(one[None]) for one in part.x]).softmax(1)
    with padding(lengths):
        masked = model(x, lengths).softmax(1)
    unmasked = model(x).softmax(1)
    return {
        "masked": float((masked - alone).abs().max()),
        "unmasked": float((unmasked - alone).abs().max()),
        "unmasked decisions": int((unmasked.argmax(1) != alone.argmax(1)).sum()),
    }


@torch.no_grad()
def latency(
    network: Callable[[Tensor], Tensor], features: LogMel, waves: Sequence[Tensor]
) -> dict[str, float]:
    """Seconds for a second of sound, clip by clip on one thread: all, and its spectrogram."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network(features(waves[0]))  # the first pays for what is set up once
        times = [time.perf_counter()]
        spectra = [features(wave) for wave in waves]
        times.append(time.perf_counter())
        for x in spectra:
            network(x)
        times.append(time.perf_counter())
    finally:
        torch.set_num_threads(threads)
    duration_s = sum(map(len, waves)) / features.rate
    return {
        "of a second": (times[2] - times[0]) / duration_s,
        "of which spectrogram": (times[1] - times[0]) / duration_s,
    }


def _read(
    folder: Path | None, unheard: Path | None, rate: int, skip: bool
) -> tuple[list[Clip], list[Clip], int]:
    """What is learned, what other voices say, and how many files were left out."""
    clips, left_out = read_folder(prompts() if folder is None else folder, rate, skip=skip)
    if unheard is not None:
        others, more = read_folder(unheard, rate, skip=skip)
        return clips, others, left_out + more
    if folder is not None:
        return clips, [], left_out
    heard = [clip for clip in clips if clip.folders[:2] != UNHEARD]
    return heard, [clip for clip in clips if clip.folders[:2] == UNHEARD], left_out


def _classes(clips: Sequence[Clip], classes: Sequence[str]) -> Tensor:
    return torch.tensor([classes.index(clip.folders[0]) for clip in clips])


@torch.no_grad()
def _scores(model: nn.Module, part: Part) -> Tensor:
    x, lengths = part.padded()
    with padding(lengths):
        logits: Tensor = model(x, lengths)
    return logits


def _measured(compared: Comparison, row: dict[str, Any], asked: dict[str, Part]) -> dict[str, Any]:
    """The accuracy of a norm's models on every part that is asked for, over seeds."""
    models = [compared.model(row["name"], int(seed)) for seed in row["scores"]]
    return {
        name: summary([accuracy(_scores(model, part), part.y) for model in models])
        for name, part in asked.items()
    }


def _confusion(model: nn.Module, part: Part, classes: int) -> Tensor:
    """How often each class (rows) was taken for each (columns)."""
    pairs = part.y * classes + _scores(model, part).argmax(1)
    return pairs.bincount(minlength=classes**2).reshape(classes, classes)


def _called(name: str) -> str:
    return "batch" if name == AS_IS else name


def _draw(
    spectra: Sequence[Tensor],
    y: Tensor,
    classes: Sequence[str],
    confusion: Tensor,
    compared: Comparison,
    path: Path,
) -> None:
    """A clip of each of some classes; what was taken for what; accuracy by epoch."""
    from matplotlib.figure import Figure

    shown = range(min(len(classes), 5))
    figure = Figure(figsize=(9, 6), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 2))
    above, below = halves
    for panel, c in zip(above.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        mine = [x for x, label in zip(spectra, y, strict=True) if label == c]
        panel.imshow(mine[len(mine) // 2].numpy(), origin="lower", aspect="auto", cmap="magma")
        panel.set_title(classes[c], fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
    matrix, curves = below.subplots(1, 2)
    shares = confusion / confusion.sum(1, keepdim=True)
    matrix.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    matrix.set_xticks(ticks, classes, rotation=0 if max(map(len, classes)) < 6 else 90)
    matrix.set_yticks(ticks, classes)
    matrix.set_title(f"clips held out, {_called(compared.best)}", fontsize=10)
    matrix.set_xlabel("taken for")
    matrix.set_ylabel("spoken")
    for i in ticks if len(classes) <= 12 else ():
        for j in ticks:
            bright = bool(shares[i, j] > 0.5)
            matrix.text(j, i, int(confusion[i, j]), ha="center", va="center", fontsize=9,
                        color="white" if bright else "#555555")  # fmt: skip
    for row in compared.results["candidates"]:
        every = [[entry["score"] for entry in curve] for curve in row["curves"].values()]
        mean = torch.tensor([curve for curve in every if len(curve) == max(map(len, every))]).mean(
            0
        )
        curves.plot(range(1, len(mean) + 1), mean, label=_called(row["name"]))
    curves.set_xlabel("epoch")
    curves.set_title("accuracy on the validation part", fontsize=10)
    curves.set_ylim(0, 1.02)
    curves.grid(linewidth=0.4)
    curves.legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(path, dpi=110)
