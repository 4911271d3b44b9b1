"""From a task to a result: what is run, what is kept, what is written."""

import json
import math

import pytest
import torch
from torch import nn

import normwise as nw
import tiny
from normwise.compare import Comparison, compare, report
from normwise.compare.engines import worker
from normwise.compare.ledger import Ledger
from normwise.compare.training import evaluate
from normwise.compare.trial import Outcome, run_trial
from normwise.errors import NormError

pytestmark = pytest.mark.usefixtures("brief_timing", "no_drawing")

CANDIDATES = ["group:2", "instance"]
ALL = ["as-is", "none", *CANDIDATES]


def counts(*pairs):
    return sorted((name, seed) for name, seeds in pairs for seed in range(seeds))


@pytest.fixture
def ran(monkeypatch):
    """The trials that are run, in order."""
    trials = []

    def noted(task, candidate, seed, **options):
        trials.append((candidate, seed))
        return run_trial(task, candidate, seed, **options)

    monkeypatch.setattr(worker, "run_trial", noted)
    return trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(folder):
    """A whole run, its report and its timing included."""
    return compare(tiny.task, CANDIDATES, seeds=3, race=False, out=folder)


@pytest.fixture
def no_drawing(monkeypatch):
    """The plots of most runs here would be looked at by nobody."""
    monkeypatch.setattr(report, "write_report", lambda results, path: path.touch())


NUMBER = (int, float)
INTERVAL = (None, [NUMBER])
FAILED = {"seed": int, "reason": str}
DIFFERENCE = {"mean": (None, *NUMBER), "interval": INTERVAL, "p_adjusted": NUMBER}
STANDING = {
    "name": str,
    "mean_difference": (None, *NUMBER),
    "low": (None, *NUMBER),
    "high": (None, *NUMBER),
    "state": str,
    "why": str,
}
RACE = {
    "looks": [{"seeds": int, "candidates": [STANDING]}],
    "ended": str,
    "trials": int,
    "grid": int,
}
CONTRACT = {
    "normwise": str,
    "torch": str,
    "machine": {"processor": str, "cores": int, "device": str},
    "task": {"name": str, "settings": dict},
    "baseline": str,
    "seeds": [int],
    "metric": {"name": str, "higher_is_better": bool},
    "candidates": [
        {
            "name": str,
            "scores": dict,
            "mean": (None, *NUMBER),
            "interval": INTERVAL,
            "verdict": str,
            "more_seeds": (None, int),
            "effect": (None, *NUMBER),
            "probability_best": (None, *NUMBER),
            "dropped": (None, {"after": int, "why": str}),
            "stopped": [{"seed": int, "epoch": int}],
            "train_s_per_step": (None, *NUMBER),
            "inference_us_per_sample": (None, *NUMBER),
            "peak_memory_mb": (None, *NUMBER),
            "failed": [FAILED],
        }
    ],
    "recommendation": {"candidate": str, "verdict": str, "why": str},
    "confidence": float,
    "errors": {"false_better": float, "false_worse": float},
    "race": (None, RACE),
}


def misfits(value, form, path="results"):
    """Where a value is not of its form: a type, a choice, [each entry's] or {each key's}."""
    if isinstance(form, tuple):
        if all(list(misfits(value, choice)) for choice in form):
            yield path
    elif isinstance(form, dict):
        missing = form.keys() - (value if isinstance(value, dict) else {}).keys()
        yield from (f"{path}.{key}" for key in missing)
        for key in form.keys() - missing:
            yield from misfits(value[key], form[key], f"{path}.{key}")
    elif isinstance(form, list):
        if not isinstance(value, list):
            yield path
            return
        for i, entry in enumerate(value):
            yield from misfits(entry, form[0], f"{path}[{i}]")
    elif form is None:
        if value is not None:
            yield path
    elif type(value) is not form:
        yield path


