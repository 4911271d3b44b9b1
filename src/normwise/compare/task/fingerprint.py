"""What tells one task from another: digests of data, and of code with all it was given."""

import functools
import hashlib
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from normwise.compare.randomness import own_randomness
from normwise.compare.task.batches import Batches

SAMPLED = 16  # items of a Dataset that are looked at
_DEPTH = 3  # of objects within objects
_AT_ONCE = 1024  # samples of an array that are copied at a time; views may be larger than memory


def digest(*parts: str | Iterator[bytes]) -> str:
    """A short name for any amount of text and bytes."""
    every = hashlib.sha256()
    for part in parts:
        for piece in [part.encode()] if isinstance(part, str) else part:
            every.update(piece)
    return every.hexdigest()[:16]


def bytes_of(tensor: Tensor) -> Iterator[bytes]:
    """A tensor's shape, type and values."""
    yield f"{tuple(tensor.shape)}{tensor.dtype}".encode()
    tensor = tensor.detach()
    for part in torch.split(tensor, _AT_ONCE) if tensor.dim() else [tensor]:
        yield part.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def of_data(data: Batches) -> str:
    """Tells data apart: by every value of arrays, by a sample of a Dataset's items."""
    if data.arrays is not None:
        return digest(*map(bytes_of, data.arrays))
    source = data.source.dataset if isinstance(data.source, DataLoader) else data.source
    try:
        size = str(len(data.source))
    except TypeError:  # a loader of what can only be iterated over
        return f"{type(data.source).__name__} of unknown size"
    return ", ".join([f"{type(data.source).__name__} of {size}", *_sampled(source)])


def _sampled(dataset: Any) -> list[str]:
    """A digest of some items; none where they are other ones each time, or cannot be had."""
    once, again = (_digest_of_some(dataset) for _ in range(2))
    return [once] if once is not None and once == again else []


def _digest_of_some(dataset: Any) -> str | None:
    try:
        with own_randomness(0):
            places = np.linspace(0, len(dataset) - 1, min(SAMPLED, len(dataset))).round()
            leaves = [leaf for place in places for leaf in tree_leaves(dataset[int(place)])]
    except Exception:  # whatever it is, the first trial will say so
        return None
    return digest(*(text for leaf in leaves for text in _of_object(leaf, 0)))


def of_code(*parts: Any) -> str:
    """Tells functions, classes and objects apart: by source, and by what they hold."""
    return digest(*(text for part in parts for text in _of_object(part, 0)))


def _of_object(part: Any, depth: int) -> Iterator[str]:
    """The texts that describe an object the same way in every process."""
    if part is None or isinstance(part, (bool, int, float, str, bytes, torch.dtype, torch.device)):
        yield repr(part)
    elif isinstance(part, (Tensor, np.ndarray, np.generic)):
        yield digest(bytes_of(torch.as_tensor(part)))
    elif isinstance(part, functools.partial):
        yield from _of_object((part.func, part.args, part.keywords), depth)
    elif isinstance(part, Mapping):
        for key in sorted(part, key=repr):
            yield repr(key)
            yield from _of_object(part[key], depth)
    elif isinstance(part, (list, tuple)):
        for each in part:
            yield from _of_object(each, depth)
    elif inspect.isroutine(part) or inspect.isclass(part):
        yield _source(part)
        if depth < _DEPTH:
            yield from _of_object(_enclosed_by(part), depth + 1)
    else:
        yield _source(type(part))
        if depth < _DEPTH:
            yield from _of_object(_held_by(part), depth + 1)


def _enclosed_by(function: Any) -> list[Any]:
    """What a function found around it when it was made; a method, the object it is of."""
    owner = [function.__self__] if inspect.ismethod(function) else []
    cells = getattr(function, "__closure__", None) or ()
    return owner + [cell.cell_contents for cell in cells if cell != types.CellType()]


def _held_by(part: Any) -> dict[str, Any]:
    held = dict(getattr(part, "__dict__", {}))
    if isinstance(part, torch.nn.Module):
        held |= part.state_dict()
    return {name: value for name, value in held.items() if not name.startswith("_")}


def _source(part: Any) -> str:
    try:
        return inspect.getsource(part)
    except (OSError, TypeError):
        return getattr(part, "__qualname__", type(part).__qualname__)
