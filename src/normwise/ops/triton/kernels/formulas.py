"""What is computed of what a tile holds."""

import triton
import triton.language as tl

_NEGATIVE_SLOPE = tl.constexpr(0.01)
_ROOT_HALF = tl.constexpr(0.7071067811865476)
_ROOT_TWO_PI = tl.constexpr(2.5066282746310002)


@triton.jit
def total(tile):
    """The sum over rows and neighbours: [S, 1, 1]."""
    return tl.sum(tl.sum(tile, 2, keep_dims=True), 1, keep_dims=True)


@triton.jit
def counted(real, wide: tl.constexpr):
    """How many elements of the tile are real, as a wide number: [S, 1, 1]."""
    return total(tl.where(real, 1.0, 0.0).to(wide))


@triton.jit
def moments_of(x, real, elements, CENTRES: tl.constexpr):
    """Shift and offset of the mean, x's deviation from it, and the sum of its squares.

    As the formula measures: two passes, the second about the mean of the first. x is 0 where
    it is not real.
    """
    shift = tl.zeros_like(total(x))
    offset = shift
    if CENTRES:
        shift = total(x) / elements
        x = tl.where(real, x - shift, 0.0)
        offset = total(x) / elements
        x = tl.where(real, x - offset, 0.0)
    return shift, offset, x, total(x * x)


@triton.jit
def _off(shifts, stride, at, inside, shift):
    """How many elements parts have, and how far their means lie from a shift."""
    high = tl.load(shifts + at, mask=inside, other=0.0)
    low = tl.load(shifts + stride + at, mask=inside, other=0.0)
    n = tl.load(shifts + 3 * stride + at, mask=inside, other=0.0)
    return n, (high - shift) + low


@triton.jit
def merged(shifts, stride, parts, inside, BLOCK: tl.constexpr):
    """Shift, offset, variance and count of statistics, from those of their parts.

    In two passes, as from elements, and always in the same order. `shifts` are where the
    first part of each statistic left its shift, [S, 1, 1]; offset, squares and count lie each
    a stride further.
    """
    wide: tl.constexpr = shifts.dtype.element_ty
    stride = tl.cast(stride, tl.int64)
    each = tl.arange(0, BLOCK)[None, :, None]
    zero = tl.zeros(shifts.shape, wide) + tl.zeros((1, BLOCK, 1), wide)

    count, mean = zero, zero
    for first in range(0, parts, BLOCK):
        at = first + each
        n, off = _off(shifts, stride, at, (at < parts) & inside, 0.0)
        count += n
        mean += n * off
    whole = total(count)
    divisor = tl.maximum(whole, 1)
    shift = total(mean) / divisor

    apart = zero
    for first in range(0, parts, BLOCK):
        at = first + each
        n, off = _off(shifts, stride, at, (at < parts) & inside, shift)
        apart += n * off
    offset = total(apart) / divisor

    squares = zero
    for first in range(0, parts, BLOCK):
        at = first + each
        here = (at < parts) & inside
        n, off = _off(shifts, stride, at, here, shift)
        off -= offset
        squares += tl.load(shifts + 2 * stride + at, mask=here, other=0.0) + n * off * off
    return shift, offset, tl.where(whole > 0, total(squares) / divisor, 1.0), whole


@triton.jit
def summed(sums, parts, inside, BLOCK: tl.constexpr):
    """The sum over the parts of statistics, in the same order always: [S, 1, 1]."""
    each = tl.arange(0, BLOCK)[None, :, None]
    found = tl.zeros(sums.shape, sums.dtype.element_ty) + tl.zeros(
        (1, BLOCK, 1), sums.dtype.element_ty
    )
    for first in range(0, parts, BLOCK):
        at = first + each
        found += tl.load(sums + at, mask=(at < parts) & inside, other=0.0)
    return total(found)


@triton.jit
def rate_of(var, EPS: tl.constexpr):
    return 1 / tl.sqrt(var + EPS)


@triton.jit
def affine(standard, factor, summand):
    """standard * weight + bias, as `weights` has read them."""
    if factor is not None:
        standard = standard * factor.to(standard.dtype)
    if summand is not None:
        standard = standard + summand.to(standard.dtype)
    return standard


@triton.jit
def finished(standard, factor, summand, residual, real, at, inside, ACTIVATION: tl.constexpr):
    """What follows standardising: weight, bias, residual, activation; 0 where masked."""
    z = affine(standard, factor, summand)
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
def slope(z, ACTIVATION: tl.constexpr):
    """The derivative of the activation at z."""
    if ACTIVATION == "relu":
        found = tl.where(z > 0, 1.0, 0.0).to(z.dtype)
    elif ACTIVATION == "leaky_relu":
        found = tl.where(z > 0, 1.0, _NEGATIVE_SLOPE).to(z.dtype)
    elif ACTIVATION == "gelu":
        found = 0.5 + 0.5 * tl.erf(z * _ROOT_HALF) + z * tl.exp(-0.5 * z * z) / _ROOT_TWO_PI
    else:
        share = 1 / (1 + tl.exp(-z))
        found = share * (1 + z * (1 - share))
    return found
