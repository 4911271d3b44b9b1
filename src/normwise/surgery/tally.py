"""What norms are given, measured batch by batch in float64."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from normwise import layers
from normwise.axes import SCHEMES, Fitted, Scheme
from normwise.errors import NormError
from normwise.layers.padding import full_mask
from normwise.reference import Moments, measured
from normwise.running import unbiased
from normwise.surgery.sites import Site

# The row of the table by which other kinds remember.
_ROWS = dict.fromkeys(("ghost", "renorm", "switchable", "evonorm-b0"), "batch")


class Tally:
    """The moments of all that a norm has seen, merged batch by batch in float64."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.batches = 0
        self._count: Tensor | float = 0.0
        self._mean: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0  # about the mean

    def add(self, x: Tensor, mask: Tensor | None) -> None:
        """Take in what a norm was given: a mask of x's rank, or None where all is real."""
        module: Any = self.site.module
        scheme = scheme_of(self.site)
        own = isinstance(module, layers.Normalization)
        unbatched = own and module._is_unbatched(x)
        if unbatched:
            x, mask = x.unsqueeze(0), None if mask is None else mask.unsqueeze(0)
        fitted = scheme.pattern.fit(x.dim())
        sizes = module.part_sizes() if isinstance(module, layers.Norm) else None
        moments = measured(x.detach().double(), scheme, mask=mask, sizes=sizes)
        self.batches += 1
        shape = module._buffers["running_var"].shape
        if fitted.samples:  # the average over samples, each of them counting once
            seen = (_elements(moments) > 0).double()
            mean, var = moments.mean, unbiased(moments) if scheme.centres else moments.var
            count = seen.sum(fitted.samples)
            self._average(count, (mean * seen).sum(fitted.samples), (var * seen), fitted, shape)
            return
        count = _elements(moments).reshape(shape)
        mean, var = moments.mean.expand_as(moments.var).reshape(shape), moments.var.reshape(shape)
        total = self._count + count
        share = count / torch.as_tensor(total).clamp(min=1)
        apart = mean - self._mean
        self._squares = self._squares + count * var + apart.square() * count * (1 - share)
        self._mean = self._mean + apart * share
        self._count = total

    def _average(
        self, count: Tensor, mean: Tensor, var: Tensor, fitted: Fitted, shape: torch.Size
    ) -> None:
        self._count = self._count + count.reshape(shape)
        self._mean = self._mean + mean.reshape(shape)
        self._squares = self._squares + var.sum(fitted.samples).reshape(shape)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance as a norm remembers them.

        Raises
            NormError  if there is no real position, or they are not finite.
        """
        count, mean, squares = map(torch.as_tensor, (self._count, self._mean, self._squares))
        if not self.batches or not bool((count > 0).all()):
            raise NormError(f"no batch with a real position reached {self.site.name}")
        axes = scheme_of(self.site).pattern.axes
        if any(axis.name == "n" and not axis.averaged for axis in axes):
            mean, var = mean / count, squares / count
        elif self.site.module._buffers.get("running_mean") is not None:
            var = squares / (count - 1).clamp(min=1)
        else:
            var = squares / count
        if not bool(mean.isfinite().all()) or not bool(var.isfinite().all()):
            raise NormError(
                f"what {self.site.name} saw has no finite mean and variance; nothing was changed"
            )
        return mean, var

    def write(self) -> None:
        """Put the statistics into the norm's buffers."""
        mean, var = self.statistics()
        buffers = self.site.module._buffers
        for name, value in (("running_mean", mean), ("running_var", var)):
            old = buffers.get(name)
            if old is not None:
                old.copy_(value.reshape(old.shape))
        counter = buffers.get("num_batches_tracked")
        if counter is not None:
            counter.fill_(self.batches)


def scheme_of(site: Site) -> Scheme:
    """The row of the table by which a norm remembers."""
    module = site.module
    return module.scheme if isinstance(module, layers.Norm) else SCHEMES[row_name(site)]


def row_name(site: Site) -> str:
    """The name of the row of the table by which a norm of a kind remembers."""
    return _ROWS.get(site.kind, site.kind)


@contextmanager
def watched(tallies: Iterable[Tally]) -> Iterator[None]:
    """Every input of these norms goes into their tallies."""

    def hook(tally: Tally) -> Callable[..., None]:
        def take(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            x = args[0] if args else kwargs["x"]
            given = args[1] if len(args) > 1 else kwargs.get("mask")
            mask = None
            if isinstance(module, layers.Normalization):
                batched = x.unsqueeze(0) if module._is_unbatched(x) else x
                features = module.scheme.pattern.fit(batched.dim()).features
                if given is not None and batched is not x:
                    given = given.unsqueeze(0)
                mask = full_mask(batched, given, features, type(module).__name__)
                if mask is not None and batched is not x:
                    mask = mask.squeeze(0)
            tally.add(x, mask)

        return take

    handles = [
        tally.site.module.register_forward_pre_hook(hook(tally), with_kwargs=True)
        for tally in tallies
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _elements(moments: Moments) -> Tensor:
    return torch.as_tensor(moments.elements, dtype=torch.float64).to(moments.var.device) * (
        torch.ones_like(moments.var)
    )
