"""Give every lazy layer of a model its size, and change nothing else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from normwise.errors import NormError
from normwise.layers.lazy import Lazy

Model = TypeVar("Model", bound=torch.nn.Module)


def materialize(model: Model, sample: Any) -> Model:
    """Run a sample through the model once, so that its lazy layers learn their sizes.

        model = nw.materialize(model, x)                    as in model(x)
        model = nw.materialize(model, (x, lengths))         as in model(x, lengths)
        model = nw.materialize(model, {"x": x, "mask": m})  as in model(x=x, mask=m)

    Lazy layers are ours and torch's. The model runs as in evaluation and without
    gradients, so one series is enough. Training mode, buffers and the state of the
    random generators are afterwards what they were; so are they if the model
    fails, but layers that it had reached keep what they learned.

    Returns the model that was given.

    Raises
        NormError  if the sample did not reach every lazy layer.
    """
    with unchanged(model), torch.no_grad():
        call(model, sample)
    waiting = [name or "(the model)" for name, m in model.named_modules() if _is_waiting(m)]
    if waiting:
        raise NormError(
            f"the sample did not reach {', '.join(waiting)}; if training alone goes there, run "
            "one batch in training, or give these layers their sizes"
        )
    return model


def call(model: torch.nn.Module, sample: Any) -> Any:
    """The model's output for a sample: a tensor, a tuple of arguments, or a mapping of them."""
    if isinstance(sample, Mapping):
        return model(**sample)
    return model(*sample) if isinstance(sample, tuple) else model(sample)


@contextmanager
def unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; what a forward can change is put back afterwards."""
    # Attributes, not .eval(): modules may do more than that in a .train() of their own.
    training = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices):
            for module, _ in training:
                module.training = False
            yield
    finally:
        for module, mode in training:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _is_waiting(module: torch.nn.Module) -> bool:
    if isinstance(module, Lazy):
        return not module.is_sized
    if not isinstance(module, LazyModuleMixin):
        return False
    uninitialized: bool = module.has_uninitialized_params()
    return uninitialized
