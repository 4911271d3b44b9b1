"""Which options of a task can be valid, and together."""

from typing import Any, Literal, get_args

import torch

from normwise.errors import NormError

Precision = Literal["float32", "bfloat16", "float16"]
Decay = Literal["constant", "cosine", "linear"]

_LEAST = {  # of the whole numbers
    "batch_size": 1,
    "length": 1,
    "folds": 2,
    "epochs": 1,
    "warmup": 1,
    "accumulate": 1,
    "patience": 1,
    "threads": 1,
}


def check(options: dict[str, Any]) -> None:
    """What can never be valid is refused before anything is made of it."""
    model, run, schedule = options["model"], options["run"], options["schedule"]
    if isinstance(model, torch.nn.Module) or not callable(model):
        raise NormError(
            "model must be a function that builds a fresh module, since every trial starts "
            f"from new weights; received {type(model).__name__}: write model=lambda: Net(...)"
        )
    for option, least in _LEAST.items():
        number = options[option]
        if number is not None and (not isinstance(number, int) or number < least):
            raise NormError(
                f"{option} must be a whole number above {least - 1}, received {number!r}"
            )
    for option in ("learning_rate", "max_grad_norm"):
        number = options[option]
        if number is not None and (not isinstance(number, (int, float)) or not number > 0):
            raise NormError(f"{option} must be a number above 0, received {number!r}")
    if not callable(schedule) and schedule not in get_args(Decay):
        raise NormError(
            f"schedule={schedule!r} is not known; write 'constant', 'cosine' or 'linear', or give "
            "a function of the optimizer"
        )
    if callable(schedule) and options["warmup"] is not None:
        raise NormError("warmup= goes with a schedule by name; a function does its own")
    if options["precision"] not in get_args(Precision):
        raise NormError(
            f"precision={options['precision']!r} is not known; write 'float32', 'bfloat16' or "
            "'float16'"
        )
    train, valid, folds = options["train"], options["valid"], options["folds"]
    if run is not None and (train is not None or valid is not None):
        raise NormError("give either run=, your own loop, or train= and valid=; not both")
    if run is None and (train is None or (valid is None and folds is None)):
        raise NormError("a task needs train= and valid= data, or run=, your own loop")
    if folds is None and not isinstance(valid, float):
        for option in ("split", "groups"):
            if options[option] is not None:
                raise NormError(
                    f"{option}= says how train is parted; give folds=, or the share to hold out "
                    "as valid=0.2"
                )
    elif folds is not None and valid is not None and not isinstance(valid, float):
        raise NormError("folds= part train, so leave out valid=")
