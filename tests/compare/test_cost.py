"""What candidates cost: measured, positive, and as a hand counts it."""

import dataclasses

import pytest
import torch
from torch import nn

import normwise as nw
import tiny
from normwise.compare import cost
from normwise.compare.cost import measure_costs
from normwise.compare.ledger import Cost

pytestmark = pytest.mark.usefixtures("brief_timing")

# Net's convolutions, 2 · 8 · 3 + 8 and 8 · 8 · 3 + 8, and its readout, 8 · 2 + 2.
BARE = 56 + 200 + 18


@pytest.fixture(scope="module")
def task():
    return tiny.a_task()


def test_every_figure_is_there_and_positive(task):
    costs = measure_costs(task, ["as-is", "none", "group:2"])
    assert list(costs) == ["as-is", "none", "group:2"]
    figures = [figure for each in costs.values() for figure in dataclasses.astuple(each)]
    assert len(figures) == 3 * 4
    assert min(figures) > 0


@pytest.mark.parametrize(
    ("candidate", "of_norms"),
    [
        ("as-is", 2 * 16),
        ("none", 0),
        ("batch", 2 * 16),
        ("batch:affine=False", 0),
        ("rms", 2 * 8),
        ("tanh", 2 * 17),
    ],
)
def test_parameters_are_those_that_are_trained(candidate, of_norms):
    task = tiny.a_task(run=lambda model, seed, report: 0.0)
    assert measure_costs(task, [candidate]) == {candidate: Cost(parameters=BARE + of_norms)}


def test_frozen_parameters_do_not_count():
    def build():
        model = tiny.Net()
        model.readout.requires_grad_(False)
        return model

    task = tiny.a_task(model=build, run=lambda model, seed, report: 0.0)
    assert measure_costs(task, ["none"])["none"].parameters == BARE - 18


def test_peak_memory_is_what_a_hand_counts():
    size, batch = 500, 50

    def build():
        return nn.Sequential(nw.Identity(size), nn.Linear(size, size, bias=False))

    data = (torch.randn(batch, size), torch.randn(batch, size))
    task = tiny.a_task(
        model=build, train=data, valid=data, batch_size=batch, loss="mse", metric="mse"
    )
    peak_mb = measure_costs(task, ["as-is"])["as-is"].peak_memory_mb
    gradient_mb, outputs_mb = 4 * size * size / 1e6, 4 * batch * size / 1e6
    assert gradient_mb + outputs_mb <= peak_mb < 1.001 * (gradient_mb + 3 * outputs_mb)


def test_candidates_take_turns(task, monkeypatch):
    monkeypatch.setattr(cost, "ROUNDS", 3)
    turns = []
    measure_costs(task, ["none", "rms"], turns.append)
    assert turns == ["none", "rms"] * 3 * 2
