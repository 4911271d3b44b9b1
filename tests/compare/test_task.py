"""What a task asks of its parts, how it is told from another, how it is read from a file."""

import os
from functools import partial

import pytest
import torch
from torch import nn

import normwise as nw
import tiny
from normwise.compare import load_task
from normwise.compare.task import fingerprint
from normwise.compare.task.batches import Batches
from normwise.errors import NormError

LOADER = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tiny.waves(4, 0)))


def own_metric(outputs, targets):
    return 0.5


def own_run(model, seed, report):
    return 0.5


def refused(**options):
    with pytest.raises(NormError) as told:
        tiny.a_task(**options)
    return str(told.value)


FRESH = (
    "model must be a function that builds a fresh module, since every trial starts from new "
    "weights; received "
)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": tiny.Net()}, FRESH + "Net: write model=lambda: Net(...)"),
        ({"model": "resnet"}, FRESH + "str: write model=lambda: Net(...)"),
        ({"batch_size": 0}, "batch_size must be a whole number above 0, received 0"),
        ({"epochs": 2.5}, "epochs must be a whole number above 0, received 2.5"),
        ({"threads": -1}, "threads must be a whole number above 0, received -1"),
        ({"folds": 1, "valid": None}, "folds must be a whole number above 1, received 1"),
        ({"learning_rate": -0.1}, "learning_rate must be a number above 0, received -0.1"),
        ({"max_grad_norm": "1"}, "max_grad_norm must be a number above 0, received '1'"),
        (
            {"schedule": own_metric, "warmup": 3},
            "warmup= goes with a schedule by name; a function does its own",
        ),
        (
            {"precision": "int8"},
            "precision='int8' is not known; write 'float32', 'bfloat16' or 'float16'",
        ),
        (
            {"schedule": "steps"},
            "schedule='steps' is not known; write 'constant', 'cosine' or 'linear', or give a "
            "function of the optimizer",
        ),
        (
            {"loss": "hinge"},
            "loss='hinge' is not known; write one of cross_entropy, binary_cross_entropy, mse, "
            "mae, or give a function",
        ),
        (
            {"metric": "f1"},
            "metric='f1' is not known; write one of accuracy, mse, mae, or give a function or a "
            "torchmetrics object",
        ),
        (
            {"metric": own_metric},
            "say whether more own_metric is better: higher_is_better=True or False",
        ),
        (
            {"run": own_run, "higher_is_better": None},
            "say whether more score is better: higher_is_better=True or False",
        ),
        (
            {"run": own_run, "train": tiny.waves(4, 0)},
            "give either run=, your own loop, or train= and valid=; not both",
        ),
        ({"valid": None}, "a task needs train= and valid= data, or run=, your own loop"),
        ({"train": None}, "a task needs train= and valid= data, or run=, your own loop"),
        (
            {"valid": 1.5},
            "valid must be data, or the share of train that is held out, above 0 and below 1; "
            "received 1.5",
        ),
        ({"valid": 0.01}, "24 samples are too few for 1 % held out, stratified"),
        (
            {"valid": 0.2, "folds": 3},
            "valid=0.2 and folds=3 both part the samples; give one of them",
        ),
        ({"folds": 3}, "folds= part train, so leave out valid="),
        ({"folds": 25, "valid": None}, "24 samples are too few for 25 folds, stratified"),
        (
            {"split": "temporal"},
            "split= says how train is parted; give folds=, or the share to hold out as valid=0.2",
        ),
        (
            {"groups": [0] * 24},
            "groups= says how train is parted; give folds=, or the share to hold out as valid=0.2",
        ),
        (
            {"valid": 0.2, "split": "sorted"},
            "split='sorted' is not known; write 'random', 'stratified' or 'temporal'",
        ),
        (
            {"valid": 0.2, "groups": [0] * 24},
            "1 groups are too few for 20 % held out, by groups",
        ),
        (
            {"valid": 0.2, "groups": [0, 1]},
            "groups= must name the group of each of the 24 samples; received list [0, 1] with 2",
        ),
        (
            {"valid": 0.2, "groups": [0, 1] * 12, "split": "temporal"},
            "groups= asks for a random split of groups; leave out split='temporal'",
        ),
        (
            {"valid": 0.2, "split": "stratified", "train": (torch.rand(9, 2, 4), torch.rand(9))},
            "split='stratified' needs one class for each sample, as whole numbers (N,); "
            "y is (9,) float32 on cpu",
        ),
        (
            {"valid": 0.2, "train": LOADER},
            "a DataLoader cannot be split; give its Dataset, or valid= data",
        ),
        (
            {"valid": 0.2, "train": nw.Windows(torch.rand(99), 8, 4), "split": "random"},
            "windows overlap, and split='random' mixes them; leave it out",
        ),
    ],
)
def test_a_wrong_part_is_told_at_once(options, sentence):
    assert refused(**options) == sentence


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            partial(nn.Linear, 2, 2),
            "Linear has no normalization layer, so there is nothing to compare; put "
            "nw.Identity(channels) wherever one may go",
        ),
        (lambda: "a model", "model() must return a torch.nn.Module, and it returned str"),
    ],
)
def test_a_model_that_cannot_be_compared(build, sentence):
    with pytest.raises(NormError) as told:
        tiny.a_task(model=build).checked_model()
    assert str(told.value) == sentence


