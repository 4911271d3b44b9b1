"""How fast is fast enough: the goals, and which of them a run meets."""

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from normwise.bench.cases import KINDS
from normwise.bench.turns import FORWARD, OURS, STEP, TORCH

Row = Mapping[str, Any]
Share = Callable[[Row], float | None]  # figure over limit; None where the goal is not meant

LARGE_MB = 4.0  # from here a norm waits for memory, not for the call
NOISE = 1.05  # two runs of the same code differ by as much
GEOMETRIC_MEAN = 0.35
_SMALL_CALL = [10, 20, 100]


@dataclass(frozen=True)
class Verdict:
    """What came of a goal in a run.

    missed  how many of its `cases` are above the limit
    worst   the largest figure over its limit
    where   the case that it is of
    """

    goal: str
    cases: int
    missed: int
    worst: float
    where: str

    def __str__(self) -> str:
        if not self.missed:
            return f"met     {self.goal}"
        where = f", {self.where}" * bool(self.where)
        return (
            f"missed  {self.goal}: by {self.missed} of {self.cases}; "
            f"at worst {self.worst:.2f} times the limit{where}"
        )


def _of_clone(
    row: Row, norms: Collection[str], way: str, limit: float, dtype: str = "float32"
) -> float | None:
    meant = row["norm"] in norms and row["pass"] == way and row["dtype"] == dtype
    if not meant or row["input_mb"] < LARGE_MB:
        return None
    return math.inf if row[OURS] is None else row[OURS] / limit


_OTHERS = [kind for kind in KINDS if not kind.startswith("batch")]
_CLONES: dict[str, tuple[Collection[str], str, float]] = {
    "forward, all but batch: 1.25 clones": (_OTHERS, FORWARD, 1.25),
    "forward, batch in training: 1.5 clones": (["batch"], FORWARD, 1.5),
    "forward, batch in inference: 1.15 clones": (["batch inference"], FORWARD, 1.15),
    "forward + backward, all but batch: 3.2 clones": (_OTHERS, STEP, 3.2),
    "forward + backward, batch: 4.5 clones": (["batch"], STEP, 4.5),
}


def _of_bfloat16_clone(row: Row) -> float | None:
    limits = _CLONES.values()
    shares = [_of_clone(row, norms, way, 2 * most, "bfloat16") for norms, way, most in limits]
    return next((share for share in shares if share is not None), None)


def _over(row: Row, rival: str) -> float | None:
    figure: float | None = row[f"over_{rival}"]
    return None if figure is None else figure / NOISE


def _one_call(row: Row) -> float | None:
    meant = row["pass"] == FORWARD and row["shape"] == _SMALL_CALL
    return _over(row, TORCH) if meant else None


GOALS: dict[str, Share] = {
    **{
        goal: partial(_of_clone, norms=norms, way=way, limit=limit)
        for goal, (norms, way, limit) in _CLONES.items()
    },
    "bfloat16: twice as many clones": _of_bfloat16_clone,
    "no case slower than torch.nn": partial(_over, rival="torch"),
    "no case slower than torch.nn compiled": partial(_over, rival="compiled"),
    "one call at 10x20x100 as fast as torch.nn's": _one_call,
}


def judge(rows: Sequence[Row], memory: Sequence[Row]) -> list[Verdict]:
    """Which goals a run meets; those that none of its cases is meant by are left out."""
    verdicts = [_verdict(goal, rows, share) for goal, share in GOALS.items()]
    mean = geometric_mean(row["over_torch"] for row in rows)
    if mean is not None:
        share = mean / GEOMETRIC_MEAN
        goal = f"geometric mean over torch.nn: {GEOMETRIC_MEAN}"
        verdicts.append(Verdict(goal, 1, int(share > 1), share, ""))
    verdicts.append(_verdict("a training step's peak memory: torch.nn's", memory, _of_memory))
    return [verdict for verdict in verdicts if verdict.cases]


def _of_memory(row: Row) -> float | None:
    if row[TORCH] is None:
        return None
    return math.inf if row[OURS] is None else row[OURS] / row[TORCH] / NOISE


def _verdict(goal: str, rows: Sequence[Row], share: Share) -> Verdict:
    shares = {row["case"]: s for row in rows if (s := share(row)) is not None}
    worst = max(shares, key=shares.__getitem__, default="")
    missed = sum(s > 1 for s in shares.values())
    return Verdict(goal, len(shares), missed, shares.get(worst, 0.0), worst)


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Of those that were measured; None if none was."""
    known = [ratio for ratio in ratios if ratio is not None]
    return statistics.geometric_mean(known) if known else None
