"""Train a network for a style of your own: which norm?

The network learns on crops of photos: what it paints has to have their content and the
picture's style, by the features of VGG. Then it paints any picture in one pass:

    normwise recipe style-train painting.jpg --photos photos/ --weights vgg19-dcbb9e9d.pth
    normwise recipe style-fast photo.jpg --network runs/style-train/painting.pt

Its norm is instance norm. With --compare, batch norm and none are trained beside it, with
several seeds, and at each of the batch sizes: the comparison that made instance norm known.
Stopped anywhere, the same command goes on. Without --photos: two photos of scikit-learn.

The weights of VGG are those of torch's hub cache, if --weights names no file.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normwise.catalogue import split_candidates
from normwise.compare import Task, compare
from normwise.compare.trial import AS_IS, candidate_model, run_trial
from normwise.errors import NormError
from normwise.recipes.images.pictures import (
    SMALLEST,
    pictures_of,
    read_image,
    resized,
    sheet,
    write_image,
)
from normwise.recipes.images.style_loop import Loop, Perceptual, crops
from normwise.recipes.images.stylenet import Sizes, StyleNetwork, save_network
from normwise.recipes.images.vgg import load_vgg
from normwise.recipes.outcome import Outcome, summary, worded, write_figures
from normwise.recipes.style_fast import PHOTOS, photo

SIZES = Sizes(contract=(16, 32, 64), blocks=3, expand=(32, 16))
CROPS, HELD_OUT = 256, 16  # to learn on, and to score a network by
LARGEST = 640  # pixels of the longer side of a photo
_LOSSES = ("loss", "content", "style")


def style_train(
    style: Path,
    photos: Path | None = None,
    weights: Path | None = None,
    size: int = 64,
    steps: int = 400,
    batch_size: Sequence[int] = (4,),
    style_weight: float = 3.0,
    compared: bool = False,
    candidates: Sequence[str] = ("batch",),
    seeds: int = 3,
    workers: int = 1,
    fresh: bool = False,
    out: Path = Path("runs/style-train"),
    command: str = "style_train(...)",
) -> Outcome:
    """Train a style network, or several with other norms.

    style     the picture whose style is learned
    photos    a folder of pictures to learn on; of ten or more, a fifth is held out, of fewer a
              third of each picture's width
    weights   a file of VGG-16 or VGG-19, as `load_vgg` takes it
    size      pixels of each side of a crop, and of the style's shorter side
    steps     of the optimizer
    batch_size  crops in a step; several, where norms are compared
    style_weight  of the style's distance; the content's has 1
    compared  train `candidates` and no norm beside instance norm, with so many seeds each
    out       folder for the network, pictures, figures.json and the comparisons

    Raises
        NormError  for what cannot be read, or learned from.
    """
    if len(batch_size) > 1 and not compared:
        raise NormError("several batch sizes are for --compare; give one, or that")
    if size < 32 or steps < 1 or min(batch_size) < 1 or not style_weight > 0:
        raise NormError(
            "size is 32 pixels or more, steps and batch sizes 1 or more, and style_weight above 0; "
            f"received {size}, {steps}, {', '.join(map(str, batch_size))} and {style_weight:g}"
        )
    folder = [photo(name) for name in PHOTOS] if photos is None else pictures_of([photos])
    learned, held_out = _parts([read_image(path, LARGEST) for path in folder])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    picture = read_image(style)
    loss = Perceptual(
        load_vgg(weights).to(device), _at_size(picture, size).to(device), style_weight
    )
    loop = Loop(
        crops(learned, size, CROPS), crops(held_out, size, HELD_OUT, seed=1), loss, steps,
        batch_size[0], out / "unfinished",
    )  # fmt: skip
    if fresh:
        shutil.rmtree(loop.folder, ignore_errors=True)
    trained = _compared(
        loop, batch_size, candidates, seeds=seeds, out=out, workers=workers, fresh=fresh,
        command=command,
    ) if compared else [_alone(loop, out)]  # fmt: skip
    shutil.rmtree(loop.folder, ignore_errors=True)
    best = min(trained, key=lambda one: one.losses["loss"]["mean"])
    first = next(iter(best.networks.values()))
    network = save_network(first, best.candidate, out / f"{style.stem}.pt")
    whole = read_image(folder[-1], LARGEST)
    samples = write_image(_samples(loop, trained, picture, whole), out / "samples.jpg")
    curves = out / "style-train.png"
    _draw(trained, curves)
    photo_losses = loop.losses(None)
    figures = {
        "pictures": len(folder),
        "as they are": photo_losses,
        "trained": [
            {"norm": one.norm, "batch_size": one.batch_size, **one.losses, "curves": one.curves}
            for one in trained
        ],
    }
    return Outcome(
        figures,
        ("norm", "batch", "loss", "content", "style"),
        [
            ("photos as they are", "", *(f"{photo_losses[name]:.3f}" for name in _LOSSES)),
            *(
                (one.norm, str(one.batch_size), *(worded(one.losses[name]) for name in _LOSSES))
                for one in sorted(trained, key=lambda one: one.losses["loss"]["mean"])
            ),
        ],
        notes=[
            f"{steps} steps on {CROPS} crops of {size} pixels of {len(folder)} photos; losses of "
            f"{HELD_OUT} that were held out, and {len(best.networks)} seed"
            f"{'s' * (len(best.networks) > 1)}.",
            f"normwise recipe style-fast photo.jpg --network {network}",
        ],
        files=[samples, curves, network, write_figures(figures, out)],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the recipe can be told on the command line."""
    parser.add_argument("style", type=Path, metavar="STYLE", help="a picture")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="pictures to learn on")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of VGG-16 or VGG-19")
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="sides of a crop")
    parser.add_argument("--steps", type=int, default=400, metavar="K", help="of the training")
    parser.add_argument(
        "--batch-size", type=_numbers, default=(4,), metavar="K,…", help="crops in a step"
    )
    parser.add_argument(
        "--style-weight", type=float, default=3.0, metavar="W", help="content has 1"
    )
    parser.add_argument(
        "--compare", dest="compared", action="store_true", help="with batch norm and none"
    )
    parser.add_argument(
        "--candidates", type=split_candidates, default=("batch",), metavar="A,B,…",
        help="what instance norm is compared with; none always is",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, metavar="K", help="trials of each norm")
    parser.add_argument("--workers", type=int, default=1, metavar="K", help="processes")
    parser.add_argument("--fresh", action="store_true", help="forget what is in the folder")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parts(photos: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Photos to learn on and to be scored on, or parts of them where there are few."""
    if len(photos) >= 10:
        count = len(photos) // 5
        return list(photos[:-count]), list(photos[-count:])
    cuts = [image.shape[2] * 2 // 3 for image in photos]
    return (
        [image[..., :cut] for image, cut in zip(photos, cuts, strict=True)],
        [image[..., cut:] for image, cut in zip(photos, cuts, strict=True)],
    )


def _at_size(picture: Tensor, size: int) -> Tensor:
    """The style with one and a half crops along its shorter side, so that strokes fit in them."""
    scale = 1.5 * size / min(picture.shape[1:])
    height, width = (max(SMALLEST, round(scale * side)) for side in picture.shape[1:])
    return resized(picture, height, width)


@dataclass(frozen=True)
class Trained:
    """What came of one norm at one batch size: a network and a curve for each seed."""

    candidate: str
    batch_size: int
    networks: dict[int, StyleNetwork]
    curves: dict[int, list[dict[str, float]]]
    losses: dict[str, dict[str, Any]]

    @property
    def norm(self) -> str:
        """Its name in tables."""
        return "instance" if self.candidate == AS_IS else self.candidate


def _trained(loop: Loop, candidate: str, networks: dict[int, Any], curves: Any) -> Trained:
    each = [loop.losses(network) for network in networks.values()]
    losses = {name: summary([losses[name] for losses in each]) for name in _LOSSES}
    return Trained(candidate, loop.batch_size, networks, curves, losses)


def _task(loop: Loop, threads: int) -> Task:
    return Task(
        partial(StyleNetwork, SIZES), run=loop, higher_is_better=False, threads=threads,
        device=loop.loss.device, name=f"style-batch-{loop.batch_size}",
    )  # fmt: skip


def _alone(loop: Loop, out: Path) -> Trained:
    """A network with instance norm."""
    loop = replace(loop, preview=out / "preview.jpg")
    task = _task(loop, torch.get_num_threads())
    outcome = run_trial(task, AS_IS, 0, keep_weights=True)
    if outcome.weights is None:
        raise NormError(f"the network could not be trained: {outcome.reason}")
    network = candidate_model(task, AS_IS, 0)
    network.load_state_dict(outcome.weights)
    return _trained(loop, AS_IS, {0: network.eval()}, {0: outcome.curve})


def _compared(
    loop: Loop, batch_sizes: Sequence[int], candidates: Sequence[str], out: Path, **options: Any
) -> list[Trained]:
    """Networks with each norm, at each batch size: paired trials."""
    trained = []
    for batch_size in batch_sizes:
        one = replace(loop, batch_size=batch_size)
        compared = compare(
            _task(one, 1), candidates, out=out / f"batch-{batch_size}", race=False,
            keep_models="all", **options,
        )  # fmt: skip
        for row in compared.results["candidates"]:
            if row["failed"]:
                continue
            networks = {
                seed: compared.model(row["name"], seed) for seed in compared.results["seeds"]
            }
            curves = {int(seed): curve for seed, curve in row["curves"].items()}
            trained.append(_trained(one, row["name"], networks, curves))
    return trained


def _samples(loop: Loop, trained: Sequence[Trained], picture: Tensor, photo: Tensor) -> Tensor:
    """The style, a photo that was held out, or a third of it, and what is made of it."""
    paintings = [loop.paint(next(iter(one.networks.values())), photo[None])[0] for one in trained]
    captions = ["style", "photo", *(f"{one.norm}, batch {one.batch_size}" for one in trained)]
    return sheet([picture, photo, *paintings], captions, columns=4 if len(trained) > 1 else None)


def _draw(trained: Sequence[Trained], path: Path) -> None:
    """The held-out loss by step: a panel for each batch size, mean and interval over seeds."""
    from matplotlib.figure import Figure

    batch_sizes = list(dict.fromkeys(one.batch_size for one in trained))
    figure = Figure(figsize=(4.5 * len(batch_sizes), 3.6), layout="constrained")
    panels = figure.subplots(1, len(batch_sizes), squeeze=False, sharey=True)[0]
    norms = list(dict.fromkeys(one.norm for one in trained))
    for one in trained:
        panel, colour = panels[batch_sizes.index(one.batch_size)], f"C{norms.index(one.norm)}"
        steps = [entry["epoch"] for entry in next(iter(one.curves.values()))]
        by_step = zip(
            *([entry["score"] for entry in curve] for curve in one.curves.values()), strict=True
        )
        summaries = [summary(scores) for scores in by_step]
        panel.plot(steps, [step["mean"] for step in summaries], color=colour, label=one.norm)
        if all(step["interval"] for step in summaries):
            lows, highs = zip(*(step["interval"] for step in summaries), strict=True)
            panel.fill_between(steps, lows, highs, color=colour, alpha=0.2, linewidth=0)
    for panel, batch_size in zip(panels, batch_sizes, strict=True):
        panel.set_title(f"batch size {batch_size}", fontsize=10)
        panel.set_xlabel("step")
        panel.grid(axis="y", linewidth=0.4)
    panels[0].set_ylabel("loss of held-out crops")
    panels[-1].legend(frameon=False)
    figure.savefig(path, dpi=110)
