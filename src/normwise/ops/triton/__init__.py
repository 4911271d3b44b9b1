"""The GPU kernels, in Triton, which is imported when the first of them is asked for.

`launch` decides how, `plan` what is launched, `kernels` is what runs.
"""

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from normwise.axes import Fitted
from normwise.ops.plan import Stored
from normwise.running import Remembered, Running

if TYPE_CHECKING:
    from normwise.ops.triton.plan import TritonPlan


@cache
def there() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


@cache
def hindrance() -> str | None:
    """Why no kernel runs on this machine's GPU, in words; None if they do."""
    if not there():
        return "Triton is not installed"
    from normwise.ops.triton.plan import failure

    return failure()


@cache
def interprets() -> bool:
    """Whether kernels are interpreted, on any machine: TRITON_INTERPRET is 1."""
    if not there():
        return False
    from normwise.ops.triton.plan import INTERPRETED

    return INTERPRETED


@cache
def plans() -> "type[TritonPlan]":
    """The class of plans for these kernels."""
    from normwise.ops.triton.plan import TritonPlan

    return TritonPlan


def remember(policy: Running, remembered: Remembered, stored: Stored, fitted: Fitted) -> bool:
    """`policy.update` by one launch; False where it cannot be done so."""
    if not there():
        return False
    from normwise.ops.triton.plan import remember

    return remember(policy, remembered, stored, fitted)
