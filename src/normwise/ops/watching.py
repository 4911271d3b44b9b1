"""Who wants to know which kernels run: `nw.explain`, the benchmark, and the tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from normwise.ops.choice import Kernel


@dataclass(frozen=True)
class Call:
    """A call of `normalize` as it went: what ran, why, and how it walked through memory."""

    kernel: Kernel
    reason: str


watchers: list[list[Call]] = []


@contextmanager
def watch() -> Iterator[list[Call]]:
    """The calls of `normalize` inside the block, in their order."""
    calls: list[Call] = []
    watchers.append(calls)
    try:
        yield calls
    finally:
        watchers.remove(calls)
