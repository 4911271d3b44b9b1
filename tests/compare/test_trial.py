"""One trial: paired with its sisters, repeatable, and an outcome whatever happens in it."""

import contextlib
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from normwise.compare import trial
from normwise.compare.trial import candidate_model, run_trial
from normwise.errors import NormError
from normwise.surgery import swap

CANDIDATES = ["as-is", "none", "batch", "instance", "group:2", "layer", "rms", "tanh"]


class Record:
    """What a model saw; outside the model, since a swap copies that."""

    def __init__(self):
        self.inputs, self.draws, self.lengths, self.normed = [], [], [], []


RECORD = Record()


@pytest.fixture
def record():
    RECORD.__init__()
    return RECORD


class RecordedDropout(nn.Dropout):
    def forward(self, x):
        drawn = super().forward(torch.ones_like(x))
        RECORD.draws.append(drawn)
        return x * drawn


class Recorded(tiny.Net):
    def __init__(self):
        super().__init__()
        self.layers[3] = RecordedDropout(0.2)

    def forward(self, x):
        RECORD.inputs.append(x)
        return super().forward(x)


def drawing_loop(model, seed, report):
    """A loop of one's own that draws from everything there is."""
    model.train()
    x = torch.randn(4, 2, 16) * random.random() + np.random.standard_normal()
    return model(x).sum()


def weights(model):
    """Everything but the norms, as swapping leaves it."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(("layers.0.", "layers.4.", "readout."))
    }


@pytest.mark.parametrize("candidate", CANDIDATES[1:])
def test_a_seed_gives_every_candidate_the_same_start(candidate):
    start = weights(candidate_model(tiny.task, "as-is", seed=3))
    swapped = weights(candidate_model(tiny.task, candidate, seed=3))
    other = weights(candidate_model(tiny.task, candidate, seed=4))
    assert start.keys() == swapped.keys()
    for name, tensor in start.items():
        assert torch.equal(tensor, swapped[name])
        assert not torch.equal(tensor, other[name])


def seen(record, candidate, seed, task):
    record.__init__()
    outcome = run_trial(task, candidate, seed)
    assert outcome.reason is None
    return record.inputs, record.draws


def same(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("form", ["arrays", "DataLoader"])
@pytest.mark.parametrize("candidate", CANDIDATES[1:])
def test_a_seed_gives_every_candidate_the_same_batches_and_draws(record, candidate, form):
    options = {}
    if form == "DataLoader":
        data = torch.utils.data.TensorDataset(*tiny.waves(24, seed=1))
        options["train"] = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    task = tiny.a_task(model=Recorded, **options)
    inputs, draws = seen(record, "as-is", 3, task)
    assert len(inputs) == 2 * (3 + 2)
    assert not torch.equal(inputs[0], inputs[5]), "epochs differ"
    assert same(inputs, seen(record, candidate, 3, task)[0])
    assert same(draws, record.draws)
    other_inputs, other_draws = seen(record, candidate, 4, task)
    assert not same(inputs, other_inputs)
    assert not same(draws, other_draws)


def test_what_a_norm_draws_when_it_is_made_shifts_no_other_draw(record, monkeypatch):
    def drawing_swap(model, candidate, **options):
        torch.rand(5)
        return swap(model, candidate, **options)

    task = tiny.a_task(model=Recorded)
    inputs, draws = seen(record, "rms", 3, task)
    monkeypatch.setattr(trial, "swap", drawing_swap)
    assert same(inputs, seen(record, "rms", 3, task)[0])
    assert same(draws, record.draws)


@pytest.mark.parametrize("options", [{}, {"run": drawing_loop}], ids=["our loop", "own loop"])
def test_a_trial_is_the_same_bit_for_bit_whatever_ran_before(options):
    task = tiny.a_task(**options)
    once = run_trial(task, "group:2", 5, keep_weights=True)
    for draw in (torch.rand, np.random.rand):
        draw(7)
    random.random()
    again = run_trial(task, "group:2", 5, keep_weights=True)
    assert once.score == again.score
    assert once.curve == again.curve
    assert same(once.weights.values(), again.weights.values())
    assert run_trial(task, "group:2", 6).curve != once.curve or options


def raising(error):
    """A builder of models that raise in their forward."""

    class Raising(tiny.Net):
        def forward(self, x):
            if isinstance(error, BaseException):
                raise error
            return error(super().forward(x), self.training)

    return Raising


def beyond_memory(outputs, training):
    return outputs + torch.empty(2**56)


def not_finite_in_evaluation(outputs, training):
    return outputs if training else outputs * math.nan


def nan_loss(outputs, targets):
    return outputs.sum() * math.nan


def mean_square(outputs, targets):
    return outputs.square().mean()


def returning(value):
    return {"run": lambda model, seed, report: value}


def scoring(value):
    return {"metric": lambda outputs, targets: value, "higher_is_better": True}


@pytest.fixture
def untouched(generators):
    """The caller's generators and threads are as they were when the test ends."""
    threads = torch.get_num_threads()
    yield {"threads": threads + 1}
    assert generators() == generators.before
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": nan_loss}, "diverged: the loss was nan in epoch 1"),
        ({"learning_rate": 1e30}, "diverged: the loss was nan in epoch 1"),
        ({"model": raising(ValueError("first\nsecond"))}, "ValueError: first"),
        ({"model": raising(KeyError())}, "KeyError"),
        ({"model": raising(NormError("5 does not divide 8"))}, "NormError: 5 does not divide 8"),
        ({"model": raising(MemoryError())}, "out of memory"),
        ({"model": raising(torch.OutOfMemoryError("CUDA"))}, "out of memory"),
        ({"model": raising(beyond_memory)}, "out of memory"),
        ({"model": raising(not_finite_in_evaluation)}, "diverged: the outputs were not finite"),
        (returning(math.nan), "diverged: the score was nan"),
        (returning(-math.inf), "diverged: the score was -inf"),
        (
            {"run": lambda model, seed, report: report("soon", 1.0)},
            "ValueError: invalid literal for int() with base 10: 'soon'",
        ),
    ],
)
def test_a_failure_is_an_outcome_with_its_reason(options, reason, untouched):
    outcome = run_trial(tiny.a_task(**untouched | options), "none", 0, keep_weights=True)
    assert (outcome.score, outcome.weights, outcome.kind) == (None, None, "failed")
    assert outcome.reason == reason


