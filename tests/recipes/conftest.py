import json
from pathlib import Path

import pytest

from normwise.cli import main

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch, brief_timing):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recipe(capsys):
    """Runs a recipe: its exit code, what it printed, what went to stderr, and its figures."""

    def run(name, *words):
        code = main(["recipe", name, *map(str, words)])
        printed, complaints = capsys.readouterr()
        path = Path("runs") / name / "figures.json"
        return code, printed, complaints, json.loads(path.read_text()) if path.is_file() else None

    return run


@pytest.fixture
def transformers(request):
    """A file of hourly transformer temperatures and loads that is not ours to ship."""
    path = SHARED / request.param
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path
