"""What is held out: apart from what is trained on, the same for all, and as it was asked for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import normwise as nw
import tiny
from normwise.compare.task.splits import Split
from normwise.data import Series
from normwise.errors import NormError

SEEDS = range(12)


@given(
    samples=st.integers(24, 90),
    held_out=st.floats(0.1, 0.9) | st.none(),
    folds=st.integers(2, 6),
    kind=st.sampled_from(["random", "stratified", "temporal"]),
    seed=st.integers(0, 99),
)
def test_both_sides_are_disjoint_and_of_the_size_asked_for(samples, held_out, folds, kind, seed):
    classes = torch.arange(samples) % 3 if kind == "stratified" else None
    folds = folds if held_out is None else None
    train, valid = Split(samples, held_out, folds, kind, classes=classes).of(seed)
    assert not set(train.tolist()) & set(valid.tolist())
    assert train.tolist() == sorted(train.tolist())
    assert len(train) > 0
    if kind == "temporal":
        assert train.max() < valid.min()
    else:
        assert len(train) + len(valid) == samples
    if held_out is not None:
        assert abs(len(valid) - held_out * samples) <= 1


def sides(split):
    return [tuple(map(tuple, (s.tolist() for s in split.of(seed)))) for seed in SEEDS]


def test_a_seed_parts_the_samples_in_its_own_way_and_always_the_same():
    options = {"held_out": 0.25}
    assert sides(Split(40, **options)) == sides(Split(40, **options))
    assert len(set(sides(Split(40, **options)))) == len(SEEDS)


@pytest.mark.parametrize("kind", ["random", "stratified"])
def test_as_many_seeds_as_folds_hold_every_sample_out_once(kind):
    classes = torch.arange(43) % 4 if kind == "stratified" else None
    split = Split(43, folds=4, kind=kind, classes=classes)
    rounds = [
        sorted(n for seed in range(first, first + 4) for n in split.of(seed)[1].tolist())
        for first in (0, 4, 8)
    ]
    assert rounds == [list(range(43))] * 3
    assert len({split.of(seed)[1].tolist().__repr__() for seed in (0, 4, 8)}) == 3, "drawn afresh"


@pytest.mark.parametrize("options", [{"held_out": 0.2}, {"folds": 5}])
def test_a_stratified_split_takes_from_every_class_in_proportion(options):
    classes = torch.tensor([0] * 50 + [1] * 20 + [2] * 10)[torch.randperm(80)]
    split = Split(80, kind="stratified", classes=classes, **options)
    for seed in SEEDS:
        counts = torch.bincount(classes[split.of(seed)[1]], minlength=3)
        assert (counts - torch.tensor([10, 4, 2])).abs().max() <= 1


@pytest.mark.parametrize("options", [{"held_out": 0.3}, {"folds": 3}])
def test_a_group_is_never_on_both_sides(options):
    groups = [f"speaker {n**2 % 11}" for n in range(60)]
    split = Split(60, groups=groups, **options)
    held = []
    for seed in SEEDS:
        train, valid = ({groups[n] for n in side} for side in split.of(seed))
        assert not train & valid
        held.append(frozenset(valid))
    assert len(set(held)) > 1


def test_folds_of_groups_are_of_similar_size():
    groups = torch.repeat_interleave(torch.arange(7), torch.tensor([30, 10, 10, 10, 20, 5, 5]))
    split = Split(90, groups=groups, folds=3)
    assert [len(split.of(seed)[1]) for seed in range(3)] == [30] * 3


def test_temporal_folds_are_trained_on_all_that_came_before():
    split = Split(40, folds=3, kind="temporal")
    assert [(len(train), valid.tolist()) for train, valid in map(split.of, range(3))] == [
        (10, list(range(10, 20))),
        (20, list(range(20, 30))),
        (30, list(range(30, 40))),
    ]
    assert split.of(4)[1].tolist() == split.of(1)[1].tolist(), "nothing is drawn"


X, Y = tiny.waves(60, seed=0)


@pytest.mark.parametrize(
    "train", [(X, Y), torch.utils.data.TensorDataset(X, Y)], ids=["arrays", "Dataset"]
)
@pytest.mark.parametrize(
    "options", [{"valid": 0.25}, {"valid": 0.25, "split": "stratified"}, {"folds": 4}]
)
def test_a_task_gives_each_seed_its_samples(train, options):
    task = tiny.a_task(**{"valid": None, "train": train} | options)
    for seed in SEEDS[:4]:
        learned, held_out = (
            {tuple(x.flatten().tolist()) for batch in data.epoch() for x in batch.x}
            for data in task.data(seed)
        )
        assert len(learned) == 45
        assert len(held_out) == 15
        assert not learned & held_out


def test_a_split_is_stratified_where_there_are_classes():
    for options, words in (
        ({}, "25 % held out, stratified"),
        ({"split": "random"}, "25 % held out, random"),
        ({"split": "temporal"}, "25 % held out, temporal"),
        ({"groups": Y}, "25 % held out, by groups"),
        ({"loss": "mse"}, "25 % held out, random"),
        ({"train": torch.utils.data.TensorDataset(X, Y)}, "25 % held out, random"),
        ({"train": (X, X[:, 0]), "loss": "mse"}, "25 % held out, random"),
    ):
        settings = tiny.a_task(**{"train": (X, Y), "valid": 0.25} | options).settings()
        assert settings["validation"] == words


SERIES = torch.stack([torch.arange(100.0), -torch.arange(100.0)])


@pytest.mark.parametrize("stride", [1, 3, 7])
@pytest.mark.parametrize("options", [{"valid": 0.3}, {"valid": None, "folds": 3}])
def test_a_forecast_never_looks_ahead(options, stride):
    windows = nw.Windows(SERIES, history=6, horizon=5, stride=stride)
    task = tiny.a_task(train=windows, loss="mse", metric="mse", **options)
    for seed in range(3):
        learned, held_out = (
            torch.cat([batch.y[:, 0] for batch in data.epoch()]) for data in task.data(seed)
        )
        assert 0 < held_out.min() - learned.max() <= stride, "no more is left out than must be"


def test_windows_are_views_of_the_series():
    x, y = nw.Windows(SERIES, history=6, horizon=5, targets=[1], stride=2).arrays()
    assert x.shape == (45, 2, 6)
    assert y.shape == (45, 1, 5)
    assert x.data_ptr() == SERIES.data_ptr()
    assert x[3, 0].tolist() == [6, 7, 8, 9, 10, 11]
    assert y[3, 0].tolist() == [-12, -13, -14, -15, -16]
    alone, _ = nw.Windows(SERIES[0].numpy(), history=6, horizon=5).arrays()
    assert alone.shape == (90, 1, 6)


def test_windows_to_be_reconstructed_are_their_own_targets():
    windows = nw.Windows(SERIES, history=6, horizon=0, targets=[1])
    x, y = windows.arrays()
    assert x.shape == (95, 2, 6)
    assert torch.equal(y, x[:, 1:])
    task = tiny.a_task(train=windows, valid=0.3, loss="mse", metric="mse")
    learned, held_out = (torch.cat([batch.x for batch in data.epoch()]) for data in task.data(0))
    assert learned[:, 0].max() == held_out[:, 0].min() - 1, "they have no step in common"


def test_windows_of_a_series_from_a_file():
    series = Series(SERIES.double(), ("a", "b"), np.arange(100.0))
    for found, expected in zip(
        nw.Windows(series, 6, 5).arrays(), nw.Windows(SERIES, 6, 5).arrays(), strict=True
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_a_shorter_history_ends_where_the_longer_one_did():
    task = tiny.a_task(
        train=nw.Windows(SERIES, 6, 5), valid=nw.Windows(SERIES, 6, 5), loss="mse", metric="mse"
    )
    (long,), (short,) = (
        list(t.replace(batch_size=100).valid.epoch()) for t in (task, task.replace(length=2))
    )
    assert torch.equal(short.x, long.x[..., -2:])
    assert torch.equal(short.y, long.y)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((SERIES, 0, 5), "history must be a whole number of 1 or more, received 0"),
        (
            (SERIES, 90, 20),
            "a series of 100 steps holds no window of 90 + 20; give a longer one, or ask for "
            "shorter windows",
        ),
        (
            (SERIES[None], 6, 5),
            "a series must be (C, T) or (T,), received (1, 2, 100) float32 on cpu",
        ),
    ],
)
def test_a_series_that_holds_no_window(arguments, sentence):
    with pytest.raises(NormError) as told:
        nw.Windows(*arguments)
    assert str(told.value) == sentence
