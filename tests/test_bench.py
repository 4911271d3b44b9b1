"""The benchmark: what it times, what it makes of the figures. How fast things are is not tested."""

import json
import os
import runpy
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest
import torch

import normwise as nw
from normwise import bench, machine
from normwise.bench import cases, chart, chosen, goals, measure, memory, table, turns, write
from normwise.cli import main
from normwise.timing import take_turns
from tolerances import assert_close

TINY = cases.Case("group", True, (4, 3, 7))


# -- timing --------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_contestants_take_turns_and_each_turn_lasts_as_long(warm, monkeypatch):
    now, order, told = [0.0], [], []

    def call(name, seconds):
        def run():
            now[0] += seconds
            order.append(name)

        return name, run

    monkeypatch.setattr("normwise.timing.time.perf_counter", lambda: now[0])
    calls = dict([call("quick", 0.01), call("slow", 1.0)])
    seconds = take_turns(calls, rounds=2, round_s=0.03, warm=warm, on_turn=told.append)
    turns_of_each = ["quick"] * (3 + warm) + ["slow"] * (1 + warm)
    assert order == ["quick"] * 2 + ["slow"] * 2 + turns_of_each * 2
    assert told == ["quick", "slow"] * 2
    assert seconds["slow"] == pytest.approx([1.0, 1.0])
    assert seconds["quick"] == pytest.approx([0.01, 0.01])


def test_memory_that_was_handed_back_is_paid_for_before_the_clock_starts(monkeypatch):
    now, is_first = [0.0], [True]

    def call():
        now[0] += 10.0 if is_first[0] else 1.0
        is_first[0] = False

    def on_turn(_):
        is_first[0] = True

    monkeypatch.setattr("normwise.timing.time.perf_counter", lambda: now[0])
    seconds = take_turns({"call": call}, rounds=2, round_s=1.0, warm=True, on_turn=on_turn)
    assert seconds == {"call": [1.0, 1.0]}


# -- the grid ------------------------------------------------------------------------


def test_the_grid_has_every_norm_on_inputs_of_every_size():
    grid = cases.grid()
    assert len(grid) >= 80
    assert len({case.name for case in grid}) == len(grid)
    assert {case.kind for case in grid} == set(cases.KINDS)
    everywhere = {case.kind for case in grid if case.shape == (10, 20, 100) and not case.backward}
    assert everywhere == set(cases.KINDS)
    assert {case.dtype for case in grid} == {"float32", "bfloat16"}
    assert {case.channels_last for case in grid if len(case.shape) == 4} == {False, True}
    assert not any(case.backward for case in grid if case.kind == "batch inference")


def smaller(case):
    """The same, with few samples and positions."""
    few = [8, *case.shape[1:]]
    for i in range(1, len(few)):
        is_feature = i == (len(few) - 1 if cases.KINDS[case.kind].trailing else 1)
        few[i] = few[i] if is_feature else min(few[i], 4)
    return replace(case, shape=tuple(few), dtype="float32")


@pytest.mark.parametrize("case", dict.fromkeys(map(smaller, cases.grid())), ids=str)
def test_ours_and_torchs_compute_the_same(case):
    results = []
    for layer in case.layers():
        x = case.input().requires_grad_()
        y = layer(x)
        gradients = torch.autograd.grad(y, [x, *layer.parameters()], case.input(1))
        results.append([y, *gradients])
    for mine, torchs in zip(*results, strict=True):
        assert_close(mine, torchs, backward=True)
    assert case.input().is_contiguous() is not case.channels_last


def test_cases_are_chosen_by_name():
    assert {case.kind for case in chosen("instance")} == {"instance"}
    assert all(c.backward and c.dtype == "bfloat16" for c in chosen("group step*bf*16") or [None])
    assert {case.shape for case in chosen(quick=True)} == {(32, 64, 1024)}
    assert len(chosen("rms", quick=True)) == 4
    assert len(chosen()) == len(cases.grid())


# -- one case ------------------------------------------------------------------------


@pytest.fixture
def uncompiled(monkeypatch):
    """A compilation takes seconds."""
    monkeypatch.setattr(torch, "compile", lambda layer, dynamic: layer)


