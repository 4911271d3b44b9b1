"""Backward: what gradients are summed from, and the gradients."""

import triton
import triton.language as tl

from normwise.ops.triton.kernels.formulas import affine, rate_of, slope, summed, total
from normwise.ops.triton.kernels.queue import announce, is_last, take, wait
from normwise.ops.triton.kernels.tiles import address, existing, load, positions, recall, weights
from normwise.ops.triton.kernels.tiles import store as store_tile


@triton.jit
def _tile(
    gradient, x, weight, bias, residual, mask, moments, mean, var, statistics, block, part, tiles,
    sizes, at_x, at_y, at_weight, at_mask, at_statistic, EPS: tl.constexpr,
    ACTIVATION: tl.constexpr, WEIGHT: tl.constexpr, MASK: tl.constexpr, S: tl.constexpr,
    R: tl.constexpr, Q: tl.constexpr, VECTOR: tl.constexpr, ACROSS: tl.constexpr,
    WIDE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Where a tile is, the weight, x standardised, 1 / deviation, and the gradient before the
    activation.
    """
    wide: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    which, where, there = positions(block, part, tiles, sizes, S, R, Q, VECTOR, ACROSS, WIDE)
    inside, real = existing(mask, where, there, at_mask, MASK, VECTOR)
    factor, summand = weights(weight, bias, where, there, at_weight, WEIGHT, VECTOR)
    at = address(where, at_y, VECTOR, ACROSS)
    here = load(x, address(where, at_x, VECTOR, ACROSS), mask, inside, real, wide, LAST)
    g = load(gradient, at, mask, inside, real, wide, LAST)
    shift, offset, square = recall(moments, mean, var, statistics, where, there, at_statistic, wide)
    rate = rate_of(square, EPS)
    standard = tl.where(real, (here - shift - offset) * rate, 0.0)
    if ACTIVATION is not None:
        z = affine(standard, factor, summand)
        if residual is not None:
            z = z + load(residual, at, mask, inside, real, wide, LAST)
        g = g * slope(z, ACTIVATION)
    return which, where, there, (inside, real, at), factor, standard, rate, g


@triton.jit
def _gathered(tile, WEIGHT: tl.constexpr):
    """Summed over what the weights are the same for."""
    if not WEIGHT & 4:
        tile = tl.sum(tile, 2, keep_dims=True)
    if not WEIGHT & 2:
        tile = tl.sum(tile, 1, keep_dims=True)
    if not WEIGHT & 1:
        tile = tl.sum(tile, 0, keep_dims=True)
    return tile


@triton.jit
def _leave(partial, partial_stride, of_weight, of_bias, slot, which, where, there, part, row_slots,
           slots, tiles, WEIGHT: tl.constexpr):  # fmt: skip
    """Sums for the gradients of weight and bias, at [slot or s][r or row tile][q or tile]."""
    at = tl.zeros((1, 1, 1), which[0].dtype)
    inside = at == 0
    if WEIGHT & 1:
        at, inside = at + which[0], inside & there[0]
    else:
        at = at + slot
    if WEIGHT & 2:
        at, inside = at * row_slots + which[1], inside & there[1]
    else:
        at = at * row_slots + part // tiles
    if WEIGHT & 4:
        at, inside = at * slots + where[4], inside & there[2]
    else:
        at = at * slots + part % tiles
    tl.store(partial + at, of_weight, mask=inside)
    tl.store(partial + partial_stride + at, of_bias, mask=inside)


@triton.jit
def _part(sums, stride, of_gradient, of_product, which, there, part, each):
    """Leave the sums over a part."""
    to = sums + which[0] * each + part
    tl.store(to, of_gradient, mask=there[0])
    to += stride
    tl.store(to, of_product, mask=there[0])


@triton.jit
def _pull(g, standard, along, across, count, CENTRES: tl.constexpr):
    """The gradient less what it takes through the statistics."""
    if CENTRES:
        g = g - along / count
    return g - standard * (across / count)


@triton.jit
def _count(moments, mask, elements, statistics, where, there, strides):
    """How many elements each statistic averages over; a mask's are kept with the moments."""
    count = elements
    if mask is not None and moments is not None:
        at = moments + where[0] * strides[0] + where[2] * strides[1]
        at += statistics  # one by one: three times as many may not fit into 32 bits
        at += statistics
        at += statistics
        count = tl.maximum(tl.load(at, mask=there[0], other=1.0), 1)
    return count


@triton.jit
def backward(
    gradient, x, weight, bias, residual, mask, moments, mean, var, dx, dresidual, sums, partial,
    statistics, elements, partial_stride, row_slots, slots, row_tiles, tiles, blocks, groups,
    sizes, at_x, at_y, at_weight, at_mask, at_statistic, OWN: tl.constexpr, EPS: tl.constexpr,
    CENTRES: tl.constexpr, ACTIVATION: tl.constexpr, WEIGHT: tl.constexpr, MASK: tl.constexpr,
    S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, VECTOR: tl.constexpr,
    ACROSS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The gradients of x and the residual, and what those of weight and bias are summed from.

    OWN   whether a tile holds whole statistics, so that its sums are theirs
    sums  of the gradient, and of its product with the standardised x: left for each part where
          no dx is asked for; read for each statistic where it is; None where the statistics
          were given, and have no part in it

    A program takes every `groups`-th block of statistics, and adds up what it has for weights
    that all statistics share.
    """
    wide: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    each = row_tiles * tiles
    part, group = tl.program_id(0) % each, tl.program_id(0) // each
    r_weights: tl.constexpr = R if WEIGHT & 2 else 1
    q_weights: tl.constexpr = Q if WEIGHT & 4 else 1
    of_weight = tl.zeros((1, r_weights, q_weights), wide)
    of_bias = tl.zeros((1, r_weights, q_weights), wide)
    for block in tl.range(group, blocks, groups, num_stages=1):
        which, where, there, elsewhere, factor, standard, rate, g = _tile(
            gradient, x, weight, bias, residual, mask, moments, mean, var, statistics, block,
            part, tiles, sizes, at_x, at_y, at_weight, at_mask, at_statistic, EPS, ACTIVATION,
            WEIGHT, MASK, S, R, Q, VECTOR, ACROSS, WIDE, False,
        )  # fmt: skip
        inside, real, at = elsewhere
        if dresidual is not None:
            store_tile(dresidual, at, g, inside)
        if partial is not None:
            if WEIGHT & 1:
                _leave(partial, partial_stride, _gathered(g * standard, WEIGHT),
                       _gathered(g, WEIGHT), 0, which, where, there, part, row_slots, slots,
                       tiles, WEIGHT)  # fmt: skip
            else:
                of_weight += _gathered(g * standard, WEIGHT)
                of_bias += _gathered(g, WEIGHT)
        g = affine(g, factor, None)
        if dx is None:
            _part(sums, statistics * each, total(g), total(g * standard), which, there, part, each)
        else:
            if OWN:
                along, across = total(g), total(g * standard)
            elif sums is not None:
                along = tl.load(sums + which[0], mask=there[0], other=0.0)
                across = tl.load(sums + statistics + which[0], mask=there[0], other=0.0)
            if OWN or sums is not None:
                count = _count(moments, mask, elements, statistics, where, there, at_statistic)
                g = _pull(g, standard, along, across, count, CENTRES)
            store_tile(dx, at, tl.where(real, g * rate, 0.0), inside)
    if partial is not None:
        if not WEIGHT & 1:
            which, where, there = positions(0, part, tiles, sizes, S, R, Q, VECTOR, ACROSS, WIDE)
            _leave(partial, partial_stride, of_weight, of_bias, group, which, where, there, part,
                   row_slots, slots, tiles, WEIGHT)  # fmt: skip


@triton.jit
def stream_backward(
    gradient, x, weight, bias, residual, mask, moments, dx, dresidual, sums, totals, queue,
    partial, statistics, elements, partial_stride, row_slots, slots, row_tiles, tiles, blocks,
    lag, sizes, at_x, at_y, at_weight, at_mask, at_statistic, EPS: tl.constexpr,
    CENTRES: tl.constexpr, ACTIVATION: tl.constexpr, WEIGHT: tl.constexpr, MASK: tl.constexpr,
    S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, VECTOR: tl.constexpr,
    ACROSS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The same, each part given its gradients `lag` parts after it was summed."""
    each = row_tiles * tiles
    stride = statistics * each
    item = take(queue)
    while item < blocks * each + lag:
        following = take(queue)  # under way while this one is worked on
        if item < blocks * each:
            block, part = item // each, item % each
            which, where, there, _, factor, standard, _, g = _tile(
                gradient, x, weight, bias, residual, mask, moments, None, None, statistics, block,
                part, tiles, sizes, at_x, at_y, at_weight, at_mask, at_statistic, EPS, ACTIVATION,
                WEIGHT, MASK, S, R, Q, VECTOR, ACROSS, WIDE, False,
            )  # fmt: skip
            if partial is not None:
                _leave(partial, partial_stride, _gathered(g * standard, WEIGHT),
                       _gathered(g, WEIGHT), block, which, where, there, part, row_slots, slots,
                       tiles, WEIGHT)  # fmt: skip
            g = affine(g, factor, None)
            _part(sums, stride, total(g), total(g * standard), which, there, part, each)
            if is_last(queue, block, each):
                first = sums + which[0] * each
                along = summed(first, each, there[0], BLOCK)
                across = summed(first + stride, each, there[0], BLOCK)
                _part(totals, statistics, along, across, which, there, 0, 1)
                announce(queue, block)
        if item >= lag:
            ready, later = (item - lag) // each, (item - lag) % each
            wait(queue, ready, each)
            mine, place, here, elsewhere, by, apart, rate, pulled = _tile(
                gradient, x, weight, bias, residual, mask, moments, None, None, statistics, ready,
                later, tiles, sizes, at_x, at_y, at_weight, at_mask, at_statistic, EPS,
                ACTIVATION, WEIGHT, MASK, S, R, Q, VECTOR, ACROSS, WIDE, True,
            )  # fmt: skip
            inside, real, at = elsewhere
            if dresidual is not None:
                store_tile(dresidual, at, pulled, inside, True)
            pulled = affine(pulled, by, None)
            count = _count(moments, mask, elements, statistics, place, here, at_statistic)
            of_gradient = tl.load(totals + mine[0], mask=here[0], other=0.0)
            of_product = tl.load(totals + statistics + mine[0], mask=here[0], other=0.0)
            pulled = _pull(pulled, apart, of_gradient, of_product, count, CENTRES)
            store_tile(dx, at, tl.where(real, pulled * rate, 0.0), inside, True)
        item = following
