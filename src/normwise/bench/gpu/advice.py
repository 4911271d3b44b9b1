"""What the thresholds should be, which are guesses until a GPU was there: measured, and said."""

import itertools
from collections.abc import Callable
from typing import Any

import torch

from normwise.bench.cases import Case
from normwise.bench.gpu.checks import compiled_from, kernels, launched
from normwise.bench.gpu.goals import BACKWARD, FORWARD, Row
from normwise.bench.gpu.timing import backwards, drawn, forwards, kernel_ms, wall_ms
from normwise.ops import dispatch

# name in the code → who is chosen from that many elements on, and who below
CHOICES: dict[str, tuple[Any, Any]] = {
    "SMALL_ON_GPU": ("triton", "torch"),
    "COMPILED_ON_GPU": ("operator", "formula"),
}


def small() -> list[Row]:
    """Wall times of small forward calls, by our kernels and torch's."""
    rows = []
    for kind, power in itertools.product(("instance", "trailing layer"), range(10, 23, 2)):
        case = Case(kind, False, (8, 32, 2 ** (power - 8)))
        layer, x = case.layers()[0].cuda(), drawn(case).detach()
        row: Row = {"threshold": "SMALL_ON_GPU", "kind": kind, "elements": 2**power}
        for kernel in CHOICES["SMALL_ON_GPU"]:
            with kernels(kernel):
                row[kernel] = wall_ms(forwards(layer, [x]))
        rows.append(row)
    return rows


def compiled(enough: Callable[[], bool]) -> list[Row]:
    """The same under torch.compile, between activations that it joins with a formula."""
    rows = []
    for kind, power in itertools.product(("instance", "layer"), (16, 20, 23)):
        if not enough():
            break
        case = Case(kind, False, (8, 32, 2 ** (power - 8)))
        x = drawn(case).detach()
        row: Row = {"threshold": "COMPILED_ON_GPU", "kind": kind, "elements": 2**power}
        for way, least in (("operator", 0), ("formula", 1 << 62)):
            layer = torch.nn.Sequential(torch.nn.GELU(), case.layers()[0], torch.nn.GELU()).cuda()
            with compiled_from(least):
                row[way] = wall_ms(forwards(torch.compile(layer, dynamic=False), [x]))
        rows.append(row)
    return rows


def streamed() -> list[Row]:
    """Kernel times of rows longer than a program holds, streamed and by launches apart."""
    rows = []
    for size, way in itertools.product((2**19, 2**20, 2**21, 2**22, 2**23), (FORWARD, BACKWARD)):
        case = Case("instance", False, (2, max(4, 2**23 // size), size))
        layer, inputs = case.layers()[0].cuda(), [drawn(case) for _ in range(2)]
        row: Row = {"threshold": "STREAMED", "pass": way, "row_bytes": 4 * size}
        for name, share in (("streamed", 1e9), ("apart", 0.0)):
            with kernels("triton"), launched(STREAMED=share):
                calls = (forwards if way == FORWARD else backwards)(layer, inputs)
                row[name] = kernel_ms(calls)
        rows.append(row)
    return rows


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
        meant = [r for r in rows if r["threshold"] == "STREAMED" and r["pass"] == way]
        gains = [f"{r['row_bytes'] / 1e6:.0f} MB {r['apart'] / r['streamed']:.2f}" for r in meant]
        if gains:
            words.append(f"STREAMED, {way}: apart over streamed, for rows of {', '.join(gains)}")
    return words