@pytest.mark.usefixtures("uncompiled")
def test_ratios_are_medians_of_ratios_within_a_round(monkeypatch):
    seconds = {
        "clone": [1.0, 2.0, 9.0],
        "ours": [2.0, 8.0, 9.0],
        "torch": [4.0, 8.0, 1.0],
        "compiled": [1.0, 1.0, 1.0],
    }
    monkeypatch.setattr(turns, "take_turns", lambda *_, **__: seconds)
    row = turns.contest(TINY)
    assert row["clone_us"] == 2e6
    assert (row["ours"], row["torch"], row["compiled"]) == (2.0, 4.0, 0.5)
    assert row["over_torch"] == statistics.median([0.5, 1.0, 9.0])
    assert row["over_compiled"] == 8.0
    assert row["case"] == "group step 4x3x7 float32"
    assert (row["pass"], row["layout"], row["failed"]) == ("forward + backward", "contiguous", {})
    assert row["kernel"].startswith(("native, ", "torch, ", "reference, "))
    json.dumps(row)


def test_one_that_fails_has_a_reason_and_the_others_a_time(monkeypatch):
    def compiled(layer, dynamic):
        def refuse(x):
            raise RuntimeError("no compiler\nand a trace")

        refuse.parameters = layer.parameters
        return refuse

    monkeypatch.setattr(torch, "compile", compiled)
    row = turns.contest(TINY)
    assert row["failed"] == {"compiled": "RuntimeError: no compiler"}
    assert row["compiled"] is row["over_compiled"] is None
    assert min(row["ours"], row["torch"], row["over_torch"]) > 0


@pytest.mark.usefixtures("uncompiled")
def test_a_case_leaves_no_gradient_mode_behind():
    turns.contest(replace(TINY, backward=False))
    assert torch.is_grad_enabled()


# -- in pieces -----------------------------------------------------------------------


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("now", [{}, {"date": "x"}])
def test_a_run_in_pieces_keeps_what_this_code_measured(monkeypatch, tmp_path, now):
    stamp = {**machine.stamp(), "commit": "abc"}
    monkeypatch.setattr(bench, "stamp", lambda: stamp)
    monkeypatch.setattr(bench, "compile_beforehand", lambda cases, workers: iter(()))
    second, first = chosen("group*4x3x7*")
    pieces: list[str] = []
    one = measure([first], before=bench.earlier(tmp_path), on_progress=lambda *_: None)
    write(one, tmp_path)
    stamp = {**stamp, **now}
    both = measure(
        [first, second],
        before=bench.earlier(tmp_path),
        on_progress=lambda words, *_: pieces.append(words),
    )
    assert pieces == [second.name]
    assert one["rows"][0] in both["rows"]
    assert [row["case"] for row in both["rows"]] == [second.name, first.name]  # as in the grid


SAME = "normwise: --resume keeps what the same code measured, and "
ANEW = "leave --resume out to measure everything anew"


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (
            {"commit": "abc-dirty"},
            f"{SAME}this tree has changes that are not in abc: commit them, or {ANEW}\n",
        ),
        (
            {"commit": "def"},
            f"{SAME}cpu.json is of commit abc, not def: {ANEW}, or name another --out\n",
        ),
        (
            {"torch": "1.0"},
            f"{SAME}cpu.json is of torch {torch.__version__}, not 1.0: {ANEW}, or name another "
            "--out\n",
        ),
    ],
)
def test_what_other_code_measured_is_not_gone_on_with(monkeypatch, capsys, tmp_path, now, sentence):
    monkeypatch.chdir(tmp_path)
    stamp = {**machine.stamp(), "commit": "abc"}
    monkeypatch.setattr(bench, "stamp", lambda: {**stamp, **now})
    figures = tmp_path / "cpu.json"
    figures.write_text(json.dumps(stamp))
    assert main(["bench", "--quick", "--resume", "--out", "."]) == 2
    assert capsys.readouterr() == ("", sentence)
    assert json.loads(figures.read_text()) == stamp
    assert list(tmp_path.iterdir()) == [figures]


def test_a_run_that_begins_has_nothing_to_go_on_with(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "stamp", lambda: {**machine.stamp(), "commit": "abc"})
    assert bench.earlier(tmp_path / "new") is None


