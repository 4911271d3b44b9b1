"""Timing that a noisy machine cannot tilt: all contestants take turns, round after round."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def take_turns(
    calls: Mapping[Name, Callable[[], object]],
    rounds: int,
    round_s: float,
    *,
    warm: bool = False,
    settle: Callable[[], object] = lambda: None,
    on_turn: Callable[[Name], None] | None = None,
) -> dict[Name, list[float]]:
    """Seconds for one call of each contestant, in every round.

    A slow moment of the machine falls on all of them: compare within a round, or by
    medians. In its turn a contestant is called for about `round_s`, at least once;
    with `warm`, after a call that is not timed: it pays for memory that a virtual machine
    handed back to its host meanwhile, by chance 15 times what a call on large tensors takes.
    `settle` waits for what calls leave unfinished, as on a GPU.
    """

    def seconds(call: Callable[[], object], times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        settle()
        return (time.perf_counter() - start) / times

    repeats = {}
    for name, call in calls.items():
        seconds(call, 1)  # the first call pays for what is set up once
        repeats[name] = max(1, int(round_s / max(seconds(call, 1), 1e-7)))
    taken: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if on_turn is not None:
                on_turn(name)
            if warm:
                seconds(call, 1)
            taken[name].append(seconds(call, repeats[name]))
    return taken
