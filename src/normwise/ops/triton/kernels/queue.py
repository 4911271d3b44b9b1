"""Who takes which part, and who waits for whom, where kernels stream.

A queue is integers in memory, 0 at first: the next part to be taken, and for each block how
many of its parts are done, one more once what they found has been merged. Parts are taken in
order by programs that run, and a program waits only for parts that were taken before its own:
however few programs a device runs at a time, the earliest part waits for nothing, so all end.
No number depends on who took what.
"""

import triton
import triton.language as tl


@triton.jit
def take(queue):
    """The next part that nobody has."""
    return tl.atomic_add(queue, 1, sem="relaxed")


@triton.jit
def is_last(queue, block, parts):
    """Whether all parts of the block are done, with this one; then what they left can be read."""
    tl.debug_barrier()  # what every thread of this program left comes before it is told
    return tl.atomic_add(queue + 1 + block, 1, sem="acq_rel") == parts - 1


@triton.jit
def announce(queue, block):
    """What the parts of the block found has been merged."""
    tl.debug_barrier()
    tl.atomic_add(queue + 1 + block, 1, sem="release")


@triton.jit
def wait(queue, block, parts):
    """Until that is announced."""
    while tl.atomic_add(queue + 1 + block, 0, sem="acquire") <= parts:
        pass
