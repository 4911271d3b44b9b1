"""The figures of a comparison, gathered from its ledger: what results.json holds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from normwise.compare.ledger import Cost, Ledger
from normwise.compare.race import History, history
from normwise.compare.recommendation import recommend
from normwise.compare.trial import AS_IS, Outcome
from normwise.compare.verdict import (
    Verdict,
    judge,
    mean_interval,
    practical_margin,
    probability_best,
)
from normwise.errors import NormError

CONFIDENCE = 0.95
# The chances, in a comparison, of calling a candidate better (or worse) that is not, and of
# dropping one that the seeds could just show to be better; tests/compare/simulation.py.
ERRORS = {"false_better": 0.05, "false_worse": 0.05, "best_dropped": 0.05}


def gather_results(ledger: Ledger) -> dict[str, Any]:
    """All figures of the last comparison that was asked for.

    Raises
        NormError  if none has come to its end in this ledger.
    """
    asked = ledger.read("asked")
    if asked is None:
        raise NormError(
            f"{ledger.path.parent} holds no finished comparison yet; run the same "
            "`normwise compare` again, and it goes on where it stopped"
        )
    margin, higher = asked["equivalent_within"], asked["metric"]["higher_is_better"]
    outcomes, seeds, most = _of_grid(ledger, asked), asked["seeds"], None
    race = None
    if asked.get("race") is not None:
        most = len(seeds)
        race = history(
            ledger.outcomes(),
            asked["candidates"],
            AS_IS,
            higher,
            seeds=most,
            equivalent_within=margin,
        )
        # Trials that workers ran ahead in vain would make the figures depend on their number.
        outcomes, seeds = race.counted, list(range(race.seeds))
    scores = {
        name: {o.seed: o.score for o in mine if o.score is not None}
        for name, mine in outcomes.items()
    }
    costs = {name: ledger.costs().get(name, Cost()) for name in outcomes}
    options = {"equivalent_within": margin, "confidence": CONFIDENCE, "seeds": most}
    verdicts = judge(scores, AS_IS, higher, **options)
    best = probability_best(scores, AS_IS, higher)
    recommendation = recommend(
        verdicts,
        scores,
        AS_IS,
        higher,
        {name: cost.inference_us_per_sample for name, cost in costs.items()},
        dropped=() if race is None else race.dropped,
        **options,
    )
    return {
        **{key: asked[key] for key in ("normwise", "torch", "machine", "task")},
        "baseline": AS_IS,
        "seeds": seeds,
        **{key: asked[key] for key in ("metric", "command", "finished")},
        "confidence": CONFIDENCE,
        "errors": ERRORS if race else {key: ERRORS[key] for key in ERRORS if "false" in key},
        "race": race and _raced(race, race.ended or asked["race"]["ended"]),
        "equivalent_within": practical_margin(scores) if margin is None else margin,
        "candidates": [
            {
                "name": name,
                **_scored(mine),
                **_judged(verdicts.get(name), bool(scores[name])),
                "probability_best": best.get(name),
                **_left(name, mine, race),
                **asdict(costs[name]),
                "changes": asked["changes"][name],
            }
            for name, mine in outcomes.items()
        ],
        "recommendation": asdict(recommendation),
    }


def _of_grid(ledger: Ledger, asked: dict[str, Any]) -> dict[str, list[Outcome]]:
    """All trials that were asked for, by candidate."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in asked["candidates"]}
    for outcome in sorted(ledger.outcomes(), key=lambda o: o.seed):
        if outcome.candidate in outcomes and outcome.seed in asked["seeds"]:
            outcomes[outcome.candidate].append(outcome)
    return outcomes


def _raced(race: History, ended: str | None) -> dict[str, Any]:
    """The race's looks and its end."""
    return {
        "looks": [
            {
                "seeds": look.seeds,
                "candidates": [
                    {
                        "name": one.name,
                        "mean_difference": _number(one.mean),
                        "low": _number(one.low),
                        "high": _number(one.high),
                        "state": one.state,
                        "why": one.why,
                    }
                    for one in look.standings
                ],
            }
            for look in race.looks
        ],
        "ended": ended or "it was stopped",
        "trials": race.trials,
        "grid": race.most * len(race.counted),
    }


def _left(name: str, mine: Sequence[Outcome], race: History | None) -> dict[str, Any]:
    """When a candidate left a race, and where its learning curve stopped a trial."""
    dropped = race.dropped.get(name) if race else None
    return {
        "dropped": dropped and {"after": dropped[0], "why": dropped[1]},
        "stopped": [
            {"seed": o.seed, "epoch": o.curve[-1]["epoch"] if o.curve else None}
            for o in mine
            if o.kind == "stopped"
        ],
    }


def _scored(mine: Sequence[Outcome]) -> dict[str, Any]:
    """What one candidate's trials came to."""
    scores = {o.seed: o.score for o in mine if o.score is not None}
    values = list(scores.values())
    return {
        "scores": {str(seed): score for seed, score in scores.items()},
        "mean": math.fsum(values) / len(values) if values else None,
        "interval": _finite(mean_interval(values)),
        "failed": [
            {"seed": o.seed, "reason": o.reason}
            for o in mine
            if o.score is None and o.kind != "stopped"
        ],
        "retried": [{"seed": o.seed, "why": o.lost} for o in mine if o.lost],
        "curves": {str(o.seed): o.curve for o in mine},
        "seconds": sum(o.seconds for o in mine),
    }


def _judged(verdict: Verdict | None, ran: bool) -> dict[str, Any]:
    """How a candidate compares with the baseline, which has no verdict."""
    if verdict is None:
        return {"verdict": "baseline" if ran else "failed", "more_seeds": None, "effect": None}
    return {
        "difference": {
            "mean": verdict.mean if verdict.pairs else None,
            "interval": _finite(verdict.interval),
            "p_adjusted": verdict.p_adjusted,
        },
        "verdict": verdict.word if ran else "failed",
        "more_seeds": verdict.more_seeds,
        "effect": _number(verdict.effect),
    }


def _number(value: float) -> float | None:
    """A number for JSON, None where it is unknown."""
    return value if math.isfinite(value) else None


def _finite(interval: Iterable[float]) -> list[float] | None:
    """An interval for JSON, which has no infinity: None where nothing is known."""
    ends = list(interval)
    return ends if all(map(math.isfinite, ends)) else None
