import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from normwise.compare.boundaries import single_look
from normwise.compare.differences import Differences
from normwise.compare.verdict import SEEDS_IN_REACH, judge, mean_interval, practical_margin
from normwise.errors import NormError

BASELINE = [0.90, 0.91, 0.92, 0.93, 0.94]  # a seed changes it by sd 0.0158
UNKNOWN = (-math.inf, math.inf)


def by_seed(values):
    return dict(enumerate(values))


def shifted(*differences):
    """Scores that differ from the baseline by these, one a seed."""
    return by_seed(score + d for score, d in zip(BASELINE, differences, strict=False))


def judge_one(candidate, baseline=None, higher_is_better=True, **options):
    baseline = by_seed(BASELINE) if baseline is None else baseline
    scores = {"batch": baseline, "rms": candidate}
    return judge(scores, "batch", higher_is_better, **options)["rms"]


ROUGH = (0.05, -0.04, 0.03, -0.05, 0.02)
SLIGHT = (0.004, 0.005, 0.006, 0.005, 0.005)

# candidate, margin (None: from the seeds), word, pairs, whether more seeds are said to decide
CASES = {
    "above by far": (shifted(0.05, 0.06, 0.05, 0.04, 0.05), None, "better", 5, False),
    "below by far": (shifted(-0.05, -0.06, -0.05, -0.04, -0.05), None, "worse", 5, False),
    "shown to differ, but by less than a seed": (shifted(*SLIGHT), None, "equivalent", 5, False),
    "the same, with no margin": (shifted(*SLIGHT), 0.0, "better", 5, False),
    "noise": (shifted(*ROUGH), None, "undecided", 5, True),
    "within a wide margin": (shifted(*ROUGH), 0.1, "equivalent", 5, False),
    "all differences equal": (shifted(*[0.1] * 5), 0.0, "better", 5, False),
    "four equal differences": (shifted(*[0.1] * 4), 0.0, "better", 4, False),
    "three equal differences": (shifted(*[0.1] * 3), 0.0, "better", 3, False),
    "two equal differences": (shifted(*[0.1] * 2), 0.0, "undecided", 2, True),
    "no difference at all": (shifted(*[0.0] * 5), None, "equivalent", 5, False),
    "no difference, no margin": (shifted(*[0.0] * 5), 0.0, "undecided", 5, False),
    "two seeds": (shifted(0.05, 0.08), 0.0, "undecided", 2, True),
    "one seed": (shifted(0.05), None, "undecided", 1, False),
    "failed on every seed": ({}, None, "undecided", 0, False),
    "other seeds than the baseline": ({7: 0.9, 8: 0.9, 9: 0.9}, None, "undecided", 0, False),
    "some seeds missing": ({0: 0.95, 2: 0.97, 4: 0.991, 9: 0.0}, 0.0, "better", 3, False),
}


@pytest.mark.parametrize(
    ("candidate", "margin", "word", "pairs", "within_reach"), CASES.values(), ids=CASES
)
def test_word(candidate, margin, word, pairs, within_reach):
    found = judge_one(candidate, equivalent_within=margin)
    assert (found.word, found.pairs, found.more_seeds is not None) == (word, pairs, within_reach)


@pytest.mark.parametrize("pairs", [0, 1])
def test_fewer_than_two_pairs_leave_everything_open(pairs):
    found = judge_one(shifted(*[0.25] * pairs))
    assert found.interval == UNKNOWN
    assert found.p_adjusted == 1.0
    assert found.mean == pytest.approx(0.25) if pairs else math.isnan(found.mean)


def test_nothing_can_be_judged_without_the_baseline():
    scores = {"batch": {}, "rms": by_seed(BASELINE), "none": {}}
    verdicts = judge(scores, "batch", True)
    assert [verdicts[name].word for name in ("rms", "none")] == ["undecided"] * 2
    assert all(v.interval == UNKNOWN and v.more_seeds is None for v in verdicts.values())


