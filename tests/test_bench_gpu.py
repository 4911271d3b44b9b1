"""The benchmark on a GPU, as far as it can be run without one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normwise.bench.gpu import goals
from normwise.bench.gpu.goals import CASES, GOALS, LONG, ROWS, judge, passes, table

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def row(case, way="forward", **times):
    """A measured row; `times` are kernel milliseconds, the copy takes 1."""
    ours = times.get("ours")
    found = {
        "case": case.name, "kind": case.kind, "pass": way, "bytes": case.input_bytes,
        "copy_ms": 1.0, "kernel_ms": times, "wall_ms": times, "failed": {},
    }  # fmt: skip
    if ours:
        found["of_copy"] = passes(case.kind, way) / 2 / ours
    else:
        found["failed"] = {"ours": "RuntimeError: out of memory"}
    return found


def test_the_cases_are_those_that_goals_are_about():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert {case.shape for case in LONG} == {(8, 256, 65536), (2, 4, 4_000_000)}
    assert all(case.input_bytes >= 64e6 for case in [*ROWS, *goals.CHANNELS, *goals.TRAINED])
    assert {case.shape[-1] for case in goals.SHORT} == {64, 128, 256, 512}
    for case in CASES:
        assert judge([row(case, ours=1.0, torch=1.0)]), f"no goal is about {case.name}"


@pytest.mark.parametrize(
    ("kind", "way", "count"),
    [
        ("group", "forward", 2),
        ("group", "backward", 3),
        ("batch", "forward", 3),
        ("batch", "backward", 5),
    ],
)
def test_a_share_of_the_copy_counts_what_must_be_read_and_written(kind, way, count):
    assert passes(kind, way) == count


def test_goals_are_judged():
    case = ROWS[0]
    said = [str(v) for v in judge([row(case, ours=1.0, torch=3.5, compiled=0.5)])]
    assert said == [
        "met     rows, forward: 90% of a copy",
        "met     over 1 MB, not slower than torch",
        "missed  over 1 MB, not slower than torch compiled: by 1 of 1; at worst 1.90 times the "
        f"limit, {case.name}, forward",
        "met     group and instance norm 3 times as fast as torch",
    ]
    assert "missed  rows, backward: 80% of a copy: by 1 of 1; at worst 1.07" in str(
        judge([row(case, "backward", ours=2.0)])[0]
    )
    small = goals.SMALL[0]
    assert [v.missed for v in judge([row(small, ours=1.2, torch=1.0)])] == [1]
    assert judge([row(case)]) == [], "what failed is told in the table"
    assert len(GOALS) == 14


def test_the_table_fits_a_terminal():
    rows = [
        row(CASES[0], ours=1.25, torch=5.0, compiled=2.5, liger=1.5),
        row(CASES[0], "backward", ours=2.0, torch=5.0),
        row(CASES[1]),
    ]
    lines = table(rows).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[-6:] == ["forward", "859", "80%", "4.00", "2.00", "4.00"]
    assert lines[2].split() == ["liger:", "1.20"]
    assert lines[3].split()[-2:] == ["-", "2.50"]
    assert lines[4].endswith("RuntimeError: out of memory")


@pytest.fixture
def script():
    pytest.importorskip("triton")
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_checks_run_without_a_gpu(script, capsys):
    assert script.main(["--interpret", "--only", "trailing rms"]) == 0
    assert capsys.readouterr().out == "8 of 8 checks hold\n"


def test_a_check_that_fails_is_told(script, capsys, monkeypatch):
    monkeypatch.setattr(script, "LIMITS", dict.fromkeys(script.LIMITS, (1e-12, 1e-12)))
    monkeypatch.setattr(script, "TINY", [c for c in goals.TINY if c.shape == (3, 8, 5)][:1])
    assert script.main(["--interpret"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith('WRONG {"case": "batch forward 3x8x5 float32", "variant": "plain"')
    assert said[-1] == "0 of 4 checks hold"


def test_what_time_does_not_allow_is_told(script, capsys):
    assert script.check_all(goals.TINY, "cpu", script.Clock(0), 1) == []
    assert "not checked, for want of time: batch forward 2x4x40" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be timed")
def test_without_a_gpu_it_says_what_to_do():
    done = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 2
    assert done.stdout.startswith("there is no GPU; TRITON_INTERPRET=1")
