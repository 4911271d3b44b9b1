import pytest
from hypothesis import given
from hypothesis import strategies as st

from normwise.compare.recommendation import recommend
from normwise.compare.verdict import judge

SEEDS = [0.90, 0.91, 0.92, 0.93, 0.94, 0.90, 0.92, 0.94]
WIGGLE = [0.001, -0.001, 0.002, -0.002, 0.001, -0.001, 0.0, 0.0]


def runs(gain=0.0, wiggle=1.0, seeds=8):
    """The baseline's scores, moved by a gain and by a wiggle about it that sums to 0."""
    moved = [s + gain + wiggle * w for s, w in zip(SEEDS, WIGGLE, strict=True)]
    return dict(enumerate(moved[:seeds]))


BATCH = runs(wiggle=0)
TWO_BETTER = {"batch": BATCH, "rms": runs(0.05), "none": runs(0.052, wiggle=-1)}
TWO_EQUAL = {"batch": BATCH, "rms": runs(), "none": runs(-0.05), "layer": runs(0.001, wiggle=-1)}

NONE_LEADS = (
    "'none' is better than 'batch' by 0.052 (0.0509 to 0.0531, each end with 95 % confidence "
    "for all 2 comparisons, over 8 seeds)."
)
KEEP = "Nothing was shown to be better than 'batch', so keep it: "

# scores, inference time, candidate, word, sentence
CASES = {
    "one is better": (
        {"batch": BATCH, "rms": runs(0.05), "none": runs(-0.05)},
        {},
        "rms",
        "better",
        "'rms' is better than 'batch' by 0.05 (0.0489 to 0.0511, each end with 95 % confidence "
        "for all 2 comparisons, over 8 seeds).",
    ),
    "one comparison, some seeds failed": (
        {"batch": BATCH, "rms": runs(0.05, seeds=6)},
        {},
        "rms",
        "better",
        "'rms' is better than 'batch' by 0.05 (0.0487 to 0.0513, each end with 95 % confidence, "
        "over 6 of 8 seeds).",
    ),
    "two are better, the second cheaper": (
        TWO_BETTER,
        {"batch": 1, "rms": 8, "none": 10},
        "rms",
        "better",
        "'rms' is better than 'batch' by 0.05 (0.0489 to 0.0511, each end with 95 % confidence "
        "for all 2 comparisons, over 8 seeds); 'none' has the best mean, but there is no "
        "difference that matters between the two, so take the cheapest: 'rms' takes 20 % less "
        "time per sample.",
    ),
    "two are better, the second hardly cheaper": (
        TWO_BETTER,
        {"rms": 9.6, "none": 10},
        "none",
        "better",
        NONE_LEADS,
    ),
    "two are better, the time of one unknown": (
        TWO_BETTER,
        {"rms": 8, "none": None},
        "none",
        "better",
        NONE_LEADS,
    ),
    "two are better, the cheaper clearly less so": (
        {"batch": BATCH, "rms": runs(0.05), "none": runs(0.09, wiggle=-1)},
        {"rms": 5, "none": 10},
        "none",
        "better",
        "'none' is better than 'batch' by 0.09 (0.0889 to 0.0911, each end with 95 % confidence "
        "for all 2 comparisons, over 8 seeds).",
    ),
    "an equal is cheaper": (
        TWO_EQUAL,
        {"batch": 10, "rms": 7, "layer": 9, "none": 1},
        "rms",
        "equivalent",
        "Nothing was shown to be better than 'batch', and 'rms' shows no difference from it that "
        "matters (a gain of -0.0012 to 0.0012, each end with 95 % confidence for all 3 "
        "comparisons, over 8 seeds, lies within ±0.016), so take the cheapest: 'rms' takes 30 % "
        "less time per sample.",
    ),
    "an equal is hardly cheaper": (
        TWO_EQUAL,
        {"batch": 10, "rms": 9.6, "layer": 12},
        "batch",
        "equivalent",
        KEEP + "1 candidate is worse and 2 are equivalent.",
    ),
    "the baseline's time is unknown": (
        TWO_EQUAL,
        {"rms": 7},
        "batch",
        "equivalent",
        KEEP + "1 candidate is worse and 2 are equivalent.",
    ),
    "all are worse": (
        {"batch": BATCH, "rms": runs(-0.05), "none": runs(-0.1)},
        {"batch": 10, "rms": 1, "none": 1},
        "batch",
        "better",
        KEEP + "2 candidates are worse.",
    ),
    "some are undecided, one failed": (
        {
            "batch": BATCH,
            "rms": runs(0.01, wiggle=15),
            "none": runs(-0.05),
            "layer": runs(0.001, wiggle=15),
            "group:8": {},
        },
        {},
        "batch",
        "undecided",
        KEEP + "1 candidate is worse, 1 is equivalent and 1 is undecided; about 5 more seeds would "
        "decide about 'rms'.",
    ),
    "no number of seeds would do": (
        {"batch": BATCH, "rms": runs(0.02, wiggle=2000)},
        {},
        "batch",
        "undecided",
        KEEP + "1 candidate is undecided; 1000 more seeds would hardly decide about 'rms'.",
    ),
    "one seed": (
        {"batch": runs(seeds=1), "rms": runs(0.01, seeds=1), "none": runs(0.5, seeds=1)},
        {"batch": 10, "rms": 1, "none": 1},
        "batch",
        "undecided",
        KEEP + "2 candidates are undecided; a comparison takes at least 2 seeds that both "
        "candidate and baseline finish.",
    ),
    "only the baseline ran": (
        {"batch": BATCH, "rms": {}},
        {},
        "batch",
        "undecided",
        "Nothing but 'batch' finished a trial, so there is nothing to compare it with.",
    ),
    "the baseline failed": (
        {"batch": {}, "rms": {3: 0.95}, "none": {1: 0.5, 2: 0.6}},
        {},
        "rms",
        "undecided",
        "The baseline 'batch' finished no trial, so nothing can be judged; the best mean of what "
        "ran is that of 'rms', 0.95 over 1 seed.",
    ),
    "all failed": (
        {"batch": {}, "rms": {}},
        {},
        "batch",
        "undecided",
        "No trial finished, so nothing can be said.",
    ),
}


