"""A long series as samples: what was known, and what came then."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normwise.errors import NormError, describe


class Windows:
    """Every stretch of a series as a sample: `history` steps, and the `horizon` steps that follow.

        x[n] = series[:, n : n + history]
        y[n] = series[targets, n + history : n + history + horizon]

    Shapes
        series  (C, T) or (T,), floating; any unit
        x       (N, C, history), N = (T - history - horizon) // stride + 1
        y       (N, len(targets), horizon)

    A task forecasts all of the horizon at once (direct multi-step), and parts windows in
    time alone: what it trains on ends before the first step that it is scored on.

    targets  channels to forecast; all if left out
    stride   steps from one window to the next

    Raises
        NormError  if the series is shorter than one window.
    """

    def __init__(
        self,
        series: Any,
        history: int,
        horizon: int,
        *,
        targets: Sequence[int] | None = None,
        stride: int = 1,
    ) -> None:
        for option, number in (("history", history), ("horizon", horizon), ("stride", stride)):
            if not isinstance(number, int) or number < 1:
                raise NormError(f"{option} must be a whole number above 0, received {number!r}")
        self.series = torch.as_tensor(series)
        self.history, self.horizon, self.stride = history, horizon, stride
        self.targets = None if targets is None else list(targets)
        if self.series.dim() == 1:
            self.series = self.series[None]
        if self.series.dim() != 2 or self.series.shape[-1] < history + horizon:
            raise NormError(
                f"a series of windows with {history} + {horizon} steps must be (C, T) or (T,) with "
                f"T of {history + horizon} or more; received {describe(series)}"
            )

    def arrays(self) -> tuple[Tensor, Tensor]:
        """All windows as (x, y): views, which take no memory of their own."""
        size = self.history + self.horizon
        every = self.series.unfold(-1, size, self.stride).movedim(1, 0)
        y = every[..., self.history :]
        return every[..., : self.history], y if self.targets is None else y[:, self.targets]

    @property
    def gap(self) -> int:
        """Windows between two that share no step to be forecast."""
        return -(-self.horizon // self.stride) - 1

    def with_history(self, history: int) -> "Windows":
        """The same forecasts from so much of the past."""
        start = self.history - history
        if start < 0:
            raise NormError(
                f"length={history} is more than the windows' history of {self.history}; "
                "give them that history"
            )
        return Windows(
            self.series[:, start:],
            history,
            self.horizon,
            targets=self.targets,
            stride=self.stride,
        )
