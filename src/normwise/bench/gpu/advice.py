"""What the thresholds should be, which are guesses until a GPU was there: measured, and said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from normwise.bench.cases import Case
from normwise.bench.gpu.checks import compiled_from, kernels, launched
from normwise.bench.gpu.device import Processor
from normwise.bench.gpu.goals import BACKWARD, FORWARD, Programme, Row
from normwise.bench.gpu.timing import backwards, drawn, forwards, kernel_ms, wall_ms
from normwise.ops import dispatch

# name in the code → who is chosen from that many elements on, and who below
CHOICES: dict[str, tuple[Any, Any]] = {
    "SMALL_ON_GPU": ("triton", "torch"),
    "COMPILED_ON_GPU": ("operator", "formula"),
}


@dataclass(frozen=True)
class Question:
    """What one measurement is to tell of a threshold."""

    threshold: str
    case: Case
    ask: Callable[[Case, Processor], Row]

    def __str__(self) -> str:
        return f"{self.threshold}, {self.case.kind} {self.case.sizes}"

    def answer(self, device: Processor) -> Row:
        """The figures."""
        row = {"threshold": self.threshold, "kind": self.case.kind, "shape": self.case.shape}
        return {**row, "elements": prod(self.case.shape), **self.ask(self.case, device)}


def questions(programme: Programme, *, eager: bool) -> list[Question]:
    """All that a programme has; if `eager`, without torch.compile."""
    asked: list[tuple[str, Sequence[str], Sequence[tuple[int, ...]], Any]] = [
        ("SMALL_ON_GPU", ("instance", "trailing layer"), programme.small, small),
        ("STREAMED", ("instance",), programme.long, streamed),
        ("COMPILED_ON_GPU", ("instance", "layer"), () if eager else programme.joined, compiled),
    ]
    return [
        Question(threshold, Case(kind, False, shape), ask)
        for threshold, kinds, shapes, ask in asked
        for kind in kinds
        for shape in shapes
    ]


def small(case: Case, device: Processor) -> Row:
    """Wall times of a small forward call, by our kernels and torch's."""
    x, row = drawn(case, device).detach(), {}
    for kernel in CHOICES["SMALL_ON_GPU"]:
        with kernels(kernel):
            layer = case.layers()[0].to(device.kind)  # one that remembers no other kernel
            row[kernel] = wall_ms(device, forwards(layer, [x]))
    return row


def compiled(case: Case, device: Processor) -> Row:
    """The same under torch.compile, between activations that it joins with a formula."""
    x, row = drawn(case, device).detach(), {}
    for way, least in (("operator", 0), ("formula", 1 << 62)):
        layer = torch.nn.Sequential(torch.nn.GELU(), case.layers()[0], torch.nn.GELU())
        with kernels("triton"), compiled_from(least):
            call = torch.compile(layer.to(device.kind), dynamic=False)
            row[way] = wall_ms(device, forwards(call, [x]))
    return row


def streamed(case: Case, device: Processor) -> Row:
    """Kernel times of rows longer than a program holds, streamed and by launches apart."""
    layer, inputs = case.layers()[0].to(device.kind), [drawn(case, device) for _ in range(2)]
    row: Row = {"row_bytes": 4 * case.shape[-1]}
    for name, share in (("streamed", 1e9), ("apart", 0.0)):
        with kernels("triton"), launched(STREAMED=share):
            for way, calls in ((FORWARD, forwards), (BACKWARD, backwards)):
                row[f"{way} {name}"] = kernel_ms(device, calls(layer, inputs))
    return row


def advised(rows: list[Row]) -> list[str]:
    """What the figures say of each threshold, in words."""
    words = []
    for name, (above, below) in CHOICES.items():
        for kind in dict.fromkeys(row["kind"] for row in rows if row["threshold"] == name):
            meant = [r for r in rows if r["threshold"] == name and r["kind"] == kind]
            meant.sort(key=lambda row: -int(row["elements"]))
            loses = next((i for i, row in enumerate(meant) if row[above] > row[below]), len(meant))
            now, least = getattr(dispatch, name), "at none of the sizes"
            if loses:
                least = f"from {meant[loses - 1]['elements']} elements on"
            words.append(f"{name} is {now}; {kind}: {above} beats {below} {least}")
    for way in (FORWARD, BACKWARD):
        gains = [
            f"{row['row_bytes'] / 1e6:.0f} MB {row[f'{way} apart'] / row[f'{way} streamed']:.2f}"
            for row in rows
            if row["threshold"] == "STREAMED"
        ]
        if gains:
            words.append(f"STREAMED, {way}: apart over streamed, for rows of {', '.join(gains)}")
    return words
