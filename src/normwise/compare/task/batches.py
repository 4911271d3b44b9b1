"""Training and validation data in any of the forms people have them, as one stream of batches."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from normwise.compare.task.windows import Windows
from normwise.errors import NormError, TaskError, describe
from normwise.layers import lengths_to_mask


class Batch(NamedTuple):
    """What a model is shown at once: input, target, and lengths where x is padded."""

    x: Any
    y: Any
    lengths: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(*(part.to(device) if isinstance(part, Tensor) else part for part in self))

    def cropped(self, length: int) -> "Batch":
        """The first `length` positions, of y too where it has one value for each."""
        y = self.y[..., :length] if self._is_per_position else self.y
        lengths = None if self.lengths is None else self.lengths.clamp(max=length)
        return Batch(self.x[..., :length], y, lengths)

    def scored(self, outputs: Any) -> tuple[Any, Any]:
        """Outputs and targets as a loss and a metric take them.

        Where series are padded and y has a value for each position, those that were
        recorded count as the samples: (N, classes, T) and (N, T) become (positions,
        classes) and (positions,).
        """
        if self.lengths is None or not self._is_per_position:
            return outputs, self.y
        if outputs.shape[:1] + outputs.shape[-1:] != self.y.shape[:1] + self.y.shape[-1:]:
            raise TaskError(
                f"targets {tuple(self.y.shape)} have a value for each position, so outputs must "
                f"be (N, …, {self.y.shape[-1]}) as well; the model returned {tuple(outputs.shape)}"
            )
        recorded = lengths_to_mask(self.lengths, self.y.shape[-1])
        return outputs.movedim(-1, 1)[recorded], self.y.movedim(-1, 1)[recorded]

    @property
    def size(self) -> int:
        """How many samples, or recorded positions, the loss is the mean of."""
        if self.lengths is not None and self._is_per_position:
            return int(self.lengths.sum())
        return len(self.y)

    @property
    def _is_per_position(self) -> bool:
        x, y = self.x, self.y
        return isinstance(y, Tensor) and y.dim() > 1 and y.shape[-1] == x.shape[-1]


class Batches:
    """A data source, cut into batches anew for each epoch.

    source      arrays (x, y) or (x, y, lengths) with samples first, where x (and y with
                it) may also be a list of (C, T) arrays of unequal T; or Windows; or a
                Dataset of such tuples; or a DataLoader, which then decides on size and
                order itself
    batch_size  samples in a batch; the last one is smaller
    role        "train" or "valid", for error messages
    length      positions of each series that are used; all if left out

    Raises
        NormError  if the parts differ in length, or the source is none of these.
    """

    def __init__(
        self, source: Any, batch_size: int, role: str, *, length: int | None = None
    ) -> None:
        self.role = role
        self.batch_size = batch_size
        self.source = source
        self.arrays: tuple[Tensor, ...] | None = None
        self._length = length
        self._chosen: Tensor | None = None
        if isinstance(source, Windows):
            self.source = source if length is None else source.with_history(length)
            self.arrays = self.source.arrays()
            self._length = None
        elif isinstance(source, (tuple, list)):
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

    @property
    def samples(self) -> int:
        """How many there are, of data that are no DataLoader."""
        if self._chosen is not None:
            return len(self._chosen)
        return len(self.source if self.arrays is None else self.arrays[0])

    def targets(self) -> Tensor:
        """The targets of all samples; those of a Dataset are read one by one."""
        if self.arrays is not None:
            return self.arrays[1]
        return torch.as_tensor([self.source[i][1] for i in range(len(self.source))])

    def part(self, chosen: Tensor, batch_size: int) -> "Batches":
        """Some of the samples, in batches of another size."""
        part = copy.copy(self)
        part._chosen, part.batch_size = chosen, batch_size
        return part

    def epoch(self, shuffle: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass; in the order of `shuffle` if given, as stored otherwise.

        In a shuffled pass a last batch of a single sample is left out: no batch
        norm can train on one.
        """
        for batch in self._loaded(shuffle) if self.has_own_size else self._taken(shuffle):
            yield batch if self._length is None else batch.cropped(self._length)

    def _loaded(self, shuffle: torch.Generator | None) -> Iterator[Batch]:
        if shuffle is not None:
            _seed(self.source, int(torch.randint(2**31, (), generator=shuffle)))
        return (_as_batch(item, self.role) for item in self.source)

    def _taken(self, shuffle: torch.Generator | None) -> Iterator[Batch]:
        count = self.samples
        order = torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)
        if self._chosen is not None:
            order = self._chosen[order]
        for index in torch.split(order, self.batch_size):
            if shuffle is not None and len(index) == 1 < min(count, self.batch_size):
                continue
            yield self._take(index)

    def _take(self, index: Tensor) -> Batch:
        if self.arrays is None:
            items = [self.source[int(i)] for i in index]
            return _as_batch(torch.utils.data.default_collate(items), self.role)
        batch = Batch(*(array[index] for array in self.arrays))
        return batch if batch.lengths is None else batch.cropped(int(batch.lengths.max()))


def _arrays(source: Sequence[Any], role: str) -> tuple[Tensor, ...]:
    if len(source) not in (2, 3):
        raise NormError(
            f"{role} arrays must be (x, y) or (x, y, lengths); received {len(source)} parts"
        )
    x, y, *rest = source
    if isinstance(x, (list, tuple)) and len(x):
        x, lengths = _stacked([_tensor(series, role) for series in x], role)
        if lengths is not None and rest:
            raise NormError(f"{role} series of unequal T tell their lengths; write (x, y)")
        if lengths is not None:
            y = _targets(y, lengths, role)
            rest = [lengths]
    parts = tuple(_tensor(part, role) for part in (x, y, *rest))
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
    return _padded(series), torch.tensor([one.shape[-1] for one in series])


def _targets(y: Any, lengths: Tensor, role: str) -> Any:
    """Targets (T,) or (K, T) as long as each series as one array; any others as they are."""
    if not isinstance(y, (list, tuple)) or not all(hasattr(one, "__len__") for one in y):
        return y
    every = [_tensor(one, role) for one in y]
    if [one.shape[-1] for one in every] != lengths.tolist():
        return y
    return _padded(every)


def _padded(series: list[Tensor]) -> Tensor:
    last_first = [one.movedim(-1, 0) for one in series]
    padded = torch.nn.utils.rnn.pad_sequence(last_first, batch_first=True)
    return padded.movedim(1, -1).contiguous()


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
