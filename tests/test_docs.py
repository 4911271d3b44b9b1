"""Pages that are written by a script are what the script writes; code on a page runs."""

import inspect
import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch

import normwise as nw
from normwise.cli import _parser
from normwise.compare.trial import run_trial

DOCS = Path(__file__).parents[1] / "docs"
CATALOGUE = runpy.run_path(str(DOCS / "write_catalogue.py"))


def test_the_catalogue_is_up_to_date():
    written = (DOCS / "catalogue.md").read_text(encoding="utf-8")
    assert written == CATALOGUE["page"](), "run python docs/write_catalogue.py"


def test_the_catalogue_has_every_layer():
    page = (DOCS / "catalogue.md").read_text(encoding="utf-8")
    around = {nw.Normalization, nw.Lazy, nw.Reversible}  # what layers are made of, and go into
    layers = {thing for thing in vars(nw.layers).values() if isinstance(thing, type)} - around
    for layer in layers:
        if issubclass(layer, torch.nn.Module) and not issubclass(layer, nw.Lazy):
            general = layer.__name__ in ("GroupNorm", "LayerNorm", "RMSNorm")
            assert f"`{layer.__name__}{'1d' * general}`" in page


def test_the_catalogue_has_a_formula_for_every_norm():
    for entry in nw.catalogue().values():
        section = CATALOGUE["section"](entry)
        assert f"## `{entry.usage}`" in section
        assert entry.when in section
        assert "```text\ny" in section
        for layer in CATALOGUE["classes"](entry):
            assert f"`{layer.__name__}`" in section


def run_code_of(name):
    """Run all Python of a page, in one namespace, which is returned."""
    page = (DOCS / name).read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, f"docs/{name}", "exec"), names)
    return names


def test_the_code_about_models_that_exist_runs(capsys):
    torch.manual_seed(0)
    run_code_of("surgery.md")
    printed = capsys.readouterr().out
    assert "1: BatchNorm1d, batch of 64, training, after 0, before 2" in printed
    assert "24 groups, since 32 do not divide 72 channels" in printed
    assert "folded into 0, Conv1d" in printed


PREAMBLE = """
import torch, normwise as nw
x, lengths = torch.randn(16, 64, 20), torch.randint(5, 21, (16,))
mask = nw.lengths_to_mask(lengths, 20)
model = torch.nn.Sequential(torch.nn.Conv1d(64, 64, 3), torch.nn.BatchNorm1d(64), torch.nn.ReLU())
optimizer, loader = torch.optim.SGD(model.parameters(), 0.1), [x]
"""


@pytest.mark.parametrize("heading", ["The layers", "On a model you have"])
def test_the_readmes_code_runs_as_it_stands(heading):
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(compile(PREAMBLE + code, heading, "exec"), {})


@pytest.mark.usefixtures("brief_timing")
def test_the_code_about_comparing_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_code_of("comparing.md")
    printed = capsys.readouterr().out
    assert printed.startswith(names["result"].best)
    assert names["result"].table in printed
    assert names["study"].table in printed
    assert names["again"].results == names["result"].results
    assert (tmp_path / "runs" / "waves" / "report.html").is_file()
    assert (tmp_path / "runs" / "waves-by-batch_size" / "batch_size=16").is_dir()
    assert (tmp_path / "runs" / "waves+short-waves" / "report.html").is_file()


def test_every_command_on_a_page_is_one_that_can_be_given():
    given = 0
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["normwise"]:
                _parser().parse_args(words[1:])
                given += 1
    assert given > 10


def test_the_code_about_tasks_runs():
    page = (DOCS / "tasks.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/tasks.md", "exec"), names)
        task = names["task"]
        shorter = task if task.run else task.replace(epochs=1)
        outcome = run_trial(shorter, "rms", 0)
        assert outcome.reason is None, f"{outcome.reason}\n{block}"
    assert len(blocks) == 8


def test_the_page_about_tasks_names_every_option():
    page = (DOCS / "tasks.md").read_text(encoding="utf-8")
    technical = {"higher_is_better", "device", "threads", "name", "where"}
    options = inspect.signature(nw.Task).parameters.keys() - technical
    assert [option for option in options if not re.search(rf"\b{option}\b", page)] == []


def test_the_page_names_every_finding():
    folder = DOCS.parent / "src" / "normwise" / "doctor" / "checks"
    checks = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    names = set(re.findall(r'Finding\(\s*"([a-z-]+)"', checks)) | {"could-fuse", "could-mask"}
    table = (DOCS / "surgery.md").read_text(encoding="utf-8").partition("| finding |")[2]
    assert names == set(
        re.findall(
            r"[a-z]+(?:-[a-z]+)+|refused|stale|exploding",
            "".join(line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")),
        )
    )
