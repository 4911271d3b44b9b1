"""What candidates are tried on: a model, data, a loss, a metric, a budget."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from normwise.compare.randomness import own_randomness
from normwise.compare.task.batches import Batches
from normwise.compare.task.options import Decay, Precision, check
from normwise.compare.task.scoring import Loss, Metric, Scorer, name_of
from normwise.compare.task.splits import Kind, Split
from normwise.compare.task.windows import Windows
from normwise.errors import NormError, TaskError, describe
from normwise.surgery import find
from normwise.surgery.swapping import Where

Report = Callable[[int, float], None]
Run = Callable[[torch.nn.Module, int, Report], float]
Scheduler = torch.optim.lr_scheduler.LRScheduler

_LIBRARIES = ("torch.", "normwise.layers")  # their versions are in the report

# Without gradients a batch needs a fraction of training's memory, and larger ones are faster.
VALIDATION_FACTOR = 4


class Task:
    """A model builder with the data and the training that candidates are tried on.

        task = nw.Task(model=build, train=(x, y), valid=(xv, yv),
                       loss="cross_entropy", metric="accuracy", epochs=20)

    model       called with nothing, returns a fresh module; its norms are swapped
    train, valid  (x, y) or (x, y, lengths) with samples first (x may be a list of
                (C, T) arrays of unequal T), a Dataset or a DataLoader of the same,
                or nw.Windows of a long series. Where there are lengths, normwise layers
                mask the padding, and a model whose forward has a parameter `lengths`
                receives them; a y with a value for each position is scored where x was
                recorded. valid may also be the share of train that each seed holds out
    loss        "cross_entropy", "binary_cross_entropy" (of logits), "mse", "mae", or a
                function of (outputs, targets) that returns their mean
    metric      "accuracy", "mse", "mae", a function of all validation outputs and targets
                that returns a number, or an object of torchmetrics
    higher_is_better  has to be said of a function, or a `run`, of your own
    batch_size  samples in a training batch
    length      positions of each series that are used; all if left out
    split       how train is parted: "random", "stratified" (usual where the loss is cross
                entropy), or "temporal": what is held out comes last (usual of Windows)
    groups      of every training sample, as an array: none is on both sides of the split
    folds       cross-validation in place of valid: seed k is scored on fold k mod folds
    epochs, learning_rate  the budget; optimizer defaults to Adam
    optimizer   a function of the parameters, and of lr if it asks for one
    schedule    of the learning rate: "constant", "cosine" or "linear" down to 0 over the
                epochs, which takes noise out of the final scores, or a function of the
                optimizer that returns a scheduler of torch; stepped once an epoch
    warmup      optimizer steps over which the learning rate rises from 0
    accumulate  batches whose gradients make one step of the optimizer
    max_grad_norm  gradients are scaled down to this norm where theirs is larger
    patience    stop after so many epochs without a better score; the best epoch's
                weights are restored, and its score is the trial's
    precision   "float32", or the type of mixed precision: "bfloat16" or "float16"
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
        metric: Any = "accuracy",
        *,
        higher_is_better: bool | None = None,
        batch_size: int = 32,
        length: int | None = None,
        split: Kind | None = None,
        groups: Any = None,
        folds: int | None = None,
        epochs: int = 20,
        learning_rate: float = 1e-3,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Decay | Callable[[torch.optim.Optimizer], Scheduler] = "constant",
        warmup: int | None = None,
        accumulate: int = 1,
        max_grad_norm: float | None = None,
        patience: int | None = None,
        precision: Precision = "float32",
        device: str | torch.device | None = None,
        where: Where = None,
        threads: int = 1,
        run: Run | None = None,
        name: str | None = None,
    ) -> None:
        self.options = {option: given for option, given in locals().items() if option != "self"}
        check(self.options)
        self.name = name
        self.build = model
        self.where = where
        self.run = run
        self.batch_size, self.epochs, self.threads = batch_size, epochs, threads
        self.learning_rate, self.optimizer = learning_rate, optimizer
        self.schedule, self.warmup = schedule, warmup
        self.accumulate, self.max_grad_norm, self.patience = accumulate, max_grad_norm, patience
        self.precision = precision
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.loss = Loss(loss, self.device)
        self.metric = Metric(metric, self.device)
        self.metric_name, known = self.metric.name, self.metric.higher_is_better
        self.train: Batches | None = None
        self.valid: Batches | None = None
        self.split: Split | None = None
        if run is not None:
            self.metric_name, known = "score", None
        else:
            self.train = Batches(train, batch_size, "train", length=length)
            if folds is not None or isinstance(valid, float):
                self.split = self._split(valid, folds, split, groups)
            else:
                size = VALIDATION_FACTOR * batch_size
                self.valid = Batches(valid, size, "valid", length=length)
        if higher_is_better is None and known is None:
            raise NormError(
                f"say whether more {self.metric_name} is better: higher_is_better=True or False"
            )
        self.higher_is_better = bool(known if higher_is_better is None else higher_is_better)

    def _split(self, held_out: Any, folds: int | None, kind: Kind | None, groups: Any) -> Split:
        assert self.train is not None
        if self.train.has_own_size:
            raise NormError("a DataLoader cannot be split; give its Dataset, or valid= data")
        source, arrays, classes = self.train.source, self.train.arrays, None
        if isinstance(source, Windows):
            kind = kind or "temporal"
            if kind != "temporal":
                raise NormError(f"windows overlap, and split={kind!r} mixes them; leave it out")
        elif kind is None and groups is None and self.loss.name == "cross_entropy" and arrays:
            kind = "stratified" if _are_classes(arrays[1]) else "random"
        if kind == "stratified":
            classes = self.train.targets()
            if not _are_classes(classes):
                raise NormError(
                    "split='stratified' needs one class for each sample, as whole numbers (N,); "
                    f"y is {describe(classes)}"
                )
        gap = source.gap if isinstance(source, Windows) else 0
        samples = self.train.samples
        return Split(
            samples, held_out, folds, kind or "random", classes=classes, groups=groups, gap=gap
        )

    def replace(self, **options: Any) -> "Task":
        """The same task with other options; None leaves one as it is. `lr` is `learning_rate`.

        Raises
            NormError  if an option is unknown, bad, or decided on by something else: a loop,
                       a DataLoader, an optimizer of the task's own.
        """
        changed = {key: value for key, value in options.items() if value is not None}
        if "lr" in changed:
            changed["learning_rate"] = changed.pop("lr")
        if changed and self.run is not None:
            raise NormError(
                f"{', '.join(changed)} cannot be set: this task trains in its own loop, run="
            )
        if "batch_size" in changed and self.train is not None and self.train.has_own_size:
            raise NormError("batch_size cannot be set: this task's DataLoader decides on it")
        if "learning_rate" in changed and not self._sets_rate:
            raise NormError("learning_rate cannot be set: this task's optimizer decides on it")
        if unknown := changed.keys() - self.options.keys():
            raise NormError(
                f"a task has no option {', '.join(sorted(unknown))}; "
                f"it has {', '.join(self.options)}"
            )
        return Task(**{**self.options, "name": self.name, **changed})

    def data(self, seed: int) -> tuple[Batches, Batches]:
        """What a seed trains on, and what it is scored on: the same for every candidate."""
        assert self.train is not None
        if self.split is None:
            assert self.valid is not None
            return self.train, self.valid
        train, valid = self.split.of(seed)
        size = self.batch_size
        return self.train.part(train, size), self.train.part(valid, VALIDATION_FACTOR * size)

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

    def new_scorer(self) -> Scorer:
        """The task's metric, which has seen nothing yet."""
        return self.metric.new_scorer()

    def new_optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The task's optimizer over a model's parameters."""
        if self.optimizer is None:
            return torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
        if self._sets_rate:
            return self.optimizer(parameters, lr=self.learning_rate)
        return self.optimizer(parameters)

    @functools.cached_property
    def _sets_rate(self) -> bool:
        """Whether the optimizer asks for the learning rate."""
        if self.optimizer is None:
            return True
        bound = getattr(self.optimizer, "keywords", {})
        function = getattr(self.optimizer, "func", self.optimizer)
        rate = inspect.signature(function).parameters.get("lr")
        if rate is None or "lr" in bound:
            return False
        return inspect.isclass(function) or rate.default is rate.empty

    def new_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """The task's learning rate schedule, stepped once an epoch."""
        schedulers = torch.optim.lr_scheduler
        if callable(self.schedule):
            made = self.schedule(optimizer)
            if not isinstance(made, Scheduler):
                raise TaskError(
                    "schedule must return a scheduler of torch.optim.lr_scheduler; "
                    f"it returned {describe(made)}"
                )
            return made
        if self.schedule == "cosine":
            return schedulers.CosineAnnealingLR(optimizer, T_max=self.epochs)
        last = 0.0 if self.schedule == "linear" else 1.0
        return schedulers.LinearLR(optimizer, 1.0, last, total_iters=self.epochs)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision, where the task asks for it."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.precision))

    def settings(self) -> dict[str, str]:
        """What was asked for, in words: for the report."""
        device = f"{self.device}, threads: {self.threads}"
        norms = {} if self.where is None else {"norms": _words_of(self.where)}
        if self.run is not None:
            return {"run": name_of(self.run), "device": device, **norms}
        loader = self.train is not None and self.train.has_own_size
        own = {
            "validation": self.split and self.split.describe(),
            "length": self.options["length"],
            "warm-up": self.warmup and f"{self.warmup} steps",
            "gradients": self.accumulate > 1 and f"of {self.accumulate} batches",
            "gradient norm": self.max_grad_norm and f"at most {self.max_grad_norm:g}",
            "early stopping": self.patience
            and f"after {self.patience} epochs without a better score",
            "precision": self.precision != "float32" and self.precision,
        }
        return {
            "epochs": str(self.epochs),
            "batch size": "set by the DataLoader" if loader else str(self.batch_size),
            "loss": self.loss.name,
            "metric": self.metric_name,
            "optimizer": name_of(self.optimizer) if self.optimizer else "Adam",
            "learning rate": f"{self.learning_rate:g}"
            if self._sets_rate
            else "set by the optimizer",
            "schedule": name_of(self.schedule) if callable(self.schedule) else self.schedule,
            **{key: str(value) for key, value in own.items() if value},
            "device": device,
            **norms,
        }

    def fingerprint(self) -> dict[str, str]:
        """What makes two tasks the same, part by part, so that trials can be kept apart."""
        from normwise.compare.task import fingerprint  # NumPy loads when it is needed

        model = self.new_model(0)
        tensors = [t for _, t in sorted(model.state_dict().items())]
        known = [t for t in tensors if not torch.nn.parameter.is_lazy(t)]
        own = [type(m) for m in model.modules() if not type(m).__module__.startswith(_LIBRARIES)]
        functions: list[Any] = [self.build, self.run, self.optimizer]
        functions += [self.schedule] if callable(self.schedule) else []
        if self.run is None:
            functions += [self.loss.function, self.metric.given]
        parts = {
            **self.settings(),
            "model": fingerprint.digest(repr(model), *map(fingerprint.bytes_of, known)),
            "code": fingerprint.of_code(*dict.fromkeys(own), *functions),
        }
        if self.train is not None:
            parts["training data"] = fingerprint.of_data(self.train)
        if self.valid is not None:
            parts["validation data"] = fingerprint.of_data(self.valid)
        if self.options["groups"] is not None:
            parts["groups"] = fingerprint.of_code(self.options["groups"])
        return parts


def _words_of(where: Where) -> str:
    if isinstance(where, type) or callable(where):
        return name_of(where)
    return where if isinstance(where, str) else ", ".join(map(str, where or ()))


def _are_classes(y: Tensor) -> bool:
    return y.dim() == 1 and not y.is_floating_point() and not y.is_complex()
