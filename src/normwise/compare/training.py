"""One training of a model on a task: the loop, a step of it, and the score."""

import copy
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from normwise.compare.task import Task
from normwise.compare.task.batches import Batch, Batches
from normwise.errors import TaskError
from normwise.layers import padding


class DivergedError(Exception):
    """A loss, an output or a score that is no finite number."""


def train(
    task: Task, model: torch.nn.Module, seed: int, add: Callable[[dict[str, float]], None]
) -> float:
    """Train a model on the samples of a seed; returns the score on those held out.

    add  is given every epoch's number, mean loss and score

    Raises
        DivergedError  if a loss or an output is not finite.
    """
    to_learn, to_judge = task.data(seed)
    training = Training(task, model)
    best = _Best(task, model)
    order = torch.Generator().manual_seed(seed)
    score = math.nan
    for epoch in range(1, task.epochs + 1):
        model.train()
        losses = [
            training.step(batches) for batches in _chunks(to_learn.epoch(order), task.accumulate)
        ]
        loss = _mean(losses, epoch)
        score = evaluate(task, model, to_judge)
        training.end_epoch(score)
        add({"epoch": epoch, "loss": loss, "score": score})
        if best.is_long_past(score):
            break
    return best.restored(score)


class Training:
    """A model's optimizer on a task, with all that goes into one step of it."""

    def __init__(self, task: Task, model: torch.nn.Module) -> None:
        self._task = task
        self._model = model
        self._optimizer = task.new_optimizer(model.parameters())
        self._scheduler = task.new_scheduler(self._optimizer)
        self._warmup: Any = None
        if task.warmup is not None:  # both multiply the rate, so that they go together
            self._warmup = torch.optim.lr_scheduler.LinearLR(
                self._optimizer, 1 / task.warmup, total_iters=task.warmup - 1
            )
        self._scaler = torch.amp.GradScaler(task.device.type, enabled=task.precision == "float16")

    def step(self, batches: Sequence[Batch]) -> Tensor:
        """One step of the optimizer on the mean loss over all samples of some batches."""
        self._optimizer.zero_grad(set_to_none=True)
        samples = sum(batch.size for batch in batches)
        losses = []
        for batch in batches:
            batch = batch.to(self._task.device)
            with self._task.autocast():
                outputs, targets = batch.scored(forward(self._model, batch))
                loss = self._task.loss.function(outputs, targets)
            if len(batches) > 1:
                loss = loss * (batch.size / samples)
            self._scaler.scale(loss).backward()
            losses.append(loss.detach())
        if self._task.max_grad_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._task.max_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._warmup is not None:
            self._advance(self._warmup)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def end_epoch(self, score: float) -> None:
        """Go on in the learning rate's schedule."""
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(score)
        else:
            self._advance(self._scheduler)

    def _advance(self, scheduler: Any) -> None:
        with warnings.catch_warnings():
            if self._scaler.is_enabled():  # it leaves out the first steps, until its scale fits
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            scheduler.step()


def forward(model: torch.nn.Module, batch: Batch) -> Any:
    """The model's outputs; the lengths reach its norms, and its forward if that takes them."""
    if batch.lengths is None:
        return model(batch.x)
    takes_lengths = "lengths" in inspect.signature(model.forward).parameters
    compiled = model._compiled_call_impl is not None  # and would be anew, for hooks that find T out
    with padding(batch.lengths, size=batch.x.shape[-1] if compiled else None):
        return model(batch.x, lengths=batch.lengths) if takes_lengths else model(batch.x)


def evaluate(task: Task, model: torch.nn.Module, data: Batches) -> float:
    """The task's metric over all of `data`, in evaluation mode.

    Raises
        DivergedError  if an output is not finite.
        TaskError      if the metric is not a finite number although all outputs are.
    """
    scorer = task.new_scorer()
    model.eval()
    with torch.no_grad():
        for batch in data.epoch():
            batch = batch.to(task.device)
            with task.autocast():
                outputs = forward(model, batch)
            outputs, targets = batch.scored(outputs)
            if not outputs.isfinite().all():
                raise DivergedError("the outputs were not finite")
            half = outputs.dtype in (torch.bfloat16, torch.float16)
            scorer.update(outputs.float() if half else outputs, targets)
    returned = scorer.compute()
    score = number(returned)
    if score is None or not math.isfinite(score):
        raise TaskError(
            f"the metric {task.metric_name!r} returned {returned!r} for finite outputs; "
            "it must return a number"
        )
    return score


def number(value: Any) -> float | None:
    """A score as a number, whether it came as one or in a tensor; None where it is neither."""
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        return None


class _Best:
    """The best epoch of a training that stops early: its score, its weights, how long ago."""

    def __init__(self, task: Task, model: torch.nn.Module) -> None:
        self._task = task
        self._model = model
        self._score = -math.inf if task.higher_is_better else math.inf
        self._weights: dict[str, Any] = {}
        self._epochs_ago = 0

    def is_long_past(self, score: float) -> bool:
        """Take the score of another epoch; whether the training should end."""
        if self._task.patience is None:
            return False
        better = score > self._score if self._task.higher_is_better else score < self._score
        self._epochs_ago = 0 if better else self._epochs_ago + 1
        if better:
            self._score = score
            self._weights = copy.deepcopy(self._model.state_dict())
        return self._epochs_ago >= self._task.patience

    def restored(self, last: float) -> float:
        """The best score, with its weights in the model again; the last, without early stopping."""
        if self._task.patience is None:
            return last
        self._model.load_state_dict(self._weights)
        return self._score


def _chunks(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    every = iter(batches)
    while chunk := list(itertools.islice(every, size)):
        yield chunk


def _mean(losses: Sequence[Tensor], epoch: int) -> float:
    """The mean loss of an epoch, read once, since a GPU has to be waited for.

    Raises
        DivergedError  if one is not finite.
    """
    if not losses:
        return 0.0
    values = torch.stack(list(losses)).tolist()
    for value in values:
        if not math.isfinite(value):
            raise DivergedError(f"the loss was {value} in epoch {epoch}")
    return math.fsum(values) / len(values)
