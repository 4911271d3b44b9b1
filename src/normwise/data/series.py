"""Series from a file: read with every doubt cleared, split along time."""

import csv
import gzip
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normwise.errors import NormError

_LONGEST_NAMES = 60  # characters of the list of columns in an error


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
    times: NDArray[np.float64]
    dated: bool = False

    def __len__(self) -> int:
        return self.values.shape[1]

    def clock(self) -> NDArray[Any]:
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
        ends = np.cumsum(shares) if whole else np.round(np.cumsum(shares) * len(self))
        edges = [0, *ends.astype(int).tolist()]
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
    header, rows = _table(path)
    if isinstance(time, int):
        time = header[time]
    wanted = [name for name in header if name != time] if columns is None else list(columns)
    for name in [*wanted, *([] if time is None else [time])]:
        if name not in header:
            names = ", ".join(header)
            short = names if len(names) <= _LONGEST_NAMES else f"{names[:_LONGEST_NAMES]}…"
            raise NormError(f"{path} has no column {name!r}; it has {short}")
    if not wanted:
        raise NormError(f"{path} has no column beside {time!r}, so there are no values")
    values = np.array([_numbers(path, header, rows, name, fill) for name in wanted])
    if time is None:
        times, dated = np.arange(len(rows), dtype=np.float64), False
    else:
        values, times, dated = _at_equal_steps(path, header, rows, time, values, fill)
    if fill:
        values = _held(path, wanted, values)
    return Series(torch.from_numpy(values), tuple(wanted), times, dated)


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


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        raise NormError(f"there is no file {path}")
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise NormError(f"{path} is no CSV file in UTF-8: {error}") from error
    try:
        lines = [line for line in csv.reader(io.StringIO(text)) if line]
    except csv.Error as error:
        raise NormError(f"{path} is no CSV file: {error}") from error
    if len(lines) < 3:
        raise NormError(f"{path} has {len(lines)} lines; a header and two rows at least are needed")
    header = [name.strip() for name in lines[0]]
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise NormError(
                f"{path}, row {number}: {len(line)} fields, and the header has {len(header)}"
            )
    return header, lines[1:]


def _numbers(
    path: Path, header: list[str], rows: list[list[str]], name: str, fill: bool
) -> NDArray[np.float64]:
    place = header.index(name)
    column = np.empty(len(rows))
    for i, row in enumerate(rows):
        text = row[place].strip()
        missing = not text or text.lower() in ("nan", "na", "null")
        try:
            column[i] = math.nan if missing else float(text)
        except ValueError:
            raise NormError(
                f"{path}, row {i + 2}, column {name}: {text!r} is no number; name the columns "
                "that are"
            ) from None
        if math.isinf(column[i]):
            raise NormError(f"{path}, row {i + 2}, column {name}: {text!r} is not finite")
        if missing and not fill:
            raise NormError(
                f"{path}, row {i + 2}, column {name} is empty; fill gaps with the value before "
                "them (--fill, fill=True), or leave the column out"
            )
    return column


def _at_equal_steps(
    path: Path,
    header: list[str],
    rows: list[list[str]],
    time: str,
    values: NDArray[np.float64],
    fill: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    texts = [row[header.index(time)].strip() for row in rows]
    dated = not _is_number(texts[0])
    times = np.array([_moment(path, i + 2, time, text, dated) for i, text in enumerate(texts)])
    if fill:
        new = np.append(True, np.diff(times) != 0)
        values, times = values[:, new], times[new]
        texts = [text for text, is_new in zip(texts, new, strict=True) if is_new]
    steps = np.diff(times)
    back = int(np.argmax(steps <= 0))
    if steps[back] <= 0:
        raise NormError(
            f"{path}, row {back + 3}: time does not rise, {texts[back + 1]} after {texts[back]}; "
            "sort the rows, each time once (of two that follow each other, --fill takes the first)"
        )
    step = float(np.quantile(steps, 0.5, method="lower"))
    places = np.concatenate([[0], np.cumsum(np.round(steps / step))]).astype(int)
    odd = np.abs(times - times[0] - places * step) > 0.1 * step
    gap = np.diff(places) != 1
    if odd.any() or (gap.any() and not fill):
        where = int(np.argmax(odd)) - 1 if odd.any() else int(np.argmax(gap))
        cure = (
            "resample the file to equal steps"
            if odd.any()
            else "fill missing rows with the values before them (--fill, fill=True)"
        )
        raise NormError(
            f"{path}, row {where + 3}: {texts[where + 1]} comes after {texts[where]}, and other "
            f"rows are {_duration(step, dated)} apart; {cure}"
        )
    whole = np.full((len(values), places[-1] + 1), math.nan)
    whole[:, places] = values
    return whole, times[0] + step * np.arange(places[-1] + 1), dated


def _moment(path: Path, row: int, name: str, text: str, dated: bool) -> float:
    try:
        if not dated:
            return float(text)
        moment = datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith("Z") else text)
    except ValueError:
        raise NormError(
            f"{path}, row {row}, column {name}: {text!r} is no time; write 2016-07-01 00:00:00 or "
            "numbers, or say which column holds the times"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _held(path: Path, names: list[str], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every missing value replaced with the one before it."""
    real = ~np.isnan(values)
    if not real[:, 0].all():
        name = names[int(np.argmin(real[:, 0]))]
        raise NormError(f"{path}: {name} begins with a gap, and no value before it fills it")
    last = np.maximum.accumulate(np.where(real, np.arange(values.shape[1]), 0), axis=1)
    held: NDArray[np.float64] = np.take_along_axis(values, last, axis=1)
    return held


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _duration(step: float, dated: bool) -> str:
    if not dated:
        return f"{step:g}"
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if step >= size:
            return f"{step / size:g} {unit}"
    return f"{step:g} s"


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
