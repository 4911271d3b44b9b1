"""A normalization of a tensor as the kernels see it: x[o][a][k][p][q].

A statistic belongs to each (o, k) and averages over (a, p, q). Which of x's dimensions
become which, with sizes and distances in memory, is told here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normwise.axes import Fitted, part_sizes

Strides = tuple[int, ...]


@dataclass(frozen=True)
class Operand:
    """A tensor in the kernels' order: how far apart neighbours lie along o, a, k, p and q."""

    o: int = 0
    a: int = 0
    k: int = 0
    p: int = 0
    q: int = 0


@dataclass(frozen=True)
class Form:
    """Sizes of o, a, k, p, q, and where each operand has its elements.

    x           the input
    y           the output, and what is laid out like it: gradients and the residual
    weight      weight and bias, 0 along what they are broadcast along; so the mask
    statistic   what belongs to (o, k)
    """

    sizes: tuple[int, int, int, int, int]
    x: Operand
    y: Operand
    weight: Operand
    mask: Operand
    statistic: Operand


@dataclass(frozen=True)
class _Dimension:
    """Neighbouring dimensions of x that are walked as one; strides in the order of `Form`."""

    averaged: bool
    size: int
    strides: tuple[int, int, int, int, int]

    def continues(self, outer: "_Dimension") -> bool:
        """Whether this one and the one around it are one longer dimension."""
        joined = tuple(self.size * stride for stride in self.strides)
        return self.averaged == outer.averaged and outer.strides == joined


def form(
    fitted: Fitted,
    shape: Sequence[int],
    x: Strides,
    y: Strides,
    statistic: Sequence[int],
    mask: Sequence[int] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Form | None:
    """The form of a tensor of `shape` with strides x, normalized into one with strides y.

    Shapes
        statistic  the sizes of what is kept, one for each dimension of the split tensor
        mask       the sizes of a contiguous mask of x's rank, 1 where it is broadcast

    None where the kernels cannot walk it: dimensions that are kept and averaged alternate
    too often, or neighbours of y are not neighbours of x.
    """
    parts: dict[int, tuple[int, ...]] = {}
    for dimension, names in fitted.splits:
        parts[dimension] = part_sizes(names, shape[dimension], sizes or {})
    features = [shape[i] if i in fitted.features else 1 for i in range(len(shape))]
    weight_strides = _contiguous(features)
    mask_strides = _contiguous(mask) if mask is not None else (0,) * len(shape)
    statistic_strides = _contiguous(statistic)

    dimensions: list[_Dimension] = []
    for i, size in enumerate(shape):
        inner = 1
        split = []
        for part in reversed(parts.get(i, (size,))):
            strides = (x[i], y[i], weight_strides[i], mask_strides[i])
            split.append((part, tuple(inner * stride for stride in strides)))
            inner *= part
        for part, (sx, sy, sw, sm) in reversed(split):
            at = len(dimensions)
            kept = at not in fitted.averaged
            ss = statistic_strides[at]
            dimensions.append(_Dimension(not kept, part, (sx, sy, sw, sm, ss)))
    return _arranged(_merged(dimensions))


def _contiguous(sizes: Sequence[int]) -> Strides:
    """The strides of a contiguous tensor; 0 along dimensions of one element."""
    strides, distance = [], 1
    for size in reversed(sizes):
        strides.append(0 if size == 1 else distance)
        distance *= size
    return tuple(reversed(strides))


def _merged(dimensions: list[_Dimension]) -> list[_Dimension]:
    """In the order of y's memory, without those of one element, joined where they can be."""
    several = [d for d in dimensions if d.size != 1]
    merged: list[_Dimension] = []
    for d in sorted(several, key=lambda d: -d.strides[1]):
        while merged and d.continues(merged[-1]):
            d = _Dimension(d.averaged, merged.pop().size * d.size, d.strides)
        merged.append(d)
    return merged


def _arranged(dimensions: list[_Dimension]) -> Form | None:
    """Dimensions given their letters, from the innermost outwards: q p k a o."""
    here: dict[str, _Dimension] = {}
    left = list(dimensions)
    for letter, averaged in (("q", True), ("p", True), ("k", False), ("a", True), ("o", False)):
        # What is left may be one run of two levels, (p, q), or rows of one, (a, q) without k.
        if left and left[-1].averaged == averaged:
            here[letter] = left.pop()
    if left or not _has_neighbours(here):
        return None
    one = _Dimension(True, 1, (0, 0, 0, 0, 0))
    all_five = [here.get(letter, one) for letter in "oakpq"]
    x, y, weight, mask, statistic = (Operand(*(d.strides[i] for d in all_five)) for i in range(5))
    if weight.q not in (0, 1) or (weight.a and (weight.k or weight.p or weight.q)):
        return None  # weights that are not in x's order, or a table of rows and columns
    o, a, k, p, q = (d.size for d in all_five)
    return Form((o, a, k, p, q), x, y, weight, mask, statistic)


def _has_neighbours(here: dict[str, _Dimension]) -> bool:
    """Whether the innermost dimension is one of neighbours, in x as in y."""
    innermost = next((here[letter] for letter in "qpkao" if letter in here), None)
    return innermost is None or innermost.strides[:2] == (1, 1)
