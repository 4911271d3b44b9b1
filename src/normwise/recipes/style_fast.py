"""Paint pictures in 26 styles by one network, in one pass.

Conditional instance norm gives the network its styles: all of them share the convolutions,
and a style is nothing but a scale and a shift for each channel behind each of them. So styles
blend by blending these numbers, and a step from one to the next is as small as one likes.

    normwise recipe style-fast photo.jpg                     every style, and a sheet of them
    normwise recipe style-fast photos/ --style night,3
    normwise recipe style-fast photo.jpg --blend night=0.7,wave=0.3 --strength 0.8
    normwise recipe style-fast photo.jpg --between night,amber,wave --frames 48

Pictures of any size come out at their own. A large one is painted in strips, with statistics
of the whole. With --network FILE: in the style of a network that `normwise recipe
style-train` made. Without pictures: two photos of scikit-learn.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from normwise.data import packaged
from normwise.errors import NormError
from normwise.recipes.images.colors import with_colors_of
from normwise.recipes.images.pictures import (
    SMALLEST,
    fitted,
    pictures_of,
    read_image,
    resized,
    sheet,
    to_picture,
    write_image,
)
from normwise.recipes.images.strips import in_strips
from normwise.recipes.images.stylenet import NAMES, StyleNetwork, load_network, many_styles
from normwise.recipes.outcome import Outcome, counted, write_figures

WHOLE = 2**21  # pixels up to which a picture is painted in one piece: 1 GB at the most
LARGEST = 2**27  # pixels, for each of which strips held 76 bytes at 7680×4320
PHOTOS = ("china.jpg", "flower.jpg")
MOVING = 480  # pixels of the longer side of a moving picture
_SHOWN = 7  # pictures of a strip from one style to another


@dataclass(frozen=True)
class Style:
    """A style or a blend: its name in file names, and the shares of each, None of a single one."""

    name: str
    shares: Tensor | None


def style_fast(
    images: Sequence[Path] = (),
    style: Sequence[str] | None = None,
    blend: str | None = None,
    between: Sequence[str] | None = None,
    frames: int = 24,
    strength: float = 1.0,
    keep_color: bool = False,
    size: int | None = None,
    network: Path | None = None,
    out: Path = Path("runs/style-fast"),
    command: str = "style_fast(...)",
) -> Outcome:
    """Paint pictures, and a sheet of the results of each.

    images    files and folders
    style     names or numbers of styles, or "all"
    blend     "night=0.7,wave=0.3": shares of styles, of which the sum does not matter
    between   styles to go through, in so many frames: files, a moving picture and a strip
    strength  0 to 1: what is left is the picture as it was
    keep_color  the light of the painting, the colours of the picture
    size      pixels of the longer side at the most
    network   a file of one style, in place of the 26
    out       folder for the pictures and figures.json

    Raises
        NormError  if there is no such style or picture, or none can be read.
    """
    if not 0 <= strength <= 1:
        raise NormError(f"strength lies between 0, the picture, and 1, the style; not {strength:g}")
    if size is not None and size < SMALLEST:
        raise NormError(f"size is {SMALLEST} pixels at the least, received {size}")
    styles, path = _wanted(network, style, blend), _path(network, between, frames)
    painter = Painter(network, strength, keep_color)
    rows, files, unread = [], [], []
    pictures = pictures_of(images or [photo(name) for name in PHOTOS])
    for picture, stem in zip(pictures, _stems(pictures), strict=True):
        try:
            image = _read(picture, size)
        except NormError as error:
            if len(pictures) == 1:
                raise
            unread.append(str(error))
            continue
        out.mkdir(parents=True, exist_ok=True)
        made: list[Path] = []
        start = time.perf_counter()
        if path:
            made += _travel(painter, image, path, out / f"{stem}-{'-to-'.join(between or ())}")
        else:
            made += _paint(painter, image, styles, out / stem)
        count = len(path or styles)
        seconds = (time.perf_counter() - start) / count
        files += made
        rows.append((picture.name, image.shape[2], image.shape[1], count, seconds))
    if not rows:
        raise NormError(unread[0])
    figures = {
        "pictures": [dict(zip(_MEASURED, row, strict=True)) for row in rows],
        "unread": unread,
    }
    return Outcome(
        figures,
        ("picture", "pixels", "paintings", "s each"),
        [(name, f"{w}×{h}", str(count), f"{s:.2f}") for name, w, h, count, s in rows],
        notes=[
            f"{sum(row[3] for row in rows)} paintings are in {out}.",
            *(f"Left out: {sentence}." for sentence in unread),
        ],
        files=[*files, write_figures(figures, out)],
    )


_MEASURED = ("picture", "width", "height", "paintings", "seconds_each")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the recipe can be told on the command line."""

    def names(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument(
        "images", type=Path, nargs="*", default=(), metavar="IMAGE", help="files or folders"
    )
    parser.add_argument("--style", type=names, metavar="A,B,…", help="names or numbers; or: all")
    parser.add_argument("--blend", metavar="A=0.7,B=0.3", help="shares of styles")
    parser.add_argument("--between", type=names, metavar="A,B,…", help="a way through styles")
    parser.add_argument("--frames", type=int, default=24, metavar="K", help="of that way")
    parser.add_argument("--strength", type=float, default=1.0, metavar="S", help="0 to 1")
    parser.add_argument("--keep-color", action="store_true", help="the picture's own colours")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="longer side at the most")
    parser.add_argument("--network", type=Path, metavar="FILE.pt", help="of style-train")


