"""Every example that is a task, and every recipe, runs as it stands, and learns."""

import json
from pathlib import Path

import pytest

import command
from normwise.cli import main
from normwise.compare.trial import run_trial
from normwise.recipes import vowels

FILES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
TASKS = [path for path in FILES if "\ntask = nw." in path.read_text()]
INTEGRATIONS = {"with_lightning": "lightning", "with_transformers": "transformers"}
EXAMPLES = [path for path in TASKS if path.stem not in INTEGRATIONS]
SHORTER = {"own_loop": []}  # its epochs are its own affair


@pytest.fixture
def results(tmp_path):
    return lambda: json.loads((tmp_path / "results.json").read_text())


def check_scored(results, seeds):
    for row in results["candidates"]:
        assert row["failed"] == []
        assert list(row["scores"]) == [str(seed) for seed in range(seeds)]


def test_there_are_examples():
    ours = {"own_arrays", "own_loop", "segmentation", "forecast"}
    assert {path.stem for path in TASKS} == ours | set(INTEGRATIONS)


@pytest.mark.usefixtures("brief_timing")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, results, capsys):
    shorter = SHORTER.get(path.stem, ["--epochs", "1"])
    words = ["compare", str(path), "--seeds", "2", "--candidates", "group:8", "--workers", "1"]
    assert main([*words, *shorter, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
    check_scored(results(), seeds=2)
    assert results()["task"]["name"] == path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_an_example_runs_as_its_first_line_says(path, tmp_path, results):
    if path.stem in INTEGRATIONS:
        pytest.importorskip(INTEGRATIONS[path.stem])
    text = path.read_text()
    assert f"`normwise compare examples/{path.name}`" in text.partition("\n")[0]
    words = ("compare", path, "--seeds", 2, "--out", tmp_path)
    code, _, complaints = command.run(*words, cwd=tmp_path)
    assert (code, complaints) == (0, "")
    check_scored(results(), seeds=2)


def test_the_vowels_are_learned_in_one_epoch():
    task = vowels.task().replace(epochs=1)
    outcome = run_trial(task, "batch", 0)
    chance = 1 / vowels.SPEAKERS
    assert outcome.reason is None
    assert outcome.score > 4 * chance


@pytest.mark.usefixtures("brief_timing")
def test_without_a_file_the_vowels_are_compared(tmp_path, results, capsys):
    words = ["--epochs", "1", "--seeds", "1", "--workers", "1", "--candidates", "group:8"]
    assert main(["compare", *words, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
    check_scored(results(), seeds=1)
    assert results()["task"]["name"] == "japanese-vowels"
