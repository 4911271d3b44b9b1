"""What is being tried now, how far it is, and the table so far: on a terminal, while it runs."""

import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Any

from normwise.compare.schedule import Trial
from normwise.compare.task import Task
from normwise.compare.trial import Outcome

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def plan_of(task: Task, candidates: Sequence[str], seeds: int) -> dict[str, Any]:
    """What a display has to know beforehand; the ledger keeps it for displays elsewhere."""
    return {
        "name": task.name or "task",
        "metric": task.metric_name,
        "epochs": task.epochs if task.run is None else None,
        "candidates": list(candidates),
        "seeds": seeds,
    }


class Progress:
    """A live display of a comparison; silent where the output is not a terminal."""

    def __init__(
        self, plan: Mapping[str, Any], finished: Sequence[Outcome], *, enabled: bool = True
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._plan = plan
        self._outcomes = {
            (o.candidate, o.seed): o
            for o in finished
            if o.candidate in plan["candidates"] and o.seed < plan["seeds"]
        }
        self._before = len(self._outcomes)
        # Another thread draws what these hold, so they are replaced and never changed.
        self._running: dict[tuple[str, int], int] = {}
        self._note = ""
        self._start = time.monotonic()
        console = Console()
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._picture)
        self._enabled = enabled and console.is_terminal

    def __enter__(self) -> "Progress":
        if self._enabled:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._enabled:
            self._live.transient = kind is None  # the final table takes its place
            self._live.stop()

    def watch(self, trial: Trial, epochs: int) -> None:
        """A trial has begun, or has so many epochs behind it."""
        self._running = {**self._running, (trial.candidate, trial.seed): epochs}

    def running(self, epochs: Mapping[tuple[str, int], int]) -> None:
        """These trials, by candidate and seed, are all that run, with so many epochs each."""
        self._running = dict(epochs)

    def add(self, outcome: Outcome) -> None:
        """A trial has ended."""
        key = (outcome.candidate, outcome.seed)
        self._outcomes = {**self._outcomes, key: outcome}
        self._running = {trial: n for trial, n in self._running.items() if trial != key}

    def say(self, note: str) -> None:
        """Show what is done beside trials."""
        self._note = note

    def _picture(self) -> "Group":
        from rich.console import Group
        from rich.padding import Padding
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        total = len(self._plan["candidates"]) * self._plan["seeds"]
        head = f"{self._plan['name']}: {len(self._outcomes)} of {total} trials"
        return Group(
            Text(head + self._time_left(total), style="bold"),
            # Padding ends the line, which the bar leaves open.
            Padding(ProgressBar(total=total, completed=len(self._outcomes), width=60), 0),
            Text(self._now(), style="dim"),
            self._so_far(),
        )

    def _now(self) -> str:
        budget = f" of {self._plan['epochs']}" if self._plan["epochs"] else ""
        running = [
            f"{candidate}, seed {seed}" + (f", epoch {n}{budget}" if n else "")
            for (candidate, seed), n in self._running.items()
        ]
        return "now " + "; ".join(running) if running else self._note

    def _time_left(self, total: int) -> str:
        new = len(self._outcomes) - self._before
        if not new:
            return ""
        seconds = (time.monotonic() - self._start) / new * (total - len(self._outcomes))
        if seconds >= 90:
            return f", about {seconds / 60:.0f} min left"
        return f", about {seconds:.0f} s left" if seconds >= 1 else ""

    def _so_far(self) -> "Table":
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column("candidate")
        table.add_column("trials", justify="right")
        table.add_column(f"mean {self._plan['metric']}", justify="right")
        for name in self._plan["candidates"]:
            mine = [o for (candidate, _), o in self._outcomes.items() if candidate == name]
            scores = [o.score for o in mine if o.score is not None]
            failed = sum(o.kind == "failed" for o in mine)
            mean = f"{fmean(scores):.4g}" if scores else "–"
            table.add_row(name, f"{len(mine)}" + (f" ({failed} failed)" if failed else ""), mean)
        return table
