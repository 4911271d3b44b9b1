"""Series from a file: read with every doubt cleared, split along time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from normwise.errors import NormError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Series:
    """Values at equal steps of time.

    values  (C, T) float64, each channel in its unit
    names   of the channels
    times   (T,) float64, in seconds since 1970 where they were dates; the row number
            where there were none
    dated   whether times were dates
    """

    values: Tensor
    names: tuple[str, ...]
    times: "NDArray[np.float64]"
    dated: bool = False

    def __len__(self) -> int:
        return self.values.shape[1]

    def clock(self) -> "NDArray[Any]":
        """The times as dates, where they were dates: for a picture."""
        return self.times.astype("datetime64[s]") if self.dated else self.times

    def part(self, start: int, end: int) -> "Series":
        """The rows from start up to end."""
        return replace(self, values=self.values[:, start:end], times=self.times[start:end])

    def averaged(self, count: int) -> "Series":
        """One row for every `count`, their mean, at the time of the first; a rest is left out."""
        whole = self.part(0, len(self) // count * count)
        values = whole.values.unflatten(1, (-1, count)).mean(-1)
        return replace(self, values=values, times=whole.times[::count])

    def split(self, shares: Sequence[float]) -> list["Series"]:
        """Cut along time, in order: (0.7, 0.1, 0.2) of the rows, or as many rows as said.

        Shares that come to 1 at most are parts of the whole; whole numbers are rows. What
        is left over at the end belongs to no part.

        Raises
            NormError  if a part is empty, or there are not as many rows.
        """
        whole = all(share >= 1 and float(share).is_integer() for share in shares)
        if not whole and (sum(shares) > 1 + 1e-9 or min(shares) < 0):
            raise NormError(
                f"the split {_listed(shares)} is neither shares that come to 1 at most, as "
                "0.7,0.1,0.2, nor numbers of rows, as 8640,2880,2880"
            )
        edges = [0, *(round(end if whole else end * len(self)) for end in accumulate(shares))]
        counts = [end - start for start, end in pairwise(edges)]
        if edges[-1] > len(self) or min(counts) < 1:
            raise NormError(
                f"the split {_listed(shares)} of {len(self)} rows leaves {_listed(counts)} rows "
                "for its parts; every part needs rows, and there are no more than these"
            )
        return [self.part(start, end) for start, end in pairwise(edges)]

    def standardized(self, by: "Series") -> "Series":
        """Each channel with the mean 0 and standard deviation 1 that it has in another part.

        Raises
            NormError  if a channel does not vary there.
        """
        mean = by.values.mean(1, keepdim=True)
        deviation = by.values.std(1, correction=0, keepdim=True)
        still = [name for name, d in zip(self.names, deviation.flatten(), strict=True) if d == 0]
        if still:
            raise NormError(
                f"{', '.join(still)} does not vary in the training part, so there is nothing to "
                "learn of it; leave it out"
            )
        return replace(self, values=(self.values - mean) / deviation)


def read_series(
    path: Path,
    time: str | int | None = None,
    columns: Iterable[str] | None = None,
    *,
    fill: bool = False,
) -> Series:
    """Read a CSV file with a header, `.gz` or not, as values at equal steps of time.

    time     the column of dates or numbers that rise from row to row, by name or by place;
             None: there is none, and rows are at equal steps
    columns  which of the others are wanted; all if left out
    fill     whether missing values and rows get the value before them; of a time that comes
             twice the first row is then taken

    Raises
        NormError  if there is no such file or column, a value is no number, a value or a
                   row is missing and not to be filled, or time does not rise.
    """
    from normwise.data.reading import read  # NumPy, which nothing else here needs

    return Series(*read(path, time, columns, fill=fill))


def packaged(package: str, inside: str, install: str) -> Path:
    """Where a file lies that a package brings along; the package is not imported.

    Raises
        NormError  if it is not installed, with `install`, the command that does it.
    """
    spec = find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder) / inside
        if path.is_file():
            return path
    missing = "is not installed" if spec is None else f"has no {inside}"
    raise NormError(f"the package {package} {missing}, and the data is in it: {install}")


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