# -- what others do meanwhile --------------------------------------------------------


def burn(seconds):
    """Use the processor for so long; how long it was."""
    start = time.process_time()
    while (used := time.process_time() - start) < seconds:
        pass
    return used


def test_the_work_of_others_is_counted_and_ones_own_is_not(monkeypatch, tmp_path):
    tick = 1 / os.sysconf("SC_CLK_TCK")
    counted = tmp_path / "stat"
    monkeypatch.setattr(machine, "_STATISTICS", counted)
    # user nice system idle iowait irq softirq steal guest guest_nice
    counted.write_text("cpu  1000 10 100 9000 500 1 2 3 0 0\ncpu0 5 5 5 5 5 5 5 5 0 0\n")
    start, others = time.monotonic(), machine.OtherWork()
    assert others.cores() is None, "too early to tell"
    mine = burn(0.25)
    theirs = 0.5
    ticks = round((mine + theirs) / tick) - 20
    counted.write_text(f"cpu  {1000 + ticks} 12 103 9900 600 5 7 9 0 0\n")  # 20 ticks of the rest
    cores = others.cores()
    took = time.monotonic() - start
    assert cores * took == pytest.approx(theirs, abs=3 * tick)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell")
def test_a_process_beside_this_one_keeps_cores_busy():
    program = (
        "import sys, time\n"
        "while time.process_time() < 0.5: pass\n"
        "print('done', flush=True); sys.stdin.read()"
    )
    start, others = time.monotonic(), machine.OtherWork()
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdin=PIPE, stdout=PIPE) as beside:
        beside.stdout.readline()
        cores = others.cores()
        assert cores * (time.monotonic() - start) >= 0.45
        beside.stdin.close()


@pytest.mark.parametrize("content", [None, "", "cpu kept from you\n"])
def test_a_system_that_does_not_tell_of_others_gives_none(monkeypatch, tmp_path, content):
    told = tmp_path / "stat"
    if content is not None:
        told.write_text(content)
    monkeypatch.setattr(machine, "_STATISTICS", told)
    monkeypatch.setattr(machine, "_SHORTEST_S", 0)
    assert machine.OtherWork().cores() is None


# -- goals ---------------------------------------------------------------------------


def row(case, **figures):
    backward = turns.STEP if case.backward else turns.FORWARD
    usual = {
        "case": case.name,
        "norm": case.kind,
        "pass": backward,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "layout": "channels last" if case.channels_last else "contiguous",
        "input_mb": case.input_bytes / 1e6,
        "clone_us": 123456.7,
        "failed": {},
    }
    times = {"ours": 1.0, "torch": 2.0, "compiled": 2.0, "over_torch": 0.3, "over_compiled": 0.5}
    return {**usual, **times, **figures}


def one(kind, backward, shape=(64, 128, 4096), dtype="float32"):
    wanted = cases.Case(kind, backward, shape, dtype)
    assert wanted in cases.grid()
    return wanted


OF_CLONES = [
    ("instance", False, "float32", 1.25, "forward, all but batch: 1.25 clones"),
    ("trailing rms", False, "float32", 1.25, "forward, all but batch: 1.25 clones"),
    ("batch", False, "float32", 1.5, "forward, batch in training: 1.5 clones"),
    ("batch inference", False, "float32", 1.15, "forward, batch in inference: 1.15 clones"),
    ("layer", True, "float32", 3.2, "forward + backward, all but batch: 3.2 clones"),
    ("batch", True, "float32", 4.5, "forward + backward, batch: 4.5 clones"),
    ("batch", True, "bfloat16", 9.0, "bfloat16: twice as many clones"),
    ("group", False, "bfloat16", 2.5, "bfloat16: twice as many clones"),
]


@pytest.mark.parametrize(("kind", "backward", "dtype", "limit", "goal"), OF_CLONES)
def test_a_goal_in_clones_is_met_up_to_its_limit(kind, backward, dtype, limit, goal):
    case = one(kind, backward, dtype=dtype)
    met, missed = (goals.judge([row(case, ours=f * limit)], []) for f in (1.0, 1.1))
    assert f"met     {goal}" in map(str, met)
    sentence = f"missed  {goal}: by 1 of 1; at worst 1.10 times the limit, {case.name}"
    assert sentence in map(str, missed)
    small = row(one(kind, backward, (10, 20, 100)), ours=100.0)  # waits for the call
    assert goal not in [verdict.goal for verdict in goals.judge([small], [])]


