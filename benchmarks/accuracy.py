"""How far the layers are from their formula, beside torch.nn, as an offset grows.

    python benchmarks/accuracy.py

The figure is the relative L2 error against the formula in float64, for float32
input whose mean is 0 to 1e6 standard deviations. Nothing here depends on time.
"""

from collections.abc import Callable
from itertools import product

import torch
from measure import write_results
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import normwise as nw

OFFSETS = (0.0, 1e2, 1e4, 1e6)
SHAPE = (4, 32, 16, 16)
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "batch": (lambda: nw.BatchNorm2d(32), lambda: nn.BatchNorm2d(32)),
    "instance": (lambda: nw.InstanceNorm2d(32), lambda: nn.InstanceNorm2d(32)),
    "group:4": (lambda: nw.GroupNorm2d(4, 32), lambda: nn.GroupNorm(4, 32)),
    "layer": (lambda: nw.LayerNorm(16), lambda: nn.LayerNorm(16)),
    "rms": (lambda: nw.RMSNorm(16, eps=1e-5), lambda: nn.RMSNorm(16, eps=1e-5)),
}


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
    table = Table("layer", "layout", "mean/std", title="relative L2 error against float64")
    for column in ("forward", "torch's", "gradient", "torch's"):
        table.add_column(column, justify="right")
    rows = []
    for (name, (ours, theirs)), last, offset in product(LAYERS.items(), (False, True), OFFSETS):
        layout = "channels last" if last else "contiguous"
        memory = torch.channels_last if last else torch.contiguous_format
        x = (signal + offset).to(memory_format=memory)
        # torch's own layer in float64 is a formula that is not ours; channels last, its group
        # norm would lose 1e-4 at an offset of 1e6 even so.
        truth = result(theirs().double(), x.double().contiguous(), gradient)
        row = {"layer": name, "layout": layout, "mean_over_std": offset}
        for who, layer in (("normwise", ours()), ("torch", theirs())):
            found = result(layer, x, gradient)
            row[f"{who}_forward"] = error(found[0], truth[0])
            row[f"{who}_gradient"] = error(found[1], truth[1])
        rows.append(row)
        keys = ("normwise_forward", "torch_forward", "normwise_gradient", "torch_gradient")
        table.add_row(name, layout, f"{offset:g}", *(f"{row[key]:.0e}" for key in keys))
    Console().print(table)
    print(write_results("accuracy", rows))


if __name__ == "__main__":
    main()
