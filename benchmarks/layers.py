"""How long the layers take, beside torch.nn (eager and compiled) and a copy of the input.

    python benchmarks/layers.py [--quick]

Times are ratios: 1.00 is one `x.clone()` of the same tensor, measured in the same rounds.
"""

import argparse
import warnings
from collections.abc import Callable

import torch
from measure import side_by_side, write_results
from rich.console import Console
from rich.table import Table
from torch import nn

import normwise as nw

SHAPES = [(10, 20, 100), (8, 64, 26), (32, 64, 1024), (64, 128, 4096)]


class ChannelLast(nn.Module):
    """What torch.nn has to do for a layer norm over channels: turn, normalize, turn back."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.mT).mT


LAYERS: dict[str, Callable[[int], tuple[nn.Module, nn.Module]]] = {
    "batch": lambda c: (nw.BatchNorm1d(c), nn.BatchNorm1d(c)),
    "instance": lambda c: (nw.InstanceNorm1d(c, affine=True), nn.InstanceNorm1d(c, affine=True)),
    "group:4": lambda c: (nw.GroupNorm1d(4, c), nn.GroupNorm(4, c)),
    "layer": lambda c: (nw.LayerNorm1d(c), ChannelLast(nn.LayerNorm(c))),
    "rms": lambda c: (nw.RMSNorm1d(c), ChannelLast(nn.RMSNorm(c))),
}


def contestants(name: str, shape: tuple[int, ...], train: bool) -> dict[str, Callable[[], object]]:
    """The calls to time for one layer on one shape."""
    ours, theirs = LAYERS[name](shape[1])
    compiled = torch.compile(theirs, dynamic=False)
    x = torch.randn(shape, requires_grad=train)
    gradient = torch.randn(shape)

    def step(layer: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        def call() -> object:
            if train:
                return layer(x).backward(gradient)
            with torch.no_grad():
                return layer(x)

        return call

    return {
        "clone": lambda: x.detach().clone(),
        "normwise": step(ours),
        "torch": step(theirs),
        "torch compiled": step(compiled),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two shapes, fewer rounds")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")  # inductor's notes on the machine
    table = Table("layer", "shape", "pass", title="in units of x.clone()")
    for column in ("normwise", "torch", "torch compiled", "normwise / torch"):
        table.add_column(column, justify="right")
    rows = []
    for name in LAYERS:
        for shape in SHAPES[1:3] if quick else SHAPES:
            for train in (False, True):
                torch.compiler.reset()
                calls = contestants(name, shape, train)
                seconds = side_by_side(calls, rounds=5 if quick else 15)
                ratio = {key: s / seconds["clone"] for key, s in seconds.items()}
                kind = "forward + backward" if train else "forward"
                rows.append(
                    {
                        "layer": name,
                        "shape": shape,
                        "pass": kind,
                        "clone_us": seconds["clone"] * 1e6,
                    }
                    | ratio
                )
                table.add_row(
                    name,
                    "×".join(map(str, shape)),
                    kind,
                    *(f"{ratio[key]:.1f}" for key in ("normwise", "torch", "torch compiled")),
                    f"{ratio['normwise'] / ratio['torch']:.2f}",
                )
    Console().print(table)
    if not quick:
        print(write_results("layers", rows))


if __name__ == "__main__":
    main()
