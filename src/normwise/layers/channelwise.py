"""Layers whose parameters torch.nn does not make for them: one number for each channel."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from normwise.layers.base import Normalization, checked_size
from normwise.layers.lazy import make_lazy


class Channelwise(Normalization):
    """Makes parameters and buffers by name, from the value that each starts with.

    A subclass hands over what it has: `channels` are parameters with a number for
    each channel, `scalars` with one number for the layer, `buffers` are not
    learned. None in place of a value leaves that parameter out. `leading` sizes come
    before that of the channels.
    """

    shown: ClassVar[tuple[str, ...]] = ("eps",)  # the attributes that stand in the repr

    def __init__(
        self,
        num_features: int | None,
        channels: Mapping[str, float | None],
        eps: float | None = None,
        *,
        scalars: Mapping[str, float | None] | None = None,
        buffers: Mapping[str, float] | None = None,
        leading: tuple[int, ...] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = checked_size(self, num_features)
        self.eps = eps
        self.leading = leading
        self._starts = {**channels, **(scalars or {}), **(buffers or {})}
        for name, start in self._starts.items():
            shape = () if name in (scalars or {}) else (*self.leading, self.num_features)
            empty = torch.empty(shape, device=device, dtype=dtype)
            if name in (buffers or {}):
                self.register_buffer(name, empty)
            else:
                learned = None if start is None else torch.nn.Parameter(empty)
                self.register_parameter(name, learned)
        self.reset_parameters()
        if not self.num_features:
            make_lazy(self)

    def reset_parameters(self) -> None:
        """Every parameter and buffer as it started."""
        with torch.no_grad():
            for name, start in self._starts.items():
                if start is not None:
                    getattr(self, name).fill_(start)

    def extra_repr(self) -> str:
        named = (f"{name}={getattr(self, name)}" for name in self.shown)
        return ", ".join(filter(None, [str(self.num_features), *named, super().extra_repr()]))


def weight_and_bias(affine: bool, bias: bool = True) -> dict[str, float | None]:
    """What weight and bias start with, for `Channelwise`."""
    return {"weight": 1.0 if affine else None, "bias": 0.0 if affine and bias else None}
