"""Verdicts: what paired trials show about each candidate.

One idea: what the interval shows is what the verdict says. The interval is that of the
mean paired difference, candidate minus baseline over the seeds both finished, and it is
simultaneous: at 95 % confidence, the lower ends of all candidates hold at once that often,
and so do the upper ends. In a race they hold at every look.

    equivalent   it lies within ± the margin, even where it leaves out 0
    better       it leaves out 0, on the favourable side
    worse        it leaves out 0, on the other side
    undecided    none of these; more seeds may tell
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second more to import

from normwise.compare.boundaries import boundary, chance_of_any, last_look, single_look
from normwise.compare.differences import Differences, half_width
from normwise.errors import NormError

Word = Literal["better", "worse", "equivalent", "undecided"]
Scores: TypeAlias = Mapping[str, Mapping[int, float]]
Floats: TypeAlias = NDArray[np.float64]

SEEDS_IN_REACH = 1000  # nobody waits for a verdict that takes more than this many further seeds
_QUANTILES = (np.arange(400) + 0.5) / 400


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
    p_adjusted  the chance that some candidate differs as clearly to the same side where there
                is no difference; 1 with fewer than 2 pairs
    effect      the difference in standard deviations of itself, corrected for few seeds; nan
                with fewer than 2 pairs
    pairs       seeds that both finished
    more_seeds  of an undecided candidate: how many more seeds would decide if mean and spread
                stayed as they are, so a rough figure; None beyond `SEEDS_IN_REACH`, with
                fewer than 2 pairs, and where the word is another
    """

    word: Word
    mean: float
    interval: Interval
    p_adjusted: float
    effect: float
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
    quantile = float(stdtrit(len(scores) - 1, (1 + confidence) / 2))
    half = quantile * stdev(scores) / math.sqrt(len(scores))
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
    table = score_table(scores)
    return margin_of(table, Differences(table).step)


