"""Ranks over tasks, beside SciPy's tests and a published example."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from normwise.compare.ranks import chance_of_range, rank, sensitivity
from normwise.errors import NormError

# Demšar 2006, table 6: areas under the curve of four kinds of C4.5 on 14 sets. He prints 0.975
# twice in the last row but one, and ranks it 2 and 3.
KINDS = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
AREAS = """
0.763 0.768 0.771 0.798
0.599 0.591 0.590 0.569
0.954 0.971 0.968 0.967
0.628 0.661 0.654 0.657
0.882 0.888 0.886 0.898
0.936 0.931 0.916 0.931
0.661 0.668 0.609 0.685
0.583 0.583 0.563 0.625
0.775 0.838 0.866 0.875
1.000 1.000 1.000 1.000
0.940 0.962 0.965 0.962
0.619 0.666 0.614 0.669
0.972 0.981 0.9751 0.975
0.957 0.978 0.946 0.970
"""
PUBLISHED = {
    str(row): dict(zip(KINDS, map(float, line.split()), strict=True))
    for row, line in enumerate(AREAS.strip().splitlines())
}


def test_the_published_example():
    found = rank(PUBLISHED, True)
    assert {name: round(value, 3) for name, value in found.mean_ranks.items()} == {
        "C4.5+m+cf": 1.964,
        "C4.5+m": 2.0,
        "C4.5+cf": 2.893,
        "C4.5": 3.143,
    }
    # He compares with 2.569 * sqrt(4 * 5 / (6 * 14)) = 1.25, and finds none of the pairs apart.
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    assert found.cliques == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)
    assert found.p < 0.05


def tables(least=2):
    sizes = st.tuples(st.integers(least, 7), st.integers(3, 6))
    scores = st.integers(-5, 5).map(lambda k: k / 4)  # with ties
    return sizes.flatmap(
        lambda size: st.lists(
            st.lists(scores, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
        )
    )


def named(table):
    return {str(i): {str(j): s for j, s in enumerate(row)} for i, row in enumerate(table)}


@settings(max_examples=40)
@given(tables())
def test_ranks_and_p_are_those_of_friedman_in_scipy(table):
    found = rank(named(table), False)
    ranks = stats.rankdata(table, axis=1)
    assert found.mean_ranks == pytest.approx(
        {str(j): value for j, value in enumerate(ranks.mean(0))}
    )
    if (ranks == ranks[:, :1]).all():
        assert found.p == 1.0
        return
    chi = stats.friedmanchisquare(*np.transpose(table)).statistic
    tasks, count = ranks.shape
    rest = tasks * (count - 1) - chi
    least = math.factorial(count) ** (1 - tasks)
    if rest < 1e-9:
        assert found.p == pytest.approx(least)
    else:
        f = (tasks - 1) * chi / rest
        p = stats.f.sf(f, count - 1, (count - 1) * (tasks - 1))
        assert found.p == pytest.approx(max(p, least), abs=1e-9)


@settings(max_examples=40)
@given(tables())
def test_what_the_critical_difference_tells_apart_is_what_p_does(table):
    found = rank(named(table), True)
    together = {pair for clique in found.cliques for pair in pairs(clique)}
    assert [*found.pairwise] == pairs(tuple(found.mean_ranks))
    for (better, worse), p in found.pairwise.items():
        apart = found.mean_ranks[worse] - found.mean_ranks[better]
        if abs(apart - found.critical_difference) > 1e-6:
            assert (apart > found.critical_difference) == (p < 0.05)
            assert ((better, worse) in together) == (p >= 0.05)


def pairs(names):
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]


@settings(max_examples=40)
@given(tables(), st.floats(0.5, 8), st.floats(-4, 4))
def test_scale_and_direction_of_the_metric_do_not_matter(table, scale, shift):
    moved = [[-(scale * s + shift) for s in row] for row in table]
    assert rank(named(moved), True) == rank(named(table), False)


@pytest.mark.parametrize("count", [2, 5, 10])
@pytest.mark.parametrize("width", [0.5, 2.0, 4.0])
def test_range_is_scipys_studentized_range(count, width):
    expected = stats.studentized_range.sf(width, count, np.inf)
    assert chance_of_range(width, count) == pytest.approx(expected, abs=1e-7)


def test_sensitivity_is_the_mean_distance_from_the_own_best():
    scores = {
        "0.1": {"rms": 0.5, "batch": 0.9, "none": 0.2},
        "0.01": {"rms": 0.8, "batch": 0.9},
        "0.001": {"rms": 0.5, "batch": 0.9, "none": 0.5},
    }
    assert sensitivity(scores, True) == pytest.approx({"rms": 0.2, "batch": 0.0})
    assert sensitivity(scores, False) == pytest.approx({"rms": 0.1, "batch": 0.0})


REFUSED = {
    "one task": ({"a": {"x": 1.0, "y": 2.0}}, "received 1 and 2"),
    "no task": ({}, "received 0 and 0"),
    "nothing shared": ({"a": {"x": 1.0}, "b": {"y": 2.0}}, "received 2 and 0"),
    "nan": ({"a": {"x": 1.0, "y": math.nan}, "b": {"x": 1.0, "y": 2.0}}, "must be finite"),
}


@pytest.mark.parametrize(("scores", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_ranked_is_refused(scores, message):
    with pytest.raises(NormError, match=message):
        rank(scores, True)
