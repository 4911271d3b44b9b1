"""Results of comparisons that nobody ran, as they are written to results.json."""

import math


def a_candidate(name, verdict, shift, seeds=3, **fields):
    """One that learns for four epochs to 0.9 + shift, a little different with each seed."""
    scores = {str(seed): 0.9 + shift + 0.004 * seed for seed in range(seeds)}
    mean = sum(scores.values()) / seeds
    candidate = {
        "name": name,
        "scores": scores,
        "mean": mean,
        "interval": [mean - 0.01, mean + 0.01],
        "verdict": verdict,
        "more_seeds": 7 if verdict == "undecided" else None,
        "train_s_per_step": 0.004 + shift / 10,
        "inference_us_per_sample": 50.0 + 100 * shift,
        "peak_memory_mb": 120.5,
        "parameters": 12345,
        "probability_best": 0.25,
        "effect": 100 * shift,
        "dropped": None,
        "stopped": [],
        "failed": [],
        "changes": [f"blocks.0.norm: BatchNorm1d(64) → {name}"],
        "curves": {
            seed: [
                {"epoch": e, "loss": 2.0 / e**3, "score": score * (1 - 0.5**e)}
                for e in (1, 2, 3, 4)
            ]
            for seed, score in scores.items()
        },
    }
    if verdict != "baseline":
        span = [shift - 0.003, shift + 0.003]
        candidate["difference"] = {"mean": shift, "interval": span, "p_adjusted": 0.0321}
    return {**candidate, **fields}


def a_failure(name):
    reasons = [{"seed": seed, "reason": f"diverged in epoch {seed}"} for seed in range(3)]
    gaps = dict.fromkeys(("mean", "interval", "train_s_per_step", "inference_us_per_sample"))
    curves = {"0": [{"epoch": 1, "loss": math.nan, "score": 0.1}], "1": []}
    candidate = a_candidate(name, "failed", 0.0, failed=reasons, **gaps)
    del candidate["difference"]
    return {**candidate, "scores": {}, "curves": curves}


def the_results(*candidates, **fields):
    candidates = candidates or (
        a_candidate("as-is", "baseline", 0.0, changes=[]),
        a_candidate("batch", "better", 0.02),
        a_candidate("group:8", "equivalent", 0.001),
        a_candidate("rms", "undecided", 0.004),
        a_candidate("none", "worse", -0.5),
        a_failure("renorm"),
    )
    return {
        "normwise": "0.1.0",
        "torch": "2.13.0",
        "machine": {"processor": "a processor", "cores": 2, "device": "cpu"},
        "task": {"name": "japanese-vowels", "settings": {"epochs": "20", "batch_size": "8"}},
        "baseline": "as-is",
        "seeds": [0, 1, 2],
        "metric": {"name": "accuracy", "higher_is_better": True},
        "equivalent_within": 0.003,
        "confidence": 0.95,
        "errors": {"false_better": 0.05, "best_dropped": 0.05},
        "race": None,
        "command": "normwise compare japanese-vowels --seeds 3",
        "finished": "2026-11-22 03:10 UTC",
        "candidates": list(candidates),
        "recommendation": {"candidate": "batch", "verdict": "better", "why": "It learns more."},
        **fields,
    }


def a_race():
    """Results of a race of up to 6 seeds, with a trial that was stopped and one that failed."""
    lost = {"after": 3, "why": "its interval lies below that of batch"}
    candidates = (
        a_candidate("as-is", "baseline", 0.0, seeds=6, changes=[]),
        a_candidate("batch", "better", 0.02, seeds=6),
        a_candidate("rms", "undecided", 0.004, seeds=6),
        a_candidate("group:8", "equivalent", 0.001, seeds=5),
        a_candidate(
            "none",
            "worse",
            -0.05,
            dropped=lost,
            stopped=[{"seed": 3, "epoch": 2}],
            failed=[{"seed": 4, "reason": "worker lost 3 times"}],
        ),
    )
    looks = []
    for seeds in range(2, 7):
        entries = []
        for c in candidates[1:]:
            trained, mean = len(c["scores"]), c["difference"]["mean"]
            if seeds <= trained:
                last = "in" if c["verdict"] == "undecided" else "decided"
                state = "in" if seeds < trained else "dropped" if c["dropped"] else last
                why = c["dropped"]["why"] if state == "dropped" else ""
                low, high = (mean + side * 0.1 / seeds**2 for side in (-1, 1))
                span = {"mean_difference": mean, "low": low, "high": high}
                entries.append({"name": c["name"], **span, "state": state, "why": why})
        looks.append({"seeds": seeds, "candidates": entries})
    race = {"looks": looks, "ended": "all seeds were used", "trials": 27, "grid": 30}
    return the_results(*candidates, seeds=list(range(6)), race=race)
