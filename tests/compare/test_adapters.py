"""Lightning and Hugging Face train a task: paired, scored by what they log, told where they err."""

import runpy
import signal
from pathlib import Path

import pytest
import torch

import normwise as nw
from normwise.compare.trial import run_trial
from normwise.errors import NormError

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def speech():
    pytest.importorskip("lightning")
    return runpy.run_path(str(EXAMPLES / "with_lightning.py"))


@pytest.fixture(scope="module")
def strings():
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return runpy.run_path(str(EXAMPLES / "with_transformers.py"))


def seen_by(task, candidate, seed, of):
    """What the model was shown in training, and how the trial ended."""
    inputs = []
    build = task.build

    def watched():
        model = build()
        model.register_forward_pre_hook(
            lambda module, args, kwargs: (
                inputs.append(of(args, kwargs)) if module.training else None
            ),
            with_kwargs=True,
        )
        return model

    outcome = run_trial(nw.Task(watched, run=task.run, higher_is_better=True), candidate, seed)
    assert outcome.reason is None
    return inputs, outcome


def paired(task, norm, of):
    """Every candidate of a seed is shown the same; another seed, something else."""
    inputs, outcome = seen_by(task, "none", 0, of)
    others, _ = seen_by(task, norm, 0, of)
    assert len(inputs) == len(others)
    assert all(map(torch.equal, inputs, others))
    assert not torch.equal(inputs[0], seen_by(task, norm, 1, of)[0][0])
    return inputs, outcome


def test_a_lightning_module_is_trained_in_pairs(speech, capfd):
    inputs, outcome = paired(speech["task"], "renorm", lambda args, kwargs: args[0].clone())
    steps = len(inputs) // 4
    assert not torch.equal(inputs[0], inputs[steps]), "epochs differ"
    assert [entry["epoch"] for entry in outcome.curve] == [1, 2, 3, 4]
    assert outcome.curve[-1]["score"] == outcome.score > 0.7
    assert capfd.readouterr() == ("", "")


def test_a_trainer_trains_in_pairs(strings, capfd):
    _, outcome = paired(strings["task"], "rms", lambda args, kwargs: kwargs["input_ids"].clone())
    assert [entry["epoch"] for entry in outcome.curve] == [1, 2, 3, 4]
    assert outcome.curve[-1]["score"] == outcome.score > 0.9
    assert capfd.readouterr() == ("", "")


def test_the_norms_inside_are_swapped(speech, strings):
    for example, candidate, layer in (
        (speech, "rms", nw.RMSNorm1d),
        (strings, "none", nw.Identity),
    ):
        task, kept = example["task"], []
        run_trial(
            nw.Task(
                task.build,
                run=lambda model, seed, report, kept=kept: kept.append(model) or 0.0,
                higher_is_better=True,
            ),
            candidate,
            0,
        )
        assert any(isinstance(module, layer) for module in kept[0].modules())


def test_a_floor_stops_both(speech, strings):
    for example in (speech, strings):
        outcome = run_trial(example["task"], "as-is", 0, floors={2: 1.5})
        assert (outcome.kind, len(outcome.curve)) == ("stopped", 2)


def lightning_of(speech, **options):
    usual = {"data": speech["Speech"], "monitor": "val_accuracy", "trainer": {"max_epochs": 1}}
    return nw.lightning_task(speech["Classifier"], higher_is_better=True, **usual | options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"monitor": "val_f1"}, "no 'val_f1' is logged in validation; what is: val_accuracy"),
        (
            {"trainer": {"max_epochs": 1, "limit_val_batches": 0}},
            "there was no validation, so there is no 'val_accuracy' to score by",
        ),
    ],
)
def test_what_lightning_does_not_log(speech, options, sentence):
    with pytest.raises(NormError) as told:
        run_trial(lightning_of(speech, **options), "as-is", 0)
    assert str(told.value) == sentence


def test_ctrl_c_is_not_lightnings(speech):
    class Interrupted(speech["Classifier"]):
        def training_step(self, batch, index):
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    task = nw.lightning_task(Interrupted, speech["Speech"], "val_accuracy", higher_is_better=True)
    with pytest.raises(KeyboardInterrupt):
        run_trial(task, "as-is", 0)
    assert signal.getsignal(signal.SIGINT) is before


def trainer_of(strings, change, metric="accuracy"):
    def trainer(model, seed):
        return change(strings["trainer"], model, seed)

    return nw.trainer_task(strings["build"], trainer, metric, higher_is_better=True)


@pytest.mark.parametrize(
    ("change", "metric", "sentence"),
    [
        (
            lambda make, model, seed: make(model, 42),
            "accuracy",
            "the Trainer has seed 42 in the trial of seed 0; write TrainingArguments(…, seed=seed)",
        ),
        (
            lambda make, model, seed: None,
            "accuracy",
            "trainer(model, seed) must return a transformers.Trainer over the model it is given; "
            "it returned NoneType None",
        ),
        (
            lambda make, model, seed: make(model, seed),
            "f1",
            "the Trainer evaluates no 'f1'; what it does: loss, accuracy, runtime, "
            "samples_per_second, steps_per_second, epoch",
        ),
    ],
)
def test_a_trainer_that_cannot_be_scored(strings, change, metric, sentence):
    with pytest.raises(NormError) as told:
        run_trial(trainer_of(strings, change, metric), "as-is", 0)
    assert str(told.value) == sentence


def test_a_fingerprint_tells_what_is_trained_on(speech):
    one = lightning_of(speech).fingerprint()
    assert one == lightning_of(speech).fingerprint()
    for options in ({"monitor": "val_loss"}, {"trainer": {"max_epochs": 2}}, {"data": lambda: 0}):
        other = lightning_of(speech, **options).fingerprint()
        assert [key for key in one if one[key] != other[key]] == ["code"]
