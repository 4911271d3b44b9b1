"""Paired differences of all candidates, and how far their spread is known.

The spread of one candidate's differences over a few seeds is a poor estimate; the other
candidates say more about it than its own seeds do, unless they differ in how noisy they are.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = NDArray[np.float64]
Counts = NDArray[np.int_]


@dataclass(frozen=True)
class Evidence:
    """Every candidate's paired differences to one reference.

    mean     of the differences, candidate - reference; nan without pairs
    spread   moderated standard deviation of the differences; nan with fewer than 2 pairs
    pairs    seeds that both finished
    freedom  degrees of freedom of the spread
    """

    mean: Floats
    spread: Floats
    pairs: Counts
    freedom: Floats

    def scores(self) -> Floats:
        """mean / (spread / sqrt(pairs)), as the normal score of its t probability."""
        t = self.mean * np.sqrt(self.pairs) / self.spread
        # Smaller probabilities than these have no normal quantile; nothing hangs on them.
        tail = np.maximum(stdtr(self.freedom, -np.abs(t)), 1e-300)
        scores: Floats = np.where(np.isnan(t), np.nan, -ndtri(tail) * np.sign(t))
        return scores

    def half_widths(self, bounds: Floats) -> Floats:
        """Half the interval that leaves out 0 where the score is beyond its bound."""
        half: Floats = half_width(self.spread, self.pairs, self.freedom, bounds)
        return half


def half_width(spread: Floats, pairs: Counts, freedom: Floats, bounds: Floats) -> Floats:
    """Half the t interval of a mean, of the error whose normal score is `bounds`."""
    tail = np.maximum(ndtr(-bounds), 1e-300)
    half: Floats = -stdtrit(freedom, tail) * spread / np.sqrt(np.maximum(pairs, 1))
    return half


class Differences:
    """The differences between all candidates, from a table candidates × seeds with nan for none.

        variance[a, b] = (1 - own) * typical + own * s²[a, b]
        own = max(0, 1 - (K - 3) / (K - 1) * h0 / H)
        freedom = min(all, (n - 1) / own)

    s² is the variance of the differences between two candidates over their n seeds, `typical`
    its mean over all pairs of the K candidates, weighted by n - 1, and `all` the degrees of
    freedom of that: those of the residual of seed + candidate. H is how much the candidates'
    own variances differ (relative to the square of their mean), h0 how much they would if
    all were equally noisy; own = 1 is the paired t test, and so it is with up to 3 candidates.

    least  the spread is at least that of two roundings to the metric's step, step / sqrt(6)

    Sources: Smyth 2004, doi:10.2202/1544-6115.1027 (moderated variances); Shukla 1972,
    doi:10.1038/hdy.1972.87 (each candidate's own variance); James, Stein 1961 (the
    shrinkage factor). The combination and the floor are ours.
    """

    def __init__(self, table: Floats) -> None:
        there = np.isfinite(table)
        both = there[:, None] & there
        gaps = np.where(both, table[:, None] - table, 0.0)
        self.pairs: Counts = both.sum(-1)
        self._mean = gaps.sum(-1) / np.maximum(self.pairs, 1)
        squares = (np.where(both, gaps - self._mean[..., None], 0.0) ** 2).sum(-1)
        weights = np.maximum(self.pairs - 1, 0)
        np.fill_diagonal(weights, 0)
        self._variance = squares / np.maximum(weights, 1)
        self.step = _step(table, gaps[both])
        self.least = self.step / math.sqrt(6)
        arms = weights.any(1)
        self._arms = int(arms.sum())
        in_seed = there[arms].sum(0)
        self._all = max(int(np.maximum(in_seed - 1, 0).sum()) - (self._arms - 1), 1)
        self._typical = float(squares[arms].sum() / max(int(weights[arms].sum()), 1))
        self.own = self._own(squares[arms].sum(1) / weights[arms].sum(1))

    def _own(self, against_others: Floats) -> float:
        """How much of a candidate's own variance is believed: 0 is nothing, 1 is all."""
        k = self._arms
        if k <= 3:
            return 1.0
        if self._typical == 0:
            return 0.0
        variances = (k - 1) / (k - 2) * (against_others / self._typical - 1)
        seen = float(np.square(variances - variances.mean()).sum()) / (k - 1) * 4
        expected = k / (k - 2) * 2 / (self._all / (k - 1))
        return max(0.0, 1 - (k - 3) / (k - 1) * expected / seen) if seen > 0 else 0.0

    @property
    def typical_spread(self) -> float:
        """The standard deviation of a paired difference, over all candidates."""
        return max(math.sqrt(self._typical), self.least)

    def freedom(self, pairs: Counts, more: int | Counts = 0) -> Floats:
        """Degrees of freedom of a spread over so many pairs, once there are `more` seeds."""
        everyone = self._all + np.asarray(more, dtype=np.float64) * (self._arms - 1)
        own = np.maximum(np.asarray(pairs, dtype=np.float64) - 1 + more, 1.0)
        freedom: Floats = np.minimum(everyone, own / self.own) if self.own else everyone + 0 * own
        return freedom

    def against(self, reference: int) -> Evidence:
        """What is known about every candidate against one of them."""
        pairs = self.pairs[:, reference]
        variance = (1 - self.own) * self._typical + self.own * self._variance[:, reference]
        spread = np.maximum(np.sqrt(variance), self.least)
        return Evidence(
            mean=np.where(pairs > 0, self._mean[:, reference], np.nan),
            spread=np.where(pairs > 1, spread, np.nan),
            pairs=pairs,
            freedom=self.freedom(pairs),
        )


def _step(table: Floats, gaps: Floats) -> float:
    """The smallest gap between distinct differences of any two candidates on one seed.

    A difference holds no trace of what its seed does to every candidate, and a metric's
    step shows in it all the same; a continuous metric shows a gap too small to matter.
    Rounding to float32 tells equal differences apart, so gaps below it are none; where no
    other gap is seen, it is the step itself, and never 0.
    """
    float32 = np.finfo(np.float32)
    largest = np.abs(table[np.isfinite(table)]).max(initial=0.0)
    rounding = 2 * float32.eps * largest + float32.tiny
    steps = np.diff(np.sort(gaps))
    return float(min(steps[steps > rounding], default=rounding))
