"""A LightningModule and its LightningDataModule as a task."""

import functools
import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from normwise.compare.task import Task
from normwise.compare.task.task import Report
from normwise.errors import TaskError

# What a comparison of many short trainings has no use for; options of the user's come after.
_QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "devices": 1,
}


def lightning_task(
    model: Callable[[], torch.nn.Module],
    data: Callable[[], Any],
    monitor: str,
    *,
    higher_is_better: bool,
    trainer: Mapping[str, Any] | None = None,
    **options: Any,
) -> Task:
    """A task that Lightning trains: each trial is a Trainer's fit of its own.

        task = nw.lightning_task(Classifier, data=Speech, monitor="val_accuracy",
                                 higher_is_better=True, trainer={"max_epochs": 5})

    model    called with nothing, returns a fresh LightningModule; its norms are swapped
    data     called with nothing, returns a fresh LightningDataModule. Its shuffling, and
             whatever else draws from torch, numpy or random, goes by the trial's seed
    monitor  what the module logs in validation and a trial is scored by: the last value,
             and those of all epochs are the learning curve
    trainer  options of lightning.Trainer; loggers, checkpoints and bars are off without
    options  of nw.Task: device, threads, where, name

    Raises
        NormError  if an option is bad; in the first trial, if nothing is logged as `monitor`.
    """
    fit = functools.partial(lightning_fit, data=data, monitor=monitor, trainer=dict(trainer or {}))
    return Task(model, run=fit, higher_is_better=higher_is_better, **options)


def lightning_fit(
    model: torch.nn.Module,
    seed: int,
    report: Report,
    *,
    data: Callable[[], Any],
    monitor: str,
    trainer: Mapping[str, Any],
) -> float:
    """Fit a LightningModule; returns the last value of `monitor`."""
    import lightning

    class Curve(lightning.Callback):  # type: ignore[misc]  # a base class without types
        score: Any = None
        is_new = False

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            # Whatever a norm has drawn, the next epoch's batches are drawn alike.
            torch.manual_seed((seed << 20) + trainer.current_epoch)

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            if monitor not in trainer.callback_metrics:
                logged = ", ".join(trainer.callback_metrics) or "nothing"
                raise TaskError(f"no {monitor!r} is logged in validation; what is: {logged}")
            self.score, self.is_new = float(trainer.callback_metrics[monitor]), True

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if self.is_new:
                report(trainer.current_epoch + 1, self.score)
            self.is_new = False

    curve = Curve()
    device = next(model.parameters()).device.type
    settings = {**_QUIET, "accelerator": device, **trainer}
    settings["callbacks"] = [*trainer.get("callbacks", []), curve]
    with _undisturbed():
        lightning.Trainer(**settings).fit(model, datamodule=data())
    if curve.score is None:
        raise TaskError(f"there was no validation, so there is no {monitor!r} to score by")
    return float(curve.score)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No hints on the terminal; and Ctrl-C stays one, where Lightning would exit on its own."""
    logger = logging.getLogger("lightning.pytorch")
    level, handler = logger.level, signal.getsignal(signal.SIGINT)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    except SystemExit as end:
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from end
    finally:
        logger.setLevel(level)