def test_goals_against_torch_allow_for_noise_and_count_every_case():
    rows = [row(case) for case in cases.grid()]
    assert all(not verdict.missed for verdict in goals.judge(rows, []))
    rows[7] = {**rows[7], "over_torch": 1.04, "over_compiled": 1.2}
    words = [str(verdict) for verdict in goals.judge(rows, [])]
    assert "met     no case slower than torch.nn" in words
    count = len(rows)
    assert (
        f"missed  no case slower than torch.nn compiled: by 1 of {count}; at worst 1.14 times the "
        f"limit, {rows[7]['case']}"
    ) in words


def test_the_geometric_mean_and_the_small_call():
    small, large = one("layer", False, (10, 20, 100)), one("layer", False)
    rows = [row(small, over_torch=2.1), row(large, over_torch=0.21)]
    words = [str(verdict) for verdict in goals.judge(rows, [])]
    mean = (2.1 * 0.21) ** 0.5 / 0.35
    assert (
        f"missed  geometric mean over torch.nn: 0.35: by 1 of 1; at worst {mean:.2f} times the "
        "limit"
    ) in words
    assert (
        "missed  one call at 10x20x100 as fast as torch.nn's: by 1 of 1; at worst 2.00 times the "
        f"limit, {small.name}"
    ) in words


def test_memory_is_judged_and_what_failed_is_no_success():
    case = one("layer", True)
    of_memory = [{"case": case.name, "ours": 30.0, "torch": 20.0}]
    broken = row(case, ours=None, over_torch=None, over_compiled=None)
    words = [str(verdict) for verdict in goals.judge([broken], of_memory)]
    assert words[0].startswith("missed  forward + backward, all but batch: 3.2 clones: by 1 of 1")
    assert words[-1] == (
        "missed  a training step's peak memory: torch.nn's: by 1 of 1; at worst 1.43 times the "
        f"limit, {case.name}"
    )


# -- what is shown and kept ----------------------------------------------------------


def results(rows):
    of_memory = {"case": "layer step", "input_mb": 8.0, "ours": 30.0, "torch": 20.0, "failed": {}}
    return {**machine.stamp(), "busy_cores": 0.1, "rows": rows, "memory": [of_memory]}


HEADER = ["norm", "pass", "input", "clone", "ours", "torch", "comp.", "/torch", "/comp."]


def test_the_table_fits_a_terminal_and_shows_every_case():
    from rich.console import Console

    rows = [row(case, ours=123.4, over_torch=0.123) for case in cases.grid()]
    rows[0] |= {"compiled": None, "over_compiled": None, "over_torch": 1.2}
    console = Console(width=80, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(table.build_table(rows))
    lines = captured.get().splitlines()
    assert len(lines) == len(rows) + 1
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert lines[0].split() == HEADER
    assert " ".join(lines[1].split()) == "batch fwd 4x3x7 123 ms 123 2.00 – 1.20 –"


def test_the_summary_has_means_memory_goals_and_failures():
    failing = row(TINY, compiled=None, over_compiled=None, failed={"compiled": "RuntimeError: no"})
    lines = list(table.summary(results([failing])))
    assert lines[0] == "0.30 times the time of torch.nn, geometric mean of 1 cases"
    assert "peak of layer step: 30 MB, torch.nn's 20 MB" in lines
    assert lines[-1] == f"{TINY.name}: compiled failed, RuntimeError: no"
    busy = next(table.summary({**results([failing]), "busy_cores": 1.52}))
    assert busy == "other processes kept 1.5 cores busy meanwhile: figures are rough"


def test_figures_and_picture_are_written(tmp_path):
    rows = [row(case) for case in cases.grid() if case.kind in ("batch", "batch inference")]
    rows[0]["compiled"] = None
    figures, picture = write(results(rows), tmp_path / "new" / "folder")
    read = json.loads(figures.read_text())
    assert read["rows"] == rows
    assert {"machine", "threads", "torch", "normwise", "commit", "date"} < set(read)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_whoever_takes_less_than_a_copy_has_a_bar_too(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure)
    )
    chart.draw(results([row(TINY, ours=0.3)]), tmp_path / "cpu.png")
    (panel,) = drawn[0].axes
    assert min(bar.get_width() for bar in panel.patches) == 0.3
    assert panel.get_xlim()[0] < 0.3


