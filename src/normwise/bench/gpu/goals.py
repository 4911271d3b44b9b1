"""The benchmark on a GPU, apart from the GPU: cases, goals, which of them are met, the table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normwise.bench.cases import KINDS, Case
from normwise.bench.goals import NOISE, Verdict

Row = dict[str, Any]
Share = Callable[[Row], float | None]
FORWARD, BACKWARD = "forward", "backward"

_F32, _BF16 = "float32", "bfloat16"
_LARGE_BYTES, _SMALL_BYTES = 64e6, 1e6
_SIZES = [64, 128, 256, 512]
LONG = [
    Case("group", False, (8, 256, 65536)),
    Case("instance", False, (2, 4, 4_000_000)),
]
SHORT = [
    *(Case("instance", False, (2**18 // size, 128, size)) for size in _SIZES),
    *(Case("trailing layer", False, (2**26 // size, size), _BF16) for size in _SIZES),
]
ROWS = [
    Case(kind, False, shape, dtype)
    for dtype in (_F32, _BF16)
    for kind, shape in (
        ("instance", (64, 128, 8192)),
        ("group", (64, 2048, 512)),
        ("trailing layer", (16384, 4096)),
        ("trailing rms", (16384, 8192)),
    )
]
CHANNELS = [
    Case(kind, False, shape, dtype)
    for kind in ("layer", "rms")
    for shape, dtype in (((64, 128, 8192), _F32), ((64, 512, 2048), _BF16))
]
TRAINED = [
    *(Case("batch", False, (64, 128, 8192), dtype) for dtype in (_F32, _BF16)),
    Case("batch", False, (64, 256, 56, 56), _BF16, True),
]
INFERRED = [Case("batch inference", False, (64, 128, 8192))]
IMAGES = [
    Case(kind, False, (64, 256, 56, 56), _BF16, True) for kind in ("group", "instance", "layer")
]
MIDDLE = [Case(kind, False, (32, 64, 1024)) for kind in KINDS]
SMALL = [Case(kind, False, shape) for shape in ((4, 3, 7), (10, 20, 100)) for kind in KINDS]
CASES = [*LONG, *ROWS, *CHANNELS, *TRAINED, *INFERRED, *SHORT, *MIDDLE, *SMALL, *IMAGES]

# What a check that has to stop early should have seen: what streams, then every norm in float32.
CHECKED = LONG + [
    Case(kind, False, shape, dtype)
    for dtype, shapes in (
        (_F32, ((2, 16, 70_000), (4, 64, 500), (130, 256, 64))),
        (_BF16, ((2, 16, 70_000), (4, 64, 500), (130, 256, 64))),
        ("float16", ((4, 64, 500),)),
    )
    for shape in shapes
    for kind in KINDS
]
TINY = [
    Case(kind, False, shape, dtype)
    for kind in KINDS
    for shape in ((2, 4, 40), (3, 8, 5))
    for dtype in (_F32, _BF16)
]
# One of each norm: to be split into more tiles than it needs, and to be compiled.
FEW = [case for case in TINY if case.shape == (2, 4, 40) and case.dtype == _F32]

_LENGTHS = [2**power for power in range(19, 24)]


@dataclass(frozen=True)
class Programme:
    """What a run does: the earlier of each list is the more important.

    checked, split, compiled  cases to check as they are, by small tiles, by torch.compile
    timed                     cases to time
    small, joined, long       shapes to find thresholds by: calls that torch may do faster, the
                              same compiled, rows that are streamed or not
    """

    checked: Sequence[Case]
    split: Sequence[Case]
    compiled: Sequence[Case]
    timed: Sequence[Case] = ()
    small: Sequence[tuple[int, ...]] = ()
    joined: Sequence[tuple[int, ...]] = ()
    long: Sequence[tuple[int, ...]] = ()

    def only(self, word: str) -> "Programme":
        """As much of it as is about norms whose name contains a word."""
        lists = {
            name: [case for case in getattr(self, name) if word in case.kind]
            for name in ("checked", "split", "compiled", "timed")
        }
        return replace(self, **lists)


ON_A_GPU = Programme(
    CHECKED,
    [],
    FEW,
    CASES,
    small=[(8, 32, 2 ** (power - 8)) for power in range(10, 23, 2)],
    joined=[(8, 32, 2 ** (power - 8)) for power in (16, 20, 23)],
    long=[(2, max(4, 2**23 // length), length) for length in _LENGTHS],
)
INTERPRETED = Programme(TINY, FEW, FEW)
# Everything that a GPU does, on a processor in little time: what it finds means nothing.
REHEARSED = Programme(
    FEW,
    FEW[:1],
    FEW,
    MIDDLE + SMALL,
    small=[(2, 4, 40)],
    joined=[(2, 4, 40)],
    long=[(1, 1, 20_000)],
)


def passes(kind: str, way: str) -> int:
    """How often as many bytes as x has are read or written: twice in a copy.

    Batch norm in training reads its operands twice.
    """
    if way == FORWARD:
        return 3 if kind == "batch" else 2
    return 5 if kind == "batch" else 3


def _of_copy(least: float, cases: list[Case], way: str) -> Share:
    names = {case.name for case in cases}

    def share(row: Row) -> float | None:
        meant = row["case"] in names and row["pass"] == way and "of_copy" in row
        return least / row["of_copy"] if meant else None

    return share


def _against(rival: str, figure: str, times: float, meant: Callable[[Row], bool]) -> Share:
    def share(row: Row) -> float | None:
        ours, other = row[figure].get("ours"), row[figure].get(rival)
        return ours * times / other if ours and other and meant(row) else None

    return share


def _is_large(row: Row) -> bool:
    return bool(row["bytes"] > _SMALL_BYTES)


def _is_small(row: Row) -> bool:
    return not _is_large(row)


def _has_few_statistics(row: Row) -> bool:
    return bool(row["bytes"] >= _LARGE_BYTES) and row["kind"] in ("group", "instance")


_SHARES: list[tuple[str, list[Case], float, float]] = [
    ("rows", ROWS, 0.9, 0.8),
    ("norms over channels", CHANNELS, 0.85, 0.75),
    ("batch norm in training", TRAINED, 0.85, 0.8),
    ("few long rows", LONG, 0.8, 0.8),
    ("short rows", SHORT, 0.8, 0.8),
]
GOALS: dict[str, Share] = {
    **{
        f"{name}, {way}: {least:.0%} of a copy": _of_copy(least, cases, way)
        for name, cases, *both in _SHARES
        for way, least in zip((FORWARD, BACKWARD), both, strict=True)
    },
    "over 1 MB, not slower than torch": _against("torch", "kernel_ms", 1 / NOISE, _is_large),
    "over 1 MB, not slower than torch compiled": _against(
        "compiled", "kernel_ms", 1 / NOISE, _is_large
    ),
    "group and instance norm 3 times as fast as torch": _against(
        "torch", "kernel_ms", 3, _has_few_statistics
    ),
    "small tensors: wall time not above torch's": _against(
        "torch", "wall_ms", 1 / NOISE, _is_small
    ),
}


def judge(rows: list[Row]) -> list[Verdict]:
    """Which goals a run meets; those that none of its cases is meant by are left out."""
    verdicts = []
    for goal, share in GOALS.items():
        shares = {f"{r['case']}, {r['pass']}": s for r in rows if (s := share(r)) is not None}
        if shares:
            worst = max(shares, key=shares.__getitem__)
            missed = sum(s > 1 for s in shares.values())
            verdicts.append(Verdict(goal, len(shares), missed, shares[worst], worst))
    return verdicts


_FIXED = ("ours", "torch", "compiled")


def table(rows: list[Row]) -> str:
    """One line for each row, within 80 columns; rivals' times in units of ours.

    GB/s and copy count what a norm has to read and write at the least.
    """
    lines = [f"{'':36} {'pass':8} {'GB/s':>5} {'copy':>5} {'torch':>6} {'comp.':>6} {'wall':>6}"]
    for row in rows:
        ours = row["kernel_ms"].get("ours")
        name = row["case"].replace(" forward ", " ")[:36]
        if not ours:
            lines.append(f"{name:36} {row['pass']:8} {row['failed'].get('ours', '')[:33]}")
            continue
        cells = [_over(row["kernel_ms"].get(who), ours) for who in _FIXED[1:]]
        cells.append(_over(row["wall_ms"].get("torch"), row["wall_ms"]["ours"]))
        speed = passes(row["kind"], row["pass"]) * row["bytes"] / ours / 1e6
        lines.append(
            f"{name:36} {row['pass']:8} {speed:5.0f} {row['of_copy']:5.0%} {' '.join(cells)}"
        )
        guests = {who: ms for who, ms in row["kernel_ms"].items() if who not in _FIXED}
        lines += [f"{'':36} {who}: {ms / ours:.2f}" for who, ms in guests.items()]
    return "\n".join(lines)


def _over(figure: float | None, ours: float) -> str:
    return f"{figure / ours:6.2f}" if figure else f"{'-':>6}"
