"""What a result shows of itself in Python: figures, a frame, a card in a notebook, copies."""

import sys

import pytest
import torch
from made_results import a_candidate, a_failure, a_race, the_results
from matplotlib.figure import Figure
from test_report import HOSTILE, Page
from test_study_report import RANKING, a_study, at, over_tasks

import tiny
from normwise.compare import Comparison, Study, compare, report
from normwise.compare.report.notebook import study_card
from normwise.compare.report.study.reading import read_study
from normwise.errors import NormError

pytestmark = pytest.mark.usefixtures("brief_timing")


def shown(results=None):
    return Comparison(results or a_race(), folder=None)


@pytest.fixture
def study(tmp_path):
    """A study whose comparisons nobody ran."""
    entries = a_study()["comparisons"]
    return Study(
        "batch_size",
        {e["label"]: Comparison(e, tmp_path / e["label"]) for e in entries},
        tmp_path,
    )


@pytest.mark.parametrize(
    ("plot", "words"),
    [
        (Comparison.plot_scores, {"batch", "as-is", "accuracy (better →)"}),
        (Comparison.plot_differences, {"batch", "difference in accuracy (better →)"}),
        (Comparison.plot_curves, {"epoch"}),
        (lambda c: c.plot_curves("loss"), {"epoch"}),
        (Comparison.plot_costs, {"inference, µs per sample"}),
        (lambda c: c.plot_costs("training"), {"training, ms per step"}),
        (lambda c: c.plot_costs("memory"), {"peak memory, MB"}),
        (Comparison.plot_race, {"seeds"}),
    ],
)
def test_each_plot_is_a_figure_that_a_notebook_shows(plot, words):
    figure = plot(shown())
    assert isinstance(figure, Figure)
    texts = {text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))}
    assert words <= texts
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("plot", "reason"),
    [
        (Comparison.plot_scores, "there is nothing to draw: no trial finished"),
        (Comparison.plot_differences, "there is nothing to draw: no candidate has a pair"),
        (Comparison.plot_costs, "there is nothing to draw: inference was not measured"),
        (Comparison.plot_race, "there is nothing to draw: this was no race"),
        (lambda c: c.plot_curves("loss"), "there is nothing to draw: no trial has reported a loss"),
        (lambda c: c.plot_curves("los"), "quantity='los' is not known; write one of score, loss"),
        (
            lambda c: c.plot_costs("time"),
            "cost='time' is not known; write one of inference, training, memory",
        ),
    ],
)
def test_what_cannot_be_drawn_says_why(plot, reason):
    alone = the_results(a_failure("as-is"))
    alone["candidates"][0]["curves"] = {}
    with pytest.raises(NormError) as refusal:
        plot(shown(alone))
    assert str(refusal.value).startswith(reason)


def test_a_study_draws_its_lines_its_differences_and_its_ranks(study):
    assert isinstance(study.plot_scores(), Figure)
    assert isinstance(study.plot_differences(), Figure)
    with pytest.raises(NormError, match="ranks are tested over several tasks"):
        study.plot_ranks()
    study.results = over_tasks(4, ranking=RANKING)
    assert isinstance(study.plot_ranks(), Figure)


def test_a_frame_has_a_row_for_each_candidate():
    pytest.importorskip("pandas")
    frame = shown().frame().set_index("candidate")
    assert list(frame.index) == ["as-is", "batch", "rms", "group:8", "none"]
    assert frame.loc["batch", "verdict"] == "better"
    assert frame.loc["batch", "difference"] == pytest.approx(0.02)
    assert frame.loc["none", ["seeds", "failed"]].tolist() == [3, 1]
    assert frame["mean"].dtype == float
    assert {"low", "high", "difference_low", "p_adjusted", "parameters"} <= set(frame)


def test_a_studys_frame_has_a_row_for_each_candidate_of_each_comparison(study):
    pytest.importorskip("pandas")
    frame = study.frame()
    assert frame.groupby("batch_size").size().to_dict() == {"2": 2, "32": 2, "8": 3}


def test_without_pandas_a_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(NormError, match="pandas is not installed: pip install pandas"):
        shown().frame()


def test_a_notebook_shows_the_answer_and_a_row_for_each_candidate():
    card = shown(the_results())._repr_html_()
    page = Page(card)
    assert "Use <strong>batch</strong>" in card
    assert "It learns more." in card
    assert page.text_in("th").split() == [
        *("verdict", "mean", "accuracy", "minus", "as-is", "seeds"),
        *("batch", "rms", "group:8", "as-is", "none", "renorm"),
    ]
    assert "+0.020 (+0.017 to +0.023)" in page.text_in("td")
    assert len(card) < 8000, "a card, not the page"
    assert page.all("svg") == []


def test_a_notebook_shows_a_study_with_a_column_for_each_comparison(study):
    card = study._repr_html_()
    assert "It depends on the <strong>batch size</strong>" in card
    assert Page(card).text_in("th").split() == ["2", "8", "32", "as-is", "batch", "rms"]
    assert 'aria-label="better"' in card


@pytest.mark.parametrize("name", HOSTILE)
def test_names_in_a_notebook_are_shown_and_never_obeyed(name):
    results = the_results(a_candidate("as-is", "baseline", 0.0), a_candidate(name, "better", 0.1))
    results["recommendation"] = {"candidate": name, "verdict": "better", "why": name}
    for card in (
        shown(results)._repr_html_(),
        study_card(read_study(a_study(at(name, *results["candidates"], recommended=name)))),
    ):
        page = Page(card)
        assert page.all("script") == []
        assert all("onload" not in attributes for _, attributes in page.elements)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A comparison that was run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda results, path: path.touch())
        folder = tmp_path_factory.mktemp("runs") / "run"
        return compare(tiny.a_task(epochs=1), ["rms"], seeds=2, out=folder, progress=False)


def test_a_saved_run_is_whole(ran, tmp_path):
    saved = ran.save(tmp_path / "copy")
    assert saved == tmp_path / "copy"
    again = Comparison.load(saved, tiny.a_task(epochs=1))
    assert again.results == ran.results
    own, other = (c.model("rms").state_dict() for c in (again, ran))
    assert all(torch.equal(own[key], other[key]) for key in own)


def test_a_saved_study_is_whole(ran, tmp_path):
    study = Study("task", {"a": ran, "b/": ran}, tmp_path / "study")
    study.save(tmp_path / "copy")
    again = Study.load(tmp_path / "copy")
    assert list(again.comparisons) == ["a", "b/"]
    assert again["b/"].results == ran.results
    assert (tmp_path / "copy" / "report.html").is_file()


def test_a_run_is_saved_to_a_new_folder_only(ran, tmp_path):
    (tmp_path / "something").touch()
    with pytest.raises(NormError, match="is there already, and not empty; save to a new folder"):
        ran.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["something"]
    with pytest.raises(NormError, match="could not be saved"):
        Comparison(ran.results, tmp_path / "gone").save(tmp_path / "copy")


def test_a_run_is_loaded_with_its_own_task(ran):
    with pytest.raises(NormError) as refusal:
        Comparison.load(ran.folder, tiny.a_task(epochs=2))
    assert str(refusal.value) == (
        f"{ran.folder} holds the trials of another task; what differs: epochs (1 there, 2 now); "
        "load it with the task it was run with"
    )
