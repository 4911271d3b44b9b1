"""Runs that go wrong or are stopped: nothing finished is lost, nothing goes on alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import command
from normwise.compare import compare, load_task
from normwise.compare.ledger import Ledger

pytestmark = [
    pytest.mark.usefixtures("brief_timing"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc"),
]

TRIALS = 6  # as-is, none and rms, with two seeds each
STOPPED = "normwise: stopped; finished trials are kept, and the same command goes on"


def can_mount():
    words = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    return shutil.which("unshare") and not subprocess.run(words, capture_output=True).returncode


@pytest.fixture
def begin(tmp_path):
    """Starts the stoppable task in a folder of its own."""

    def start(workers, *words, **variables):
        return command.start(
            *("compare", command.STOPPABLE, "--candidates", "rms", "--seeds", 2),
            *("--out", "run", "--workers", workers, *words),
            cwd=tmp_path,
            TRIALS=str(tmp_path / "trials"),
            **variables,
        )

    return start


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIALS", str(folder / "trials"))
        return compare(load_task(command.STOPPABLE), ["rms"], seeds=2, out=folder).results


def kept(folder):
    with Ledger(folder / "run") as ledger:
        return {(o.candidate, o.seed): (o.score, o.curve) for o in ledger.outcomes()}


def begun(folder):
    return (folder / "trials").read_text().splitlines()


def figures(results):
    """All that two runs of the same task must agree in."""
    named = ("name", "scores", "mean", "interval", "difference", "verdict", "more_seeds", "curves")
    rows = [{key: row[key] for key in named if key in row} for row in results["candidates"]]
    return rows, results["recommendation"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_where_it_stopped(begin, tmp_path, uninterrupted, workers):
    killed = begin(workers, STOP="4 SIGKILL")
    assert killed.wait(timeout=command.PATIENCE_S) == -signal.SIGKILL
    assert command.until(lambda: not command.others(killed)), "workers go on alone"
    killed.communicate()
    finished = kept(tmp_path)
    assert 4 - workers <= len(finished) < 4
    before = begun(tmp_path)  # a worker may begin what it was sent before it misses the driver
    assert not (tmp_path / "run" / "results.json").exists()

    resumed = begin(workers)
    _, complaints = resumed.communicate(timeout=command.PATIENCE_S)
    assert (resumed.returncode, complaints) == (0, "")
    assert len(begun(tmp_path)) - len(before) == TRIALS - len(finished)
    assert kept(tmp_path).items() >= finished.items()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert figures(results) == figures(uninterrupted)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_what_was_finished(begin, tmp_path, workers):
    stopped = begin(workers, STOP="4 SIGINT")
    printed, complaints = stopped.communicate(timeout=command.PATIENCE_S)
    assert (stopped.returncode, printed, complaints.strip()) == (130, "", STOPPED)
    assert command.until(lambda: not command.others(stopped)), "workers go on alone"
    assert 4 - workers <= len(kept(tmp_path)) < 4


def test_ctrl_c_while_workers_start_is_no_noise(begin):
    starting = begin(2)
    # The workers and what cleans up after them are there, and import what they need.
    assert command.until(lambda: len(command.others(starting)) >= 3)
    time.sleep(0.3)
    os.kill(starting.pid, signal.SIGSTOP)  # a driver that is busy: workers hear of it first
    os.killpg(starting.pid, signal.SIGINT)
    time.sleep(0.5)
    os.kill(starting.pid, signal.SIGCONT)
    printed, complaints = starting.communicate(timeout=command.PATIENCE_S)
    assert (starting.returncode, printed, complaints.strip()) == (130, "", STOPPED)


FAULTS = {
    "as-is with seed 1": "raises",
    "none with seed 0": "exits",
    "none with seed 1": "nan",
    "rms with seed 0": "tensor",
    "rms with seed 1": "list",
}


def test_what_goes_wrong_in_a_trial_is_its_outcome(begin, tmp_path, uninterrupted):
    faults = ",".join(f"{trial}={fault}" for trial, fault in FAULTS.items())
    process = begin(2, FAULTS=faults)
    printed, complaints = process.communicate(timeout=command.PATIENCE_S)
    assert (process.returncode, complaints) == (0, "")
    with Ledger(tmp_path / "run") as ledger:
        outcomes = {f"{o.candidate} with seed {o.seed}": o for o in ledger.outcomes()}
    usual = {row["name"]: row["scores"] for row in uninterrupted["candidates"]}
    assert outcomes.pop("as-is with seed 0").score == usual["as-is"]["0"]
    assert {trial: (o.kind, o.reason) for trial, o in outcomes.items()} == {
        "as-is with seed 1": ("failed", "RuntimeError: no luck"),
        "none with seed 0": ("failed", "the worker ended with exit code 7 (3 attempts)"),
        "none with seed 1": ("failed", "diverged: the score was nan"),
        "rms with seed 0": ("failed", "out of memory"),
        "rms with seed 1": ("failed", "out of memory"),
    }
    assert sorted(begun(tmp_path)) == sorted(
        ["as-is with seed 0", *FAULTS, "none with seed 0", "none with seed 0"]
    )
    assert "none, seed 0: the worker ended with exit code 7 (3 attempts)" in printed
    assert "the worker ended with exit code 7" in (tmp_path / "run" / "report.html").read_text()


def test_a_trial_is_tried_again_where_its_worker_is_lost(begin, tmp_path, uninterrupted):
    faults = "none with seed 0=killed once,rms with seed 1=hangs once"
    process = begin(2, "--trial-timeout", 5, "--json", FAULTS=faults)
    printed, complaints = process.communicate(timeout=command.PATIENCE_S)
    assert (process.returncode, complaints) == (0, "")
    results = json.loads(printed)
    assert figures(results) == figures(uninterrupted)
    with Ledger(tmp_path / "run") as ledger:
        lost = {f"{o.candidate} with seed {o.seed}": o.lost for o in ledger.outcomes() if o.lost}
    assert lost == {
        "none with seed 0": ["the worker was killed by SIGKILL, perhaps for want of memory"],
        "rms with seed 1": ["timed out after 5 s"],
    }
    retried = {
        f"{row['name']} with seed {retried['seed']}": retried["why"]
        for row in results["candidates"]
        for retried in row["retried"]
    }
    assert retried == lost
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(why in page for (why,) in lost.values())
    assert len(begun(tmp_path)) == TRIALS + 2


def test_a_worker_that_hangs_ends_with_its_driver(begin, tmp_path):
    killed = begin(2, FAULTS="as-is with seed 0=hangs")
    assert command.until(lambda: (tmp_path / "trials").exists())
    killed.kill()
    assert command.until(lambda: not command.others(killed)), "workers go on alone"
    killed.communicate()


def test_a_loop_that_ends_early_on_ctrl_c_has_no_score(begin, tmp_path):
    stopped = begin(1, FAULTS="none with seed 0=deaf")
    assert command.until(lambda: (tmp_path / "trials").exists() and len(begun(tmp_path)) == 2)
    time.sleep(0.3)
    stopped.send_signal(signal.SIGINT)
    printed, complaints = stopped.communicate(timeout=command.PATIENCE_S)
    assert (stopped.returncode, printed, complaints.strip()) == (130, "", STOPPED)
    assert list(kept(tmp_path)) == [("as-is", 0)]


def test_ctrl_c_twice_ends_at_once(begin, tmp_path, uninterrupted):
    stopped = begin(1, FAULTS="none with seed 0=stubborn")
    assert command.until(lambda: (tmp_path / "trials").exists() and len(begun(tmp_path)) == 2)
    time.sleep(0.3)
    stopped.send_signal(signal.SIGINT)
    assert command.until((tmp_path / "heard").exists), "the first is the loop's to hear"
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(timeout=5) == -signal.SIGINT
    stopped.communicate()
    assert list(kept(tmp_path)) == [("as-is", 0)]
    resumed = begin(1)
    _, complaints = resumed.communicate(timeout=command.PATIENCE_S)
    assert (resumed.returncode, complaints) == (0, "")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert figures(results) == figures(uninterrupted)


def test_two_drivers_share_the_trials(begin, tmp_path, uninterrupted):
    drivers = [begin(1, TOGETHER="2") for _ in range(2)]  # neither ends one before both began one
    told = [driver.communicate(timeout=command.PATIENCE_S) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert [complaints for _, complaints in told] == ["", ""]
    assert len(begun(tmp_path)) == TRIALS
    with Ledger(tmp_path / "run") as ledger:
        workers = {int(o.worker.rpartition(":")[2]) for o in ledger.outcomes()}
        assert ledger.read_rows("SELECT * FROM claims") == []
    assert workers == {driver.pid for driver in drivers}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert figures(results) == figures(uninterrupted)


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=64k none run
normwise() { "$@"; echo "exit code $?"; }
normwise "$@"
mount -o remount,size=10m run
normwise "$@"
"""
FULL = (
    "normwise: run cannot be written to (database or disk is full); what was finished is kept: "
    "make room, and the same command goes on\n"
)


@pytest.mark.skipif(not can_mount(), reason="may not mount a disk of its own")
def test_a_full_disk_is_told_and_the_same_command_goes_on(tmp_path, uninterrupted):
    (tmp_path / "run").mkdir()
    words = [
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh"),
        *(sys.executable, "-m", "normwise.cli", "compare", command.STOPPABLE),
        *("--candidates", "rms", "--seeds", "2", "--out", "run", "--workers", "1", "--json"),
    ]
    run = subprocess.run(
        words,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": command.PATH, "TRIALS": str(tmp_path / "trials")},
        capture_output=True,
        text=True,
        timeout=command.PATIENCE_S,
    )
    assert run.stderr == FULL
    assert run.stdout.startswith("exit code 2\n")
    assert run.stdout.endswith("exit code 0\n")
    results = run.stdout.removeprefix("exit code 2\n").removesuffix("exit code 0\n")
    assert figures(json.loads(results)) == figures(uninterrupted)
    assert TRIALS <= len(begun(tmp_path)) <= TRIALS + 1  # the one that could not be kept
