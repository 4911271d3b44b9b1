"""No normalization: what every comparison has among its candidates."""

from typing import Any

import torch
from torch import Tensor

from normwise.checks import check_activation, check_residual
from normwise.layers.padding import full_mask
from normwise.reference import finish, wide


class Identity(torch.nn.Identity):
    """Return x as it is: the place of a norm, without one.

        y = x

    `num_features` is kept, so that a norm can be swapped back in; `trailing` says
    that the features are the last dimensions, not the second. As in every
    layer here, masked positions return 0, so that what is compared is the norm
    and not the padding.

    A residual is added and the activation applied, as in every layer here.

    Shapes
        x     (N, C, …), any dtype
        mask  (N, …) bool, True where a sample was recorded; all True if left out
        out   x; 0 where masked

    Raises
        NormError  if mask does not fit x.

    Source: torch.nn.Identity. The mask is ours.
    """

    activation: str | None = None

    def __init__(
        self,
        num_features: int | tuple[int, ...] | None = None,
        *args: Any,
        trailing: bool = False,
        activation: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.trailing = trailing
        self.activation = check_activation(activation, "Identity")

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, residual: Tensor | None = None
    ) -> Tensor:
        check_residual(x, residual, "Identity")
        count = len(self.num_features) if isinstance(self.num_features, tuple) else 1
        features = tuple(range(x.dim() - count, x.dim())) if self.trailing else (1,)
        full = full_mask(x, mask, features, "Identity")
        if self.activation is None and residual is None:
            return x if full is None else torch.where(full, x, 0)
        return finish(wide(x), x.dtype, mask=full, activation=self.activation, residual=residual)

    def extra_repr(self) -> str:
        words = [] if self.num_features is None else [str(self.num_features)]
        words += [] if self.activation is None else [f"activation={self.activation!r}"]
        return ", ".join(words)
