"""The race: a seed for every candidate still in, then another look at who that is.

A look is taken when every candidate that is in has finished a seed, and its decisions
follow from the trials up to there alone. So they are the same for any number of workers,
for a race that was stopped and goes on, and for whoever replays the ledger.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr

from normwise.compare.boundaries import boundary, hopeless, last_look, looks
from normwise.compare.differences import Differences, Evidence
from normwise.compare.floors import floors
from normwise.compare.schedule import Trial
from normwise.compare.trial import Outcome
from normwise.compare.verdict import Word, margin_of, word_of

State = Literal["in", "dropped", "decided"]

# The chance of ending ahead below which a rival of one that is better is not waited for.
HARDLY = 0.05


@dataclass(frozen=True)
class Standing:
    """What a look showed of one candidate, and what became of it.

    mean, low, high  difference from the baseline and its interval; nan where unknown
    state  in: it gets another seed; dropped: it does not; decided: the verdict is in, and a
           candidate that is better gets more seeds only for the sake of its rivals
    """

    name: str
    mean: float
    low: float
    high: float
    state: State
    why: str


@dataclass(frozen=True)
class Look:
    """A look at the race after so many seeds."""

    seeds: int
    standings: tuple[Standing, ...]


class History:
    """A race so far, from the outcomes of its trials in any order.

    looks    what was seen, one entry for each look
    live     the candidates that get another seed, the baseline among them
    dropped  who does not, after how many seeds and why
    counted  by candidate, the outcomes that decisions rest on: of seeds it was in for
    seeds    how many seeds all that were in have finished
    ended    why the race is over; None while it is not

    Dropped is who is shown to be worse than the leader; who could hardly be shown to be
    better than the baseline within the seeds (see `boundaries.hopeless`); once the leader
    is better, who has less than 5 % of a chance to end ahead of it; and whose trials fall
    below the floor of their learning curve, or fail with two seeds and most of the time.
    """

    def __init__(
        self,
        candidates: Sequence[str],
        baseline: str,
        higher_is_better: bool,
        *,
        seeds: int,
        equivalent_within: float | None = None,
        confidence: float = 0.95,
    ) -> None:
        self.looks: list[Look] = []
        self.live = list(candidates)
        self.dropped: dict[str, tuple[int, str]] = {}
        self.counted: dict[str, list[Outcome]] = {name: [] for name in candidates}
        self.seeds = 0
        self.ended: str | None = None
        self.most = seeds
        self.baseline = baseline
        self.higher_is_better = higher_is_better
        self._margin = equivalent_within
        self._rows = {name: row for row, name in enumerate(candidates)}
        self._table = np.full((len(candidates), seeds), np.nan)
        self._outcomes: dict[tuple[str, int], Outcome] = {}
        others = max(len(candidates) - 1, 1)
        self._last = last_look(others, 1 - confidence, seeds)
        self._hopeless = hopeless(others, 1 - confidence, seeds)
        self._looks = frozenset(looks(seeds))

    @property
    def trials(self) -> int:
        """How many trials the decisions rest on."""
        return sum(map(len, self.counted.values()))

    def known(self, candidate: str, seed: int) -> bool:
        """Whether the trial has ended."""
        return (candidate, seed) in self._outcomes

    def add(self, outcome: Outcome) -> None:
        """A trial has ended; what follows from it is decided at once."""
        if outcome.candidate in self._rows:
            self._outcomes.setdefault((outcome.candidate, outcome.seed), outcome)
        while self.ended is None and all(self.known(name, self.seeds) for name in self.live):
            for name in self.live:
                own = self._outcomes[name, self.seeds]
                self.counted[name].append(own)
                if own.score is not None:
                    self._table[self._rows[name], self.seeds] = own.score
            self.seeds += 1
            self._leave_out_failing()
            if self.ended is None and self.seeds in self._looks:
                self._look()
            if self.ended is None and self.seeds == self.most:
                self.ended = f"all {self.most} seeds are in"

    def floors(self, candidate: str, seed: int) -> Mapping[int, float]:
        """The floors of a trial. They rest on seeds that ended before the one before it began."""
        if candidate == self.baseline:
            return {}
        earlier = [o for own in self.counted.values() for o in own if o.seed < seed - 1]
        return floors(earlier, candidate, self.higher_is_better)

    def _leave_out_failing(self) -> None:
        for name in tuple(self.live):
            own = self.counted[name]
            failed = sum(o.score is None and o.kind != "stopped" for o in own)
            why = None
            if own[-1].kind == "stopped" and own[-1].score is None:
                why = f"its learning curve fell too far behind with seed {own[-1].seed}"
            elif failed > 1 and 2 * failed > len(own):
                why = f"{failed} of its {len(own)} trials failed"
            if why is not None and name == self.baseline:
                self.ended = f"nothing can be compared with {name!r}: {why}"
            elif why is not None:
                self._drop(name, why)

    def _look(self) -> None:
        differences = Differences(self._table[:, : self.seeds])
        margin = (
            margin_of(self._table[:, : self.seeds], differences.step)
            if self._margin is None
            else self._margin
        )
        evidence = differences.against(self._rows[self.baseline])
        halves = evidence.half_widths(self._bounds(evidence))
        words: dict[str, Word] = {
            name: word_of(
                float(evidence.mean[row]), float(halves[row]), margin, self.higher_is_better
            )
            for name, row in self._rows.items()
        }
        competing = tuple(name for name in self.live if name != self.baseline)
        equals = self._against_leader(differences, evidence, words, margin)
        self._drop_hopeless(evidence, words)
        still_in = [name for name in competing if name in self.live]
        for name in still_in:
            if words[name] == "equivalent":
                self.live.remove(name)
        running = [name for name in still_in if name in self.live]
        if all(words[name] == "better" and name in equals for name in running):
            self.ended = "a verdict is in about every candidate that was not dropped"
        self.looks.append(
            Look(self.seeds, tuple(self._standing(n, evidence, halves, words) for n in competing))
        )

    def _against_leader(
        self,
        differences: Differences,
        evidence: Evidence,
        words: Mapping[str, Word],
        margin: float,
    ) -> set[str]:
        """Drop who is behind the one with the best mean; returns it and who is shown its equal."""
        sign = 1 if self.higher_is_better else -1
        gains = {name: sign * float(evidence.mean[self._rows[name]]) for name in self.live}
        gains[self.baseline] = 0.0
        leader = max(gains, key=lambda name: -math.inf if math.isnan(gains[name]) else gains[name])
        behind = differences.against(self._rows[leader]) if leader != self.baseline else evidence
        scores, bounds = sign * behind.scores(), self._bounds(behind)
        left = self.most - self.seeds
        equals = {leader}
        for name in tuple(self.live):
            row = self._rows[name]
            if name in (leader, self.baseline):
                continue
            half = float(behind.half_widths(bounds)[row])
            if abs(float(behind.mean[row])) + half <= margin:
                equals.add(name)
            elif scores[row] < -bounds[row]:
                self._drop(name, f"it is worse than {leader!r}")
            elif left and words.get(leader) == "better" and leader != self.baseline:
                # What is seen now predicts the end, with the noise of the seeds in between.
                ahead = ndtr(scores[row] * math.sqrt(self.most / left))
                if ahead < HARDLY:
                    self._drop(name, f"it would hardly end ahead of {leader!r}")
        return equals

    def _drop_hopeless(self, evidence: Evidence, words: Mapping[str, Word]) -> None:
        sign = 1 if self.higher_is_better else -1
        scores = sign * evidence.scores()
        for name in tuple(self.live):
            row = self._rows[name]
            floor = self._hopeless.get(int(evidence.pairs[row]), -math.inf)
            if name != self.baseline and words[name] == "undecided" and scores[row] < floor:
                seeds = "1 seed" if self.most == 1 else f"{self.most} seeds"
                self._drop(name, f"{seeds} would hardly show it to be better")

    def _bounds(self, evidence: Evidence) -> Any:
        return boundary(evidence.pairs, self._last, self.most)

    def _drop(self, name: str, why: str) -> None:
        self.live.remove(name)
        self.dropped[name] = (self.seeds, why)

    def _standing(
        self, name: str, evidence: Evidence, halves: Any, words: Mapping[str, Word]
    ) -> Standing:
        row = self._rows[name]
        mean, half = float(evidence.mean[row]), float(halves[row])
        state: State = "in" if words[name] == "undecided" else "decided"
        why = "" if state == "in" else f"it is {words[name]}"
        if name in self.dropped:
            state, why = "dropped", self.dropped[name][1]
        return Standing(name, mean, mean - half, mean + half, state, why)


def history(
    outcomes: Iterable[Outcome],
    candidates: Sequence[str],
    baseline: str,
    higher_is_better: bool,
    *,
    seeds: int,
    equivalent_within: float | None = None,
) -> History:
    """A race replayed from its outcomes, as a ledger holds them, in any order."""
    replayed = History(
        candidates, baseline, higher_is_better, seeds=seeds, equivalent_within=equivalent_within
    )
    for outcome in sorted(outcomes, key=lambda o: o.seed):
        replayed.add(outcome)
    return replayed


class Race:
    """The schedule of a race: seed by seed, whoever is still in.

    Workers that would wait for the end of a seed begin the next one, for those in the lead
    first. What they run in vain is in the ledger, but nothing rests on it.

    keep_weights  the seed whose trained models are asked for; None: every one
    budget_s      seconds after which no trial is begun, from now on; None: no limit
    max_trials    a seed is begun only where all of it fits within so many trials; nobody
                  looks ahead then
    """

    def __init__(
        self,
        race: History,
        *,
        keep_weights: int | None,
        budget_s: float | None = None,
        max_trials: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history = race
        self._keep = keep_weights
        self._max_trials = max_trials
        self._clock = clock
        self._budget_s = budget_s
        self._end = math.inf if budget_s is None else clock() + budget_s
        self._begun: set[tuple[str, int]] = set()

    @property
    def ended(self) -> str | None:
        """Why no trial is begun any more; None while some are."""
        race = self.history
        if race.ended is not None:
            return race.ended
        if self._max_trials is not None and race.trials + len(race.live) > self._max_trials:
            return f"another seed would take more than {self._max_trials} trials"
        if self._clock() >= self._end:
            return f"the budget of {self._budget_s:g} s was spent"
        return None

    def next(self) -> Trial | None:
        """What to start now; None if nothing is, before another outcome is in or at all."""
        if self.ended is not None:
            return None
        race = self.history
        ahead = race.seeds + 1 < race.most and self._max_trials is None
        waiting = [(name, race.seeds) for name in race.live]
        waiting += [(name, race.seeds + 1) for name in self._by_rank() if ahead]
        for name, seed in waiting:
            if (name, seed) not in self._begun and not race.known(name, seed):
                self._begun.add((name, seed))
                keep = self._keep in (None, seed)
                return Trial(name, seed, keep, race.floors(name, seed))
        return None

    def add(self, outcome: Outcome) -> None:
        """A trial has ended, and is in the ledger."""
        self.history.add(outcome)

    def _by_rank(self) -> list[str]:
        """Who is in, the baseline first and then the best mean at the last look."""
        sign = 1 if self.history.higher_is_better else -1
        standings = self.history.looks[-1].standings if self.history.looks else ()
        means = {s.name: sign * s.mean for s in standings if not math.isnan(s.mean)}
        means[self.history.baseline] = math.inf
        return sorted(self.history.live, key=lambda name: -means.get(name, -math.inf))
