"""Races of trials with learning curves: how often a floor stops the best, and what floors save.

    python tests/compare/curves.py --comparisons 4000

A curve rises to its final score; the scores are those of simulation.py.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from simulation import Truth, race, verdicts

EPOCHS = 20


@dataclass(frozen=True)
class Curves:
    """How trials reach their scores: final - rise * what is left of it + noise of the epoch.

    gain   of candidate 1 over all others, in standard deviations of a score over seeds
    rise   from the first epoch to the last, in the same unit; a trial's own by a fifth
    late   how often candidate 1 blooms late: it starts behind by half a rise more, and three
           quarters of what it gains are gained in the last third
    noise  of an epoch's score about the curve
    lost   how often a trial of candidate 3 gets nowhere: it ends a rise behind where it would
    """

    gain: float = 1.0
    rise: float = 10.0
    late: float = 0.0
    noise: float = 0.5
    lost: float = 0.0

    def draw(self, generator, comparisons):
        """Curves, comparisons × candidates × seeds × epochs; the last epoch's are the scores."""
        scores = Truth(gain=self.gain).draw(generator, comparisons)
        each = scores.shape
        done = np.arange(1, EPOCHS + 1) / EPOCHS
        usual = (np.exp(-5 * done) - np.exp(-5)) / (1 - np.exp(-5))
        bloom = np.where(done < 2 / 3, 1 - 0.375 * done, 2.25 * (1 - done))
        rises = self.rise * np.exp(0.2 * generator.normal(size=each))[..., None]
        curves = -rises * usual
        late = generator.random(size=each) < self.late
        late[:, np.arange(each[1]) != 1] = False
        curves = np.where(late[..., None], -1.5 * rises * bloom, curves)
        curves[..., :-1] += self.noise * generator.normal(size=(*each, EPOCHS - 1))
        lost = generator.random(size=each) < self.lost
        lost[:, np.arange(each[1]) != 3] = False
        # What is lost never rose: its curve stays where it began.
        curves = np.where(lost[..., None], np.minimum(curves, -rises), curves)
        return curves + scores[..., None]


@dataclass(frozen=True)
class Found:
    """Shares of all comparisons, but for `saved`: of the epochs the same races take without."""

    stopped: float  # candidate 1 is stopped by a floor
    dropped: float  # candidate 1 is dropped, stopped or not
    better: float  # candidate 1 is called better
    any_stopped: float
    saved: float


def simulate(truth, comparisons, seed=0):
    """How floors do under a truth."""
    counts, epochs, without = np.zeros(4), 0, 0
    for curves in truth.draw(np.random.default_rng(seed), comparisons):
        found = race(curves[..., -1], curves)
        stopped = {n for n, own in found.counted.items() if own and own[-1].kind == "stopped"}
        counts += (
            "1" in stopped,
            "1" in found.dropped,
            verdicts(found)["1"] == "better",
            bool(stopped),
        )
        epochs += sum(len(o.curve) for own in found.counted.values() for o in own)
        without += EPOCHS * race(curves[..., -1]).trials
    return Found(*(counts / comparisons).tolist(), 1 - epochs / without)


TRUTHS = {
    "all rise alike": Curves(),
    "all rise alike, three times as far": Curves(rise=30.0),
    "the best always blooms late": Curves(late=1.0),
    "the best blooms late every other time": Curves(late=0.5),
    "the best blooms late one time in six, and far": Curves(late=1 / 6, rise=30.0),
    "another gets nowhere one time in six": Curves(lost=1 / 6, rise=30.0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=4000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rates = {}
    for name, truth in TRUTHS.items():
        found = simulate(truth, options.comparisons, seed=4)
        rates[name] = asdict(found)
        print(f"{name}: " + ", ".join(f"{k} {v:.2%}" for k, v in rates[name].items()), flush=True)
    if options.out:
        text = json.dumps({"comparisons": options.comparisons, "rates": rates}, indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
