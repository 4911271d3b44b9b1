"""The GPU kernels, in Triton: a tile of statistics by rows by neighbours, and what is done to it.

x is read as x[o][a][k][p][q], see ops/form.py. A program holds a tile [S, R, Q] on chip: S
statistics (o, k), R rows (a, p) and Q neighbours q. One tile may hold all that a statistic
averages over; if not, several do, and what they find is merged.

    forward   measures the tile and normalizes it: one pass over memory
    measure   the moments of each tile
    merge     the moments of a statistic, from those of its tiles
    apply     normalizes by moments from memory
    backward  the gradients, with sums over the tile; or the sums alone; or with sums from memory
    remember  running statistics

Distances come in units of VECTOR elements, so that the compiler sees which addresses are
aligned: a thread then reads 16 bytes at a time, whatever the sizes are.
"""

import triton
import triton.language as tl

_NEGATIVE_SLOPE = tl.constexpr(0.01)
_ROOT_HALF = tl.constexpr(0.7071067811865476)
_ROOT_TWO_PI = tl.constexpr(2.5066282746310002)


@triton.jit
def probe(to):
    """Whether a kernel can be compiled and launched at all."""
    tl.store(to, 1.0)


# -- where things are --------------------------------------------------------------------------


@triton.jit
def _tile(block, row_tile, tile, sizes, S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
          VECTOR: tl.constexpr, ACROSS: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """Which (s, r), which (o, a, k, p, q), and which of (s, r, q) there are.

    Of sizes [S, 1, 1], [1, R, 1] and [1, 1, Q], in 64 bits where 32 are too few.
    """
    index: tl.constexpr = tl.int64 if WIDE else tl.int32
    s = ((tl.zeros((S,), index) + block) * S + tl.arange(0, S))[:, None, None]
    r = ((tl.zeros((R,), index) + row_tile) * R + tl.arange(0, R))[None, :, None]
    q = ((tl.zeros((Q,), index) + tile) * Q + tl.arange(0, Q))[None, None, :]
    k_size = sizes[2] * (VECTOR if ACROSS else 1)
    q_size = (tl.zeros((1, 1, 1), index) + sizes[4]) * (1 if ACROSS else VECTOR)
    o, a, k, p = s // k_size, r // sizes[3], s % k_size, r % sizes[3]
    return (s, r), (o, a, k, p, q), (o < sizes[0], a < sizes[1], q < q_size)


@triton.jit
def _at(where, strides, VECTOR: tl.constexpr, ACROSS: tl.constexpr):
    """Where elements of x, or of what is laid out like y, lie: [S, R, Q]."""
    o, a, k, p, q = where
    rows = (a * strides[1] + p * strides[3]) * VECTOR
    if ACROSS:  # k are the neighbours
        return o * strides[0] * VECTOR + k + rows + q
    return (o * strides[0] + k * strides[2]) * VECTOR + rows + q


@triton.jit
def _operand(pointer, where, there, strides, ALONG: tl.constexpr, otherwise):
    """Elements of the weights or the mask, of size 1 along what they are the same for."""
    o, a, k, p, q = where
    at = tl.zeros((1, 1, 1), o.dtype)
    inside = at == 0
    if ALONG & 1:
        at, inside = at + o * strides[0] + k * strides[2], inside & there[0]
    if ALONG & 2:
        at, inside = at + a * strides[1] + p * strides[3], inside & there[1]
    if ALONG & 4:
        at, inside = at + q * strides[4], inside & there[2]
    return tl.load(pointer + at, mask=inside, other=otherwise)


@triton.jit
def _real(mask, where, there, strides, ALONG: tl.constexpr):
    """Which elements of the tile exist, and which of them are real: [S, R, Q]."""
    inside = there[0] & there[1] & there[2]
    real = inside
    if mask is not None:
        real = inside & (_operand(mask, where, there, strides, ALONG, 0) != 0)
    return inside, real


@triton.jit
def _load(pointer, at, mask, inside, real, wide: tl.constexpr):
    """Elements of the tile, 0 where they are not real."""
    # What a mask hides is read and then dropped: 16 bytes a thread cannot be read in part.
    here = tl.load(pointer + at, mask=inside, other=0.0).to(wide)
    if mask is not None:
        here = tl.where(real, here, 0.0)
    return here


@triton.jit
def _affine(standard, weight, bias, where, there, strides, ALONG: tl.constexpr):
    """standard * weight + bias."""
    if weight is not None:
        w = _operand(weight, where, there, strides, ALONG, 0.0)
        standard = standard * w.to(standard.dtype)
    if bias is not None:
        b = _operand(bias, where, there, strides, ALONG, 0.0)
        standard = standard + b.to(standard.dtype)
    return standard


# -- what is computed --------------------------------------------------------------------------


@triton.jit
def _total(tile):
    """The sum over rows and neighbours: [S, 1, 1]."""
    return tl.sum(tl.sum(tile, 2, keep_dims=True), 1, keep_dims=True)


@triton.jit
def _moments(x, real, elements, CENTRES: tl.constexpr):
    """Shift and offset of the mean, x's deviation from it, and the sum of its squares.

    As the formula measures: two passes, the second about the mean of the first. x is 0 where
    it is not real.
    """
    shift = _total(x) * 0
    offset = shift
    if CENTRES:
        shift = _total(x) / elements
        x = tl.where(real, x - shift, 0.0)
        offset = _total(x) / elements
        x = tl.where(real, x - offset, 0.0)
    return shift, offset, x, _total(x * x)


@triton.jit
def _counted(real, like):
    """How many elements of the tile are real, as a number of x's kind: [S, 1, 1]."""
    return _total(tl.where(real, like * 0 + 1, 0.0))


@triton.jit
def _rate(var, EPS: tl.constexpr):
    return 1 / tl.sqrt(var + EPS)


@triton.jit
def _recall(moments, mean, var, statistics, where, there, strides, EPS: tl.constexpr,
            wide: tl.constexpr):  # fmt: skip
    """Shift, offset and 1 / deviation, as `forward` left them or as they were given."""
    at = where[0] * strides[0] + where[2] * strides[1]
    inside = there[0]
    if moments is not None:
        stored = moments + at
        shift = tl.load(stored, mask=inside, other=0.0)
        stored += statistics
        offset = tl.load(stored, mask=inside, other=0.0)
        stored += statistics
        square = tl.load(stored, mask=inside, other=1.0)
    else:
        square = tl.load(var + at, mask=inside, other=1.0)
        shift = square * 0
        offset = shift
        if mean is not None:
            shift = tl.load(mean + at, mask=inside, other=0.0)
    return shift.to(wide), offset.to(wide), _rate(square.to(wide), EPS)


@triton.jit
def _finish(standard, weight, bias, residual, real, where, there, at, inside, at_weight,
            WEIGHT: tl.constexpr, ACTIVATION: tl.constexpr):  # fmt: skip
    """What follows standardising: weight, bias, residual, activation; 0 where masked."""
    z = _affine(standard, weight, bias, where, there, at_weight, WEIGHT)
    if residual is not None:
        z = z + tl.load(residual + at, mask=inside, other=0.0).to(z.dtype)
    z = tl.where(real, z, 0.0)
    if ACTIVATION == "relu":
        z = tl.where(z < 0, 0.0, z)
    elif ACTIVATION == "leaky_relu":
        z = tl.where(z < 0, z * _NEGATIVE_SLOPE, z)
    elif ACTIVATION == "gelu":
        z = z * (0.5 + 0.5 * tl.erf(z * _ROOT_HALF))
    elif ACTIVATION == "silu":
        z = z / (1 + tl.exp(-z))
    return z


@triton.jit
def _slope(z, ACTIVATION: tl.constexpr):
    """The derivative of the activation at z."""
    if ACTIVATION == "relu":
        slope = tl.where(z > 0, 1.0, z * 0)
    elif ACTIVATION == "leaky_relu":
        slope = tl.where(z > 0, 1.0, z * 0 + _NEGATIVE_SLOPE)
    elif ACTIVATION == "gelu":
        slope = 0.5 + 0.5 * tl.erf(z * _ROOT_HALF) + z * tl.exp(-0.5 * z * z) / _ROOT_TWO_PI
    else:
        share = 1 / (1 + tl.exp(-z))
        slope = share * (1 + z * (1 - share))
    return slope


# -- forward -----------------------------------------------------------------------------------


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
    _, where, there = _tile(tl.program_id(0), 0, 0, sizes, S, R, Q, VECTOR, ACROSS, WIDE)
    inside, real = _real(mask, where, there, at_mask, MASK)
    here = _load(x, _at(where, at_x, VECTOR, ACROSS), mask, inside, real, wide)
    count = elements
    if mask is not None:
        count = _counted(real, here)
        shift, offset, apart, squares = _moments(here, real, tl.maximum(count, 1), CENTRES)
        var = tl.where(count > 0, squares / tl.maximum(count, 1), 1.0)
    else:
        shift, offset, apart, squares = _moments(here, real, elements, CENTRES)
        var = squares / elements
    if moments is not None:
        to = moments + where[0] * at_statistic[0] + where[2] * at_statistic[1]
        tl.store(to, shift, mask=there[0])
        to += statistics
        tl.store(to, offset, mask=there[0])
        to += statistics
        tl.store(to, var, mask=there[0])
        if mask is not None:
            tl.store(to + statistics, count, mask=there[0])
    at = _at(where, at_y, VECTOR, ACROSS)
    z = _finish(apart * _rate(var, EPS), weight, bias, residual, real, where, there, at, inside,
                at_weight, WEIGHT, ACTIVATION)  # fmt: skip
    tl.store(y + at, z, mask=inside)


@triton.jit
def measure(
    x, mask, parts, part_stride, row_tiles, tiles, sizes, at_x, at_mask, CENTRES: tl.constexpr,
    MASK: tl.constexpr, S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, VECTOR: tl.constexpr,
    ACROSS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Shift, offset, squares and count of each tile."""
    wide: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    part, block = tl.program_id(0) % (row_tiles * tiles), tl.program_id(0) // (row_tiles * tiles)
    which, where, there = _tile(
        block, part // tiles, part % tiles, sizes, S, R, Q, VECTOR, ACROSS, WIDE
    )
    inside, real = _real(mask, where, there, at_mask, MASK)
    here = _load(x, _at(where, at_x, VECTOR, ACROSS), mask, inside, real, wide)
    count = _counted(real, here)
    shift, offset, _, squares = _moments(here, real, tl.maximum(count, 1), CENTRES)
    to = parts + which[0] * (row_tiles * tiles) + part
    tl.store(to, shift, mask=there[0])
    to += part_stride
    tl.store(to, offset, mask=there[0])
    to += part_stride
    tl.store(to, squares, mask=there[0])
    to += part_stride
    tl.store(to, count, mask=there[0])


@triton.jit
def merge(
    parts, part_stride, tiles, moments, statistics, k_size, at_statistic, COUNTS: tl.constexpr,
    BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The moments of one statistic from those of its tiles, in two passes as from elements."""
    wide: tl.constexpr = parts.dtype.element_ty
    s = tl.program_id(0)
    if WIDE:
        s = s.to(tl.int64)
    shifts = parts + s * tiles
    offsets = shifts + part_stride
    deviations = offsets + part_stride
    counts = deviations + part_stride
    each = tl.arange(0, BLOCK)
    zero = tl.zeros((BLOCK,), wide)

    count, mean = zero, zero
    for first in range(0, tiles, BLOCK):
        at = first + each
        inside = at < tiles
        n = tl.load(counts + at, mask=inside, other=0.0)
        count += n
        mean += n * tl.load(shifts + at, mask=inside, other=0.0)
    total = tl.sum(count, 0)
    divisor = tl.maximum(total, 1)
    shift = tl.sum(mean, 0) / divisor

    apart = zero
    for first in range(0, tiles, BLOCK):
        at = first + each
        inside = at < tiles
        n = tl.load(counts + at, mask=inside, other=0.0)
        high = tl.load(shifts + at, mask=inside, other=0.0)
        low = tl.load(offsets + at, mask=inside, other=0.0)
        apart += n * ((high - shift) + low)
    offset = tl.sum(apart, 0) / divisor

    squares = zero
    for first in range(0, tiles, BLOCK):
        at = first + each
        inside = at < tiles
        n = tl.load(counts + at, mask=inside, other=0.0)
        high = tl.load(shifts + at, mask=inside, other=0.0)
        low = tl.load(offsets + at, mask=inside, other=0.0)
        off = (high - shift) + low - offset
        squares += tl.load(deviations + at, mask=inside, other=0.0) + n * off * off
    var = tl.where(total > 0, tl.sum(squares, 0) / divisor, 1.0)

    to = moments + (s // k_size) * at_statistic[0] + (s % k_size) * at_statistic[1]
    tl.store(to, shift)
    to += statistics
    tl.store(to, offset)
    to += statistics
    tl.store(to, var)
    if COUNTS:
        tl.store(to + statistics, total)


@triton.jit
def apply(
    x, y, weight, bias, residual, mask, moments, mean, var, statistics, row_tiles, tiles, sizes,
    at_x, at_y, at_weight, at_mask, at_statistic, EPS: tl.constexpr, ACTIVATION: tl.constexpr,
    WEIGHT: tl.constexpr, MASK: tl.constexpr, S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    VECTOR: tl.constexpr, ACROSS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y by moments from memory, or by statistics that were given."""
    wide: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    # From the end: what was measured last may still be in the cache.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    part, block = program % (row_tiles * tiles), program // (row_tiles * tiles)
    _, where, there = _tile(
        block, part // tiles, part % tiles, sizes, S, R, Q, VECTOR, ACROSS, WIDE
    )
    inside, real = _real(mask, where, there, at_mask, MASK)
    here = _load(x, _at(where, at_x, VECTOR, ACROSS), mask, inside, real, wide)
    shift, offset, rate = _recall(
        moments, mean, var, statistics, where, there, at_statistic, EPS, wide
    )
    at = _at(where, at_y, VECTOR, ACROSS)
    z = _finish((here - shift - offset) * rate, weight, bias, residual, real, where, there, at,
                inside, at_weight, WEIGHT, ACTIVATION)  # fmt: skip
    tl.store(y + at, z, mask=inside)


# -- backward ----------------------------------------------------------------------------------


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
    sums  of the gradient, and of its product with the standardised x: left for each tile where
          no dx is asked for; read for each statistic where it is; None where the statistics
          were given, and have no part in it

    A program takes every `groups`-th block of statistics, and adds up what it has for weights
    that all statistics share.
    """
    wide: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    part, group = tl.program_id(0) % (row_tiles * tiles), tl.program_id(0) // (row_tiles * tiles)
    r_weights: tl.constexpr = R if WEIGHT & 2 else 1
    q_weights: tl.constexpr = Q if WEIGHT & 4 else 1
    of_weight = tl.zeros((1, r_weights, q_weights), wide)
    of_bias = tl.zeros((1, r_weights, q_weights), wide)
    for block in tl.range(group, blocks, groups, num_stages=1):
        which, where, there = _tile(
            block, part // tiles, part % tiles, sizes, S, R, Q, VECTOR, ACROSS, WIDE
        )
        inside, real = _real(mask, where, there, at_mask, MASK)
        at = _at(where, at_y, VECTOR, ACROSS)
        here = _load(x, _at(where, at_x, VECTOR, ACROSS), mask, inside, real, wide)
        g = _load(gradient, at, mask, inside, real, wide)
        shift, offset, rate = _recall(
            moments, mean, var, statistics, where, there, at_statistic, EPS, wide
        )
        standard = tl.where(real, (here - shift - offset) * rate, 0.0)
        if ACTIVATION is not None:
            z = _affine(standard, weight, bias, where, there, at_weight, WEIGHT)
            if residual is not None:
                z = z + _load(residual, at, mask, inside, real, wide)
            g = g * _slope(z, ACTIVATION)
        if dresidual is not None:
            tl.store(dresidual + at, g, mask=inside)
        if partial is not None:
            if WEIGHT & 1:
                _leave(partial, partial_stride, _gathered(g * standard, WEIGHT),
                       _gathered(g, WEIGHT), 0, which, where, there, part, row_slots, slots,
                       tiles, WEIGHT)  # fmt: skip
            else:
                of_weight += _gathered(g * standard, WEIGHT)
                of_bias += _gathered(g, WEIGHT)
        g = _affine(g, weight, None, where, there, at_weight, WEIGHT)
        if OWN:
            along, across = _total(g), _total(g * standard)
        if dx is None:
            to = sums + which[0] * (row_tiles * tiles) + part
            tl.store(to, _total(g), mask=there[0])
            to += statistics * (row_tiles * tiles)
            tl.store(to, _total(g * standard), mask=there[0])
        else:
            if sums is not None:
                along = tl.load(sums + which[0], mask=there[0], other=0.0)
                across = tl.load(sums + statistics + which[0], mask=there[0], other=0.0)
            if OWN or sums is not None:
                count = elements
                if mask is not None:
                    at_count = where[0] * at_statistic[0] + where[2] * at_statistic[1]
                    count = tl.load(moments + 3 * statistics + at_count, mask=there[0], other=1.0)
                    count = tl.maximum(count, 1)
                if CENTRES:
                    g = g - along / count
                g = tl.where(real, g - standard * (across / count), 0.0)
            tl.store(dx + at, g * rate, mask=inside)
    if partial is not None:
        if not WEIGHT & 1:
            which, where, there = _tile(
                0, part // tiles, part % tiles, sizes, S, R, Q, VECTOR, ACROSS, WIDE
            )
            _leave(partial, partial_stride, of_weight, of_bias, group, which, where, there, part,
                   row_slots, slots, tiles, WEIGHT)  # fmt: skip


# -- running statistics ------------------------------------------------------------------------


@triton.jit
def _taken(moments, statistics, samples, feature, inside, sample_stride, feature_stride, elements,
           UNBIASED: tl.constexpr, COUNTED: tl.constexpr):  # fmt: skip
    """Mean and variance of features over the samples that count, and how many these are."""
    mean = tl.zeros(feature.shape, tl.float64)
    var, seen = mean, mean
    for n in range(samples):
        at = moments + n * sample_stride + feature * feature_stride
        shift = tl.load(at, mask=inside, other=0.0).to(tl.float64)
        offset = tl.load(at + statistics, mask=inside, other=0.0).to(tl.float64)
        square = tl.load(at + 2 * statistics, mask=inside, other=0.0).to(tl.float64)
        count = mean * 0 + elements
        if COUNTED:
            count = tl.load(at + 3 * statistics, mask=inside, other=0.0).to(tl.float64)
        if UNBIASED:
            square = square * (count / tl.maximum(count - 1, 1))
        counts = count > 0
        mean += tl.where(counts, shift + offset, 0.0)
        var += tl.where(counts, square, 0.0)
        seen += tl.where(counts, 1.0, 0.0)
    divisor = tl.maximum(seen, 1)
    return mean / divisor, var / divisor, seen


@triton.jit
def remember(
    moments, mean, var, batches, statistics, samples, features, sample_stride, feature_stride,
    elements, momentum: tl.float64, COUNTED: tl.constexpr, CUMULATIVE: tl.constexpr,
    FROM_FIRST: tl.constexpr, SKIPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What `Running.update` does, by one program."""
    each = tl.arange(0, BLOCK)
    counted, spoiled = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for first in range(0, features, BLOCK):
        feature = first + each
        inside = feature < features
        now, square, seen = _taken(moments, statistics, samples, feature, inside, sample_stride,
                                   feature_stride, elements, mean is not None, COUNTED)  # fmt: skip
        counted += tl.where(inside, seen, 0.0)
        finite = (now - now == 0) & (square - square == 0)
        spoiled += tl.where(inside & (finite == 0), 1.0, 0.0)
    counts = tl.sum(counted, 0, keep_dims=True) > 0
    if SKIPS:
        counts = counts & (tl.sum(spoiled, 0, keep_dims=True) == 0)

    factor = tl.zeros((1,), tl.float64) + momentum
    if batches is not None:
        counter = batches + tl.arange(0, 1)
        number = tl.load(counter) + tl.where(counts, 1, 0)
        if CUMULATIVE:
            factor = 1 / tl.maximum(number, 1).to(tl.float64) + factor * 0
        elif FROM_FIRST:
            factor = tl.where(number <= 1, 1.0, factor)
        tl.debug_barrier()  # nobody may still have to read what one of them writes
        tl.store(counter, number)
    for first in range(0, features, BLOCK):
        feature = first + each
        inside = feature < features
        now, square, _ = _taken(moments, statistics, samples, feature, inside, sample_stride,
                                feature_stride, elements, mean is not None, COUNTED)  # fmt: skip
        if mean is not None:
            old = tl.load(mean + feature, mask=inside, other=0.0).to(tl.float64)
            tl.store(mean + feature, old + (now - old) * factor, mask=inside & counts)
        old = tl.load(var + feature, mask=inside, other=0.0).to(tl.float64)
        tl.store(var + feature, old + (square - old) * factor, mask=inside & counts)
