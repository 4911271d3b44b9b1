"""Examine a model, and say what was found."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from normwise.doctor.checks import CHECKS
from normwise.doctor.examination import Examination
from normwise.doctor.findings import Findings
from normwise.errors import NormError, describe


def doctor(
    model: torch.nn.Module,
    sample: Any,
    loader: Iterable[Any] | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    steps: int | None = None,
) -> Findings:
    """What is wrong with the normalization of a model, worst first, and what cures it.

        findings = nw.doctor(model, x)
        print(findings)
        assert findings.healthy

    A copy of the model is run on the sample in evaluation and with its norms in
    training. Errors are: statistics over one element, groups that erase their input,
    channel counts that do not fit, statistics that are not finite, padding that leaks.
    Warnings: training and evaluation that part (and the first layer where they do),
    statistics never updated or stale, weights frozen while statistics move and the
    reverse, batches too small for batch norm, a norm that looks ahead in a causal
    network, a norm after dropout, weight decay on norms, a momentum that does not
    converge, channels that are dead or explode. Hints: a bias that a norm takes off,
    norms that could be folded or fused.

    sample     what the model is called with, as in `materialize`: a batch as training
               sees it
    loader     batches, for their size; the sample's size if left out
    lengths    of the series of the sample, so that padding can be probed
    optimizer  whose weight decay is looked at
    steps      how many steps training will take, or took: whether momentum converges

    Returns the findings: a tuple that prints as a report. The model is not changed.

    Raises
        NormError  if the sample is no input, or the model has no norm.
    """
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise NormError(f"steps must be a whole number above 0, received {steps!r}")
    if not isinstance(sample, Tensor | tuple | dict):
        raise NormError(
            f"sample must be a tensor, a tuple of arguments or a mapping, received "
            f"{describe(sample)}"
        )
    seen = Examination(
        model, sample, loader=loader, lengths=lengths, optimizer=optimizer, steps=steps
    )
    if not seen.patients:
        raise NormError(f"{type(model).__name__} has no normalization layer to examine")
    return Findings(finding for check in CHECKS for finding in check(seen))
