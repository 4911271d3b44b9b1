"""Curves, scores and verdicts in TensorBoard, MLflow or Weights & Biases, by their own packages.

What has been logged is noted in the ledger: a run that goes on, or that asks for a log
only later, logs what is missing there and nothing twice.
"""

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from normwise.compare.ledger import Ledger
from normwise.compare.trial import Outcome
from normwise.errors import NormError, one_line

__all__ = ["LOGGERS", "Logger", "Logs", "Run"]

# The module below this folder, the package it needs, and what pip calls that.
LOGGERS = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "mlflow": ("mlflow", "mlflow"),
    "wandb": ("wandb", "wandb"),
}


class Run(NamedTuple):
    """What a log says of a comparison as a whole."""

    name: str
    settings: Mapping[str, str]
    metric: str
    folder: Path


class Logger(Protocol):
    """One kind of log; `memory` is what it wrote into the ledger the last time, or None."""

    memory: Any

    def add(self, outcome: Outcome) -> None:
        """Log a trial that has ended."""
        ...

    def finish(self, results: Mapping[str, Any]) -> None:
        """Log the verdicts."""
        ...


class Logs:
    """The logs that a run was asked to keep.

    Raises
        NormError  if one is not known, or its package is missing.
    """

    def __init__(self, names: Sequence[str], run: Run, ledger: Ledger) -> None:
        self._ledger = ledger
        self._logs = {name: _opened(name, run, ledger) for name in dict.fromkeys(names)}

    def update(self) -> None:
        """Log every trial of the ledger that is not logged yet.

        What fails, as where a server does not answer, is tried again the next time.
        """
        for name, log in self._logs.items():
            noted = self._ledger.read(_key(name)) or {"trials": []}
            for outcome in self._ledger.outcomes():
                trial = [outcome.candidate, outcome.seed]
                if trial not in noted["trials"] and self._try(name, log.add, outcome):
                    noted["trials"].append(trial)
                    self._ledger.write(_key(name), {**noted, "memory": log.memory})

    def finish(self, results: Mapping[str, Any]) -> None:
        """Log what is missing, and the verdicts."""
        self.update()
        for name, log in self._logs.items():
            self._try(name, log.finish, results)

    @staticmethod
    def _try(name: str, call: Any, argument: Any) -> bool:
        try:
            call(argument)
        except Exception as error:
            warnings.warn(f"logging to {name} failed: {one_line(error)}", stacklevel=3)
            return False
        return True


def _opened(name: str, run: Run, ledger: Ledger) -> Logger:
    if name not in LOGGERS:
        raise NormError(f"log={name!r} is not known; write one of {', '.join(LOGGERS)}")
    package, distribution = LOGGERS[name]
    try:
        import_module(package)
    except ImportError as error:
        raise NormError(f"log={name!r} needs its package: pip install {distribution}") from error
    module = import_module(f"normwise.compare.loggers.to_{name}")
    noted = ledger.read(_key(name)) or {}
    logger: Logger = module.Log(run, noted.get("memory"))
    return logger


def _key(name: str) -> str:
    return f"logged to {name}"
