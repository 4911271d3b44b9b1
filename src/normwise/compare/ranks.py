"""Several tasks together: ranks that a test tells apart, and sensitivity to a setting."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normwise.errors import NormError

Floats = NDArray[np.float64]

ERROR = 0.05


@dataclass(frozen=True)
class Ranking:
    """How candidates rank over several tasks.

    mean_ranks  by candidate, the best first; in each task the best has rank 1, and equals
                share the mean of their ranks
    p           the chance of ranks as different as these if all candidates were alike; never
                below that of all tasks agreeing by chance
    pairwise    by pair, the better first: the chance that any two of so many alike candidates
                differ as much
    critical_difference  of two mean ranks, from which on they differ at an error of 5 %
    cliques     candidates next to each other in rank, no two of which differ so much; each
                is as large as it can be
    """

    mean_ranks: dict[str, float]
    p: float
    pairwise: dict[tuple[str, str], float]
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]


def levels(results: Mapping[str, Any]) -> dict[str, float]:
    """By name, the mean that a candidate would have over the baseline's seeds; what to rank by.

    With other seeds it is the baseline's mean plus the paired difference: in a race, who is
    dropped has fewer seeds, and they may have been easy or hard ones for all. Without a pair
    it is the candidate's own mean; who has no score is left out.
    """
    rows = {row["name"]: row for row in results["candidates"]}
    base = rows.get(results["baseline"], {"mean": None, "scores": {}})
    found = {}
    for name, row in rows.items():
        gap = (row.get("difference") or {}).get("mean")
        if _seeds(row) == _seeds(base) or gap is None or base.get("mean") is None:
            level = row.get("mean")
        else:
            level = base["mean"] + gap
        if level is not None:
            found[name] = level
    return found


def _seeds(row: Mapping[str, Any]) -> set[str]:
    return {seed for seed, score in row["scores"].items() if score is not None}


def rank(scores: Mapping[str, Mapping[str, float]], higher_is_better: bool) -> Ranking:
    """Rank candidates over tasks, and test whether they differ.

        χ² = (k - 1) * Σ_j (Σ_i r_ij - N (k + 1) / 2)² / Σ_ij (r_ij - (k + 1) / 2)²
        F  = (N - 1) * χ² / (N * (k - 1) - χ²),   k - 1 and (k - 1)(N - 1) degrees of freedom
        critical difference = q / sqrt(2) * sqrt(k * (k + 1) / (6 N))

    scores[task][candidate] is a mean score; candidates that a task lacks are left out. r are
    the ranks of k candidates in N tasks, q the quantile of the range of k normal variables.
    A task is one draw, whatever its number of seeds: a few tasks tell little.

    Raises
        NormError  if there are fewer than 2 tasks, or candidates that all of them have, or a
                   score is not finite.

    Sources: Friedman 1937, doi:10.1080/01621459.1937.10503522 (ties as usual since);
    Iman, Davenport 1980, doi:10.1080/03610928008827904; Nemenyi 1963; Demšar 2006,
    Journal of Machine Learning Research 7.
    """
    from scipy.special import fdtrc

    names = _shared(scores)
    table = np.array([[own[name] for name in names] for own in scores.values()])
    if not np.isfinite(table).all():
        raise NormError("scores that are ranked must be finite; leave out candidates that failed")
    tasks, count = table.shape
    ranks = _ranks(-table if higher_is_better else table)
    off = ranks - (count + 1) / 2
    total = float(np.square(off).sum())
    # The least there can be: N tasks that agree, each in one of k! orders.
    least = math.exp(-(tasks - 1) * math.lgamma(count + 1))
    p = 1.0
    if total > 0:
        friedman = (count - 1) * float(np.square(off.sum(0)).sum()) / total
        rest = tasks * (count - 1) - friedman
        p = least
        if rest > 1e-9:
            freedom = (count - 1, (count - 1) * (tasks - 1))
            p = max(least, float(fdtrc(*freedom, (tasks - 1) * friedman / rest)))
    means = ranks.mean(0)
    order = np.argsort(means, kind="stable")
    mean_ranks = {names[j]: float(means[j]) for j in order}
    unit = math.sqrt(count * (count + 1) / (6 * tasks))
    pairwise = {
        (better, worse): float(chance_of_range((there - here) / unit * math.sqrt(2), count))
        for i, (better, here) in enumerate(mean_ranks.items())
        for worse, there in list(mean_ranks.items())[i + 1 :]
    }
    critical = _range_quantile(count, ERROR) / math.sqrt(2) * unit
    return Ranking(mean_ranks, p, pairwise, critical, _cliques(mean_ranks, critical))


def sensitivity(
    scores: Mapping[str, Mapping[str, float]], higher_is_better: bool
) -> dict[str, float]:
    """How much a wrong setting costs each candidate, as a figure of merit: less is better.

        mean over values v of |best score of the candidate at any value - its score at v|

    scores[value][candidate] is the mean score at a value of the setting, such as a learning
    rate; it is in the metric's unit, and 0 for a candidate that does not care. It depends on
    the values tried, so only candidates of one sweep compare. A candidate that a value lacks,
    because every trial failed there, has no figure: there is no saying what that costs.
    """
    names = {name for own in scores.values() for name in own}
    best = max if higher_is_better else min
    found = {}
    for name in sorted(names):
        own = [at[name] for at in scores.values() if name in at]
        if len(own) == len(scores):
            found[name] = fmean(abs(best(own) - score) for score in own)
    return found


def chance_of_range(width: float, count: int) -> Floats:
    """The chance that so many standard normal variables span more than `width`.

    1 - k ∫ φ(u) * (Φ(u) - Φ(u - width)) ** (k - 1) du
    """
    from scipy.special import ndtr

    # The trapezoidal rule is exact to rounding for what falls off this fast at both ends.
    u = np.linspace(-9.0, 9.0 + max(width, 0.0), 800)
    density = np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi)
    inside = count * density * (ndtr(u) - ndtr(u - width)) ** (count - 1)
    chance: Floats = np.clip(1 - np.trapezoid(inside, u), 0.0, 1.0)
    return chance


@lru_cache
def _range_quantile(count: int, error: float) -> float:
    low, high = 0.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if chance_of_range(middle, count) > error else (low, middle)
    return high


def _shared(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    tables = list(scores.values())
    names = [name for name in tables[0] if all(name in own for own in tables)] if tables else []
    if len(tables) < 2 or len(names) < 2:
        raise NormError(
            f"ranks take at least 2 tasks and 2 candidates with a score in all of them; "
            f"received {len(tables)} and {len(names)}"
        )
    return names


def _ranks(table: Floats) -> Floats:
    """Ranks along the rows, from 1 for the least; equals share the mean of theirs."""
    below = (table[:, None, :] < table[:, :, None]).sum(2)
    equal = (table[:, None, :] == table[:, :, None]).sum(2)
    ranks: Floats = below + (equal + 1) / 2
    return ranks


def _cliques(mean_ranks: Mapping[str, float], critical: float) -> tuple[tuple[str, ...], ...]:
    names, ranks = list(mean_ranks), list(mean_ranks.values())
    found: list[tuple[str, ...]] = []
    reached = 0
    for start in range(len(names)):
        end = start
        while end < len(names) and ranks[end] - ranks[start] < critical:
            end += 1
        if end - start > 1 and end > reached:
            found.append(tuple(names[start:end]))
            reached = end
    return tuple(found)
