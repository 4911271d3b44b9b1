"""The doctor finds each fault that was planted, is silent where there is none, and cures."""

import copy
import json

import pytest
import torch
import zoo
from torch import nn

import command
import normwise as nw
from normwise.cli import main

NAMES = [f"{i}-{case.check}" for i, case in enumerate(zoo.SICK)]


def options_of(case, model, **more):
    options = dict(case.options)
    if callable(options.get("optimizer")):
        options["optimizer"] = options["optimizer"](model, **more)
    return options


def of_check(findings, check):
    return [finding for finding in findings if finding.check == check]


@pytest.mark.parametrize("case", zoo.SICK, ids=NAMES)
def test_a_fault_is_found_and_cured(case):
    torch.manual_seed(0)
    model, sample = case.build()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    findings = nw.doctor(model, sample, **options_of(case, model))
    (finding,) = of_check(findings, case.check)
    assert finding.where == case.where
    assert finding.severity == case.severity
    assert finding.evidence
    assert findings.healthy is all(f.severity == "hint" for f in findings)

    after = model.state_dict()
    assert all(a.numpy().tobytes() == before[name].numpy().tobytes() for name, a in after.items())
    assert [module.training for module in model.modules()] == modes
    if case.check == "weight-decay":
        well, options = model, options_of(case, model, split=True)
    elif case.cure is None:
        well, options, sample = model, {}, zoo.signal()
    else:
        well, options = case.cure(model, sample), options_of(case, model)
    left = nw.doctor(well, sample, **options)
    assert of_check(left, case.check) == []
    assert not {f.check for f in left if f.severity == "error"}, str(left)


@pytest.mark.parametrize("number", range(len(zoo.one_by_one())))
def test_a_healthy_model_is_left_in_peace(number):
    torch.manual_seed(0)
    model, sample, options = zoo.one_by_one()[number]
    if options.pop("optimizer", False):
        options["optimizer"] = zoo.optimizer_of(model, split=True)
    findings = nw.doctor(model, sample, **options)
    assert findings == ()
    assert findings.healthy
    assert str(findings) == "Nothing found: the norms of this model are well."


def test_every_check_has_its_case():
    import ast
    from pathlib import Path

    from normwise.doctor import checks

    files = Path(checks.__file__).parent.glob("*.py")
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    named = {
        node.args[0].value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "Finding"
        and isinstance(node.args[0], ast.Constant)
    }
    named |= {"could-fuse", "could-mask"}
    assert named == {case.check for case in zoo.SICK}


def several():
    return nn.Sequential(
        *(zoo.conv(bias=True), nn.BatchNorm1d(8), nn.ReLU(), zoo.conv(8), nn.InstanceNorm1d(7)),
        *(nn.AdaptiveAvgPool1d(1), nn.GroupNorm(8, 8)),
    )


def test_the_report_is_worst_first_and_80_columns_wide():
    findings = nw.doctor(several(), zoo.signal(3), steps=10)
    order = [f.severity for f in findings]
    assert order == sorted(order, key=["error", "warning", "hint"].index)
    assert not findings.healthy
    text = str(findings)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("2 errors, 2 warnings, 2 hints.\n\nERROR   6  (erased-groups)\n")
    assert "\n        cure nw.swap(" in text
    rows = findings.rows()
    assert json.loads(json.dumps(rows)) == json.loads(json.dumps(rows))
    assert [row["check"] for row in rows] == [f.check for f in findings]


@pytest.mark.parametrize("case", zoo.SICK, ids=NAMES)
def test_every_finding_fits_in_80_columns(case):
    model, sample = case.build()
    text = str(nw.doctor(model, sample, **options_of(case, model)))
    assert max(map(len, text.splitlines())) <= 80


def test_json_has_no_nan():
    model, sample = zoo.exploding()
    model[1].running_var.fill_(0.0)
    model[1].weight.data.fill_(float("inf"))
    (finding,) = of_check(nw.doctor(model, sample), "exploding")
    assert finding.severity == "error"
    text = json.dumps(nw.doctor(model, sample).rows(), allow_nan=False)
    assert {"1": "inf"} in [row["evidence"] for row in json.loads(text)]


