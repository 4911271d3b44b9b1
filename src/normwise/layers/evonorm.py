"""EvoNorm: norm and activation in one, as an evolutionary search found them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from normwise.axes import SCHEMES, Fitted
from normwise.checks import check_groups
from normwise.layers.channelwise import Channelwise, weight_and_bias
from normwise.layers.lazy import Lazy
from normwise.layers.remembering import Remembering, policy_of
from normwise.ops import Stored
from normwise.reference import Moments, measure, split, wide
from normwise.running import OnNonfinite, Running, unbiased

_PAPER_GROUPS = 32


def _usual_groups(num_features: int) -> int:
    """32, or the largest number below it that divides the channels, as in the authors' code."""
    return next(g for g in range(_PAPER_GROUPS, 0, -1) if num_features % g == 0)


class _EvoNorm(Channelwise):
    slope: Tensor

    def sloped(self, x: Tensor) -> Tensor:
        """slope[c] * x, wide."""
        return wide(x) * wide(self.slope).reshape(-1, *[1] * (x.dim() - 2))


class _S0(_EvoNorm):
    scheme = SCHEMES["group"]
    shown = ("num_groups", "eps")

    def __init__(
        self,
        num_features: int | None = None,
        num_groups: int | None = None,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        channels = {**weight_and_bias(affine, bias), "slope": 1.0}
        super().__init__(num_features, channels, eps, device=device, dtype=dtype)
        self.num_groups = num_groups
        self.set_size((self.num_features,))

    def set_size(self, shape: tuple[int, ...]) -> None:
        if self.num_groups is not None:
            self.num_groups = check_groups(self.num_groups, shape[0])
        super().set_size(shape)

    def part_sizes(self) -> Mapping[str, int]:
        return {"g": self.num_groups or _usual_groups(self.num_features)}

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """x * sigmoid(slope * x) over the standard deviation of x's group."""
        sizes = self.part_sizes()
        values = split(wide(x), fitted, sizes)
        real = None if mask is None else split(mask, fitted, sizes)
        moments = measure(values, fitted.averaged, real)
        self.check_elements(x, moments.elements)
        y = (values * (moments.var + self.eps).rsqrt()).reshape(x.shape)
        return self.finish(y * torch.sigmoid(self.sloped(x)), x, mask, fitted, residual)


class EvoNormS01d(_S0):
    """Let x through by its own sign, and scale it by the deviation of its group.

        y[n, c, t] = x[n, c, t] * sigmoid(slope[c] * x[n, c, t]) / sqrt(var[n, g] + eps)
                     * weight[c] + bias[c]

    where channel c belongs to group g. No mean is taken off x. The name is the
    paper's EvoNorm-S0, for signals; it takes the place of the activation that
    follows, too. `num_groups` left out is 32 as in the paper, or the largest number
    below it that divides C; `num_features` left out is inferred.

    Shapes
        x     (N, C, T), floating; any unit
        mask  (N, T) bool, True where a sample was recorded; all True if left out
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    Nothing depends on the batch. x has to be near 0 for the sigmoid to act: its
    offset stays in.

    Raises
        NormError  if C is not num_features, num_groups does not divide it, mask does
                   not fit x, or a group would be averaged over one element.

    Source: Liu, Brock, Simonyan and Le 2020, arXiv:2004.02967; where no activation
    would follow, their layer is weight and bias alone. The mask is ours.
    """

    dim = 1


class EvoNormS02d(_S0):
    """`EvoNormS01d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class _B0(_EvoNorm, Remembering):
    scheme = SCHEMES["batch"]
    shown = ("eps", "momentum")
    track_running_stats = True

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        on_nonfinite: OnNonfinite = "ignore",
    ) -> None:
        super().__init__(
            num_features,
            {**weight_and_bias(affine, bias), "slope": 1.0},
            eps,
            buffers={"running_var": 1.0},
            device=device,
            dtype=dtype,
        )
        self.momentum = momentum
        self.on_nonfinite = on_nonfinite
        self._policy()  # refuses a momentum that can never be valid
        counter = torch.zeros((), dtype=torch.int64, device=device)
        self.register_buffer("num_batches_tracked", counter)
        self.register_buffer("running_mean", None)
        self._widen()

    def reset_parameters(self) -> None:
        """Every parameter and buffer as it started, and no batch seen."""
        super().reset_parameters()
        counter = self._buffers.get("num_batches_tracked")
        if counter is not None:  # the constructor calls this before there is one
            counter.zero_()

    def _policy(self) -> Running:
        return policy_of(self.momentum, self.on_nonfinite)

    def remember(self, moments: Moments | Stored, fitted: Fitted) -> None:
        assert isinstance(moments, Moments)  # a formula of its own measures them
        super().remember(moments._replace(var=unbiased(moments)), fitted)

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """x over the larger of the batch's deviation and slope * x + the instance's."""
        batch = self.given(x, mask, fitted)
        if batch is None:
            batch = measure(wide(x), fitted.averaged, mask)
            self.check_elements(x, batch.elements)
            self.remember(batch, fitted)
        own = measure(wide(x), SCHEMES["instance"].pattern.fit(x.dim()).averaged, mask)
        of_batch, of_own = ((wide(part.var) + self.eps).sqrt() for part in (batch, own))
        y = wide(x) / torch.maximum(of_batch, self.sloped(x) + of_own)
        return self.finish(y, x, mask, fitted, residual)


class EvoNormB01d(_B0):
    """Scale x by the deviation of the batch, or of itself where that makes it smaller.

        y[n, c, t] = x[n, c, t] / max(sqrt(batch_var[c] + eps),
                                      slope[c] * x[n, c, t] + sqrt(var[n, c] + eps))
                     * weight[c] + bias[c]

    No mean is taken off x. The name is the paper's EvoNorm-B0, for signals; it
    takes the place of the activation that follows, too. In training batch_var is
    the batch's own, and running_var (unbiased) follows it with weight
    `momentum`; evaluation takes running_var. `momentum=None` averages all
    batches alike; `on_nonfinite` is as in `BatchNorm1d`. `num_features` left out is
    inferred.

    Shapes
        x     (N, C, T), floating; any unit
        mask  (N, T) bool, True where a sample was recorded; all True if left out
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    A batch without a real position changes nothing.

    Raises
        NormError  if C is not num_features, mask does not fit x, momentum is not
                   between 0 and 1, or a channel would be averaged over one element
                   in training.

    Source: Liu, Brock, Simonyan and Le 2020, arXiv:2004.02967; where no activation
    would follow, their layer is weight and bias alone. Like batch norm, and unlike
    their code, this remembers an unbiased variance. The mask is ours.
    """

    dim = 1


class EvoNormB02d(_B0):
    """`EvoNormB01d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class LazyEvoNormS01d(EvoNormS01d, Lazy):
    """`EvoNormS01d` that takes num_features from its first input, if not given."""


class LazyEvoNormS02d(EvoNormS02d, Lazy):
    """`EvoNormS02d` that takes num_features from its first input, if not given."""


class LazyEvoNormB01d(EvoNormB01d, Lazy):
    """`EvoNormB01d` that takes num_features from its first input, if not given."""


class LazyEvoNormB02d(EvoNormB02d, Lazy):
    """`EvoNormB02d` that takes num_features from its first input, if not given."""
