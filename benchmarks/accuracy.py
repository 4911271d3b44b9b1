"""How far the layers are from their formula, beside torch.nn, as an offset grows.

    python benchmarks/accuracy.py

The figure is the relative L2 error against the formula in float64, for input whose
mean is 0 to 1e6 standard deviations: float32 in two layouts, bfloat16, and float32
with a GELU that is part of the norm. Nothing here depends on time.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import normwise as nw
from normwise.machine import stamp

RESULTS = Path(__file__).parent / "results" / "accuracy.json"

OFFSETS = (0.0, 1e2, 1e4, 1e6)
SHAPE = (4, 32, 16, 16)
Make = Callable[..., nn.Module]
LAYERS: dict[str, tuple[Make, Make]] = {
    "batch": (lambda **kw: nw.BatchNorm2d(32, **kw), lambda: nn.BatchNorm2d(32)),
    "instance": (lambda **kw: nw.InstanceNorm2d(32, **kw), lambda: nn.InstanceNorm2d(32)),
    "group:4": (lambda **kw: nw.GroupNorm2d(4, 32, **kw), lambda: nn.GroupNorm(4, 32)),
    "layer": (lambda **kw: nw.LayerNorm(16, **kw), lambda: nn.LayerNorm(16)),
    "rms": (lambda **kw: nw.RMSNorm(16, eps=1e-5, **kw), lambda: nn.RMSNorm(16, eps=1e-5)),
}


@dataclass(frozen=True)
class Way:
    """How x is stored, and what follows the norm."""

    name: str
    offsets: tuple[float, ...] = OFFSETS
    memory: torch.memory_format = torch.contiguous_format
    dtype: torch.dtype = torch.float32
    gelu: bool = False


WAYS = (
    Way("contiguous"),
    Way("channels last", memory=torch.channels_last),
    Way("with GELU", gelu=True),
    # Its 8 bits hold nothing of a signal whose mean is 1e4 standard deviations.
    Way("bfloat16", offsets=(0.0, 1e2), dtype=torch.bfloat16),
)


def result(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Output and input gradient, in float64."""
    x = x.detach().requires_grad_()
    y = layer(x)
    (dx,) = torch.autograd.grad(y, x, gradient.to(y.dtype))
    return y.detach().double(), dx.double()


def error(found: Tensor, truth: Tensor) -> float:
    """Relative L2 error."""
    return float((found - truth).norm() / truth.norm())


def main() -> None:
    torch.manual_seed(0)
    signal, gradient = torch.randn(SHAPE), torch.randn(SHAPE)
    table = Table("layer", "x", "mean/std", title="relative L2 error against float64")
    for column in ("forward", "torch's", "gradient", "torch's"):
        table.add_column(column, justify="right")
    rows = []
    for (name, (ours, theirs)), way in product(LAYERS.items(), WAYS):
        for offset in way.offsets:
            x = (signal + offset).to(memory_format=way.memory, dtype=way.dtype)
            layer = ours(activation="gelu" if way.gelu else None)
            plain = nn.Sequential(theirs(), nn.GELU()) if way.gelu else theirs()
            # torch's own layer in float64 is a formula that is not ours; channels last, its
            # group norm would lose 1e-4 at an offset of 1e6 even so.
            cotangent = gradient.to(way.dtype).double()
            truth = result(plain.double(), x.double().contiguous(), cotangent)
            row = {"layer": name, "x": way.name, "mean_over_std": offset}
            for who, norm in (("normwise", layer), ("torch", plain)):
                found = result(norm.to(way.dtype), x, gradient)
                row[f"{who}_forward"] = error(found[0], truth[0])
                row[f"{who}_gradient"] = error(found[1], truth[1])
            rows.append(row)
            keys = ("normwise_forward", "torch_forward", "normwise_gradient", "torch_gradient")
            table.add_row(name, way.name, f"{offset:g}", *(f"{row[key]:.0e}" for key in keys))
    Console().print(table)
    RESULTS.write_text(json.dumps({**stamp(), "rows": rows}, indent=1) + "\n")
    print(RESULTS)


if __name__ == "__main__":
    main()
