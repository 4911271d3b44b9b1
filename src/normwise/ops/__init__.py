"""One normalization, by the fastest kernel that computes it right.

A row of the table and a tensor become five sizes and their strides (`form`); `choice` says which
kernel runs and why: the CPU kernels of csrc/ (`native`, with `gradients`, and as operators of
torch in `library`), what torch itself has (`stock`), or the formula. `dispatch` is what layers
and functions call.
"""

from normwise.ops.dispatch import Call, normalize, remember, watch
from normwise.ops.plan import Stored

__all__ = ["Call", "Stored", "normalize", "remember", "watch"]
