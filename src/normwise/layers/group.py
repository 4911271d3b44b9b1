"""Group norm: channels share statistics in groups."""

from collections.abc import Mapping

import torch

from normwise.axes import SCHEMES
from normwise.checks import check_activation, check_groups
from normwise.layers.base import Normalization, checked_size
from normwise.layers.lazy import Lazy, make_lazy


class GroupNorm(Normalization, torch.nn.GroupNorm):
    """Centre and scale each group of channels of each sample by its own statistics.

        y[n, c, …] = (x[n, c, …] - mean[n, g]) / sqrt(var[n, g] + eps) * weight[c] + bias[c]

    where channel c belongs to group g = c // (C / num_groups). One group is layer
    norm over a whole sample, C groups are instance norm. `num_channels` left out
    is inferred.

    Shapes
        x     (N, C, …), floating; any unit
        mask  (N, …) bool, True where a sample was recorded; all True if left out
        residual  like x, floating; added to y before the `activation`, if there is one
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    Raises
        NormError  if num_groups does not divide C, C is not num_channels, mask does
                   not fit x, or a group would be averaged over one element.

    Source: Wu and He 2018, arXiv:1803.08494. The mask is ours.
    """

    scheme = SCHEMES["group"]
    size_name = "num_channels"

    def __init__(
        self,
        num_groups: int,
        num_channels: int | None = None,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        size = checked_size(self, num_channels)
        num_groups = check_groups(num_groups, size)
        torch.nn.GroupNorm.__init__(self, num_groups, size, eps, affine, device, dtype)
        self.activation = check_activation(activation, type(self).__name__)
        if not bias:
            self.register_parameter("bias", None)
        if not size:
            make_lazy(self)

    def part_sizes(self) -> Mapping[str, int]:
        return {"g": self.num_groups}

    def set_size(self, shape: tuple[int, ...]) -> None:
        check_groups(self.num_groups, shape[0])
        super().set_size(shape)


class GroupNorm1d(GroupNorm):
    """`GroupNorm` for signals: x (N, C, T) or (N, C), mask (N, T) or (N,)."""

    dim = 1
    takes_flat = True


class GroupNorm2d(GroupNorm):
    """`GroupNorm` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class GroupNorm3d(GroupNorm):
    """`GroupNorm` for volumes: x (N, C, D, H, W), mask (N, D, H, W)."""

    dim = 3


class LazyGroupNorm(GroupNorm, Lazy):
    """`GroupNorm` that takes num_channels from its first input, if not given."""


class LazyGroupNorm1d(GroupNorm1d, Lazy):
    """`GroupNorm1d` that takes num_channels from its first input, if not given."""


class LazyGroupNorm2d(GroupNorm2d, Lazy):
    """`GroupNorm2d` that takes num_channels from its first input, if not given."""


class LazyGroupNorm3d(GroupNorm3d, Lazy):
    """`GroupNorm3d` that takes num_channels from its first input, if not given."""
