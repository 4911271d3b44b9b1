"""Floors under learning curves: by hand, and in races whose truth is known."""

import math

import pytest
from curves import TRUTHS, Curves, simulate
from test_race import upper

from normwise.compare.floors import floors
from normwise.compare.trial import Outcome


def trial(candidate, *scores, seed=0):
    """A trial that has ended, with its score after each epoch."""
    curve = [{"epoch": epoch, "score": score} for epoch, score in enumerate(scores, 1)]
    return Outcome(candidate, seed, scores[-1], None, curve)


EARLIER = [trial("a", 1.0, 9.0), trial("b", 2.0, 10.0), trial("c", 2.0, 10.0), trial("d", 1, 11)]


def test_a_floor_is_what_was_scored_less_spread_and_gain():
    # Final scores 9, 10, 10, 11: median 10, and every distance from it is 0, 0, 1 or 1, so
    # the spread is 1.4826 * 0.5. Gains 8, 8, 8, 10: the largest and as much more is 12.
    expected = 10 - 6 * 1.4826 * 0.5 - 12
    assert floors(EARLIER, "e", True) == {1: pytest.approx(expected)}


def test_where_less_is_better_floors_are_above():
    turned = [trial(o.candidate, *(-entry["score"] for entry in o.curve)) for o in EARLIER]
    assert floors(turned, "e", False)[1] == -floors(EARLIER, "e", True)[1]


NONE = {
    "too few trials": (EARLIER[:3], "e"),
    "failed trials do not count": ([*EARLIER[:3], Outcome("d", 0, None, "it raised")], "e"),
    "no curves": ([Outcome(name, 0, float(n), None) for n, name in enumerate("abcd")], "e"),
    "no spread": ([trial(name, 1.0, 2.0) for name in "abcd"], "e"),
    "one epoch": ([trial(name, float(n)) for n, name in enumerate("abcd")], "e"),
    "epochs that are not shared": (
        [*EARLIER[:3], Outcome("d", 0, 9.0, None, [{"epoch": 2, "score": 9.0}])],
        "e",
    ),
    "who has done well": (EARLIER, "d"),
    "who has done as well as most": (EARLIER, "b"),
}


@pytest.mark.parametrize(("earlier", "candidate"), NONE.values(), ids=NONE)
def test_no_floor(earlier, candidate):
    assert floors(earlier, candidate, True) == {}


def test_who_is_behind_has_a_floor_and_a_slow_start_lowers_it():
    slow = [*EARLIER, trial("e", -50.0, 9.0)]
    assert floors(slow, "e", True)[1] < floors(EARLIER, "a", True)[1] - 50
    assert math.isfinite(floors(slow, "e", True)[1])


@pytest.mark.parametrize("name", ["all rise alike", "the best always blooms late"])
@pytest.mark.parametrize("comparisons", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_best_is_rarely_stopped_or_dropped(name, comparisons):
    found = simulate(TRUTHS[name], comparisons, seed=4)
    assert found.dropped <= upper(0.05, comparisons)
    assert found.stopped <= found.dropped


def test_who_gets_nowhere_is_stopped():
    found = simulate(Curves(lost=0.5, rise=60.0), 20, seed=4)
    assert found.any_stopped > 0
    assert found.stopped == 0
