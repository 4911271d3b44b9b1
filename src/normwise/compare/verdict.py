"""Verdicts: what paired trials show about each candidate.

One idea: what the interval shows is what the verdict says. The interval is that of the
mean paired difference, candidate minus baseline over the seeds both finished, and it is
simultaneous: at 95 % confidence, all intervals of a comparison hold at once that often.

    equivalent   it lies within ± the margin, even where it leaves out 0
    better       it leaves out 0, on the favourable side
    worse        it leaves out 0, on the other side
    undecided    none of these; more seeds may tell
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_low, stdev
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second more to import

from normwise.errors import NormError

Word = Literal["better", "worse", "equivalent", "undecided"]
Scores: TypeAlias = Mapping[str, Mapping[int, float]]
Floats: TypeAlias = NDArray[np.float64]

SEEDS_IN_REACH = 1000  # nobody waits for a verdict that takes more than this many further seeds


class Interval(NamedTuple):
    """The range from `low` to `high`; infinite on both sides where nothing is known."""

    low: float
    high: float


UNKNOWN = Interval(-math.inf, math.inf)


@dataclass(frozen=True)
class Verdict:
    """What the trials show about one candidate against the baseline.

    word        better, worse, equivalent or undecided
    mean        mean paired difference, candidate - baseline, in the metric's unit; nan without
                pairs
    interval    simultaneous interval of that difference; infinite with fewer than 2 pairs
    p_adjusted  two-sided p of the paired t test, times the number of comparisons, at most 1
    pairs       seeds that both finished
    more_seeds  of an undecided candidate: how many more seeds would decide if mean and spread
                stayed as they are, so a rough figure; None beyond `SEEDS_IN_REACH`, with
                fewer than 2 pairs, and where the word is another
    """

    word: Word
    mean: float
    interval: Interval
    p_adjusted: float
    pairs: int
    more_seeds: int | None


def mean_interval(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """The t interval of the mean of one candidate's scores.

        mean ± t((1 + confidence) / 2, n - 1) * sd / sqrt(n)

    One score, or none, says nothing about spread: the interval is infinite on both sides.
    It holds for this candidate alone and includes what a seed does to all of them, so two
    such intervals may overlap although their paired difference is clear.

    Raises
        NormError  if a score is not finite, or confidence is not between 0 and 1.
    """
    _check_confidence(confidence)
    for score in scores:
        if not math.isfinite(score):
            raise NormError(f"the score {score} has no mean; leave out trials that failed")
    if len(scores) < 2:
        return UNKNOWN
    mean = fmean(scores)
    half = float(_half_width(stdev(scores), len(scores), 1 - confidence))
    return Interval(mean - half, mean + half)


def practical_margin(scores: Scores) -> float:
    """The difference below which two candidates are practically the same.

        max(lower median over candidates of the standard deviation over seeds, step of the metric)

    What is smaller than the effect of another seed, or than the metric resolves in one
    trial, is not worth a change of layer. The median is the lower one, or of two candidates
    the unstable one would widen the margin it is judged by; the step is as small as these
    trials show it. Candidates with fewer than 2 seeds do not count; the margin is 0 where
    none has 2, since then nobody knows what a seed does.

    Raises
        NormError  if a score is not finite.
    """
    step = _step(_table(scores))
    spreads = [stdev(by_seed.values()) for by_seed in scores.values() if len(by_seed) > 1]
    return max(median_low(spreads), step) if spreads else 0.0


def judge(
    scores: Scores,
    baseline: str,
    higher_is_better: bool,
    *,
    equivalent_within: float | None = None,
    confidence: float = 0.95,
) -> dict[str, Verdict]:
    """Compare every candidate with the baseline over the seeds both finished.

        spread = max(sd(d), step / sqrt(6))
        interval = mean(d) ± t(1 - (1 - confidence) / (2 m), n - 1) * spread / sqrt(n)

    scores[candidate][seed] is a score; a trial that failed is absent. d are the n paired
    differences, m the candidates beside the baseline: those that failed count too, so the
    correction is known before the first trial. equivalent_within is the margin, in the
    metric's unit; `practical_margin(scores)` if left out.

    Scores that come in steps, such as an accuracy over 370 samples, can differ equally on
    every seed by luck, and a spread of 0 would claim certainty. Rounding to a step has
    variance step² / 12 and a difference holds two roundings: hence the floor step / sqrt(6).
    With up to 6 pairs it binds only where all differences are equal.

    With fewer than 2 pairs a candidate is undecided: all of them if the baseline failed.
    The confidence is that of one look after a number of seeds fixed beforehand: whoever
    judges after every seed and stops at the first decision is wrong more often.

    Raises
        NormError  if the baseline is not in scores, a score or the margin is not finite, the
                   margin is negative, or confidence is not between 0 and 1.

    Source: Student 1908, doi:10.2307/2331554 (the interval); Dunn 1961,
    doi:10.1080/01621459.1961.10482090 (its correction); Schuirmann 1987,
    doi:10.1007/BF01068419 (equivalence by inclusion; he takes the shorter interval of
    confidence 1 - 2 alpha, we the one that is shown). The floor is ours.
    """
    _check_confidence(confidence)
    if baseline not in scores:
        raise NormError(
            f"the baseline {baseline!r} is not among the candidates; name one of "
            f"{', '.join(map(repr, scores)) or 'those with scores'}"
        )
    margin = practical_margin(scores) if equivalent_within is None else equivalent_within
    if not 0 <= margin < math.inf:
        raise NormError(
            f"equivalent_within={margin} is not a margin; write a difference of 0 or more in the "
            "metric's unit, or leave it out"
        )
    table = _table(scores)
    least_spread = _step(table) / math.sqrt(6)
    differences = dict(zip(scores, table - table[list(scores).index(baseline)], strict=True))
    del differences[baseline]
    return {
        name: _verdict(
            difference[np.isfinite(difference)],
            comparisons=len(differences),
            higher_is_better=higher_is_better,
            margin=margin,
            least_spread=least_spread,
            error=1 - confidence,
        )
        for name, difference in differences.items()
    }


def _verdict(
    differences: Floats,
    *,
    comparisons: int,
    higher_is_better: bool,
    margin: float,
    least_spread: float,
    error: float,
) -> Verdict:
    pairs = len(differences)
    if pairs < 2:
        mean = float(differences[0]) if pairs else math.nan
        return Verdict("undecided", mean, UNKNOWN, 1.0, pairs, None)
    mean = float(differences.mean())
    spread = max(float(differences.std(ddof=1)), least_spread)
    # Entry k is for k more seeds, entry 0 for today: one rule says what decides and what would.
    halves = _half_width(spread, pairs + np.arange(SEEDS_IN_REACH + 1), error / comparisons)
    equivalent = abs(mean) + halves <= margin
    decided = equivalent | (abs(mean) > halves)
    word: Word = "undecided"
    more_seeds = None
    if equivalent[0]:
        word = "equivalent"
    elif decided[0]:
        word = "better" if (mean > 0) == higher_is_better else "worse"
    elif decided.any():
        more_seeds = int(decided.argmax())
    half = float(halves[0])
    p = 2 * float(stdtr(pairs - 1, -abs(mean) * math.sqrt(pairs) / spread))
    return Verdict(
        word, mean, Interval(mean - half, mean + half), min(1.0, comparisons * p), pairs, more_seeds
    )


def _half_width(spread: float, count: int | NDArray[np.int_], error: float) -> Floats:
    """Half the t interval of a mean of `count` values, for one count or many."""
    half: Floats = -stdtrit(count - 1, error / 2) * spread / np.sqrt(count)
    return half


def _step(table: Floats) -> float:
    """The smallest gap between distinct differences of any two candidates on one seed.

    A difference holds no trace of what its seed does to every candidate, and a metric's
    step shows in it all the same; a continuous metric shows a gap too small to matter.
    Rounding to float32 tells equal differences apart, so gaps below it are none; where no
    other gap is seen, it is the step itself, and never 0.
    """
    float32 = np.finfo(np.float32)
    largest = np.abs(table[np.isfinite(table)]).max(initial=0.0)
    rounding = 2 * float32.eps * largest + float32.tiny
    differences = table[:, None] - table
    gaps = np.diff(np.unique(differences[np.isfinite(differences)]))
    return float(min(gaps[gaps > rounding], default=rounding))


def _table(scores: Scores) -> Floats:
    """Scores as candidates × seeds, nan where a trial is absent."""
    for name, by_seed in scores.items():
        for seed, score in by_seed.items():
            if not math.isfinite(score):
                raise NormError(
                    f"{name!r} scored {score} on seed {seed}; leave trials that failed out of "
                    "the scores"
                )
    seeds = sorted(set().union(*scores.values()))
    rows = [[by_seed.get(seed, math.nan) for seed in seeds] for by_seed in scores.values()]
    return np.array(rows, dtype=np.float64).reshape(len(scores), len(seeds))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise NormError(f"confidence={confidence} is not between 0 and 1; write 0.95 for 95 %")
