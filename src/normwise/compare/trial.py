"""One trial: one candidate, trained with one seed, scored."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from normwise.compare.randomness import own_randomness
from normwise.compare.task import Task
from normwise.compare.training import DivergedError, number, train
from normwise.errors import TaskError, one_line
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
                score = train(task, model, seed, add)
            if keep_weights:
                weights = {key: value.cpu() for key, value in model.state_dict().items()}
            kind = "finished"
        except _StoppedError as stop:
            kind, reason = "stopped", str(stop)
        except DivergedError as error:
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


def _own_loop(
    task: Task, model: torch.nn.Module, seed: int, add: Callable[[dict[str, float]], None]
) -> float:
    assert task.run is not None

    def report(step: int, value: float) -> None:
        score = number(value)
        if score is not None and math.isfinite(score):  # a curve has no place for the others
            add({"epoch": int(step), "score": score})

    returned = task.run(model, seed, report)
    score = number(returned)
    if score is None:
        raise TaskError(
            f"run(model, seed, report) must return the score as a number; it returned {returned!r}"
        )
    if not math.isfinite(score):
        raise DivergedError(f"the score was {score}")
    return score


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use so many threads of the CPU inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
