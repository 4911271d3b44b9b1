"""A run seen from outside: as a live table while it goes on, and as a row for each trial."""

import csv
import io
import os
import pty
import signal
import threading

import pytest

import command
import tiny
from normwise.cli import main
from normwise.compare import watching
from normwise.compare.ledger import Ledger
from normwise.compare.progress import plan_of
from normwise.compare.schedule import Trial
from normwise.compare.sharing import Driver
from normwise.compare.trial import Outcome
from normwise.errors import NormError

OUTCOMES = [
    Outcome("as-is", 0, 0.1 + 0.2, None, [{"epoch": 1, "score": 0.25}], 1.5, worker="host:12"),
    Outcome("rms", 0, None, 'ValueError: "a", b', [], 0.25, kind="failed", lost=["timed out"]),
    Outcome("rms", 1, None, "stopped in epoch 2", [], 0.25, kind="stopped"),
]


@pytest.fixture
def run(tmp_path):
    with Ledger(tmp_path / "run") as ledger:
        ledger.write("plan", plan_of(tiny.task, ["as-is", "rms"], 2))
        for outcome in OUTCOMES:
            ledger.add(outcome)
        yield ledger


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_for_each_trial(run, capsys, tmp_path):
    assert main(["report", str(run.path.parent), "--csv"]) == 0
    printed = capsys.readouterr().out
    found = rows(printed)
    assert [(row["candidate"], row["seed"], row["kind"]) for row in found] == [
        ("as-is", "0", "finished"),
        ("rms", "0", "failed"),
        ("rms", "1", "stopped"),
    ]
    first, second, _ = found
    assert (float(first["score"]), first["reason"]) == (0.1 + 0.2, "")
    assert (first["epochs"], first["worker"], first["attempts"]) == ("1", "host:12", "1")
    assert (second["score"], second["reason"]) == ("", 'ValueError: "a", b')
    assert second["attempts"] == "2"
    assert first["started"] < first["finished"]
    assert main(["report", str(run.path.parent), "--csv", str(tmp_path / "trials.csv")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "trials.csv").read_text() == printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "--csv"], "nowhere holds no ledger; name the folder of a run, as in runs/my"),
        (["nowhere", "--watch"], "nowhere holds no ledger; name the folder of a run, as in runs/"),
        (["run", "--csv", "no/such/file"], "no/such/file cannot be written: No such file or dir"),
    ],
)
def test_what_cannot_be_seen(run, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    assert capsys.readouterr().err.startswith(f"normwise: {sentence}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Seen:
    """What a display was told, at each look; lets the run go on after some of them."""

    def __init__(self, plan, finished):
        self.plan, self.finished, self.looks, self.added = plan, list(finished), [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add(self, outcome):
        self.added.append(outcome)

    def running(self, epochs):
        self.looks.append(epochs)

    def say(self, note):
        self.looks.append(note)


def test_a_run_is_watched_until_it_ends(run, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(watching, "LOOK_S", 0.01)
    monkeypatch.setattr(watching, "Progress", lambda *given: shown.append(Seen(*given)) or shown[0])
    with Driver(run) as driver:
        driver.take([Trial("as-is", 1)])
        watcher = threading.Thread(target=watching.watch, args=(run.path.parent,))
        watcher.start()
        assert command.until(lambda: shown and {("as-is", 1): 0} in shown[0].looks)
        run.add(Outcome("as-is", 1, 0.5, None))
        assert command.until(lambda: shown[0].added)
        assert command.until(lambda: "timing the candidates side by side" in shown[0].looks)
    watcher.join(timeout=command.PATIENCE_S)
    assert not watcher.is_alive()
    assert shown[0].plan["candidates"] == ["as-is", "rms"]
    assert len(shown[0].finished) >= 3
    assert [(o.candidate, o.seed) for o in shown[0].added] == [("as-is", 1)]


def test_a_run_that_nobody_is_at_is_not_waited_for(run):
    watching.watch(run.path.parent)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a terminal of its own")
def test_ctrl_c_ends_the_watching_and_not_the_run(run, tmp_path):
    with Driver(run) as driver:
        driver.take([Trial("as-is", 1)])
        ours, theirs = pty.openpty()
        watcher = command.start("report", "run", "--watch", cwd=tmp_path, stdout=theirs)
        os.close(theirs)
        seen = ""
        while "now as-is, seed 1" not in seen:
            seen += os.read(ours, 1000).decode()
        watcher.send_signal(signal.SIGINT)
        _, complaints = watcher.communicate(timeout=command.PATIENCE_S)
        os.close(ours)
        assert (watcher.returncode, complaints.strip()) == (
            130,
            "normwise: stopped; what was watched goes on",
        )
        assert "tiny: 3 of 4 trials" in seen
    assert len(run.outcomes()) == 3


def test_a_watched_run_need_not_have_been_planned(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.add(OUTCOMES[0])
        watching.watch(tmp_path)
    with pytest.raises(NormError, match="holds no ledger"):
        watching.watch(tmp_path / "nowhere")