def margin_of(table: Floats, step: float) -> float:
    """`practical_margin` of a table candidates × seeds, nan for none, of a metric with a step."""
    there = np.isfinite(table)
    counts = there.sum(1)
    several = counts > 1
    if not several.any():
        return 0.0
    means = np.where(there, table, 0.0).sum(1) / np.maximum(counts, 1)
    squares = np.where(there, table - means[:, None], 0.0) ** 2
    spreads = np.sort(np.sqrt(squares.sum(1)[several] / (counts[several] - 1)))
    return max(float(spreads[(len(spreads) - 1) // 2]), step)


def judge(
    scores: Scores,
    baseline: str,
    higher_is_better: bool,
    *,
    equivalent_within: float | None = None,
    confidence: float = 0.95,
    seeds: int | None = None,
    outlook: bool = True,
) -> dict[str, Verdict]:
    """Compare every candidate with the baseline over the seeds both finished.

        interval = mean(d) ± t(Φ(b), freedom) * spread / sqrt(n)
        effect   = mean(d) / spread * (1 - 3 / (4 freedom - 1))

    scores[candidate][seed] is a score; a trial that failed is absent. d are the n paired
    differences; spread and freedom are those of `Differences`, moderated across candidates.
    b is the boundary for as many candidates as there are beside the baseline: those that
    failed count too, so it is known before the first trial. Each end of the intervals holds
    for all candidates at once with this confidence, so some candidate is falsely called
    better in at most 5 % of comparisons, and the same goes for worse. equivalent_within is
    the margin, in the metric's unit; `practical_margin(scores)` if left out.

    seeds  None: the number of seeds was fixed beforehand, and this is the only look. Else
           the largest number that a race may use: the intervals hold at all its looks at
           once, and those of few seeds are wider for it.
    outlook  whether to look for `more_seeds`

    Scores that come in steps, such as an accuracy over 370 samples, can differ equally on
    every seed by luck, and a spread of 0 would claim certainty. Rounding to a step has
    variance step² / 12 and a difference holds two roundings: hence the floor step / sqrt(6).

    With fewer than 2 pairs a candidate is undecided: all of them if the baseline failed.

    Raises
        NormError  if the baseline is not in scores, a score or the margin is not finite, the
                   margin is negative, or confidence is not between 0 and 1.

    Sources: Dunnett 1955, doi:10.1080/01621459.1955.10501294 (one baseline for all); O'Brien,
    Fleming 1979, doi:10.2307/2530245, and Wang, Tsiatis 1987, doi:10.2307/2531959 (looks);
    Jennison, Turnbull 1989 (intervals that hold at all of them); Schuirmann 1987,
    doi:10.1007/BF01068419 (equivalence by inclusion); Hedges 1981, doi:10.2307/1164588
    (the effect's correction).
    """
    _check_confidence(confidence)
    row = _row(scores, baseline)
    margin = practical_margin(scores) if equivalent_within is None else equivalent_within
    if not 0 <= margin < math.inf:
        raise NormError(
            f"equivalent_within={margin} is not a margin; write a difference of 0 or more in the "
            "metric's unit, or leave it out"
        )
    others = max(len(scores) - 1, 1)
    error = 1 - confidence
    differences = Differences(score_table(scores))
    evidence = differences.against(row)
    one = single_look(others, error)
    last = one if seeds is None else last_look(others, error, seeds)
    bounds = boundary(evidence.pairs, last, seeds)
    # A boundary at which the chance is the error by definition makes interval and p agree.
    chances = chance_of_any(np.abs(evidence.scores()) * one / bounds, others)
    halves = evidence.half_widths(bounds)
    verdicts = {}
    for place, name in enumerate(scores):
        if place == row:
            continue
        pairs = int(evidence.pairs[place])
        mean, half = float(evidence.mean[place]), float(halves[place])
        if pairs < 2:
            verdicts[name] = Verdict("undecided", mean, UNKNOWN, 1.0, math.nan, pairs, None)
            continue
        spread, freedom = float(evidence.spread[place]), float(evidence.freedom[place])
        word = word_of(mean, half, margin, higher_is_better)
        more_seeds = None
        if outlook and word == "undecided":
            more = np.arange(1, SEEDS_IN_REACH + 1)
            later = half_width(
                np.array(spread),
                pairs + more,
                differences.freedom(np.array(pairs), more),
                boundary(pairs + more, last, seeds),
            )
            decides = (abs(mean) + later <= margin) | (abs(mean) > later)
            more_seeds = int(more[decides.argmax()]) if decides.any() else None
        verdicts[name] = Verdict(
            word,
            mean,
            Interval(mean - half, mean + half),
            min(1.0, float(chances[place])),
            mean / spread * (1 - 3 / (4 * freedom - 1)),
            pairs,
            more_seeds,
        )
    return verdicts


def word_of(mean: float, half: float, margin: float, higher_is_better: bool) -> Word:
    """What an interval mean ± half shows; nan shows nothing."""
    if abs(mean) + half <= margin:
        return "equivalent"
    if abs(mean) > half:
        return "better" if (mean > 0) == higher_is_better else "worse"
    return "undecided"


def probability_best(scores: Scores, baseline: str, higher_is_better: bool) -> dict[str, float]:
    """How probable it is that each candidate's true mean is the best of all, baseline included.

        P(a) = ∫ Π T((x - mean[b]) / error[b])  dT((x - mean[a]) / error[a]),   b ≠ a

    T are t distributions about the mean paired differences (the baseline's is 0), with the
    moderated spreads; the baseline's part of them is half of a typical one. It is a
    probability before any candidate was favoured (a flat prior), and no test: of two that
    are equally good each has one half. Candidates with fewer than 2 pairs have no place.
    """
    row = _row(scores, baseline)
    differences = Differences(score_table(scores))
    evidence = differences.against(row)
    names = [name for name, pairs in zip(scores, evidence.pairs, strict=True) if pairs > 1]
    if len(names) < 2:
        return {}
    known = evidence.pairs > 1
    sign = 1 if higher_is_better else -1
    means = sign * evidence.mean[known]
    pairs = evidence.pairs[known]
    shared = differences.typical_spread**2 / 2 / pairs.max()
    squares = evidence.spread[known] ** 2 / pairs
    errors = np.sqrt(np.maximum(squares - shared, squares / 2))
    errors[names.index(baseline)] = math.sqrt(shared)
    freedom = evidence.freedom[known]
    places = means + errors * stdtrit(freedom, _QUANTILES[:, None])  # quantiles × candidates
    below = stdtr(freedom, (places[..., None] - means) / errors)
    own = np.arange(len(names))
    below[:, own, own] = 1.0
    chances = below.prod(-1).mean(0)
    return dict(zip(names, (chances / chances.sum()).tolist(), strict=True))


def _row(scores: Scores, baseline: str) -> int:
    if baseline not in scores:
        raise NormError(
            f"the baseline {baseline!r} is not among the candidates; name one of "
            f"{', '.join(map(repr, scores)) or 'those with scores'}"
        )
    return list(scores).index(baseline)


def score_table(scores: Scores) -> Floats:
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
