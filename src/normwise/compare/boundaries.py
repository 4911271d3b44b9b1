"""How large a statistic has to be: for many candidates, one baseline, and many looks.

Statistics come as normal scores: standard normal where there is no difference, whatever
the degrees of freedom. Two things make some of them large by chance. There are several
candidates, and all are compared with the same baseline (Dunnett); and a race looks after
every seed (group-sequential boundaries). The error is that of one side: the chance that
some candidate seems better although none is; the same holds for worse.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

Floats = NDArray[np.float64]

# b(n) = C * (N / n) ** SEVERITY. One half is O'Brien and Fleming's; more is harder on early
# seeds, which costs the last look less: a difference of one standard deviation is found 1 %
# more often with 12 seeds.
SEVERITY = 0.75
# A normal score is not quite a random walk where variances are estimated, and from all
# candidates. Measured, the looks then cost up to a tenth more error than is spent.
SPENT = 0.9
# A candidate that the seeds can just show to be better is dropped this often.
DROPPED = 0.04
FOUND_SCORE = 0.8416  # normal quantile of 0.8: the power that "can just show" means
EVERY_SEED = 20  # up to here a look after every seed, then after every twentieth part more

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_BASELINE, _DENSITY = np.polynomial.hermite_e.hermegauss(80)


@lru_cache
def looks(seeds: int) -> tuple[int, ...]:
    """After how many seeds a race of at most `seeds` looks at what is in; ends with `seeds`."""
    found = []
    n = 2
    while n < seeds:
        found.append(n)
        n += 1 if n < EVERY_SEED else max(1, n // EVERY_SEED)
    return (*found, seeds) if seeds > 1 else ()


def chance_of_any(score: Floats | float, comparisons: int) -> Floats:
    """The chance that the largest of the candidates' scores is above this, without a difference.

        1 - ∫ Φ(√2 z + u) ** m  dΦ(u)

    u is the baseline's part, which m candidates share; all trials are equally noisy.

    Source: Dunnett 1955, doi:10.1080/01621459.1955.10501294.
    """
    logs = comparisons * log_ndtr(np.sqrt(2) * np.asarray(score)[..., None] + _BASELINE)
    chance: Floats = -np.expm1(logs) @ (_DENSITY / _DENSITY.sum())
    return chance


@lru_cache
def single_look(comparisons: int, error: float) -> float:
    """The score that one look's largest stays below with a chance of 1 - error."""
    low, high = -10.0, 40.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if chance_of_any(middle, comparisons) > error else (low, middle)
    return high


@lru_cache
def last_look(comparisons: int, error: float, seeds: int) -> float:
    """C: the boundary at the last of a race's looks."""
    if len(looks(seeds)) < 2:
        return single_look(comparisons, error)
    each = float(ndtr(-single_look(comparisons, SPENT * error)))
    counts = np.array(looks(seeds), dtype=np.float64)
    return _constant(counts, (seeds / counts) ** SEVERITY, each)


def boundary(pairs: NDArray[np.int_], last: float, seeds: int | None) -> Floats:
    """b(pairs): `last`, and more before the last of a race's seeds; None is no race."""
    if seeds is None:
        return np.full(len(pairs), last)
    counts = np.maximum(np.asarray(pairs, dtype=np.float64), 1.0)
    return last * np.maximum(1.0, seeds / counts) ** SEVERITY


@lru_cache
def hopeless(comparisons: int, error: float, seeds: int) -> dict[int, float]:
    """By look: the score below which a candidate could hardly be shown to be better any more.

        sqrt(n) * effect - q,   effect = (C + 0.84) / sqrt(N)

    effect, in standard deviations of a paired difference, is what N seeds show with a chance
    of 80 %. A candidate that is so much better is below at some look with a chance of
    `DROPPED`, one that is better still less often. Nothing is dropped at the last look.
    Whoever is dropped is not called better, so dropping adds nothing to that error.
    """
    counts = np.array(looks(seeds)[:-1], dtype=np.float64)
    if not len(counts):
        return {}
    effect = (last_look(comparisons, error, seeds) + FOUND_SCORE) / np.sqrt(seeds)
    q = _constant(counts, np.ones(len(counts)), DROPPED)
    return {int(n): float(np.sqrt(n) * effect - q) for n in counts}


def chance_of_crossing(counts: Sequence[float] | Floats, bounds: Sequence[float] | Floats) -> float:
    """The chance that S(n) / sqrt(n) is above its bound at one of the counts, S a random walk.

    The density of the walks that have not crossed is carried from look to look.

    Source: Armitage, McPherson, Rowe 1969, doi:10.2307/2343787.
    """
    crossed, before = 0.0, 0.0
    places, density = np.zeros(1), np.ones(1)
    for count, bound in zip(counts, bounds, strict=True):
        spread, top = np.sqrt(count - before), bound * np.sqrt(count)
        crossed += float(density @ ndtr((places - top) / spread))
        # Beyond six standard deviations there is nothing to carry.
        low, high = -6 * np.sqrt(count), min(top, 6 * np.sqrt(count))
        here = low + (high - low) * (_NODES + 1) / 2
        steps = np.exp(-0.5 * ((here[:, None] - places) / spread) ** 2)
        density = steps @ density / (spread * np.sqrt(2 * np.pi)) * _WEIGHTS * (high - low) / 2
        places, before = here, count
    return crossed


def _constant(counts: Floats, shape: Floats, error: float) -> float:
    """The factor of the shape at which a walk crosses with a chance of `error`."""
    low, high = 0.0, 10.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if chance_of_crossing(counts, middle * shape) > error else (low, middle)
        )
    return high
