"""What is timed: norms, inputs and passes as data, and a layer and an input for each."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

import torch
from torch import Tensor

from normwise import layers
from normwise.errors import NormError


class ChannelsLast(torch.nn.Module):
    """What torch.nn has to do for a norm over channels: turn, normalize, turn back."""

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """The norm over dimension 1."""
        y: Tensor = self.norm(x.movedim(1, -1))
        return y.movedim(-1, 1)


Make = Callable[[int, int], torch.nn.Module]  # of the features and the dimensions after N and C


@dataclass(frozen=True)
class Kind:
    """One norm: how ours and torch's are made, and how it is used.

    trailing   whether the features are the last dimension
    inference  whether it is in evaluation mode, and is not trained
    """

    ours: Make
    torchs: Make
    trailing: bool = False
    inference: bool = False


def _ranked(name: str, *leading: int, **keywords: bool) -> Make:
    return lambda c, dim: getattr(layers, f"{name}{max(dim, 1)}d")(*leading, c, **keywords)


def _of_torch(name: str, **keywords: bool) -> Make:
    return lambda c, dim: getattr(torch.nn, f"{name}{max(dim, 1)}d")(c, **keywords)


def _groups(channels: int) -> int:
    return math.gcd(channels, 8)


KINDS = {
    "batch": Kind(_ranked("BatchNorm"), _of_torch("BatchNorm")),
    "batch inference": Kind(_ranked("BatchNorm"), _of_torch("BatchNorm"), inference=True),
    "instance": Kind(_ranked("InstanceNorm", affine=True), _of_torch("InstanceNorm", affine=True)),
    "group": Kind(
        lambda c, dim: _ranked("GroupNorm", _groups(c))(c, dim),
        lambda c, dim: torch.nn.GroupNorm(_groups(c), c),
    ),
    "layer": Kind(_ranked("LayerNorm"), lambda c, dim: ChannelsLast(torch.nn.LayerNorm(c))),
    "rms": Kind(_ranked("RMSNorm"), lambda c, dim: ChannelsLast(torch.nn.RMSNorm(c))),
    "trailing layer": Kind(
        lambda c, dim: layers.LayerNorm(c), lambda c, dim: torch.nn.LayerNorm(c), trailing=True
    ),
    "trailing rms": Kind(
        lambda c, dim: layers.RMSNorm(c), lambda c, dim: torch.nn.RMSNorm(c), trailing=True
    ),
}


@dataclass(frozen=True)
class Case:
    """One norm on one input, forward alone or forward and backward."""

    kind: str
    backward: bool
    shape: tuple[int, ...]
    dtype: str = "float32"
    channels_last: bool = False

    @property
    def sizes(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def name(self) -> str:
        """One line that tells it from all others: group step 64x128x4096 float32."""
        words = [self.kind, "step" if self.backward else "forward", self.sizes, self.dtype]
        return " ".join([*words, *["channels-last"] * self.channels_last])

    @property
    def input_bytes(self) -> int:
        itemsize: int = getattr(torch, self.dtype).itemsize
        return math.prod(self.shape) * itemsize

    def layers(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Ours and torch's, with the same features, dtype and mode."""
        kind = KINDS[self.kind]
        features = self.shape[-1 if kind.trailing else 1]
        made = (make(features, len(self.shape) - 2) for make in (kind.ours, kind.torchs))
        ours, torchs = (
            layer.to(getattr(torch, self.dtype)).train(not kind.inference) for layer in made
        )
        return ours, torchs

    def input(self, seed: int = 0) -> Tensor:
        """Normal numbers in the case's dtype and memory layout."""
        random = torch.Generator().manual_seed(seed)
        x = torch.randn(self.shape, generator=random).to(getattr(torch, self.dtype))
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def __str__(self) -> str:
        return self.name


_SIGNALS = ((4, 3, 7), (10, 20, 100), (32, 64, 1024), (64, 128, 4096))
_LARGE, _AUDIO, _IMAGES, _ROWS = (64, 128, 4096), (4, 512, 32000), (16, 256, 64, 64), (8192, 64)
_SHORT = ((64, 512, 16), (32, 768, 7, 7))  # as deep layers have them
_OVER_CHANNELS = ("batch", "batch inference", "instance", "group", "layer")


def grid() -> list[Case]:
    """Every case of the benchmark: signals of all sizes, long audio, images, features, rows."""
    inputs = [
        *product(KINDS, _SIGNALS, ["float32"], [False]),
        *product(KINDS, [_LARGE], ["bfloat16"], [False]),
        *product(_OVER_CHANNELS, [_AUDIO, *_SHORT], ["float32"], [False]),
        *product(_OVER_CHANNELS, [_IMAGES], ["float32"], [False, True]),
        *product(
            ("batch", "batch inference", "trailing layer", "trailing rms"),
            [_ROWS],
            ["float32"],
            [False],
        ),
    ]
    return [
        Case(kind, backward, shape, dtype, channels_last)
        for kind, shape, dtype, channels_last in inputs
        for backward in (False, True)
        if not (backward and KINDS[kind].inference)
    ]


_QUICK = (32, 64, 1024)  # some milliseconds for each


def chosen(only: str | None = None, *, quick: bool = False) -> list[Case]:
    """The cases whose names contain a pattern, all if it is left out; if `quick`, of one input.

    Raises
        NormError  if there is none.
    """
    cases = [case for case in grid() if not quick or case.shape == _QUICK]
    found = [case for case in cases if only is None or fnmatchcase(case.name, f"*{only}*")]
    if not found:
        raise NormError(
            f"no case of the benchmark has a name with {only!r}; names are as {cases[0].name!r}, "
            "and * stands for anything"
        )
    return found
