"""To Weights & Biases: a project for the task, a group for the comparison, a run for each trial.

Whether it goes to the network is its own to say: ``WANDB_MODE=offline`` keeps it in the folder.
"""

from collections.abc import Mapping
from typing import Any

from normwise.compare.loggers import Run
from normwise.compare.loggers.words import file_name, points, verdicts
from normwise.compare.trial import Outcome


class Log:
    """Curves and scores of trials; a table of verdicts in a run of its own."""

    memory = None

    def __init__(self, run: Run, _memory: Any) -> None:
        self._run = run

    def add(self, outcome: Outcome) -> None:
        """Log a trial that has ended."""
        config = {"candidate": outcome.candidate, "seed": outcome.seed, **self._run.settings}
        with self._begun(f"{outcome.candidate}, seed {outcome.seed}", config) as run:
            for step, values in points(outcome, self._run.metric):
                run.log(values, step=step)
            run.summary["kind"] = outcome.kind
            if outcome.score is not None:
                run.summary["score"] = outcome.score
            if outcome.reason is not None:
                run.summary["reason"] = outcome.reason

    def finish(self, results: Mapping[str, Any]) -> None:
        """Log the verdicts."""
        with self._begun("verdicts", dict(self._run.settings)) as run:
            import wandb

            rows = [list(row) for row in verdicts(results)]
            run.log({"verdicts": wandb.Table(columns=["candidate", "mean", "verdict"], data=rows)})
            run.summary["recommendation"] = results["recommendation"]["why"]

    def _begun(self, name: str, config: dict[str, Any]) -> Any:
        import wandb

        return wandb.init(
            project=file_name(self._run.name),
            group=self._run.folder.name,
            name=name,
            config=config,
            dir=str(self._run.folder),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