@pytest.mark.parametrize(("metric", "higher"), [("accuracy", True), ("mse", False), ("mae", False)])
def test_a_known_metric_knows_its_direction(metric, higher):
    assert tiny.a_task(metric=metric).higher_is_better is higher
    assert tiny.a_task(metric=metric, higher_is_better=not higher).higher_is_better is not higher


def test_replace_makes_another_task():
    changed = tiny.task.replace(epochs=5, batch_size=4)
    assert (changed.epochs, changed.batch_size) == (5, 4)
    assert (tiny.task.epochs, tiny.task.batch_size) == (2, 8)
    assert [len(batch.y) for batch in changed.train.epoch()] == [4] * 6
    assert changed.valid.batch_size == 4 * 4
    assert changed.fingerprint() == tiny.a_task(epochs=5, batch_size=4).fingerprint()


def test_replace_serves_every_option():
    for options in (
        {"learning_rate": 0.1},
        {"length": 8},
        {"accumulate": 2},
        {"warmup": 3},
        {"patience": 1},
        {"precision": "bfloat16"},
        {"schedule": "linear"},
    ):
        changed = tiny.task.replace(**options)
        assert changed.fingerprint() == tiny.a_task(**options).fingerprint()
        assert changed.fingerprint() != tiny.task.fingerprint()
    assert tiny.task.replace(lr=0.1).learning_rate == 0.1
    assert tiny.task.replace(length=8).replace(epochs=3).options["length"] == 8
    assert [batch.x.shape[-1] for batch in tiny.task.replace(length=8).valid.epoch()] == [8, 8]


def test_replace_keeps_the_split_of_a_seed():
    task = tiny.a_task(train=tiny.waves(50, 0), valid=0.2)
    for one, other in zip(task.data(3), task.replace(batch_size=4).data(3), strict=True):
        assert one.samples == other.samples
        assert ys(one) == ys(other)


def ys(data):
    return torch.cat([batch.x[:, 0, 0] for batch in data.epoch()]).tolist()


def test_an_optimizer_may_ask_for_the_learning_rate():
    def asking(parameters, lr):
        return torch.optim.SGD(parameters, lr=lr, momentum=0.5)

    def with_its_own(parameters, lr=0.2):
        return torch.optim.SGD(parameters, lr=lr)

    given = [torch.nn.Parameter(torch.zeros(1))]
    for optimizer, rate in (
        (None, 0.03),
        (torch.optim.SGD, 0.03),
        (partial(torch.optim.SGD, momentum=0.9), 0.03),
        (partial(torch.optim.SGD, lr=0.5), 0.5),
        (asking, 0.03),
        (with_its_own, 0.2),
        (sgd, 0.1),
    ):
        made = tiny.a_task(optimizer=optimizer).new_optimizer(given)
        assert made.param_groups[0]["lr"] == rate, optimizer


def test_replace_by_none_changes_nothing():
    assert tiny.task.replace(epochs=None).fingerprint() == tiny.task.fingerprint()


@pytest.mark.parametrize(
    ("options", "change", "sentence"),
    [
        ({}, {"epochs": 0}, "epochs must be a whole number above 0, received 0"),
        ({}, {"batch_size": -1}, "batch_size must be a whole number above 0, received -1"),
        (
            {"run": own_run},
            {"epochs": 3, "batch_size": 2},
            "epochs, batch_size cannot be set: this task trains in its own loop, run=",
        ),
        (
            {"train": LOADER},
            {"batch_size": 2},
            "batch_size cannot be set: this task's DataLoader decides on it",
        ),
        (
            {"optimizer": partial(torch.optim.SGD, lr=0.1)},
            {"lr": 0.2},
            "learning_rate cannot be set: this task's optimizer decides on it",
        ),
        (
            {"train": nw.Windows(torch.rand(99), 8, 4)},
            {"length": 9},
            "length=9 is more than the windows' history of 8; give them that history",
        ),
    ],
)
def test_replace_refuses(options, change, sentence):
    with pytest.raises(NormError) as told:
        tiny.a_task(**options).replace(**change)
    assert str(told.value) == sentence


