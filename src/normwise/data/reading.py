"""A CSV file as numbers at equal steps of time, or a sentence that says what is in the way."""

import csv
import gzip
import io
import math
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normwise.errors import NormError

_LONGEST_NAMES = 60  # characters of the list of columns in an error


def read(
    path: Path, time: str | int | None, columns: Iterable[str] | None, *, fill: bool
) -> tuple[Tensor, tuple[str, ...], NDArray[np.float64], bool]:
    """The fields of the `Series` that `read_series` returns."""
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
    return torch.from_numpy(values), tuple(wanted), times, dated


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
