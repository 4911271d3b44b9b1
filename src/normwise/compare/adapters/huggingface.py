"""A Trainer of Hugging Face's transformers as a task."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from normwise.compare.task import Task
from normwise.compare.task.task import Report
from normwise.errors import TaskError, describe


def trainer_task(
    model: Callable[[], torch.nn.Module],
    trainer: Callable[[torch.nn.Module, int], Any],
    metric: str,
    *,
    higher_is_better: bool,
    **options: Any,
) -> Task:
    """A task that a transformers.Trainer trains: each trial has one of its own.

        def trainer(model, seed):
            arguments = TrainingArguments("runs", seed=seed, eval_strategy="epoch", …)
            return Trainer(model, arguments, train_dataset=…, eval_dataset=…,
                           compute_metrics=…)

        task = nw.trainer_task(build, trainer, "accuracy", higher_is_better=True)

    model    called with nothing, returns a fresh model; its norms are swapped
    trainer  called with the swapped model and the seed, which its arguments must hold,
             returns the Trainer
    metric   what a trial is scored by at its end, as evaluate() calls it: "loss", or a
             name of compute_metrics. Evaluations on the way are the learning curve
    options  of nw.Task: device, threads, where, name

    Raises
        NormError  if an option is bad; in the first trial, if the Trainer has another seed,
                   another model or no such metric.
    """
    fit = functools.partial(trainer_fit, trainer=trainer, metric=metric)
    return Task(model, run=fit, higher_is_better=higher_is_better, **options)


def trainer_fit(
    model: torch.nn.Module,
    seed: int,
    report: Report,
    *,
    trainer: Callable[[torch.nn.Module, int], Any],
    metric: str,
) -> float:
    """Train a model with the Trainer made for it; returns the metric at the end."""
    import transformers

    class Curve(transformers.TrainerCallback):  # type: ignore[misc]  # a base class without types
        def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            by_epoch = args.eval_strategy == "epoch"
            report(round(state.epoch) if by_epoch else state.global_step, score(others["metrics"]))

    def score(metrics: dict[str, float]) -> float:
        if f"eval_{metric}" not in metrics:
            names = ", ".join(name.removeprefix("eval_") for name in metrics)
            raise TaskError(f"the Trainer evaluates no {metric!r}; what it does: {names}")
        return metrics[f"eval_{metric}"]

    made = trainer(model, seed)
    if not isinstance(made, transformers.Trainer) or made.model is not model:
        raise TaskError(
            "trainer(model, seed) must return a transformers.Trainer over the model it is given; "
            f"it returned {describe(made)}"
        )
    if made.args.seed != seed:
        raise TaskError(
            f"the Trainer has seed {made.args.seed} in the trial of seed {seed}; write "
            "TrainingArguments(…, seed=seed)"
        )
    for printing in (transformers.PrinterCallback, transformers.ProgressCallback):
        made.remove_callback(printing)
    curve = Curve()
    made.add_callback(curve)
    made.train()
    made.remove_callback(curve)  # the score ends a trial and is no point of its curve
    return score(made.evaluate())
