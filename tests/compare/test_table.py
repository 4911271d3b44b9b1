"""The table: 80 columns, whatever the names and numbers; the best first."""

import pytest
from made_results import a_candidate, a_failure, a_race, the_results

from normwise.compare.ranks import levels
from normwise.compare.report.reading import read_results
from normwise.compare.report.table import render_table

LONG = "batch:momentum=0.0125,eps=0.001,affine=False"


def columns(text):
    return max(map(len, text.splitlines()))


def first_words(text):
    return [line.split()[0] for line in text.splitlines()[1:7]]


def test_the_best_comes_first():
    text = render_table(the_results())
    assert first_words(text) == ["batch", "rms", "group:8", "as-is", "none", "renorm"]
    lower = the_results(metric={"name": "mse", "higher_is_better": False})
    assert first_words(render_table(lower)) == [
        "none",
        "as-is",
        "group:8",
        "rms",
        "batch",
        "renorm",
    ]


def test_who_had_easier_seeds_is_no_better_for_it():
    # Dropped after two seeds that were easy for all: the higher mean, and behind on both.
    dropped = a_candidate("none", "undecided", -0.1, seeds=2, mean=0.95)
    rows = [a_candidate("as-is", "baseline", 0.0), dropped, a_candidate("rms", "better", 0.02)]
    results = the_results(*rows)
    assert levels(results) == pytest.approx({"as-is": 0.904, "none": 0.804, "rms": 0.924})
    assert first_words(render_table(results))[:3] == ["rms", "as-is", "none"]
    assert [c.name for c in read_results(results).candidates] == ["rms", "as-is", "none"]


def test_the_footer_says_how_often_such_a_table_is_wrong():
    said = "Some false better in at most 5 % of comparisons, and some false worse."
    assert render_table(the_results()).splitlines()[-1] == said
    raced = "The best is dropped in at most 5 %. The race took 27 of 30 trials."
    assert render_table(a_race()).splitlines()[-2:] == [said, raced]


def test_a_row_holds_score_difference_verdict_and_time():
    lines = render_table(the_results()).splitlines()
    assert lines[0].split() == [
        *("candidate", "accuracy", "minus", "as-is", "verdict", "seeds", "best", "µs/item")
    ]
    assert lines[1].split() == [
        *("batch", "0.924", "+0.017", "to", "+0.023", "better", "3", "25", "%", "52.0")
    ]
    assert lines[2].split()[-6:] == ["undecided", "3", "+7", "25", "%", "50.4"]
    assert lines[6].split() == ["renorm", "–", "failed", "0", "of", "3", "25", "%", "–"]


def test_a_race_shows_who_was_dropped_and_after_how_many_seeds():
    results = a_race()
    results["candidates"][4]["verdict"] = "undecided"
    (line,) = [line for line in render_table(results).splitlines() if line.startswith("none")]
    assert line.split()[-7:] == ["dropped", "3", "of", "5", "25", "%", "45.0"]


def test_without_a_chance_of_being_best_there_is_no_column_for_it():
    row = a_candidate("as-is", "baseline", 0.0, probability_best=None)
    assert "best" not in render_table(the_results(row)).splitlines()[0]


@pytest.mark.parametrize(
    "candidates",
    [
        [
            a_candidate("as-is", "baseline", 0.0),
            a_candidate(LONG, "undecided", -0.01, more_seeds=100),
        ],
        [
            a_candidate("as-is", "baseline", 0.0),
            a_candidate(LONG, "undecided", 0.01, failed=[{"seed": 9, "reason": "x" * 200}] * 2),
            a_failure("EvoNormS0-with-a-name-of-one-word-only"),
        ],
        [
            a_candidate("as-is", "baseline", 1e6, inference_us_per_sample=1234567.8),
            a_candidate("rms", "equivalent", -1e6, inference_us_per_sample=1e9),
        ],
        [a_candidate("as-is", "baseline", 0.0), a_candidate("[bold]rms", "worse", -1e-9)],
    ],
    ids=["long", "long and failed", "large", "markup"],
)
@pytest.mark.parametrize("metric", ["accuracy", "mean_absolute_scaled_error_of_everything"])
def test_the_table_fits_80_columns(candidates, metric):
    text = render_table(the_results(*candidates, metric={"name": metric, "higher_is_better": True}))
    assert columns(text) <= 80
    assert "…" not in text, "nothing is cut off"
    assert all(candidate["name"][:10] in text for candidate in candidates)


def test_one_seed_shows_no_interval():
    alone = the_results(
        a_candidate("as-is", "baseline", 0.0, seeds=1, interval=None),
        a_candidate(
            "rms",
            "undecided",
            0.25,
            seeds=1,
            interval=None,
            difference={"mean": 0.25, "interval": None, "p_adjusted": 1.0},
        ),
    )
    lines = render_table(alone).splitlines()
    assert lines[1].split()[:3] == ["rms", "1.1500", "+0.2500"]
    assert lines[2].split()[:3] == ["as-is", "0.9000", "baseline"]


def test_an_interval_that_says_nothing_takes_no_room():
    span = {"mean": -0.01, "interval": [-98785787.2, 98785787.2], "p_adjusted": 0.8}
    row = a_candidate("rms", "undecided", -0.01, difference=span)
    text = render_table(the_results(a_candidate("as-is", "baseline", 0.0), row))
    assert "hardly known" in text
    assert "98785787" not in text
