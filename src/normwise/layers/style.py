"""Instance norms whose scale and shift depend on a style: given as an example, or by number."""

import torch
from torch import Tensor

from normwise import ops
from normwise.axes import SCHEMES
from normwise.checks import whole_number
from normwise.errors import NormError, describe
from normwise.layers.base import Normalization
from normwise.layers.channelwise import Channelwise
from normwise.layers.lazy import Lazy
from normwise.layers.padding import full_mask
from normwise.reference import measure, normalize, wide


class _Adaptive(Normalization):
    scheme = SCHEMES["instance"]
    weight = bias = None
    feature_shape = ()  # it has no parameters, so any number of channels fits

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(  # type: ignore[override]  # a style, too, as no other layer takes
        self,
        x: Tensor,
        style: Tensor,
        mask: Tensor | None = None,
        style_mask: Tensor | None = None,
    ) -> Tensor:
        """Give each channel of x the mean and standard deviation it has in the style."""
        self.check_input(x)
        self.check_input(style)
        if style.shape[1] != x.shape[1] or style.shape[0] not in (1, x.shape[0]):
            raise NormError(
                f"the style of {self._name()} needs the channels of x, and as many samples or "
                f"one: received {describe(style)} for x {tuple(x.shape)}"
            )
        fitted = self.scheme.pattern.fit(x.dim())
        mask = full_mask(x, mask, fitted.features, self._name())
        if style_mask is not None:
            style_mask = full_mask(style, style_mask, fitted.features, self._name())
        y, content = normalize(wide(x), self.scheme, eps=self.eps, mask=mask)
        target = measure(wide(style), fitted.averaged, style_mask)
        self.check_elements(x, content.elements)
        self.check_elements(style, target.elements)
        y = y * (target.var + self.eps).sqrt() + target.offset + target.shift
        return self.finish(y, x, mask, fitted)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class AdaptiveInstanceNorm1d(_Adaptive):
    """Give each channel of a series the mean and standard deviation it has in another.

        norm(x, style)
        y[n, c, t] = (x[n, c, t] - mean(x)[n, c]) / sqrt(var(x)[n, c] + eps)
                     * sqrt(var(style)[n, c] + eps) + mean(style)[n, c]

    Nothing is learned.

    Shapes
        x           (N, C, T), floating; any unit
        style       (N, C, T') or (1, C, T'), floating; the unit of the output
        mask        (N, T) bool, True where x was recorded; all True if left out
        style_mask  the same for style; `padding` speaks of x alone
        out         like x, in its dtype; 0 where masked

    A style without a real position leaves mean 0 and variance 1.

    Raises
        NormError  if style has other channels or samples, a mask does not fit, or T
                   or T' is 1.

    Source: Huang and Belongie 2017, arXiv:1703.06868. The masks are ours.
    """

    dim = 1


class AdaptiveInstanceNorm2d(_Adaptive):
    """`AdaptiveInstanceNorm1d` for images: x (N, C, H, W), style (N, C, H', W')."""

    dim = 2


class _Conditional(Channelwise):
    scheme = SCHEMES["instance"]
    shown = ("num_styles", "eps")

    def __init__(
        self,
        num_styles: int,
        num_features: int | None = None,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        styles = whole_number(num_styles)
        if styles is None:
            raise NormError(
                f"{type(self).__name__} takes num_styles as a whole number above 0, "
                f"received {num_styles!r}"
            )
        super().__init__(
            num_features,
            {"weight": 1.0, "bias": 0.0},
            eps,
            leading=(styles,),
            device=device,
            dtype=dtype,
        )
        self.num_styles = styles

    def forward(  # type: ignore[override]  # an index, too, as no other layer takes
        self, x: Tensor, index: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Normalize x, then scale and shift each sample in its style or blend of styles."""
        self.check_input(x)
        fitted = self.scheme.pattern.fit(x.dim())
        mask = full_mask(x, mask, fitted.features, self._name())
        weight, bias = self.in_style(index, x.shape[0])
        if mask is None:  # a channel of a sample is to the kernels as one of many of one sample
            y, moments = ops.normalize(
                x.reshape(1, x.shape[0] * x.shape[1], *x.shape[2:]),
                self.scheme,
                weight=weight.reshape(-1),
                bias=bias.reshape(-1),
                eps=self.eps,
                keeps=False,
            )
            self.check_elements(x, moments.elements)
            return y.reshape(x.shape)
        y, moments = normalize(wide(x), self.scheme, eps=self.eps, mask=mask)
        self.check_elements(x, moments.elements)
        shape = (*x.shape[:2], *[1] * (x.dim() - 2))
        y = y * weight.reshape(shape) + bias.reshape(shape)
        return torch.where(mask, y, 0.0).to(x.dtype)

    def in_style(self, index: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Weight and bias that each of the samples gets, in its style or blend of styles.

        Shapes
            index  as forward takes it
            out    (N, C) each, float32 or wider
        """
        blends = isinstance(index, Tensor) and index.is_floating_point()
        expected = (samples, self.num_styles) if blends else (samples,)
        fits = isinstance(index, Tensor) and index.dtype != torch.bool and index.shape == expected
        weight, bias = wide(self.weight), wide(self.bias)
        if fits and blends:
            shares = index.to(weight.dtype)
            return shares @ weight, shares @ bias
        if fits:
            try:
                embedding = torch.nn.functional.embedding
                return embedding(index, weight), embedding(index, bias)
            except IndexError:
                pass
        raise NormError(
            f"{self._name()} takes the style of each sample as whole numbers below "
            f"{self.num_styles}, ({samples},), or as shares, floating "
            f"({samples}, {self.num_styles}); received {describe(index)}"
        )


class ConditionalInstanceNorm1d(_Conditional):
    """Centre and scale each channel of each series; scale and shift it in a style by number.

        norm(x, index)
        y[n, c, t] = (x[n, c, t] - mean[n, c]) / sqrt(var[n, c] + eps)
                     * weight[index[n], c] + bias[index[n], c]

    Shares instead of numbers blend styles: weight and bias are then
    sum_s index[n, s] * weight[s, c], and bias alike; shares need not sum to 1.
    `num_features` left out is inferred.

    Shapes
        x             (N, C, T), floating; any unit
        index         (N,) whole numbers below num_styles, or (N, num_styles) floating
        mask          (N, T) bool, True where a sample was recorded; all True if left out
        weight, bias  (num_styles, C)
        out           like x, in its dtype; no unit before weight and bias; 0 where masked

    Raises
        NormError  if C is not num_features, index or mask does not fit x, or T is 1.
                   On a GPU a number that is no style stops the device instead.

    Source: Dumoulin, Shlens and Kudlur 2017, arXiv:1610.07629. The mask is ours.
    """

    dim = 1


class ConditionalInstanceNorm2d(_Conditional):
    """`ConditionalInstanceNorm1d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class LazyConditionalInstanceNorm1d(ConditionalInstanceNorm1d, Lazy):
    """`ConditionalInstanceNorm1d` that takes num_features from its first input, if not given."""


class LazyConditionalInstanceNorm2d(ConditionalInstanceNorm2d, Lazy):
    """`ConditionalInstanceNorm2d` that takes num_features from its first input, if not given."""
