"""Many workers and one loop: it fills them, hears them, and replaces those that are lost."""

import pickle
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from normwise.compare.engines import Watch
from normwise.compare.schedule import Schedule, Trial
from normwise.compare.trial import Outcome
from normwise.errors import NormError

ATTEMPTS = 3
LISTEN_S = 0.5  # how long a free worker waits before the schedule is asked again


class Worker(Protocol):
    """A process that runs one trial at a time."""

    def begin(self, trial: Trial) -> None:
        """Start a trial; the worker must be ready."""
        ...

    def kill(self) -> None:
        """End at once, with everything it started."""
        ...


@dataclass(frozen=True)
class Ready:
    """A worker can take trials from now on."""

    name: str


@dataclass(frozen=True)
class Reached:
    """A trial has so many epochs behind it."""

    epochs: int


@dataclass(frozen=True)
class Ended:
    """A trial has come to its end; the outcome is pickled."""

    outcome: bytes


@dataclass(frozen=True)
class Refused:
    """The task is at fault, and no trial can go on."""

    error: NormError


@dataclass(frozen=True)
class Lost:
    """A worker has died."""

    why: str


Event = Ready | Reached | Ended | Refused | Lost


class Crew(Protocol):
    """Where workers come from."""

    size: int  # how many there may be at a time

    def hire(self) -> Worker:
        """A new worker, not yet ready."""
        ...

    def listen(self, workers: list[Worker], timeout_s: float) -> list[tuple[Worker, Event]]:
        """What workers have told, as soon as one tells anything, or nothing in that time."""
        ...

    def dismiss(self, workers: list[Worker]) -> None:
        """Let workers that do nothing end."""
        ...


@dataclass
class _Attempt:
    """A trial, and why earlier workers did not bring it to its end."""

    trial: Trial
    lost: list[str] = field(default_factory=list)
    started: float = 0.0


def run_with(
    crew: Crew, schedule: Schedule, watch: Watch, trial_timeout: float | None
) -> Iterator[Outcome]:
    """Run a schedule's trials with a crew.

    A trial whose worker dies, or that takes longer than `trial_timeout` seconds, is tried
    again by another worker, twice at most; then it is a failed outcome.

    Raises
        NormError  if the task is at fault, or no worker comes to life.
    """
    waiting: deque[_Attempt] = deque()
    names: dict[Worker, str] = {}  # of those that are ready
    starting: list[Worker] = []
    busy: dict[Worker, _Attempt] = {}
    stillborn = 0

    def lose(worker: Worker, why: str) -> Iterator[Outcome]:
        worker.kill()  # whatever is left of it, such as its children, or one that is out of reach
        del names[worker]
        attempt = busy.pop(worker, None)
        if attempt is None:
            return
        attempt.lost.append(why)
        if len(attempt.lost) < ATTEMPTS:
            waiting.appendleft(attempt)
        else:
            yield _given_up(attempt)

    try:
        while True:
            while len(busy) + len(waiting) < crew.size:
                trial = schedule.next()
                if trial is None:
                    break
                waiting.append(_Attempt(trial))
            if not busy and not waiting:
                crew.dismiss(list(names))
                names.clear()
                return
            for worker in [each for each in names if each not in busy]:
                if waiting:
                    attempt = busy[worker] = waiting.popleft()
                    attempt.started = time.monotonic()
                    watch(attempt.trial, 0)
                    worker.begin(attempt.trial)
            while len(starting) < len(waiting) and len(starting) + len(names) < crew.size:
                starting.append(crew.hire())
            events = crew.listen([*names, *starting], LISTEN_S)
            # What was finished is handed on before an error ends the run.
            for worker, event in sorted(events, key=lambda event: isinstance(event[1], Refused)):
                if isinstance(event, Ready):
                    starting.remove(worker)
                    names[worker] = event.name
                    stillborn = 0
                elif isinstance(event, Reached):
                    watch(busy[worker].trial, event.epochs)
                elif isinstance(event, Ended):
                    attempt, outcome = busy.pop(worker), pickle.loads(event.outcome)
                    yield replace(outcome, worker=names[worker], lost=attempt.lost)
                elif isinstance(event, Refused):
                    raise event.error
                elif worker in names:
                    yield from lose(worker, event.why)
                else:
                    worker.kill()
                    starting.remove(worker)
                    stillborn += 1
                    if stillborn == ATTEMPTS:
                        raise _no_worker(event.why)
            if trial_timeout is not None:
                for worker, attempt in list(busy.items()):
                    if time.monotonic() - attempt.started > trial_timeout:
                        yield from lose(worker, f"timed out after {trial_timeout:g} s")
    finally:
        for worker in [*names, *starting]:
            worker.kill()


def _given_up(attempt: _Attempt) -> Outcome:
    """What is left of a trial that no worker brought to its end."""
    reasons = "; ".join(dict.fromkeys(attempt.lost))
    return Outcome(
        attempt.trial.candidate,
        attempt.trial.seed,
        None,
        f"{reasons} ({len(attempt.lost)} attempts)",
        seconds=time.monotonic() - attempt.started,
        kind="failed",
        lost=attempt.lost,
    )


def _no_worker(why: str) -> NormError:
    return NormError(
        f"no worker comes to life: {ATTEMPTS} in a row died before their first trial ({why}). "
        "A script that asks for workers starts below if __name__ == '__main__':"
    )
