"""What each candidate costs: timed side by side, after the trials, with nothing else running."""

import itertools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from normwise.compare.ledger import Cost
from normwise.compare.task import Task
from normwise.compare.task.batches import Batch
from normwise.compare.training import Training, forward
from normwise.compare.trial import candidate_model
from normwise.timing import take_turns

FIRST_SEED = 0  # whose weights and batches are timed
ROUNDS = 7
ROUND_S = 0.05


def measure_costs(
    task: Task, candidates: list[str], on_progress: Callable[[str], None] | None = None
) -> dict[str, Cost]:
    """Time training and inference of every candidate on the task's own batches.

    Candidates take turns, round after round, so that a slow moment of the
    machine falls on all of them; the figure is the median round. A task with a
    loop of its own shows no batches: only its parameters are counted.
    """
    parameters = {c: _trained(candidate_model(task, c, FIRST_SEED)) for c in candidates}
    if task.run is not None:
        return {c: Cost(parameters=parameters[c]) for c in candidates}
    to_learn, to_judge = task.data(FIRST_SEED)
    epoch = to_learn.epoch(torch.Generator().manual_seed(FIRST_SEED))
    training = [batch.to(task.device) for batch in itertools.islice(epoch, task.accumulate)]
    validation = next(to_judge.epoch()).to(task.device)
    steps = {c: _training(task, c, training) for c in candidates}
    passes = {c: _inference(task, c, validation) for c in candidates}
    memory = {c: _peak_memory_mb(task, steps[c]) for c in candidates}
    train_s = _side_by_side(task, steps, on_progress)
    inference_s = _side_by_side(task, passes, on_progress)
    samples = len(validation.y)
    return {
        c: Cost(train_s[c], inference_s[c] / samples * 1e6, memory[c], parameters[c])
        for c in candidates
    }


def _trained(model: torch.nn.Module) -> int:
    lazy = torch.nn.parameter.is_lazy
    return sum(p.numel() for p in model.parameters() if p.requires_grad and not lazy(p))


def _training(task: Task, candidate: str, batches: list[Batch]) -> Callable[[], object]:
    training = Training(task, candidate_model(task, candidate, FIRST_SEED).train())
    return lambda: training.step(batches)


def _inference(task: Task, candidate: str, batch: Batch) -> Callable[[], object]:
    model = candidate_model(task, candidate, FIRST_SEED).eval()

    @torch.no_grad()
    def run() -> object:
        with task.autocast():
            return forward(model, batch)

    return run


def _side_by_side(
    task: Task,
    calls: Mapping[str, Callable[[], object]],
    on_progress: Callable[[str], None] | None,
) -> dict[str, float]:
    """Seconds for one call of each: the median over rounds in which all take turns."""

    def settle() -> None:
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)

    rounds = take_turns(calls, ROUNDS, ROUND_S, settle=settle, on_turn=on_progress)
    return {name: statistics.median(seconds) for name, seconds in rounds.items()}


def _peak_memory_mb(task: Task, step: Callable[[], object]) -> float:
    """The most memory that the tensors of one training step take up at a time, in megabytes."""
    step()  # the optimizer's state is there from now on
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
        before = torch.cuda.memory_allocated(task.device)
        step()
        return (torch.cuda.max_memory_allocated(task.device) - before) / 1e6
    with _LiveTensors() as live:
        step()
    peak: int = live.peak_bytes
    return peak / 1e6


# torch leaves these without types.
_Mode: Any = TorchDispatchMode
_reference: Any = StorageWeakRef


class _LiveTensors(_Mode):  # type: ignore[misc]  # a base class without types
    """Watches what every operation returns, and how much of it is alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._alive: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        borrowed = {_address(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and _address(x) not in borrowed:
                storage = x.untyped_storage()
                self._alive[_address(x)] = (_reference(storage), storage.nbytes())
        in_use = sum(size for _, size in self._alive.values())
        self.peak_bytes = max(self.peak_bytes, in_use)
        return result


def _address(x: Tensor) -> int:
    address: int = x.untyped_storage()._cdata
    return address
