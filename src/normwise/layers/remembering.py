"""Layers with running statistics: what they have in common, whatever is averaged."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from normwise.axes import Fitted
from normwise.layers.base import Normalization
from normwise.ops import Recurring, Stored, remember
from normwise.reference import Moments, measured, wide
from normwise.running import OnNonfinite, Remembered, Running, recall

_Self = TypeVar("_Self", bound="Remembering")
_STATISTICS = ("running_mean", "running_var")
# Made once for each kind: checking its words takes as long as the norm of a small tensor.
_POLICIES: dict[tuple[float | None, OnNonfinite], Running] = {}


def policy_of(momentum: float | None, on_nonfinite: OnNonfinite) -> Running:
    """The policy that torch.nn's spelling of a momentum means: None is the plain average."""
    key = (momentum, on_nonfinite)
    policy = _POLICIES.get(key)
    if policy is None:
        if momentum is None:
            policy = Running(average="cumulative", on_nonfinite=on_nonfinite)
        else:
            policy = Running(momentum=momentum, on_nonfinite=on_nonfinite)
        _POLICIES[key] = policy
    return policy


class WideStatistics(Normalization):
    """A layer whose running_mean and running_var are float32 or wider.

    Whatever becomes of the parameters: a half has 11 bits, and a momentum of 0.01
    would move its last one at best.
    """

    running_mean: Tensor | None
    running_var: Tensor | None

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> "WideStatistics":  # what .half(), .to() and their kin go through
        before = {name: self._buffers[name] for name in _STATISTICS}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own has no types
        for name, wider in before.items():
            after = self._buffers[name]
            if wider is not None and after is not None and after.dtype != wide(after).dtype:
                self._buffers[name] = wider.to(after.device)
        return self

    def _widen(self) -> None:
        """Statistics of a layer that is made in half precision."""
        for name in _STATISTICS:
            buffer = self._buffers[name]
            if buffer is not None:
                self._buffers[name] = wide(buffer)


class Remembering(WideStatistics):
    """A layer with the buffers running_mean, running_var and num_batches_tracked."""

    num_batches_tracked: Tensor | None
    track_running_stats: bool
    on_nonfinite: OnNonfinite = "ignore"  # what becomes of a batch that is not finite
    frozen: bool = False  # whether the layer stays in evaluation, whatever `.train()` says

    def train(self: _Self, mode: bool = True) -> _Self:
        """As every module; a frozen layer stays in evaluation."""
        super().train(mode and not self.frozen)
        return self

    def extra_repr(self) -> str:
        words = [super().extra_repr()]
        words += [f"on_nonfinite={self.on_nonfinite!r}"] * (self.on_nonfinite != "ignore")
        return ", ".join([*words, *["frozen=True"] * self.frozen])

    def _policy(self) -> Running:
        """How statistics are remembered and used."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it remembers")

    @property
    def counts_batches(self) -> bool:
        """Whether num_batches_tracked moves."""
        return True

    def remembered(self) -> Remembered | None:
        return None if self.training else self._remembered()

    def given(self, x: Tensor, mask: Tensor | None, fitted: Fitted) -> Moments | None:
        remembered, policy = self.remembered(), self._policy()
        if remembered is None or policy.inference == "batch":
            return None
        if policy.inference == "running":
            return recall(remembered, fitted)
        own = measured(x, self.scheme, mask=mask, sizes=self.part_sizes())
        return policy.infer(remembered, own, fitted)

    def given_from_buffers(self) -> bool:
        blends = self._policy().inference == "blend"
        return type(self).given is Remembering.given and not blends

    @property
    def remembers(self) -> bool:
        return self.training and self.track_running_stats and self.running_var is not None

    def remember(self, moments: Moments | Stored, fitted: Fitted) -> None:
        remembered = self._remembered()
        if self.remembers and remembered is not None:
            remember(self._policy(), remembered, moments, fitted)

    def _recurring(self, x: Tensor) -> Recurring | None:
        recurring, own = super()._recurring(x), type(self)
        if recurring is None or not self.remembers:
            return recurring
        if own.remember is not Remembering.remember or own.remembers is not Remembering.remembers:
            return None
        return recurring._replace(policy=self._policy(), remembered=self._remembered())

    def _remembered(self) -> Remembered | None:
        buffers = self._buffers  # a third of the time of `self.running_mean`, which goes by names
        mean, var = buffers["running_mean"], buffers["running_var"]
        if var is None:
            return None
        batches = buffers["num_batches_tracked"] if self.counts_batches else None
        return Remembered(mean, var, batches)
