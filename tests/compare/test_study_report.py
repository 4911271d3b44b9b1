"""The page, the plots and the table of several comparisons."""

import copy

import pytest
from made_results import a_candidate, a_failure, the_results
from test_report import ALT, HOSTILE, Page, drawings, texts_of

from normwise.compare.report.layout import spread
from normwise.compare.report.study.page import render_study
from normwise.compare.report.study.reading import read_study
from normwise.compare.report.study.table import render_study_table
from normwise.compare.report.study.words import headline, plain_words
from normwise.errors import NormError


def at(label, *candidates, recommended="batch", **fields):
    recommendation = {"candidate": recommended, "verdict": "better", "why": "It learns more."}
    results = the_results(*candidates, recommendation=recommendation, **fields)
    return {"label": label, "folder": f"batch_size={label}", **results}


def a_study(*entries, **fields):
    entries = entries or (
        at("2", a_candidate("as-is", "baseline", -0.1), a_candidate("batch", "better", 0.02)),
        at(
            "8",
            a_candidate("as-is", "baseline", 0.0),
            a_candidate("batch", "equivalent", 0.001),
            a_candidate("rms", "undecided", -0.004),
            recommended="as-is",
        ),
        at("32", a_candidate("as-is", "baseline", 0.01), a_failure("batch"), recommended="as-is"),
    )
    return {
        "by": "batch_size",
        "comparisons": list(entries),
        "command": "normwise compare --vary batch_size=2,8,32",
        "finished": "2026-11-22 03:10 UTC",
        **fields,
    }


def over_tasks(count, **fields):
    """Three candidates in so many tasks: a always first, b and c by turns."""
    entries = []
    for number in range(count):
        second, third = ("b", "c") if number % 2 else ("c", "b")
        entries.append(
            at(
                f"task {number}",
                a_candidate("a", "baseline", 0.03),
                a_candidate(second, "worse", 0.02),
                a_candidate(third, "worse", 0.01),
                baseline="a",
                recommended="a",
            )
        )
    return a_study(*entries, by="task", **fields)


RANKING = {
    "mean_ranks": {"a": 1.0, "b": 2.5, "c": 2.5},
    "p": 0.018,
    "critical_difference": 1.66,
    "cliques": [["a", "b"], ["b", "c"]],
}


@pytest.fixture(scope="module")
def text():
    return render_study(a_study())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.mark.parametrize(
    "expected",
    [
        "Which normalization for japanese-vowels, and does it depend on the batch size?",
        "It depends on the <strong>batch size</strong>",
        "Recommended by batch size: batch for 2; as-is for 8 and 32.",
        "3 comparisons of 3 candidates, 18 finished trials in all, each judged by accuracy against "
        "its own as-is.",
        '<a href="batch_size%3D2/report.html">2</a>',
        "1 judgement in the table below could not be made",
        "normwise compare --vary batch_size=2,8,32",
        "A study does not correct for the number of comparisons",
    ],
)
def test_what_the_page_says(text, expected):
    assert expected in text


def test_the_table_has_a_cell_for_each_candidate_in_each_comparison(page):
    assert [a["href"] for a in page.all("a")] == [
        f"batch_size%3D{n}/report.html" for n in (2, 8, 32)
    ]
    rows = page.text_in("td").split()
    assert rows.count("0.804") == 1
    assert page.text_in("span").count("–") == 2, "rms took part once"


def test_the_picture_everyone_draws_has_a_named_line_for_each_norm(text):
    plots = drawings(text)
    assert list(plots) == ["sweep", "differences"]
    assert {"2", "8", "32", "batch", "as-is", "rms", "batch size"} <= set(texts_of(plots["sweep"]))
    assert "error, 1 − accuracy (← better)" in texts_of(plots["sweep"])
    assert "as-is 0.196 at 2, 0.086 at 32" in plots["sweep"].findtext("desc")
    assert plots["differences"].findtext("desc") == (
        "batch: better 1 time and equivalent 1 time; rms: undecided 1 time."
    )
    for svg in plots.values():
        assert svg.get("aria-labelledby").split() == [svg.find(tag).get("id") for tag in ALT]


def test_another_metric_is_drawn_as_it_is():
    metric = {"name": "mse", "higher_is_better": False}
    entries = [at(n, a_candidate("as-is", "baseline", 0.0), metric=metric) for n in ("1e-3", "1")]
    text = render_study(a_study(*entries, by="lr"))
    assert "mse (← better)" in texts_of(drawings(text)["sweep"])
    assert "learning rate" in texts_of(drawings(text)["sweep"])


