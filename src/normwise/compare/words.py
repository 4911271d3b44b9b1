"""What the report says in words: numbers, and the finding of each plot.

Findings state what was measured. Whether a difference counts is the verdict's
matter, which came with the results; no sentence here judges anew.
"""

import math
from collections.abc import Sequence

from normwise.compare.outcome import VERDICTS, Candidate, Cost, Estimate, Outcome


def fixed(value: float, decimals: int, *, signed: bool = False) -> str:
    """The number with so many decimals, a real minus sign and thousands set apart.

    Where that would be a long row of digits or nothing but zeros, three digits
    and an exponent instead.
    """
    if abs(value) >= 1e9 or decimals > 6:
        text = f"{value:+.3g}" if signed else f"{value:.3g}"
    else:
        rounded = round(value, decimals) + 0.0  # adding 0.0 turns -0.0 into 0.0
        text = f"{rounded:+,.{decimals}f}" if signed else f"{rounded:,.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}").replace(",", "\N{NARROW NO-BREAK SPACE}")


def significant(value: float, digits: int = 3) -> str:
    """The number to so many significant digits, without an exponent where that is readable."""
    if value == 0:
        return "0"
    return fixed(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def interval(estimate: Estimate, decimals: int, *, signed: bool = False) -> str:
    """The interval as "0.981 to 0.990", or nothing where there is none."""
    if estimate.interval is None:
        return ""
    return " to ".join(fixed(end, decimals, signed=signed) for end in estimate.interval)


def listing(items: Sequence[str]) -> str:
    """The items as "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def counted(count: int, noun: str) -> str:
    """The noun with its number, as "1 seed" or "5 seeds"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def capital(text: str) -> str:
    """The text with its first letter in upper case, and the others as they are."""
    return text[:1].upper() + text[1:]


def shorten(name: str, length: int) -> str:
    """The name on one line, its middle left out if it is longer than the plot has room for."""
    name = " ".join(name.split())
    if len(name) <= length:
        return name
    tail = (length - 1) // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def summary(outcome: Outcome) -> str:
    """The whole comparison in two sentences."""
    direction = "higher" if outcome.higher_is_better else "lower"
    within = outcome.equivalent_within
    wording = {
        "better": "better",
        "equivalent": "equivalent" + (f" within {within:.2g}" if within is not None else ""),
        "worse": "worse",
        "undecided": "undecided",
        "failed": "without a finished trial",
    }
    verdicts = [c.verdict for c in outcome.compared]
    counts = [f"{verdicts.count(v)} {words}" for v, words in wording.items() if v in verdicts]
    seeds = "seed" if len(outcome.seeds) == 1 else counted(len(outcome.seeds), "seed")
    return (
        f"{counted(len(outcome.compared), 'candidate')} and {outcome.baseline}, the baseline, were "
        f"trained with the same {seeds}. Judged by "
        f"{outcome.metric} ({direction} is better) against {outcome.baseline}: {listing(counts)}."
    )


def scores_finding(outcome: Outcome) -> str:
    """Who has the best mean, what the baseline has, and who has none."""
    scored = [c for c in outcome.candidates if c.score]
    said = [_stated(c, outcome) for c in scored[:1] if c.name != outcome.baseline]
    baseline = outcome.named(outcome.baseline)
    if baseline in scored:
        rank = " (the best)" if baseline == scored[0] else ""
        said.append(f"{_stated(baseline, outcome)}{rank}")
    sentence = f"Mean {outcome.metric}: {listing(said)}."
    missing = [c.name for c in outcome.candidates if not c.score]
    return f"{sentence} No finished trial: {listing(missing)}." if missing else sentence


def differences_finding(outcome: Outcome) -> str:
    """The verdicts in groups, each name with its mean difference from the baseline."""
    groups = []
    for verdict in VERDICTS:
        said = [
            f"{c.name} ({fixed(c.difference.mean, outcome.decimals, signed=True)})"
            for c in outcome.compared
            if c.verdict == verdict and c.difference
        ]
        if said:
            groups.append(f"{verdict.capitalize()}: {listing(said)}.")
    return " ".join(groups)


def curves_finding(outcome: Outcome, quantity: str) -> str:
    """Who ends highest and lowest, and after how many epochs."""
    means = {c.name: c.mean_curve(quantity) for c in outcome.candidates}
    ends = sorted((list(m.values())[-1], max(m), name) for name, m in means.items() if m)
    if not ends:
        return "No trial with a curve came to its end."
    (low, low_epoch, lowest), (high, high_epoch, highest) = ends[0], ends[-1]
    if lowest == highest:
        return f"{highest} ends at {significant(high)} after epoch {high_epoch:g}."
    return (
        f"{highest} ends highest, at {significant(high)} after epoch {high_epoch:g}; "
        f"{lowest} ends lowest, at {significant(low)} after epoch {low_epoch:g}."
    )


def cost_finding(outcome: Outcome, priced: Sequence[Candidate], cost: Cost) -> str:
    """The fastest and the best of those with a known cost, the best first among them."""
    best, fastest = priced[0], min(priced, key=lambda c: c.costs[cost.key])
    fast = f"{fastest.name} is the fastest, at {significant(fastest.costs[cost.key])} {cost.unit}"
    if fastest == best:
        return f"{fast}, and has the best mean {outcome.metric} among these."
    return (
        f"{fast}; {best.name} has the best mean {outcome.metric} among these, and takes "
        f"{significant(best.costs[cost.key])} {cost.unit}."
    )


def _stated(candidate: Candidate, outcome: Outcome) -> str:
    assert candidate.score is not None
    mean = fixed(candidate.score.mean, outcome.decimals)
    span = interval(candidate.score, outcome.decimals)
    return f"{candidate.name} {mean}" + (f" (95 % interval {span})" if span else "")
