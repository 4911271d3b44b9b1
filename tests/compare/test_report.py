"""The report: complete, self-contained, escaped, and unmoved by gaps in the results."""

import copy
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_results import a_candidate, a_failure, the_results

from normwise.compare.report import render_report, words, write_report
from normwise.compare.report.drawing import LIGHT, Plot
from normwise.compare.report.layout import window
from normwise.compare.report.reading import VERDICTS, read_results
from normwise.errors import NormError

ALT = ("title", "desc")
ALL = ["scores", "differences", "score", "loss", "inference", "train", "peak"]
UNPAIRED = [plot for plot in ALL if plot != "differences"]
VOID = {"meta", "br", "hr", "img", "input", "link", "use", "path", "rect"}


class Page(HTMLParser):
    """Every element, attribute and text of a page; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.open[-2:]), data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text_in(self, tag):
        return " ".join(data for path, data in self.texts if path and path[-1] == tag)


def drawings(text):
    """The plots by the name that their ids carry, each parsed as XML."""
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]
    return {
        next(e.get("id") for e in svg.iter() if e.get("id")).partition("-")[0]: svg for svg in found
    }


def texts_of(svg):
    return ["".join(element.itertext()) for element in svg.iter("text")]


@pytest.fixture(scope="module")
def text():
    return render_report(the_results())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_candidate_is_named_in_the_table_with_its_verdict_in_words(page):
    assert [row for row in page.all("th") if row.get("scope") not in ("row", "col")] == []
    for name in ("as-is", "batch", "group:8", "rms", "none", "renorm"):
        assert name in page.text_in("th")
    for verdict in VERDICTS:
        assert verdict in page.text_in("span")


def test_the_rows_come_in_order_of_the_mean_and_failures_last(text):
    names = re.findall(r'<th scope="row">([^ <]+)', text)
    assert names[:6] == ["batch", "rms", "group:8", "as-is", "none", "renorm"]


def test_lower_is_better_turns_the_order_and_the_arrows():
    metric = {"name": "error", "higher_is_better": False}
    text = render_report(the_results(metric=metric))
    assert re.findall(r'<th scope="row">([^ <]+)', text)[0] == "none"
    assert "error (← better)" in texts_of(drawings(text)["scores"])


@pytest.mark.parametrize(
    "expected",
    [
        "Use <strong>batch</strong>",
        "It learns more.",
        "5 candidates and as-is, the baseline, were trained with the same 3 seeds. Judged by "
        "accuracy (higher is better) against as-is: 1 better, 1 equivalent within 0.003, 1 worse, "
        "1 undecided and 1 without a finished trial.",
        "needs about 7 more seeds",
        "15 finished, 3 failed",
        "+0.020<small>+0.017 to +0.023</small><small>p = 0.032, effect +2.0</small>",
        "−0.500",
        "4.00",
        "12\N{NARROW NO-BREAK SPACE}345",
        "diverged in epoch 2",
        "blocks.0.norm: BatchNorm1d(64) → batch",
        "<dt>batch_size</dt><dd>8</dd>",
        "<dt>processor</dt><dd>a processor</dd>",
        "<dt>torch</dt><dd>2.13.0</dd>",
        "normwise compare japanese-vowels --seeds 3",
        "simultaneous",
    ],
)
def test_what_the_page_says(text, expected):
    assert expected in text


def test_headings_step_down_one_at_a_time_and_the_language_is_given(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.all("html") == [{"lang": "en"}]


def test_each_plot_is_a_captioned_figure_that_says_what_it_shows(text, page):
    plots = drawings(text)
    assert list(plots) == ALL
    assert len(page.all("figure")) == len(page.all("figcaption")) == len(plots)
    for name, svg in plots.items():
        assert svg.get("role") == "img"
        assert svg.get("aria-labelledby").split() == [svg.find(tag).get("id") for tag in ALT]
        assert svg.find("title").get("id").startswith(f"{name}-")
        assert svg.findtext("title") in page.text_in("b")
        assert svg.findtext("desc") in page.text_in("figcaption")
    assert plots["differences"].findtext("desc") == (
        "Better: batch (+0.020). Equivalent: group:8 (+0.001). Undecided: rms (+0.004). "
        "Worse: none (−0.500)."
    )


def test_plots_name_all_they_show(text):
    plots = drawings(text)
    named = {"as-is", "batch", "group:8", "rms", "none", "renorm"}
    assert named <= set(texts_of(plots["scores"]))
    assert named - {"as-is", "renorm"} <= set(texts_of(plots["differences"]))
    assert "▲ batch" in texts_of(plots["score"])
    assert {"batch", "as-is"} <= set(texts_of(plots["inference"]))


def test_a_mean_far_off_is_written_at_the_edge_instead_of_widening_the_axis(text):
    plots = drawings(text)
    assert "◂ 0.404" in texts_of(plots["scores"])
    assert "◂ −0.500" in texts_of(plots["differences"])
    assert "none ▾ 0.404" in texts_of(plots["inference"])


def test_the_page_asks_for_nothing_outside_itself(text, page):
    for _, attributes in page.elements:
        assert not {"src", "srcset", "action", "data", "poster"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")
    assert page.all("script") == page.all("link") == []
    assert re.findall(r"url\((?!#)", text) == []
    assert "@import" not in text
    assert "http" not in text


def test_ids_are_unique_and_every_reference_finds_one(text, page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="|url\()#([\w-]+)', text)
    referred += re.findall(r'aria-labelledby="([\w-]+)"', text)
    assert len(set(referred)) > 5
    assert set(referred) <= set(ids)


def test_plots_take_every_colour_from_the_page(text):
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        assert re.findall(r"(?:fill|stroke): #\w+", svg) == []
        for role in re.findall(r"var\(--([\w-]+)\)", svg):
            assert role in LIGHT
            assert text.count(f"--{role}: #") == 2, "one for light, one for dark"


def test_the_same_results_give_the_same_page_whatever_the_users_style(text):
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        assert render_report(json.loads(json.dumps(the_results()))) == text
        assert dict(matplotlib.rcParams) == before


HOSTILE = [
    "<script>alert('x')</script>",
    '" onload="alert(1)',
    "$x^2$ & $\\frac{1}{$",
    "{{ 7 * 7 }}",
    "]]><!--",
    "tab\tnew\nline\x00\x1b\ud800",
    "日本語 🙂",
    "a" * 200,
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_and_never_obeyed(name):
    results = the_results(
        a_candidate(name, "baseline", 0.0, changes=[name]),
        a_candidate("other", "better", 0.02, failed=[{"seed": 3, "reason": name}], curves={}),
        baseline=name,
        command=name,
        task={"name": name, "settings": {name: name}},
        metric={"name": name, "higher_is_better": True},
        recommendation={"candidate": name, "verdict": "baseline", "why": name},
    )
    text = render_report(results)
    page = Page(text)
    assert page.all("script") == []
    assert all("onload" not in attributes for _, attributes in page.elements)
    shown = re.sub("[\x00\x1b\ud800]", "\ufffd", name)
    assert shown in "".join(data for _, data in page.texts)
    assert words.shorten(shown, 20) in ["", *texts_of(drawings(text)["scores"])]
    text.encode()


@settings(max_examples=25)  # each draws a figure
@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_text_can_be_drawn(name):
    read = read_results(the_results(command=name))
    label = words.shorten(read.command, 20)
    plot = Plot("any", label, read.command, "", 1.0, lambda figure: figure.suptitle(label))
    svg = ElementTree.fromstring(plot.svg())
    assert svg.findtext("desc").split() == read.command.split()
    assert "".join(texts_of(svg)) == label


def without(*path):
    """Results with one entry of every candidate, or of the whole, made null."""
    results = the_results(
        a_candidate("as-is", "baseline", 0.0),
        a_candidate("batch", "better", 0.02),
        a_failure("rms"),
    )
    for entry in results["candidates"] if path[0] == "candidates" else [results]:
        entry[path[-1]] = None
    return results


ONE_SEED = [
    a_candidate("as-is", "baseline", 0.0, seeds=1, interval=None),
    a_candidate("batch", "undecided", 0.02, seeds=1, interval=None, difference={"mean": 0.02}),
]


@pytest.mark.parametrize(
    ("results", "plots"),
    [
        (without("candidates", "interval"), ALL),
        (without("candidates", "difference"), UNPAIRED),
        (without("candidates", "curves"), [p for p in ALL if p not in ("score", "loss")]),
        (without("candidates", "parameters"), ALL),
        (without("equivalent_within"), ALL),
        (without("machine"), ALL),
        (without("recommendation"), ALL),
        (the_results(*ONE_SEED, seeds=[0]), ALL),
        (the_results(a_failure("as-is"), a_failure("batch")), ["score"]),
        (
            the_results(a_candidate("as-is", "baseline", 0.0)),
            UNPAIRED,
        ),
    ],
    ids=[
        "no intervals",
        "no differences",
        "no curves",
        "no parameters",
        "no equivalence",
        "no machine",
        "no recommendation",
        "one seed",
        "all failed",
        "baseline alone",
    ],
)
def test_gaps_leave_gaps(results, plots):
    untouched = copy.deepcopy(results)
    text = render_report(results)
    page = Page(text)
    assert list(drawings(text)) == plots
    assert not re.search(r"\b(None|nan|inf)\b", "".join(data for _, data in page.texts))
    assert repr(results) == repr(untouched)


def test_a_cost_that_was_not_measured_has_no_plot():
    plots = drawings(render_report(without("candidates", "inference_us_per_sample")))
    assert list(plots) == [p for p in ALL if p != "inference"]
    assert "training, ms per step" in texts_of(plots["train"])


def test_curves_of_a_users_own_loop_have_no_loss_and_may_differ_in_length():
    curves = {"0": [{"epoch": 5, "score": 0.5}], "1": [{"epoch": k, "score": 0.6} for k in (5, 6)]}
    text = render_report(the_results(a_candidate("as-is", "baseline", 0.0, curves=curves)))
    assert list(drawings(text)) == [p for p in ALL if p not in ("differences", "loss")]
    assert "as-is ends at 0.550 after epoch 5." in text


def test_numbers_out_of_all_bounds_count_as_missing():
    curves = {"0": [{"epoch": e, "loss": loss, "score": 0.5} for e, loss in ((1, 2), (2, 1e300))]}
    wild = a_candidate("wild", "worse", -0.2, curves=curves, inference_us_per_sample=math.inf)
    text = render_report(the_results(a_candidate("as-is", "baseline", 0.0), wild))
    assert "wild" not in texts_of(drawings(text)["inference"])


def test_the_mean_curve_is_that_of_finished_trials_as_far_as_all_go():
    lengths = {"0": 3, "1": 2, "2": 1}
    curves = {
        seed: [{"epoch": e, "score": float(seed) + e} for e in range(1, length + 1)]
        for seed, length in lengths.items()
    }
    entry = a_candidate("as-is", "baseline", 0.0, scores={"0": 1.0, "1": 2.0}, curves=curves)
    (candidate,) = read_results(the_results(entry)).candidates
    assert candidate.mean_curve("score") == {1: 1.5, 2: 2.5}
    assert candidate.mean_curve("loss") == {}


@pytest.mark.parametrize("key", ["candidates", "metric", "task", "baseline", "seeds"])
def test_something_else_than_results_is_refused_by_name(key):
    results = the_results()
    del results[key]
    with pytest.raises(NormError) as refusal:
        render_report(results)
    assert str(refusal.value) == (
        f"this is no results dictionary of a comparison: '{key}' is missing; "
        "hand in what normwise wrote to results.json"
    )


def test_an_unknown_verdict_is_refused_with_those_that_exist():
    with pytest.raises(NormError) as refusal:
        render_report(the_results(a_candidate("batch", "fine", 0.0)))
    assert str(refusal.value) == (
        "candidate 'batch' has the verdict 'fine'; a verdict is one of "
        "baseline, better, equivalent, undecided, worse, failed"
    )


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path, text):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(the_results(), path)
    assert path.read_text("utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(NormError):
        write_report({}, path)

    def fail(self, target):
        assert target.read_text() == "old", "nothing is written in place"
        assert self.read_text("utf-8").endswith("</html>")
        raise OSError("the disk is gone")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        write_report(the_results(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "expected"),
    [
        (0.98765, 3, False, "0.988"),
        (0.98765, 3, True, "+0.988"),
        (-0.98765, 3, True, "−0.988"),
        (-0.0001, 3, True, "+0.000"),
        (1234567.8, 0, False, "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}568"),
        (3.14e-9, 11, False, "3.14e−09"),
        (-2.5e12, 1, True, "−2.5e+12"),
    ],
)
def test_numbers_as_they_are_written(value, decimals, signed, expected):
    assert words.fixed(value, decimals, signed=signed) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (49.0, "49.0"), (0.00456, "0.00456"), (1234.5, "1\N{NARROW NO-BREAK SPACE}234")],
)
def test_three_digits_are_enough_for_a_cost(value, expected):
    assert words.significant(value) == expected


@given(st.text(max_size=60), st.integers(4, 30))
def test_a_shortened_name_fits_and_keeps_both_ends(name, length):
    short = words.shorten(name, length)
    plain = " ".join(name.split())
    assert len(short) <= length
    assert short[:1] == plain[:1]
    assert short[-1:] == plain[-1:]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(-1e6, 1e6))
def test_a_window_has_some_width_and_holds_what_it_must(values, must):
    low, high = window(values, keep=[must])
    assert low < high
    assert low <= must <= high
    median = sorted(values)[len(values) // 2]
    assert low <= median <= high
