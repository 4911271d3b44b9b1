"""Trials one after the other, in this process."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

from normwise.compare.engines import Watch
from normwise.compare.engines.worker import name_of_process, trial_of
from normwise.compare.interrupts import interrupted
from normwise.compare.schedule import Schedule
from normwise.compare.task import Task
from normwise.compare.trial import Outcome


@dataclass(frozen=True)
class Here:
    """One trial at a time, in the process that asks."""

    def run(self, task: Task, schedule: Schedule, watch: Watch) -> Generator[Outcome, None, None]:
        """Yield every outcome as it ends."""
        while (trial := schedule.next()) is not None:
            watch(trial, 0)
            outcome = trial_of(task, trial, partial(watch, trial))
            if interrupted():  # a training loop of the user's may answer Ctrl-C by ending early
                raise KeyboardInterrupt
            yield replace(outcome, worker=name_of_process())
