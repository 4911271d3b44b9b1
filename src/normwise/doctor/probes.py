"""Run a model twice on what should make no difference, and say where one begins."""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normwise.errors import NormError, describe
from normwise.layers.materialize import unchanged
from normwise.layers.padding import lengths_at, lengths_to_mask, padding
from normwise.surgery.sites import bare_sites

# Rounding grows by about this much on the way through a network, in units of machine epsilon.
_ROUNDING = 1e3


@dataclass(frozen=True)
class PaddingError:
    """How much padding changes a model's results.

    error   of the output, relative (L2); at most rounding where nothing leaks
    first   the path of the first layer whose output at real positions differs; None
            where none does
    leaks   whether a result differs by more than rounding
    """

    error: float
    first: str | None
    leaks: bool

    def __float__(self) -> float:
        return self.error

    def __str__(self) -> str:
        if not self.leaks:
            return f"padding changes nothing (relative error {self.error:.1e})"
        return f"padding changes the output by {self.error:.1e}, first at {self.first}"


@dataclass(frozen=True)
class Causality:
    """Whether a model's outputs depend on what comes later. True where they do not.

    causal  whether they do not
    error   how much the output differs without the future, relative (L2)
    first   the path of the first layer that looks ahead; None where none does
    """

    causal: bool
    error: float
    first: str | None

    def __bool__(self) -> bool:
        return self.causal

    def __str__(self) -> str:
        if self.causal:
            return f"causal (relative error {self.error:.1e})"
        return f"not causal: {self.first} looks ahead, and changes the output by {self.error:.1e}"


@torch.no_grad()
def padding_error(model: torch.nn.Module, x: Any, lengths: Tensor | Sequence[int]) -> PaddingError:
    """How much a model's results depend on how far its input is padded.

        error = |model(x, padded far) - model(x, padded to the longest)| / |model(x, …)|

    over real positions; far is twice T. The model runs inside ``nw.padding(lengths)``, and receives
    `lengths` if its forward has a parameter of that name. Norms are in the mode they
    are in, so that batch norm can be probed in training; dropout is off. Nothing of
    the model is changed.

    Shapes
        x        (N, …, T), or a tuple of arguments of which it is the first; zeros are
                 put where nothing was recorded
        lengths  (N,) whole numbers, in samples of T

    Outputs whose size follows T are compared at real positions, behind strides and
    pooling as `padding` counts them. All others are compared as a whole.

    Raises
        NormError  if x and lengths do not fit.
    """
    x, *rest = x if isinstance(x, tuple) else (x,)
    if not isinstance(x, Tensor) or x.dim() < 2:
        raise NormError(f"padding_error takes x of (N, …, T), received {describe(x)}")
    size = x.shape[-1]
    mask = lengths_to_mask(lengths, size)
    if len(mask) != len(x):
        raise NormError(f"{len(mask)} lengths do not fit a batch of {len(x)}: one for each series")
    lengths = torch.as_tensor(lengths, device=x.device)
    x = torch.where(mask.to(x.device).reshape(len(x), *[1] * (x.dim() - 2), size), x, 0)
    longer = torch.cat([x, torch.zeros_like(x)], -1)
    modes = {site.module: site.module.training for site in bare_sites(model)}
    probe = _Probe(model, modes)
    longest = max(int(lengths.max()), 1) if len(lengths) else size
    probe.run((x[..., :longest], *rest), lengths)
    probe.run((longer, *rest), lengths)
    error, first, _ = probe.difference(lengths)
    return PaddingError(error, first, first is not None)


@torch.no_grad()
def is_causal(model: torch.nn.Module, x: Any) -> Causality:
    """Whether a model's outputs up to a moment depend on nothing after it.

        causal: model(x)[..., :t] = model(x[..., :t]), in evaluation

    The model runs on x and on its first half; outputs, and those of every layer, are
    compared as far as both go, also behind strides. Nothing of the model is changed.
    Norms that use statistics of the whole series, as instance norm does, are not
    causal; `CausalNorm1d` and norms over channels are.

    Shapes
        x  (N, …, T), or a tuple of arguments of which it is the first; T at least 2

    Raises
        NormError  if x has no T, or no output's size follows it.
    """
    causality, _ = causal_and_remembering(model, x)
    return causality


