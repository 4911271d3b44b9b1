"""What a task asks of its parts, how it is told from another, how it is read from a file."""

from functools import partial

import pytest
import torch
from torch import nn

import normwise as nw
import tiny
from normwise.compare import load_task
from normwise.compare.task import accuracy, mean_absolute_error, mean_squared_error
from normwise.errors import NormError


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
        (
            {"schedule": "linear"},
            "schedule='linear' is not known; write 'constant' or 'cosine'",
        ),
        (
            {"loss": "hinge"},
            "loss='hinge' is not known; write one of cross_entropy, binary_cross_entropy, mse, "
            "mae, or give a function",
        ),
        (
            {"metric": "f1"},
            "metric='f1' is not known; write one of accuracy, mse, mae, or give a function",
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


def test_replace_makes_another_task():
    changed = tiny.task.replace(epochs=5, batch_size=4)
    assert (changed.epochs, changed.batch_size) == (5, 4)
    assert (tiny.task.epochs, tiny.task.batch_size) == (2, 8)
    assert [len(batch.y) for batch in changed.train.epoch()] == [4] * 6
    assert changed.valid.batch_size == 4 * 4
    assert changed.fingerprint() == tiny.a_task(epochs=5, batch_size=4).fingerprint()


def test_replace_by_none_changes_nothing():
    assert tiny.task.replace(epochs=None).fingerprint() == tiny.task.fingerprint()


LOADER = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tiny.waves(4, 0)))


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
    ],
)
def test_replace_refuses(options, change, sentence):
    with pytest.raises(NormError) as told:
        tiny.a_task(**options).replace(**change)
    assert str(told.value) == sentence


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
    ],
    ids=["code of a part", "arguments of a partial", "own loop"],
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
