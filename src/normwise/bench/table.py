"""The benchmark as a table for a terminal of 80 columns, and in a few sentences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normwise.bench.goals import NOISE, geometric_mean, judge
from normwise.bench.turns import COMPILED, FORWARD, OURS, TORCH

if TYPE_CHECKING:
    from rich.table import Table

_BUSY = 0.5  # cores: from here the threads of a kernel wait for one that has to wait
_SHORT = {"float32": "", "bfloat16": " bf16", "contiguous": "", "channels last": " last"}


def build_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """One line for each case: times in clones of the input, then ours over the others'."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for title in ("norm", "pass", "input"):
        table.add_column(title, no_wrap=True)
    for title in ("clone", "ours", "torch", "comp.", "/torch", "/comp."):
        table.add_column(title, justify="right", no_wrap=True)
    before = None
    for row in rows:
        name = row["norm"] if row["norm"] != before else ""
        before = row["norm"]
        sizes = "x".join(map(str, row["shape"]))
        table.add_row(
            name,
            "fwd" if row["pass"] == FORWARD else "step",
            sizes + _SHORT[row["dtype"]] + _SHORT[row["layout"]],
            _time(row["clone_us"]),
            *(_number(row[who]) for who in (OURS, TORCH, COMPILED)),
            *(_compared(row[over]) for over in ("over_torch", "over_compiled")),
        )
    return table


def summary(results: Mapping[str, Any]) -> Iterator[str]:
    """What the figures come to: means, memory, goals, and what failed."""
    rows, memory, busy = results["rows"], results["memory"], results["busy_cores"]
    if busy is not None and busy > _BUSY:
        yield f"other processes kept {busy:.1f} cores busy meanwhile: figures are rough"
    for over, rival in (("over_torch", "torch.nn"), ("over_compiled", "torch.nn compiled")):
        mean = geometric_mean(row[over] for row in rows)
        if mean is not None:
            known = sum(row[over] is not None for row in rows)
            yield f"{mean:.2f} times the time of {rival}, geometric mean of {known} cases"
    for row in memory:
        figures = (_megabytes(row[who]) for who in (OURS, TORCH))
        yield "peak of {}: {} MB, torch.nn's {} MB".format(row["case"], *figures)
    yield from map(str, judge(rows, memory))
    for row in (*rows, *memory):
        for who, reason in row["failed"].items():
            yield f"{row['case']}: {who} failed, {reason}"


def _time(us: float) -> str:
    number, unit = (us / 1000, "ms") if us >= 1000 else (us, "µs")
    return f"{number:.{0 if number >= 100 else 1}f} {unit}"


def _number(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.{0 if ratio >= 100 else 2 if ratio < 10 else 1}f}"


def _compared(ratio: float | None) -> str:
    words = _number(ratio)
    return f"[red]{words}[/]" if ratio is not None and ratio > NOISE else words


def _megabytes(peak: float | None) -> str:
    return "–" if peak is None else f"{peak:.0f}"
