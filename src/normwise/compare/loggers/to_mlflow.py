"""To MLflow: an experiment for the task, a run for the comparison, and one in it for each trial.

Where it goes is MLflow's to say: ``MLFLOW_TRACKING_URI``, or its default.
"""

import time
from collections.abc import Mapping
from typing import Any

from normwise.compare.loggers import Run
from normwise.compare.loggers.words import file_name, points, verdicts
from normwise.compare.trial import Outcome


class Log:
    """Parameters, curves and scores of trials; verdicts as tags, and results.json, of the whole."""

    def __init__(self, run: Run, memory: Any) -> None:
        from mlflow import MlflowClient

        self._run = run
        self._client = MlflowClient()
        self.memory = self._started() if memory is None else memory

    def _started(self) -> dict[str, str]:
        """The experiment and the run that all trials are in."""
        found = self._client.get_experiment_by_name(self._run.name)
        experiment = (
            self._client.create_experiment(self._run.name) if found is None else found.experiment_id
        )
        run = self._client.create_run(experiment, run_name=self._run.folder.name)
        for key, value in self._run.settings.items():
            self._client.log_param(run.info.run_id, key, value)
        return {"experiment": experiment, "run": run.info.run_id}

    def add(self, outcome: Outcome) -> None:
        """Log a trial that has ended."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        run = self._client.create_run(
            self.memory["experiment"],
            start_time=now - int(outcome.seconds * 1000),
            tags={"mlflow.parentRunId": self.memory["run"]},
            run_name=f"{outcome.candidate}, seed {outcome.seed}",
        ).info.run_id
        metrics = [
            Metric(key, value, now, step)
            for step, values in points(outcome, self._run.metric)
            for key, value in values.items()
        ]
        if outcome.score is not None:
            metrics.append(Metric("final_score", outcome.score, now, 0))
        params = [Param("candidate", outcome.candidate), Param("seed", str(outcome.seed))]
        tags = [RunTag("reason", outcome.reason)] if outcome.reason is not None else []
        for first in range(0, max(len(metrics), 1), 1000):  # MLflow takes no more at a time
            self._client.log_batch(run, metrics[first : first + 1000], params, tags)
        self._client.set_terminated(run, "FAILED" if outcome.kind == "failed" else "FINISHED", now)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Log the verdicts."""
        run = self.memory["run"]
        for row in verdicts(results):
            self._client.set_tag(run, f"verdict.{file_name(row.name)}", row.verdict)
            if row.mean is not None:
                self._client.log_metric(run, f"mean.{file_name(row.name)}", row.mean)
        self._client.set_tag(run, "recommendation", results["recommendation"]["why"])
        self._client.log_dict(run, dict(results), "results.json")
        self._client.set_terminated(run)
