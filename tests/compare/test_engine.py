"""Runs in several processes, and runs that are stopped: nothing is lost, nothing goes on alone."""

import json
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import command
import tiny
from normwise.compare import compare, load_task
from normwise.compare.ledger import Ledger
from normwise.errors import NormError

pytestmark = [
    pytest.mark.usefixtures("brief_timing"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc"),
]

TRIALS = 6  # as-is, none and rms, with two seeds each
STOPPED = "normwise: stopped; finished trials are kept, and the same command goes on"


@pytest.fixture
def begin(tmp_path):
    """Starts the stoppable task in a folder of its own."""

    def start(workers, stop="0 never"):
        return command.start(
            *("compare", command.STOPPABLE, "--candidates", "rms", "--seeds", 2),
            *("--out", "run", "--workers", workers),
            cwd=tmp_path,
            TRIALS=str(tmp_path / "trials"),
            STOP=stop,
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
    killed = begin(workers, stop="4 SIGKILL")
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
    stopped = begin(workers, stop="4 SIGINT")
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


def test_a_worker_that_dies_ends_the_run_in_one_sentence(begin, tmp_path):
    process = begin(2, stop="4 exit")
    printed, complaints = process.communicate(timeout=command.PATIENCE_S)
    assert (process.returncode, printed) == (2, "")
    told = "normwise: a worker process died, perhaps for want of memory, while it ran "
    assert complaints.startswith(told)
    assert complaints.endswith(
        "; what was finished is kept, and the same command goes on from there. "
        "(A script that asks for workers starts below if __name__ == '__main__':)\n"
    )
    assert complaints.count("\n") == 1
    assert begun(tmp_path)[3] in complaints
    assert not any(f"{name} with seed {seed}" in complaints for name, seed in kept(tmp_path))


NEIGHBOUR = """
import torch
import tiny

class Wide(tiny.Net):
    def __init__(self):
        super().__init__()
        self.many = torch.nn.ParameterList(torch.rand(1) for _ in range(100))
"""


def test_workers_give_what_one_process_gives(tmp_path, monkeypatch):
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    mine = tmp_path / "mine.py"
    mine.write_text("import tiny, neighbour\ntask = tiny.a_task(model=neighbour.Wide)")
    task = load_task(mine)
    alone, shared = (
        compare(task, ["group:2"], seeds=2, out=tmp_path / f"by {workers}", workers=workers)
        for workers in few_files(1, 2)
    )
    assert figures(shared.results) == figures(alone.results)
    for candidate in ("as-is", "group:2"):
        mine, theirs = (run.model(candidate).state_dict() for run in (alone, shared))
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def few_files(*values):
    """Each value, under a limit of open files that a model's tensors would exceed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 50, before[1]))
    try:
        yield from values
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_task_that_cannot_travel(tmp_path):
    lock = threading.Lock()

    def build():
        with lock:
            return tiny.Net()

    with pytest.raises(NormError) as told:
        compare(tiny.a_task(model=build), [], seeds=1, out=tmp_path / "run", workers=2)
    assert str(told.value).startswith("the task cannot be sent to worker processes (")
    assert str(told.value).endswith(
        "); use workers=1, or build the model and open files inside functions"
    )
    assert list(tmp_path.iterdir()) == []
