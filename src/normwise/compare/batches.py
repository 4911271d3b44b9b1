"""Training and validation data in any of the forms people have them, as one stream of batches."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from normwise.errors import NormError, describe


class Batch(NamedTuple):
    """What a model is shown at once: input, target, and lengths where x is padded."""

    x: Any
    y: Any
    lengths: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(part.to(device) if isinstance(part, Tensor) else part for part in self))


class Batches:
    """A data source, cut into batches anew for each epoch.

    source      arrays (x, y) or (x, y, lengths) with samples first, where x may
                also be a list of (C, T) arrays of unequal T; or a Dataset of such
                tuples; or a DataLoader, which then decides on size and order itself
    batch_size  samples in a batch; the last one is smaller
    role        "train" or "valid", for error messages

    Raises
        NormError  if the parts differ in length, or the source is none of these.
    """

    def __init__(self, source: Any, batch_size: int, role: str) -> None:
        self.role = role
        self.batch_size = batch_size
        self.arrays: tuple[Tensor, ...] | None = None
        self.source = source
        if isinstance(source, (tuple, list)):
            self.arrays = _arrays(source, role)
        elif not isinstance(source, (Dataset, DataLoader)):
            raise NormError(
                f"{role} data must be (x, y), (x, y, lengths), a Dataset or a DataLoader; "
                f"received {describe(source)}"
            )

    def epoch(self, shuffle: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass; in the order of `shuffle` if given, as stored otherwise.

        In a shuffled pass a last batch of a single sample is left out: no batch
        norm can train on one.
        """
        if isinstance(self.source, DataLoader):
            if shuffle is not None:  # a loader draws its order from torch's own generator
                torch.manual_seed(int(torch.randint(2**31, (), generator=shuffle)))
            yield from (_as_batch(item, self.role) for item in self.source)
            return
        count = len(self.arrays[0]) if self.arrays else len(self.source)
        order = torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)
        for index in torch.split(order, self.batch_size):
            if shuffle is not None and len(index) == 1 < count:
                continue
            yield self._take(index)

    def _take(self, index: Tensor) -> Batch:
        if self.arrays is None:
            items = [self.source[int(i)] for i in index]
            return _as_batch(torch.utils.data.default_collate(items), self.role)
        x, y, *rest = (array[index] for array in self.arrays)
        if not rest:
            return Batch(x, y)
        (lengths,) = rest
        return Batch(x[..., : int(lengths.max())], y, lengths)

    def fingerprint(self) -> str:
        """Tells data apart: a digest of arrays, or what little a Dataset says of itself."""
        if self.arrays is None:
            size = len(self.source) if hasattr(self.source, "__len__") else "unknown"
            return f"{type(self.source).__name__} of {size}"
        digest = hashlib.sha256()
        for array in self.arrays:
            digest.update(f"{tuple(array.shape)}{array.dtype}".encode())
            digest.update(array.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def _arrays(source: Sequence[Any], role: str) -> tuple[Tensor, ...]:
    if len(source) not in (2, 3):
        raise NormError(
            f"{role} arrays must be (x, y) or (x, y, lengths); received {len(source)} parts"
        )
    x, *rest = source
    if isinstance(x, (list, tuple)) and len(x) and len(rest) == 1:
        series = [torch.as_tensor(s) for s in x]
        if len({s.shape[-1] for s in series}) > 1:
            lengths = torch.tensor([s.shape[-1] for s in series])
            padded = torch.nn.utils.rnn.pad_sequence([s.mT for s in series], batch_first=True)
            x, rest = padded.mT.contiguous(), [*rest, lengths]
        else:
            x = torch.stack(series)
    parts = tuple(torch.as_tensor(part) for part in (x, *rest))
    if len({len(part) for part in parts}) != 1 or not len(parts[0]):
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise NormError(f"{role} arrays must have the same number of samples first: {shapes}")
    return parts


def _as_batch(item: Any, role: str) -> Batch:
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        raise NormError(
            f"{role} data must give (x, y) or (x, y, lengths); it gave {describe(item)}"
        )
    return Batch(*item)
