"""The table every normalization is a row of, and the pattern language it is written in.

A pattern names the dimensions of x from left to right. What stands in square
brackets is averaged over; everything else keeps a statistic of its own::

    "n c [...]"         instance norm: one statistic per series and channel
    "[n] c [...]"       batch norm: one per channel
    "n (g [c]) [...]"   group norm: dimension 1 is split into g groups of c channels
    "n [c] ..."         layer norm over channels: one per position
    "... [c]"           layer norm as torch.nn spells it: over the last dimension

Three names have a meaning: ``n`` counts samples, so nothing is remembered along
it; ``c`` (also ``c1``, ``c2``, …) is the features, so weight and bias run along
its dimension and a mask leaves it out; ``...`` is any number of dimensions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from normwise.errors import NormError

_TOKEN = re.compile(r"\s*(\.\.\.|[a-z][a-z0-9_]*|[\[\]()]|$)")
_FEATURE = re.compile(r"c\d*")
ELLIPSIS = "..."


@dataclass(frozen=True)
class Axis:
    """One named axis, and whether statistics are averaged over it."""

    name: str
    averaged: bool

    @property
    def is_feature(self) -> bool:
        return _FEATURE.fullmatch(self.name) is not None


@dataclass(frozen=True)
class Fitted:
    """A pattern laid over a tensor of known rank; all positions count from 0.

    The *split* tensor has one dimension per axis: a composite ``(g [c])`` is two.
    """

    rank: int
    split_rank: int
    splits: tuple[tuple[int, tuple[str, ...]], ...]  # composite dimensions of x, last one first
    averaged: tuple[int, ...]  # dimensions of the split tensor that statistics average over
    samples: tuple[int, ...]  # dimensions of the split tensor that are n and kept
    remembered: tuple[tuple[int, str], ...]  # (dimension of the split tensor, axis): kept, not n
    features: tuple[int, ...]  # dimensions of x that weight and bias run along


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern. `parse` makes it; `fit` lays it over a tensor's dimensions."""

    text: str
    dimensions: tuple[
        tuple[Axis, ...], ...
    ]  # one entry per dimension; a composite has several axes

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(axis for dimension in self.dimensions for axis in dimension)

    @property
    def open(self) -> bool:
        """Whether the pattern has ``...`` and so fits tensors of several ranks."""
        return any(axis.name == ELLIPSIS for axis in self.axes)

    def spread(self, rank: int) -> list[tuple[Axis, ...]]:
        """The axes of each of `rank` dimensions, ``...`` being as many as are left.

        Raises
            NormError  if the pattern has more dimensions than that, or fewer and no ``...``.
        """
        left = rank - (len(self.dimensions) - self.open)
        if left < 0 or (left and not self.open):
            names = "at least " if self.open else ""
            count = len(self.dimensions) - self.open
            raise NormError(
                f"pattern {self.text!r} names {names}{count} dimensions, and x has {rank}; "
                "give x one dimension for each name"
            )
        dimensions: list[tuple[Axis, ...]] = []
        for dimension in self.dimensions:
            dimensions += [dimension] * (left if dimension[0].name == ELLIPSIS else 1)
        return dimensions

    def fit(self, rank: int) -> Fitted:
        """Lay the pattern over `rank` dimensions, filling in what ``...`` stands for.

        Raises
            NormError  if the pattern has more dimensions than that, or fewer and no ``...``.
        """
        return _FITTED.get((self.text, rank)) or _fit(self, rank)

    def __str__(self) -> str:
        return self.text


# Plain dictionaries, which torch.compile reads, where it warns of an lru_cache. They are filled
# when a pattern is parsed, not when it is used: what a compiled graph has read must not change.
_RANKS = range(1, 9)
_PARSED: dict[str, Pattern] = {}
_FITTED: dict[tuple[str, int], Fitted] = {}


@dataclass(frozen=True)
class Scheme:
    """One row of the table: all that tells one normalization from another.

    centres    whether the mean is removed; if not, var is the mean square
    remembers  whether inference uses statistics remembered from training
    """

    pattern: Pattern
    centres: bool = True
    remembers: bool = False


def parse(text: str) -> Pattern:
    """Read a pattern once; the same text gives the same object.

    Raises
        NormError  with the pattern and a mark under the fault.
    """
    if text not in _PARSED:
        pattern = _PARSED[text] = _parse(text)
        least = len(pattern.dimensions) - pattern.open
        for rank in _RANKS:
            if rank == least or (rank > least and pattern.open):
                _FITTED[text, rank] = _fit(pattern, rank)
    return _PARSED[text]


