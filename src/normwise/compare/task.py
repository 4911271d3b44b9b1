"""What candidates are tried on: a model, data, a loss, a metric, a budget."""

import copy
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.compare.batches import Batches
from normwise.compare.randomness import own_randomness
from normwise.errors import NormError, TaskError, one_line
from normwise.surgery import find
from normwise.surgery.swapping import Where

Report = Callable[[int, float], None]
Schedule = Literal["constant", "cosine"]
Run = Callable[[torch.nn.Module, int, Report], float]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "mae": F.l1_loss,
}

_LIBRARIES = ("torch.", "normwise.layers")  # their versions are in the report
TASK_MODULE = "normwise_task_"  # what the name of an imported task file begins with

# Without gradients a batch needs a fraction of training's memory, and larger ones are faster.
VALIDATION_FACTOR = 4


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of samples whose largest output is at the target's index."""
    if outputs.dim() < 2 or outputs[:, 0].shape != targets.shape:
        raise TaskError(
            "accuracy takes outputs (N, classes, …) and targets (N, …); "
            f"received {tuple(outputs.shape)} and {tuple(targets.shape)}"
        )
    return (outputs.argmax(dim=1) == targets).double().mean().item()


def mean_squared_error(outputs: Tensor, targets: Tensor) -> float:
    """The mean of (output - target)², in the target's unit squared."""
    _check_same_shape("mse", outputs, targets)
    return (outputs - targets).double().square().mean().item()


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> float:
    """The mean of |output - target|, in the target's unit."""
    _check_same_shape("mae", outputs, targets)
    return (outputs - targets).double().abs().mean().item()


def _check_same_shape(name: str, outputs: Tensor, targets: Tensor) -> None:
    if outputs.shape != targets.shape:
        raise TaskError(
            f"{name} takes outputs and targets of the same shape; "
            f"received {tuple(outputs.shape)} and {tuple(targets.shape)}"
        )


METRICS: dict[str, tuple[Callable[[Tensor, Tensor], float], bool]] = {
    "accuracy": (accuracy, True),
    "mse": (mean_squared_error, False),
    "mae": (mean_absolute_error, False),
}


