"""Say it in another voice: does instance norm take the speaker away?

An autoencoder of log-mel spectrograms is to say a clip again, and hears the voice from another
clip of the same speaker. Its content encoder has instance norm, and, to compare, other
norms or none; its decoder takes the voice on by adaptive instance norm. Measured are
how well clips are said again, whether a listener that learns from the codes alone can tell
who speaks (chance: one over the speakers), and conversion: what one speaker says with
the voice of another, whom a listener to real clips takes it for, and how much of what
is said is kept. All on sentences that were not learned.

Without --folder: telephone prompts by five voices, which come with the package. Two of them say
the same in Italian, so that the language does not tell them apart. With --folder DIR: sound
files in speakers' folders, DIR/anna/hello.wav. With --source A.wav --target B.wav: what is
said in A, with the voice of B, as converted-….wav.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.compare import Comparison, Task, compare
from normwise.compare.trial import AS_IS
from normwise.data import VOICES, prompts
from normwise.errors import NormError
from normwise.recipes.outcome import (
    Outcome,
    add_comparison_options,
    counted,
    summary,
    worded,
    write_figures,
)
from normwise.recipes.sounds.clips import Clip, parted, read_folder, read_sound, write_sound
from normwise.recipes.sounds.converter import Converter, Listener, recognised, taught
from normwise.recipes.sounds.mel import LogMel

NORMS = ("none", "batch")  # beside instance norm, which the content encoder has
PAIR = ("Carlo", "Menardi")  # of the prompts that ship: the same sentences in one language
FRAMES = 64  # of a segment that is learned from: half a second
SEGMENTS = 2  # of each clip
REFERENCES = 15  # clips that the voice of a speaker is taken from
_NAMES = {AS_IS: "instance"}


class Corpus:
    """Clips as standardised spectrograms (bands, T), each with the number of its speaker.

    Loudness is the same for all bands and speakers: their own is part of a voice.
    """

    def __init__(self, clips: Sequence[Clip], speakers: Sequence[str], features: LogMel) -> None:
        self.features = features
        self.clips = clips
        self.names = sorted(set(speakers))
        self.speakers = torch.tensor([self.names.index(name) for name in speakers])
        self.train, self.test = parted(clips, speakers, (0.8, 0.2))
        spectra = [features(clip.wave) for clip in counted(clips, "spectrograms")]
        learned = torch.cat([spectra[i] for i in self.train], 1)
        self._mean, self._deviation = learned.mean(1, keepdim=True), learned.std()
        self.spectra = [self.standardised(spectrum) for spectrum in spectra]

    def standardised(self, spectrum: Tensor) -> Tensor:
        """A log-mel spectrogram as the networks hear it."""
        return (spectrum - self._mean) / self._deviation

    def sound(self, standardised: Tensor) -> Tensor:
        """Sound of such a spectrogram, at nine tenths of full scale."""
        wave = self.features.sound(standardised * self._deviation + self._mean)
        return 0.9 * wave / wave.abs().max().clamp(min=1e-6)

    def of(self, part: Sequence[int], speaker: int) -> list[Tensor]:
        """A speaker's spectrograms in a part."""
        return [self.spectra[i] for i in part if self.speakers[i] == speaker]

    def voice(self, speaker: int) -> Tensor:
        """Clips of a speaker, to take the voice from: (1, bands, T)."""
        return torch.cat(self.of(self.train, speaker)[:REFERENCES], 1)[None]

    def segments(self, part: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        """Segments of clips above others of the same voice, (N, 2 bands, FRAMES); who speaks."""
        generator = torch.Generator().manual_seed(seed)

        def segment(spectrum: Tensor) -> Tensor:
            room = spectrum.shape[1] - FRAMES
            if room < 0:
                return F.pad(spectrum, (0, -room), value=float(spectrum.min()))
            start = int(torch.randint(room + 1, (), generator=generator))
            return spectrum[:, start : start + FRAMES]

        pairs, who = [], []
        for i in [i for i in part for _ in range(SEGMENTS)]:
            others = self.of(part, int(self.speakers[i]))
            other = others[int(torch.randint(len(others), (), generator=generator))]
            pairs.append(torch.cat([segment(self.spectra[i]), segment(other)]))
            who.append(self.speakers[i])
        return torch.stack(pairs), torch.stack(who)


def voice(
    folder: Path | None = None,
    source: Path | None = None,
    target: Path | None = None,
    skip: bool = False,
    rate: int = 8000,
    candidates: Sequence[str] | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    workers: int = 1,
    fresh: bool = False,
    out: Path = Path("runs/voice"),
    command: str = "voice(...)",
) -> Outcome:
    """Compare norms in the content encoder of a voice converter, and convert.

    folder   speakers' folders of sound files
    source, target  what is said, and in which voice; left out: the first held-out clips
    skip     leave out files that hold no sound
    rate     what clips are resampled to
    candidates  norms to try in place of instance norm
    out      folder for the wav files, voice.png, figures.json and the comparison

    Raises
        NormError  for folders that are not there, files that hold no sound, or too few of them.
    """
    if (source is None) != (target is None):
        raise NormError("give --source and --target, both, or none of them")
    if rate < 1000:
        raise NormError(f"rate {rate} must be 1000 at least")
    own = [read_sound(path, rate) for path in (source, target) if path is not None]
    clips, left_out = read_folder(prompts() if folder is None else folder, rate, skip=skip)
    speakers = [clip.folders[1 if folder is None else 0] for clip in clips]
    corpus = Corpus(clips, speakers, LogMel(rate, bands=64, window_s=0.032, hop_s=0.008))
    pair = [corpus.names.index(name) for name in (PAIR if folder is None else corpus.names[:2])]
    (x, who), (xt, whot) = corpus.segments(corpus.train, 0), corpus.segments(corpus.test, 1)
    task = Task(
        model=partial(Converter, corpus.features.bands),
        train=(x, x.chunk(2, 1)[0]),
        valid=(xt, xt.chunk(2, 1)[0]),
        loss="mae",
        metric="mae",
        epochs=max(4, min(15, 15_000 // len(x))) if epochs is None else epochs,
        learning_rate=2e-3,
        schedule="cosine",
        device="cpu",
        where="content.*",
        name="voice",
    )
    compared = compare(
        task, NORMS if candidates is None else candidates, seeds=seeds, out=out / "compare",
        workers=workers, fresh=fresh, keep_models="all", race=False, command=command,
    )  # fmt: skip
    judge = taught(x.chunk(2, 1)[0], who, len(corpus.names), seed=0)
    rows = [row for row in compared.results["candidates"] if not row["failed"]]
    measured = {
        row["name"]: _measured(compared, row, corpus, judge, pair, (x, who), (xt, whot))
        for row in counted(rows, "listening")
    }
    first, second = (corpus.names[speaker] for speaker in pair)
    told = recognised(judge, xt.chunk(2, 1)[0], whot)
    figures = {
        "speakers": corpus.names,
        "pair": [first, second],
        "clips": {"train": len(corpus.train), "test": len(corpus.test), "left out": left_out},
        "judge": told,
        "norms": measured,
    }
    spectra, files = _convert(compared, rows, corpus, pair, own, out)
    picture = out / "voice.png"
    _draw(spectra, measured, 1 / len(corpus.names), picture)
    return Outcome(
        figures,
        ("norm", "error", "of all", "of two", "converted", "kept"),
        [(_called(name), *map(worded, found.values())) for name, found in measured.items()],
        notes=[
            "error: of clips said again, in standard deviations of log-mel. of all, of two: "
            f"speakers told by the codes, of {len(corpus.names)} (chance "
            f"{1 / len(corpus.names):.2f}), and of {first} and {second} (0.5). converted: clips "
            "of either that are taken for the other. kept: correlation over time with what was "
            f"said. {len(corpus.test)} clips held out, {seeds} seed{'s' * (seeds > 1)}; the "
            f"listener tells {told:.2f} of real ones.",
            *([VOICES] if folder is None else []),
        ],
        files=[*files, picture, compared.folder / "report.html", write_figures(figures, out)],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the recipe can be told on the command line."""
    parser.add_argument("--folder", type=Path, metavar="DIR", help="speakers' folders")
    parser.add_argument("--source", type=Path, metavar="FILE", help="what is to be said")
    parser.add_argument("--target", type=Path, metavar="FILE", help="in whose voice")
    parser.add_argument("--skip", action="store_true", help="leave out files that hold no sound")
    parser.add_argument("--rate", type=int, default=8000, metavar="HZ", help="default: 8000")
    add_comparison_options(parser, seeds=3)


@torch.no_grad()
def _codes(model: Any, x: Tensor) -> Tensor:
    codes: Tensor = model.content(x.chunk(2, 1)[0])
    return codes


def _measured(
    compared: Comparison,
    row: dict[str, Any],
    corpus: Corpus,
    judge: Listener,
    pair: Sequence[int],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> dict[str, Any]:
    """What a norm's converters do, over seeds: see the columns of the table."""
    found: dict[str, list[float]] = {key: [] for key in ("all", "two", "converted", "kept")}
    for seed in map(int, row["scores"]):
        model: Any = compared.model(row["name"], seed)
        codes = _codes(model, train[0]), _codes(model, test[0])
        for key, wanted in (("all", range(len(corpus.names))), ("two", pair)):
            mine, asked = (torch.isin(who, torch.tensor(wanted)) for _, who in (train, test))
            probe = taught(codes[0][mine], train[1][mine], len(corpus.names), seed)
            found[key].append(recognised(probe, codes[1][asked], test[1][asked]))
        converted = [
            _converted(model, corpus, judge, *order) for order in (pair, tuple(reversed(pair)))
        ]
        for key, values in zip(("converted", "kept"), zip(*converted, strict=True), strict=True):
            found[key].append(sum(values) / len(values))
    return {"error": summary(list(row["scores"].values()))} | {
        key: summary(values) for key, values in found.items()
    }


@torch.no_grad()
def _converted(
    model: Any, corpus: Corpus, judge: Listener, first: int, second: int
) -> tuple[float, float]:
    """What is said by one speaker in the voice of another: the share that is taken for the other,
    and how each band's course over time goes with that of the source.
    """
    style, taken, kept = corpus.voice(second), [], []
    for said in corpus.of(corpus.test, first):
        again = model.convert(said[None], style)[0]
        taken.append(float(judge(again[None]).argmax() == second))
        moves = [F.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (said, again)]
        kept.append(float((moves[0] * moves[1]).sum(1).mean()))
    return sum(taken) / len(taken), sum(kept) / len(kept)


@torch.no_grad()
def _convert(
    compared: Comparison,
    rows: Sequence[dict[str, Any]],
    corpus: Corpus,
    pair: Sequence[int],
    own: Sequence[Tensor],
    out: Path,
) -> tuple[dict[str, Tensor], list[Path]]:
    """Write source, target and what they become; their spectrograms and files, by name."""
    if own:
        waves = list(own)
        style = corpus.standardised(corpus.features(own[1]))[None]
    else:
        longest = max(
            (i for i in corpus.test if corpus.speakers[i] == pair[0]),
            key=lambda i: len(corpus.clips[i].wave),
        )
        theirs = [i for i in corpus.test if corpus.speakers[i] == pair[1]]
        same = [i for i in theirs if corpus.clips[i].stem == corpus.clips[longest].stem]
        waves = [corpus.clips[i].wave for i in (longest, (same or theirs)[0])]
        style = corpus.voice(pair[1])
    spectra = {
        name: corpus.standardised(corpus.features(wave))
        for name, wave in zip(("source", "target"), waves, strict=True)
    }
    rate = corpus.features.rate
    files = [write_sound(wave, rate, out / f"{name}.wav") for name, wave in zip(spectra, waves,
             strict=True)]  # fmt: skip
    for row in rows:
        model: Any = compared.model(row["name"], int(next(iter(row["scores"]))))
        name = f"converted, {_called(row['name'])}"
        spectra[name] = model.convert(spectra["source"][None], style)[0]
        path = out / f"{name.replace(', ', '-').replace(':', '-')}.wav"
        files.append(write_sound(corpus.sound(spectra[name]), rate, path))
    return spectra, files


def _called(name: str) -> str:
    return _NAMES.get(name, name)


def _draw(spectra: dict[str, Tensor], measured: dict[str, Any], chance: float, path: Path) -> None:
    """Spectrograms of source, target and what became of them; who is told by the codes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1))
    shown = dict(list(spectra.items())[:4])
    panels = halves[0].subplots(1, len(shown), sharey=True)
    loudest = max(float(x.max()) for x in shown.values())
    for panel, (name, x) in zip(panels, shown.items(), strict=True):
        panel.imshow(x.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=loudest - 4.5,
                     vmax=loudest)  # fmt: skip
        panel.set_title(name, fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
    titles = {
        "all": f"speaker told by the codes (chance {chance:.2g})",
        "error": "error of clips said again",
        "converted": "converted, taken for the target",
    }
    for panel, (key, title) in zip(halves[1].subplots(1, 3), titles.items(), strict=True):
        for place, found in enumerate(measured.values()):
            panel.plot([place] * len(found[key]["values"]), found[key]["values"], ".", alpha=0.5,
                       color=f"C{place}")  # fmt: skip
            panel.plot(place, found[key]["mean"], "_", markersize=24, color=f"C{place}")
        panel.set_xticks(range(len(measured)), map(_called, measured))
        panel.set_title(title, fontsize=10)
        panel.margins(x=0.3)
        panel.grid(axis="y", linewidth=0.4)
        panel.set_ylim(0, 1.03)
        if key == "all":
            panel.axhline(chance, color="#999999", linestyle="--", linewidth=0.8)
    figure.savefig(path, dpi=110)
