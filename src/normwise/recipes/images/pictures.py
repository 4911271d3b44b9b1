"""Pictures in and out: every kind of file as red, green and blue from 0 to 1, and sheets of them.

Shapes
    image  (3, H, W) float32, 0 to 1, sRGB
"""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from normwise.errors import NormError, one_line

SMALLEST = 16  # pixels on each side: what convolutions with four poolings need
LARGEST = 178_956_970  # pixels of a file: Pillow takes one with more for an attack
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_SMALLER = "give a smaller version of it"
_PAPER = (255, 255, 255)
_INK = (60, 60, 60)


def pictures_of(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and in place of a folder the pictures in it, by name.

    Raises
        NormError  if there is no such file or folder, or a folder has no picture.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if not path.is_file():
                raise NormError(f"there is no file or folder {path}")
            found.append(path)
            continue
        inside = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _SUFFIXES]
        if not inside:
            raise NormError(f"there is no picture in {path}; give one with {', '.join(_SUFFIXES)}")
        found += inside
    return found


def read_image(
    path: Path,
    size: int | None = None,
    smallest: int = SMALLEST,
    largest: int = LARGEST,
    instead: str = _SMALLER,
) -> Tensor:
    """Read a picture of any mode: (3, H, W) float32, upright, 0 to 1.

    size      pixels of the longer side at the most; a smaller picture is not enlarged
    smallest  pixels that each side must have, in the file
    largest   pixels that it may have in all
    instead   what is to be done if it has more

    Grey becomes red, green and blue alike; what is transparent lies on white; 16 bits, CMYK,
    palettes and colour profiles become sRGB; a camera's rotation is done; of an animation the
    first picture is taken.

    Raises
        NormError  if there is no such file, it is no whole picture, or too small or large.
    """
    if not path.is_file():
        raise NormError(f"there is no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limits and doubts; ours follow
            with Image.open(path) as opened:
                _check_size(path, opened.size, smallest, largest, instead)
                if size is not None:
                    opened.draft("RGB", (size, size))  # a JPEG is decoded no larger than needed
                image = _in_srgb(path, ImageOps.exif_transpose(opened))
    except NormError:
        raise
    except Image.DecompressionBombError:
        raise NormError(_too_large(path, LARGEST, _SMALLER)) from None
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError) as error:
        raise NormError(
            f"{path} is no picture that can be read ({one_line(error)}); give a whole PNG, JPEG, "
            "WebP or TIFF file"
        ) from error
    return to_tensor(image if size is None else _shrunk(image, size))


def write_image(image: Tensor, path: Path) -> Path:
    """Write a picture as its suffix says, JPEG with quality 92; whoever looks sees a whole one.

    Raises
        NormError  for a suffix of no picture.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise NormError(f"{path} is no name of a picture; end it in {', '.join(_SUFFIXES)}")
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    # Colours in full; PNG and the others, which lose nothing, ignore both.
    to_picture(image).save(part, quality=92, subsampling=0)
    part.replace(path)
    return path


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """The picture at another size, by Lanczos' filter, which neither blurs nor aliases."""
    filtered = to_picture(image).resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(filtered).to(image.device)


def fitted(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Height and width with the longer side brought to size, larger or smaller."""
    height, width = shape
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def to_tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) float32 of a picture in RGB."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div_(255)


def to_picture(image: Tensor) -> Image.Image:
    """A picture in RGB of (3, H, W); what is below 0 or above 1 is cut off."""
    levels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def sheet(
    images: Sequence[Tensor],
    captions: Sequence[str] = (),
    columns: int | None = None,
    height: int = 256,
    margin: int = 12,
) -> Tensor:
    """Pictures in rows on white, all of one height, each with its caption below: one image.

    Captions are never cut: a column is as wide as what is in it.

    columns  how many in a row; all, if left out
    """
    pictures = [to_picture(image) for image in images]
    pictures = [one.resize((max(1, round(one.width * height / one.height)), height),
                           Image.Resampling.LANCZOS) for one in pictures]  # fmt: skip
    columns = min(columns or len(pictures), len(pictures))
    rows = -(-len(pictures) // columns)
    font = ImageFont.load_default(15)
    needed = [one.width for one in pictures]
    for place, words in enumerate(captions):
        needed[place] = max(needed[place], math.ceil(font.getlength(words)))
    widths = [max(needed[column::columns]) for column in range(columns)]
    line = 24 if captions else 0
    page = Image.new(
        "RGB",
        (sum(widths) + margin * (columns + 1), (height + line + margin) * rows + margin),
        _PAPER,
    )
    draw = ImageDraw.Draw(page)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        left = margin + sum(widths[:column]) + margin * column
        top = margin + (height + line + margin) * row
        page.paste(picture, (left, top))
        if place < len(captions):
            draw.text((left, top + height + 3), captions[place], fill=_INK, font=font)
    return to_tensor(page)


def _check_size(
    path: Path, size: tuple[int, int], smallest: int, largest: int, instead: str
) -> None:
    width, height = size
    if min(size) < smallest:
        raise NormError(
            f"{path} has {width}×{height} pixels; each side needs {smallest} at the least"
        )
    if width * height > largest:
        raise NormError(_too_large(path, largest, instead))


def _too_large(path: Path, largest: int, instead: str) -> str:
    return f"{path} has more than {largest / 1e6:.0f} million pixels; {instead}"


def _in_srgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_levels(path, np.array(image))
    profile = image.info.get("icc_profile")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        coloured = image.convert("RGBA")
        paper = Image.new("RGBA", coloured.size, (*_PAPER, 255))
        image = Image.alpha_composite(paper, coloured).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            whose = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            changed: Any = ImageCms.profileToProfile(image, whose, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a profile of another mode, or broken
            changed = image
        image = changed
    return image.convert("RGB")


def _from_levels(path: Path, levels: Any) -> Image.Image:
    """Grey of 16 bits, or of numbers from 0 to 1."""
    top = 1.0 if levels.dtype.kind == "f" else 65535.0
    if not (np.isfinite(levels).all() and levels.min() >= 0 and levels.max() <= top):
        raise NormError(
            f"{path} has levels from {levels.min():g} to {levels.max():g}, and 0 to {top:g} can "
            "be read; save it with 8 bits for each colour"
        )
    return Image.fromarray(np.round(levels / top * 255).astype(np.uint8)).convert("RGB")


def _shrunk(image: Image.Image, size: int) -> Image.Image:
    if max(image.size) <= size:
        return image
    height, width = fitted((image.height, image.width), size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