class Task:
    """A model builder with the data and the training that candidates are tried on.

        task = nw.Task(model=build, train=(x, y), valid=(xv, yv),
                       loss="cross_entropy", metric="accuracy", epochs=20)

    model       called with nothing, returns a fresh module; its norms are swapped
    train, valid  (x, y) or (x, y, lengths) with samples first (x may be a list of
                (C, T) arrays of unequal T), a Dataset or a DataLoader of the same.
                Where there are lengths, normwise layers mask the padding, and a
                model whose forward has a parameter `lengths` receives them
    loss        "cross_entropy", "binary_cross_entropy" (of logits), "mse", "mae",
                or a function of (outputs, targets)
    metric      "accuracy", "mse", "mae", or a function of all validation outputs
                and targets that returns a number
    higher_is_better  has to be said of a metric, or a `run`, of your own
    batch_size, epochs, learning_rate  the budget; optimizer defaults to Adam
    schedule    of the learning rate: "constant", or "cosine", down to 0 over the epochs,
                which takes noise out of the final scores
    optimizer   a function of the parameters that returns a torch optimizer
    device      "cpu", "cuda", …; a GPU where there is one, if left out
    where       which norms are swapped, as in `swap`: "encoder.*", a class, …; all if left out
    threads     of the CPU that one trial uses. One is the fastest for small models and
                leaves the other cores to other trials; with another number the
                scores round differently
    run         your own loop instead of all that: run(model, seed, report) -> score;
                call report(step, score) as often as you like for a learning curve
    name        for the output folder and the report

    Raises
        NormError  if parts are missing, contradict each other, or the model has no norm.
    """

    def __init__(
        self,
        model: Callable[[], torch.nn.Module],
        train: Any = None,
        valid: Any = None,
        loss: str | Callable[[Any, Any], Tensor] = "cross_entropy",
        metric: str | Callable[[Any, Any], float] = "accuracy",
        *,
        higher_is_better: bool | None = None,
        batch_size: int = 32,
        epochs: int = 20,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer] | None = None,
        device: str | torch.device | None = None,
        where: Where = None,
        threads: int = 1,
        run: Run | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(model, torch.nn.Module) or not callable(model):
            raise NormError(
                "model must be a function that builds a fresh module, since every trial starts "
                f"from new weights; received {type(model).__name__}: write model=lambda: Net(...)"
            )
        for option, number in (
            ("batch_size", batch_size),
            ("epochs", epochs),
            ("threads", threads),
        ):
            if not isinstance(number, int) or number < 1:
                raise NormError(f"{option} must be a whole number above 0, received {number!r}")
        self.name = name
        self.build: Callable[[], torch.nn.Module] = model
        self.run = run
        self.batch_size = batch_size
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.optimizer = optimizer
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if schedule not in get_args(Schedule):
            raise NormError(f"schedule={schedule!r} is not known; write 'constant' or 'cosine'")
        self.where = where
        self.threads = threads
        self.loss_name, self.loss = _named(loss, LOSSES, "loss")
        self.metric_name, found = _named(metric, METRICS, "metric")
        if run is not None:
            if train is not None or valid is not None:
                raise NormError("give either run=, your own loop, or train= and valid=; not both")
            self.metric_name, found = "score", lambda outputs, targets: float("nan")
            self.train = self.valid = None
        else:
            if train is None or valid is None:
                raise NormError("a task needs train= and valid= data, or run=, your own loop")
            self.train = Batches(train, batch_size, "train")
            self.valid = Batches(valid, VALIDATION_FACTOR * batch_size, "valid")
        self.metric, known = found if isinstance(found, tuple) else (found, None)
        if higher_is_better is None and known is None:
            raise NormError(
                f"say whether more {self.metric_name} is better: higher_is_better=True or False"
            )
        self.higher_is_better = bool(known if higher_is_better is None else higher_is_better)

    def replace(self, **options: int | None) -> "Task":
        """The same task with another `epochs` or `batch_size`; None leaves one as it is."""
        changed = {key: value for key, value in options.items() if value is not None}
        if changed and self.run is not None:
            raise NormError(
                f"{', '.join(changed)} cannot be set: this task trains in its own loop, run="
            )
        if "batch_size" in changed and self.train is not None and self.train.has_own_size:
            raise NormError("batch_size cannot be set: this task's DataLoader decides on it")
        task = copy.copy(self)
        for key, value in changed.items():
            if value < 1:
                raise NormError(f"{key} must be a whole number above 0, received {value}")
            setattr(task, key, value)
        if task.train is not None and task.valid is not None:
            task.train = Batches(task.train.source, task.batch_size, "train")
            task.valid = Batches(task.valid.source, VALIDATION_FACTOR * task.batch_size, "valid")
        return task

    def new_model(self, seed: int) -> torch.nn.Module:
        """The model with the initial weights of `seed`: the same for every candidate."""
        with own_randomness(seed):
            model = self.build()
        if isinstance(model, torch.nn.Module):
            return model
        raise NormError(
            f"model() must return a torch.nn.Module, and it returned {type(model).__name__}"
        )

    def checked_model(self) -> torch.nn.Module:
        """A model, once it is known to have a norm to swap."""
        model = self.new_model(0)
        if not find(model):
            raise NormError(
                f"{type(model).__name__} has no normalization layer, so there is nothing to "
                "compare; put nw.Identity(channels) wherever one may go"
            )
        return model

    def new_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """The task's optimizer over a model's parameters."""
        if self.optimizer is not None:
            return self.optimizer(model.parameters())
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate, fused=True)

    def new_scheduler(
        self, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The task's learning rate schedule, stepped once an epoch."""
        if self.schedule == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    def settings(self) -> dict[str, str]:
        """What was asked for, in words: for the report."""
        device = f"{self.device}, threads: {self.threads}"
        norms = {} if self.where is None else {"norms": _words_of(self.where)}
        if self.run is not None:
            return {"run": _name_of(self.run), "device": device, **norms}
        loader = self.train is not None and self.train.has_own_size
        return {
            "epochs": str(self.epochs),
            "batch size": "set by the DataLoader" if loader else str(self.batch_size),
            "loss": self.loss_name,
            "metric": self.metric_name,
            "optimizer": _name_of(self.optimizer) if self.optimizer else "Adam",
            "learning rate": "set by the optimizer"
            if self.optimizer
            else f"{self.learning_rate:g}",
            "schedule": self.schedule,
            "device": device,
            **norms,
        }

    def fingerprint(self) -> dict[str, str]:
        """What makes two tasks the same, part by part, so that trials can be kept apart."""
        model = self.new_model(0)
        weights = hashlib.sha256(repr(model).encode())
        for _, tensor in sorted(model.state_dict().items()):
            if not torch.nn.parameter.is_lazy(tensor):
                weights.update(
                    tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
                )
        own = [type(m) for m in model.modules() if not type(m).__module__.startswith(_LIBRARIES)]
        functions = (self.build, self.run, self.loss, self.metric, self.optimizer)
        code = (*dict.fromkeys(own), *functions)
        sources = "".join(_source_of(part) for part in code if part is not None)
        parts = {
            **self.settings(),
            "model": weights.hexdigest()[:16],
            "code": hashlib.sha256(sources.encode()).hexdigest()[:16],
        }
        if self.train is not None and self.valid is not None:
            parts["training data"] = self.train.fingerprint()
            parts["validation data"] = self.valid.fingerprint()
        return parts


def load_task(path: Path) -> Task:
    """The ``task`` that a Python file defines.

    Raises
        NormError  if there is no such file, it raises, or it defines no task.
    """
    module = load_module(path, "; a task file is a Python file with task = nw.Task(…)")
    task = getattr(module, "task", None)
    if not isinstance(task, Task):
        found = "no `task`" if task is None else f"a `task` that is a {type(task).__name__}"
        raise NormError(f"{path} has {found}; write task = nw.Task(model=…, train=…, valid=…)")
    task.name = task.name or path.stem
    return task


def load_module(path: Path, hint: str = "") -> ModuleType:
    """The module that a Python file of the user's is; `hint` says what it should have been.

    Raises
        NormError  if there is no such file, or it raises.
    """
    if not path.is_file():
        raise NormError(f"there is no file {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"{TASK_MODULE}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise NormError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    folder = str(path.parent.resolve())
    if folder not in sys.path:  # it stays there: neighbours may be imported later, and by workers
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = _line_in(module.__file__, error)
        raise NormError(f"{path}{line} raised on import, {one_line(error)}") from error
    return module


def _line_in(file: str | None, error: BaseException) -> str:
    """Where in the user's own file an error came from: ', line 7,'."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f", line {error.lineno},"
    numbers = []
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            numbers.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return f", line {numbers[-1]}," if numbers else ""


def _named(given: Any, known: dict[str, Any], what: str) -> tuple[str, Any]:
    if callable(given):
        return _name_of(given), given
    if given not in known:
        raise NormError(
            f"{what}={given!r} is not known; write one of {', '.join(known)}, or give a function"
        )
    return given, known[given]


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _words_of(where: Where) -> str:
    if isinstance(where, type) or callable(where):
        return _name_of(where)
    return where if isinstance(where, str) else ", ".join(map(str, where or ()))


def _source_of(part: Any) -> str:
    if isinstance(part, partial):
        return f"{_source_of(part.func)}{part.args}{part.keywords}"
    try:
        return inspect.getsource(part)
    except (OSError, TypeError):
        return _name_of(part)
