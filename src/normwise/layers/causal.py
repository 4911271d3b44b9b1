"""Cumulative layer norm: everything up to now counts, nothing after it."""

from typing import NamedTuple

import torch
from torch import Tensor

from normwise.axes import SCHEMES, Fitted
from normwise.errors import NormError
from normwise.layers.channelwise import Channelwise, weight_and_bias
from normwise.layers.lazy import Lazy
from normwise.layers.padding import full_mask
from normwise.reference import Moments, deviation, measure, standardise, wide


class CausalState(NamedTuple):
    """What `CausalNorm1d` knows of the positions it has seen: each (N, 1, 1), float64."""

    elements: Tensor  # real elements, over channels and positions
    total: Tensor  # their sum
    squares: Tensor  # the sum of their squared distances from their mean


class CausalNorm1d(Channelwise):
    """Centre and scale each position by the statistics of all channels up to it.

        y[n, c, t] = (x[n, c, t] - mean[n, t]) / sqrt(var[n, t] + eps) * weight[c] + bias[c]

    with mean and var over x[n, :, :t + 1]. For streams: no output depends on what
    comes later, and chunk by chunk gives what the whole would::

        state = None
        for chunk in chunks:
            y, state = norm.stream(chunk, state)

    `num_features` left out is inferred.

    Shapes
        x     (N, C, T), floating; any unit
        mask  (N, T) bool, True where a sample was recorded; all True if left out
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    With C = 1 the first real sample gives bias.

    Each position's moments are measured about its own mean and merged into
    those before it in float64, where all that is added to the variance is
    squares, so nothing cancels. Measured over 20,000 positions of 8 channels:
    float32 is off from the formula by at most 7e-7 at mean/std of 0, 1e2, 1e4
    and 1e6 alike, with outputs up to 5.

    Raises
        NormError  if C is not num_features, or mask or state does not fit x.

    Source: Luo and Mesgarani 2019, arXiv:1809.07454 (cLN); moments merged as in Chan,
    Golub and LeVeque 1983. The mask and the stream are ours.
    """

    scheme = SCHEMES["layer"]  # of one position; `_merged` adds those before it
    dim = 1

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, weight_and_bias(affine, bias), eps, device=device, dtype=dtype
        )

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """The norm of a whole series, from its first position."""
        return self._continued(x, mask, fitted, _start(x), residual)[0]

    def stream(
        self, x: Tensor, state: CausalState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, CausalState]:
        """Normalize the next chunk of a stream, given the state after the chunk before it.

        Shapes
            x      (N, C, T), floating; T may differ from chunk to chunk
            state  as the last call returned it; None at the start
            mask   (N, T) bool, of this chunk; `padding`, which speaks of whole
                   series, is not asked

        Returns the output and the state to give with the next chunk. Gradients pass
        through the state.

        Raises
            NormError  if x, mask and state do not fit, or the layer has no size yet.
        """
        self.check_input(x)
        if not self.feature_shape:
            raise NormError(
                f"{self._name()} cannot learn its size from a stream; make it with "
                f"num_features={x.shape[1]}"
            )
        if state is not None and state.elements.shape[0] != x.shape[0]:
            raise NormError(
                f"the state is of {len(state.elements)} series, and x has {x.shape[0]}: received "
                f"{tuple(x.shape)}; a stream keeps its series"
            )
        fitted = self.scheme.pattern.fit(x.dim())
        if mask is not None:
            mask = torch.as_tensor(full_mask(x, mask, fitted.features, self._name()))
            x = torch.where(mask, x, 0.0)  # as forward does, against NaN
        return self._continued(x, mask, fitted, _start(x) if state is None else state)

    def _continued(
        self,
        x: Tensor,
        mask: Tensor | None,
        fitted: Fitted,
        state: CausalState,
        residual: Tensor | None = None,
    ) -> tuple[Tensor, CausalState]:
        moments, state = _merged(measure(wide(x), fitted.averaged, mask), state, wide(x).dtype)
        y = standardise(deviation(wide(x), moments), moments.var, float(self.eps))
        return self.finish(y, x, mask, fitted, residual), state


class LazyCausalNorm1d(CausalNorm1d, Lazy):
    """`CausalNorm1d` that takes num_features from its first input, if not given."""


def _start(x: Tensor) -> CausalState:
    nothing = x.new_zeros((x.shape[0], 1, 1), dtype=torch.float64)
    return CausalState(nothing, nothing, nothing)


def _merged(each: Moments, before: CausalState, dtype: torch.dtype) -> tuple[Moments, CausalState]:
    """The moments of all positions up to each, given those of each and of what came before.

    Two sets of n and m elements merge as
    squares = squares_n + squares_m + (mean_n - mean_m)² * n * m / (n + m).
    """
    mean = each.shift.double() + each.offset.double()
    here = torch.as_tensor(each.elements, dtype=torch.float64, device=mean.device).expand_as(mean)
    elements = before.elements + here.cumsum(2)
    total = before.total + (here * mean).cumsum(2)
    means = total / elements.clamp(min=1)
    earlier = elements - here
    first = before.total / before.elements.clamp(min=1)
    distance = mean - torch.cat([first, means], 2)[..., :-1]
    grown = here * (each.var.double() + distance.square() * earlier / elements.clamp(min=1))
    squares = before.squares + grown.cumsum(2)

    shift = means.detach().to(dtype)
    var = (squares / elements.clamp(min=1)).to(dtype)
    moments = Moments(shift, (means - shift).to(dtype), var, 0)
    after = (elements, total, squares)
    ends = (torch.cat(pair, 2)[..., -1:] for pair in zip(before, after, strict=True))
    return moments, CausalState(*ends)
