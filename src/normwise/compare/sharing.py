"""Several drivers on one ledger: each trial is run by one of them, and all hear of its outcome.

A driver is a process that runs a comparison. It claims a trial before it starts it, and
says every few seconds that it is alive. A dead driver's claims are anybody's: at once on
the same machine, elsewhere when it has not been heard of for a minute.
"""

import os
import platform
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from normwise.compare.ledger import PATIENCE_S, Ledger, remove
from normwise.compare.schedule import Schedule, Trial
from normwise.compare.trial import Outcome
from normwise.errors import NormError

BEAT_S = 3
LEASE_S = 60
POLL_S = 0.5

_COSTS = ("", -1)  # claimed while candidates are timed, which nothing may disturb


class Claim(NamedTuple):
    """A trial that a live driver runs now."""

    candidate: str
    seed: int
    epochs: int


class Driver:
    """The process that runs a comparison, for others to see; use as a context manager."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._id = uuid.uuid4().hex
        self._ended = threading.Event()
        self._epochs: dict[tuple[str, int], int] = {}

    def __enter__(self) -> "Driver":
        with self._ledger.writing() as connection:
            self._tell(connection)
        self._pulse = threading.Thread(target=self._beat, daemon=True)
        self._pulse.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pulse.join()
        with suppress(NormError), self._ledger.writing() as connection:
            _forget(connection, self._id)

    def take(self, trials: Sequence[Trial]) -> Trial | None:
        """Claim the first trial that nobody runs or has run, if there is one."""
        if not trials or not self._free(trials):
            return None
        with self._ledger.writing() as connection:
            for dead in _drivers(self._ledger, alive=False):
                _forget(connection, dead)
            for trial in self._free(trials):
                self._claim(connection, trial.candidate, trial.seed)
                return trial
        return None

    def reached(self, trial: Trial, epochs: int) -> None:
        """Say how far a claimed trial is; others read it some seconds later."""
        self._epochs[trial.candidate, trial.seed] = epochs

    @contextmanager
    def alone(self, is_done: Callable[[], bool]) -> Iterator[bool]:
        """A block that one driver at a time is in; whether there is still anything to do in it."""
        costs = [Trial(*_COSTS)]
        while not is_done() and self.take(costs) is None:
            time.sleep(POLL_S)
        try:
            yield not is_done()
        finally:
            with self._ledger.writing() as connection:
                connection.execute(
                    "DELETE FROM claims WHERE candidate = ? AND seed = ? AND driver = ?",
                    (*_COSTS, self._id),
                )

    def _free(self, trials: Sequence[Trial]) -> list[Trial]:
        claimed = {(claim.candidate, claim.seed) for claim in claims(self._ledger)}
        ended = set(self._ledger.read_rows("SELECT candidate, seed FROM trials"))
        return [t for t in trials if (t.candidate, t.seed) not in claimed | ended]

    def _claim(self, connection: sqlite3.Connection, candidate: str, seed: int) -> None:
        connection.execute(
            "INSERT INTO claims VALUES (?, ?, ?, ?, 0)", (candidate, seed, self._id, time.time())
        )

    def _tell(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO drivers VALUES (?, ?, ?, ?)",
            (self._id, platform.node(), os.getpid(), time.time()),
        )

    def _beat(self) -> None:
        uri = f"{self._ledger.path.absolute().as_uri()}?mode=rw"
        while not self._ended.wait(BEAT_S):
            epochs = [(n, *trial, self._id) for trial, n in list(self._epochs.items())]
            self._epochs = {}
            # A full disk, or one that is away: the main thread will hear of it, too.
            with (
                suppress(sqlite3.Error),
                closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_S)) as connection,
                connection,
            ):
                self._tell(connection)
                connection.executemany(
                    "UPDATE claims SET epochs = ? WHERE candidate = ? AND seed = ? AND driver = ?",
                    epochs,
                )


class Shared:
    """A schedule whose trials several drivers run: what others have taken is left to them.

    on_other  called with every outcome that another driver added
    """

    def __init__(
        self,
        schedule: Schedule,
        ledger: Ledger,
        driver: Driver,
        known: Sequence[Outcome],
        on_other: Callable[[Outcome], None],
    ) -> None:
        self._schedule = schedule
        self._ledger = ledger
        self._driver = driver
        self._known = {(o.candidate, o.seed) for o in known}
        self._heard = 0
        self._on_other = on_other
        self._running: set[tuple[str, int]] = set()
        self._elsewhere: dict[tuple[str, int], Trial] = {}

    def next(self) -> Trial | None:
        """A trial that is this driver's now; waits where all that is left is run by others."""
        while True:
            self._hear()
            trial = self._own_trial()
            if trial is not None or self._running or not self._elsewhere:
                return trial
            time.sleep(POLL_S)

    def add(self, outcome: Outcome) -> None:
        """A trial of this driver has ended, and is in the ledger."""
        key = (outcome.candidate, outcome.seed)
        self._running.discard(key)
        if key not in self._known:
            self._known.add(key)
            self._schedule.add(outcome)

    def _own_trial(self) -> Trial | None:
        trial = self._driver.take(list(self._elsewhere.values()))  # a driver may have died
        while trial is None:
            offered = self._schedule.next()
            if offered is None:
                return None
            key = (offered.candidate, offered.seed)
            if key in self._known:  # another driver has finished it, as the schedule has been told
                continue
            trial = self._driver.take([offered])
            if trial is None:
                self._elsewhere[key] = offered
        self._elsewhere.pop((trial.candidate, trial.seed), None)
        self._running.add((trial.candidate, trial.seed))
        return trial

    def _hear(self) -> None:
        """Learn what other drivers have finished."""
        new = self._ledger.outcomes(after=self._heard)
        self._heard += len(new)
        for outcome in new:
            key = (outcome.candidate, outcome.seed)
            self._elsewhere.pop(key, None)
            if key not in self._known:
                self._known.add(key)
                self._schedule.add(outcome)
                self._on_other(outcome)


def claims(ledger: Ledger) -> list[Claim]:
    """What live drivers run now."""
    alive = set(_drivers(ledger, alive=True))
    rows = ledger.read_rows("SELECT candidate, seed, epochs, driver FROM claims ORDER BY since")
    return [Claim(*row[:3]) for row in rows if row[3] in alive]


def is_running(ledger: Ledger) -> bool:
    """Whether a live driver is at work."""
    return bool(_drivers(ledger, alive=True))


def discard(folder: Path) -> None:
    """Remove a ledger, whatever state it is in, unless a process is at work with it.

    Raises
        NormError  if one is.
    """
    busy = False
    with suppress(NormError):  # a damaged one is nobody's
        if (folder / "ledger.sqlite").is_file():
            with Ledger(folder) as ledger:
                busy = is_running(ledger)
    if busy:
        raise NormError(
            f"another process is running the trials in {folder}; stop it first, or use another "
            "--out"
        )
    remove(folder)


def _drivers(ledger: Ledger, *, alive: bool) -> list[str]:
    rows = ledger.read_rows("SELECT id, host, pid, heard_of FROM drivers")
    return [name for name, *rest in rows if _is_alive(*rest) == alive]


def _is_alive(host: str, pid: int, heard_of: float) -> bool:
    if time.time() - heard_of > LEASE_S:
        return False
    return host != platform.node() or _runs(pid)


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # there, asking would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _forget(connection: sqlite3.Connection, driver: str) -> None:
    connection.execute("DELETE FROM claims WHERE driver = ?", (driver,))
    connection.execute("DELETE FROM drivers WHERE id = ?", (driver,))
