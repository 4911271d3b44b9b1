"""What every engine keeps to: the same trials give the same outcomes, wherever they run."""

import math
import threading
from collections import defaultdict
from pathlib import Path

import cluster
import pytest
import torch

import normwise as nw
import tiny
from normwise.compare.engines import choose_engine
from normwise.compare.schedule import Trial
from normwise.compare.trial import run_trial
from normwise.errors import NormError, TaskError

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("ray")
    with cluster.two_nodes() as (nodes, _):
        yield nodes.address


@pytest.fixture(
    scope="module",
    params=["here", "processes", pytest.param("ray", marks=pytest.mark.slow)],
)
def engine(request):
    if request.param == "ray":
        return choose_engine("ray", address=request.getfixturevalue("address"))
    return choose_engine(request.param, workers={"here": 1, "processes": 2}[request.param])


class Fussy(tiny.Net):
    """Raises with RMS norm."""

    def forward(self, x):
        if any(isinstance(module, nw.RMSNorm1d) for module in self.modules()):
            raise RuntimeError("no root today")
        return super().forward(x)


class InTwoSteps:
    """The second trials are known only when all first ones are in."""

    first = (
        Trial("as-is", 0, keep_weights=True),
        Trial("rms", 0),
        Trial("none", 0, floors={1: math.inf}),
    )
    second = (Trial("none", 1), Trial("group:2", 3))

    def __init__(self):
        self.waiting = list(self.first)
        self.missing = len(self.first)

    def next(self):
        return self.waiting.pop() if self.waiting else None

    def add(self, outcome):
        self.missing -= 1
        if self.missing == 0:
            self.waiting += self.second


def run(engine, task, schedule):
    """Outcomes as they come, and what was told of each trial under way."""
    watched = defaultdict(list)
    outcomes = []
    for outcome in engine.run(task, schedule, lambda trial, n: watched[trial].append(n)):
        outcomes.append(outcome)
        schedule.add(outcome)
    return outcomes, watched


@pytest.fixture(scope="module")
def ran(engine):
    return run(engine, tiny.a_task(model=Fussy), InTwoSteps())


def by_trial(outcomes):
    return {(o.candidate, o.seed): o for o in outcomes}


def test_every_trial_is_run_once_and_in_its_step(ran):
    outcomes, watched = ran
    trials = [(trial.candidate, trial.seed) for trial in (*InTwoSteps.first, *InTwoSteps.second)]
    ended = [(o.candidate, o.seed) for o in outcomes]
    assert sorted(ended[:3]) == sorted(trials[:3])
    assert sorted(ended[3:]) == sorted(trials[3:])
    assert {(trial.candidate, trial.seed) for trial in watched} == set(trials)


def test_outcomes_are_those_of_a_trial_run_by_itself(ran):
    for outcome in ran[0]:
        alone = run_trial(tiny.a_task(model=Fussy), outcome.candidate, outcome.seed)
        if (outcome.candidate, outcome.seed) == ("none", 0):
            assert (outcome.kind, outcome.score) == ("stopped", None)
            assert outcome.curve == alone.curve[:1]
        else:
            assert (outcome.kind, outcome.score) == (alone.kind, alone.score)
            assert (outcome.reason, outcome.curve) == (alone.reason, alone.curve)


def test_a_failure_is_an_outcome(ran):
    failed = by_trial(ran[0])["rms", 0]
    assert (failed.kind, failed.reason) == ("failed", "RuntimeError: no root today")


def test_weights_come_where_they_were_asked_for(ran):
    outcomes = by_trial(ran[0])
    weights = run_trial(tiny.a_task(model=Fussy), "as-is", 0, keep_weights=True).weights
    mine = outcomes.pop(("as-is", 0)).weights
    assert mine.keys() == weights.keys()
    assert all(torch.equal(mine[key], weights[key]) for key in weights)
    assert [outcome.weights for outcome in outcomes.values()] == [None] * 4


def test_a_trial_under_way_is_watched(ran, engine):
    counts = ran[1][Trial("none", 1)]
    assert counts[0] == 0
    if "address" not in vars(engine):  # Ray tells of the start alone
        assert counts == [0, 1, 2]


