"""Races whose truth is known: made-up scores go through the real schedule, looks and verdicts.

    python tests/compare/simulation.py --comparisons 10000

prints how often races are wrong and how much they find, for docs/statistics.md.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from normwise.compare.race import History, Race
from normwise.compare.trial import Outcome
from normwise.compare.verdict import judge

SEEDS = 12


@dataclass(frozen=True)
class Truth:
    """How scores come about: gain + what the seed does to everyone + noise of the trial's own.

    candidates  how many, the baseline (number 0) among them
    gain        of candidate 1 over all others, in standard deviations of a score over seeds
    share       of a score's variance that the seed does to everyone
    noise       factors of the own noise, by candidate
    tails       degrees of freedom of a t distribution of variance 1; None: normal
    step        scores are rounded to multiples of it
    """

    candidates: int = 8
    gain: float = 0.0
    share: float = 0.5
    noise: tuple[tuple[int, float], ...] = ()
    tails: int | None = None
    step: float | None = None

    def draw(self, generator, comparisons):
        """Scores, comparisons × candidates × seeds."""
        factors = np.ones((self.candidates, 1))
        for candidate, factor in self.noise:
            factors[candidate] = factor
        common = self._noise(generator, (comparisons, 1, SEEDS))
        own = self._noise(generator, (comparisons, self.candidates, SEEDS))
        scores = self.share**0.5 * common + (1 - self.share) ** 0.5 * factors * own
        scores[:, 1] += self.gain
        return np.round(scores / self.step) * self.step if self.step else scores

    def _noise(self, generator, shape):
        if self.tails is None:
            return generator.normal(size=shape)
        return generator.standard_t(self.tails, shape) * ((self.tails - 2) / self.tails) ** 0.5


@dataclass(frozen=True)
class Rates:
    """Shares of all comparisons, but for `trials`: of the full grid's trials."""

    better: float  # candidate 1 is called better
    false_better: float  # some other candidate is
    any_better: float
    any_worse: float
    dropped: float  # candidate 1 is dropped
    trials: float


def race(scores, curves=None):
    """One race over scores candidates × seeds, and their curves if floors are to stop them.

    Returns its history.
    """
    names = [str(n) for n in range(len(scores))]
    schedule = Race(History(names, "0", True, seeds=scores.shape[1]), keep_weights=0)
    while (trial := schedule.next()) is not None:
        place = int(trial.candidate), trial.seed
        curve = curves[place].tolist() if curves is not None else [float(scores[place])]
        schedule.add(_trained(trial, curve))
    return schedule.history


def _trained(trial, curve):
    """How a trial with this curve ends, epochs counted from 1."""
    entries = []
    for epoch, score in enumerate(curve, 1):
        entries.append({"epoch": epoch, "score": score})
        if score < trial.floors.get(epoch, -math.inf):
            why = f"stopped in epoch {epoch}"
            return Outcome(trial.candidate, trial.seed, None, why, entries, kind="stopped")
    return Outcome(trial.candidate, trial.seed, curve[-1], None, entries)


def verdicts(history, equivalent_within=None):
    """The words of a race that has ended, as results.json gives them."""
    scores = {
        name: {o.seed: o.score for o in own if o.score is not None}
        for name, own in history.counted.items()
    }
    options = {"equivalent_within": equivalent_within, "outlook": False}
    found = judge(scores, "0", True, seeds=history.most, **options)
    return {name: verdict.word for name, verdict in found.items()}


def simulate(truth, comparisons, seed=0):
    """How races do under a truth."""
    counts = np.zeros(6)
    for scores in truth.draw(np.random.default_rng(seed), comparisons):
        history = race(scores)
        found = verdicts(history)["1"] == "better"
        words = verdicts(history, equivalent_within=0.0)  # equivalence would hide false words
        others = [word for name, word in words.items() if name != "1"]
        counts += (
            found,
            "better" in others,
            "better" in words.values(),
            "worse" in words.values(),
            "1" in history.dropped,
            history.trials / scores.size,
        )
    return Rates(*(counts / comparisons).tolist())


TRUTHS = {
    "as stated: half of the variance is the seed's": Truth(),
    "9 candidates": Truth(candidates=9),
    "share of the seed 0": Truth(share=0.0),
    "share of the seed 0.25": Truth(share=0.25),
    "share of the seed 0.75": Truth(share=0.75),
    "a candidate 3 times as noisy": Truth(noise=((3, 3.0),)),
    "the better one 3 times as noisy": Truth(noise=((1, 3.0),)),
    "the baseline 3 times as noisy": Truth(noise=((0, 3.0),)),
    "heavy tails (t with 3 degrees of freedom)": Truth(tails=3),
    "scores in steps of half a standard deviation": Truth(step=0.5),
    "scores in steps of a standard deviation": Truth(step=1.0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=10_000)
    parser.add_argument("--only", default="", help="truths whose name has this in it")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {}
    for name, truth in TRUTHS.items():
        if options.only not in name:
            continue
        equal = simulate(truth, options.comparisons, seed=1)
        better = simulate(replace(truth, gain=1.0), options.comparisons, seed=2)
        found[name] = {"no difference": asdict(equal), "one is better": asdict(better)}
        print(
            f"{name}\n  no difference: better {equal.any_better:.2%}, worse "
            f"{equal.any_worse:.2%}, trials {equal.trials:.1%}\n  one is better: found "
            f"{better.better:.2%}, dropped {better.dropped:.2%}, another called better "
            f"{better.false_better:.2%}, trials {better.trials:.1%}",
            flush=True,
        )
    if options.out:
        text = json.dumps({"comparisons": options.comparisons, "rates": found}, indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
