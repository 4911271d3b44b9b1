import random

import numpy as np
import pytest
import torch


@pytest.fixture
def generators():
    """Reads the state of everything the caller may draw from; `before` is how it was."""

    def read():
        _, keys, *rest = np.random.get_state()
        return random.getstate(), keys.tolist(), rest, torch.get_rng_state().tolist()

    read.before = read()
    return read
