"""A large picture through a style network, in strips that fit into memory.

An instance norm averages over the whole picture, so strips that are painted alone would each
get a contrast of their own. Here every convolution is measured over all strips first, and then
computed again with the whole picture's moments: what comes is what the network makes of the
picture in one piece, to rounding. The first convolutions are computed up to three times for it.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise import functional
from normwise.layers import ConditionalInstanceNorm2d, InstanceNorm2d
from normwise.recipes.images.stylenet import Stage, StyleNetwork, enlarged, mirrored, padded

ELEMENTS = 2**25  # of the largest tensor at a time


class _Moments(NamedTuple):
    """Mean and biased variance of each channel, over so many positions."""

    mean: Tensor = torch.zeros(())
    var: Tensor = torch.zeros(())
    positions: int = 0

    def with_those_of(self, y: Tensor) -> "_Moments":
        """The moments of this and of another strip together, as Chan, Golub and LeVeque merge."""
        var, mean = torch.var_mean(y.double(), (0, 2, 3), correction=0)
        positions = y.shape[2] * y.shape[3]
        share = positions / (self.positions + positions)
        apart = mean - self.mean
        var = (1 - share) * self.var + share * var + share * (1 - share) * apart.square()
        return _Moments(self.mean + share * apart, var, self.positions + positions)


def in_strips(
    network: StyleNetwork, x: Tensor, style: Tensor | None = None, elements: int = ELEMENTS
) -> Tensor:
    """What network(x, style) is, for one picture, with tensors of so many elements at a time.

    Kept whole are the picture, the result, and what is between the parts of the network, which
    has a sixteenth of the pixels.

    Shapes
        x      (1, 3, H, W) float32
        style  (1,) or (1, styles); None where there is one
        out    like x
    """
    height, width = x.shape[2:]
    x = padded(x)
    x = _through(network.contract, x, style, elements)
    for block in network.residual:
        x = x + _through(block, x, style, elements)
    x = _through(network.expand, x, style, elements)
    return x.sigmoid_()[..., :height, :width]


def _through(stages: Any, x: Tensor, style: Tensor | None, elements: int) -> Tensor:
    """What the last of the stages gives; each is measured before the next is looked at."""
    chain = _Chain(list(stages), x, style)
    kept: list[Tensor] = []
    for place, stage in enumerate(chain.stages):
        kept, moments = [], _Moments()
        for top, bottom in chain.cuts(place, elements):
            y = chain.convolved(place, top, bottom)
            moments = moments.with_those_of(y)
            if stage is chain.stages[-1]:
                kept.append(y)
        chain.moments.append(moments)
    last = len(chain.stages) - 1
    return torch.cat([chain.finished(last, y) for y in kept], 2)


class _Chain:
    """Stages one after the other, of which some rows of some stage can be asked."""

    def __init__(self, stages: list[Stage], x: Tensor, style: Tensor | None) -> None:
        self.stages = stages
        self.moments: list[_Moments] = []  # of the stages that were measured
        self._x, self._style = x, style
        self._sizes = [(x.shape[2], x.shape[3])]  # of what goes in, and of what each stage gives
        for stage in stages:
            scale = stage.up / stage.convolution.stride[0]
            self._sizes.append((int(self._sizes[-1][0] * scale), int(self._sizes[-1][1] * scale)))

    def cuts(self, place: int, elements: int) -> list[tuple[int, int]]:
        """First and last row of strips of which no stage up to this one makes too much."""
        height = self._sizes[place + 1][0]
        largest = max(
            stage.convolution.out_channels * size[0] * size[1]
            for stage, size in zip(self.stages[: place + 1], self._sizes[1:], strict=False)
        )
        count = min(height, -(-largest // elements))
        rows = [height * strip // count for strip in range(count + 1)]
        return list(pairwise(rows))

    def convolved(self, place: int, top: int, bottom: int) -> Tensor:
        """Rows top to bottom, without the last, of what a stage's convolution gives."""
        stage, edge = self.stages[place], self.stages[place].edge
        stride, up = stage.convolution.stride[0], stage.up
        first, last = top * stride - edge, (bottom - 1) * stride + edge + 1  # that it looks at
        start, end = max(0, first), min(last, up * self._sizes[place][0])  # that there are
        part = self._given_by(place - 1, start // up, -(-end // up))
        part = enlarged(part, up)[:, :, start % up : start % up + end - start]
        y: Tensor = stage.convolution(mirrored(part, edge, edge, start - first, last - end))
        return y

    def _given_by(self, place: int, top: int, bottom: int) -> Tensor:
        if place < 0:
            return self._x[:, :, top:bottom]
        return self.finished(place, self.convolved(place, top, bottom))

    def finished(self, place: int, y: Tensor) -> Tensor:
        """Rows of a convolution's result, normalized by the whole picture's moments."""
        norm, (mean, var, _) = self.stages[place].norm, self.moments[place]
        if isinstance(norm, ConditionalInstanceNorm2d):
            assert self._style is not None
            weight, bias = (p[0] for p in norm.in_style(self._style, 1))
        elif isinstance(norm, InstanceNorm2d):
            weight, bias = norm.weight, norm.bias
        else:  # it has statistics of its own, those of the training
            y = norm(y)
            return F.relu(y) if self.stages[place].rectifies else y
        activation = "relu" if self.stages[place].rectifies else None
        return functional.instance_norm(
            y, mean.float(), var.float(), weight, bias, use_input_stats=False, eps=norm.eps,
            activation=activation,
        )  # fmt: skip
