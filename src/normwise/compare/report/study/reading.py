"""What several comparisons found together, read from the results dictionary of a study."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normwise.compare.report.reading import Candidate, Estimate, Results, read_results, tidied
from normwise.errors import NormError


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over the comparisons, 1 the best, and what a rank test says of them.

    `p` is that of all being alike. Two mean ranks further apart than the critical
    difference differ; `cliques` are the largest groups in which no two do.
    """

    mean_ranks: dict[str, float]
    p: float | None
    critical_difference: float | None
    cliques: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Cell:
    """What one comparison found of one candidate, as a plot shows it."""

    label: str
    score: Estimate
    candidate: Candidate


@dataclass(frozen=True)
class StudyResults:
    """Several comparisons by label; `by` says what the labels are.

    `names` are the candidates that any of them has, the best mean rank first;
    `ranking` is None where the comparisons are no independent ones.
    """

    by: str
    comparisons: dict[str, Results]
    folders: dict[str, str]
    names: tuple[str, ...]
    ranks: dict[str, float]
    ranking: Ranking | None
    sensitivity: dict[str, float]
    command: str
    finished: str

    @property
    def first(self) -> Results:
        """One of the comparisons, for what all of them share."""
        return next(iter(self.comparisons.values()))

    @property
    def is_sweep(self) -> bool:
        """Whether one task was compared at several values of an option."""
        return self.by not in ("task", "run")

    @property
    def task(self) -> str:
        """The task that was swept."""
        return self.first.task.partition(", ")[0]

    @property
    def axis(self) -> str:
        """What the labels are, in words."""
        return {"lr": "learning rate"}.get(self.by, self.by.replace("_", " "))

    @property
    def compared(self) -> tuple[str, ...]:
        """Every candidate except the baseline."""
        return tuple(name for name in self.names if name != self.first.baseline)

    @property
    def metric(self) -> str | None:
        """What all comparisons are judged by, if that is one and the same."""
        metrics = {(r.metric, r.higher_is_better) for r in self.comparisons.values()}
        return self.first.metric if len(metrics) == 1 else None

    @property
    def values(self) -> list[float] | None:
        """The labels as numbers, if they all are."""
        try:
            return [float(label) for label in self.comparisons]
        except ValueError:
            return None

    @property
    def decimals(self) -> int:
        """Decimals that suit the comparisons together."""
        return max(results.decimals for results in self.comparisons.values())

    def decimals_of(self, results: Results) -> int:
        """Those of all comparisons where they share a metric, or of this one alone."""
        return self.decimals if self.metric else results.decimals

    def cells(self, name: str) -> list[Cell]:
        """What was found of a candidate, where it has a score."""
        found = [(label, r.named(name)) for label, r in self.comparisons.items()]
        return [Cell(label, c.score, c) for label, c in found if c and c.score]


def read_study(results: Mapping[str, Any]) -> StudyResults:
    """Check and tidy a study's results dictionary, as it is written to results.json.

    Raises
        NormError  if it is not one of a study.
    """
    tidy = tidied(results)
    try:
        entries, by = tidy["comparisons"], tidy["by"]
    except KeyError as missing:
        raise NormError(
            f"this is no results dictionary of a study: {missing} is missing; hand in what "
            "normwise wrote to results.json"
        ) from missing
    comparisons = {entry["label"]: read_results(entry) for entry in entries}
    ranks = mean_ranks(comparisons)
    names = list(dict.fromkeys(c.name for r in comparisons.values() for c in r.candidates))
    return StudyResults(
        by=by,
        comparisons=comparisons,
        folders={entry["label"]: entry["folder"] for entry in entries},
        names=tuple(sorted(names, key=lambda name: ranks.get(name, math.inf))),
        ranks=ranks,
        ranking=_read_ranking(tidy.get("ranking")),
        sensitivity=dict(tidy.get("sensitivity") or {}),
        command=tidy.get("command") or "",
        finished=tidy.get("finished") or "",
    )


def mean_ranks(comparisons: Mapping[str, Results]) -> dict[str, float]:
    """Mean rank of each candidate that has a score in every comparison; ties share a rank."""
    scored = [
        {c.name: c.level for c in r.candidates if c.level is not None} for r in comparisons.values()
    ]
    shared = set(scored[0]).intersection(*scored[1:])
    ranks: dict[str, list[float]] = {name: [] for name in scored[0] if name in shared}
    for results, means in zip(comparisons.values(), scored, strict=True):
        sign = -1 if results.higher_is_better else 1
        own = [sign * means[name] for name in ranks]
        for name, value in zip(ranks, own, strict=True):
            before = sum(other < value for other in own)
            ranks[name].append(before + (sum(other == value for other in own) + 1) / 2)
    return {name: statistics.fmean(mine) for name, mine in ranks.items()}


def _read_ranking(ranking: Mapping[str, Any] | None) -> Ranking | None:
    if not ranking:
        return None
    return Ranking(
        dict(ranking["mean_ranks"]),
        ranking.get("p"),
        ranking.get("critical_difference"),
        tuple(tuple(clique) for clique in ranking.get("cliques") or ()),
    )
