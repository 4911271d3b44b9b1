"""Triton's interpreter, where it is unlike a GPU, made like one.

It cuts bfloat16 off where a GPU rounds, and numpy, which it computes with, warns of what is not
finite.
"""

from typing import Any

import numpy as np
import torch
from triton import language as tl
from triton.runtime import interpreter

_Builder = interpreter.InterpreterBuilder
_cast = _Builder.cast_impl


def _rounding_cast(self: Any, source: Any, kind: Any) -> Any:
    if source.dtype.scalar != tl.float32 or kind.scalar != tl.bfloat16:
        return _cast(self, source, kind)
    rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
    return interpreter.TensorHandle(rounded.view(torch.uint16).numpy(), tl.bfloat16)


def as_on_a_gpu() -> None:
    """From now on, in this process."""
    _Builder.cast_impl = _rounding_cast
    np.seterr(all="ignore")
