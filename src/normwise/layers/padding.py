"""Which positions of a padded batch are real: lengths, masks, and how a layer learns of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from normwise.checks import full_rank
from normwise.errors import NormError


@dataclass
class _Padding:
    """The lengths now in force, and the T they are counted in once it is known."""

    lengths: Tensor
    size: int | None = None

    def counted_in(self, size: int) -> None:
        longest = int(self.lengths.max()) if self.lengths.numel() else 0
        if longest > size:
            raise NormError(
                f"a length of {longest} does not fit in {size} positions; lengths are counted "
                "in samples of the last dimension"
            )
        self.size = size


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
    if size is None:
        size = int(padded.lengths.max()) if padded.lengths.numel() else 0
    padded.counted_in(size)
    return torch.arange(size, device=padded.lengths.device) < padded.lengths[:, None]


@contextmanager
def padding(lengths: Tensor | Sequence[int], size: int | None = None) -> Iterator[None]:
    """Tell every normwise layer inside the block how long each series of the batch is.

        with nw.padding(lengths):
            out = model(x)

    A layer behind strides or pooling, that sees T' positions of an input of T,
    takes ceil(length * T' / T) of them as real. A mask given to a layer itself
    goes before. Layers that see no time axis, (N, C), take every row as real.

    Shapes
        lengths  (N,) whole numbers, in samples of the model's input
        size     T, the size of the input's last dimension; if left out, it is
                 read from the first tensor with N as its first size that a
                 module called in the block receives

    Raises
        NormError  if a length is negative, above T, or no whole number.
    """
    padded = _Padding(_checked(lengths))
    if size is not None:
        padded.counted_in(size)

    def read_size(module: torch.nn.Module, args: tuple[object, ...]) -> None:
        if padded.size is None and _in_force.padded is padded:
            for x in args:
                if isinstance(x, Tensor) and x.dim() > 1 and len(x) == len(padded.lengths):
                    padded.counted_in(x.shape[-1])
                    break

    # torch.compile warns of global hooks, so there is one only where it has something to find out.
    handle = register_module_forward_pre_hook(read_size) if size is None else None
    outer, _in_force.padded = _in_force.padded, padded
    try:
        yield
    finally:
        _in_force.padded = outer
        if handle is not None:
            handle.remove()


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
    if len(padded.lengths) != len(x):
        raise NormError(
            f"nw.padding was given {len(padded.lengths)} lengths, and a layer received a batch "
            f"of {len(x)}: x {tuple(x.shape)}; give one length for each series"
        )
    here = x.shape[time]
    whole = here if padded.size is None else padded.size
    reached = (padded.lengths.to(x.device) * here + whole - 1) // max(whole, 1)
    mask = torch.arange(here, device=x.device) < reached[:, None]
    return mask.reshape([len(x) if i == 0 else here if i == time else 1 for i in range(x.dim())])


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