REFUSED = [
    ({"model": nn.Sequential(nn.Linear(2, 2))}, "Sequential has no normalization layer to examine"),
    ({"sample": 3}, "sample must be a tensor, a tuple of arguments or a mapping, received int 3"),
    ({"steps": 0}, "steps must be a whole number above 0, received 0"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_what_cannot_be_examined_is_refused(options, sentence):
    usual = {"model": several(), "sample": zoo.signal()}
    with pytest.raises(nw.NormError) as caught:
        nw.doctor(**usual | options)
    assert str(caught.value) == sentence


# -- the command -----------------------------------------------------------------------


MODEL = """
import torch, normwise as nw
def build(): return torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3), torch.nn.BatchNorm1d(8))
def healthy(): return torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3, bias=False), nw.BatchNorm1d(8))
module = build()
number = 3
"""


@pytest.fixture
def doctor(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main(["doctor", *words])
        return code, *capsys.readouterr()

    return run


def test_the_command_prints_the_report_and_says_whether_something_is_wrong(doctor):
    code, printed, complaints = doctor("my_model.py:build", "--sample", "2,4,12")
    assert (code, complaints) == (1, "")
    assert printed.startswith("1 warning, 2 hints.\n")
    assert doctor("my_model.py:module", "--sample", "2,4,12")[0] == 1
    code, printed, _ = doctor("my_model.py:healthy", "--sample", "16,4,12", "--steps", "100")
    assert (code, printed) == (0, "Nothing found: the norms of this model are well.\n")
    assert doctor("my_model.py:healthy", "--sample", "16,4,12", "--lengths", ",".join("12" * 8))


def test_the_command_writes_json(doctor):
    code, printed, _ = doctor("my_model.py:build", "--sample", "2,4,12", "--json")
    assert code == 1
    assert [row["check"] for row in json.loads(printed)] == [
        *("small-batch", "useless-bias", "could-mask"),
    ]


def test_a_sample_from_a_file(doctor, tmp_path):
    import numpy

    numpy.save(tmp_path / "x.npy", zoo.signal().numpy())
    torch.save(zoo.signal(), tmp_path / "x.pt")
    torch.save([1], tmp_path / "list.pt")
    assert doctor("my_model.py:healthy", "--sample", "x.npy")[0] == 0
    assert doctor("my_model.py:healthy", "--sample", "x.pt")[0] == 0
    assert doctor("my_model.py:healthy", "--sample", "list.pt")[0] == 2


COMPLAINTS = [
    (("my_model.py", "8,4,12"), "model 'my_model.py' needs a name in it: write my_model.py:build"),
    (("other.py:build", "8,4,12"), "there is no file other.py"),
    (("my_model.py:number", "8,4,12"), "my_model.py has no number that is a module or a function"),
    (("my_model.py:nothing", "8,4,12"), "my_model.py has no nothing that is a module or a func"),
    (("my_model.py:build", "x.npy"), "--sample 'x.npy' is neither a shape, as 8,12,100, nor a"),
]


@pytest.mark.parametrize(("words", "sentence"), COMPLAINTS)
def test_the_command_refuses_in_one_line(doctor, words, sentence):
    model, sample = words
    code, printed, complaints = doctor(model, "--sample", sample)
    assert (code, printed) == (2, "")
    assert complaints.startswith(f"normwise: {sentence}")
    assert complaints.count("\n") == 1


def test_in_a_process_of_its_own(tmp_path):
    (tmp_path / "my_model.py").write_text(MODEL)
    words = ("doctor", "my_model.py:build", "--sample", "2,4,12")
    code, printed, complaints = command.run(*words, cwd=tmp_path)
    assert (code, complaints) == (1, "")
    assert "small-batch" in printed
