"""Run a function in several processes that can talk to each other, for a bounded time."""

import time
from datetime import timedelta

import torch
from torch import distributed, multiprocessing

from command import PATIENCE_S


def together(work, processes, folder):
    """What work(rank, processes) returned in each process, by rank."""
    running = multiprocessing.spawn(_work, (work, processes, folder), processes, join=False)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not running.join(timeout=1):
            assert time.monotonic() < deadline, "the processes wait for each other"
    finally:
        for process in running.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def _work(rank, work, processes, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=PATIENCE_S),
    )
    torch.save(work(rank, processes), folder / f"{rank}.pt")
    distributed.destroy_process_group()
