"""What the benchmark runs on, and all that it asks of it: a GPU, or a processor, to rehearse."""

import faulthandler
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor

from normwise.machine import free_memory, processor

HANGS_S = 120  # as long as kernels that wait for each other may go on
_CYCLES = 2e6  # of a GPU for a millisecond, at 2 GHz


class Processor:
    """The processor of this machine: what is called has ended when it returns.

    kind      as torch names it
    graph     what `captured` hands back
    repeats   how often a check repeats a step, where programs may come in another order
    rounding  how much larger errors may be in bfloat16: Triton's interpreter cuts off
    """

    kind = "cpu"
    graph = "called again"
    repeats = 1
    rounding = 2.0

    def __init__(self) -> None:
        self.name = f"CPU {processor()}"

    def cache_bytes(self) -> int:
        """Of the largest cache; of a processor, a guess."""
        return 32 << 20

    def free_bytes(self) -> int:
        """Memory that can be had."""
        return free_memory(torch.device(self.kind)) or 1 << 30

    def wait(self) -> None:
        """Until everything that was called has ended."""

    def span_ms(self, work: Callable[[], object], ahead_ms: float) -> float:
        """Milliseconds that work takes, which may be queued for `ahead_ms` before it starts."""
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """How much more memory a call takes at its peak than was taken before; None if not told."""
        return None

    def tidy(self) -> None:
        """Hand back memory that is free."""

    def captured(
        self, step: Callable[[], list[Tensor]]
    ) -> tuple[list[Tensor], Callable[[], object]]:
        """What a step finds, and what finds it anew, in the same tensors."""
        found = step()
        return found, lambda: [old.copy_(new) for old, new in zip(found, step(), strict=True)]

    def watched(self) -> AbstractContextManager[object]:
        """A block that must not hang."""
        return nullcontext()


class Gpu(Processor):
    """The GPU that torch has at hand."""

    kind = "cuda"
    graph = "CUDA graph"
    repeats = 10
    rounding = 1.0

    def __init__(self) -> None:
        self.name = torch.cuda.get_device_name()

    def cache_bytes(self) -> int:
        return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size

    def wait(self) -> None:
        torch.cuda.synchronize()

    def span_ms(self, work: Callable[[], object], ahead_ms: float) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(_CYCLES * ahead_ms))
        start.record()
        work()
        end.record()
        self.wait()
        return float(start.elapsed_time(end))

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before

    def tidy(self) -> None:
        torch.cuda.empty_cache()

    def captured(
        self, step: Callable[[], list[Tensor]]
    ) -> tuple[list[Tensor], Callable[[], object]]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        return found, graph.replay

    def watched(self) -> AbstractContextManager[object]:
        faulthandler.dump_traceback_later(HANGS_S, exit=True)
        block = ExitStack()
        block.callback(faulthandler.cancel_dump_traceback_later)
        return block