def test_replace_knows_its_options():
    with pytest.raises(NormError, match=r"^a task has no option size; it has model, train, valid,"):
        tiny.task.replace(size=3)


class Sharper(tiny.Net):
    def forward(self, x):
        return 2 * super().forward(x)


class Part(nn.Module):
    factor = 1

    def forward(self, x):
        return x * self.factor


class OtherPart(Part):
    def forward(self, x):
        return x + self.factor


def built_of(part):
    return lambda: nn.Sequential(part(), tiny.Net())


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def loop_to(score):
    return lambda model, seed, report: score


class Items(torch.utils.data.Dataset):
    """Samples, one at a time, in noise that may be drawn anew each time."""

    def __init__(self, x, y, noise=None):
        self.x, self.y, self.noise = x, y, noise

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i] + (self.noise() if self.noise else 0), self.y[i]


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(2, 16), 0


def of_data(source):
    return fingerprint.of_data(Batches(source, 4, "train"))


def test_a_fingerprint_of_arrays_is_of_every_value():
    x, y = tiny.waves(3000, 0)
    same = of_data((x.clone(), y.clone()))
    changed = x.clone()
    changed[2999, 1, 5] += 1
    others = [(changed, y), (x.double(), y), (x.mT, y), (x, y + 1), (x, y, y + 1)]
    assert of_data((x.numpy(), y)) == same
    assert same not in {of_data(source) for source in others}


def test_a_fingerprint_of_a_dataset_is_of_some_items():
    x, y = tiny.waves(40, 0)
    changed = x.clone()
    changed[-1, 0, 0] += 1
    same, loaded = of_data(Items(x, y)), of_data(torch.utils.data.DataLoader(Items(x, y)))
    assert same == of_data(Items(x.clone(), y.clone()))
    assert same.startswith("Items of 40, ")
    assert loaded.removeprefix("DataLoader") == same.removeprefix("Items")
    assert same != of_data(Items(changed, y))


def test_a_fingerprint_bears_items_that_differ_each_time(generators):
    x, y = tiny.waves(40, 0)
    drawn = Items(x, y, noise=partial(torch.randn, 2, 16))
    assert of_data(drawn) == of_data(drawn) != of_data(Items(x, y))
    assert generators() == generators.before
    entropy = Items(x, y, noise=lambda: torch.full((2, 16), float(os.urandom(1)[0])))
    broken = Items(None, y)
    assert of_data(entropy) == "Items of 40"
    assert of_data(broken) == "Items of 40"
    assert of_data(torch.utils.data.DataLoader(Endless())) == "DataLoader of unknown size"


def moved(count, seed):
    x, y = tiny.waves(count, seed)
    return x + 1e-6, y


def seeded_otherwise():
    torch.manual_seed(1)
    return tiny.Net()


FINGERPRINTS = [
    ({"epochs": 3}, {"epochs"}),
    ({"batch_size": 4}, {"batch size"}),
    ({"learning_rate": 0.1}, {"learning rate"}),
    ({"schedule": "cosine"}, {"schedule"}),
    ({"threads": 2}, {"device"}),
    ({"metric": "mse"}, {"metric", "code"}),
    ({"metric": own_metric, "higher_is_better": True}, {"metric", "code"}),
    ({"loss": "mse"}, {"loss", "code"}),
    ({"optimizer": sgd}, {"optimizer", "learning rate", "code"}),
    ({"train": moved(24, 1)}, {"training data"}),
    ({"valid": moved(40, 2)}, {"validation data"}),
    ({"model": Sharper}, {"model", "code"}),
    ({"model": seeded_otherwise}, {"model", "code"}),
    ({"name": "another"}, set()),
    ({"length": 8}, {"length"}),
    ({"accumulate": 2}, {"gradients"}),
    ({"max_grad_norm": 1.0}, {"gradient norm"}),
    ({"patience": 1}, {"early stopping"}),
    ({"precision": "bfloat16"}, {"precision"}),
    ({"warmup": 2}, {"warm-up"}),
    ({"schedule": own_metric}, {"schedule", "code"}),
    ({"valid": 0.25}, {"validation", "validation data"}),
    ({"valid": 0.25, "groups": [0, 1] * 12}, {"validation", "validation data", "groups"}),
    ({"train": Items(*tiny.waves(24, 1))}, {"training data"}),
]