def test_outcomes_say_where_they_come_from(ran):
    for outcome in ran[0]:
        host, _, pid = outcome.worker.rpartition(":")
        assert host
        assert int(pid) > 0
        assert outcome.lost == []


class Never:
    """A schedule that has nothing to do."""

    def next(self):
        return None

    def add(self, outcome):
        raise AssertionError


def test_nothing_to_do_starts_nothing(engine):
    before = len(torch.multiprocessing.active_children())
    assert run(engine, tiny.task, Never()) == ([], {})
    assert len(torch.multiprocessing.active_children()) == before


def bad_metric(outputs, targets):
    return math.nan


def test_what_is_wrong_with_the_task_ends_the_run(engine):
    task = tiny.a_task(metric=bad_metric, higher_is_better=True)
    with pytest.raises(TaskError, match="the metric 'bad_metric' returned nan"):
        run(engine, task, InTwoSteps())
    assert torch.multiprocessing.active_children() == []


def test_a_task_that_cannot_travel(engine):
    lock = threading.Lock()

    def build():
        with lock:
            return tiny.Net()

    task = tiny.a_task(model=build)
    if engine == choose_engine("here"):
        assert len(run(engine, task, InTwoSteps())[0]) == 5
        return
    with pytest.raises(NormError) as told:
        run(engine, task, InTwoSteps())
    assert str(told.value).startswith("the task cannot be sent to worker processes (")
    assert str(told.value).endswith(
        "); use engine='here', or build the model and open files inside functions"
    )


class Gone:
    """Pickles to the name of what no other process can import."""

    def __reduce__(self):
        return __import__, ("no_such_module",)

    def __call__(self):
        return tiny.Net()


def test_a_task_that_cannot_be_rebuilt(engine):
    task = tiny.a_task(model=Gone())
    if engine == choose_engine("here"):
        assert len(run(engine, task, InTwoSteps())[0]) == 5
        return
    with pytest.raises(NormError) as told:
        run(engine, task, InTwoSteps())
    assert str(told.value) == (
        "a worker cannot rebuild the task (ModuleNotFoundError: No module named 'no_such_module'); "
        "what the task imports must be importable there, too"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "slurm"}, "engine='slurm' is not known; write one of here, processes, ray"),
        ({"workers": 0}, "workers must be a whole number above 0, received 0"),
        ({"trial_timeout": 0}, "trial_timeout must be seconds above 0, received 0"),
        ({"gpus_per_trial": -1}, "gpus_per_trial must be 0 or more, as in 0.5; received -1"),
        ({"address": "host:1"}, "address needs engine='ray'; this is engine='here'"),
        (
            {"name": "processes", "gpus_per_trial": 0.5},
            "gpus_per_trial needs engine='ray'; this is engine='processes'",
        ),
        (
            {"name": "here", "trial_timeout": 5},
            "trial_timeout needs engine='processes'; this is engine='here'",
        ),
        (
            {"name": "here", "workers": 2},
            "engine='here' has one worker; 2 need engine='processes'",
        ),
    ],
)
def test_engines_that_cannot_be_had(options, sentence):
    with pytest.raises(NormError) as told:
        choose_engine(options.pop("name", None), **options)
    assert str(told.value) == sentence


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "Here"),
        ({"workers": 1}, "Here"),
        ({"workers": 2}, "Processes"),
        ({"trial_timeout": 60.0}, "Processes"),
        ({"name": "ray", "gpus_per_trial": 0.25}, "OnRay"),
    ],
)
def test_the_engine_is_what_the_options_need(options, kind):
    name = options.pop("name", None)
    assert type(choose_engine(name, **options)).__name__ == kind


def test_a_worker_that_never_starts_is_told(tmp_path, monkeypatch):
    from normwise.compare.engines import processes

    monkeypatch.setattr(processes, "serve", sysexit)
    with pytest.raises(NormError) as told:
        run(choose_engine("processes", workers=1), tiny.task, InTwoSteps())
    assert str(told.value) == (
        "no worker comes to life: 3 in a row died before their first trial (the worker ended with "
        "exit code 7). A script that asks for workers starts below if __name__ == '__main__':"
    )


def sysexit(pipe):
    raise SystemExit(7)
