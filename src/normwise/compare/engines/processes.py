"""Trials in processes of this machine, each of which may be killed or lost alone."""

import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import wait
from typing import Any

from normwise.compare.engines import Watch
from normwise.compare.engines.crew import Ended, Event, Lost, Reached, Ready, Refused, run_with
from normwise.compare.engines.worker import pack, serve
from normwise.compare.interrupts import interrupts_held
from normwise.compare.schedule import Schedule, Trial
from normwise.compare.task import Task
from normwise.compare.trial import Outcome

PATIENCE_S = 5  # for a process that ends by itself, or that was killed


@dataclass(frozen=True)
class Processes:
    """So many trials at a time, each in a process of its own.

    workers        how many processes there are
    trial_timeout  seconds after which a trial is ended; it is then tried again
    """

    workers: int
    trial_timeout: float | None = None

    def run(self, task: Task, schedule: Schedule, watch: Watch) -> Generator[Outcome, None, None]:
        """Yield every outcome as it ends."""
        yield from run_with(_Crew(pack(task), self.workers), schedule, watch, self.trial_timeout)


class _Crew:
    """Hires processes."""

    def __init__(self, packed: bytes, size: int) -> None:
        self.size = size
        self._packed = packed

    def hire(self) -> "_Process":
        return _Process(self._packed)

    def listen(self, workers: list[Any], timeout_s: float) -> list[tuple[Any, Event]]:
        wait([end for w in workers for end in (w.pipe, w.process.sentinel)], timeout_s)
        return [(worker, event) for worker in workers for event in worker.told()]

    def dismiss(self, workers: list[Any]) -> None:
        for worker in workers:
            worker.pipe.close()
        deadline = time.monotonic() + PATIENCE_S
        for worker in workers:
            worker.process.join(max(0, deadline - time.monotonic()))
            worker.kill()


_EVENTS: dict[str, Any] = {
    "ready": Ready,
    "reached": Reached,
    "ended": Ended,
    "refused": Refused,
}


class _Process:
    """One process, and the pipe to it."""

    def __init__(self, packed: bytes) -> None:
        spawn = get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        # No daemon: those may not have children, such as the workers of a DataLoader.
        self.process = spawn.Process(target=serve, args=(theirs,))
        if sys.platform != "win32":
            resource_tracker.ensure_running()  # starting it would let interrupts through again
        with interrupts_held():
            self.process.start()
        theirs.close()
        # It reads after some seconds of imports, and a large task does not fit into the pipe.
        threading.Thread(target=self._send_task, args=(packed,), daemon=True).start()

    def _send_task(self, packed: bytes) -> None:
        with suppress(OSError):  # it died, or was killed: that is heard elsewhere
            self.pipe.send_bytes(packed)

    def begin(self, trial: Trial) -> None:
        with suppress(OSError):
            self.pipe.send(trial)

    def told(self) -> Iterator[Event]:
        """Everything that is there to be heard; a loss comes last."""
        dead = not self.process.is_alive()  # asked first: what it sent before comes before
        try:
            while self.pipe.poll():
                kind, content = self.pipe.recv()
                yield _EVENTS[kind](content)
        except (EOFError, OSError):
            self.process.join(PATIENCE_S)
            dead = True
        if dead:
            yield Lost(_cause_of_death(self.process.exitcode))

    def kill(self) -> None:
        """End it and its children, whatever they are doing."""
        with suppress(OSError):
            if hasattr(os, "killpg") and self.process.pid is not None:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join(PATIENCE_S)
        self.pipe.close()


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"the worker ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = ", perhaps for want of memory" if name == "SIGKILL" and sys.platform != "win32" else ""
    return f"the worker was killed by {name}{hint}"
