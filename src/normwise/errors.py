"""The one family of errors that normwise raises."""

from typing import Any


class NormError(ValueError):
    """Something was asked of normwise that it cannot do.

    The text says what was asked, what arrived, and what to write instead.
    Whatever was handed in is as it was before the call.
    """


def describe(x: Any) -> str:
    """A tensor as an error shows it: (8, 64, 100) float32 on cpu; else its type and value."""
    if all(hasattr(x, name) for name in ("shape", "dtype", "device")):
        return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"
    return f"{type(x).__name__} {x!r}"[:80]
