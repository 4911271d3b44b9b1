"""Races: who is dropped and why, and that nothing but the trials' scores decides."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import Truth, simulate

from normwise.compare.boundaries import (
    DROPPED,
    chance_of_crossing,
    hopeless,
    last_look,
    looks,
    single_look,
)
from normwise.compare.race import History, Race, history
from normwise.compare.trial import Outcome

NAMES = ("0", "1", "2", "3")


def play(scores, *, workers=1, shuffled=None, higher_is_better=True, known=(), **options):
    """A race over scores[candidate][seed], None for a trial that fails; its history and trials."""
    names = options.pop("names", list(scores))
    seeds = options.pop("seeds", len(next(iter(scores.values()))))
    margin = options.pop("equivalent_within", None)
    schedule = Race(
        history(known, names, "0", higher_is_better, seeds=seeds, equivalent_within=margin),
        keep_weights=0,
        **options,
    )
    running, order = [], []
    while True:
        while len(running) < workers and (trial := schedule.next()) is not None:
            running.append(trial)
            order.append(trial)
        if not running:
            return schedule, order
        index = shuffled.randrange(len(running)) if shuffled else 0
        trial = running.pop(index)
        score = scores[trial.candidate][trial.seed]
        reason, kind = (None, "finished") if score is not None else ("it raised", "failed")
        schedule.add(Outcome(trial.candidate, trial.seed, score, reason, kind=kind))


def decisions(schedule):
    found = schedule.history
    return (found.looks, found.dropped, found.live, found.seeds, found.counted, schedule.ended)


def drawn(seed, gains=(0, 0, 0, 0), seeds=12):
    generator = np.random.default_rng(seed)
    common = generator.normal(size=seeds)
    rows = generator.normal(size=(len(gains), seeds)) + common + np.array(gains)[:, None]
    return {str(n): row.tolist() for n, row in enumerate(rows)}


scores = st.builds(drawn, st.integers(0, 10_000), st.tuples(*[st.sampled_from([0, 1, -3, 4])] * 4))


@given(scores, st.integers(2, 7), st.randoms(use_true_random=False))
def test_decisions_are_the_same_for_any_number_of_workers(scores, workers, shuffled):
    alone, _ = play(scores)
    together, _ = play(scores, workers=workers, shuffled=shuffled)
    assert decisions(together) == decisions(alone)


@given(scores, st.integers(0, 40), st.randoms(use_true_random=False))
def test_a_race_that_goes_on_decides_as_one_that_was_never_stopped(scores, stop, shuffled):
    whole, order = play(scores)
    known = [Outcome(t.candidate, t.seed, scores[t.candidate][t.seed], None) for t in order[:stop]]
    shuffled.shuffle(known)
    again, rest = play(scores, known=known)
    assert decisions(again) == decisions(whole)
    assert len(rest) == max(0, len(order) - stop)


@given(scores, st.permutations(NAMES))
def test_the_order_of_candidates_does_not_matter(scores, names):
    first, _ = play(scores)
    other, _ = play(scores, names=names)
    assert other.history.dropped.keys() == first.history.dropped.keys()
    assert other.history.seeds == first.history.seeds
    assert {n: len(own) for n, own in other.history.counted.items()} == {
        n: len(own) for n, own in first.history.counted.items()
    }


@given(scores, st.sampled_from([0.25, 1.0, 64.0]), st.sampled_from([-8.0, 0.0, 1024.0]))
def test_scale_shift_and_direction_of_the_metric_do_not_matter(scores, scale, shift):
    moved = {n: [-(scale * s + shift) for s in own] for n, own in scores.items()}
    first, _ = play(scores)
    other, _ = play(moved, higher_is_better=False)
    assert other.history.dropped == first.history.dropped
    assert other.history.ended == first.history.ended
    assert other.history.trials == first.history.trials


def steady(value, seeds=12):
    """Scores about a value, with the same small wiggle for everyone but for its phase."""
    return [value + 0.01 * math.sin(7 * value + 2.4 * seed) for seed in range(seeds)]


REASONS = {
    "far behind": (steady(-1.0), "12 seeds would hardly show it to be better"),
    "fails": ([None] * 12, "2 of its 2 trials failed"),
    "fails later": ([0.5, None, None] + [0.5] * 9, "2 of its 3 trials failed"),
}


@pytest.mark.parametrize(("own", "why"), REASONS.values(), ids=REASONS)
def test_why_a_candidate_is_dropped(own, why):
    found = play({"0": steady(0.5), "1": steady(0.52), "2": own, "3": steady(0.51)})[0].history
    assert found.dropped["2"][1] == why


def test_who_cannot_catch_up_with_the_best_is_dropped_though_better():
    scores = {"0": steady(0.0), "1": steady(2.0), "2": steady(1.0)}
    schedule, order = play(scores)
    assert schedule.history.dropped.keys() == {"2"}
    assert "1'" in schedule.history.dropped["2"][1]
    assert schedule.ended == "a verdict is in about every candidate that was not dropped"
    assert len(order) < 20


def test_a_stopped_trial_drops_its_candidate():
    race = History(["0", "1"], "0", True, seeds=5)
    for name in "01":
        race.add(Outcome(name, 0, 0.5, None))
    race.add(Outcome("0", 1, 0.6, None))
    race.add(Outcome("1", 1, None, "stopped in epoch 2", kind="stopped"))
    assert race.dropped == {"1": (2, "its learning curve fell too far behind with seed 1")}


def test_nothing_is_compared_with_a_baseline_that_fails():
    schedule, order = play({"0": [None] * 12, "1": steady(1.0)})
    assert schedule.ended == "nothing can be compared with '0': 2 of its 2 trials failed"
    assert len(order) == 4


def test_candidates_that_are_the_same_end_as_equivalent():
    same = {name: [0.1 * score for score in own] for name, own in drawn(0, (0, 1, 1)).items()}
    found = play(same, equivalent_within=2.0)[0].history
    assert not found.dropped
    assert all(one.state == "decided" for one in found.looks[-1].standings)
    assert found.seeds < 12


def test_a_seed_that_does_not_fit_into_the_budget_is_not_begun():
    schedule, order = play(drawn(0), max_trials=10, workers=3)
    assert len(order) == 8
    assert schedule.ended == "another seed would take more than 10 trials"


def test_no_trial_is_begun_after_the_time_is_up():
    now = iter(range(100))
    schedule, order = play(drawn(0), budget_s=6, clock=lambda: next(now))
    assert schedule.ended == "the budget of 6 s was spent"
    assert 0 < len(order) < 7


def test_one_seed_is_a_race_without_a_look():
    schedule, order = play(drawn(0, seeds=1))
    assert (len(order), schedule.history.looks, schedule.ended) == (4, [], "all 1 seeds are in")


@pytest.mark.parametrize("seeds", [1, 2, 3, 12, 20, 21, 100, 1000])
def test_looks_end_with_the_last_seed_and_are_not_too_many(seeds):
    found = looks(seeds)
    assert sorted(set(found)) == list(found)
    assert found[-1:] == ((seeds,) if seeds > 1 else ())
    assert len(found) <= min(seeds, 120)


def test_single_look_is_dunnetts():
    # Dunnett 1955, table 1a (one side, 5 %), the last row: infinitely many degrees of freedom.
    table = {1: 1.64, 2: 1.92, 3: 2.06, 4: 2.16, 5: 2.23, 6: 2.29, 7: 2.34, 8: 2.38, 9: 2.42}
    assert {m: round(single_look(m, 0.05), 2) for m in table} == table


def test_chance_of_crossing_is_that_of_walks():
    counts, bounds = np.array([2, 3, 5, 8]), np.array([2.0, 1.9, 1.7, 1.5])
    steps = np.random.default_rng(0).normal(size=(200_000, 8))
    walks = np.cumsum(steps, axis=1)[:, counts - 1] / np.sqrt(counts)
    seen = (walks > bounds).any(axis=1).mean()
    assert chance_of_crossing(counts, bounds) == pytest.approx(seen, abs=4 * 0.35 / 200_000**0.5)


@pytest.mark.parametrize("seeds", [3, 12, 50])
def test_a_candidate_the_seeds_can_show_is_rarely_hopeless(seeds):
    floors = hopeless(7, 0.05, seeds)
    effect = (last_look(7, 0.05, seeds) + 0.8416) / math.sqrt(seeds)
    counts = np.array(list(floors))
    drift = np.sqrt(counts) * effect
    # Below a floor is above its negative for the walk's mirror image.
    dropped = chance_of_crossing(counts, drift - np.array(list(floors.values())))
    assert dropped == pytest.approx(DROPPED, abs=1e-5)


def upper(share, comparisons):
    """What a share of `comparisons` is at most, in all but one of a thousand such tests."""
    return share + 3.1 * (share * (1 - share) / comparisons) ** 0.5


@pytest.mark.parametrize("comparisons", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_error_rates_and_power(comparisons):
    """The stated rates, of the real schedule, looks and verdicts, for 8 candidates, 12 seeds."""
    equal = simulate(Truth(), comparisons, seed=1)
    assert equal.any_better <= upper(0.05, comparisons)
    assert equal.any_worse <= upper(0.05, comparisons)
    assert equal.trials <= 0.6
    better = simulate(Truth(gain=1.0), comparisons, seed=2)
    assert 1 - better.better <= upper(0.2, comparisons)
    assert better.dropped <= upper(0.05, comparisons)
    assert better.false_better <= upper(0.05, comparisons)
    assert better.trials <= 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    "truth",
    [
        Truth(share=0.0),
        Truth(share=0.75),
        Truth(noise=((3, 3.0),)),
        Truth(noise=((0, 3.0),)),
        Truth(tails=3),
        Truth(step=0.5),
    ],
    ids=str,
)
def test_false_words_stay_rare_whatever_the_noise_is_like(truth):
    found = simulate(replace(truth, gain=0.0), 4000, seed=3)
    assert found.any_better <= upper(0.05, 4000)
    assert found.any_worse <= upper(0.05, 4000)
