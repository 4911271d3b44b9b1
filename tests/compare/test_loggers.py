"""Logs in other tools: what is written can be read back there, once for each trial."""

import json
import sys
import warnings

import pytest

import tiny
from normwise.compare import compare, loggers
from normwise.compare.ledger import Ledger
from normwise.compare.loggers import Logs, Run
from normwise.compare.trial import Outcome
from normwise.errors import NormError

OUTCOMES = [
    Outcome("rms", 0, 0.5, None, [{"epoch": 1, "loss": 2.0, "score": 0.25}]),
    Outcome("rms", 1, None, "diverged", kind="failed"),
]
RESULTS = {"candidates": [], "recommendation": {"why": "because"}}


class Noting:
    """A log that notes what it is told, and fails where it is asked to."""

    memory = "a run's name"
    broken = False

    def __init__(self):
        self.told = []

    def add(self, outcome):
        if self.broken:
            raise ConnectionError("no answer")
        self.told.append((outcome.candidate, outcome.seed))

    def finish(self, results):
        self.told.append(results["recommendation"]["why"])


@pytest.fixture
def noting(monkeypatch):
    log = Noting()
    remembered = []

    def opened(name, run, ledger):
        remembered.append((ledger.read(f"logged to {name}") or {}).get("memory"))
        return log

    monkeypatch.setattr(loggers, "_opened", opened)
    log.remembered = remembered
    return log


def logs(ledger, *names):
    return Logs(names, Run("tiny", {}, "accuracy", ledger.path.parent), ledger)


def test_every_trial_is_logged_once_in_however_many_runs(tmp_path, noting):
    with Ledger(tmp_path) as ledger:
        ledger.add(OUTCOMES[0])
        first = logs(ledger, "mine")
        first.update()
        first.update()
        ledger.add(OUTCOMES[1])
        logs(ledger, "mine").finish(RESULTS)
    assert noting.told == [("rms", 0), ("rms", 1), "because"]
    assert noting.remembered == [None, "a run's name"]


def test_what_could_not_be_logged_is_logged_later(tmp_path, noting):
    with Ledger(tmp_path) as ledger:
        ledger.add(OUTCOMES[0])
        kept = logs(ledger, "mine")
        noting.broken = True
        with pytest.warns(UserWarning, match="logging to mine failed: ConnectionError: no answer"):
            kept.update()
        noting.broken = False
        kept.finish(RESULTS)
    assert noting.told == [("rms", 0), "because"]


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        (["paper"], "log='paper' is not known; write one of tensorboard, mlflow, wandb"),
        ("mlflow", "log must be a list, as in ['mlflow']"),
    ],
)
def test_logs_that_are_not_known(tmp_path, log, sentence):
    with pytest.raises(NormError) as told:
        compare(tiny.task, [], seeds=1, out=tmp_path / "run", log=log)
    assert str(told.value) == sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", loggers.LOGGERS)
def test_a_missing_package_is_told_with_its_cure(tmp_path, monkeypatch, name):
    package, distribution = loggers.LOGGERS[name]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NormError) as told:
        compare(tiny.task, [], seeds=1, out=tmp_path / "run", log=[name])
    assert str(told.value) == f"log={name!r} needs its package: pip install {distribution}"
    assert not (tmp_path / "run").exists()


@pytest.fixture
def logged(tmp_path, monkeypatch, brief_timing):
    """Compares with a log; the other packages' own warnings are theirs."""

    def run(name, **options):
        pytest.importorskip(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compare(tiny.task, ["rms"], seeds=2, out=tmp_path / "run", log=[name], **options)

    monkeypatch.chdir(tmp_path)
    return run


@pytest.mark.slow
def test_tensorboard_shows_curves_and_verdicts(tmp_path, logged):
    results = logged("tensorboard").results
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run" / "tensorboard"
    for row in results["candidates"]:
        for seed, curve in row["curves"].items():
            read = EventAccumulator(str(folder / row["name"] / f"seed-{seed}"))
            read.Reload()
            assert [event.step for event in read.Scalars("loss")] == [1, 2]
            shown = [event.value for event in read.Scalars("accuracy")]
            assert shown == pytest.approx([entry["score"] for entry in curve])
    whole = EventAccumulator(str(folder))
    whole.Reload()
    (text,) = whole.Tensors("verdicts/text_summary")
    said = text.tensor_proto.string_val[0].decode()
    assert results["recommendation"]["why"] in said
    assert all(f"| {row['name']} |" in said for row in results["candidates"])


@pytest.mark.slow
def test_mlflow_has_a_run_for_each_trial_in_a_run_for_the_whole(tmp_path, logged, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    results = logged("mlflow").results
    logged("mlflow")  # goes on, and logs no trial again
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = client.search_runs([experiment])
    (whole,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = [run for run in runs if run is not whole]
    assert len(trials) == 6
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {whole.info.run_id}
    assert whole.data.tags["recommendation"] == results["recommendation"]["why"]
    for row in results["candidates"]:
        assert whole.data.tags[f"verdict.{row['name']}"] == row["verdict"]
        assert whole.data.metrics[f"mean.{row['name']}"] == pytest.approx(row["mean"])
    for run in trials:
        row = next(r for r in results["candidates"] if r["name"] == run.data.params["candidate"])
        seed = run.data.params["seed"]
        history = client.get_metric_history(run.info.run_id, "accuracy")
        assert [(m.step, m.value) for m in history] == [
            (entry["epoch"], entry["score"]) for entry in row["curves"][seed]
        ]
        assert run.data.metrics["final_score"] == row["scores"][seed]
        assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_wandb_keeps_its_runs_in_the_folder_when_offline(tmp_path, logged, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    results = logged("wandb").results
    folders = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 6 + 1
    said = [path.read_bytes() for folder in folders for path in folder.glob("*.wandb")]
    assert len(said) == 7
    for row in results["candidates"]:
        for seed in row["scores"]:
            assert sum(f"{row['name']}, seed {seed}".encode() in run for run in said) == 1
    why = json.dumps(results["recommendation"]["why"])[1:20].encode()
    assert sum(why in run for run in said) == 1