def test_the_baseline_alone_has_no_verdicts():
    assert judge({"batch": by_seed(BASELINE)}, "batch", True) == {}


def test_equal_differences_have_the_spread_of_two_roundings():
    step = 1 / 370
    scores = {
        "batch": by_seed([0.9] * 5),
        "rms": by_seed([0.9 + 3 * step] * 5),
        "none": by_seed([0.9, 0.9, 0.9, 0.9, 0.9 + step]),
    }
    found = judge(scores, "batch", True)["rms"]
    half = stats.t.ppf(stats.norm.cdf(single_look(2, 0.05)), 4) * step / math.sqrt(6) / math.sqrt(5)
    assert found.interval == pytest.approx((3 * step - half, 3 * step + half))


def test_rounding_to_float32_is_not_a_step():
    step = 1 / 370
    seen = [np.float32((300 + k) * step).item() for k in range(5)]
    scores = {
        "batch": by_seed(seen[:3] * 2),
        "rms": by_seed([*seen[1:4], *seen[1:4]]),
    }
    low, high = judge(scores, "batch", True)["rms"].interval
    half = stats.t.ppf(0.95, 5) * step / math.sqrt(6) / math.sqrt(6)
    assert high - low == pytest.approx(2 * half, rel=1e-4)


@pytest.mark.parametrize("score", [0.0, 1.0, -3e8])
def test_a_metric_that_never_moves_is_equivalent_without_certainty(score):
    found = judge_one(by_seed([score] * 5), by_seed([score] * 5))
    assert found.word == "equivalent"
    assert found.interval.low < 0 < found.interval.high
    assert found.p_adjusted == pytest.approx(0.5)


def test_interval_and_p_of_one_candidate_are_those_of_the_paired_t_test():
    baseline, candidate = np.random.default_rng(0).normal(size=(2, 9))
    found = judge_one(by_seed(candidate), by_seed(baseline), confidence=0.9)
    test = stats.ttest_rel(candidate, baseline)
    assert found.mean == pytest.approx((candidate - baseline).mean())
    assert found.p_adjusted == pytest.approx(test.pvalue / 2)
    assert found.interval == pytest.approx(test.confidence_interval(0.8))
    spread = (candidate - baseline).std(ddof=1)
    assert found.effect == pytest.approx(found.mean / spread * (1 - 3 / (4 * 8 - 1)))