def test_comparisons_of_different_metrics_share_no_axis():
    other = at(
        "speech",
        a_candidate("as-is", "baseline", 0.0),
        metric={"name": "mse", "higher_is_better": False},
    )
    text = render_study(a_study(at("letters"), other, by="task"))
    assert drawings(text) == {}
    assert "mse, lower is better" in text


def test_one_comparison_is_a_study_that_has_only_begun():
    text = render_study(a_study(at("2")))
    assert list(drawings(text)) == ["differences"]
    assert "Use <strong>batch</strong>" in text


def test_ranks_are_over_candidates_that_have_a_score_everywhere():
    study = read_study(over_tasks(4))
    assert study.ranks == {"a": 1.0, "b": 2.5, "c": 2.5}
    study = read_study(a_study())
    assert study.ranks == {"as-is": 1.0}
    assert study.names[0] == "as-is"


def test_equal_means_share_a_rank():
    entry = at(
        "2",
        a_candidate("as-is", "baseline", 0.0),
        a_candidate("rms", "undecided", 0.0),
        a_candidate("layer", "worse", -0.1),
    )
    assert read_study(a_study(entry)).ranks == {"as-is": 1.5, "rms": 1.5, "layer": 3.0}


def test_the_critical_difference_diagram_names_all_and_says_which_differ():
    text = render_study(over_tasks(4, ranking=RANKING))
    plot = drawings(text)["ranks"]
    assert {"a  1.00", "2.50  b", "CD = 1.66"} <= set(texts_of(plot))
    assert plot.findtext("desc") == (
        "Mean ranks: a 1.00, c 2.50 and b 2.50. That all are alike has p = 0.018."
    )
    assert "Keep <strong>a</strong>" in text
    assert "ranks" not in drawings(render_study(over_tasks(4)))


def test_a_critical_difference_longer_than_the_axis_says_so():
    text = render_study(over_tasks(2, ranking={**RANKING, "critical_difference": 9.0}))
    assert "CD = 9.00, beyond the axis" in texts_of(drawings(text)["ranks"])


def test_sensitivity_has_a_column():
    results = a_study(sensitivity={"as-is": 0.0123, "batch": 0.5})
    assert "to the batch size" in render_study(results)
    assert "sensitivity" in render_study_table(results)
    assert "0.012" in render_study_table(results)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_and_never_obeyed(name):
    entry = at(
        name,
        a_candidate("as-is", "baseline", 0.0),
        a_candidate(name, "worse", -0.01),
        metric={"name": name, "higher_is_better": True},
        recommended=name,
    )
    other = {**copy.deepcopy(entry), "label": "other"}
    results = a_study(entry, other, by="task", command=name)
    page = Page(render_study(results))
    assert page.all("script") == []
    assert all("onload" not in attributes for _, attributes in page.elements)
    assert all(not a["href"].startswith("javascript") for a in page.all("a"))
    table = render_study_table(results)
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("count", [1, 3, 12])
def test_the_tables_fit_80_columns_and_show_every_comparison(count):
    labels = [f"a-task-with-a-rather-long-name-{n}" if n % 2 else f"t{n}" for n in range(count)]
    table = render_study_table(a_study(*(at(label) for label in labels), by="task"))
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    assert table.count("0.924 ▲") == count
    assert all(label[:14] in table for label in labels)


def test_signs_are_explained_below_the_table():
    assert render_study_table(a_study()).splitlines()[-1] == (
        "■ baseline  ▲ better  ◆ equivalent  ○ undecided  ✕ failed"
    )


@pytest.mark.parametrize(
    ("recommended", "expected"),
    [(("rms", "rms"), ("Use", "rms")), (("as-is",) * 2, ("Keep", "as-is")), ((None,) * 2, None)],
)
def test_the_headline_is_one_candidate_where_all_agree(recommended, expected):
    entries = [at(str(n), recommended=name) for n, name in enumerate(recommended)]
    assert headline(read_study(a_study(*entries))) == (expected or ("No recommendation", ""))


def test_a_manager_is_told_what_was_asked():
    assert plain_words(read_study(a_study()))[0].startswith(
        "The same question was asked once for each batch size: which kind of layer"
    )
    assert plain_words(read_study(over_tasks(3)))[0].startswith(
        "The same question was asked 3 times"
    )


@pytest.mark.parametrize("key", ["by", "comparisons"])
def test_something_else_is_refused(key):
    results = a_study()
    del results[key]
    with pytest.raises(NormError, match=f"no results dictionary of a study: '{key}' is missing"):
        render_study(results)


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.1, 0.15, 0.9], [0.075, 0.175, 0.9]),
        ([0.3, 0.4, 0.4, 0.4], [0.225, 0.325, 0.425, 0.525]),
    ],
)
def test_names_are_spread_as_little_as_it_takes(heights, expected):
    assert spread(heights, 0.1) == pytest.approx(expected)
