"""The benchmark on a GPU, as far as it can be run without one."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normwise import machine
from normwise.bench.cases import KINDS
from normwise.bench.gpu import advice, checks, goals, timing
from normwise.bench.gpu.device import Gpu, Processor
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


@pytest.fixture
def run(script, tmp_path):
    return script.Run(Processor(), tmp_path)


def found(run):
    return json.loads(run.file.read_text())


def test_it_runs_whole_on_a_processor(script, capsys, tmp_path):
    asked = ["--rehearse", "--eager", "--only", "trailing rms", "--out", str(tmp_path)]
    assert script.main(asked) == 0
    said = capsys.readouterr()
    *lines, file = said.out.splitlines()
    assert max(map(len, [*lines, *said.err.splitlines()])) <= 80
    assert file == f"written to {next(tmp_path.iterdir())}"
    assert lines[0] == "3 of 3 checks hold"
    assert lines[2].startswith("CPU ")
    assert len([line for line in lines if line.startswith("trailing rms")]) == 6
    assert "met     over 1 MB" in said.out or "missed  over 1 MB" in said.out
    assert "SMALL_ON_GPU is 262144; instance: triton beats torch" in said.out
    assert "STREAMED, backward: apart over streamed, for rows of 0 MB" in said.out
    assert said.err.splitlines()[1] == "timed 1 of 3: trailing rms forward 32x64x1024 float32"
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("cpu-")
    results = json.loads(file.read_text())
    assert results["device"].startswith("CPU ")
    assert {"torch", "triton", "cuda", "driver", "commit", "advice", "apart"} <= set(results)
    assert [len(results[part]) for part in ("checks", "rows", "thresholds")] == [3, 6, 3]
    assert not any(row["failed"].keys() & {"ours", "torch"} for row in results["rows"])


@pytest.mark.slow  # torch compiles
@COMPILES
def test_it_runs_whole_and_compiled_on_a_processor(script, tmp_path):
    assert script.main(["--rehearse", "--only", "instance", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    results = json.loads(file.read_text())
    assert all("compiled" in row["kernel_ms"] for row in results["rows"])
    assert len(results["thresholds"]) == 5


@pytest.mark.slow  # torch compiles
@COMPILES
def test_the_checks_run_without_a_gpu(script, capsys):
    assert script.main(["--interpret", "--only", "trailing rms"]) == 0
    said = capsys.readouterr()
    assert said.out == "19 of 19 checks hold\n"
    assert said.err.splitlines()[4].startswith("checked in small tiles, streamed 1 of 1: ")
    assert said.err.splitlines()[-1] == "compiled 1 of 1: trailing rms forward 2x4x40 float32"


TORCH_AND_TRITON = """
import sys
for name in ("numpy", "scipy", "rich", "matplotlib", "cloudpickle", "pandas"):
    sys.modules[name] = None
