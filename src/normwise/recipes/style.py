"""Paint a photo in the style of a painting: neural style transfer.

A photo changes step by step until a network that was trained to see finds the content of
the photo and the style of the painting in it. Style is what the features of a layer have
in common wherever in the picture:

    gram        the products of channels, as Gatys, Ecker and Bethge had it (2016)
    statistics  each channel's mean and deviation, as adaptive instance norm would set them

It goes from coarse to fine, and every few steps there is a picture to look at. Several
paintings make a style together. The network is VGG-19 or VGG-16 as torchvision has it: of
--weights FILE.pth, of torch's hub cache, or downloaded.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf, isfinite
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from normwise.errors import NormError, one_line
from normwise.recipes.images.colors import luminance, matched, with_colors_of
from normwise.recipes.images.painting import (
    COLUMNS,
    INITS,
    LEARNING_RATES,
    NARROWEST,
    Plan,
    Reached,
    at_size,
    check_memory,
    paint,
    sizes_of,
)
from normwise.recipes.images.perceptual import STYLES
from normwise.recipes.images.pictures import read_image, sheet, write_image
from normwise.recipes.images.studio import Studio, draw_losses, mark_of, shown
from normwise.recipes.images.vgg import load_vgg
from normwise.recipes.outcome import Outcome, write_figures

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
KEEP = ("luminance", "histogram")
STYLE_WEIGHT, VARIATION = 10.0, 30.0
LEFT = "the same command goes on from the last preview"  # what is left where it is stopped


def style(
    content: Path,
    styles: Sequence[Path],
    weights: Path | None = None,
    size: int = 512,
    scales: int = 3,
    steps: int = 120,
    content_weight: float = 1.0,
    style_weight: float = STYLE_WEIGHT,
    variation_weight: float = VARIATION,
    style_weights: Sequence[float] | None = None,
    style_by: str = "gram",
    style_scale: float = 1.0,
    content_layers: Sequence[str] = CONTENT_LAYERS,
    style_layers: Sequence[str] = STYLE_LAYERS,
    pooling: str = "max",
    keep_color: str | None = None,
    init: str = "content",
    optimizer: str = "lbfgs",
    lr: float | None = None,
    lr_decay: float = 1.0,
    every: int = 20,
    seed: int = 0,
    device: str | None = None,
    fresh: bool = False,
    out: Path = Path("runs/style"),
    command: str = "style(...)",
) -> Outcome:
    """Give a picture the style of others; every picture may be of any size and mode.

    content, styles  the photo and the paintings; style_weights says how much of each
    weights     of VGG, as `load_vgg` takes them
    size        pixels of the longer side; scales: how often it is halved to begin with
    steps       at the coarsest size, and half as many at each one after it
    content_weight, style_weight, variation_weight  of the distances, see `perceptual`
    style_by    "gram" or "statistics"
    style_scale  size of the strokes: the paintings' longer side, in units of the photo's
    keep_color  "luminance": the photo's colours and the painting's light; "histogram": the
                paintings are coloured like the photo beforehand; None: their colours
    init        what it begins from: "content", "noise" or "style"
    optimizer   "lbfgs" or "adam", with the learning rate lr, of which lr_decay is left at
                the end of each size
    every       steps from one preview, from which a stopped run goes on, to the next
    out         folder for the picture, its previews, the losses and figures.json

    Raises
        NormError  for what is no picture, options that do not fit together, weights that
                   are not there, or more memory than there is.
    """
    for name, value, known in (
        ("style_by", style_by, tuple(STYLES)), ("optimizer", optimizer, tuple(LEARNING_RATES)),
        ("keep_color", keep_color, (None, *KEEP)), ("init", init, INITS),
    ):  # fmt: skip
        if value not in known:
            raise NormError(f"{name} is one of {', '.join(map(repr, known))}; received {value!r}")
    for name, number, least in (
        ("size", size, NARROWEST), ("scales", scales, 1), ("steps", steps, 1), ("every", every, 1),
        ("style_scale", style_scale, 0.1), ("lr", 1 if lr is None else lr, 1e-6),
        ("lr_decay", lr_decay, 1e-6), ("content_weight", content_weight, 0),
        ("style_weight", style_weight, 0), ("variation_weight", variation_weight, 0),
    ):  # fmt: skip
        if not least <= number < inf:
            raise NormError(f"{name} is {least:g} at the least; received {number!r}")
    if not styles:
        raise NormError("there is no style; give the file of a painting, or several")
    photo = _wide_enough(content, size)
    models = [_wide_enough(one, round(size * style_scale)) for one in styles]
    sizes = sizes_of(photo, scales)
    plan = Plan(
        sizes=sizes,
        steps=tuple(max(1, steps // 2**place) for place in range(len(sizes))),
        content_layers=tuple(content_layers),
        style_layers=tuple(style_layers),
        style_by=style_by,
        style_weights=_shares(style_weights, len(styles)),
        style_scale=style_scale,
        weights=(content_weight, style_weight, variation_weight),
        optimizer=optimizer,
        learning_rate=LEARNING_RATES[optimizer] if lr is None else lr,
        decay=lr_decay,
        init=init,
        seed=seed,
    )
    place = _device(device)
    network = load_vgg(weights, pooling).to(place)
    network.check([*content_layers, *style_layers])
    check_memory(network, plan, photo, models, place)
    aim = photo
    if keep_color == "luminance":
        aim, models = luminance(photo), [luminance(model) for model in models]
    elif keep_color == "histogram":
        models = [matched(model, photo) for model in models]

    def finish(image: Tensor) -> Tensor:
        if keep_color != "luminance":
            return image
        return with_colors_of(image, at_size(photo, max(image.shape[1:])))

    studio = Studio(
        out,
        "-".join([content.stem, *(one.stem for one in styles)]),
        mark_of(network, plan, [photo, *models], keep_color),
        finish,
    )
    reached = None if fresh else studio.reached()
    if reached is None:
        studio.clear()
    with _repeatable(), shown(plan, reached) as tell:
        targets = [model.to(place) for model in models]
        for now in paint(network, aim.to(place), targets, plan, reached):
            reached = now
            tell(now)
            if len(now.losses) % every == 0:
                studio.keep(now)
    assert reached is not None  # there is a step at least
    studio.keep(reached)
    by_size = _by_size(reached)
    result = read_image(studio.picture, smallest=1)
    pictures = [photo, *(read_image(one, 640) for one in styles), result]
    page = sheet(pictures, [path.name for path in (content, *styles, studio.picture)], height=320)
    figures = {
        "content": str(content),
        "styles": [str(one) for one in styles],
        "network": network.kind,
        "pixels": list(photo.shape[:0:-1]),
        "sizes": by_size,
    }
    return Outcome(
        figures,
        ("longer side", "steps", "content", "style", "s per step"),
        [
            (
                f"{one['size']} px",
                str(one["steps"]),
                *(f"{one[name][0]:.3f} → {one[name][1]:.3f}" for name in ("content", "style")),
                f"{one['seconds_per_step']:.2f}",
            )
            for one in by_size
        ],
        notes=[f"{network.kind} on {place}; distances are shares of what they are from, see docs."],
        files=[
            studio.picture,
            write_image(page, out / f"{studio.name}-sheet.jpg"),
            draw_losses(reached, out / f"{studio.name}-losses.png"),
            studio.losses,
            write_figures(figures, out),
        ],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the recipe can be told on the command line."""
    parser.add_argument("content", type=Path, metavar="CONTENT", help="the photo")
    parser.add_argument("styles", type=Path, metavar="STYLE", nargs="+", help="the paintings")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of VGG-19 or VGG-16")
    parser.add_argument("--size", type=int, default=512, metavar="PX", help="of the longer side")
    parser.add_argument("--scales", type=int, default=3, metavar="K", help="sizes, each half")
    parser.add_argument("--steps", type=int, default=120, metavar="K", help="at the coarsest")
    parser.add_argument(
        "--style-weights", type=_numbers, metavar="A,B,…", help="how much of each painting"
    )
    for name, value in (("content", 1.0), ("style", STYLE_WEIGHT), ("variation", VARIATION)):
        parser.add_argument(
            f"--{name}-weight",
            type=float,
            default=value,
            metavar="W",
            help=f"how much {name} counts",
        )
    parser.add_argument("--style-by", choices=STYLES, default="gram", help="what style is")
    parser.add_argument("--style-scale", type=float, default=1.0, metavar="X", help="of strokes")
    for name, layers in (("content", CONTENT_LAYERS), ("style", STYLE_LAYERS)):
        parser.add_argument(
            f"--{name}-layers", type=_words, default=layers, metavar="A,B,…", help=f"for {name}"
        )
    parser.add_argument(
        "--pooling", choices=("max", "average"), default="max", help="of the network"
    )
    parser.add_argument(
        "--keep-color", choices=KEEP, nargs="?", const="luminance", help="the colours of the photo"
    )
    parser.add_argument("--init", choices=INITS, default="content", help="what it begins from")
    parser.add_argument("--optimizer", choices=LEARNING_RATES, default="lbfgs", help="of steps")
    parser.add_argument("--lr", type=float, metavar="X", help="default: 1 for lbfgs, 0.02 for adam")
    parser.add_argument("--lr-decay", type=float, default=1.0, metavar="X", help="left at the end")
    parser.add_argument("--every", type=int, default=20, metavar="K", help="steps to a preview")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of the noise")
    parser.add_argument("--device", metavar="NAME", help="cuda, if there is one, or cpu")
    parser.add_argument("--fresh", action="store_true", help="begin anew")


