"""What the report says in words: numbers, and the finding of each plot.

Findings state what was measured. Whether a difference counts is the verdict's
matter, which came with the results; no sentence here judges anew.
"""

import math
from collections.abc import Sequence

from normwise.compare.report.reading import VERDICTS, Candidate, Cost, Estimate, Results


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
    if hardly_known(*estimate.interval, decimals):
        return "hardly known"
    return " to ".join(fixed(end, decimals, signed=signed) for end in estimate.interval)


def hardly_known(low: float, high: float, decimals: int) -> bool:
    """Whether an interval is so wide, as after two seeds, that its digits only take up room."""
    return high - low > 1e6 * 10.0**-decimals


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


def direction(results: Results) -> str:
    """Where better lies along an axis of scores; on an upright one the text turns with it."""
    return "better →" if results.higher_is_better else "← better"


def summary(results: Results) -> str:
    """The whole comparison in two sentences."""
    toward = "higher" if results.higher_is_better else "lower"
    within = results.equivalent_within
    wording = {
        "better": "better",
        "equivalent": "equivalent" + (f" within {within:.2g}" if within is not None else ""),
        "worse": "worse",
        "undecided": "undecided",
        "failed": "without a finished trial",
    }
    verdicts = [c.verdict for c in results.compared]
    counts = [f"{verdicts.count(v)} {words}" for v, words in wording.items() if v in verdicts]
    seeds = "seed" if len(results.seeds) == 1 else counted(len(results.seeds), "seed")
    share = "up to" if results.race else "the same"
    return (
        f"{counted(len(results.compared), 'candidate')} and {results.baseline}, the baseline, were "
        f"trained with {share} {seeds}. Judged by "
        f"{results.metric} ({toward} is better) against {results.baseline}: {listing(counts)}."
    )


def share(value: float) -> str:
    """A probability in percent, "< 1 %" rather than 0 and "> 99 %" rather than 100."""
    percent = round(100 * value)
    text = "< 1 %" if percent < 1 else "> 99 %" if percent > 99 else f"{percent} %"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def error_rates(results: Results) -> str:
    """How often the method is wrong, at most."""
    said = [
        f"where no candidate differs from the baseline, some candidate is called {word} in at most "
        f"{100 * results.errors[f'false_{word}']:g} % of comparisons"
        for word in ("better", "worse")
        if f"false_{word}" in results.errors
    ]
    if "best_dropped" in results.errors and results.race:
        said.append(
            "the race drops the truly best candidate in at most "
            f"{100 * results.errors['best_dropped']:g} %"
        )
    return f"{capital(listing(said))}." if said else ""


def stop_reason(epoch: float | None) -> str:
    """Why a trial was stopped."""
    when = "" if epoch is None else f" in epoch {epoch:g}"
    return f"its learning curve fell behind{when}"


def race_saving(results: Results) -> str:
    """How many trials the race took instead of how many, and why it ended."""
    race = results.race
    if not race:
        return ""
    said = ""
    if race.trials and race.grid:
        said = f"It took {race.trials} of the {race.grid} trials that every candidate with every "
        said += f"seed would have taken ({100 * race.trials / race.grid:.0f} %). "
    return f"{said}{capital(race.ended)}".rstrip(". ") + "." * bool(said or race.ended)


def scores_finding(results: Results) -> str:
    """Who has the best mean, what the baseline has, and who has none."""
    scored = [c for c in results.candidates if c.score]
    said = [_stated(c, results) for c in scored[:1] if c.name != results.baseline]
    baseline = results.named(results.baseline)
    if baseline in scored:
        rank = " (the best)" if baseline == scored[0] else ""
        said.append(f"{_stated(baseline, results)}{rank}")
    sentence = f"Mean {results.metric}: {listing(said)}."
    missing = [c.name for c in results.candidates if not c.score]
    return f"{sentence} No finished trial: {listing(missing)}." if missing else sentence


def differences_finding(results: Results) -> str:
    """The verdicts in groups, each name with its mean difference from the baseline."""
    groups = []
    for verdict in VERDICTS:
        said = [
            f"{c.name} ({fixed(c.difference.mean, results.decimals, signed=True)})"
            for c in results.compared
            if c.verdict == verdict and c.difference
        ]
        if said:
            groups.append(f"{verdict.capitalize()}: {listing(said)}.")
    return " ".join(groups)


def curves_finding(results: Results, quantity: str) -> str:
    """Who ends highest and lowest, and after how many epochs."""
    means = {c.name: c.mean_curve(quantity) for c in results.candidates}
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


def race_finding(results: Results) -> str:
    """Who was dropped or decided after how many seeds, and who was in to the end."""
    assert results.race
    said: dict[str, list[str]] = {"decided": [], "dropped": [], "in": []}
    for candidate in results.compared:
        for look in results.race.of(candidate.name)[-1:]:
            said[look.state].append(f"{candidate.name} ({look.seeds})")
    wording = {"decided": "Decided", "dropped": "Dropped", "in": "Still in at the end"}
    groups = [
        f"{wording.get(s, capital(s))}: {listing(names)}." for s, names in said.items() if names
    ]
    return f"Seeds each took. {' '.join(groups)}"


def cost_finding(
    results: Results, priced: Sequence[Candidate], front: Sequence[Candidate], cost: Cost
) -> str:
    """The cheapest, the best, and all that nothing beats in both."""
    best, cheapest = priced[0], min(priced, key=lambda c: c.costs[cost.key])
    cheap = f"{cheapest.name} takes the least, {significant(cheapest.costs[cost.key])} {cost.unit}"
    if cheapest == best:
        return f"{cheap}, and has the best mean {results.metric} among these."
    said = (
        f"{cheap}; {best.name} has the best mean {results.metric} among these, and takes "
        f"{significant(best.costs[cost.key])} {cost.unit}."
    )
    between = [c.name for c in front if c not in (best, cheapest)]
    return f"{said} Between them, unbeaten in both: {listing(between)}." if between else said


def _stated(candidate: Candidate, results: Results) -> str:
    assert candidate.score is not None
    mean = fixed(candidate.score.mean, results.decimals)
    span = interval(candidate.score, results.decimals)
    return f"{candidate.name} {mean}" + (f" ({results.level} interval {span})" if span else "")
