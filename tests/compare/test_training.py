"""What each option of the training does, seen in what is trained."""

import math
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import nn

import tiny
from normwise.compare.training import Training, evaluate
from normwise.compare.trial import candidate_model, run_trial
from normwise.errors import NormError

CANDIDATES = ["as-is", "none", "group:2", "layer", "rms", "instance"]


def without_dropout(net=tiny.Net):
    model = net()
    model.layers[3] = nn.Identity()
    return model


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr)


def steps(task, candidate, batches):
    """The weights after one step on the first batches of an epoch."""
    model = candidate_model(task, candidate, 0).train()
    every = list(task.train.epoch(torch.Generator().manual_seed(0)))
    loss = Training(task, model).step(every[:batches])
    return model.state_dict(), float(loss)


@pytest.mark.parametrize(
    ("model", "data"),
    [(tiny.Net, tiny.waves(16, seed=1)), (tiny.PerFrame, tiny.frames(16, seed=1))],
    ids=["of samples", "of positions"],
)
@pytest.mark.parametrize("size", [4, 6], ids=["even", "a smaller last batch"])
def test_gradients_of_several_batches_are_those_of_a_large_one(size, model, data):
    options = {"model": partial(without_dropout, model), "train": data, "optimizer": sgd}
    several = steps(tiny.a_task(batch_size=size, accumulate=4, **options), "layer", 4)
    once = steps(tiny.a_task(batch_size=16, **options), "layer", 1)
    assert several[1] == pytest.approx(once[1], rel=1e-6)
    for name, tensor in once[0].items():
        torch.testing.assert_close(several[0][name], tensor, rtol=1e-5, atol=1e-6)


def test_so_many_batches_make_a_step(noted):
    noted_training(noted, batch_size=5, accumulate=2, epochs=2)
    assert len(noted.rates) == 2 * 3, "24 samples are 5 batches: 2, 2, and 1"


class Noting(torch.optim.SGD):
    """Notes the learning rate and the gradients' norm at every step."""

    rates: ClassVar = []
    norms: ClassVar = []

    def step(self, *arguments):
        group = self.param_groups[0]
        self.rates.append(group["lr"])
        self.norms.append(float(nn.utils.get_total_norm([p.grad for p in group["params"]])))
        return super().step(*arguments)


@pytest.fixture
def noted():
    Noting.rates.clear()
    Noting.norms.clear()
    return Noting


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


def on_plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.1, patience=0)


def noted_training(noted, **options):
    usual = {"optimizer": noted, "learning_rate": 0.1, "epochs": 4, "batch_size": 24}
    outcome = run_trial(tiny.a_task(**usual | options), "rms", 0)
    assert outcome.reason is None
    return outcome


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"schedule": "constant"}, [0.1] * 4),
        ({"schedule": "cosine"}, [0.05 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]),
        ({"schedule": "linear"}, [0.1, 0.075, 0.05, 0.025]),
        ({"schedule": halving}, [0.1, 0.05, 0.025, 0.0125]),
        ({"warmup": 3}, [0.1 / 3, 0.2 / 3, 0.1, 0.1]),
        ({"warmup": 1}, [0.1] * 4),
        ({"warmup": 4, "schedule": "linear"}, [0.1 * 0.25, 0.075 / 2, 0.05 * 0.75, 0.025]),
        ({"warmup": 4, "batch_size": 12, "epochs": 2}, [0.025, 0.05, 0.075, 0.1]),
    ],
    ids=["constant", "cosine", "linear", "own", "warm-up", "short", "both", "of steps"],
)
def test_the_schedule_reaches_the_optimizer(noted, options, rates):
    noted_training(noted, **options)
    assert noted.rates == pytest.approx(rates)


def test_a_schedule_may_look_at_the_score(noted):
    outcome = noted_training(noted, schedule=on_plateau, metric=constant, higher_is_better=True)
    assert noted.rates == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert outcome.score == 0.5


def constant(outputs, targets):
    return 0.5


def test_a_schedule_must_return_one():
    with pytest.raises(NormError) as told:
        run_trial(tiny.a_task(schedule=lambda optimizer: 0.1), "rms", 0)
    assert str(told.value) == (
        "schedule must return a scheduler of torch.optim.lr_scheduler; it returned float 0.1"
    )