def causal_and_remembering(model: torch.nn.Module, x: Any) -> tuple[Causality, bool]:
    """Whether a model is causal, and whether its outputs depend on anything that came before."""
    x, *rest = x if isinstance(x, tuple) else (x,)
    if not isinstance(x, Tensor) or x.dim() < 2 or x.shape[-1] < 2:
        raise NormError(
            f"is_causal takes x of (N, …, T) with two positions at least, received {describe(x)}"
        )
    half = x.shape[-1] // 2
    probe = _Probe(model, {})
    probe.run((x[..., :half], *rest), None)
    probe.run((x, *rest), None)
    error, first, follows = probe.difference(None)
    if not follows:
        raise NormError(
            "no output's size follows T, so there is nothing to be causal: is_causal asks of "
            "models whose output has a time axis"
        )
    # The same second half after another first half: a model without memory gives the same.
    other = _Probe(model, {})
    changed = torch.cat([x[..., :half].flip(0) + 1, x[..., half:]], -1)
    other.run((x, *rest), None)
    other.run((changed.to(x.dtype), *rest), None)
    return Causality(first is None, error, first), other.tails_differ(half / x.shape[-1])


class _Probe:
    """Two runs of a model, and what every module gave in each, in the order they ended."""

    def __init__(self, model: torch.nn.Module, modes: dict[torch.nn.Module, bool]) -> None:
        self.model = model
        self.modes = modes
        self.runs: list[list[tuple[str, Tensor]]] = []
        self.real: dict[int, Tensor] = {}  # the first run's lengths, by the size of an output

    def run(self, arguments: tuple[Any, ...], lengths: Tensor | None) -> None:
        with (
            warnings.catch_warnings(),
            unchanged(self.model),
            torch.no_grad(),
            recorded(self.model) as seen,
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            for module, mode in self.modes.items():
                module.training = mode
            named = {}
            if lengths is not None and _takes_lengths(self.model):
                named["lengths"] = lengths
            with nullcontext() if lengths is None else padding(lengths):
                self.model(*arguments, **named)
                if lengths is not None and not self.runs:
                    sizes = {size for _, tensor in seen for size in tensor.shape[1:]}
                    self.real = {size: lengths_at(size) for size in sizes}
        self.runs.append(seen)

    def difference(self, lengths: Tensor | None) -> tuple[float, str | None, bool]:
        """The output's relative error, the first layer that differs, whether sizes follow T."""
        first, error, follows = None, 0.0, False
        for (path, a), (_, b) in zip(*self.runs, strict=False):
            if a.dim() != b.dim():
                continue
            time = [i for i in range(a.dim()) if a.shape[i] != b.shape[i]]
            if lengths is None and not time:
                continue
            reals = [self.real.get(a.shape[i]) for i in time]
            for i in time:
                b = b.narrow(i, 0, min(a.shape[i], b.shape[i]))
                a = a.narrow(i, 0, b.shape[i])
            if lengths is not None and time and a.shape[0] != len(lengths):
                continue
            for i, real in zip(time, reals, strict=True):
                if real is None:  # is_causal compares all that both runs have
                    continue
                mask = torch.arange(a.shape[i], device=a.device) < real.to(a.device)[:, None]
                mask = mask.reshape(
                    [len(a) if j == 0 else a.shape[i] if j == i else 1 for j in range(a.dim())]
                )
                a, b = torch.where(mask, a, 0), torch.where(mask, b, 0)
            follows = follows or bool(time)
            here = relative(b, a)
            if here > _tolerance(a) and first is None:
                first = path or "(the model)"
            if not path:
                error = max(error, here)
        return error, first, follows

    def tails_differ(self, share: float) -> bool:
        """Whether the two runs' outputs differ in the part after a share of the positions."""
        for (path, a), (_, b) in zip(*self.runs, strict=False):
            if not path and a.shape == b.shape:
                start = min(int(a.shape[-1] * share) + 1, a.shape[-1])
                return relative(b[..., start:], a[..., start:]) > _tolerance(a)
        return False


@contextmanager
def recorded(model: torch.nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """(path, output) of every module that is called in the block, in the order they end."""
    seen: list[tuple[str, Tensor]] = []
    handles = []
    for path, module in model.named_modules():

        def note(module: torch.nn.Module, args: Any, output: Any, path: str = path) -> None:
            # A clone: the next layer may work in place.
            seen.extend(
                (path, t.detach().clone()) for t in tensors_of(output) if t.is_floating_point()
            )

        handles.append(module.register_forward_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def tensors_of(output: Any) -> Iterator[Tensor]:
    """Every tensor in what a module returns."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors_of(value)


def relative(result: Tensor, truth: Tensor) -> float:
    """|result - truth| / |truth| (L2); infinite where one alone is not finite."""
    if not truth.numel():
        return 0.0
    difference = float((result.double() - truth.double()).norm())
    size = float(truth.double().norm())
    if difference != difference:
        return 0.0 if torch.equal(result.isnan(), truth.isnan()) else float("inf")
    return difference / size if size else float("inf") if difference else 0.0


def _tolerance(x: Tensor) -> float:
    return _ROUNDING * torch.finfo(x.dtype).eps


def _takes_lengths(model: torch.nn.Module) -> bool:
    return "lengths" in inspect.signature(model.forward).parameters
