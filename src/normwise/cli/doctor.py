"""normwise doctor: what is wrong with the norms of a model."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normwise.compare.task import load_module
from normwise.errors import NormError

if TYPE_CHECKING:
    import torch


def add(commands: Any) -> None:
    """The command and its options."""
    doctor = commands.add_parser(
        "doctor",
        help="say what is wrong with the norms of a model",
        description="Run a model on a sample and say what is wrong with its norms, worst first, "
        "with the calls that cure it. Exit code 1 if something is.",
    )
    doctor.add_argument(
        "model",
        metavar="FILE.py:NAME",
        help="a module, or a function of nothing that returns one",
    )
    doctor.add_argument(
        "--sample",
        required=True,
        metavar="N,C,T|FILE",
        help="shape of a random batch, or a .npy or .pt file with one",
    )
    doctor.add_argument(
        "--lengths",
        type=_numbers,
        metavar="A,B,…",
        help="of the padded series, one for each of the batch",
    )
    doctor.add_argument(
        "--steps",
        type=int,
        metavar="K",
        help="how many steps the training takes: do statistics settle?",
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(call=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from normwise.doctor import doctor

    model = _model(options.model)
    findings = doctor(model, _sample(options.sample), lengths=options.lengths, steps=options.steps)
    print(json.dumps(findings.rows(), indent=2) if options.json else findings)
    return 0 if findings.healthy else 1


def _model(spec: str) -> "torch.nn.Module":
    """The module that FILE.py:NAME means, built if it is a function."""
    import torch

    file, _, name = spec.rpartition(":")
    if not file:
        raise NormError(f"model {spec!r} needs a name in it: write {spec}:build")
    found = getattr(load_module(Path(file)), name, None)
    if not isinstance(found, torch.nn.Module) and callable(found):
        found = found()
    if not isinstance(found, torch.nn.Module):
        raise NormError(f"{file} has no {name} that is a module or a function that returns one")
    return found


def _sample(text: str) -> "torch.Tensor":
    """A batch from a file, or random numbers of a shape; the same in every run."""
    import numpy
    import torch

    path = Path(text)
    if path.suffix == ".npy" and path.is_file():
        return torch.from_numpy(numpy.load(path))
    if path.suffix in (".pt", ".pth") and path.is_file():
        loaded = torch.load(path)
        if not isinstance(loaded, torch.Tensor):
            raise NormError(f"{path} holds a {type(loaded).__name__}, and a tensor is wanted")
        return loaded
    try:
        shape = _numbers(text)
    except ValueError:
        raise NormError(
            f"--sample {text!r} is neither a shape, as 8,12,100, nor a .npy or .pt file"
        ) from None
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
