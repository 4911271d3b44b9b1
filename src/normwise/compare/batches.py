"""Training and validation data in any of the forms people have them, as one stream of batches."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from normwise.errors import NormError, TaskError, describe


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
        elif isinstance(source, IterableDataset):
            kind = type(source).__name__
            raise NormError(
                f"{role} data that can only be iterated over has no samples to draw batches from; "
                f"give a DataLoader of the {kind}"
            )
        elif not isinstance(source, (Dataset, DataLoader)):
            raise NormError(
                f"{role} data must be (x, y), (x, y, lengths), a Dataset or a DataLoader; "
                f"received {describe(source)}"
            )

    @property
    def has_own_size(self) -> bool:
        """Whether a DataLoader decides how large the batches are."""
        return isinstance(self.source, DataLoader)

    def epoch(self, shuffle: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass; in the order of `shuffle` if given, as stored otherwise.

        In a shuffled pass a last batch of a single sample is left out: no batch
        norm can train on one.
        """
        if self.has_own_size:
            if shuffle is not None:
                _seed(self.source, int(torch.randint(2**31, (), generator=shuffle)))
            yield from (_as_batch(item, self.role) for item in self.source)
            return
        count = len(self.arrays[0]) if self.arrays else len(self.source)
        order = torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)
        for index in torch.split(order, self.batch_size):
            if shuffle is not None and len(index) == 1 < min(count, self.batch_size):
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
            try:
                size = str(len(self.source))
            except TypeError:  # a loader of what can only be iterated over
                size = "unknown size"
            return f"{type(self.source).__name__} of {size}"
        digest = hashlib.sha256()
        for array in self.arrays:
            digest.update(f"{tuple(array.shape)}{array.dtype}".encode())
            digest.update(array.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def _arrays(source: Sequence[Any], role: str) -> tuple[Tensor, ...]:
    if len(source) not in (2, 3):
        raise NormError(
            f"{role} arrays must be (x, y) or (x, y, lengths); received {len(source)} parts"
        )
    x, *rest = source
    if isinstance(x, (list, tuple)) and len(x):
        x, lengths = _stacked([_tensor(series, role) for series in x], role)
        if lengths is not None and len(rest) == 2:
            raise NormError(f"{role} series of unequal T tell their lengths; write (x, y)")
        rest += [] if lengths is None else [lengths]
    parts = tuple(_tensor(part, role) for part in (x, *rest))
    if len({part.shape[:1] for part in parts}) != 1 or not parts[0].numel():
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise NormError(f"{role} arrays must have the same number of samples first: {shapes}")
    if len(parts) == 3:
        _check_lengths(parts[2], parts[0].shape[-1], role)
    return parts


def _tensor(part: Any, role: str) -> Tensor:
    try:
        return torch.as_tensor(part)
    except (TypeError, ValueError) as error:
        raise NormError(
            f"{role} arrays must hold numbers, as many in each row; received {describe(part)}"
        ) from error


def _stacked(series: list[Tensor], role: str) -> tuple[Tensor, Tensor | None]:
    """Series as one array, 0 after the end of the shorter ones, and their lengths if unequal."""
    shapes = list(dict.fromkeys(tuple(one.shape) for one in series))
    if len(shapes) == 1:
        return torch.stack(series), None
    if {len(shape) for shape in shapes} != {2} or len({shape[0] for shape in shapes}) > 1:
        raise NormError(
            f"{role} series must be arrays (C, T) with the same C; received "
            f"{', '.join(map(str, shapes[:3]))}"
        )
    padded = torch.nn.utils.rnn.pad_sequence([one.mT for one in series], batch_first=True)
    return padded.mT.contiguous(), torch.tensor([one.shape[-1] for one in series])


def _check_lengths(lengths: Tensor, size: int, role: str) -> None:
    received = describe(lengths)
    if lengths.dim() == 1 and not lengths.is_floating_point() and lengths.dtype != torch.bool:
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest >= 1 and longest <= size:
            return
        received = f"{shortest} to {longest}"
    raise NormError(
        f"{role} lengths must be whole numbers from 1 to T = {size}, one for each sample; "
        f"received {received}"
    )


def _seed(loader: "DataLoader[Any]", seed: int) -> None:
    """Fix the order a loader will draw, whichever generator it draws from."""
    torch.manual_seed(seed)
    for owner in (loader, loader.sampler):
        own = getattr(owner, "generator", None)
        if own is not None:
            own.manual_seed(seed)


def _as_batch(item: Any, role: str) -> Batch:
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        raise TaskError(
            f"{role} data must give (x, y) or (x, y, lengths); it gave {describe(item)}"
        )
    return Batch(*item)