class Painter:
    """Paints: the network where it runs, in one piece or strips, and what follows it.

    file        a network of one style; the 26 styles, if None
    strength, keep_color  as `style_fast` has them
    """

    def __init__(self, file: Path | None, strength: float, keep_color: bool) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = many_styles() if file is None else load_network(file)
        self._network: StyleNetwork = network.to(self._device)
        self._strength, self._keep_color = strength, keep_color

    def __call__(self, image: Tensor, style: Style) -> Tensor:
        x = image.to(self._device)[None]
        shares = None if style.shares is None else style.shares.to(self._device)[None]
        whole = x.shape[2] * x.shape[3] <= WHOLE
        with torch.no_grad():
            y = self._network(x, shares) if whole else in_strips(self._network, x, shares)
        painting = y[0].cpu()
        if self._keep_color:
            painting = with_colors_of(painting, image)
        return painting if self._strength == 1 else image.lerp(painting, self._strength)


def _paint(painter: Painter, image: Tensor, styles: Sequence[Style], stem: Path) -> list[Path]:
    """A file for each style; where they are several, the sheet of them is returned."""
    small = [_small(image)]
    for style in counted(styles, stem.name):
        painting = painter(image, style)
        file = write_image(painting, stem.with_name(f"{stem.name}-{style.name}.jpg"))
        small.append(_small(painting))
    if len(styles) == 1:
        return [file]
    captions = ["", *(style.name for style in styles)]
    page = sheet(small, captions, columns=min(len(small), 7))
    return [write_image(page, stem.with_name(f"{stem.name}-styles.jpg"))]


def _travel(painter: Painter, image: Tensor, path: Sequence[Style], stem: Path) -> list[Path]:
    """A file for each frame, all as a moving picture, and a strip of some of them."""
    stem.mkdir(exist_ok=True)
    height, width = image.shape[1:]
    if max(height, width) > MOVING:
        height, width = fitted((height, width), MOVING)
    moving, small = [], []
    for place, style in enumerate(counted(path, stem.name)):
        painting = painter(image, style)
        write_image(painting, stem / f"{place:03}.jpg")
        moving.append(to_picture(resized(painting, height, width)))
        small.append(_small(painting))
    there_and_back = [*moving, *moving[-2:0:-1]]
    whole = stem.with_name(f"{stem.name}.gif")
    there_and_back[0].save(
        whole, save_all=True, append_images=there_and_back[1:], duration=80, loop=0
    )
    count = min(_SHOWN, len(small))
    shown = [small[round(k * (len(small) - 1) / (count - 1))] for k in range(count)]
    strip = write_image(sheet(shown), stem.with_name(f"{stem.name}.jpg"))
    return [strip, whole, stem]


