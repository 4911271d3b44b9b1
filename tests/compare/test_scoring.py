"""Losses and metrics: by name, functions, modules, and torchmetrics' objects."""

import pytest
import torch
import torchmetrics
from torch import nn

import tiny
from normwise.compare.task.scoring import (
    Metric,
    accuracy,
    mean_absolute_error,
    mean_squared_error,
)
from normwise.compare.training import evaluate
from normwise.compare.trial import candidate_model, run_trial
from normwise.errors import NormError

LOGITS = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [4.0, 5.0]])


@pytest.mark.parametrize(
    ("metric", "outputs", "targets", "value"),
    [
        (accuracy, LOGITS, torch.tensor([0, 1, 1, 1]), 0.75),
        (accuracy, LOGITS[..., None].repeat(1, 1, 2), torch.tensor([[0, 1]] * 4), 0.5),
        (mean_squared_error, LOGITS[:2], torch.zeros(2, 2), 3.5),
        (mean_absolute_error, LOGITS[:2], torch.zeros(2, 2), 1.5),
    ],
)
def test_metrics(metric, outputs, targets, value):
    assert metric(outputs, targets) == value


@pytest.mark.parametrize(
    ("metric", "outputs", "targets", "sentence"),
    [
        (
            accuracy,
            LOGITS,
            torch.zeros(4, 1, dtype=torch.int64),
            "accuracy takes outputs (N, classes, …) and targets (N, …); received (4, 2) and (4, 1)",
        ),
        (
            accuracy,
            LOGITS[:, 0],
            torch.zeros(4),
            "accuracy takes outputs (N, classes, …) and targets (N, …); received (4,) and (4,)",
        ),
        (
            mean_squared_error,
            torch.zeros(4, 1),
            torch.zeros(4),
            "mse takes outputs and targets of the same shape; received (4, 1) and (4,)",
        ),
        (
            mean_absolute_error,
            torch.zeros(4),
            torch.zeros(4, 1),
            "mae takes outputs and targets of the same shape; received (4,) and (4, 1)",
        ),
    ],
)
def test_a_metric_broadcasts_nothing(metric, outputs, targets, sentence):
    with pytest.raises(NormError) as told:
        metric(outputs, targets)
    assert str(told.value) == sentence


def test_accuracy_leaves_out_what_the_loss_leaves_out():
    assert accuracy(LOGITS, torch.tensor([0, -100, 1, -100])) == 0.5


CPU = torch.device("cpu")


def untrained_score(**options):
    """A model's score before any training, by way of an evaluation in batches."""
    task = tiny.a_task(**options)
    return evaluate(task, task.new_model(0), task.data(0)[1])


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (torchmetrics.Accuracy("multiclass", num_classes=2, average="micro"), "accuracy"),
        (torchmetrics.MeanSquaredError(), "mse"),
        (torchmetrics.MeanAbsoluteError(), "mae"),
    ],
)
def test_torchmetrics_agrees_with_what_has_a_name(metric, name):
    x, y = tiny.waves(40, seed=2)
    targets = y if name == "accuracy" else torch.stack([y, 1 - y], dim=1).float()
    options = {"valid": (x, targets), "batch_size": 3}
    theirs, ours = (
        untrained_score(metric=metric, **options),
        untrained_score(metric=name, **options),
    )
    assert theirs == pytest.approx(ours)
    assert Metric(metric, CPU).higher_is_better is Metric(name, CPU).higher_is_better


def test_a_metric_of_ranks_is_one_of_all_samples_and_starts_anew():
    auroc = torchmetrics.AUROC("multiclass", num_classes=2)
    auroc.update(torch.eye(2), torch.tensor([1, 0]))
    scores = [untrained_score(metric=auroc, batch_size=size) for size in (1, 10)]
    assert scores[0] == scores[1]
    assert auroc.update_count == 1, "the one that was given is left as it was"
    assert run_trial(tiny.a_task(metric=auroc), "rms", 0).score > 0.5


def test_a_metric_that_cannot_take_the_outputs():
    with pytest.raises(NormError) as told:
        run_trial(tiny.a_task(metric=torchmetrics.MeanSquaredError()), "rms", 0)
    assert str(told.value) == (
        "the metric 'MeanSquaredError' cannot take outputs (32, 2) and targets (32,): "
        "RuntimeError: Predictions and targets are expected to have the same shape, but got "
        "torch.Size([32, 2]) and torch.Size([32])."
    )


def test_a_metric_that_does_not_say_its_direction():
    with pytest.raises(NormError) as told:
        tiny.a_task(metric=torchmetrics.MeanMetric())
    assert str(told.value) == (
        "say whether more MeanMetric is better: higher_is_better=True or False"
    )


def test_a_fingerprint_tells_what_an_object_holds():
    one, other = (
        tiny.a_task(metric=torchmetrics.FBetaScore("binary", beta=beta)).fingerprint()
        for beta in (1.0, 2.0)
    )
    assert [key for key in one if one[key] != other[key]] == ["code"]
    one, other = (
        tiny.a_task(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, w]))).fingerprint()
        for w in (1.0, 2.0)
    )
    assert [key for key in one if one[key] != other[key]] == ["code"]


def test_a_loss_may_be_a_module():
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0]))
    outcome = run_trial(tiny.a_task(loss=weighted, epochs=5), "rms", 0)
    assert outcome.score == 0.5, "all are taken for the one class that counts"


def test_padding_counts_neither_in_the_loss_nor_in_the_metric():
    one, other = (
        run_trial(
            tiny.a_task(
                model=tiny.PerFrame, train=tiny.frames(24, 1, fill), valid=tiny.frames(40, 2, fill)
            ),
            "instance",
            0,
        )
        for fill in (0, 1)
    )
    assert one.reason is None
    assert one.curve == other.curve


def test_series_of_unequal_length_are_scored_as_if_they_came_alone():
    x, y, lengths = tiny.frames(40, 2)
    task = tiny.a_task(model=tiny.PerFrame, valid=(x, y, lengths))
    model = candidate_model(task, "layer", 0).eval()
    right = [
        (model(x[n : n + 1, :, :t]).argmax(1) == y[n, :t]).flatten() for n, t in enumerate(lengths)
    ]
    assert evaluate(task, model, task.valid) == torch.cat(right).double().mean().item()


def test_a_target_for_each_position_can_be_learned():
    task = tiny.a_task(
        model=tiny.PerFrame,
        train=tiny.frames(24, 1),
        valid=tiny.frames(40, 2),
        epochs=5,
        metric=torchmetrics.F1Score("multiclass", num_classes=2),
    )
    assert run_trial(task, "layer", 0).score > 0.8


def test_outputs_of_unequal_size_cannot_be_scored_by_a_function():
    x, y = tiny.waves(40, seed=2)
    loader = [(x[:20], y[:20, None].repeat(1, 16)), (x[20:, :, :9], y[20:, None].repeat(1, 9))]
    data = torch.utils.data.DataLoader(loader, batch_size=None)
    with pytest.raises(NormError) as told:
        run_trial(tiny.a_task(model=tiny.PerFrame, train=data, valid=data), "rms", 0)
    assert str(told.value) == (
        "the model's outputs differ in size from batch to batch, so a function cannot score them "
        "together; give the lengths with the data, pad the outputs to one size in the model's "
        "forward, or take a metric of torchmetrics"
    )