def test_gradients_are_scaled_down_to_their_norm(noted):
    noted_training(noted)
    free = list(noted.norms)
    noted.norms.clear()
    noted_training(noted, max_grad_norm=min(free) / 2)
    assert noted.norms == pytest.approx([min(free) / 2] * 4, rel=1e-4)
    noted.norms.clear()
    noted_training(noted, max_grad_norm=2 * max(free))
    assert noted.norms == free


def scripted(scores):
    """A metric that gives these, one after the other."""
    given = iter(scores)
    return lambda outputs, targets: next(given)


@pytest.mark.parametrize(
    ("scores", "higher", "patience", "epochs", "best"),
    [
        ([0.1, 0.5, 0.4, 0.5, 0.9], True, 2, 4, 2),
        ([0.1, 0.5, 0.4, 0.6, 0.5, 0.6], True, 2, 6, 4),
        ([0.9, 0.5, 0.6, 0.7, 0.1], False, 2, 4, 2),
        ([0.1, 0.2, 0.3], True, 1, 3, 3),
        ([0.3, 0.2], True, 9, 2, 1),
    ],
)
def test_training_stops_after_epochs_without_a_better_score(scores, higher, patience, epochs, best):
    task = tiny.a_task(
        metric=scripted(scores), higher_is_better=higher, patience=patience, epochs=len(scores)
    )
    outcome = run_trial(task, "batch", 0, keep_weights=True)
    assert [entry["score"] for entry in outcome.curve] == scores[:epochs]
    assert outcome.score == scores[best - 1]
    until_best = run_trial(task_of(best), "batch", 0, keep_weights=True)
    for name, tensor in until_best.weights.items():
        assert torch.equal(outcome.weights[name], tensor), name


def task_of(epochs):
    return tiny.a_task(epochs=epochs)


def test_the_weights_that_are_kept_score_as_the_best_epoch_did():
    task = tiny.a_task(epochs=12, patience=3, learning_rate=0.3, metric=loss_of, **LESS)
    outcome = run_trial(task, "batch", 1, keep_weights=True)
    model = candidate_model(task, "batch", 1)
    model.load_state_dict(outcome.weights)
    assert evaluate(task, model, task.valid) == outcome.score
    assert outcome.score == min(entry["score"] for entry in outcome.curve)
    assert outcome.score < outcome.curve[-1]["score"]


LESS = {"higher_is_better": False}


def loss_of(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)


class Watching(tiny.Net):
    """Notes the types that pass through."""

    seen: ClassVar = set()

    def forward(self, x):
        convolved = self.layers[0](x)
        self.seen.add((self.training, convolved.dtype))
        return super().forward(x)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_precision_is_that_of_the_layers(precision):
    Watching.seen.clear()
    outcome = run_trial(
        tiny.a_task(model=Watching, precision=precision), "group:2", 0, keep_weights=True
    )
    assert outcome.reason is None
    dtype = getattr(torch, precision)
    assert Watching.seen == {(True, dtype), (False, dtype)}
    assert {t.dtype for t in outcome.weights.values() if t.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("candidate", CANDIDATES)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_as_float32_does(candidate, precision):
    full, mixed = (
        run_trial(tiny.a_task(precision=p, epochs=4), candidate, 0).curve
        for p in ("float32", precision)
    )
    assert mixed[-1]["loss"] == pytest.approx(full[-1]["loss"], abs=0.1)
    assert mixed != full


def test_small_gradients_survive_float16():
    """1e-7 is 0 in float16; it is scaled before it goes backward, and back after."""

    def tiny_loss(outputs, targets):
        return 1e-6 * nn.functional.cross_entropy(outputs, targets)

    options = {"model": without_dropout, "loss": tiny_loss, "optimizer": sgd, "learning_rate": 1e4}
    full, mixed = (
        steps(tiny.a_task(precision=p, **options), "group:2", 1)[0]["layers.0.weight"]
        for p in ("float32", "float16")
    )
    start = tiny.a_task(model=without_dropout).new_model(0).state_dict()["layers.0.weight"]
    assert ((mixed - start) / (full - start)).median() == pytest.approx(1, abs=0.05)


def test_steps_that_float16_leaves_out_are_no_fault():
    def huge_loss(outputs, targets):
        return 100 * nn.functional.cross_entropy(outputs, targets)

    task = tiny.a_task(
        precision="float16", loss=huge_loss, warmup=2, schedule="cosine", batch_size=24, epochs=3
    )
    assert run_trial(task, "rms", 0).reason is None
