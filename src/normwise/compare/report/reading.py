"""What a comparison found, read from its results dictionary.

This is the one place of the report that knows the keys of results.json, and
which of them may be missing or null. Everything that draws or words a report
works on the frozen objects below.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normwise.compare.ranks import levels
from normwise.errors import NormError

VERDICTS = ("baseline", "better", "equivalent", "undecided", "worse", "failed")

# Neither HTML nor XML can hold these, escaped or not; half a surrogate pair has no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

# Axes overflow some way before float64 does; no metric of a model that learns comes near.
_LARGEST = 1e100


@dataclass(frozen=True)
class Cost:
    """Something a candidate costs: its key in the results, its name, the unit to show it in.

    `compiled` is the key of the same with torch.compile; `drawn` says that it is plotted
    against quality.
    """

    key: str
    heading: str
    unit: str
    factor: int = 1
    whole: bool = False
    drawn: bool = False
    compiled: str = ""


COSTS = (
    Cost(
        "inference_us_per_sample",
        "Inference",
        "µs per sample",
        drawn=True,
        compiled="inference_compiled_us_per_sample",
    ),
    Cost(
        "train_s_per_step",
        "Training",
        "ms per step",
        factor=1000,
        drawn=True,
        compiled="train_compiled_s_per_step",
    ),
    Cost("peak_memory_mb", "Peak memory", "MB", drawn=True),
    Cost("parameters", "Parameters", "", whole=True),
)


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval, which is None where one seed is all there is."""

    mean: float
    interval: tuple[float, float] | None

    @property
    def span(self) -> tuple[float, ...]:
        """The ends of the interval, or the mean alone."""
        return self.interval or (self.mean,)


@dataclass(frozen=True)
class Failure:
    """A trial without a score, and why."""

    seed: str
    reason: str


@dataclass(frozen=True)
class Look:
    """What a look at the race showed of one candidate, and what became of it: `state`."""

    seeds: int
    difference: Estimate
    state: str
    why: str


@dataclass(frozen=True)
class Race:
    """How trials were saved: every look at every candidate, the first look first."""

    looks: dict[str, tuple[Look, ...]]
    ended: str
    trials: int | None
    grid: int | None

    def of(self, name: str) -> tuple[Look, ...]:
        """The looks at one candidate; none at the baseline."""
        return self.looks.get(name, ())


@dataclass(frozen=True)
class Candidate:
    """One normalization, all of its trials, and what they say.

    `score` is None if no trial finished; `difference` is None for the baseline
    too. `level` is the mean to rank by (see `levels`). `costs` holds what was measured,
    by key and in the unit of `COSTS`.
    `dropped` is after how many seeds it left the race and why, `stopped` maps the seeds
    whose trial was given up for its learning curve to the epoch.
    `curves` holds, for each quantity ("score", "loss") and seed, the value after
    each epoch.
    """

    name: str
    verdict: str
    scores: dict[str, float]
    score: Estimate | None
    level: float | None
    difference: Estimate | None
    p_adjusted: float | None
    more_seeds: int | None
    probability_best: float | None
    effect: float | None
    dropped: tuple[int, str] | None
    stopped: dict[str, float | None]
    costs: dict[str, float]
    failures: tuple[Failure, ...]
    retried: dict[str, tuple[str, ...]]
    changes: tuple[str, ...]
    curves: dict[str, dict[str, dict[float, float]]]

    def mean_curve(self, quantity: str) -> dict[float, float]:
        """The mean over the finished trials, as far as all of them go.

        A trial that diverged has no part in it: the mean would jump where it ends.
        """
        finished = [self.curves[quantity][s] for s in self.scores if s in self.curves[quantity]]
        if not finished:
            return {}
        shared = set(finished[0]).intersection(*finished)
        return {e: statistics.fmean(curve[e] for curve in finished) for e in sorted(shared)}


@dataclass(frozen=True)
class Results:
    """A whole comparison. `candidates` are in order of their mean, the best first."""

    task: str
    baseline: str
    metric: str
    higher_is_better: bool
    equivalent_within: float | None
    seeds: tuple[str, ...]
    confidence: float
    errors: dict[str, float]
    race: Race | None
    candidates: tuple[Candidate, ...]
    recommended: str | None
    why: str
    settings: dict[str, str]
    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    finished: str

    @property
    def compared(self) -> tuple[Candidate, ...]:
        """Everything except the baseline."""
        return tuple(c for c in self.candidates if c.name != self.baseline)

    @property
    def level(self) -> str:
        """The confidence of its intervals, as "95 %"."""
        return f"{100 * self.confidence:g} %"

    @property
    def decimals(self) -> int:
        """Decimals that show two digits of a typical interval, or four of a score."""
        estimates = [e for c in self.candidates for e in (c.score, c.difference) if e]
        widths = [e.interval[1] - e.interval[0] for e in estimates if e.interval]
        sizes = [abs(c.score.mean) for c in self.candidates if c.score]
        positive = [w for w in widths if w > 0]
        if positive:
            return max(0, 1 - math.floor(math.log10(statistics.median(positive))))
        largest = max(sizes, default=0.0)
        return max(0, 3 - math.floor(math.log10(largest))) if largest > 0 else 3

    def named(self, name: str | None) -> Candidate | None:
        """The candidate of that name, if there is one."""
        return next((c for c in self.candidates if c.name == name), None)