@pytest.mark.parametrize(
    ("options", "different"), FINGERPRINTS, ids=[",".join(o) for o, _ in FINGERPRINTS]
)
def test_a_fingerprint_differs_where_the_task_does(options, different):
    before, after = tiny.task.fingerprint(), tiny.a_task(**options).fingerprint()
    assert {key for key in before | after if before.get(key) != after.get(key)} == different


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model": built_of(Part)}, {"model": built_of(OtherPart)}),
        (
            {"optimizer": partial(torch.optim.SGD, lr=0.1)},
            {"optimizer": partial(torch.optim.SGD, lr=0.2)},
        ),
        ({"run": own_run}, {"run": lambda model, seed, report: 0.25}),
        ({"run": loop_to(0.25)}, {"run": loop_to(0.5)}),
        ({"run": partial(own_run, model=own_run)}, {"run": partial(own_run, model=own_metric)}),
    ],
    ids=["code of a part", "arguments of a partial", "own loop", "what it encloses", "a function"],
)
def test_a_fingerprint_tells_code_apart(one, other):
    assert tiny.a_task(**one).fingerprint()["code"] != tiny.a_task(**other).fingerprint()["code"]


def test_a_fingerprint_is_the_same_every_time():
    numpy_weights = {"model": weighed_by_numpy}
    assert tiny.a_task().fingerprint() == tiny.task.fingerprint()
    assert tiny.a_task(**numpy_weights).fingerprint() == tiny.a_task(**numpy_weights).fingerprint()


def weighed_by_numpy():
    import numpy as np

    model = tiny.Net()
    with torch.no_grad():
        model.readout.bias += torch.from_numpy(np.random.standard_normal(2))
    return model


def test_a_task_draws_nothing_from_the_callers_generators(generators):
    tiny.a_task(model=weighed_by_numpy).fingerprint()
    assert generators() == generators.before


@pytest.fixture
def task_file(tmp_path):
    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_task_is_named_after_its_file(task_file):
    text = "import tiny\ntask = tiny.a_task(name={})"
    assert load_task(task_file(text.format("None"))).name == "mine"
    assert load_task(task_file(text.format("'yours'"))).name == "yours"


def test_a_task_file_may_import_its_neighbours(task_file):
    task_file("EPOCHS = 7", name="neighbour_of_mine.py")
    path = task_file(
        "import tiny\n"
        "def build():\n"
        "    import neighbour_of_mine\n"
        "    return tiny.Net()\n"
        "import neighbour_of_mine\n"
        "task = tiny.a_task(model=build, epochs=neighbour_of_mine.EPOCHS)"
    )
    task = load_task(path)
    assert task.epochs == 7
    assert task.checked_model()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "x = 1\n\nraise OSError('no such disk')",
            ", line 3, raised on import, OSError: no such disk",
        ),
        (
            "import tiny\nx = 1 / 0",
            ", line 2, raised on import, ZeroDivisionError: division by zero",
        ),
        ("raise ValueError('two\\nlines')", ", line 1, raised on import, ValueError: two"),
        ("x = 1\nraise RuntimeError", ", line 2, raised on import, RuntimeError"),
        ("import sys\nsys.exit(3)", ", line 2, raised on import, SystemExit: 3"),
        ("x = (1,\n\ny = 2", ", line 1, raised on import, SyntaxError: '(' was never closed"),
        (
            "import tiny\n\ntiny.a_task(epochs=0)",
            ", line 3, raised on import, NormError: epochs must be a whole number above 0, "
            "received 0",
        ),
        ("", " has no `task`; write task = nw.Task(model=…, train=…, valid=…)"),
        (
            "task = 'classify'",
            " has a `task` that is a str; write task = nw.Task(model=…, train=…, valid=…)",
        ),
    ],
)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_task_file_that_gives_no_task(task_file, monkeypatch, text, reason, relative):
    path = task_file(text)
    if relative:
        monkeypatch.chdir(path.parent)
        path = path.relative_to(path.parent)
    with pytest.raises(NormError) as told:
        load_task(path)
    assert str(told.value) == f"{path}{reason}"


@pytest.mark.parametrize("name", ["missing.py", ""])
def test_no_task_file(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(NormError) as told:
        load_task(path)
    assert str(told.value) == (
        f"there is no file {path}; a task file is a Python file with task = nw.Task(…)"
    )


def test_a_task_file_in_another_language(task_file):
    path = task_file("task: none", name="task.yaml")
    with pytest.raises(NormError) as told:
        load_task(path)
    assert str(told.value) == f"{path} is no Python file"


def test_the_public_name_is_the_same_task():
    assert type(tiny.task) is nw.Task
