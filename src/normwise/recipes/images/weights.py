"""Trained weights from files of other frameworks, by name."""

import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normwise.errors import NormError

# What torch.load, and reading from what it returned, raise for a file that is another, or cut off.
UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError,
    TypeError, IndexError, struct.error,
)  # fmt: skip


def read_torch(path: Path, wanted: str) -> Any:
    """What torch.save wrote, tensors and plain containers only.

    wanted  ends the sentence where the file is another

    Raises
        NormError  if it is not there, or no such file.
    """
    if not path.is_file():
        raise NormError(f"there is no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols that others pickle by
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise NormError(
            f"{path} is no state dict of torch that can be read, or not whole; {wanted}"
        ) from error


def read_onnx(path: Path, wanted: str) -> dict[str, Tensor]:
    """The initializers of an ONNX file by name, in float32.

    Raises
        NormError  if it is no ONNX file, or onnx is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise NormError(
            f'{path} is read by onnx, which is not installed: pip install "normwise[recipes]"'
        ) from None
    try:
        graph = onnx.load(str(path)).graph
        arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    except Exception as error:  # protobuf's and onnx' have no common family
        raise NormError(f"{path} is no ONNX file that can be read; {wanted}") from error
    return {
        name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in arrays.items()
    }
