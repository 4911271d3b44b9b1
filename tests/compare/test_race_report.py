"""The report of a race: who left when and why, what it saved, what it costs, in plain words."""

import pytest
from made_results import a_candidate, a_failure, a_race, the_results
from test_report import Page, drawings, texts_of

from normwise.compare.report import words
from normwise.compare.report.page import render_report
from normwise.compare.report.pareto import PRICES, pareto_front
from normwise.compare.report.plain import plain_words
from normwise.compare.report.reading import read_results


@pytest.fixture(scope="module")
def text():
    return render_report(a_race())


@pytest.mark.parametrize(
    "expected",
    [
        "4 candidates and as-is, the baseline, were trained with up to 6 seeds.",
        "It took 27 of the 30 trials that every candidate with every seed would have taken (90 %). "
        "All seeds were used.",
        "<small>dropped after 3 seeds</small>",
        "26 finished, 1 stopped early, 1 failed",
        '<td>3</td><td class="text">stopped</td><td class="text">its learning curve fell behind in '
        "epoch 2</td>",
        '<td>4</td><td class="text">failed</td><td class="text">worker lost 3 times</td>',
        '<td class="text">its interval lies below that of batch</td>',
        "Where no candidate differs from the baseline, some candidate is called better in at most "
        "5 % of comparisons and the race drops the truly best candidate in at most 5 %.",
        "p = 0.032, effect +2.0",
        "25\N{NO-BREAK SPACE}%",
    ],
)
def test_what_the_page_says_of_a_race(text, expected):
    assert expected in text


def test_the_race_is_drawn_with_a_panel_for_each_and_told_in_words(text):
    race = drawings(text)["race"]
    assert {"▲ batch", "○ rms", "◆ group:8", "▼ none", "seeds"} <= set(texts_of(race))
    assert race.findtext("desc") == (
        "Seeds each took. Decided: batch (6) and group:8 (5). Dropped: none (3). "
        "Still in at the end: rms (6)."
    )
    assert "race" not in drawings(render_report(the_results()))


def test_a_look_that_knows_no_interval_leaves_a_gap():
    results = a_race()
    for entry in results["race"]["looks"][0]["candidates"]:
        entry["low"] = entry["high"] = None
    results["race"]["looks"][1]["candidates"][0]["mean_difference"] = None
    assert "race" in drawings(render_report(results))


def test_a_manager_is_told_what_to_do_what_it_costs_and_how_far_to_trust_it():
    assert plain_words(read_results(a_race())) == [
        "A network has layers that keep its numbers in range, and there are several kinds of them. "
        "4 kinds took the place of those in 'japanese-vowels', and the network was trained afresh "
        "each time, 28 times in all, the network as it is among them. What counts is its accuracy: "
        "more is better.",
        "Use batch. It takes the accuracy from 0.910 to 0.930 on average, which is more than luck "
        "explains. About rms it is too early to tell.",
        "With it, one prediction takes 1.0 times the time and training takes 1.5 times the time.",
        "How far to trust this: if in truth all kinds did equally well, at most 5 in 100 such "
        "comparisons would still call one of them better and at most 5 in 100 would give up the "
        "truly best kind early.",
        "Kinds that had lost, or could hardly win any more, were given up early: 27 trainings took "
        "the place of 30.",
        "1 training failed; why is listed below.",
    ]


BASE = a_candidate("as-is", "baseline", 0.0)


@pytest.mark.parametrize(
    ("candidates", "chosen", "advice"),
    [
        ([BASE, a_candidate("rms", "worse", -0.1)], "as-is", "Leave the network as it is: none"),
        ([BASE, a_candidate("rms", "equivalent", 0.0)], "rms", "It does as well as the network"),
        ([a_failure("as-is"), a_candidate("rms", "undecided", 0.0)], "rms", "Use rms, which is"),
        ([BASE, a_candidate("rms", "undecided", 0.0)], "rms", "the evidence for it is thin"),
        ([BASE, a_candidate("rms", "undecided", 0.0)], "as-is", "About rms it is too early"),
    ],
)
def test_the_advice_follows_the_verdict(candidates, chosen, advice):
    recommendation = {"candidate": chosen, "verdict": "undecided", "why": ""}
    results = the_results(*candidates, recommendation=recommendation)
    assert advice in plain_words(read_results(results))[1]


def test_the_front_holds_those_that_nothing_beats_in_both():
    def priced(name, shift, price):
        return a_candidate(name, "undecided", shift, inference_us_per_sample=price)

    results = read_results(
        the_results(
            a_candidate("as-is", "baseline", 0.0, inference_us_per_sample=50.0),
            priced("best", 0.03, 90.0),
            priced("dear", 0.02, 95.0),
            priced("between", 0.02, 70.0),
            priced("cheap", -0.1, 40.0),
        )
    )
    (inference,) = [cost for cost in PRICES if cost.key == "inference_us_per_sample"]
    front = pareto_front(results.candidates, inference)
    assert [c.name for c in front] == ["cheap", "as-is", "between", "best"]
    assert words.cost_finding(results, results.candidates, front, inference) == (
        "cheap takes the least, 40.0 µs per sample; best has the best mean accuracy among these, "
        "and takes 90.0 µs per sample. Between them, unbeaten in both: as-is and between."
    )


def test_compiled_times_stand_beneath_the_others():
    one = a_candidate("rms", "worse", -0.1, inference_compiled_us_per_sample=12.3)
    assert "<small>compiled 12.3</small>" in render_report(the_results(BASE, one))


def test_names_in_a_race_are_shown_and_never_obeyed():
    results = a_race()
    evil = "<script>alert('x')</script>" + "x" * 100
    for entry in (results["race"]["looks"][1]["candidates"][3], results["candidates"][4]):
        entry["name"] = evil
    results["race"]["ended"] = results["race"]["looks"][1]["candidates"][3]["why"] = evil
    page = Page(render_report(results))
    assert page.all("script") == []
    assert evil in page.text_in("td")


@pytest.mark.parametrize(
    ("probability", "expected"), [(0.0, "< 1 %"), (0.006, "1 %"), (0.5, "50 %"), (0.999, "> 99 %")]
)
def test_no_probability_is_called_certain(probability, expected):
    assert words.share(probability).replace("\N{NO-BREAK SPACE}", " ") == expected
