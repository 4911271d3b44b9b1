"""A block of code with random numbers of its own."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed every generator that a training may draw from, and put the caller's back after."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    with (
        torch.random.fork_rng() if torch.cuda.is_available() else torch.random.fork_rng(devices=[])
    ):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
