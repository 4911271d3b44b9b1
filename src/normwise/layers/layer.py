"""Norms within one position or one trailing block: layer norm and RMS norm, of both kinds."""

from collections.abc import Sequence

import torch

from normwise.axes import SCHEMES, Scheme, trailing_scheme
from normwise.checks import check_activation
from normwise.layers.base import Normalization, checked_shape
from normwise.layers.lazy import Lazy, make_lazy


class LayerNorm(Normalization, torch.nn.LayerNorm):
    """Centre and scale the trailing dimensions by their own statistics.

        y[…, c] = (x[…, c] - mean[…]) / sqrt(var[…] + eps) * weight[c] + bias[c]

    with c running over `normalized_shape`, the last dimensions of x. Left out, it
    is inferred as the last one. For channels in the second dimension, as
    convolutions have them, see `LayerNorm1d`.

    Shapes
        x     (…, *normalized_shape), floating; any unit
        mask  (…) bool, True where a sample was recorded; all True if left out
        residual  like x, floating; added to y before the `activation`, if there is one
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    Raises
        NormError  if x does not end in normalized_shape, or mask does not fit x.

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450.
    """

    size_name = "normalized_shape"

    def __init__(
        self,
        normalized_shape: int | Sequence[int] | None = None,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        shape = checked_shape(self, normalized_shape)
        torch.nn.LayerNorm.__init__(self, shape, eps, elementwise_affine, bias, device, dtype)
        self.activation = check_activation(activation, type(self).__name__)
        if shape == (0,):
            make_lazy(self)

    @property
    def scheme(self) -> Scheme:  # type: ignore[override]  # no attribute: it depends on the shape
        return trailing_scheme(len(self.normalized_shape))


class RMSNorm(Normalization, torch.nn.RMSNorm):
    """Scale the trailing dimensions by their root mean square; the mean stays.

        y[…, c] = x[…, c] / sqrt(mean(x[…]²) + eps) * weight[c]

    with c running over `normalized_shape`, the last dimensions of x. `eps=None`
    is the machine epsilon of x's dtype. For channels in the second dimension, see
    `RMSNorm1d`.

    Shapes
        x     (…, *normalized_shape), floating; any unit
        mask  (…) bool, True where a sample was recorded; all True if left out
        residual  like x, floating; added to y before the `activation`, if there is one
        out   like x, in its dtype; no unit before weight; 0 where masked

    Raises
        NormError  if x does not end in normalized_shape, or mask does not fit x.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    size_name = "normalized_shape"

    def __init__(
        self,
        normalized_shape: int | Sequence[int] | None = None,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        shape = checked_shape(self, normalized_shape)
        torch.nn.RMSNorm.__init__(self, shape, eps, elementwise_affine, device, dtype)
        self.activation = check_activation(activation, type(self).__name__)
        if shape == (0,):
            make_lazy(self)

    @property
    def scheme(self) -> Scheme:  # type: ignore[override]  # no attribute: it depends on the shape
        return trailing_scheme(len(self.normalized_shape), centres=False)


class _ChannelLayer(LayerNorm):
    scheme = SCHEMES["layer"]

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(
            num_features, eps, elementwise_affine, bias, device, dtype, activation=activation
        )


class LayerNorm1d(_ChannelLayer):
    """Centre and scale the channels of each position by their own statistics.

        y[n, c, t] = (x[n, c, t] - mean[n, t]) / sqrt(var[n, t] + eps) * weight[c] + bias[c]

    No position's result depends on another's, so padding and the future are
    without effect. The same as moving C last, `LayerNorm(C)`, and moving it back.
    `num_features` left out is inferred.

    Shapes
        x     (N, C, T) or (N, C), floating; any unit
        mask  (N, T) or (N,) bool, True where a sample was recorded; all True if left out
        residual  like x, floating; added to y before the `activation`, if there is one
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    Raises
        NormError  if C is not num_features, C is 1, or mask does not fit x.

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450; over channels alone as in
    Luo and Mesgarani 2019, arXiv:1809.07454. The mask is ours.
    """

    dim = 1
    takes_flat = True


class LayerNorm2d(_ChannelLayer):
    """`LayerNorm1d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class LayerNorm3d(_ChannelLayer):
    """`LayerNorm1d` for volumes: x (N, C, D, H, W), mask (N, D, H, W)."""

    dim = 3


class _ChannelRMS(RMSNorm):
    scheme = SCHEMES["rms"]

    def __init__(
        self,
        num_features: int | None = None,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(
            num_features, eps, elementwise_affine, device, dtype, activation=activation
        )


class RMSNorm1d(_ChannelRMS):
    """Scale the channels of each position by their root mean square; the mean stays.

        y[n, c, t] = x[n, c, t] / sqrt(mean(x[n, :, t]²) + eps) * weight[c]

    `eps=None` is the machine epsilon of x's dtype. `num_features` left out is
    inferred.

    Shapes
        x     (N, C, T) or (N, C), floating; any unit
        mask  (N, T) or (N,) bool, True where a sample was recorded; all True if left out
        residual  like x, floating; added to y before the `activation`, if there is one
        out   like x, in its dtype; no unit before weight; 0 where masked

    Raises
        NormError  if C is not num_features, or mask does not fit x.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467. The mask is ours.
    """

    dim = 1
    takes_flat = True


class RMSNorm2d(_ChannelRMS):
    """`RMSNorm1d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class RMSNorm3d(_ChannelRMS):
    """`RMSNorm1d` for volumes: x (N, C, D, H, W), mask (N, D, H, W)."""

    dim = 3


class LazyLayerNorm(LayerNorm, Lazy):
    """`LayerNorm` that takes normalized_shape from its first input, if not given."""


class LazyLayerNorm1d(LayerNorm1d, Lazy):
    """`LayerNorm1d` that takes num_features from its first input, if not given."""


class LazyLayerNorm2d(LayerNorm2d, Lazy):
    """`LayerNorm2d` that takes num_features from its first input, if not given."""


class LazyLayerNorm3d(LayerNorm3d, Lazy):
    """`LayerNorm3d` that takes num_features from its first input, if not given."""


class LazyRMSNorm(RMSNorm, Lazy):
    """`RMSNorm` that takes normalized_shape from its first input, if not given."""


class LazyRMSNorm1d(RMSNorm1d, Lazy):
    """`RMSNorm1d` that takes num_features from its first input, if not given."""


class LazyRMSNorm2d(RMSNorm2d, Lazy):
    """`RMSNorm2d` that takes num_features from its first input, if not given."""


class LazyRMSNorm3d(RMSNorm3d, Lazy):
    """`RMSNorm3d` that takes num_features from its first input, if not given."""