def test_the_commit_is_that_of_the_sources_or_none(monkeypatch, tmp_path):
    in_a_tree = (Path(nw.__file__).parents[2] / ".git").exists()
    assert (machine.stamp()["commit"] is not None) is in_a_tree
    for installed in (tmp_path / "normwise", Path(nw.__file__).parents[2] / "x"):
        monkeypatch.setattr(machine, "__file__", str(installed / "machine.py"))
        assert machine.stamp()["commit"] is None


# -- the command ---------------------------------------------------------------------


def test_a_pattern_without_a_case_is_refused(capsys, tmp_path):
    assert main(["bench", "--only", "grupo", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "normwise: no case of the benchmark has a name with 'grupo'; names are as "
        "'batch forward 4x3x7 float32', and * stands for anything\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_measures_prints_and_writes(capsys, tmp_path):
    assert main(["bench", "--only", "layer forward 4x3x7", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.split()[:9] == HEADER
    assert printed.split()[-2:] == [str(tmp_path / "cpu.json"), str(tmp_path / "cpu.png")]
    rows = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert [row["case"] for row in rows] == [
        "layer forward 4x3x7 float32",
        "trailing layer forward 4x3x7 float32",
    ]
    assert all(row["failed"] == {} and row["compiled"] > 0 for row in rows)


def test_progress_is_told(monkeypatch):
    monkeypatch.setattr("normwise.bench.compile_beforehand", lambda cases, workers: iter(cases))
    monkeypatch.setattr("normwise.bench.contest", lambda case: row(case))
    monkeypatch.setattr("normwise.bench.peaks", lambda cases: iter([{"case": "x"}] * len(cases)))
    told, heavy = [], memory.memory_cases()
    found = measure([TINY, *heavy], on_progress=lambda *words: told.append(words))
    assert told[0] == ("compiling torch.nn", 1, 1 + len(heavy))
    assert (TINY.name, 0, 1 + len(heavy)) in told
    assert len(found["rows"]) == 1 + len(heavy)
    assert len(found["memory"]) == len(heavy)
    without = measure(heavy, memory=False, on_progress=lambda *words: None)
    assert without["memory"] == []


@pytest.mark.slow
@pytest.mark.skipif(not memory.memory_cases(), reason="the system does not tell a peak")
def test_the_peak_counts_output_and_gradient():
    (case,) = (case for case in memory.memory_cases() if case.kind == "group")
    (peak,) = memory.peaks([case])
    assert peak["failed"] == {}
    at_least = 2 * case.input_bytes / 1e6
    assert 0.99 * at_least <= peak["torch"] <= 1.5 * at_least
    assert peak["ours"] >= 0.99 * at_least


def test_a_run_that_is_stopped_says_what_is_left_of_it(monkeypatch, capsys, tmp_path):
    def stopped(cases, workers):
        raise KeyboardInterrupt

    monkeypatch.setattr("normwise.bench.compile_beforehand", stopped)
    assert main(["bench", "--quick", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "\nnormwise: stopped; nothing was written\n"
    assert not (tmp_path / "out").exists()


# -- whole models --------------------------------------------------------------------

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "models.py"
models = runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("name", models["MODELS"])
def test_a_model_with_our_norms_computes_what_it_did(name):
    model = replace(models["MODELS"][name], shape=(2, *models["MODELS"][name].shape[1:2], 640))
    variants = models["variants"](model)
    x = torch.randn(model.shape, generator=torch.Generator().manual_seed(0))
    assert models["difference"](variants, x) < 1e-5
    stock, ours, none = (nw.find(variants[who]) for who in ("torch", "ours", "none"))
    assert len(stock) == len(ours) > 5
    assert all(isinstance(site.module, nw.Normalization) for site in ours)
    assert len(none) == len(stock)
    assert all(isinstance(site.module, torch.nn.Identity) for site in none)
    assert variants["none"](x).shape == variants["torch"](x).shape
