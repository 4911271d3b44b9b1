"""What a norm demands, at the least, of memory and of the data around: read off its rows.

A kernel can do no better than to read x once and write y once. It has to read x
twice where the numbers it averages are too many to wait in the processor's cache,
and a whole batch is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from normwise.axes import Axis, Scheme

Reach = Literal["element", "position", "past", "sample", "batch"]  # from near to far

IN_WORDS = (
    "How often the signal is read and written, at the least: in training by forward and "
    "backward together, and twice as often where what a sample averages over does not fit "
    "into the processor's cache. A result sees its batch, its sample, its position in it, "
    "its past up to there, or its element alone. One that sees its batch needs large batches, "
    "and SyncBatchNorm where several processes train; one that sees its sample needs the "
    "whole of it; the others can stream. For the backward, training keeps the signal and so "
    "many numbers beside it."
)


class Passes(NamedTuple):
    """How often a tensor of x's size is read from memory and written to it."""

    reads: int
    writes: int


@dataclass(frozen=True)
class Demands:
    """What a norm demands.

    inference, forward, backward  passes through memory; the last two in training
    infers_from, trains_on        what in the batch an element of the output depends on:
                                  itself ("element"), all channels of its "position",
                                  those and all before ("past"), its "sample", its "batch"
    keeps                         what training keeps for the backward, beside x: as in
                                  "2 per sample, channel", one for each row of the table
    """

    inference: Passes
    forward: Passes
    backward: Passes
    infers_from: Reach
    trains_on: Reach
    keeps: tuple[str, ...]

    @property
    def training(self) -> Passes:
        """Forward and backward together."""
        return Passes(*map(sum, zip(self.forward, self.backward, strict=True)))


def demands(rows: Sequence[Scheme] | None, *, cumulative: bool = False) -> Demands:
    """The demands of a norm that measures what its rows of the table say.

    rows        none at all, (), where x is changed and nothing measured; None where
                nothing is done
    cumulative  whether a position counts itself and those before it, none after
    """
    if rows is None:
        nothing = Passes(0, 0)
        return Demands(nothing, nothing, nothing, "element", "element", ())
    trains_on = _reach(rows, cumulative)
    infers_from = _reach([row for row in rows if not row.remembers], cumulative)
    return Demands(
        inference=Passes(_rounds(infers_from), 1),
        forward=Passes(_rounds(trains_on), 1),
        backward=Passes(2 * _rounds(trains_on), 1),  # of x and of y's gradient
        infers_from=infers_from,
        trains_on=trains_on,
        keeps=tuple(f"{1 + row.centres} per {_kept(row, cumulative)}" for row in rows),
    )


def _rounds(reach: Reach) -> int:
    return 2 if reach == "batch" else 1


def _reach(rows: Iterable[Scheme], cumulative: bool) -> Reach:
    reaches = [_reach_of(row, cumulative) for row in rows]
    return max(reaches, key=get_args(Reach).index, default="element")


def _reach_of(row: Scheme, cumulative: bool) -> Reach:
    averaged = [axes for axes in row.pattern.dimensions if any(axis.averaged for axis in axes)]
    if any(map(_counts_samples, averaged)):
        return "batch"
    if all(map(_is_features, averaged)):
        return "position"
    return "past" if cumulative else "sample"


def _kept(row: Scheme, cumulative: bool) -> str:
    """What there is one statistic for: "sample, channel"."""
    words = []
    for axes in row.pattern.dimensions:
        averaged = [axis for axis in axes if axis.averaged]
        if _counts_samples(axes):
            whole, part = "sample", "batch part"
        elif _is_features(axes):
            whole, part = "channel", "group"
        else:
            whole = part = "position"
            averaged = [] if cumulative else averaged
        if len(averaged) < len(axes):
            words.append(part if averaged else whole)
    return ", ".join(words)


def _counts_samples(axes: Sequence[Axis]) -> bool:
    return any(axis.name == "n" for axis in axes)


def _is_features(axes: Sequence[Axis]) -> bool:
    return any(axis.is_feature for axis in axes)
