"""What the page of a study says in words."""

from collections.abc import Callable
from dataclasses import dataclass

from normwise.compare.report.study.reading import StudyResults
from normwise.compare.report.words import counted, direction, fixed, listing


@dataclass(frozen=True)
class Quantity:
    """What a picture shows of a score: its name, where better is, and how it is had from one."""

    name: str
    toward: str
    of: Callable[[float], float]


def quantity(study: StudyResults) -> Quantity | None:
    """The error where the score is an accuracy, as everyone draws it; else the score itself."""
    if study.metric == "accuracy":
        return Quantity("error, 1 − accuracy", "← better", lambda score: 1 - score)
    if study.metric is None:
        return None
    return Quantity(study.metric, direction(study.first), lambda score: score)


def question(study: StudyResults) -> str:
    """What the page answers, for its first line."""
    if study.is_sweep:
        return f"Which normalization for {study.task}, and does it depend on the {study.axis}?"
    return f"Which normalization for {listing(list(study.comparisons))}?"


def headline(study: StudyResults) -> tuple[str, str]:
    """The answer, as a verb and what it is about."""
    advised = {results.recommended for results in study.comparisons.values()}
    if len(advised) > 1:
        return "It depends on the", study.axis
    name = advised.pop()
    if name is None:
        return "No recommendation", ""
    return ("Keep" if name == study.first.baseline else "Use"), name


def advice(study: StudyResults) -> str:
    """Which candidate is recommended where."""
    where: dict[str, list[str]] = {}
    for label, results in study.comparisons.items():
        where.setdefault(results.recommended or "none", []).append(label)
    if len(where) == 1:
        return f"{next(iter(where))} is recommended in all {len(study.comparisons)}."
    said = [f"{name} for {listing(labels)}" for name, labels in where.items()]
    return f"Recommended by {study.axis}: {'; '.join(said)}."


def summary(study: StudyResults) -> str:
    """How much was done, and how it was judged."""
    candidates = [c for results in study.comparisons.values() for c in results.candidates]
    trials = sum(len(candidate.scores) for candidate in candidates)
    judged = f" by {study.metric}" if study.metric else ""
    return (
        f"{counted(len(study.comparisons), 'comparison')} of "
        f"{counted(len(study.names), 'candidate')}, {counted(trials, 'finished trial')} in all, "
        f"each judged{judged} against its own {study.first.baseline}."
    )


def scores_finding(study: StudyResults) -> str:
    """Where each line begins and where it ends."""
    what = quantity(study)
    assert what
    said = []
    for name in study.names:
        cells = study.cells(name)
        if cells:
            ends = dict.fromkeys(
                f"{fixed(what.of(cell.score.mean), study.decimals)} at {cell.label}"
                for cell in (cells[0], cells[-1])
            )
            said.append(f"{name} {', '.join(ends)}")
    return f"{what.name}: {'; '.join(said)}.".capitalize()


def differences_finding(study: StudyResults) -> str:
    """How often each candidate was better, worse, and neither."""
    said = []
    for name in study.compared:
        verdicts = [cell.candidate.verdict for cell in study.cells(name)]
        counts = [f"{v} {counted(verdicts.count(v), 'time')}" for v in dict.fromkeys(verdicts)]
        said.append(f"{name}: {listing(counts)}")
    return f"{'; '.join(said)}."


def ranks_finding(study: StudyResults) -> str:
    """The mean ranks, and which of them a test tells apart."""
    assert study.ranking
    ranks = [f"{name} {fixed(rank, 2)}" for name, rank in study.ranks.items()]
    said = f"Mean ranks: {listing(ranks)}."
    if study.ranking.p is not None:
        p = study.ranking.p
        said += f" That all are alike has p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}."
    return said


def plain_words(study: StudyResults) -> list[str]:
    """The study told to somebody who trains no networks."""
    said = []
    if study.is_sweep:
        said.append(
            f"The same question was asked once for each {study.axis}: which kind of layer that "
            f"keeps a network's numbers in range should {study.task!r} use? The {study.axis} is a "
            "setting of training, and some kinds bear a bad choice of it better than others."
        )
    else:
        said.append(
            f"The same question was asked {len(study.comparisons)} times: which kind of layer that "
            "keeps a network's numbers in range does best?"
        )
    said.append(advice(study))
    undecided = sum(
        c.verdict == "undecided" for r in study.comparisons.values() for c in r.compared
    )
    if undecided:
        said.append(
            f"{counted(undecided, 'judgement')} in the table below could not be made: the "
            "trainings differ too much by luck, and more of them would tell."
        )
    return said
