"""The comparison told to somebody who trains no networks: what to do, what it brings, how sure."""

from normwise.compare.report.reading import COSTS, Candidate, Results
from normwise.compare.report.words import counted, fixed, listing, significant

_TELLING = 0.02  # a smaller change of a cost is none to somebody who plans with it


def plain_words(results: Results) -> list[str]:
    """Short paragraphs, in order of what such a reader asks."""
    chosen, baseline = results.named(results.recommended), results.named(results.baseline)
    paragraphs = [_tried(results)]
    if chosen and baseline:
        paragraphs.append(_advice(results, chosen, baseline))
        if chosen != baseline:
            paragraphs.append(_price(chosen, baseline))
    paragraphs += [_trust(results), _saved(results), _lost(results)]
    return [paragraph for paragraph in paragraphs if paragraph]


def _tried(results: Results) -> str:
    trials = sum(len(c.scores) + len(c.failures) + len(c.stopped) for c in results.candidates)
    return (
        "A network has layers that keep its numbers in range, and there are several kinds of them. "
        f"{counted(len(results.compared), 'kind')} took the place of those in {results.task!r}, "
        f"and the network was trained afresh each time, {counted(trials, 'time')} in all, the "
        f"network as it is among them. What counts is its {results.metric}: "
        f"{'more' if results.higher_is_better else 'less'} is better."
    )


def _advice(results: Results, chosen: Candidate, baseline: Candidate) -> str:
    undecided = [c for c in results.compared if c.verdict == "undecided"]
    open_ones = [c.name for c in undecided if not c.dropped]
    unsure = f" About {listing(open_ones)} it is too early to tell." if open_ones else ""
    if chosen == baseline:
        return (
            "Leave the network as it is: none of the others was shown to do better than it by "
            f"more than luck explains.{unsure}"
        )
    if not (chosen.score and baseline.score and chosen.difference):
        return f"Use {chosen.name}, which is what did best among those that could be trained."
    change = (
        f"{fixed(baseline.score.mean, results.decimals)} to "
        f"{fixed(chosen.score.mean, results.decimals)}"
    )
    if chosen.verdict == "better":
        return (
            f"Use {chosen.name}. It takes the {results.metric} from {change} on average, which is "
            f"more than luck explains.{unsure}"
        )
    if chosen.verdict == "equivalent":
        return (
            f"Use {chosen.name}. It does as well as the network as it is, within "
            f"{results.equivalent_within or 0:.2g} of {results.metric}, and costs less.{unsure}"
        )
    return f"Use {chosen.name}, though the evidence for it is thin.{unsure}"


def _price(chosen: Candidate, baseline: Candidate) -> str:
    """What the choice costs, as ratios: times themselves belong to one machine."""
    subjects = {
        "inference_us_per_sample": "one prediction takes {} the time",
        "train_s_per_step": "training takes {} the time",
        "peak_memory_mb": "training takes {} the memory",
    }
    said = []
    for cost in COSTS:
        own, before = chosen.costs.get(cost.key), baseline.costs.get(cost.key)
        if cost.key in subjects and own and before and abs(own / before - 1) > _TELLING:
            said.append(subjects[cost.key].format(f"{significant(own / before, 2)} times"))
    return f"With it, {listing(said)}." if said else ""


def _trust(results: Results) -> str:
    said = []
    if rate := results.errors.get("false_better"):
        said.append(
            f"if in truth all kinds did equally well, at most {100 * rate:g} in 100 such "
            "comparisons would still call one of them better"
        )
    if (rate := results.errors.get("best_dropped")) and results.race:
        said.append(f"at most {100 * rate:g} in 100 would give up the truly best kind early")
    return f"How far to trust this: {listing(said)}." if said else ""


def _saved(results: Results) -> str:
    race = results.race
    if not race or not race.trials or not race.grid or race.trials >= race.grid:
        return ""
    return (
        "Kinds that had lost, or could hardly win any more, were given up early: "
        f"{race.trials} trainings took the place of {race.grid}."
    )


def _lost(results: Results) -> str:
    failed = sum(len(c.failures) for c in results.candidates)
    return f"{counted(failed, 'training')} failed; why is listed below." if failed else ""
