"""The figures of a comparison, gathered from its ledger: what results.json holds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from normwise.compare.ledger import Cost, Ledger
from normwise.compare.recommendation import recommend
from normwise.compare.trial import AS_IS, Outcome
from normwise.compare.verdict import Verdict, judge, mean_interval, practical_margin
from normwise.errors import NormError


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
    outcomes: dict[str, list[Outcome]] = {name: [] for name in asked["candidates"]}
    for outcome in sorted(ledger.outcomes(), key=lambda o: o.seed):
        if outcome.candidate in outcomes and outcome.seed in asked["seeds"]:
            outcomes[outcome.candidate].append(outcome)
    scores = {
        name: {o.seed: o.score for o in mine if o.score is not None}
        for name, mine in outcomes.items()
    }
    costs = {name: ledger.costs().get(name, Cost()) for name in outcomes}
    margin, higher = asked["equivalent_within"], asked["metric"]["higher_is_better"]
    verdicts = judge(scores, AS_IS, higher, equivalent_within=margin)
    recommendation = recommend(
        verdicts,
        scores,
        AS_IS,
        higher,
        {name: cost.inference_us_per_sample for name, cost in costs.items()},
        equivalent_within=margin,
    )
    return {
        **{key: asked[key] for key in ("normwise", "torch", "machine", "task")},
        "baseline": AS_IS,
        **{key: asked[key] for key in ("seeds", "metric", "command", "finished")},
        "equivalent_within": practical_margin(scores) if margin is None else margin,
        "candidates": [
            {
                "name": name,
                **_scored(mine),
                **_judged(verdicts.get(name), bool(scores[name])),
                **asdict(costs[name]),
                "changes": asked["changes"][name],
            }
            for name, mine in outcomes.items()
        ],
        "recommendation": asdict(recommendation),
    }


def _scored(mine: Sequence[Outcome]) -> dict[str, Any]:
    """What one candidate's trials came to."""
    scores = {o.seed: o.score for o in mine if o.score is not None}
    values = list(scores.values())
    return {
        "scores": {str(seed): score for seed, score in scores.items()},
        "mean": math.fsum(values) / len(values) if values else None,
        "interval": _finite(mean_interval(values)),
        "failed": [{"seed": o.seed, "reason": o.reason} for o in mine if o.score is None],
        "curves": {str(o.seed): o.curve for o in mine},
        "seconds": sum(o.seconds for o in mine),
    }


def _judged(verdict: Verdict | None, ran: bool) -> dict[str, Any]:
    """How a candidate compares with the baseline, which has no verdict."""
    if verdict is None:
        return {"verdict": "baseline" if ran else "failed", "more_seeds": None}
    return {
        "difference": {
            "mean": verdict.mean if verdict.pairs else None,
            "interval": _finite(verdict.interval),
            "p_adjusted": verdict.p_adjusted,
        },
        "verdict": verdict.word if ran else "failed",
        "more_seeds": verdict.more_seeds,
    }


def _finite(interval: Iterable[float]) -> list[float] | None:
    """An interval for JSON, which has no infinity: None where nothing is known."""
    ends = list(interval)
    return ends if all(map(math.isfinite, ends)) else None