def read_results(results: Mapping[str, Any]) -> Results:
    """Check and tidy a results dictionary as it is written to results.json.

    Numbers that are nan, infinite or next to it count as missing, and characters that no
    page can hold become U+FFFD.

    Raises
        NormError  if a key is missing that every comparison has, or a verdict is unknown.
    """
    tidy = tidied(results)
    try:
        metric, task = tidy["metric"], tidy["task"]
        higher = bool(metric["higher_is_better"])
        standing = levels(tidy)
        candidates = [_read_candidate(e, standing.get(e["name"])) for e in tidy["candidates"]]
        baseline, seeds, metric_name = tidy["baseline"], tidy["seeds"], metric["name"]
        task_name = task["name"]
    except KeyError as missing:
        raise NormError(
            f"this is no results dictionary of a comparison: {missing} is missing; "
            "hand in what normwise wrote to results.json"
        ) from missing
    recommendation = tidy.get("recommendation") or {}
    return Results(
        task=task_name,
        baseline=baseline,
        metric=metric_name,
        higher_is_better=higher,
        equivalent_within=tidy.get("equivalent_within"),
        seeds=tuple(str(seed) for seed in seeds),
        confidence=tidy.get("confidence") or 0.95,
        errors={key: rate for key, rate in (tidy.get("errors") or {}).items() if rate is not None},
        race=_read_race(tidy.get("race")),
        candidates=_ranked(candidates, higher),
        recommended=recommendation.get("candidate"),
        why=recommendation.get("why") or "",
        settings=_texts(task.get("settings") or {}),
        machine=_texts(tidy.get("machine") or {}),
        versions=_texts({name: tidy.get(name) for name in ("normwise", "torch")}),
        command=tidy.get("command") or "",
        finished=tidy.get("finished") or "",
    )


def _read_candidate(entry: Mapping[str, Any], level: float | None) -> Candidate:
    difference, dropped = entry.get("difference") or {}, entry.get("dropped")
    if entry["verdict"] not in VERDICTS:
        raise NormError(
            f"candidate {entry['name']!r} has the verdict {entry['verdict']!r}; "
            f"a verdict is one of {', '.join(VERDICTS)}"
        )
    return Candidate(
        name=entry["name"],
        verdict=entry["verdict"],
        scores={seed: s for seed, s in entry["scores"].items() if s is not None},
        score=_estimate(entry),
        level=level,
        difference=_estimate(difference),
        p_adjusted=difference.get("p_adjusted"),
        more_seeds=entry.get("more_seeds"),
        probability_best=entry.get("probability_best"),
        effect=entry.get("effect"),
        dropped=(dropped["after"], dropped["why"]) if dropped else None,
        stopped={str(s["seed"]): s.get("epoch") for s in entry.get("stopped") or ()},
        costs={
            key: c.factor * entry[key]
            for c in COSTS
            for key in (c.key, c.compiled)
            if entry.get(key) is not None
        },
        failures=tuple(Failure(str(f["seed"]), f["reason"]) for f in entry.get("failed") or ()),
        retried={str(r["seed"]): tuple(r["why"]) for r in entry.get("retried") or ()},
        changes=tuple(entry.get("changes") or ()),
        curves={q: _curves(entry.get("curves") or {}, q) for q in ("score", "loss")},
    )


def _read_race(race: Mapping[str, Any] | None) -> Race | None:
    if race is None:
        return None
    looks: dict[str, list[Look]] = {}
    for look in race["looks"]:
        for entry in look["candidates"]:
            ends = {"mean": entry["mean_difference"], "interval": (entry["low"], entry["high"])}
            if difference := _estimate(ends):
                seen = Look(look["seeds"], difference, entry["state"], entry["why"] or "")
                looks.setdefault(entry["name"], []).append(seen)
    return Race(
        {name: tuple(mine) for name, mine in looks.items()},
        race.get("ended") or "",
        race.get("trials"),
        race.get("grid"),
    )


def _estimate(entry: Mapping[str, Any]) -> Estimate | None:
    if entry.get("mean") is None:
        return None
    low, high = entry.get("interval") or (None, None)
    return Estimate(entry["mean"], None if low is None or high is None else (low, high))


def _curves(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], quantity: str
) -> dict[str, dict[float, float]]:
    """The seeds that recorded the quantity, each with its values by epoch."""
    values = {
        seed: {e["epoch"]: e[quantity] for e in curve if e.get(quantity) is not None}
        for seed, curve in curves.items()
    }
    return {seed: by_epoch for seed, by_epoch in values.items() if by_epoch}


def _ranked(candidates: Sequence[Candidate], higher_is_better: bool) -> tuple[Candidate, ...]:
    """The best first; what has no score comes last, as it came."""
    sign = -1 if higher_is_better else 1
    return tuple(sorted(candidates, key=lambda c: math.inf if c.level is None else sign * c.level))


def _texts(entries: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in entries.items() if value is not None}


def tidied(value: Any) -> Any:
    """The value without numbers and characters that no page can show."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, float):
        return value if abs(value) < _LARGEST else None
    if isinstance(value, Mapping):
        return {tidied(str(key)): tidied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidied(entry) for entry in value]
    return value