import warnings
warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # as torch says, once
sys.path.insert(0, sys.argv[1])
import gpu
from normwise.bench.gpu import goals
run = gpu.Run(gpu.Processor(), None)
gpu.measure(run, goals.Programme([], [], [], goals.SMALL[:2]), eager=True)
print(gpu.main(["--interpret"]))
"""


def test_it_needs_torch_and_triton_alone():
    done = subprocess.run(
        [sys.executable, "-c", TORCH_AND_TRITON, SCRIPT.parent], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "WRONG" not in done.stdout
    assert done.stdout.endswith("NumPy, which is not installed\n2\n")


def test_a_check_that_fails_is_told(script, run, capsys, monkeypatch):
    monkeypatch.setattr(checks, "LIMITS", dict.fromkeys(checks.LIMITS, (1e-12, 1e-12)))
    case = next(case for case in goals.TINY if case.shape == (3, 8, 5))
    programme = goals.Programme([case], [], [])
    assert not script.check_everything(run, programme, eager=True)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("WRONG   batch forward 3x8x5 float32: variant plain, forward ")
    assert said[1].startswith("        ")
    assert said[-1] == "1 of 5 checks hold", "a step that is called again needs no limits"
    assert [row["fine"] for row in found(run)["checks"]] == [False] * 4 + [True]


def test_what_time_does_not_allow_is_told(script, capsys):
    run = script.Run(Processor(), None, 0.001)
    run.start -= 1
    assert list(run.each("checked", goals.TINY, 0.5)) == []
    assert capsys.readouterr().out == (
        "not checked, for want of time: batch forward 2x4x40 float32, 32 in all\n"
    )


def test_progress_tells_the_time_that_is_left(script, capsys):
    run = script.Run(Processor(), None, 100)
    assert list(run.each("timed", goals.TINY[:2], 0.5)) == goals.TINY[:2]
    first, second = capsys.readouterr().err.splitlines()
    assert first == "timed 1 of 2, 100 s left: batch forward 2x4x40 float32"
    assert second.startswith("timed 2 of 2, ")


def test_a_case_that_raises_is_told_and_the_others_go_on(script, run, capsys, monkeypatch):
    def fails(case, *_, **options):
        if case == goals.TINY[0]:
            raise RuntimeError("out of\nmemory")
        return []

    for name in ("checks", "timed"):
        monkeypatch.setattr(script, name, fails)
    script.check_all(run, goals.TINY[:2], "")
    assert [row["fine"] for row in found(run)["checks"]] == [False, True, True]
    script.time_all(run, goals.TINY[:2], eager=True)
    assert capsys.readouterr().out.splitlines() == [
        "WRONG   batch forward 2x4x40 float32: variant any, error RuntimeError: out of",
        "        memory",
        "WRONG   batch forward 2x4x40 float32: not timed, RuntimeError: out of memory",
    ]


def test_whoever_stops_it_keeps_what_was_found(script, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "timed", raises(KeyboardInterrupt))
    asked = ["--rehearse", "--eager", "--only", "trailing rms", "--out", str(tmp_path)]
    assert script.main(asked) == 130
    (file,) = tmp_path.iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"stopped; what was found until then is in {file}"
    )
    assert len(json.loads(file.read_text())["checks"]) == 3


def raises(error):
    def call(*_, **options):
        raise error

    return call


def test_what_streams_is_checked_first_and_then_every_norm():
    assert goals.ON_A_GPU.checked[: len(LONG)] == LONG
    following = goals.ON_A_GPU.checked[len(LONG) : len(LONG) + len(KINDS)]
    assert [case.kind for case in following] == list(KINDS)
    assert goals.ON_A_GPU.timed[: len(LONG)] == LONG
    assert goals.ON_A_GPU.only("layer").timed[0].kind == "trailing layer"
    assert {kind for kind in KINDS if "layer" in kind} == {
        case.kind for case in goals.ON_A_GPU.only("layer").checked
    }


def test_the_stamp_names_triton_and_the_driver(monkeypatch, tmp_path):
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86\nGCC version:\n")
    monkeypatch.setattr(machine, "_DRIVER", version)
    stamp = machine.stamp()
    assert stamp["driver"].endswith(" 570.86")
    assert stamp["cuda"] == torch.version.cuda
    assert stamp["triton"] == pytest.importorskip("triton").__version__


def test_a_gpu_is_asked_what_a_processor_is():
    def methods(kind):
        return {name: inspect.signature(f) for name, f in vars(kind).items() if callable(f)}

    assert methods(Gpu) == {
        name: signature
        for name, signature in methods(Processor).items()
        if name != "free_bytes"  # which is asked of normwise.machine for both
    }


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
    layers, failed = timing.contestants(case, Processor(), compiled=True)
    assert set(layers) == {"ours", "torch", "compiled"}
    assert list(failed) == ["torchnorm"], "it is not installed here"
    gradients = {}
    for name, layer in layers.items():
        calls = timing.backwards(layer, inputs)
        assert timing.wall_ms(Processor(), calls, rounds=1) > 0
        gradients[name] = calls[1]()[0]
    for name in ("torch", "compiled"):  # each with a gradient that was drawn for it
        assert gradients[name].shape == gradients["ours"].shape
    assert len(timing.forwards(layers["ours"], inputs)[0]()) == 2


def test_thresholds_are_advised_from_where_on_we_never_lose():
    times = {2**10: (3, 1), 2**12: (1, 2), 2**14: (2, 1), 2**16: (1, 1), 2**18: (1, 2)}
    rows = [
        {"threshold": "SMALL_ON_GPU", "kind": kind, "elements": n, "triton": a, "torch": b * share}
        for kind, share in (("instance", 1), ("layer", 0.1))
        for n, (a, b) in times.items()
    ]
    figures = {
        "forward apart": 3,
        "forward streamed": 2,
        "backward apart": 1,
        "backward streamed": 2,
    }
    rows.append({"threshold": "STREAMED", "row_bytes": 8e6, **figures})
    assert advice.advised(rows) == [
        f"SMALL_ON_GPU is {1 << 18}; instance: triton beats torch from {2**16} elements on",
        f"SMALL_ON_GPU is {1 << 18}; layer: triton beats torch at none of the sizes",
        "STREAMED, forward: apart over streamed, for rows of 8 MB 1.50",
        "STREAMED, backward: apart over streamed, for rows of 8 MB 0.50",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be timed")
def test_without_a_gpu_it_says_what_to_do():
    done = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 2
    assert done.stdout.startswith("there is no GPU; --interpret")
