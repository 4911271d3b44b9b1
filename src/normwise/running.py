"""What is remembered between batches, and what inference makes of it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from normwise.axes import Fitted
from normwise.errors import NormError
from normwise.reference import Moments

Average = Literal["ema", "cumulative"]
Start = Literal["unit", "first-batch"]
Inference = Literal["running", "batch", "blend"]
OnNonfinite = Literal["ignore", "skip", "raise"]


class Remembered(NamedTuple):
    """The buffers of a layer: what `Running.update` writes in place."""

    mean: Tensor | None  # None where the scheme does not centre
    var: Tensor  # unbiased, as torch.nn keeps it; the mean square where nothing is centred
    batches: Tensor | None  # how many batches went in, int64; None where nobody counts


@dataclass(frozen=True)
class Running:
    """How statistics are remembered: a policy, without state of its own.

    average    "ema": new = (1 - momentum) * old + momentum * batch
               "cumulative": the plain average of all batches so far
    momentum   weight of the newest batch in the "ema"
    start      "unit": from mean 0 and variance 1, as torch.nn does
               "first-batch": from the first batch, so that nothing is to be forgotten
    inference  "running": what is remembered
               "batch": the batch's own, as in training
               "blend": running_weight * remembered + (1 - running_weight) * the batch's
    running_weight  between 0 and 1, for "blend"
    on_nonfinite  what becomes of a batch whose statistics are not finite
               "ignore": it goes in, as in torch.nn, and evaluation is spoiled for good
               "skip": what is remembered stays as it is; costs no wait for the device
               "raise": a NormError, with what is remembered as it was; waits for the device

    Raises
        NormError  for a word that is none of these, or a number outside 0 to 1.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167 ("running", "ema"); Schneider,
    Rusak, Eck, Bringmann, Brendel and Bethge 2020, arXiv:2006.16971 ("blend").
    """

    average: Average = "ema"
    momentum: float = 0.1
    start: Start = "unit"
    inference: Inference = "running"
    running_weight: float = 0.5
    on_nonfinite: OnNonfinite = "ignore"

    def __post_init__(self) -> None:
        for name, known in (
            ("average", Average),
            ("start", Start),
            ("inference", Inference),
            ("on_nonfinite", OnNonfinite),
        ):
            words = get_args(known)
            if getattr(self, name) not in words:
                raise NormError(
                    f"Running({name}={getattr(self, name)!r}) is not known; "
                    f"write one of {', '.join(map(repr, words))}"
                )
        for name in ("momentum", "running_weight"):
            number = getattr(self, name)
            if not isinstance(number, (int, float)) or not 0 <= number <= 1:
                plain = name == "momentum" and number is None  # as torch.nn spells it
                hint = "; for the plain average write average='cumulative'" * plain
                raise NormError(f"Running({name}={number!r}): must lie between 0 and 1{hint}")

    def update(self, remembered: Remembered, moments: Moments, fitted: Fitted) -> None:
        """Take one batch's moments in. A batch without a real position changes nothing.

        Raises
            NormError  if what is remembered is of another number of features, if batches
                       must be counted and cannot be, or if the moments are not finite and
                       that is to be refused; nothing is changed then.
        """
        mean, var = moments.mean.detach(), moments.var.detach()
        if remembered.mean is not None:
            var = unbiased(moments).detach()
        seen = _count(moments) > 0
        taken = [
            (old, _as_kept(_over_samples(new, seen, fitted), old))
            for old, new in ((remembered.mean, mean), (remembered.var, var))
            if old is not None
        ]
        counts = seen.any() & self._admitted([batch for _, batch in taken])

        factor: Tensor | float = self.momentum
        if remembered.batches is not None:
            remembered.batches.add_(counts)
            factor = self._factor(remembered.batches.to(var.dtype))
        elif self.counts_batches:
            raise NormError(
                f"Running(average={self.average!r}, start={self.start!r}) counts batches, "
                "and there is no counter to count them in"
            )
        for old, batch in taken:
            old.copy_(torch.where(counts, old + (batch - old) * factor, old))

    def _admitted(self, statistics: list[Tensor]) -> Tensor | bool:
        """Whether a batch with these statistics goes in."""
        if self.on_nonfinite == "ignore":
            return True
        finite = torch.stack([statistic.isfinite().all() for statistic in statistics]).all()
        if self.on_nonfinite == "raise" and not finite:
            raise self.refusal()
        return finite

    @staticmethod
    def refusal() -> NormError:
        """What is said of a batch that does not go in."""
        return NormError(
            "the statistics of a batch are not finite, and on_nonfinite='raise'; what is "
            "remembered is as it was. on_nonfinite='skip' passes such batches over"
        )

    @property
    def counts_batches(self) -> bool:
        return self.average == "cumulative" or self.start == "first-batch"

    def _factor(self, batches: Tensor) -> Tensor | float:
        """The weight of the newest batch, given how many there have been with it."""
        if self.average == "cumulative":
            return 1 / batches.clamp(min=1)
        if self.start == "first-batch":
            return torch.where(batches <= 1, batches.new_ones(()), self.momentum)
        return self.momentum

    def infer(self, remembered: Remembered, batch: Moments, fitted: Fitted) -> Moments:
        """The moments that inference uses, given the batch's own."""
        if self.inference == "batch":
            return batch
        kept = recall(remembered, fitted)
        if self.inference == "running":
            return kept
        share = self.running_weight
        offset = share * (kept.mean - batch.shift) + (1 - share) * batch.offset
        var = share * kept.var + (1 - share) * batch.var
        return Moments(batch.shift, offset, var, batch.elements)


def unbiased(moments: Moments) -> Tensor:
    """The variance with n - 1 in place of n: var * n / (n - 1)."""
    count = _count(moments)
    return moments.var * (count / (count - 1).clamp(min=1))


def _count(moments: Moments) -> Tensor:
    # In var's dtype: a quotient of whole numbers is float32, too coarse for float64 buffers.
    # Multiplied, not made a tensor: that would compile anew for each count.
    return torch.ones_like(moments.var) * moments.elements


def recall(remembered: Remembered, fitted: Fitted) -> Moments:
    """The remembered statistics as moments that fit the split tensor."""
    shape = [1] * fitted.split_rank
    for (i, _), size in zip(fitted.remembered, remembered.var.shape, strict=True):
        shape[i] = size
    var, zero = remembered.var.reshape(shape), remembered.var.new_zeros(())
    shift = zero if remembered.mean is None else remembered.mean.reshape(shape)
    return Moments(shift, zero, var, 0, kept=True)


def _over_samples(statistic: Tensor, seen: Tensor, fitted: Fitted) -> Tensor:
    """The average over n of a statistic that is kept along n, of the samples that count."""
    if not fitted.samples:
        return statistic
    total = torch.where(seen, statistic, 0.0).sum(fitted.samples)
    return total / seen.sum(fitted.samples).clamp(min=1)


def _as_kept(statistic: Tensor, old: Tensor) -> Tensor:
    """A batch's statistic in the shape and dtype of what it goes into."""
    if statistic.numel() != old.numel():
        raise NormError(
            f"running statistics of {old.numel()} features cannot take in a batch of "
            f"{statistic.numel()}; make them, or the layer, with {statistic.numel()}"
        )
    return statistic.reshape(old.shape).to(old.dtype)
