"""Which positions of a padded batch are real: lengths, masks, and how a layer learns of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import local

import torch
from torch import Tensor
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from normwise.checks import full_rank
from normwise.errors import NormError
from normwise.layers.lengths import length_after, time_of


@dataclass
class _Padding:
    """The lengths now in force, the T they are counted in, and what became of them.

    size     T, once it is known
    outer    the shape of the first batch that a module was called with
    reached  the lengths behind strides and pooling, by T'
    """

    lengths: Tensor
    size: int | None = None
    outer: tuple[int, ...] = ()
    reached: dict[int, Tensor] = field(default_factory=dict)
    longest: int = field(init=False)  # asked here, since asking a tensor breaks a compiled graph

    def __post_init__(self) -> None:
        self.longest = int(self.lengths.max()) if self.lengths.numel() else 0

    def counted_in(self, size: int) -> None:
        if self.longest > size:
            raise NormError(
                f"a length of {self.longest} does not fit in {size} positions; lengths are "
                "counted in samples of the last dimension, or of the one before features"
            )
        self.size = size

    def told(self, size: int) -> None:
        """Take the T of the first layer that knows it, if the model's input has such a size.

        If it has not, T was changed on the way, as by torch.nn.functional.pad.
        """
        fits = size in self.outer[1:] and size >= self.longest
        self.counted_in(size if fits or not self.outer else self.outer[-1])

    def known(self, here: int) -> Tensor | None:
        """The lengths in `here` positions, where they have been followed there."""
        return self.reached.get(here, self.lengths if here == self.size else None)

    def at(self, here: int) -> Tensor:
        """The lengths in `here` positions: as followed, or else in proportion, rounded up."""
        known = self.known(here)
        if known is not None:
            return known
        whole = self.size if self.size is not None else (here, *self.outer)[-1]
        return (self.lengths * here + whole - 1) // max(whole, 1)


class _InForce(local):
    """What this thread's innermost `padding` block says. torch.compile can read a
    thread's own data; a ContextVar would break its graph.
    """

    padded: _Padding | None = None


_in_force = _InForce()


def lengths_to_mask(lengths: Tensor | Sequence[int], size: int | None = None) -> Tensor:
    """True at the positions before each series' length.

        mask[n, t] = t < lengths[n]

    Shapes
        lengths  (N,) whole numbers, in samples
        size     T, in samples; the longest length if left out
        out      (N, T) bool

    Raises
        NormError  if a length is negative or above `size`, or no whole number.
    """
    padded = _Padding(_checked(lengths))
    size = padded.longest if size is None else size
    padded.counted_in(size)
    return torch.arange(size, device=padded.lengths.device) < padded.lengths[:, None]


@contextmanager
def padding(lengths: Tensor | Sequence[int], size: int | None = None) -> Iterator[None]:
    """Tell every normwise layer inside the block how long each series of the batch is.

        with nw.padding(lengths):
            out = model(x)

    Lengths are followed through the convolutions, poolings, paddings and upsamplings of
    torch.nn: behind them, as many positions are real as the layer would have made of the
    series alone. Where something else has changed T to T', or `size` is given,
    ceil(length * T' / T) of them are. A mask given to a layer itself goes before.
    Layers that see no time axis, (N, C), take every row as real.

    Only normwise layers put 0 where padding is. Between a pooling and a convolution, or
    two convolutions, with no norm between, `Identity` does.

    Shapes
        lengths  (N,) whole numbers, in samples of the model's input
        size     T, in samples; if left out, the first layer of torch.nn or normwise that
                 knows where its features are tells: T is the dimension before them if
                 they come last, as in a linear layer, and else the last. For a compiled
                 model give it: torch.compile warns of the hooks that find this out

    Raises
        NormError  if a length is negative, above T, or no whole number.
    """
    padded = _Padding(_checked(lengths))
    if size is not None:
        padded.counted_in(size)
    outer, _in_force.padded = _in_force.padded, padded
    # torch.compile warns of global hooks, so there are some only where there is much to find out.
    handles = _following(padded) if size is None else ()
    try:
        yield
    finally:
        _in_force.padded = outer
        for handle in handles:
            handle.remove()


def _following(padded: _Padding) -> tuple[RemovableHandle, ...]:
    """Hooks on every module, which find out T, and what becomes of the lengths."""

    def batch(args: tuple[object, ...]) -> Tensor | None:
        """The first argument that is of the padded batch."""
        if _in_force.padded is not padded:
            return None
        count = len(padded.lengths)
        tensors = (x for x in args if isinstance(x, Tensor) and x.dim() > 1)
        return next((x for x in tensors if x.shape[0] == count), None)

    def find_size(module: torch.nn.Module, args: tuple[object, ...]) -> None:
        x = batch(args) if padded.size is None else None
        if x is not None:
            padded.outer = padded.outer or tuple(x.shape)
            time = time_of(module, x)
            if time is not None:
                padded.told(time)

    def follow(module: torch.nn.Module, args: tuple[object, ...], y: object) -> None:
        x = batch(args)
        before = None if x is None else padded.known(x.shape[-1])
        after = None if before is None else length_after(module, before)
        if after is not None and isinstance(y, Tensor):
            padded.reached[y.shape[-1]] = after.clamp(max=y.shape[-1])

    return register_module_forward_pre_hook(find_size), register_module_forward_hook(follow)


def is_padding() -> bool:
    """Whether a `padding` block is around this call."""
    return _in_force.padded is not None


def lengths_at(size: int) -> Tensor:
    """The lengths in force in a `padding` block, in `size` positions behind strides and pooling."""
    assert _in_force.padded is not None  # for callers inside a block
    return _in_force.padded.at(size)


def full_mask(
    x: Tensor, mask: Tensor | None, features: tuple[int, ...], name: str
) -> Tensor | None:
    """A layer's mask at x's rank, of size 1 along features; from `padding` if none was given.

    Raises
        NormError  if the mask does not fit x without its features.
    """
    if mask is None:
        return mask_in_force(x, features)
    return full_rank(x, mask, features, name)


def mask_in_force(x: Tensor, features: tuple[int, ...]) -> Tensor | None:
    """The mask that `padding` means for x: of x's rank, real sizes along N and T only.

    T is the last dimension of x that is not a feature. None outside a `padding`
    block, and where x has no such dimension beside N.
    """
    padded = _in_force.padded
    if padded is None:
        return None
    positions = [i for i in range(1, x.dim()) if i not in features]
    if not positions:
        return None
    time = positions[-1]
    if len(padded.lengths) != x.shape[0]:
        raise NormError(
            f"nw.padding was given {len(padded.lengths)} lengths, and a layer received a batch "
            f"of {x.shape[0]}: x {tuple(x.shape)}; give one length for each series"
        )
    here = x.shape[time]
    if padded.size is None and padded.outer:
        padded.told(here)
    mask = torch.arange(here, device=x.device) < padded.at(here).to(x.device)[:, None]
    shape = [here if i == time else 1 for i in range(x.dim())]
    return mask.reshape([x.shape[0], *shape[1:]])


def _checked(lengths: Tensor | Sequence[int]) -> Tensor:
    lengths = torch.as_tensor(lengths)
    if not lengths.numel():
        lengths = lengths.long()  # torch makes floats of an empty list
    if lengths.dim() != 1 or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise NormError(
            "lengths must be whole numbers, one for each series: (N,); "
            f"received {tuple(lengths.shape)} {str(lengths.dtype).removeprefix('torch.')}"
        )
    if lengths.numel() and int(lengths.min()) < 0:
        raise NormError(f"a length cannot be negative; received {int(lengths.min())}")
    return lengths.long()  # length * T' does not fit in a uint8
