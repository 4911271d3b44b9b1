"""What each candidate costs: timed side by side, after the trials, with nothing else running."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from normwise.errors import one_line
from normwise.timing import take_turns

FIRST_SEED = 0  # whose weights and batches are timed
ROUNDS = 7
ROUND_S = 0.05
COMPILE_S = 300  # for all candidates together; what is not begun by then is left out
BACKEND = "inductor"  # torch's own default

Call = Callable[[], object]


def measure_costs(
    task: Task,
    candidates: list[str],
    on_progress: Callable[[str], None] | None = None,
    *,
    compiled: bool = False,
) -> dict[str, Cost]:
    """Time training and inference of every candidate on the task's own batches.

    Candidates take turns, round after round, so that a slow moment of the
    machine falls on all of them; the figure is the median round. A task with a
    loop of its own shows no batches: only its parameters are counted.

    compiled  time the models as torch.compile makes them, too. Where it cannot, or the
              time for it is spent, the figure is None and `Cost.not_compiled` says why
    """
    parameters = {c: _trained(candidate_model(task, c, FIRST_SEED)) for c in candidates}
    if task.run is not None:
        why = "a loop of one's own shows no batches to time" if compiled else None
        return {c: Cost(parameters=parameters[c], not_compiled=why) for c in candidates}
    to_learn, to_judge = task.data(FIRST_SEED)
    epoch = to_learn.epoch(torch.Generator().manual_seed(FIRST_SEED))
    training = [batch.to(task.device) for batch in itertools.islice(epoch, task.accumulate)]
    validation = next(to_judge.epoch()).to(task.device)
    steps = {c: _training(task, candidate_model(task, c, FIRST_SEED), training) for c in candidates}
    passes = {
        c: _inference(task, candidate_model(task, c, FIRST_SEED), validation) for c in candidates
    }
    memory = {c: _peak_memory_mb(task, steps[c]) for c in candidates}
    to_compile = candidates if compiled else []
    with _as_many_graphs_as(len(to_compile)):
        fused = _Compiled(task, to_compile, training, validation)
        train_s = _side_by_side(task, [steps, fused.steps], on_progress)
        inference_s = _side_by_side(task, [passes, fused.passes], on_progress)
    per_sample = 1e6 / len(validation.y)
    return {
        c: Cost(
            train_s[0][c],
            inference_s[0][c] * per_sample,
            memory[c],
            parameters[c],
            train_s[1].get(c),
            inference_s[1][c] * per_sample if c in fused.passes else None,
            fused.why_not.get(c),
        )
        for c in candidates
    }


class _Compiled:
    """The candidates that torch.compile could make something of, and why not the others.

    Each has been called once in training and in inference, which is when it is compiled.
    """

    def __init__(
        self, task: Task, candidates: list[str], training: list[Batch], validation: Batch
    ) -> None:
        self.steps: dict[str, Call] = {}
        self.passes: dict[str, Call] = {}
        self.why_not: dict[str, str] = {}
        end = time.monotonic() + COMPILE_S
        for candidate in candidates:
            if time.monotonic() > end:
                self.why_not[candidate] = f"the {COMPILE_S} s for compiling were spent"
                continue
            learning, judging = (candidate_model(task, candidate, FIRST_SEED) for _ in range(2))
            step, run = _training(task, learning, training), _inference(task, judging, validation)
            try:
                learning.compile(backend=BACKEND)
                judging.compile(backend=BACKEND)
                graphs = [_graphs_after(step, run) for _ in range(3)]
            except Exception as error:
                self.why_not[candidate] = one_line(getattr(error, "inner_exception", error))
                continue
            if graphs[-1] > graphs[-2]:  # the second call may still learn that a size varies
                self.why_not[candidate] = "torch.compile compiles it anew at every call"
            else:
                self.steps[candidate], self.passes[candidate] = step, run


def _graphs_after(*calls: Call) -> int:
    """How many graphs torch has compiled, once these have been called."""
    from torch._dynamo.utils import counters

    for call in calls:
        call()
    return counters["stats"]["unique_graphs"]


@contextmanager
def _as_many_graphs_as(candidates: int) -> Iterator[None]:
    """One forward is compiled for each candidate, twice; torch would soon give up."""
    if not candidates:
        yield
        return
    import torch._dynamo.config as config

    limits = {"recompile_limit": 8 + 4 * candidates, "accumulated_recompile_limit": 2**16}
    with config.patch(limits):
        yield


def _trained(model: torch.nn.Module) -> int:
    lazy = torch.nn.parameter.is_lazy
    return sum(p.numel() for p in model.parameters() if p.requires_grad and not lazy(p))


def _training(task: Task, model: torch.nn.Module, batches: list[Batch]) -> Call:
    training = Training(task, model.train())
    return lambda: training.step(batches)


def _inference(task: Task, model: torch.nn.Module, batch: Batch) -> Call:
    model.eval()

    @torch.no_grad()
    def run() -> object:
        with task.autocast():
            return forward(model, batch)

    return run


def _side_by_side(
    task: Task,
    columns: Sequence[Mapping[str, Call]],
    on_progress: Callable[[str], None] | None,
) -> list[dict[str, float]]:
    """Seconds for one call of each: the median over rounds in which all take turns."""

    def settle() -> None:
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)

    calls = {(at, name): call for at, column in enumerate(columns) for name, call in column.items()}
    rounds = take_turns(
        calls,
        ROUNDS,
        ROUND_S,
        settle=settle,
        on_turn=None if on_progress is None else lambda turn: on_progress(turn[1]),
    )
    return [
        {name: statistics.median(rounds[at, name]) for name in column}
        for at, column in enumerate(columns)
    ]


def _peak_memory_mb(task: Task, step: Call) -> float:
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
