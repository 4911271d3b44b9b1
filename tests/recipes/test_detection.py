"""What the measures of detection say of cases worked by hand, and where there is nothing."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from normwise.recipes.series.detection import affiliation, measured, range_based, stretches


def rows(length, *parts):
    """A row of bools, True in each part from its first up to the one after its last."""
    found = np.zeros(length, dtype=bool)
    for start, end in parts:
        found[start:end] = True
    return found


def test_stretches_go_up_to_the_row_after():
    assert stretches(rows(9, (0, 2), (4, 5), (7, 9))) == [(0, 2), (4, 5), (7, 9)]
    assert stretches(rows(3)) == []


@pytest.mark.parametrize(
    ("labelled", "flagged", "precision", "recall"),
    [
        ([(2, 6)], [(2, 6)], 1.0, 1.0),
        ([(2, 6)], [(3, 4), (5, 6)], 1.0, 0.5 / 2),  # half of it, in two pieces
        ([(1, 3), (5, 9)], [(2, 7)], 3 / 5 / 2, (1 / 2 + 2 / 4) / 2),  # one over two
        ([(0, 8), (9, 10)], [(9, 10)], 1.0, 0.5),  # the short one counts as much
        ([(2, 6)], [(7, 9)], 0.0, 0.0),
        ([(2, 6)], [], 0.0, 0.0),
    ],
)
def test_range_based_precision_and_recall(labelled, flagged, precision, recall):
    found = range_based(rows(10, *labelled), rows(10, *flagged))
    assert found == pytest.approx((precision, recall))


@pytest.mark.parametrize(
    ("labelled", "flagged", "precision", "recall"),
    [
        ([(4, 6)], [(4, 6)], 1.0, 1.0),
        # Beside the label, a moment at distance d is worth 2 (4 - d) / 10: 1.6 on each side.
        ([(4, 6)], [(0, 10)], (2 + 1.6 + 1.6) / 10, 1.0),
        # At distance 8 to 9: (9 - d) / 10. From the label, only what lies before row 1 is as far.
        ([(9, 10)], [(0, 1)], 0.05, 0.1),
        ([(4, 6)], [], 0.0, 0.0),
        # Of two zones one has nothing flagged: no precision there, and no recall.
        ([(0, 1), (9, 10)], [(0, 1)], 1.0, 0.5),
    ],
)
def test_affiliation(labelled, flagged, precision, recall):
    found = affiliation(rows(10, *labelled), rows(10, *flagged))
    assert found == pytest.approx((precision, recall))


def test_affiliation_as_its_authors_compute_it():
    labelled, flagged = rows(20, (5, 8), (14, 16)), rows(20, (6, 7), (9, 11), (12, 13))
    precision, recall = (19 / 33 + 4 / 9) / 2, (31 / 33 + 5 / 9) / 2
    assert affiliation(labelled, flagged) == pytest.approx((precision, recall))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40), st.data())
def test_measures_are_shares_and_know_the_perfect(pairs, data):
    labelled, flagged = np.array(pairs).T
    assume(labelled.any() and not labelled.all())
    score = data.draw(st.lists(st.integers(0, 5), min_size=len(pairs), max_size=len(pairs)))
    found = measured(labelled, np.array(score, dtype=float), flagged)
    assert all(0 <= value <= 1 + 1e-12 for value in found.values())
    expected = precision_recall_fscore_support(labelled, flagged, average="binary", zero_division=0)
    assert [found[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    perfect = measured(labelled, labelled.astype(float), labelled)
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0))
    swapped = range_based(flagged, labelled)
    assert swapped[::-1] == range_based(labelled, flagged)


def test_one_row_of_a_long_stretch_is_not_all_of_it():
    """Point adjustment would say recall 1 of these."""
    labelled, flagged = rows(1000, (200, 700)), rows(1000, (300, 301))
    found = measured(labelled, flagged.astype(float), flagged)
    assert found["recall"] == found["range_recall"] == 0.002
