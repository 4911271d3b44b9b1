"""One trial: one candidate, trained with one seed, scored."""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from normwise.compare.batches import Batch, Batches
from normwise.compare.randomness import own_randomness
from normwise.compare.task import Task
from normwise.errors import TaskError, one_line
from normwise.layers import padding
from normwise.surgery import swap

AS_IS = "as-is"
_OUT_OF_MEMORY = "out of memory"

Kind = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: with a score, or with the reason why there is none.

    kind  finished: there is a score; failed: it raised, diverged, ran out of memory;
          stopped: its learning curve fell behind, so the score was not waited for
    """

    candidate: str
    seed: int
    score: float | None
    reason: str | None
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    weights: dict[str, Tensor] | None = None  # the trained state, where it was asked for
    kind: Kind = "finished"
    worker: str | None = None  # host and process that ran it, as "host:123"
    lost: list[str] = field(default_factory=list)  # why earlier attempts came to nothing


class _DivergedError(Exception):
    pass


class _StoppedError(BaseException):
    """Passes through a loop of the user's own, which may catch every Exception."""


def run_trial(
    task: Task,
    candidate: str,
    seed: int,
    *,
    keep_weights: bool = False,
    floors: Mapping[int, float] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Train the task's model with a candidate in the place of its norms, and score it.

    The same seed gives every candidate the same initial weights apart from the
    norms, the same batches in the same order, and the same draws of dropout. A
    trial that diverges or raises is an outcome with a reason.

    floors       by epoch (or reported step): with a score worse than that, the trial stops
    on_progress  called with the number of each epoch (or reported step) as it ends

    Raises
        NormError  for what is wrong with the task rather than with the candidate.
    """
    curve: list[dict[str, float]] = []

    def add(entry: dict[str, float]) -> None:
        curve.append(entry)
        if on_progress is not None:
            on_progress(int(entry["epoch"]))
        floor = (floors or {}).get(int(entry["epoch"]))
        if floor is not None and _is_worse(entry["score"], floor, task.higher_is_better):
            raise _StoppedError(
                f"stopped in epoch {entry['epoch']}: {entry['score']:.4g} is worse than {floor:.4g}"
            )

    start = time.perf_counter()
    kind: Kind = "failed"
    score, reason, weights = None, None, None
    with own_randomness(seed), threads(task.threads):
        try:
            model = candidate_model(task, candidate, seed)
            torch.manual_seed(seed)
            if task.run is not None:
                score = _own_loop(task, model, seed, add)
            else:
                score = _train(task, model, seed, add)
            if keep_weights:
                weights = {key: value.cpu() for key, value in model.state_dict().items()}
            kind = "finished"
        except _StoppedError as stop:
            kind, reason = "stopped", str(stop)
        except _DivergedError as error:
            reason = f"diverged: {error}"
        except (MemoryError, torch.OutOfMemoryError):
            reason = _OUT_OF_MEMORY
        except TaskError:
            raise
        except Exception as error:
            # torch has a class of its own for a GPU's memory, and none for the machine's.
            exhausted = "can't allocate memory" in str(error)
            reason = _OUT_OF_MEMORY if exhausted else one_line(error)
    seconds = time.perf_counter() - start
    return Outcome(candidate, seed, score, reason, curve, seconds, weights, kind)


def _is_worse(score: float, other: float, higher_is_better: bool) -> bool:
    return score < other if higher_is_better else score > other


def candidate_model(task: Task, candidate: str, seed: int) -> torch.nn.Module:
    """The task's model with the weights of a seed, and the candidate's norms."""
    model = task.new_model(seed)
    if candidate != AS_IS:
        model = swap(model, candidate, where=task.where, groups="exact")
    return model.to(task.device)


def forward(model: torch.nn.Module, batch: Batch) -> Any:
    """The model's outputs; the lengths reach its norms, and its forward if that takes them."""
    if batch.lengths is None:
        return model(batch.x)
    takes_lengths = "lengths" in inspect.signature(model.forward).parameters
    with padding(batch.lengths):
        return model(batch.x, lengths=batch.lengths) if takes_lengths else model(batch.x)


def evaluate(task: Task, model: torch.nn.Module, data: Batches) -> float:
    """The task's metric over all of `data`, in evaluation mode.

    Raises
        TaskError  if the metric is not a finite number although all outputs are.
    """
    outputs, targets = [], []
    model.eval()
    with torch.no_grad():
        for batch in data.epoch():
            outputs.append(forward(model, batch.to(task.device)).cpu())
            targets.append(batch.y.cpu())
    if len({out.shape[1:] for out in outputs}) > 1:
        raise TaskError(
            "the model's outputs differ in size from batch to batch, so they cannot be scored "
            "together; pad them to one size in the model's forward"
        )
    every_output = torch.cat(outputs)
    if not every_output.isfinite().all():
        raise _DivergedError("the outputs were not finite")
    returned = task.metric(every_output, torch.cat(targets))
    score = _number(returned)
    if score is None or not math.isfinite(score):
        raise TaskError(
            f"the metric {task.metric_name!r} returned {returned!r} for finite outputs "
            f"{tuple(every_output.shape)}; it must return a number"
        )
    return score


def train_step(
    task: Task, model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch
) -> float:
    """One step of the optimizer on one batch; returns the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = task.loss(forward(model, batch), batch.y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _train(
    task: Task, model: torch.nn.Module, seed: int, add: Callable[[dict[str, float]], None]
) -> float:
    assert task.train is not None
    assert task.valid is not None
    optimizer = task.new_optimizer(model)
    scheduler = task.new_scheduler(optimizer)
    order = torch.Generator().manual_seed(seed)
    score = math.nan
    for epoch in range(1, task.epochs + 1):
        model.train()
        losses = []
        for batch in task.train.epoch(order):
            losses.append(train_step(task, model, optimizer, batch.to(task.device)))
            if not math.isfinite(losses[-1]):
                raise _DivergedError(f"the loss was {losses[-1]} in epoch {epoch}")
        scheduler.step()
        score = evaluate(task, model, task.valid)
        add({"epoch": epoch, "loss": sum(losses) / max(len(losses), 1), "score": score})
    return score


def _own_loop(
    task: Task, model: torch.nn.Module, seed: int, add: Callable[[dict[str, float]], None]
) -> float:
    assert task.run is not None

    def report(step: int, value: float) -> None:
        number = _number(value)
        if number is not None and math.isfinite(number):  # a curve has no place for the others
            add({"epoch": int(step), "score": number})

    returned = task.run(model, seed, report)
    score = _number(returned)
    if score is None:
        raise TaskError(
            f"run(model, seed, report) must return the score as a number; it returned {returned!r}"
        )
    if not math.isfinite(score):
        raise _DivergedError(f"the score was {score}")
    return score


def _number(value: Any) -> float | None:
    """A score as a number, whether it came as one or in a tensor; None where it is neither."""
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        return None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use so many threads of the CPU inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