def written(folder):
    """results.json, which holds no NaN and no Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} in results.json")

    return json.loads((folder / "results.json").read_text(), parse_constant=refuse)


def check_contract(results):
    assert list(misfits(results, CONTRACT)) == []
    for row in results["candidates"]:
        assert ("difference" in row) == (row["name"] != results["baseline"])
        assert (
            list(misfits(row.get("difference", {}), DIFFERENCE if "difference" in row else {}))
            == []
        )
        failed = [str(failure["seed"]) for failure in row["failed"]]
        ended = sorted([*row["scores"], *failed], key=int)
        assert ended == [str(s) for s in results["seeds"][: len(ended)]]
        assert results["race"] or len(ended) == len(results["seeds"])
        assert all(type(score) is float for score in row["scores"].values())
        for interval in (row["interval"], row.get("difference", {}).get("interval")):
            assert interval is None or (len(interval) == 2 and interval[0] <= interval[1])


def test_the_contract_can_be_broken(done):
    results = json.loads(json.dumps(done.results))
    results["candidates"][1]["failed"].append({"seed": "0"})
    results["seeds"] = 3
    del results["metric"]["name"]
    assert sorted(misfits(results, CONTRACT)) == [
        "results.candidates[1].failed[0].reason",
        "results.candidates[1].failed[0].seed",
        "results.metric.name",
        "results.seeds",
    ]


def test_results_keep_the_contract(done, folder):
    assert written(folder) == done.results
    check_contract(done.results)
    assert [row["name"] for row in done.results["candidates"]] == ALL
    assert done.results["seeds"] == [0, 1, 2]
    assert done.results["baseline"] == "as-is"
    assert done.results["metric"] == {"name": "accuracy", "higher_is_better": True}
    assert done.results["task"]["name"] == "tiny"


def test_every_trial_is_in_the_ledger_and_in_the_results(done, folder):
    with Ledger(folder) as ledger:
        outcomes = ledger.outcomes()
    assert sorted((o.candidate, o.seed) for o in outcomes) == counts(*((name, 3) for name in ALL))
    for row in done.results["candidates"]:
        mine = {str(o.seed): o for o in outcomes if o.candidate == row["name"]}
        assert row["scores"] == {seed: outcome.score for seed, outcome in mine.items()}
        assert row["curves"] == {seed: outcome.curve for seed, outcome in mine.items()}
        assert math.isclose(row["mean"], sum(row["scores"].values()) / 3)


def test_a_run_leaves_its_files_and_no_others(done, folder):
    assert {path.name for path in folder.iterdir()} == {
        "ledger.sqlite",
        "models",
        "report.html",
        "results.json",
    }
    assert len(list((folder / "models").iterdir())) == len(ALL)


def test_the_result_speaks(done):
    assert done.best == done.results["recommendation"]["candidate"]
    assert done.best in ALL
    assert repr(done) == f"{done.table}\n{done.results['recommendation']['why']}"
    assert all(name in done.table for name in ALL)
    assert max(map(len, done.table.splitlines())) <= 80


def test_a_comparison_can_be_loaded(done, folder):
    loaded = Comparison.load(folder)
    assert loaded.results == done.results
    assert loaded.table == done.table
    assert nw.Comparison is Comparison


@pytest.mark.parametrize("candidate", [*ALL, None])
def test_the_model_that_comes_back_is_the_one_that_was_scored(done, folder, candidate):
    scores = {row["name"]: row["scores"]["0"] for row in done.results["candidates"]}
    for comparison in (done, Comparison.load(folder, tiny.task)):
        model = comparison.model(candidate)
        assert not model.training
        assert evaluate(tiny.task, model, tiny.task.valid) == scores[candidate or done.best]


def test_a_model_whose_weights_are_gone_is_trained_again(tmp_path):
    result = compare(tiny.task, [], seeds=1, out=tmp_path)
    kept = result.model("none").state_dict()
    for path in (tmp_path / "models").iterdir():
        path.unlink()
    again = result.model("none").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in kept.items())


def test_the_models_of_every_seed_are_kept_where_they_are_asked_for(tmp_path):
    result = compare(tiny.task, ["rms"], seeds=2, out=tmp_path, keep_models="all")
    assert len(list((tmp_path / "models").iterdir())) == 2 * 3
    for row in result.results["candidates"]:
        for seed in (0, 1):
            model = result.model(row["name"], seed)
            assert evaluate(tiny.task, model, tiny.task.valid) == row["scores"][str(seed)]
    with pytest.raises(NormError, match="seed 2 was not tried; these were: 0, 1"):
        result.model("rms", 2)


def test_only_the_norms_that_are_meant_are_swapped(tmp_path):
    task = tiny.a_task(where="layers.5")
    result = compare(task, ["group:2"], seeds=1, out=tmp_path)
    layers = result.model("group:2").layers
    assert [type(layers[i]) for i in (1, 5)] == [torch.nn.BatchNorm1d, nw.GroupNorm1d]
    assert len(next(r for r in result.results["candidates"] if r["name"] == "none")["changes"]) == 1
    assert result.results["task"]["settings"]["norms"] == "layers.5"
    assert task.fingerprint() != tiny.task.fingerprint()


@pytest.mark.parametrize(
    ("task", "candidate", "sentence"),
    [
        (
            tiny.task,
            "rms",
            "'rms' was not compared; these were: as-is, none, group:2, instance",
        ),
        (None, "none", "to build a model, load the comparison with its task: load(run, task)"),
    ],
)
def test_models_that_cannot_be_had(done, folder, task, candidate, sentence):
    with pytest.raises(NormError) as told:
        Comparison.load(folder, task).model(candidate)
    assert str(told.value) == sentence


def test_a_comparison_leaves_the_callers_generators_alone(tmp_path, generators):
    threads = torch.get_num_threads()
    compare(tiny.task, [], seeds=1, out=tmp_path).model()
    assert generators() == generators.before
    assert torch.get_num_threads() == threads


def test_two_runs_give_the_same_scores(done, tmp_path):
    again = compare(tiny.task, CANDIDATES, seeds=3, race=False, out=tmp_path).results
    for one, other in zip(done.results["candidates"], again["candidates"], strict=True):
        measured = ("seconds", "train_s_per_step", "inference_us_per_sample")
        assert {k: v for k, v in one.items() if k not in measured} == {
            k: v for k, v in other.items() if k not in measured
        }


def test_nothing_is_done_twice(tmp_path, ran):
    first = compare(tiny.task, CANDIDATES, seeds=2, out=tmp_path).results
    assert sorted(ran) == counts(*((name, 2) for name in ALL))
    assert [seed for _, seed in ran] == [0] * 4 + [1] * 4, "seed by seed"
    ran.clear()
    again = compare(tiny.task, CANDIDATES, seeds=2, out=tmp_path).results
    assert ran == []
    assert again["candidates"] == first["candidates"]


def test_more_seeds_and_candidates_come_on_top(tmp_path, ran):
    first = compare(tiny.task, ["rms"], seeds=1, out=tmp_path)
    ran.clear()
    more = compare(tiny.task, ["rms", "instance"], seeds=2, out=tmp_path)
    assert ran == [("instance", 0), ("as-is", 1), ("none", 1), ("rms", 1), ("instance", 1)]
    for row in first.results["candidates"]:
        grown = next(r for r in more.results["candidates"] if r["name"] == row["name"])
        assert grown["scores"]["0"] == row["scores"]["0"]
    assert all(row["inference_us_per_sample"] for row in more.results["candidates"])
    fewer = compare(tiny.task, ["instance"], seeds=1, out=tmp_path).results
    assert [row["name"] for row in fewer["candidates"]] == ["as-is", "none", "instance"]
    assert [list(row["scores"]) for row in fewer["candidates"]] == [["0"]] * 3
    check_contract(fewer)


def test_fresh_forgets(tmp_path, ran):
    compare(tiny.task, [], seeds=2, out=tmp_path)
    ran.clear()
    compare(tiny.a_task(epochs=1), [], seeds=1, out=tmp_path, fresh=True)
    assert sorted(ran) == [("as-is", 0), ("none", 0)]


class Fussy(tiny.Net):
    """Raises with RMS norm, diverges with instance norm, and does without neither."""

    seeds = range(10)

    def __init__(self):
        super().__init__()
        self.seed = torch.initial_seed()

    def forward(self, x):
        if self.seed in self.seeds:
            if any(isinstance(module, nw.RMSNorm1d) for module in self.modules()):
                raise RuntimeError("no root today")
            if any(isinstance(module, nw.InstanceNorm1d) for module in self.modules()):
                x = x * math.nan
        return super().forward(x)


class FussyAtFirst(Fussy):
    seeds = (0,)


def rows(results):
    check_contract(results)
    return {row["name"]: row for row in results["candidates"]}


def test_a_race_is_in_the_results_whoever_ran_ahead(tmp_path):
    alone = compare(tiny.task, CANDIDATES, seeds=4, out=tmp_path / "alone")
    check_contract(alone.results)
    race = alone.results["race"]
    assert race["trials"] == sum(len(row["scores"]) for row in alone.results["candidates"])
    assert race["grid"] == 4 * len(alone.results["candidates"])
    assert alone.results["errors"]["best_dropped"] == 0.05
    with Ledger(tmp_path / "alone") as ledger:
        # As if workers had looked ahead, or the grid had been run before.
        for name in ("none", "instance"):
            for seed in range(4):
                ledger.add(Outcome(name, seed, 0.1, None))
    again = Comparison.load(tmp_path / "alone")
    assert again.results["race"] == race
    assert [r["scores"] for r in again.results["candidates"]] == [
        r["scores"] for r in alone.results["candidates"]
    ]


BUDGETS = {
    "grid": ({"race": False, "budget_s": 9}, "a full grid has no budget: leave out budget and "),
    "no time": ({"budget_s": 0}, "the budget must be above 0 seconds, received 0"),
    "few": ({"max_trials": 2}, "max_trials=2 does not suffice for one seed: there are 3 candid"),
    "margin": ({"equivalent_within": -1}, "equivalent_within must be a difference of 0 or more"),
}


@pytest.mark.parametrize(("options", "message"), BUDGETS.values(), ids=BUDGETS)
def test_a_budget_that_makes_no_sense_is_refused_before_any_trial(tmp_path, options, message):
    with pytest.raises(NormError) as told:
        compare(tiny.task, ["rms"], out=tmp_path / "run", **options)
    assert str(told.value).startswith(message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("model", "failing"), [(Fussy, [0, 1, 2]), (FussyAtFirst, [0])])
def test_a_candidate_that_fails_is_a_row_with_its_reason(done, tmp_path, model, failing):
    candidates = ["rms", *CANDIDATES]
    result = compare(tiny.a_task(model=model), candidates, seeds=3, race=False, out=tmp_path)
    assert written(tmp_path) == result.results
    found, usual = rows(result.results), rows(done.results)
    reasons = {
        "rms": "RuntimeError: no root today",
        "instance": "diverged: the loss was nan in epoch 1",
    }
    for name, reason in reasons.items():
        assert found[name]["failed"] == [{"seed": seed, "reason": reason} for seed in failing]
        assert found[name]["verdict"] == ("failed" if len(failing) == 3 else "undecided")
        with pytest.raises(NormError) as told:
            result.model(name)
        assert str(told.value) == f"{name!r} has no trained model: {reason}"
    for name in ("as-is", "none", "group:2"):
        assert found[name]["scores"] == usual[name]["scores"]
        assert found[name]["failed"] == []
        assert found[name]["inference_us_per_sample"] > 0
    assert found["rms"]["mean"] is None or len(failing) == 1
    assert all(name in result.table for name in found)


def test_an_earlier_runs_weights_are_not_taken_for_todays(tmp_path):
    compare(tiny.task, ["rms"], seeds=1, out=tmp_path)
    today = compare(tiny.a_task(model=Fussy), ["rms"], seeds=1, out=tmp_path, fresh=True)
    with pytest.raises(NormError, match="'rms' has no trained model: RuntimeError: no root today"):
        today.model("rms")


def raises_with(*norms):
    class Picky(tiny.Net):
        def forward(self, x):
            if any(type(module) in norms for module in self.modules()):
                raise RuntimeError("not with these")
            return super().forward(x)

    return Picky


@pytest.mark.parametrize(
    ("norms", "failing", "choices"),
    [
        ([nn.BatchNorm1d], ["as-is"], {"none", "group:2"}),
        ([nn.BatchNorm1d, nw.Identity, nw.GroupNorm1d], ["as-is", "none", "group:2"], {"as-is"}),
    ],
    ids=["the baseline", "everything"],
)
def test_without_a_baseline_nothing_is_judged(tmp_path, norms, failing, choices):
    task = tiny.a_task(model=raises_with(*norms))
    result = compare(task, ["group:2"], seeds=2, out=tmp_path)
    found = rows(result.results)
    for name in failing:
        assert (found[name]["verdict"], found[name]["mean"]) == ("failed", None)
        assert len(found[name]["failed"]) == 2
    assert result.results["recommendation"]["verdict"] == "undecided"
    assert result.best in choices
    assert written(tmp_path) == result.results
    assert result.table


def test_one_seed_gives_no_interval(tmp_path):
    result = compare(tiny.task, ["rms"], seeds=1, out=tmp_path)
    assert [row["interval"] for row in rows(result.results).values()] == [None] * 3
    assert written(tmp_path) == result.results


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_own_loop_is_compared(tmp_path, seeds):
    def run(model, seed, report):
        x, y = tiny.waves(24, seed=1)
        report(1, math.nan)
        report(2, 0.5)
        return nn.functional.cross_entropy(model(x), y)

    task = tiny.a_task(run=run, higher_is_better=False)
    result = compare(task, ["rms"], seeds=seeds, out=tmp_path)
    assert written(tmp_path) == result.results
    for row in rows(result.results).values():
        assert row["curves"]["0"] == [{"epoch": 2, "score": 0.5}]
        assert row["parameters"] > 0
        assert row["inference_us_per_sample"] is None
    assert (tmp_path / "report.html").is_file()


def test_the_usual_candidates_are_those_that_fit(tmp_path):
    result = compare(tiny.a_task(epochs=1), seeds=1, out=tmp_path)
    names = [row["name"] for row in result.results["candidates"]]
    assert names == ["as-is", "none", "batch", "instance", "group:8", "layer", "rms", "renorm"]


def lazily():
    return nn.Sequential(
        nn.Conv1d(2, 8, 3),
        nn.LazyBatchNorm1d(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def test_a_candidate_that_turns_out_not_to_fit_is_a_row(tmp_path):
    task = tiny.a_task(model=lazily, epochs=1)
    found = rows(compare(task, ["group:5", "group:4"], seeds=1, out=tmp_path).results)
    assert "5 groups do not divide 8 channels" in found["group:5"]["failed"][0]["reason"]
    assert found["group:4"]["scores"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seeds": 0}, "seeds must be a whole number above 0, received 0"),
        ({"seeds": 2.0}, "seeds must be a whole number above 0, received 2.0"),
        ({"workers": 0}, "workers must be a whole number above 0, received 0"),
        ({"candidates": "rms"}, "candidates must be a list, as in ['rms']"),
        (
            {"candidates": ["group:5"]},
            "layers.1 (BatchNorm1d(8)): 5 groups do not divide 8 channels; these do: 1, 2, 4, 8",
        ),
    ],
)
def test_what_cannot_be_asked_leaves_no_trace(tmp_path, options, sentence):
    with pytest.raises(NormError) as told:
        compare(tiny.task, out=tmp_path / "run", **options)
    assert str(told.value) == sentence
    assert list(tmp_path.iterdir()) == []


def test_there_is_nothing_to_load(tmp_path):
    with pytest.raises(NormError) as told:
        Comparison.load(tmp_path / "run")
    assert str(told.value) == (
        f"{tmp_path / 'run'} holds no ledger; name the folder of a run, as in runs/my-task"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_comparison_is_not_loaded(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.add(run_trial(tiny.task, "none", 0))
    with pytest.raises(NormError) as told:
        Comparison.load(tmp_path)
    assert str(told.value) == (
        f"{tmp_path} holds no finished comparison yet; run the same `normwise compare` again, and "
        "it goes on where it stopped"
    )
