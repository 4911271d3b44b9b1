"""The command: what it prints, what it refuses and leaves alone, what it shows while it runs."""

import argparse
import json
import os
import re
import sys

import pytest

import command
import tiny
from normwise.catalogue import catalogue
from normwise.cli import _parser, main
from normwise.compare import report
from normwise.compare.ledger import FILE_NAME, Ledger
from normwise.recipes import recipes
from normwise.version import __version__

pytestmark = pytest.mark.usefixtures("brief_timing")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(report, "write_report", lambda results, path: path.touch())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("group:8,rms", ["group:8", "rms"]),
        ("group:8 rms,", ["group:8", "rms"]),
        ("batch:momentum=0.01,eps=1e-3,rms", ["batch:momentum=0.01,eps=1e-3", "rms"]),
    ],
)
def test_candidates_are_split_and_keep_their_arguments(text, names):
    assert _parser().parse_args(["compare", "--candidates", text]).candidates == names


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("90", 90), ("10m", 600), ("1.5h", 5400), ("1h30m", 5400)]
)
def test_a_budget_is_a_time(text, seconds):
    assert _parser().parse_args(["compare", "--budget", text]).budget == seconds


def test_a_budget_that_is_no_time_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--budget", "10 min"])
    assert "'10 min' is no time; write 90s, 10m, 2h or 1h30m" in capsys.readouterr().err