@pytest.mark.parametrize(("scores", "cost", "candidate", "word", "why"), CASES.values(), ids=CASES)
def test_recommendation(scores, cost, candidate, word, why):
    found = recommend(judge(scores, "batch", True), scores, "batch", True, cost)
    assert (found.candidate, found.verdict) == (candidate, word)
    assert found.why == why


@pytest.mark.parametrize("case", [name for name in CASES if name != "the baseline failed"])
def test_lower_is_better_gives_the_same_sentence(case):
    scores, cost, _, _, why = CASES[case]
    negated = {name: {seed: -s for seed, s in own.items()} for name, own in scores.items()}
    found = recommend(judge(negated, "batch", False), negated, "batch", False, cost)
    assert found.why == why


def test_figures_keep_two_digits_of_the_interval_at_any_scale():
    scores = {
        "batch": {seed: 1e5 * s for seed, s in BATCH.items()},
        "rms": {seed: 1e5 * s for seed, s in runs(0.05).items()},
    }
    found = recommend(judge(scores, "batch", False), scores, "batch", False, {})
    assert found.candidate == "batch"
    found = recommend(judge(scores, "batch", True), scores, "batch", True, {})
    assert found.why.startswith("'rms' is better than 'batch' by 5000 (4910 to 5090, ")


def test_options_reach_the_sentence_and_the_choice():
    options = {"equivalent_within": 0.001, "confidence": 0.9}
    verdicts = judge(TWO_BETTER, "batch", True, **options)
    found = recommend(verdicts, TWO_BETTER, "batch", True, {"rms": 8, "none": 10}, **options)
    # 0.002 apart is no longer the same, so that the time saved does not count.
    assert found.candidate == "none"
    assert "each end with 90 % confidence" in found.why


def test_what_a_race_dropped_waits_for_no_seeds():
    scores = {"batch": BATCH, "rms": runs(-0.001, wiggle=15), "none": runs(-0.05)}
    verdicts = judge(scores, "batch", True, seeds=12)
    found = recommend(verdicts, scores, "batch", True, {}, seeds=12, dropped=["rms"])
    assert found.why == KEEP + "1 candidate is worse and 1 was dropped as hardly better."


fractions = st.integers(-60, 60).map(lambda k: k / 64)
trials = st.dictionaries(st.integers(0, 5), fractions, max_size=6)
times = st.one_of(st.none(), st.floats(0.1, 100))
names = ("batch", "rms", "none")


@given(
    scores=st.fixed_dictionaries(dict.fromkeys(names, trials)),
    cost=st.fixed_dictionaries(dict.fromkeys(names, times)),
    margin=st.sampled_from([None, 0.0, 0.5]),
)
def test_the_choice_is_never_more_than_its_verdict(scores, cost, margin):
    verdicts = judge(scores, "batch", True, equivalent_within=margin)
    found = recommend(verdicts, scores, "batch", True, cost, equivalent_within=margin)
    words = {verdict.word for verdict in verdicts.values()}
    assert ("better" in words) == (found.candidate != "batch" and found.verdict == "better")
    if found.candidate != "batch":
        assert found.verdict == verdicts[found.candidate].word != "worse"
    if found.verdict == "equivalent" and found.candidate != "batch":
        assert cost[found.candidate] <= 0.95 * cost["batch"]
    assert found.why.endswith(".")
    assert "nan" not in found.why
    assert "inf" not in found.why
