"""How far a result may lie from the formula evaluated in float64: one table for all tests."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Relative L2 errors: |result - truth| / |truth|, over a whole tensor."""

    forward: float
    backward: float


# The unit roundoff u is half the distance from 1 to the next number. A result that is computed
# wide and rounded once is off by at most u, and by u / sqrt(3) where errors are spread evenly.
TOLERANCES = {
    # u = 1.1e-16: the oracle's own sums are correctly rounded, ours lose a few digits to 1 / sqrt
    torch.float64: Tolerance(forward=1e-13, backward=1e-11),
    # u = 6.0e-8: about ten roundings from x to y; the backward has twice as many
    torch.float32: Tolerance(forward=1e-6, backward=4e-6),
    # u = 4.9e-4: computed in float32, rounded once
    torch.float16: Tolerance(forward=5e-4, backward=1e-3),
    # u = 3.9e-3: computed in float32, rounded once
    torch.bfloat16: Tolerance(forward=4e-3, backward=8e-3),
}


def error(result: Tensor, truth: Tensor) -> float:
    """The relative L2 error; absolute where the truth is 0 everywhere."""
    assert result.shape == truth.shape
    result, truth = result.detach().double(), truth.detach().double()
    difference, size = (float(torch.linalg.vector_norm(t)) for t in (result - truth, truth))
    return difference / size if size else difference


def assert_close(result: Tensor, truth: Tensor, *, backward: bool = False) -> None:
    """The result lies as close to the truth as its dtype lets it."""
    tolerance = TOLERANCES[result.dtype]
    assert error(result, truth) <= (tolerance.backward if backward else tolerance.forward)
