"""The benchmark on a GPU, as far as it can be run without one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normwise.bench.gpu import advice, checks, goals, timing
from normwise.bench.gpu.goals import CASES, GOALS, LONG, ROWS, judge, passes, table
from normwise.ops.triton import launch

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


COMPILES = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own


@pytest.fixture
def script():
    pytest.importorskip("triton")
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_checks_hold_where_statistics_are_split(script, capsys):
    case = next(case for case in goals.TINY if case.name.startswith("trailing rms"))
    with checks.launched(**script.SPLIT):
        assert all(row["fine"] for row in script.check_all([case], "cpu", script.Clock(60), 0))
    assert capsys.readouterr().out == "2 of 2 checks hold\n"


@pytest.mark.slow  # torch compiles
@COMPILES
def test_the_checks_run_without_a_gpu(script, capsys):
    assert script.main(["--interpret", "--only", "trailing rms"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "8 of 8 checks hold",
        "statistics split into tiles, streamed:",
        "2 of 2 checks hold",
        "statistics split into tiles, apart:",
        "2 of 2 checks hold",
        "1 of 1 compile to one graph",
    ]


def test_a_check_that_fails_is_told(script, capsys, monkeypatch):
    monkeypatch.setattr(checks, "LIMITS", dict.fromkeys(checks.LIMITS, (1e-12, 1e-12)))
    case = next(case for case in goals.TINY if case.shape == (3, 8, 5))
    found = script.check_all([case], "cpu", script.Clock(60), 0)
    assert not any(row["fine"] for row in found)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith('WRONG {"case": "batch forward 3x8x5 float32", "variant": "plain"')
    assert said[-1] == "0 of 4 checks hold"


def test_what_time_does_not_allow_is_told(script, capsys):
    assert script.check_all(goals.TINY, "cpu", script.Clock(0), 1) == []
    assert "not checked, for want of time: batch forward 2x4x40" in capsys.readouterr().out


def test_a_check_that_raises_is_told_and_the_others_go_on(script, capsys, monkeypatch):
    def fails(case, device):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(script, "checks", fails)
    assert [row["fine"] for row in script.check_all(goals.TINY[:2], "cpu", script.Clock(60), 0)]
    assert '"error": "RuntimeError: out of memory"' in capsys.readouterr().out


def test_launches_are_decided_anew_for_a_block():
    before = launch.STREAMED
    with checks.launched(STREAMED=0.0):
        assert launch.STREAMED == 0
    assert before == launch.STREAMED > 0


@pytest.mark.parametrize(
    ("input_bytes", "free_bytes", "inputs"),
    [(1e9, 80e9, 2), (64e6, 80e9, 3), (1e6, 80e9, 64), (1e9, 10e9, 2), (50e6, 1e9, 2)],
)
def test_inputs_rotate_among_three_caches_full_as_far_as_memory_goes(
    input_bytes, free_bytes, inputs
):
    assert timing.rotation(int(input_bytes), 50_000_000, int(free_bytes)) == inputs


@pytest.mark.slow  # torch compiles
@COMPILES
def test_a_backward_pass_can_be_timed_again_and_again_compiled_too():
    case = goals.Case("instance", False, (2, 4, 40))
    inputs = [case.input(seed).requires_grad_() for seed in range(2)]
    layers, failed = timing.contestants(case, "cpu", compiled=True)
    assert set(layers) == {"ours", "torch", "compiled"}
    assert list(failed) == ["torchnorm"], "it is not installed here"
    found = {}
    for name, layer in layers.items():
        calls = timing.backwards(layer, inputs)
        assert timing.wall_ms(calls, rounds=1, wait=lambda: None) > 0
        found[name] = calls[1]()[0]
    for name in ("torch", "compiled"):  # each with a gradient that was drawn for it
        assert found[name].shape == found["ours"].shape
    assert len(timing.forwards(layers["ours"], inputs)[0]()) == 2


def test_thresholds_are_advised_from_where_on_we_never_lose():
    times = {2**10: (3, 1), 2**12: (1, 2), 2**14: (2, 1), 2**16: (1, 1), 2**18: (1, 2)}
    rows = [
        {"threshold": "SMALL_ON_GPU", "kind": kind, "elements": n, "triton": a, "torch": b * share}
        for kind, share in (("instance", 1), ("layer", 0.1))
        for n, (a, b) in times.items()
    ]
    rows.append(
        {"threshold": "STREAMED", "pass": "forward", "row_bytes": 8e6, "apart": 3, "streamed": 2}
    )
    assert advice.advised(rows) == [
        f"SMALL_ON_GPU is {1 << 18}; instance: triton beats torch from {2**16} elements on",
        f"SMALL_ON_GPU is {1 << 18}; layer: triton beats torch at none of the sizes",
        "STREAMED, forward: apart over streamed, for rows of 8 MB 1.50",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be timed")
def test_without_a_gpu_it_says_what_to_do():
    done = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 2
    assert done.stdout.startswith("there is no GPU; TRITON_INTERPRET=1")
