"""Running statistics, by one program."""

import triton
import triton.language as tl


@triton.jit
def _taken(moments, statistics, samples, feature, inside, sample_stride, feature_stride, elements,
           UNBIASED: tl.constexpr, COUNTED: tl.constexpr):  # fmt: skip
    """Mean and variance of features over the samples that count, and how many these are."""
    mean = tl.zeros(feature.shape, tl.float64)
    var, seen = mean, mean
    sample = moments + feature * feature_stride
    for _ in range(samples):
        at = sample  # one by one: three times as many statistics may not fit into 32 bits
        shift = tl.load(at, mask=inside, other=0.0).to(tl.float64)
        at += statistics
        offset = tl.load(at, mask=inside, other=0.0).to(tl.float64)
        at += statistics
        square = tl.load(at, mask=inside, other=0.0).to(tl.float64)
        count = tl.zeros(feature.shape, tl.float64) + elements
        if COUNTED:
            count = tl.load(at + statistics, mask=inside, other=0.0).to(tl.float64)
        sample += sample_stride
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
    """What `Running.update` does."""
    each = tl.arange(0, BLOCK).to(tl.int64)
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