NO_NUMBER = "run(model, seed, report) must return the score as a number; it returned "


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            scoring(math.nan),
            "the metric '<lambda>' returned nan for finite outputs; it must return a number",
        ),
        (
            scoring(None),
            "the metric '<lambda>' returned None for finite outputs; it must return a number",
        ),
        (
            {"loss": mean_square, "metric": "mse"},
            "mse takes outputs and targets of the same shape; received (40, 2) and (40,)",
        ),
        (returning(None), NO_NUMBER + "None"),
        (returning("high"), NO_NUMBER + "'high'"),
    ],
)
def test_a_fault_of_the_task_is_raised(options, sentence, untouched):
    with pytest.raises(NormError) as told:
        run_trial(tiny.a_task(**untouched | options), "rms", 0)
    assert str(told.value) == sentence


def test_a_trial_keeps_its_curve_and_its_weights():
    epochs = []
    outcome = run_trial(tiny.task, "rms", 0, keep_weights=True, on_progress=epochs.append)
    assert epochs == [1, 2]
    assert [entry["epoch"] for entry in outcome.curve] == [1, 2]
    assert all(math.isfinite(entry["loss"]) for entry in outcome.curve)
    assert outcome.curve[-1]["score"] == outcome.score
    assert outcome.seconds > 0
    model = candidate_model(tiny.task, "rms", 0)
    model.load_state_dict(outcome.weights)
    x, y = tiny.waves(40, seed=2)
    assert (model.eval()(x).argmax(1) == y).double().mean() == outcome.score


def reporting(scores):
    """A loop that reports these, lets nothing stop it that it can catch, and returns the last."""

    def run(model, seed, report):
        for step, score in enumerate(scores, start=1):
            with contextlib.suppress(Exception):
                report(step, score)
        return scores[-1]

    return run


