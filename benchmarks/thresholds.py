"""Where one kernel begins to win over another: the figures behind the constants of `ops`.

    python benchmarks/thresholds.py

ONE_THREAD (ops/native.py): elements above which all threads beat one.
COMPILED (ops/dispatch.py): elements above which, compiled, the operator beats the formula.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import normwise as nw
from normwise.machine import stamp
from normwise.ops import dispatch, native
from normwise.timing import take_turns

SIZES = [2**power for power in range(12, 25, 2)]
NORMS: dict[str, Callable[[int], torch.nn.Module]] = {
    "instance": lambda channels: nw.InstanceNorm1d(channels, affine=True),
    "layer": nw.LayerNorm1d,
    "batch": nw.BatchNorm1d,
}


def step(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], object]:
    """One forward and backward pass."""
    gradient = torch.ones_like(x)
    return lambda: layer(x).backward(gradient)


def threads(name: str, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """A step by one thread, and by all."""
    native.NativePlan.plans.clear()
    layer = NORMS[name](x.shape[1])
    layer(x)
    (plan,) = native.NativePlan.plans.values()

    def by(one_thread: bool) -> Callable[[], object]:
        def call() -> object:
            plan.one_thread = one_thread
            return step(layer, x)()

        return call

    return {"one thread": by(True), "all threads": by(False)}


def compiled(name: str, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """A compiled step with the operator in the graph, and with the formula."""
    torch.compiler.reset()
    call = step(torch.compile(NORMS[name](x.shape[1]), dynamic=False), x)

    def above(limit: int) -> Callable[[], object]:
        def limited() -> object:
            dispatch.COMPILED = limit  # a guard of the compiled code: it holds one for each
            return call()

        return limited

    return {"operator": above(0), "formula": above(1 << 40)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    console = Console()
    console.print(stamp())
    for question in (threads, compiled):
        table = Table("norm", "elements", title=f"{question.__name__}: µs a step")
        for i, name in enumerate(NORMS):
            for elements in SIZES:
                x = torch.randn(8, 32, elements // 256, requires_grad=True)
                times = take_turns(question(name, x), rounds=9, round_s=0.01)
                if not i and elements == SIZES[0]:
                    for label in times:
                        table.add_column(label, justify="right")
                cells = (f"{statistics.median(turns) * 1e6:.0f}" for turns in times.values())
                table.add_row(name, str(elements), *cells)
        console.print(table)


if __name__ == "__main__":
    main()
