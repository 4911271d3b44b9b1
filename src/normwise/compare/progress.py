"""What is being tried now, how far it is, and the table so far: on a terminal, while it runs."""

import time
from collections.abc import Sequence
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING

from normwise.compare.schedule import Trial
from normwise.compare.task import Task
from normwise.compare.trial import Outcome

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


class Progress:
    """A live display of a comparison; silent where the output is not a terminal."""

    def __init__(
        self,
        task: Task,
        candidates: Sequence[str],
        seeds: int,
        finished: Sequence[Outcome],
        *,
        enabled: bool = True,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._task = task
        self._candidates = candidates
        self._seeds = seeds
        self._outcomes = {
            (o.candidate, o.seed): o
            for o in finished
            if o.candidate in candidates and o.seed < seeds
        }
        self._before = len(self._outcomes)
        # Another thread draws what these hold, so they are replaced and never changed.
        self._running: dict[Trial, int] = {}
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
        self._running = {**self._running, trial: epochs}

    def add(self, outcome: Outcome) -> None:
        """A trial has ended."""
        self._outcomes = {**self._outcomes, (outcome.candidate, outcome.seed): outcome}
        self._running = {
            trial: epochs
            for trial, epochs in self._running.items()
            if (trial.candidate, trial.seed) != (outcome.candidate, outcome.seed)
        }

    def say(self, note: str) -> None:
        """Show what is done beside trials."""
        self._note = note

    def _picture(self) -> "Group":
        from rich.console import Group
        from rich.padding import Padding
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        total = len(self._candidates) * self._seeds
        head = f"{self._task.name or 'task'}: {len(self._outcomes)} of {total} trials"
        return Group(
            Text(head + self._time_left(total), style="bold"),
            # Padding ends the line, which the bar leaves open.
            Padding(ProgressBar(total=total, completed=len(self._outcomes), width=60), 0),
            Text(self._now(), style="dim"),
            self._so_far(),
        )

    def _now(self) -> str:
        budget = f" of {self._task.epochs}" if self._task.run is None else ""
        running = [
            f"{trial.candidate}, seed {trial.seed}" + (f", epoch {n}{budget}" if n else "")
            for trial, n in self._running.items()
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
        table.add_column(f"mean {self._task.metric_name}", justify="right")
        for name in self._candidates:
            mine = [o for (candidate, _), o in self._outcomes.items() if candidate == name]
            scores = [o.score for o in mine if o.score is not None]
            failed = f" ({len(mine) - len(scores)} failed)" if len(scores) < len(mine) else ""
            mean = f"{fmean(scores):.4g}" if scores else "–"
            table.add_row(name, f"{len(mine)}{failed}", mean)
        return table