def _parse(text: str) -> Pattern:
    dimensions: list[tuple[Axis, ...]] = []
    composite: list[Axis] | None = None
    opened: dict[str, int] = {}  # the bracket or parenthesis now open, and where
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            fault = position + len(text[position:]) - len(text[position:].lstrip())
            _refuse(
                text, fault, f"{text[fault]!r} has no meaning here; use names, ..., [ ] and ( )"
            )
        token, start = match[1], match.start(1)
        position = match.end()
        if token in "[(":
            if token in opened:
                _refuse(text, start, f"{token!r} inside {token!r}; one level is enough")
            if token == "(" and "[" in opened:
                _refuse(text, start, "brackets go inside the parentheses: write (g [c])")
            opened[token] = start
            if token == "(":
                composite = []
        elif token in "])":
            if opened.pop("[" if token == "]" else "(", None) is None:
                _refuse(text, start, f"{token!r} closes nothing")
            if token == ")":
                if "[" in opened:
                    _refuse(text, opened["["], "this bracket is still open at the )")
                if composite is None or len(composite) < 2:
                    _refuse(text, start, "parentheses split a dimension in two or more: (g [c])")
                dimensions.append(tuple(composite))
                composite = None
        else:
            axis = Axis(token, averaged="[" in opened)
            known = [a.name for d in dimensions for a in d] + [a.name for a in composite or []]
            if axis.name in known:
                _refuse(text, start, f"{axis.name!r} is named twice")
            if composite is None:
                dimensions.append((axis,))
            elif axis.name == ELLIPSIS:
                _refuse(text, start, "... cannot be part of one dimension")
            else:
                composite.append(axis)
    for token, start in opened.items():
        _refuse(text, start, f"{token!r} is never closed")
    pattern = Pattern(text, tuple(dimensions))
    if not any(axis.averaged for axis in pattern.axes):
        _refuse(text, 0, "nothing is averaged; put brackets around what is: n c [t]")
    return pattern


def _refuse(text: str, position: int, fault: str) -> NoReturn:
    raise NormError(f"pattern {text!r}: {fault}\n    {text}\n    {' ' * position}^")


def _fit(pattern: Pattern, rank: int) -> Fitted:
    dimensions = pattern.spread(rank)
    split = [axis for dimension in dimensions for axis in dimension]
    kept = [(i, axis) for i, axis in enumerate(split) if not axis.averaged]
    return Fitted(
        rank=rank,
        split_rank=len(split),
        splits=tuple(
            (i, tuple(axis.name for axis in dimension))
            for i, dimension in reversed(list(enumerate(dimensions)))
            if len(dimension) > 1
        ),
        averaged=tuple(i for i, axis in enumerate(split) if axis.averaged),
        samples=tuple(i for i, axis in kept if axis.name == "n"),
        remembered=tuple((i, axis.name) for i, axis in kept if axis.name != "n"),
        features=tuple(
            i
            for i, dimension in enumerate(dimensions)
            if any(axis.is_feature for axis in dimension)
        ),
    )


def part_sizes(names: Sequence[str], total: int, given: Mapping[str, int]) -> tuple[int, ...]:
    """The sizes of the parts of a composite dimension of `total` elements.

    Raises
        NormError  if more than one part is unknown, one is below 1, or they do not
                   multiply to `total`.
    """
    unknown = [name for name in names if name not in given]
    product = 1
    for name in names:
        product *= int(given.get(name, 1))  # they may be numpy's, of 8 bits
    written = " ".join(names)
    if len(unknown) > 1:
        raise NormError(f"({written}) needs a size for all but one of its parts: {unknown[0]}=…")
    if (
        any(size < 1 for size in given.values())
        or total % product
        or (not unknown and total != product)
    ):
        sizes = ", ".join(f"{name}={given[name]}" for name in names if name in given)
        raise NormError(f"({written}) with {sizes} does not fit a dimension of {total}")
    return tuple(int(given[name]) if name in given else total // product for name in names)


def trailing(count: int) -> Pattern:
    """``... [c1 c2]``: statistics over the last `count` dimensions, as torch.nn.LayerNorm's."""
    return _TRAILING.get(count) or _trailing(count)


def trailing_scheme(count: int, centres: bool = True) -> Scheme:
    """Layer norm over the last `count` dimensions or, where it does not centre, RMS norm."""
    return _TRAILING_SCHEMES.get((count, centres)) or Scheme(trailing(count), centres=centres)


def _trailing(count: int) -> Pattern:
    names = "c" if count == 1 else " ".join(f"c{i + 1}" for i in range(count))
    return parse(f"... [{names}]")


_TRAILING: Mapping[int, Pattern] = {count: _trailing(count) for count in _RANKS}
_TRAILING_SCHEMES: Mapping[tuple[int, bool], Scheme] = {
    (count, centres): Scheme(_TRAILING[count], centres=centres)
    for count in _RANKS
    for centres in (True, False)
}

SCHEMES: Mapping[str, Scheme] = {
    "batch": Scheme(parse("[n] c [...]"), remembers=True),
    "ghost": Scheme(parse("(n [g]) c [...]"), remembers=True),
    "instance": Scheme(parse("n c [...]")),
    "group": Scheme(parse("n (g [c]) [...]")),
    "sample": Scheme(parse("n [c ...]")),
    "layer": Scheme(parse("n [c] ...")),
    "rms": Scheme(parse("n [c] ..."), centres=False),
    "response": Scheme(parse("n c [...]"), centres=False),
}
