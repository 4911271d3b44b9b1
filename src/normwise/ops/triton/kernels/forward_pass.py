"""Forward: measuring, merging and normalizing."""

import triton
import triton.language as tl

from normwise.ops.triton.kernels.formulas import counted, finished, merged, moments_of, rate_of
from normwise.ops.triton.kernels.queue import announce, is_last, take, wait
from normwise.ops.triton.kernels.tiles import (
    address,
    existing,
    keep,
    load,
    positions,
    recall,
    weights,
)
from normwise.ops.triton.kernels.tiles import store as store_tile


@triton.jit
def forward(
    x, y, weight, bias, residual, mask, moments, statistics, elements, sizes, at_x, at_y,
    at_weight, at_mask, at_statistic, EPS: tl.constexpr, CENTRES: tl.constexpr,
    ACTIVATION: tl.constexpr, WEIGHT: tl.constexpr, MASK: tl.constexpr, S: tl.constexpr,
    R: tl.constexpr, Q: tl.constexpr, VECTOR: tl.constexpr, ACROSS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """y, and the moments if there is a place for them; a tile holds whole statistics."""
    wide: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    _, where, there = positions(tl.program_id(0), 0, 1, sizes, S, R, Q, VECTOR, ACROSS, WIDE)
    inside, real = existing(mask, where, there, at_mask, MASK, VECTOR)
    factor, summand = weights(weight, bias, where, there, at_weight, WEIGHT, VECTOR)
    here = load(x, address(where, at_x, VECTOR, ACROSS), mask, inside, real, wide)
    count = elements
    if mask is not None:
        count = counted(real, wide)
        shift, offset, apart, squares = moments_of(here, real, tl.maximum(count, 1), CENTRES)
        var = tl.where(count > 0, squares / tl.maximum(count, 1), 1.0)
    else:
        shift, offset, apart, squares = moments_of(here, real, elements, CENTRES)
        var = squares / elements
    if moments is not None:
        keep(moments, statistics, where, there, at_statistic, shift, offset, var, count,
             mask is not None)  # fmt: skip
    at = address(where, at_y, VECTOR, ACROSS)
    z = finished(apart * rate_of(var, EPS), factor, summand, residual, real, at, inside, ACTIVATION)
    store_tile(y, at, z, inside)


@triton.jit
def _measured(
    x, mask, parts, part_stride, block, part, each, tiles, sizes, at_x, at_mask,
    CENTRES: tl.constexpr, MASK: tl.constexpr, S: tl.constexpr, R: tl.constexpr,
    Q: tl.constexpr, VECTOR: tl.constexpr, ACROSS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Leave shift, offset, squares and count of a part."""
    wide: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    which, where, there = positions(block, part, tiles, sizes, S, R, Q, VECTOR, ACROSS, WIDE)
    inside, real = existing(mask, where, there, at_mask, MASK, VECTOR)
    here = load(x, address(where, at_x, VECTOR, ACROSS), mask, inside, real, wide)
    count = counted(real, wide)
    shift, offset, _, squares = moments_of(here, real, tl.maximum(count, 1), CENTRES)
    to = parts + which[0] * each + part
    tl.store(to, shift, mask=there[0])
    to += part_stride
    tl.store(to, offset, mask=there[0])
    to += part_stride
    tl.store(to, squares, mask=there[0])
    to += part_stride
    tl.store(to, count, mask=there[0])


@triton.jit
def _merged(
    parts, part_stride, moments, statistics, block, each, sizes, at_statistic,
    COUNTS: tl.constexpr, S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    VECTOR: tl.constexpr, ACROSS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Keep the moments of a block of statistics."""
    which, where, there = positions(block, 0, 1, sizes, S, R, Q, VECTOR, ACROSS, WIDE)
    shift, offset, var, count = merged(parts + which[0] * each, part_stride, each, there[0], BLOCK)
    keep(moments, statistics, where, there, at_statistic, shift, offset, var, count, COUNTS)


@triton.jit
def _applied(
    x, y, weight, bias, residual, mask, moments, mean, var, statistics, block, part, tiles, sizes,
    at_x, at_y, at_weight, at_mask, at_statistic, EPS: tl.constexpr, ACTIVATION: tl.constexpr,
    WEIGHT: tl.constexpr, MASK: tl.constexpr, S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    VECTOR: tl.constexpr, ACROSS: tl.constexpr, WIDE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """y of a part, by moments from memory."""
    wide: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    _, where, there = positions(block, part, tiles, sizes, S, R, Q, VECTOR, ACROSS, WIDE)
    inside, real = existing(mask, where, there, at_mask, MASK, VECTOR)
    factor, summand = weights(weight, bias, where, there, at_weight, WEIGHT, VECTOR)
    here = load(x, address(where, at_x, VECTOR, ACROSS), mask, inside, real, wide, LAST)
    shift, offset, square = recall(moments, mean, var, statistics, where, there, at_statistic, wide)
    at = address(where, at_y, VECTOR, ACROSS)
    z = finished((here - shift - offset) * rate_of(square, EPS), factor, summand, residual, real,
                 at, inside, ACTIVATION)  # fmt: skip
    store_tile(y, at, z, inside, LAST)


@triton.jit
def measure(
    x, mask, parts, part_stride, row_tiles, tiles, sizes, at_x, at_mask, CENTRES: tl.constexpr,
    MASK: tl.constexpr, S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, VECTOR: tl.constexpr,
    ACROSS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Shift, offset, squares and count of each part."""
    each = row_tiles * tiles
    block, part = tl.program_id(0) // each, tl.program_id(0) % each
    _measured(x, mask, parts, part_stride, block, part, each, tiles, sizes, at_x, at_mask,
              CENTRES, MASK, S, R, Q, VECTOR, ACROSS, WIDE)  # fmt: skip


@triton.jit
def merge(
    parts, part_stride, moments, statistics, each, sizes, at_statistic, COUNTS: tl.constexpr,
    S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, VECTOR: tl.constexpr,
    ACROSS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The moments of statistics, from those of their parts."""
    _merged(parts, part_stride, moments, statistics, tl.program_id(0), each, sizes, at_statistic,
            COUNTS, S, R, Q, VECTOR, ACROSS, WIDE, BLOCK)  # fmt: skip


@triton.jit
def apply(
    x, y, weight, bias, residual, mask, moments, mean, var, statistics, row_tiles, tiles, sizes,
    at_x, at_y, at_weight, at_mask, at_statistic, EPS: tl.constexpr, ACTIVATION: tl.constexpr,
    WEIGHT: tl.constexpr, MASK: tl.constexpr, S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    VECTOR: tl.constexpr, ACROSS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y by moments from memory, or by statistics that were given."""
    # From the end: what was measured last may still be in the cache.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    each = row_tiles * tiles
    _applied(x, y, weight, bias, residual, mask, moments, mean, var, statistics, program // each,
             program % each, tiles, sizes, at_x, at_y, at_weight, at_mask, at_statistic, EPS,
             ACTIVATION, WEIGHT, MASK, S, R, Q, VECTOR, ACROSS, WIDE, False)  # fmt: skip


@triton.jit
def stream(
    x, y, weight, bias, residual, mask, moments, parts, queue, statistics, part_stride, row_tiles,
    tiles, blocks, lag, sizes, at_x, at_y, at_weight, at_mask, at_statistic, EPS: tl.constexpr,
    CENTRES: tl.constexpr, ACTIVATION: tl.constexpr, WEIGHT: tl.constexpr, MASK: tl.constexpr,
    S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, VECTOR: tl.constexpr,
    ACROSS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y, each part normalized `lag` parts after it was measured."""
    each = row_tiles * tiles
    item = take(queue)
    while item < blocks * each + lag:
        following = take(queue)  # under way while this one is worked on
        if item < blocks * each:
            block = item // each
            _measured(x, mask, parts, part_stride, block, item % each, each, tiles, sizes, at_x,
                      at_mask, CENTRES, MASK, S, R, Q, VECTOR, ACROSS, WIDE)  # fmt: skip
            if is_last(queue, block, each):
                _merged(parts, part_stride, moments, statistics, block, each, sizes, at_statistic,
                        mask is not None, S, R, Q, VECTOR, ACROSS, WIDE, BLOCK)  # fmt: skip
                announce(queue, block)
        if item >= lag:
            ready = (item - lag) // each
            wait(queue, ready, each)
            _applied(x, y, weight, bias, residual, mask, moments, None, None, statistics, ready,
                     (item - lag) % each, tiles, sizes, at_x, at_y, at_weight, at_mask,
                     at_statistic, EPS, ACTIVATION, WEIGHT, MASK, S, R, Q, VECTOR, ACROSS, WIDE,
                     True)  # fmt: skip
        item = following
