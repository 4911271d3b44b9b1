"""The one family of errors that normwise raises."""

from typing import Any


class NormError(ValueError):
    """Something was asked of normwise that it cannot do.

    The text says what was asked, what arrived, and what to write instead.
    Whatever was handed in is as it was before the call.
    """


class TaskError(NormError):
    """A task is at fault itself, whichever candidate is tried on it: no trial can go on."""


def describe(x: Any) -> str:
    """A tensor as an error shows it: (8, 64, 100) float32 on cpu; else its type and value.

    One line, of 80 characters at most.
    """
    if all(hasattr(x, name) for name in ("shape", "dtype", "device")):
        return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"
    return " ".join(f"{type(x).__name__} {x!r}".split())[:80]


def one_line(error: BaseException) -> str:
    """An exception of any kind in one line: its type, and the first line of what it says."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    said = text.strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
