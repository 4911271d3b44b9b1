"""The GPU kernels, in Triton: a tile of statistics by rows by neighbours, and what is done to it.

x is read as x[o][a][k][p][q], see ops/form.py. A program holds a tile [S, R, Q] on chip: S
statistics (o, k), R rows (a, p) and Q neighbours q; S statistics are a block. One tile may hold
all that a statistic averages over; if not, several parts do, and what they find is merged.

    tiles          where a tile lies in memory, and how it is read
    formulas       what is computed of what a tile holds
    queue          who takes which part, and who waits for whom, where kernels stream
    forward_pass   forward   measures the tile and normalizes it: one pass over memory
                   measure   the moments of each part
                   merge     the moments of a statistic, from those of its parts
                   apply     normalizes by moments from memory
                   stream    all three, each part normalized while the cache still has it
    backward_pass  backward  the gradients, with sums over the tile; or the sums alone; or with
                             sums from memory
                   stream_backward  the sums and the gradients, while the cache still has both
    running        remember  running statistics

Distances come in units of VECTOR elements, so that the compiler sees which addresses are
aligned: a thread then reads 16 bytes at a time, whatever the sizes are.
"""

import triton
import triton.language as tl

from normwise.ops.triton.kernels.backward_pass import backward, stream_backward
from normwise.ops.triton.kernels.forward_pass import apply, forward, measure, merge, stream
from normwise.ops.triton.kernels.running import remember

__all__ = [
    "apply",
    "backward",
    "forward",
    "measure",
    "merge",
    "probe",
    "remember",
    "stream",
    "stream_backward",
]


@triton.jit
def probe(to):
    """Whether a kernel can be compiled and launched at all."""
    tl.store(to, 1.0)
