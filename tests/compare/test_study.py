"""Several comparisons in one call: values of an option, tasks, runs."""

import json

import pytest

import normwise as nw
import tiny
from normwise.compare import Comparison, Study, compare, report
from normwise.compare.study import is_study, side_by_side
from normwise.errors import NormError

pytestmark = pytest.mark.usefixtures("brief_timing")

QUICK = {"seeds": 2, "progress": False}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep, and what came of it."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda results, path: path.touch())
        return folder, compare(
            tiny.a_task(epochs=1), ["rms"], vary={"batch_size": [8, 24]}, out=folder, **QUICK
        )


@pytest.fixture(autouse=True)
def no_drawing_of_each(monkeypatch):
    """The reports of the comparisons themselves are looked at elsewhere."""
    monkeypatch.setattr(report, "write_report", lambda results, path: path.touch())


def test_each_value_is_a_comparison_in_a_folder_of_its_own(swept):
    folder, study = swept
    assert list(study.comparisons) == ["8", "24"]
    for value in (8, 24):
        own = Comparison.load(folder / f"batch_size={value}")
        assert own.results["task"]["settings"]["batch size"] == str(value)
        assert own.results["task"]["name"] == f"tiny, batch_size={value}"
        assert study[value].results == own.results
        assert (own.folder / "report.html").is_file()
    assert study.by == "batch_size"
    assert study.best in ("as-is", "none", "rms")
    assert "candidate" in study.table
    assert repr(study).endswith(study.advice)


def test_a_study_is_written_and_read_back(swept):
    folder, study = swept
    written = json.loads((folder / "results.json").read_text())
    assert written == study.results
    assert [entry["folder"] for entry in written["comparisons"]] == [
        "batch_size=8",
        "batch_size=24",
    ]
    assert "curves" not in written["comparisons"][0]["candidates"][0]
    assert "and does it depend on the batch size?" in (folder / "report.html").read_text()
    again = Study.load(folder)
    again.results["finished"] = study.results["finished"]
    assert again.results == study.results
    assert is_study(folder)
    assert not is_study(folder / "batch_size=8")


def test_the_same_call_goes_on_and_repeats_nothing(swept):
    folder, study = swept
    again = compare(
        tiny.a_task(epochs=1), ["rms"], vary={"batch_size": [8, 24]}, out=folder, **QUICK
    )
    for value in (8, 24):  # how long each trial took is among the figures
        assert again[value].results["candidates"] == study[value].results["candidates"]


def test_several_tasks_are_compared_each_in_its_own_folder(tmp_path):
    tasks = [tiny.a_task(epochs=1, name=name) for name in ("one", "../two/")]
    study = nw.compare(tasks, ["rms"], out=tmp_path / "both", **QUICK)
    assert isinstance(study, Study)
    assert list(study.comparisons) == ["one", "../two/"]
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == [
        "_two_",
        "one",
        "report.html",
        "results.json",
    ]
    assert study.by == "task"


def test_runs_are_put_side_by_side(swept, tmp_path):
    folder, _ = swept
    runs = [folder / "batch_size=8", folder / "batch_size=24"]
    study = side_by_side(runs, tmp_path / "both", "normwise report a b")
    study.write()
    assert list(study.comparisons) == ["batch_size=8", "batch_size=24"]
    page = (tmp_path / "both" / "report.html").read_text()
    assert "What differs" in page
    assert "batch size" in page
    assert Study.load(tmp_path / "both").best == study.best


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ("one", {"vary": {"batch_size": [8]}}, "batch_size takes at least two values that differ"),
        ("one", {"vary": {"batch_size": [8, 8]}}, "received 8, 8"),
        ("one", {"vary": {}}, "vary one option at a time, as in vary="),
        ("one", {"vary": {"batch_size": [4, 8], "epochs": [1, 2]}}, "received batch_size, epochs"),
        ("one", {"vary": {"batch_size": [0, 8]}}, "batch_size must be a whole number above 0"),
        ("both", {"vary": {"batch_size": [4, 8]}}, "or compare several tasks; not both"),
        ("both", {}, "two tasks are called 'tiny'; give each a name"),
        ("none", {}, "compare takes a Task or several, and received none"),
        ("text", {}, "compare takes a Task or several, received str"),
        ("one", {"vary": {"batch_size": [4, 8]}, "candidates": ["group:3"]}, "group"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, tasks, options, message):
    given = {"one": tiny.task, "both": [tiny.task, tiny.task], "none": [], "text": ["a.py"]}[tasks]
    with pytest.raises(NormError) as refusal:
        compare(given, out=tmp_path / "run", **{"candidates": ["rms"], **options}, **QUICK)
    assert message in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(NormError, match="holds no study; name the folder of one"):
        Study.load(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    assert not is_study(tmp_path)


def test_a_run_is_named_once(swept, tmp_path):
    folder, _ = swept
    with pytest.raises(NormError, match="name each run once"):
        side_by_side([folder / "batch_size=8"] * 2, tmp_path, "")
