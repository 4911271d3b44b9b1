import os

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # before anything imports Triton, which then interprets
    os.environ.setdefault("TRITON_INTERPRET", "1")

from normwise.compare import cost

if os.environ.get("NORMWISE_KERNELS") == "triton":
    import interpreted

    interpreted.as_on_a_gpu()

if "PYTEST_XDIST_WORKER" in os.environ:  # there is a process for every core
    torch.set_num_threads(1)

# A shared machine stalls now and then, so no example has a deadline. Examples are the same
# in every run; `pytest --hypothesis-profile=explore` draws new ones, and more of them.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def nothing_compiled():
    """torch.compile gives up on a function that was compiled too often: each test starts anew."""
    torch.compiler.reset()


@pytest.fixture
def brief_timing(monkeypatch):
    """What candidates cost is timed too briefly to mean anything: the tests need not wait."""
    monkeypatch.setattr(cost, "ROUNDS", 1)
    monkeypatch.setattr(cost, "ROUND_S", 0)
