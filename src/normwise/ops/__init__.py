"""One normalization, by the fastest kernel that computes it right.

A row of the table and a tensor become five sizes and their strides (`form`). Tensors travel
as one, as `operands`, and a `plan`, made once for each kind of x, runs them. `choice` says which
kernel that is and why: the CPU kernels of csrc/ (`native`, with `gradients`, and as operators of
torch in `library`), what torch itself has (`stock`), or the formula. `dispatch` is what layers
and functions call, and `together` where processes share their statistics.
"""

from normwise.ops.again import Recurring, Tensors, again, forget, known_of
from normwise.ops.dispatch import normalize, remember
from normwise.ops.plan import Stored
from normwise.ops.together import normalize_together
from normwise.ops.watching import Call, watch

__all__ = [
    "Call",
    "Recurring",
    "Stored",
    "Tensors",
    "again",
    "forget",
    "known_of",
    "normalize",
    "normalize_together",
    "remember",
    "watch",
]
