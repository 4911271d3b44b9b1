"""Trials on a Ray cluster: an actor a worker, and a lost one is replaced wherever there is room."""

import logging
import pickle
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from normwise.compare.engines import Watch
from normwise.compare.engines.crew import Ended, Event, Lost, Ready, Refused, run_with
from normwise.compare.engines.worker import name_of_process, pack, trial_of, unpack
from normwise.compare.schedule import Schedule, Trial
from normwise.compare.task import Task
from normwise.compare.trial import Outcome
from normwise.errors import NormError, one_line


@dataclass(frozen=True)
class OnRay:
    """As many trials at a time as the cluster has room for.

    workers         at most so many; all there is room for if left out
    trial_timeout   seconds after which a trial is ended; it is then tried again
    address         of the cluster; if left out, Ray's own default, which starts one here
    gpus_per_trial  what a trial takes of a GPU: 0.25 lets four share one
    """

    workers: int | None = None
    trial_timeout: float | None = None
    address: str | None = None
    gpus_per_trial: float = 0

    def run(self, task: Task, schedule: Schedule, watch: Watch) -> Generator[Outcome, None, None]:
        """Yield every outcome as it ends."""
        packed = pack(task)
        with _connected(self.address) as ray:
            crew = _Crew(ray, packed, task.threads, self.gpus_per_trial, self.workers)
            yield from run_with(crew, schedule, watch, self.trial_timeout)


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected; a connection that was there already stays."""
    try:
        import ray
    except ImportError as error:
        raise NormError("engine='ray' needs Ray: pip install ray") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise NormError(
            f"no Ray cluster answers at {address or 'its default address'} ({one_line(error)})"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


class _Crew:
    """Hires actors."""

    def __init__(
        self, ray: Any, packed: bytes, cpus: int, gpus: float, workers: int | None
    ) -> None:
        self._ray = ray
        self._task = ray.put(packed)
        self._path = list(sys.path)
        # A trial that a lost worker had is this driver's to repeat, which counts how often.
        demands = {"num_cpus": cpus, "num_gpus": gpus}
        self._kind = ray.remote(**demands, max_restarts=0, max_task_retries=0)(_Serving)
        self.size = workers or _room(ray.cluster_resources(), cpus, gpus)

    def hire(self) -> "_Actor":
        return _Actor(self._ray, self._kind.remote(self._task, self._path))

    def listen(self, workers: list[Any], timeout_s: float) -> list[tuple[Any, Event]]:
        pending = {worker.pending: worker for worker in workers if worker.pending is not None}
        ready: list[Any] = []
        if pending:
            first, _ = self._ray.wait(list(pending), timeout=timeout_s)
            ready = first and self._ray.wait(list(pending), num_returns=len(pending), timeout=0)[0]
        return [(pending[ref], pending[ref].told()) for ref in ready]

    def dismiss(self, workers: list[Any]) -> None:
        for worker in workers:
            worker.kill()


def _room(resources: dict[str, float], cpus: int, gpus: float) -> int:
    """How many trials a cluster has room for at a time."""
    room = int(resources.get("CPU", 0) // cpus)
    if gpus:
        room = min(room, int(resources.get("GPU", 0) / gpus))
    if room < 1:
        raise NormError(
            f"the Ray cluster has no room for a trial that takes {cpus} CPUs and {gpus:g} GPUs; "
            f"it has {resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}"
        )
    return room


class _Actor:
    """One actor, and the answer that is awaited from it."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self._ray = ray
        self._handle = handle
        self.pending: Any = handle.prepare.remote()

    def begin(self, trial: Trial) -> None:
        self.pending = self._handle.run.remote(pickle.dumps(trial))

    def told(self) -> Event:
        """What the awaited answer says."""
        answer, self.pending = self.pending, None
        try:
            event: Event = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, NormError):
                return Refused(cause)
            raise
        except self._ray.exceptions.RayError as error:
            return Lost(_cause_of_death(self._ray, error))
        return event

    def kill(self) -> None:
        """End its process, whatever it is doing."""
        with suppress(Exception):  # the cluster may be gone, too
            self._ray.kill(self._handle, no_restart=True)


def _cause_of_death(ray: Any, error: BaseException) -> str:
    """Ray tells a dead process from a dead node only after a while, if at all."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "the worker was killed for want of memory"
    return "the worker, or its node, was lost"


class _Serving:
    """What an actor is: a worker of the cluster."""

    def __init__(self, packed: bytes, path: list[str]) -> None:
        sys.path.extend(folder for folder in path if folder not in sys.path)
        self._packed = packed

    def prepare(self) -> Event:
        self._task = unpack(self._packed)
        return Ready(name_of_process())

    def run(self, trial: bytes) -> Event:
        return Ended(pickle.dumps(trial_of(self._task, pickle.loads(trial), None)))