@pytest.fixture
def norm(capsys):
    """Runs the command here: its exit code, what it printed, and what went to stderr."""

    def run(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


COMMANDS = ("compare", "report", "doctor", "bench", "recipe", "list")
SHORT = ("--seeds", 1, "--epochs", 1, "--workers", 1)
BASICS = ("compare", command.TINY, *SHORT, "--candidates", "rms")


def snapshot(folder):
    """Every file below, with its bytes; a folder is None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def widest(text):
    return max(map(len, text.splitlines()))


# ── what it prints ──────────────────────────────────────────────────────────────────────────


def test_a_run_prints_the_table_the_sentence_and_the_paths(norm, tmp_path):
    words = ("compare", command.TINY, "--seeds", 2, "--candidates", "rms", "--out", "run")
    code, printed, complaints = norm(*words, "--workers", 1)
    assert (code, complaints) == (0, "")
    assert widest(printed) <= 80
    assert "\x1b" not in printed
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    table, why, paths = printed.strip().split("\n\n")
    assert table.split()[:2] == ["candidate", "accuracy"]
    assert len(table.splitlines()) == 1 + 3 + 2
    assert table.endswith("The best is dropped in at most 5 %. The race took 6 of 6 trials.")
    assert " ".join(why.split()) == results["recommendation"]["why"]
    assert paths.splitlines() == ["run/report.html", "run/results.json", "run/ledger.sqlite"]
    assert all((tmp_path / path).is_file() for path in paths.splitlines())
    assert not re.search("  $", printed, re.MULTILINE), "lines filled with spaces"
    assert results["command"] == f"normwise {' '.join(map(str, words))} --workers 1"


@pytest.mark.usefixtures("no_drawing")
def test_a_run_goes_to_runs_under_the_tasks_name(norm, tmp_path):
    assert norm(*BASICS)[0] == 0
    assert (tmp_path / "runs" / "tiny" / FILE_NAME).is_file()


@pytest.mark.usefixtures("no_drawing")
def test_json_is_the_results_and_nothing_else(norm, tmp_path):
    code, printed, complaints = norm(*BASICS, "--out", "run", "--json")
    assert (code, complaints) == (0, "")
    assert json.loads(printed) == json.loads((tmp_path / "run" / "results.json").read_text())
    assert norm("report", "run", "--json")[1] == printed


def test_a_report_is_drawn_again(norm, tmp_path):
    _, printed, _ = norm(*BASICS, "--out", "run")
    before = snapshot(tmp_path / "run")
    for name in ("results.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    code, again, complaints = norm("report", "run")
    assert (code, complaints) == (0, "")
    assert again == printed
    after = snapshot(tmp_path / "run")
    assert after["results.json"] == before["results.json"]
    assert after.keys() == before.keys()


def test_a_sweep_prints_its_table_and_is_drawn_again(norm, tmp_path):
    vary = ("--vary", "batch-size=8,24", "--out", "swept")
    code, printed, complaints = norm(*BASICS, *vary)
    assert (code, complaints) == (0, "")
    assert widest(printed) <= 80
    table, signs, advice, paths = printed.strip().split("\n\n")
    heading = "candidate 8 24 sensitivity mean rank"
    assert table.splitlines()[0].split() == heading.split()
    assert "baseline" in signs
    assert "recommended" in advice.lower()
    assert paths.splitlines() == ["swept/report.html", "swept/results.json"]
    assert norm("report", "swept")[1] == printed
    runs = [f"swept/batch_size={value}" for value in (8, 24)]
    code, printed, complaints = norm("report", *runs)
    assert (code, complaints) == (0, "")
    assert (tmp_path / "runs" / "batch_size=8+batch_size=24" / "report.html").is_file()


@pytest.mark.parametrize("given", ["8,24", "=8", "batch_size"])
def test_what_is_varied_has_a_name(capsys, given):
    with pytest.raises(SystemExit):
        main(["compare", "--vary", given])
    assert f"{given!r} is not KEY=A,B,…, as in batch_size=2,8,32" in capsys.readouterr().err


def test_values_are_numbers_where_they_can_be():
    options = _parser().parse_args(["compare", "--vary", "a-b=1,1e-3,cosine"])
    assert options.vary == {"a_b": [1, 1e-3, "cosine"]}


@pytest.mark.usefixtures("no_drawing")
def test_a_long_path_stays_in_one_piece(norm, tmp_path):
    deep = tmp_path / "a-long-name-for-a-folder" / "and-another-one-below-it" / ("x" * 40)
    _, printed, _ = norm(*BASICS, "--out", deep)
    assert f"{deep}/report.html\n" in printed


@pytest.mark.usefixtures("no_drawing")
def test_failures_are_listed_below_the_table(norm, tmp_path):
    (tmp_path / "fussy.py").write_text(
        "import tiny, normwise as nw\n"
        "class Fussy(tiny.Net):\n"
        "    def forward(self, x):\n"
        "        if isinstance(self.layers[1], nw.RMSNorm1d):\n"
        "            raise RuntimeError('[bold]no root today')\n"
        "        return super().forward(x)\n"
        "task = tiny.a_task(model=Fussy)\n"
    )
    code, printed, complaints = norm("compare", "fussy.py", *SHORT, "--candidates", "rms")
    assert (code, complaints) == (0, "")
    assert "rms, seed 0: RuntimeError: [bold]no root today\n" in printed


def test_the_list_is_the_whole_catalogue(norm):
    code, printed, complaints = norm("list")
    assert (code, complaints) == (0, "")
    assert widest(printed) <= 80
    assert all(f"\n{entry.usage} " in printed for entry in catalogue().values())


@pytest.mark.parametrize(
    "words",
    [[], *([name] for name in COMMANDS), *(["recipe", name] for name in recipes())],
    ids=" ".join,
)
def test_help_fits_a_terminal_but_for_commands_to_copy(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith("    ")] == []


def commands_of(parser):
    """The parser and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from commands_of(one)


def test_every_option_is_explained():
    silent = [
        f"{parser.prog} {action.option_strings or action.dest}"
        for parser in commands_of(_parser())
        for action in parser._actions
        if not (action.help or isinstance(action, argparse._SubParsersAction))
    ]
    assert silent == []


def test_help_tells_defaults_as_they_are_written(capsys):
    with pytest.raises(SystemExit):
        main(["recipe", "style", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--size PX of the longer side; default: 512 " in told
    assert "for style; default: relu1_1,relu2_1,relu3_1,relu4_1,relu5_1 " in told
    assert "default: 1 for lbfgs, 0.02 for adam --lr-decay X left at the end; default: 1 " in told
    assert "--fresh begin anew --out DIR for the results; default: runs/style " in told


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"normwise {__version__}\n"


# ── what it does when nobody reads on ───────────────────────────────────────────────────────


UNREAD = [("--help", "1"), ("--help", ""), ("list", ""), ("recipe", "")]  # and PYTHONUNBUFFERED


def test_whoever_reads_the_output_may_leave(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does once it has its lines
    started = [
        command.start(word, cwd=tmp_path, stdout=writing, PYTHONUNBUFFERED=unbuffered)
        for word, unbuffered in UNREAD
    ]
    os.close(writing)
    complaints = [process.communicate(timeout=command.PATIENCE_S)[1] for process in started]
    assert complaints == [""] * len(UNREAD)
    assert [process.returncode for process in started] == [141] * len(UNREAD)


def test_another_pipe_that_breaks_is_no_reader_who_left(monkeypatch, norm):
    def loses_its_worker(options):
        raise BrokenPipeError("a worker's")

    monkeypatch.setattr("normwise.cli.norms._list", loses_its_worker)
    with pytest.raises(BrokenPipeError, match="a worker's"):
        norm("list")


# ── what it does with its options ───────────────────────────────────────────────────────────


@pytest.mark.usefixtures("no_drawing")
def test_options_reach_the_task(norm, tmp_path):
    words = (
        "--epochs",
        3,
        "--batch-size",
        12,
        "--seeds",
        2,
        "--candidates",
        "rms, group:4 instance",
    )
    assert norm("compare", command.TINY, *words, "--workers", 1, "--out", "run")[0] == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["task"]["settings"]["epochs"] == "3"
    assert results["task"]["settings"]["batch size"] == "12"
    assert results["seeds"] == [0, 1]
    names = [row["name"] for row in results["candidates"]]
    assert names == ["as-is", "none", "rms", "group:4", "instance"]
    assert len(results["candidates"][0]["curves"]["0"]) == 3


@pytest.mark.usefixtures("no_drawing")
def test_fresh_starts_again(norm, tmp_path):
    norm(*BASICS, "--out", "run")
    other = ("compare", command.TINY, "--seeds", 1, "--epochs", 2, "--workers", 1, "--out", "run")
    assert norm(*other, "--candidates", "rms")[0] == 2
    assert norm(*other, "--candidates", "rms", "--fresh")[0] == 0
    (tmp_path / "run" / FILE_NAME).write_text("a corrupt ledger")
    assert norm(*BASICS, "--out", "run", "--fresh")[0] == 0


# ── what it refuses ─────────────────────────────────────────────────────────────────────────

NAN = "task = tiny.a_task(metric=lambda outputs, targets: float('nan'), higher_is_better=True)"
WIDE = "task = tiny.a_task(model=lambda: nn.Sequential(nn.Conv1d(2, 64, 3), nn.BatchNorm1d(64)))"
BARE = "task = tiny.a_task(model=lambda: nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU()))"
OWN = "task = tiny.a_task(run=lambda model, seed, report: 'high')"
KNOWN = f"Known are {', '.join(entry.usage for entry in catalogue().values())}"
GROUPS = "1 (BatchNorm1d(64)): 5 groups do not divide 64 channels; these do: 1, 2, 4, 8, 16, 32, 64"

REFUSED = [
    (
        None,
        ["missing.py"],
        "there is no file missing.py; a task file is a Python file with task = nw.Task(…)",
    ),
    (
        "1 / 0",
        ["mine.py"],
        "mine.py, line 3, raised on import, ZeroDivisionError: division by zero",
    ),
    (
        "raise ValueError('one\\ntwo')",
        ["mine.py"],
        "mine.py, line 3, raised on import, ValueError: one",
    ),
    ("", ["mine.py"], "mine.py has no `task`; write task = nw.Task(model=…, train=…, valid=…)"),
    (
        None,
        [command.TINY, "--candidates", "grop:8"],
        f"candidate 'grop:8' is not known; did you mean 'group:8'? {KNOWN}",
    ),
    (
        None,
        [command.TINY, "--candidates", "rms,quantum"],
        f"candidate 'quantum' is not known. {KNOWN}",
    ),
    (WIDE, ["mine.py", "--candidates", "group:5"], GROUPS),
    (
        NAN,
        ["mine.py", *SHORT],
        "the metric '<lambda>' returned nan for finite outputs; it must return a number",
    ),
    (
        OWN,
        ["mine.py", "--seeds", "1", "--workers", "1"],
        "run(model, seed, report) must return the score as a number; it returned 'high'",
    ),
    (
        OWN,
        ["mine.py", "--epochs", "3"],
        "epochs cannot be set: this task trains in its own loop, run=",
    ),
    (
        BARE,
        ["mine.py"],
        "Sequential has no normalization layer, so there is nothing to compare; put "
        "nw.Identity(channels) wherever one may go",
    ),
    (
        None,
        [command.TINY, "--seeds", "0"],
        "seeds must be a whole number above 0, received 0",
    ),
    (
        None,
        [command.TINY, "--workers", "0"],
        "workers must be a whole number above 0, received 0",
    ),
    (
        None,
        [command.TINY, "--epochs", "0"],
        "epochs must be a whole number above 0, received 0",
    ),
]


@pytest.mark.parametrize("fresh", [[], ["--fresh"]], ids=["", "fresh"])
@pytest.mark.parametrize(("text", "words", "sentence"), REFUSED)
def test_a_refused_command_leaves_no_trace(norm, tmp_path, text, words, sentence, fresh):
    if text is not None:
        (tmp_path / "mine.py").write_text(f"import tiny\nfrom torch import nn\n{text}\n")
    before = snapshot(tmp_path)
    assert norm("compare", *words, *fresh) == (2, "", f"normwise: {sentence}\n")
    assert snapshot_without_cache(tmp_path) == before


def snapshot_without_cache(folder):
    return {
        name: content for name, content in snapshot(folder).items() if "__pycache__" not in name
    }


@pytest.fixture
def run_of_another_task(norm, tmp_path, no_drawing):
    norm(*BASICS, "--out", "run")
    return snapshot(tmp_path)


OTHERS = r"run holds the trials of another task; what differs: epochs \(1 there, 2 now\); use .*"
DAMAGED = r"run/ledger.sqlite is damaged or no ledger \(file is not a database\); move it away .*"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", command.TINY, "--seeds", "1", "--workers", "1", "--out", "run"], OTHERS),
        (["compare", command.TINY, "--out", "run/results.json"], "run/results.json cannot hold .*"),
        (["compare", command.TINY, "--out", "run", "--candidates", "grop"], "candidate .*"),
        (["compare", command.TINY, "--out", "run", "--candidates", "grop", "--fresh"], ".*"),
        (["report", "nowhere"], "nowhere holds no ledger; name the folder of a run, as in .*"),
        (["report", "."], ". holds no ledger; name the folder of a run, as in runs/my-task"),
    ],
)
def test_a_refused_command_damages_no_run(run_of_another_task, norm, tmp_path, words, sentence):
    code, printed, complaints = norm(*words)
    assert (code, printed) == (2, "")
    assert re.fullmatch(f"normwise: {sentence}\n", complaints)
    assert snapshot(tmp_path) == run_of_another_task


@pytest.mark.parametrize(
    "words", [[*BASICS, "--out", "run"], ["report", "run"]], ids=["compare", "report"]
)
def test_a_corrupt_ledger_is_told_and_left(norm, tmp_path, words):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE_NAME).write_bytes(b"no ledger, but something of value" * 100)
    before = snapshot(tmp_path)
    code, printed, complaints = norm(*words)
    assert (code, printed) == (2, "")
    assert re.fullmatch(f"normwise: {DAMAGED}\n", complaints)
    assert snapshot(tmp_path) == before


def test_a_fault_that_shows_late_keeps_the_trials(norm, tmp_path):
    (tmp_path / "late.py").write_text(
        "import tiny, normwise as nw\n"
        "def run(model, seed, report):\n"
        "    return None if isinstance(model.layers[1], nw.Identity) else 0.5\n"
        "task = tiny.a_task(run=run)\n"
    )
    code, _, complaints = norm("compare", "late.py", "--seeds", 1, "--workers", 1, "--out", "run")
    assert (code, complaints.count("\n")) == (2, 1)
    with Ledger(tmp_path / "run") as ledger:
        assert [outcome.candidate for outcome in ledger.outcomes()] == ["as-is"]


def test_no_command_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "usage: normwise" in capsys.readouterr().err


# ── what it shows while it runs ─────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_what_is_going_on(tmp_path):
    import pty

    child, terminal = pty.fork()
    if not child:
        os.chdir(tmp_path)
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TERM": "xterm",
            "COLUMNS": "80",
        }
        words = ["compare", str(command.TINY), "--seeds", "2", "--workers", "1"]
        words += ["--epochs", "12", "--candidates", "rms"]
        os.execve(sys.executable, [sys.executable, "-m", "normwise.cli", *words], variables)
    shown = b""
    try:
        while chunk := os.read(terminal, 1 << 16):
            shown += chunk
    except OSError:  # Linux says so when the other end closes
        pass
    _, status = os.waitpid(child, 0)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert os.waitstatus_to_exitcode(status) == 0
    assert re.search(r"tiny: \d of 6 trials", text)
    assert re.search(r"━\s*\r\nnow (as-is|none|rms), seed [01]", text)
    assert "mean accuracy" in text, "the table so far"
    assert "timing the candidates side by side" in text
    assert "runs/tiny/report.html" in text


def test_the_task_of_these_tests_is_a_task_file():
    assert tiny.task.name == command.TINY.stem