@pytest.mark.parametrize(
    ("scores", "higher", "floors", "epochs", "reason"),
    [
        ([0.5, 0.6, 0.7], True, {}, 3, None),
        ([0.5, 0.6, 0.7], True, {1: 0.5, 3: 0.7}, 3, None),
        ([0.5, 0.6, 0.7], True, {2: 0.65}, 2, "stopped in epoch 2: 0.6 is worse than 0.65"),
        (
            [0.5, 0.6, 0.7],
            False,
            {1: 0.6, 2: 0.59},
            2,
            "stopped in epoch 2: 0.6 is worse than 0.59",
        ),
        ([0.5, math.nan, 0.7], True, {2: 0.9, 9: 0.9}, 3, None),
    ],
    ids=["no floors", "not worse", "below", "above, where less is better", "nothing to judge"],
)
def test_a_trial_stops_below_its_floor(scores, higher, floors, epochs, reason, untouched):
    task = tiny.a_task(**untouched, run=reporting(scores), higher_is_better=higher)
    outcome = run_trial(task, "rms", 0, floors=floors, keep_weights=True)
    assert outcome.reason == reason
    assert max(entry["epoch"] for entry in outcome.curve) == epochs
    assert outcome.kind == ("stopped" if reason else "finished")
    assert outcome.score == (None if reason else scores[-1])


def test_a_trial_of_our_own_loop_stops_below_its_floor():
    outcome = run_trial(tiny.a_task(epochs=9), "rms", 0, floors={2: 1.1})
    assert (outcome.kind, outcome.score, len(outcome.curve)) == ("stopped", None, 2)


def test_weights_are_kept_where_they_are_asked_for():
    assert run_trial(tiny.task, "rms", 0).weights is None


def test_an_own_loop_draws_its_curve():
    def run(model, seed, report):
        for step, score in ((0, 0.25), (torch.tensor(10), torch.tensor(0.5)), (20, math.nan)):
            report(step, score)
        report(30, 0.75)
        return torch.tensor(0.75)

    outcome = run_trial(tiny.a_task(run=run), "rms", 0)
    assert (outcome.score, outcome.reason) == (0.75, None)
    assert outcome.curve == [
        {"epoch": step, "score": score} for step, score in ((0, 0.25), (10, 0.5), (30, 0.75))
    ]
    assert {type(value) for entry in outcome.curve for value in entry.values()} == {int, float}


class Padded(tiny.Net):
    """Takes lengths, and notes them beside what the first norm gave."""

    def forward(self, x, lengths):
        RECORD.lengths.append(lengths)
        RECORD.normed.append(self.layers[:2](x))
        return super().forward(x)


class Unaware(tiny.Net):
    """Notes what the first norm gave."""

    def forward(self, x):
        RECORD.normed.append(self.layers[:2](x))
        return super().forward(x)


@pytest.mark.parametrize("candidate", ["batch", "group:2", "layer"])
@pytest.mark.parametrize("model", [Padded, Unaware])
def test_lengths_reach_the_norms_and_the_model(record, model, candidate):
    x, y = tiny.waves(24, seed=1)
    lengths = torch.arange(24) % 12 + 4
    task = tiny.a_task(model=model, train=(x, y, lengths), valid=(x, y, lengths))
    assert run_trial(task, candidate, 0).reason is None
    every = list(task.train.epoch(torch.Generator().manual_seed(0)))
    if model is Padded:
        assert record.lengths[0].tolist() == every[0].lengths.tolist()
    for batch, normed in zip(every, record.normed, strict=False):
        padding = torch.arange(normed.shape[-1]) >= batch.lengths[:, None]
        frames = normed.mT
        assert padding.any()
        assert not frames[padding].any()
        assert frames[~padding].any(dim=-1).all()


def test_the_model_as_it_is_sees_the_padding(record):
    x, y = tiny.waves(24, seed=1)
    lengths = torch.arange(24) % 12 + 4
    task = tiny.a_task(model=Unaware, train=(x, y, lengths), valid=(x, y, lengths))
    assert run_trial(task, "as-is", 0).reason is None
    first = next(task.train.epoch(torch.Generator().manual_seed(0)))
    padding = torch.arange(first.x.shape[-1]) >= first.lengths[:, None]
    assert record.normed[0].mT[padding].any(dim=-1).all()