def _small(image: Tensor) -> Tensor:
    height = min(256, image.shape[1])
    return resized(image, height, max(1, round(image.shape[2] * height / image.shape[1])))


def _wanted(network: Path | None, style: Sequence[str] | None, blend: str | None) -> list[Style]:
    """The styles to paint in: those named, or a blend, or all."""
    if network is not None:
        if style is not None or blend is not None:
            raise NormError(f"{network} has one style; leave out --style and --blend")
        return [Style(network.stem, None)]
    if style is not None and blend is not None:
        raise NormError("give --style or --blend, not both")
    if blend is not None:
        return [blended(blend)]
    places = range(len(NAMES)) if style in (None, ["all"]) else map(_place, style or ())
    return [Style(NAMES[place], _alone(place)) for place in places]


def blended(text: str) -> Style:
    """The blend that "night=0.7,wave=0.3" says; shares of what they come to together."""
    shares, words = torch.zeros(len(NAMES)), []
    for part in text.split(","):
        name, _, share = part.partition("=")
        place = _place(name)
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise NormError(f"a share is a number from 0 up, as in night=0.7; received {part!r}")
        shares[place] += value
        words.append(f"{NAMES[place]}{value:g}")
    if not shares.sum() > 0:
        raise NormError(f"the shares of {text!r} come to nothing; give one above 0")
    return Style("-".join(words), shares / shares.sum())


def _path(network: Path | None, between: Sequence[str] | None, frames: int) -> list[Style]:
    """Blends at equal steps from the first style to the last, through those named between."""
    if between is None:
        return []
    if network is not None:
        raise NormError(f"{network} has one style, and --between goes from one to another")
    if len(between) < 2 or frames < len(between):
        raise NormError(
            "--between takes two styles or more, and as many --frames at the least; received "
            f"{len(between)} and {frames}"
        )
    stops = [_alone(_place(name)) for name in between]
    path = []
    for frame in range(frames):
        where = frame * (len(stops) - 1) / (frames - 1)
        last = min(int(where), len(stops) - 2)
        path.append(Style(f"{frame:03}", stops[last].lerp(stops[last + 1], where - last)))
    return path


def _place(name: str) -> int:
    """A style's number, given its name or number."""
    if name in NAMES:
        return NAMES.index(name)
    if name.isdecimal() and int(name) < len(NAMES):
        return int(name)
    raise NormError(
        f"there is no style {name!r}; write a number from 0 to {len(NAMES) - 1}, or one of "
        f"{', '.join(NAMES)}"
    )


def _alone(place: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(place), len(NAMES)).float()


def photo(name: str) -> Path:
    """A photo of scikit-learn, which the recipes run on if they are given none."""
    install = 'pip install "normwise[recipes]", or name pictures of your own'
    return packaged("sklearn", f"datasets/images/{name}", install)


def _read(path: Path, size: int | None) -> Tensor:
    if size is None:
        image = read_image(path, largest=LARGEST, instead="--size 8000 brings it to fewer")
    else:
        image = read_image(path, size)
    if min(image.shape[1:]) < SMALLEST:
        raise NormError(
            f"{path} has {image.shape[2]}×{image.shape[1]} pixels at size {size}; each side needs "
            f"{SMALLEST} at the least"
        )
    return image


def _stems(pictures: Sequence[Path]) -> list[str]:
    """A name for each picture's results: its own, and a number where others have it, too."""
    stems: list[str] = []
    for picture in pictures:
        count = sum(other.stem == picture.stem for other in pictures[: len(stems)])
        stems.append(picture.stem if count == 0 else f"{picture.stem}-{count + 1}")
    return stems
