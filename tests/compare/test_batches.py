"""Data in every form that people have it, as one stream of batches."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from normwise.compare.task.batches import Batches
from normwise.errors import NormError

X = torch.arange(60.0).reshape(5, 2, 6)
Y = torch.arange(5)
LENGTHS = torch.tensor([6, 2, 3, 1, 4])
SERIES = [x[:, :length] for x, length in zip(X, LENGTHS, strict=True)]


class Items(Dataset):
    """Samples as (x, y, length), one at a time."""

    def __len__(self):
        return len(Y)

    def __getitem__(self, i):
        return X[i], Y[i], LENGTHS[i]


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield X[0], Y[0]


def epoch(source, batch_size=2, seed=None):
    shuffle = None if seed is None else torch.Generator().manual_seed(seed)
    return list(Batches(source, batch_size, "train").epoch(shuffle))


def order(batches):
    return [batch.y.tolist() for batch in batches]


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        [X, Y],
        (X.numpy(), Y.numpy()),
        ([*X.numpy()], Y.tolist()),
        ([*X], Y),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=2),
    ],
    ids=["tensors", "a list", "numpy", "series", "series of torch", "Dataset", "DataLoader"],
)
def test_every_form_gives_the_same_batches(source):
    batches = epoch(source)
    assert order(batches) == [[0, 1], [2, 3], [4]]
    assert torch.equal(torch.cat([batch.x for batch in batches]), X)
    assert [batch.lengths for batch in batches] == [None] * 3


@pytest.mark.parametrize(
    "source",
    [(X, Y, LENGTHS), (SERIES, Y), ([s.numpy() for s in SERIES], Y.numpy())],
    ids=["lengths", "series", "series of numpy"],
)
def test_a_batch_is_as_long_as_its_longest_series(source):
    batches = epoch(source)
    assert [batch.lengths.tolist() for batch in batches] == [[6, 2], [3, 1], [4]]
    assert [batch.x.shape[-1] for batch in batches] == [6, 3, 4]
    for batch in batches:
        for x, y, length in zip(*batch, strict=True):
            assert torch.equal(x[:, :length], SERIES[y])


def test_series_of_unequal_length_are_padded_with_0():
    first, *_ = epoch((SERIES, Y))
    assert not first.x[1, :, 2:].any()


def test_series_of_equal_length_may_come_with_lengths():
    batches = epoch(([*X], Y, LENGTHS))
    assert [batch.lengths.tolist() for batch in batches] == [[6, 2], [3, 1], [4]]


def test_a_dataset_may_give_lengths():
    batches = epoch(Items())
    assert [batch.lengths.tolist() for batch in batches] == [[6, 2], [3, 1], [4]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: (X, Y),
        lambda: Items(),
        lambda: DataLoader(Items(), batch_size=1, shuffle=True),
        lambda: DataLoader(Items(), batch_size=1, shuffle=True, generator=torch.Generator()),
    ],
    ids=["arrays", "Dataset", "DataLoader", "DataLoader with its own generator"],
)
def test_the_order_is_the_seeds_and_differs_from_epoch_to_epoch(make):
    source = make()
    loaded = Batches(source, 1, "train")
    shuffle = torch.Generator().manual_seed(3)
    passes = [order(loaded.epoch(shuffle)) for _ in range(4)]
    assert len({str(one) for one in passes}) > 1
    assert all(sorted(y for [y] in one) == Y.tolist() for one in passes)
    assert order(epoch(source, 1, seed=3)) == passes[0]


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(5, 2, [2, 2]), (5, 3, [3, 2]), (4, 2, [2, 2]), (5, 1, [1] * 5), (1, 2, [1]), (1, 1, [1])],
)
def test_a_lone_last_sample_is_left_out_of_training(count, batch_size, sizes):
    source = X[:count], Y[:count]
    assert [len(batch.y) for batch in epoch(source, batch_size, seed=0)] == sizes
    assert sum(len(batch.y) for batch in epoch(source, batch_size)) == count


SAME_COUNT = "train arrays must have the same number of samples first: "
SERIES_FORM = "train series must be arrays (C, T) with the same C; received "
NUMBERS = "train arrays must hold numbers, as many in each row; received "
LENGTH_FORM = "train lengths must be whole numbers from 1 to T = 6, one for each sample; received "


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ((X,), "train arrays must be (x, y) or (x, y, lengths); received 1 parts"),
        (
            (X, Y, LENGTHS, LENGTHS),
            "train arrays must be (x, y) or (x, y, lengths); received 4 parts",
        ),
        ((X, Y[:4]), SAME_COUNT + "(5, 2, 6), (4,)"),
        ((X, Y, LENGTHS[:4]), SAME_COUNT + "(5, 2, 6), (5,), (4,)"),
        ((X[:0], Y[:0]), SAME_COUNT + "(0, 2, 6), (0,)"),
        (([], []), SAME_COUNT + "(0,), (0,)"),
        ((X, 5), SAME_COUNT + "(5, 2, 6), ()"),
        ((SERIES, Y[:4]), SAME_COUNT + "(5, 2, 6), (4,), (5,)"),
        (([s[0] for s in SERIES], Y), SERIES_FORM + "(6,), (2,), (3,)"),
        (([SERIES[0], SERIES[1][:1]], Y[:2]), SERIES_FORM + "(2, 6), (1, 2)"),
        ((SERIES, Y, LENGTHS), "train series of unequal T tell their lengths; write (x, y)"),
        ((X, [*"abcde"]), NUMBERS + "list ['a', 'b', 'c', 'd', 'e']"),
        (([[1.0], [2.0, [3.0]]], [0, 1]), NUMBERS + "list [2.0, [3.0]]"),
        ((X, Y, LENGTHS + 1), LENGTH_FORM + "2 to 7"),
        ((X, Y, LENGTHS - 1), LENGTH_FORM + "0 to 5"),
        ((X, Y, LENGTHS.float()), LENGTH_FORM + "(5,) float32 on cpu"),
        ((X, Y, LENGTHS[:, None]), LENGTH_FORM + "(5, 1) int64 on cpu"),
        (
            "data.csv",
            "train data must be (x, y), (x, y, lengths), a Dataset or a DataLoader; "
            "received str 'data.csv'",
        ),
        (
            Endless(),
            "train data that can only be iterated over has no samples to draw batches from; "
            "give a DataLoader of the Endless",
        ),
    ],
)
def test_bad_data_is_told_at_once(source, sentence):
    with pytest.raises(NormError) as told:
        Batches(source, 2, "train")
    assert str(told.value) == sentence


@pytest.mark.parametrize(
    ("source", "received"),
    [
        (TensorDataset(X), "list [tensor([[[ 0., 1., 2.,"),
        (DataLoader(TensorDataset(X)), "list [tensor([[[ 0., 1., 2.,"),
        (DataLoader(X), "(1, 2, 6) float32 on cpu"),
    ],
)
def test_items_that_are_no_pairs_are_told_when_they_come(source, received):
    with pytest.raises(NormError) as told:
        epoch(source)
    sentence = f"train data must give (x, y) or (x, y, lengths); it gave {received}"
    assert str(told.value).startswith(sentence)


FRAMES = torch.arange(30).reshape(5, 6)  # a target for each position
IN_TWO = torch.stack([FRAMES, -FRAMES], dim=1).float()


def each_cropped(y):
    return [frames[..., :length] for frames, length in zip(y, LENGTHS, strict=True)]


@pytest.mark.parametrize(
    ("source", "y"),
    [
        ((X, FRAMES, LENGTHS), FRAMES),
        ((X, IN_TWO, LENGTHS), IN_TWO),
        ((SERIES, each_cropped(FRAMES)), FRAMES),
        ((SERIES, [one.numpy() for one in each_cropped(IN_TWO)]), IN_TWO),
    ],
    ids=["a number each", "two numbers each", "a list", "a list of numpy"],
)
def test_targets_for_each_position_are_cropped_as_the_series_are(source, y):
    for batch, chosen in zip(epoch(source), torch.arange(5).split(2), strict=True):
        assert batch.x.shape[-1] == batch.y.shape[-1] == int(LENGTHS[chosen].max())
        outputs, targets = batch.scored(torch.stack([batch.x[:, 0], batch.x[:, 0]], dim=1))
        wanted = [y[n][..., : LENGTHS[n]].movedim(-1, 0) for n in chosen]
        assert torch.equal(targets, torch.cat(wanted))
        assert torch.equal(outputs[:, 1], torch.cat([SERIES[n][0] for n in chosen]))
        assert batch.size == len(targets) == len(outputs)


def test_a_target_for_each_sample_is_scored_as_it_is():
    first, *_ = epoch((X, Y, LENGTHS))
    outputs = torch.rand(2, 3)
    assert first.scored(outputs) == (outputs, first.y)
    assert first.size == 2


def test_outputs_must_have_the_positions_that_the_targets_have():
    first, *_ = epoch((X, FRAMES, LENGTHS))
    with pytest.raises(NormError) as told:
        first.scored(torch.rand(2, 3, 5))
    assert str(told.value) == (
        "targets (2, 6) have a value for each position, so outputs must be (N, …, 6) as well; "
        "the model returned (2, 3, 5)"
    )


LOADER = DataLoader(TensorDataset(X, FRAMES, LENGTHS), batch_size=2)


@pytest.mark.parametrize("source", [(X, FRAMES, LENGTHS), LOADER.dataset, LOADER])
def test_length_crops_every_form(source):
    batches = list(Batches(source, 2, "train", length=3).epoch())
    assert [batch.lengths.tolist() for batch in batches] == [[3, 2], [3, 1], [3]]
    assert [tuple(batch.x.shape[1:]) for batch in batches] == [(2, 3)] * 3
    assert [batch.y.shape[-1] for batch in batches] == [3] * 3


def test_length_leaves_targets_of_samples_alone():
    (batch,) = Batches((X, torch.rand(5, 4)), 5, "train", length=4).epoch()
    assert batch.x.shape[-1] == batch.y.shape[-1] == 4
