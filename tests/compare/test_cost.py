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
from normwise.recipes import vowels

pytestmark = pytest.mark.usefixtures("brief_timing")

# Net's convolutions, 2 · 8 · 3 + 8 and 8 · 8 · 3 + 8, and its readout, 8 · 2 + 2.
BARE = 56 + 200 + 18


@pytest.fixture(scope="module")
def task():
    return tiny.a_task()


def test_every_figure_is_there_and_positive(task):
    costs = measure_costs(task, ["as-is", "none", "group:2"])
    assert list(costs) == ["as-is", "none", "group:2"]
    for each in costs.values():
        measured = [figure for figure in dataclasses.astuple(each) if figure is not None]
        assert len(measured) == 4
        assert min(measured) > 0
        assert not each.compiling_was_tried


def compiled_costs(task, backend, monkeypatch, candidates=("none",)):
    monkeypatch.setattr(cost, "BACKEND", backend)
    return measure_costs(task, list(candidates), compiled=True)


def test_compiled_models_are_timed_beside_the_others(task, monkeypatch):
    (each,) = compiled_costs(task, "eager", monkeypatch).values()
    assert each.train_compiled_s_per_step > 0
    assert each.inference_compiled_us_per_sample > 0
    assert each.not_compiled is None


class Counting(tiny.Net):
    """Knows how often it was called, which a graph of it then depends on."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * len(range(self.calls))


def test_what_is_compiled_at_every_call_is_not_timed(monkeypatch):
    counting = tiny.a_task(model=Counting)
    (each,) = compiled_costs(counting, "eager", monkeypatch).values()
    assert each.not_compiled == "torch.compile compiles it anew at every call"


@pytest.mark.slow
def test_more_candidates_are_compiled_than_torch_would_by_itself(task, monkeypatch):
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    names = [
        "group:1",
        "group:2",
        "group:4",
        "group:8",
        "layer",
        "rms",
        "instance",
        "batch",
        "none",
    ]
    compiled_costs(task, counting, monkeypatch, names)
    assert len(graphs) == 2 * len(names)


def broken(graph, inputs):
    raise OSError("no compiler")


def test_what_cannot_be_compiled_is_told(task, monkeypatch):
    for each in compiled_costs(task, broken, monkeypatch).values():
        assert each.train_s_per_step > 0
        assert (each.train_compiled_s_per_step, each.inference_compiled_us_per_sample) == (
            None,
        ) * 2
        assert "no compiler" in each.not_compiled


def test_the_time_for_compiling_is_limited(task, monkeypatch):
    monkeypatch.setattr(cost, "COMPILE_S", -1)
    for each in compiled_costs(task, "aot_eager", monkeypatch).values():
        assert each.not_compiled == "the -1 s for compiling were spent"


def test_a_loop_of_ones_own_cannot_be_timed():
    own = tiny.a_task(run=lambda model, seed, report: 0.0)
    (each,) = measure_costs(own, ["none"], compiled=True).values()
    assert each.not_compiled == "a loop of one's own shows no batches to time"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler warns of what is its own affair
def test_the_vowels_are_compiled(monkeypatch):
    """Their lengths reach norms and model."""
    costs = compiled_costs(vowels.task(), "inductor", monkeypatch, ["as-is", "group:8"])
    for each in costs.values():
        assert each.not_compiled is None
        assert each.train_compiled_s_per_step > 0


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
