"""Which trial is next: what an engine asks, and the plainest answer to it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from normwise.compare.trial import Outcome


@dataclass(frozen=True)
class Trial:
    """One trial to run.

    candidate, seed  what is trained, and with which seed
    keep_weights     whether the trained model's state is asked for
    floors           epoch → the score worse than which the trial stops there; none: never
    """

    candidate: str
    seed: int
    keep_weights: bool = False
    floors: Mapping[int, float] = field(default_factory=dict, hash=False)


class Schedule(Protocol):
    """What an engine asks for trials, and whoever keeps the ledger tells of their ends."""

    def next(self) -> Trial | None:
        """What to start now; None if nothing is, before another outcome is in or at all."""
        ...

    def add(self, outcome: Outcome) -> None:
        """A trial has ended, and is in the ledger."""
        ...


class Grid:
    """Every candidate with every seed, a seed at a time, without those in `done`.

    keep_weights  the seed whose trained models are asked for; None: every one
    """

    def __init__(
        self,
        candidates: Sequence[str],
        seeds: int,
        done: Iterable[Outcome],
        *,
        keep_weights: int | None,
    ) -> None:
        finished = {(outcome.candidate, outcome.seed) for outcome in done}
        self._waiting = [
            Trial(name, seed, keep_weights=keep_weights in (None, seed))
            for seed in range(seeds)
            for name in candidates
            if (name, seed) not in finished
        ]
        self._waiting.reverse()

    def next(self) -> Trial | None:
        return self._waiting.pop() if self._waiting else None

    def add(self, outcome: Outcome) -> None:
        """Whatever comes of a trial, the others are run."""
