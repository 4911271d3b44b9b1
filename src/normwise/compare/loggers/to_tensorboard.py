"""To TensorBoard: a run for each trial, below ``<out>/tensorboard``."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from normwise.compare.loggers import Run
from normwise.compare.loggers.words import file_name, points, verdicts
from normwise.compare.trial import Outcome


class Log:
    """Curves by epoch; mean scores and verdicts in the folder's own run."""

    memory = None

    def __init__(self, run: Run, _memory: Any) -> None:
        self._run = run
        self._folder = run.folder / "tensorboard"

    def add(self, outcome: Outcome) -> None:
        """Log a trial that has ended."""
        with closing(self._writer(file_name(outcome.candidate), f"seed-{outcome.seed}")) as writer:
            for step, values in points(outcome, self._run.metric):
                for key, value in values.items():
                    writer.add_scalar(key, value, step)
            if outcome.score is not None:
                writer.add_scalar(f"final {self._run.metric}", outcome.score, outcome.seed)
            if outcome.reason is not None:
                writer.add_text(outcome.kind, outcome.reason, outcome.seed)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Log the verdicts."""
        with closing(self._writer()) as writer:
            writer.add_text("verdicts", _table(results))

    def _writer(self, *parts: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder.joinpath(*parts)))


def _table(results: Mapping[str, Any]) -> str:
    """The verdicts as Markdown, which is how TensorBoard shows text."""
    lines = ["| candidate | mean | verdict |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.shown} | {row.verdict} |" for row in verdicts(results)]
    return "\n".join([*lines, "", str(results["recommendation"]["why"])])
