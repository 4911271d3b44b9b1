"""Where a tile lies in memory, and how it is read."""

import triton
import triton.language as tl


@triton.jit
def positions(block, part, tiles, sizes, S: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
              VECTOR: tl.constexpr, ACROSS: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """Which (s, r), which (o, a, k, p, q), and which of (s, r, q) there are.

    Of sizes [S, 1, 1], [1, R, 1] and [1, 1, Q], in 64 bits where 32 are too few. Parts of a
    block are counted along its rows first, `tiles` of them along neighbours.
    """
    index: tl.constexpr = tl.int64 if WIDE else tl.int32
    s = ((tl.zeros((S,), index) + block) * S + tl.arange(0, S))[:, None, None]
    r = ((tl.zeros((R,), index) + part // tiles) * R + tl.arange(0, R))[None, :, None]
    q = ((tl.zeros((Q,), index) + part % tiles) * Q + tl.arange(0, Q))[None, None, :]
    k_size = (tl.zeros((1, 1, 1), index) + sizes[2]) * (VECTOR if ACROSS else 1)
    q_size = (tl.zeros((1, 1, 1), index) + sizes[4]) * (1 if ACROSS else VECTOR)
    o, a, k, p = s // k_size, r // sizes[3], s % k_size, r % sizes[3]
    return (s, r), (o, a, k, p, q), (o < sizes[0], a < sizes[1], q < q_size)


@triton.jit
def address(where, strides, VECTOR: tl.constexpr, ACROSS: tl.constexpr):
    """Where elements of x, or of what is laid out like y, lie: [S, R, Q]."""
    o, a, k, p, q = where
    rows = (a * strides[1] + p * strides[3]) * VECTOR
    if ACROSS:  # k are the neighbours
        return o * strides[0] * VECTOR + k + rows + q
    return (o * strides[0] + k * strides[2]) * VECTOR + rows + q


@triton.jit
def operand(pointer, where, there, strides, ALONG: tl.constexpr, VECTOR: tl.constexpr, otherwise):
    """Elements of the weights or the mask, of size 1 along what they are the same for."""
    o, a, k, p, q = where
    at = tl.zeros((1, 1, 1), o.dtype)
    inside = at == 0
    if ALONG & 1:
        at, inside = at + o * strides[0] + k * strides[2], inside & there[0]
    if ALONG & 2:
        at, inside = at + a * strides[1] + p * strides[3], inside & there[1]
    if ALONG & 4:
        # No more neighbours than of x: 16 bytes of a mask would give a thread 16 elements of x.
        at = tl.max_contiguous(at + q * strides[4], (1, 1, VECTOR))
        inside = inside & there[2]
    return tl.load(pointer + at, mask=inside, other=otherwise)


@triton.jit
def weights(weight, bias, where, there, strides, ALONG: tl.constexpr, VECTOR: tl.constexpr):
    """Weight and bias of the tile, None where there are none.

    To be read before the tile is: where two reads share a tile out among threads in different
    ways, the compiler takes that of the later one, and moves all else through shared memory.
    """
    factor, summand = None, None
    if weight is not None:
        factor = operand(weight, where, there, strides, ALONG, VECTOR, 0.0)
    if bias is not None:
        summand = operand(bias, where, there, strides, ALONG, VECTOR, 0.0)
    return factor, summand


@triton.jit
def existing(mask, where, there, strides, ALONG: tl.constexpr, VECTOR: tl.constexpr):
    """Which elements of the tile exist, and which of them are real: [S, R, Q]."""
    inside = there[0] & there[1] & there[2]
    real = inside
    if mask is not None:
        real = inside & (operand(mask, where, there, strides, ALONG, VECTOR, 0) != 0)
    return inside, real


@triton.jit
def load(pointer, at, mask, inside, real, wide: tl.constexpr, LAST: tl.constexpr = False):
    """Elements of the tile, 0 where they are not real. The LAST to read them lets them go."""
    policy: tl.constexpr = "evict_first" if LAST else ""
    # What a mask hides is read and then dropped: 16 bytes a thread cannot be read in part.
    here = tl.load(pointer + at, mask=inside, other=0.0, eviction_policy=policy).to(wide)
    if mask is not None:
        here = tl.where(real, here, 0.0)
    return here


@triton.jit
def store(pointer, at, tile, inside, LAST: tl.constexpr = False):
    """Elements of the tile, which make no other leave the cache where kernels stream."""
    policy: tl.constexpr = "evict_first" if LAST else ""
    tl.store(pointer + at, tile, mask=inside, eviction_policy=policy)


@triton.jit
def keep(moments, statistics, where, there, strides, shift, offset, var, count,
         COUNTS: tl.constexpr):  # fmt: skip
    """Leave the moments of statistics in memory."""
    to = moments + where[0] * strides[0] + where[2] * strides[1]
    tl.store(to, shift, mask=there[0])
    to += statistics
    tl.store(to, offset, mask=there[0])
    to += statistics
    tl.store(to, var, mask=there[0])
    if COUNTS:
        tl.store(to + statistics, count, mask=there[0])


@triton.jit
def recall(moments, mean, var, statistics, where, there, strides, wide: tl.constexpr):
    """Shift, offset and variance, as they were kept or as they were given."""
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
        shift = tl.zeros_like(square)
        offset = shift
        if mean is not None:
            shift = tl.load(mean + at, mask=inside, other=0.0)
    return shift.to(wide), offset.to(wide), square.to(wide)