@given(
    mean=st.integers(-40, 40).map(lambda k: k / 64),
    noise=st.lists(st.integers(-64, 64).map(lambda k: k / 64), min_size=2, max_size=9),
    margin=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_more_seeds_is_the_first_count_that_decides(mean, noise, margin):
    candidate = by_seed(mean + d for d in noise)
    found = judge_one(candidate, by_seed([0.0] * len(noise)), equivalent_within=margin)
    half_now = (found.interval.high - found.interval.low) / 2
    spread = half_now * math.sqrt(found.pairs) / stats.t.ppf(0.95, found.pairs - 1)

    def decides(more):
        count = found.pairs + more
        half = stats.t.ppf(0.95, count - 1) * spread / math.sqrt(count)
        return half < abs(found.mean) or half + abs(found.mean) <= margin

    if found.more_seeds is not None:
        assert found.word == "undecided"
        assert decides(found.more_seeds)
        assert not decides(found.more_seeds - 1)
    elif found.word == "undecided":
        assert not decides(SEEDS_IN_REACH)


# Multiples of 1/64 add without rounding, so that what should be equal is.
fractions = st.integers(-200, 200).map(lambda k: k / 64)
trials = st.dictionaries(st.integers(0, 6), fractions, max_size=7)
tables = st.fixed_dictionaries(dict.fromkeys(("batch", "rms", "none", "group:8"), trials))


@given(scores=tables, margin=st.sampled_from([None, 0.0, 0.5]), higher_is_better=st.booleans())
def test_the_word_is_what_the_interval_shows(scores, margin, higher_is_better):
    verdicts = judge(scores, "batch", higher_is_better, equivalent_within=margin)
    margin = practical_margin(scores) if margin is None else margin
    assert [*verdicts] == [name for name in scores if name != "batch"]
    for found in verdicts.values():
        low, high = found.interval
        if -margin <= low and high <= margin:
            assert found.word == "equivalent"
        elif low > 0 or high < 0:
            assert found.word == ("better" if (low > 0) == higher_is_better else "worse")
            assert found.p_adjusted < 0.05
        else:
            assert found.word == "undecided"
            assert found.p_adjusted >= 0.05 * (1 - 1e-9)
        assert (found.more_seeds is None) or (found.word == "undecided" and found.more_seeds > 0)


@given(scores=tables, margin=st.sampled_from([None, 0.0, 0.5]))
def test_lower_is_better_mirrors_higher_is_better(scores, margin):
    negated = {name: {seed: -s for seed, s in own.items()} for name, own in scores.items()}
    verdicts = judge(scores, "batch", True, equivalent_within=margin)
    mirrored = judge(negated, "batch", False, equivalent_within=margin)
    for name, found in verdicts.items():
        image = mirrored[name]
        assert image.word == found.word
        assert image.mean == -found.mean or found.pairs == 0
        assert image.interval == (-found.interval.high, -found.interval.low)
        assert (image.p_adjusted, image.more_seeds) == (found.p_adjusted, found.more_seeds)


@given(
    scores=tables,
    effects=st.lists(fractions, min_size=7, max_size=7),
    margin=st.sampled_from([0.0, 0.5]),
)
def test_what_a_seed_adds_to_everyone_changes_nothing(scores, effects, margin):
    moved = {
        name: {seed: s + effects[seed] for seed, s in own.items()} for name, own in scores.items()
    }
    before = judge(scores, "batch", True, equivalent_within=margin)
    after = judge(moved, "batch", True, equivalent_within=margin)
    for name, found in before.items():
        assert (after[name].word, after[name].pairs) == (found.word, found.pairs)
        assert after[name].more_seeds == found.more_seeds
        assert after[name].mean == found.mean or found.pairs == 0
        # A table without any difference has float32's step, which grows with the scores.
        assert after[name].interval == pytest.approx(found.interval, abs=1e-5)


def simulated(generator, seeds, gains):
    """Scores with a seed's effect on everyone (sd 2) and noise of each trial (sd 1)."""
    effect = generator.normal(scale=2.0, size=seeds)
    noise = generator.normal(size=(len(gains) + 1, seeds))
    values = effect + noise + np.array([0.0, *gains])[:, None]
    return {str(row): by_seed(own) for row, own in enumerate(values)}


def test_without_a_difference_a_false_word_is_rare():
    generator, repetitions = np.random.default_rng(0), 500
    false = 0
    for _ in range(repetitions):
        scores = simulated(generator, seeds=5, gains=[0.0] * 8)
        # No margin: equivalence would hide false words behind a right one.
        verdicts = judge(scores, "0", True, equivalent_within=0.0)
        false += any(found.word == "better" for found in verdicts.values())
    three_sigma = 3 * math.sqrt(0.05 * 0.95 / repetitions)
    assert false / repetitions <= 0.05 + three_sigma


def test_a_candidate_better_by_three_sd_is_found():
    generator, repetitions = np.random.default_rng(0), 200
    found = 0
    for _ in range(repetitions):
        scores = simulated(generator, seeds=8, gains=[3.0] + [0.0] * 7)
        found += judge(scores, "0", True)["1"].word == "better"
    assert found / repetitions >= 0.8


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_mean_interval_is_that_of_the_t_test(confidence):
    expected = stats.ttest_1samp(BASELINE, 0.0).confidence_interval(confidence)
    assert mean_interval(BASELINE, confidence) == pytest.approx(expected)


@pytest.mark.parametrize("scores", [[], [0.9]])
def test_mean_interval_of_too_few_scores_is_infinite(scores):
    assert mean_interval(scores) == UNKNOWN


MARGINS = {
    "median over candidates": ({"a": {0: 0, 1: 2}, "b": {0: 0, 1: 4}, "c": {0: 0, 1: 60}}, 8**0.5),
    "lower of two": ({"a": {0: 0, 1: 2}, "b": {0: 1, 1: 5}}, 2**0.5),
    "one seed does not count": ({"a": {0: 0, 1: 2}, "b": {7: 9}, "c": {}}, 2**0.5),
    "never below the step": ({"a": {0: 5, 1: 5}, "b": {0: 5, 1: 5}, "c": {0: 6, 1: 9}}, 1.0),
    "nobody ran twice": ({"a": {0: 5}, "b": {0: 6}}, 0.0),
    "nobody ran": ({"a": {}, "b": {}}, 0.0),
    "nobody": ({}, 0.0),
}


@pytest.mark.parametrize(("scores", "margin"), MARGINS.values(), ids=MARGINS)
def test_practical_margin(scores, margin):
    assert practical_margin(scores) == pytest.approx(margin)


TWO = {"batch": {0: 0.9, 1: 0.8}, "rms": {0: 0.9, 1: 0.7}}
BROKEN = {"batch": {0: 0.9, 1: 0.8}, "rms": {0: 0.9, 1: math.nan}}

WRONG = {
    "unknown baseline": (
        lambda: judge(TWO, "layer", True),
        "the baseline 'layer' is not among the candidates; name one of 'batch', 'rms'",
    ),
    "no candidates": (
        lambda: judge({}, "layer", True),
        "the baseline 'layer' is not among the candidates; name one of those with scores",
    ),
    "score that is not finite": (
        lambda: judge(BROKEN, "batch", True),
        "'rms' scored nan on seed 1; leave trials that failed out of the scores",
    ),
    "the same with a given margin": (
        lambda: judge(BROKEN, "batch", True, equivalent_within=0.1),
        "'rms' scored nan on seed 1; leave trials that failed out of the scores",
    ),
    "the same for the margin": (
        lambda: practical_margin(BROKEN),
        "'rms' scored nan on seed 1; leave trials that failed out of the scores",
    ),
    "the same for a mean": (
        lambda: mean_interval([0.9, math.inf]),
        "the score inf has no mean; leave out trials that failed",
    ),
    **{
        f"margin {margin}": (
            lambda margin=margin: judge(TWO, "batch", True, equivalent_within=margin),
            f"equivalent_within={margin} is not a margin; write a difference of 0 or more in the "
            "metric's unit, or leave it out",
        )
        for margin in (-0.1, math.nan, math.inf)
    },
    **{
        f"confidence {confidence}": (
            lambda confidence=confidence: judge(TWO, "batch", True, confidence=confidence),
            f"confidence={confidence} is not between 0 and 1; write 0.95 for 95 %",
        )
        for confidence in (0, 1.0, 95, math.nan)
    },
    "confidence of a mean": (
        lambda: mean_interval([0.9, 0.8], 95),
        "confidence=95 is not between 0 and 1; write 0.95 for 95 %",
    ),
}


@pytest.mark.parametrize(("call", "sentence"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_write(call, sentence):
    with pytest.raises(NormError) as caught:
        call()
    assert str(caught.value) == sentence


def test_the_spread_of_all_has_the_freedom_of_the_residual_of_seed_and_candidate():
    candidates, seeds = 5, 8
    differences = Differences(np.random.default_rng(0).normal(size=(candidates, seeds)))
    differences.own = 0.0  # nothing of a candidate's own variance is believed
    freedom = differences.freedom(np.array([seeds]))
    assert freedom.tolist() == [(candidates - 1) * (seeds - 1)]