def _by_size(reached: Reached) -> list[dict[str, Any]]:
    """The first and last distances at each size, and the median time of a step."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in reached.losses]
    found = []
    for size in dict.fromkeys(row["size"] for row in rows):
        own = [row for row in rows if row["size"] == size]
        first, last = own[0], own[-1]
        found.append({
            "size": int(size),
            "steps": len(own),
            **{name: [first[name], last[name]] for name in ("content", "style")},
            "seconds_per_step": median(row["seconds"] for row in own),
        })  # fmt: skip
    return found


def _shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Weights that come to 1; alike, if none are given."""
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count or min(given) < 0 or sum(given) <= 0 or not isfinite(sum(given)):
        raise NormError(
            f"the weights of {count} style{'s' * (count > 1)} are as many numbers of 0 or more, "
            f"not all of them 0; received {', '.join(f'{weight:g}' for weight in given)}"
        )
    return tuple(weight / sum(given) for weight in given)


def _wide_enough(path: Path, size: int) -> Tensor:
    """A picture at a size, at which features of all layers vary."""
    image = read_image(path, size)
    height, width = image.shape[1:]
    if min(height, width) < NARROWEST:
        raise NormError(
            f"{path} is {width}×{height} pixels at the size of {max(width, height)}, and each side "
            f"needs {NARROWEST}; cut it to a wider piece, or ask for a larger size"
        )
    return image


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise NormError(f"there is no device {name!r} ({one_line(error)}); leave it out") from error
    return device


@contextmanager
def _repeatable() -> Iterator[None]:
    """The same picture every time, on a GPU, too."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield
