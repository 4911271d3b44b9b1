"""Losses and metrics: by name, as functions, and torchmetrics' objects."""

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.errors import NormError, TaskError, one_line

LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "mae": F.l1_loss,
}
IGNORED = -100  # the target that torch's cross entropy leaves out


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of samples whose largest output is at the target's index.

    Targets of -100 are left out, as torch's cross entropy leaves them out.
    """
    if outputs.dim() < 2 or outputs[:, 0].shape != targets.shape:
        raise TaskError(
            "accuracy takes outputs (N, classes, …) and targets (N, …); "
            f"received {tuple(outputs.shape)} and {tuple(targets.shape)}"
        )
    right = outputs.argmax(dim=1) == targets
    return right[targets != IGNORED].double().mean().item()


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


class Scorer(Protocol):
    """What one evaluation feeds its batches to, and asks for the score at the end."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch."""

    def compute(self) -> Any:
        """The score of all batches."""


class Loss:
    """A loss: by name, a function of (outputs, targets), or a module."""

    def __init__(self, given: Any, device: torch.device) -> None:
        self.name, self.function = _named(given, LOSSES, "loss", "a function")
        if isinstance(given, torch.nn.Module):  # class weights, which must be where the data are
            self.function = copy.deepcopy(given).to(device)


class Metric:
    """A metric: by name, a function of all outputs and targets, or an object of torchmetrics.

    `higher_is_better` is None where the metric does not say.
    """

    def __init__(self, given: Any, device: torch.device) -> None:
        self._device = device
        self._is_updated = all(
            hasattr(given, method) for method in ("update", "compute", "reset", "clone")
        )
        self.name, found = _named(given, METRICS, "metric", "a function or a torchmetrics object")
        known = getattr(given, "higher_is_better", None) if self._is_updated else None
        self.given, self.higher_is_better = found if isinstance(found, tuple) else (found, known)

    def new_scorer(self) -> Scorer:
        """A scorer that has seen nothing yet."""
        if self._is_updated:
            return _Updated(self.name, self.given.clone().to(self._device))
        return _Collected(self.given)


class _Updated:
    """A copy of a torchmetrics object: it sums up each batch, so that no output is kept."""

    def __init__(self, name: str, metric: Any) -> None:
        self._name = name
        self._metric = metric
        metric.reset()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        try:
            self._metric.update(outputs, targets)
        except Exception as error:
            raise TaskError(
                f"the metric {self._name!r} cannot take outputs {tuple(outputs.shape)} and "
                f"targets {tuple(targets.shape)}: {one_line(error)}"
            ) from error

    def compute(self) -> Any:
        return self._metric.compute()


class _Collected:
    """A function's: it keeps what it is given, on the CPU, and applies the function to all."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        self._function = function
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self._outputs.append(outputs.cpu())
        self._targets.append(targets.cpu())

    def compute(self) -> Any:
        if len({out.shape[1:] for out in self._outputs}) > 1:
            raise TaskError(
                "the model's outputs differ in size from batch to batch, so a function cannot "
                "score them together; give the lengths with the data, pad the outputs to one "
                "size in the model's forward, or take a metric of torchmetrics"
            )
        return self._function(torch.cat(self._outputs), torch.cat(self._targets))


def _named(given: Any, known: dict[str, Any], what: str, other: str) -> tuple[str, Any]:
    if callable(given):
        return name_of(given), given
    if given not in known:
        raise NormError(
            f"{what}={given!r} is not known; write one of {', '.join(known)}, or give {other}"
        )
    return given, known[given]


def name_of(function: Any) -> str:
    """What a function, or an object, is called in a report."""
    function = getattr(function, "func", function)  # what a partial is of
    return getattr(function, "__name__", type(function).__name__)
