"""From verdicts to one recommendation: which candidate to take, and why, in one sentence."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from normwise.compare.verdict import (
    SEEDS_IN_REACH,
    Scores,
    Verdict,
    Word,
    judge,
    practical_margin,
)

CLEARLY_CHEAPER = 0.05  # a smaller share of time saved is lost in the noise of timing a layer


@dataclass(frozen=True)
class Recommendation:
    """The candidate to take, the word that carries the choice, and one sentence of reasons.

    The baseline's word is read against all candidates that ran: "undecided" if one of them
    is, else "equivalent" if one is, else "better".
    """

    candidate: str
    verdict: Word
    why: str


def recommend(
    verdicts: Mapping[str, Verdict],
    scores: Scores,
    baseline: str,
    higher_is_better: bool,
    cost: Mapping[str, float | None],
    *,
    equivalent_within: float | None = None,
    confidence: float = 0.95,
    seeds: int | None = None,
    dropped: Collection[str] = (),
) -> Recommendation:
    """Choose the candidate to take, and say why in one sentence.

    1. If any candidate is better: the one with the best mean difference, or the cheapest of
       the better ones that `judge` finds equivalent to that one.
    2. Else the cheapest of those equivalent to the baseline.
    3. Else the baseline; if it never finished, the best mean among those that did.

    cost is inference time in microseconds per sample, None where unknown. The cheapest is
    taken if it saves `CLEARLY_CHEAPER` of the time or more, and both times are known.
    verdicts are those of `judge` with the same arguments, dropped the candidates that a race
    gave no more seeds.
    """
    sign = 1 if higher_is_better else -1
    ran = {name: list(by_seed.values()) for name, by_seed in scores.items() if by_seed}
    if not ran:
        return Recommendation(baseline, "undecided", "No trial finished, so nothing can be said.")
    if baseline not in ran:
        best = max(ran, key=lambda name: sign * fmean(ran[name]))
        why = (
            f"The baseline {baseline!r} finished no trial, so nothing can be judged; the best mean "
            f"of what ran is that of {best!r}, {fmean(ran[best]):.4g} over "
            f"{_count(len(ran[best]), 'seed')}."
        )
        return Recommendation(best, "undecided", why)

    margin = practical_margin(scores) if equivalent_within is None else equivalent_within
    better = _with_word("better", verdicts)
    leader, against_leader = baseline, verdicts
    if better:
        leader = max(better, key=lambda name: sign * verdicts[name].mean)
        against_leader = judge(
            {name: scores[name] for name in ran},
            leader,
            higher_is_better,
            equivalent_within=margin,
            confidence=confidence,
            seeds=seeds,
            outlook=False,
        )
        against_leader = {name: against_leader[name] for name in better if name != leader}
    choice, saved = _cheapest(leader, _with_word("equivalent", against_leader), cost)
    if choice == baseline:
        judged = {name: verdict for name, verdict in verdicts.items() if name in ran}
        return _keep(baseline, judged, dropped)

    verdict = verdicts[choice]
    seeds_tried = len(set().union(*scores.values()))
    together = f" for all {len(verdicts)} comparisons" if len(verdicts) > 1 else ""
    over = f"{verdict.pairs} of " if verdict.pairs < seeds_tried else ""
    over += _count(seeds_tried, "seed")
    evidence = f"each end with {100 * confidence:g} % confidence{together}, over {over}"
    # Gains, not differences: a reader need not recall which direction is good.
    bounds = sorted(sign * bound for bound in verdict.interval)
    width = bounds[1] - bounds[0]
    gain, low, high, within = _figures(width, sign * verdict.mean, *bounds, margin)
    if not better:
        why = (
            f"Nothing was shown to be better than {baseline!r}, and {choice!r} shows no difference "
            f"from it that matters (a gain of {low} to {high}, {evidence}, lies within "
            f"±{within}), so take the cheapest: {choice!r} takes {saved} less time per sample."
        )
        return Recommendation(choice, "equivalent", why)
    why = f"{choice!r} is better than {baseline!r} by {gain} ({low} to {high}, {evidence})"
    if choice != leader:
        why += (
            f"; {leader!r} has the best mean, but there is no difference that matters between the "
            f"two, so take the cheapest: {choice!r} takes {saved} less time per sample"
        )
    return Recommendation(choice, "better", f"{why}.")


def _keep(
    baseline: str, verdicts: Mapping[str, Verdict], dropped: Collection[str]
) -> Recommendation:
    """Recommend the baseline, since none of the candidates that ran was shown to be better."""
    if not verdicts:
        why = f"Nothing but {baseline!r} finished a trial, so there is nothing to compare it with."
        return Recommendation(baseline, "undecided", why)
    undecided = _with_word("undecided", verdicts)
    hopeless = [name for name in undecided if name in dropped]
    open_still = [name for name in undecided if name not in dropped]
    found: list[str] = []
    for group, singular, plural in (
        (_with_word("worse", verdicts), "is worse", "are worse"),
        (_with_word("equivalent", verdicts), "is equivalent", "are equivalent"),
        (hopeless, "was dropped as hardly better", "were dropped as hardly better"),
        (open_still, "is undecided", "are undecided"),
    ):
        if group:
            subject = str(len(group)) if found else _count(len(group), "candidate")
            found.append(f"{subject} {singular if len(group) == 1 else plural}")
    listed = " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))
    why = f"Nothing was shown to be better than {baseline!r}, so keep it: {listed}"
    if hopeless and not open_still:
        return Recommendation(baseline, "undecided", f"{why}.")
    if undecided:
        undecided = open_still
        why += f"; {_outlook({name: verdicts[name] for name in undecided})}"
        return Recommendation(baseline, "undecided", f"{why}.")
    equivalent = _with_word("equivalent", verdicts)
    return Recommendation(baseline, "equivalent" if equivalent else "better", f"{why}.")


def _outlook(undecided: Mapping[str, Verdict]) -> str:
    """What it would take to decide about the undecided candidate nearest to a decision."""
    reach = {name: v.more_seeds for name, v in undecided.items() if v.more_seeds is not None}
    if reach:
        name = min(reach, key=lambda name: reach[name])
        return f"about {_count(reach[name], 'more seed')} would decide about {name!r}"
    name = max(undecided, key=lambda name: undecided[name].pairs)
    if undecided[name].pairs < 2:
        return "a comparison takes at least 2 seeds that both candidate and baseline finish"
    return f"{SEEDS_IN_REACH} more seeds would hardly decide about {name!r}"


def _with_word(word: Word, verdicts: Mapping[str, Verdict]) -> list[str]:
    return [name for name, verdict in verdicts.items() if verdict.word == word]


def _cheapest(
    leader: str, equals: Iterable[str], cost: Mapping[str, float | None]
) -> tuple[str, str]:
    """The cheapest of the equals and what it saves, or the leader if that is not clearly more."""
    known = {name: own for name in equals if (own := cost.get(name)) is not None}
    limit = cost.get(leader)
    if limit is not None and known:
        cheapest = min(known, key=lambda name: known[name])
        if known[cheapest] <= (1 - CLEARLY_CHEAPER) * limit:
            return cheapest, f"{100 * (1 - known[cheapest] / limit):.0f} %"
    return leader, ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _figures(width: float, *values: float) -> list[str]:
    """Values to the digits that an interval of this width justifies: two of its own."""
    decimals = 1 - math.floor(math.log10(width))
    return [f"{round(value, decimals) + 0.0:.15g}" for value in values]  # + 0.0: no "-0"
