"""What every log says alike."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from normwise.compare.trial import Outcome


class Verdict(NamedTuple):
    """One candidate's row of the results."""

    name: str
    mean: float | None
    verdict: str

    @property
    def shown(self) -> str:
        """The mean score, as text."""
        return "–" if self.mean is None else f"{self.mean:.6g}"


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Every candidate with its mean score and its verdict."""
    return [Verdict(row["name"], row["mean"], row["verdict"]) for row in results["candidates"]]


def points(outcome: Outcome, metric: str) -> Iterator[tuple[int, dict[str, float]]]:
    """A trial's curve: the epoch, and what was measured there; a score under its metric's name."""
    for entry in outcome.curve:
        values = {(metric if key == "score" else key): value for key, value in entry.items()}
        yield int(values.pop("epoch")), values


def file_name(candidate: str) -> str:
    """A candidate's name with nothing in it that a path or a key may not have."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in candidate)
