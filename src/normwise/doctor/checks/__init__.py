"""The checks: each reads an examination and says what it finds, or nothing."""

from collections.abc import Callable, Iterator

from normwise.doctor.checks.inputs import (
    erased_groups,
    one_element,
    refused,
    small_batch,
    wrong_channels,
)
from normwise.doctor.checks.network import (
    could_be_faster,
    dead_or_exploding,
    not_causal,
    padding_leaks,
    useless_bias,
    weight_decay,
)
from normwise.doctor.checks.statistics import (
    after_dropout,
    bad_statistics,
    half_frozen,
    never_updated,
    slow_momentum,
    train_eval_gap,
)
from normwise.doctor.examination import Examination
from normwise.doctor.findings import Finding

Check = Callable[[Examination], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    one_element,
    erased_groups,
    wrong_channels,
    bad_statistics,
    padding_leaks,
    refused,
    train_eval_gap,
    never_updated,
    half_frozen,
    small_batch,
    not_causal,
    after_dropout,
    weight_decay,
    slow_momentum,
    dead_or_exploding,
    useless_bias,
    could_be_faster,
)
