"""Where trials run: in this process, in processes of this machine, or on a Ray cluster.

Every engine takes trials from a schedule and yields their outcomes as they end. What it
yields does not depend on the engine: the same trial has the same score everywhere.
"""

from collections.abc import Callable, Generator
from typing import Any, Protocol

from normwise.compare.schedule import Schedule, Trial
from normwise.compare.task import Task
from normwise.compare.trial import Outcome
from normwise.errors import NormError

__all__ = ["ENGINES", "Engine", "Watch", "choose_engine"]

Watch = Callable[[Trial, int], None]  # a trial under way, and the epochs it has behind it


class Engine(Protocol):
    """Fills free workers from a schedule until nothing runs and the schedule has nothing more."""

    def run(self, task: Task, schedule: Schedule, watch: Watch) -> Generator[Outcome, None, None]:
        """Yield every outcome as it ends; the schedule hears of it before the next is yielded."""
        ...


ENGINES = ("here", "processes", "ray")


def choose_engine(
    name: str | None,
    *,
    workers: int | None = None,
    trial_timeout: float | None = None,
    address: str | None = None,
    gpus_per_trial: float | None = None,
) -> Engine:
    """The engine of that name; if left out, this process, or others where those are needed.

    Raises
        NormError  if the engine is not known, or lacks what is asked of it.
    """
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise NormError(f"workers must be a whole number above 0, received {workers!r}")
    if trial_timeout is not None and not trial_timeout > 0:
        raise NormError(f"trial_timeout must be seconds above 0, received {trial_timeout!r}")
    if gpus_per_trial is not None and not gpus_per_trial >= 0:
        raise NormError(f"gpus_per_trial must be 0 or more, as in 0.5; received {gpus_per_trial!r}")
    if name is None:
        name = "here" if workers in (None, 1) and trial_timeout is None else "processes"
    if name not in ENGINES:
        raise NormError(f"engine={name!r} is not known; write one of {', '.join(ENGINES)}")
    _refuse(name, "ray", address=address, gpus_per_trial=gpus_per_trial)
    if name == "here":
        from normwise.compare.engines.here import Here

        _refuse(name, "processes", trial_timeout=trial_timeout)
        if workers not in (None, 1):
            raise NormError(f"engine='here' has one worker; {workers} need engine='processes'")
        return Here()
    if name == "processes":
        from normwise.compare.engines.processes import Processes

        return Processes(workers or 1, trial_timeout)
    from normwise.compare.engines.cluster import OnRay

    return OnRay(workers, trial_timeout, address, gpus_per_trial or 0)


def _refuse(name: str, takes_it: str, **options: Any) -> None:
    """Options that need another engine than the one of that name."""
    given = [option for option, value in options.items() if value is not None]
    if given and name != takes_it:
        raise NormError(f"{given[0]} needs engine={takes_it!r}; this is engine={name!r}")
