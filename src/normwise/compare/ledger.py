"""The ledger: every finished trial, in one SQLite file, from the moment it ended.

run     key, value (JSON)        the task's fingerprint and what the report needs
trials  candidate, seed → score or reason, curve (JSON), seconds, finished (UTC)
costs   candidate → training step, inference, memory, parameters
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normwise.compare.trial import Outcome
from normwise.errors import NormError

FILE_NAME = "ledger.sqlite"
_VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    candidate TEXT NOT NULL, seed INTEGER NOT NULL, score REAL, reason TEXT,
    curve TEXT NOT NULL, seconds REAL NOT NULL,
    finished TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%S', 'now')),
    PRIMARY KEY (candidate, seed), CHECK ((score IS NULL) <> (reason IS NULL))
);
CREATE TABLE IF NOT EXISTS costs (
    candidate TEXT PRIMARY KEY, train_s_per_step REAL, inference_us_per_sample REAL,
    peak_memory_mb REAL, parameters INTEGER
);
PRAGMA user_version = {_VERSION};
"""


@dataclass(frozen=True)
class Cost:
    """What a candidate costs to run, measured; None where it cannot be.

    train_s_per_step         seconds, one optimizer step on a full batch
    inference_us_per_sample  microseconds, evaluation mode
    peak_memory_mb           megabytes (1e6) that a training step has in use at most,
                             beside the model and the optimizer's state
    parameters               how many numbers are trained
    """

    train_s_per_step: float | None = None
    inference_us_per_sample: float | None = None
    peak_memory_mb: float | None = None
    parameters: int | None = None


class Ledger:
    """Finished trials in ``<folder>/ledger.sqlite``; use as a context manager.

    A new ledger is removed again, with its folder, if the block ends by an
    exception before there is a trial in it.

    Raises
        NormError  if the file is damaged or no ledger, or another version's, or the
                   folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    def __enter__(self) -> "Ledger":
        folder = self.path.parent
        self._is_new = not self.path.exists()
        self._new_folders = [each for each in (folder, *folder.parents) if not each.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NormError(f"{folder} cannot hold a ledger: {error.strerror}") from error
        with self._explained():
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        try:
            with self._explained():
                version, tables = self._connection.execute(
                    "SELECT user_version, (SELECT count(*) FROM sqlite_master) "
                    "FROM pragma_user_version"
                ).fetchone()
                if version == 0 and tables:
                    raise sqlite3.DatabaseError("its tables are others")
                if version == 0:
                    # SQLite's own journal: it survives kill -9 and works on network drives,
                    # where a write-ahead log does not.
                    self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
                elif version != _VERSION:
                    raise NormError(
                        f"{self.path} was written by another version of normwise (ledger "
                        f"{version}, this is {_VERSION}); use another --out, or --fresh"
                    )
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        in_vain = kind is not None and self._is_new and not self.outcomes()
        self._connection.close()
        if in_vain:
            discard(self.path.parent)
            with suppress(OSError):  # something else has been put there
                for folder in self._new_folders:
                    folder.rmdir()

    def claim(self, fingerprint: Mapping[str, str]) -> None:
        """Make the ledger this task's, or check that it is.

        Raises
            NormError  if it holds another task's trials; says what differs.
        """
        held = self.read("fingerprint")
        if held is None:
            self.write("fingerprint", dict(fingerprint))
            return
        different = [
            key for key in {**held, **fingerprint} if held.get(key) != fingerprint.get(key)
        ]
        if different:
            shown = ", ".join(
                f"{key} ({held.get(key, '–')} there, {fingerprint.get(key, '–')} now)"
                for key in different
            )
            raise NormError(
                f"{self.path.parent} holds the trials of another task; what differs: {shown}. "
                "Use another --out, or --fresh to start again there"
            )

    def write(self, key: str, value: Any) -> None:
        """Keep a JSON value of the run as a whole."""
        with self._explained():
            self._connection.execute(
                "INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value))
            )

    def read(self, key: str) -> Any:
        """A value that was written, or None."""
        with self._explained():
            row = self._connection.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])

    def add(self, outcome: Outcome) -> None:
        """Keep a finished trial; one that is there already stays as it is."""
        with self._explained():
            self._connection.execute(
                "INSERT OR IGNORE INTO trials (candidate, seed, score, reason, curve, seconds) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    outcome.candidate,
                    outcome.seed,
                    outcome.score,
                    outcome.reason,
                    json.dumps(outcome.curve),
                    outcome.seconds,
                ),
            )

    def outcomes(self) -> list[Outcome]:
        """Every finished trial, in the order they finished."""
        with self._explained():
            rows = self._connection.execute(
                "SELECT candidate, seed, score, reason, curve, seconds FROM trials ORDER BY rowid"
            ).fetchall()
            return [
                Outcome(
                    candidate,
                    seed,
                    score,
                    reason,
                    json.loads(curve),
                    seconds,
                    kind="failed" if score is None else "finished",
                )
                for candidate, seed, score, reason, curve, seconds in rows
            ]

    def add_cost(self, candidate: str, cost: Cost) -> None:
        """Keep what a candidate was measured to cost."""
        with self._explained():
            self._connection.execute(
                "INSERT OR REPLACE INTO costs VALUES (?, ?, ?, ?, ?)",
                (candidate, *asdict(cost).values()),
            )

    def costs(self) -> dict[str, Cost]:
        """What has been measured, by candidate."""
        with self._explained():
            rows = self._connection.execute("SELECT * FROM costs").fetchall()
        return {row[0]: Cost(*row[1:]) for row in rows}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise NormError(
                f"{self.path} is damaged or no ledger ({error}); move it away to keep it, or use "
                "--fresh to start again"
            ) from error


def discard(folder: Path) -> None:
    """Remove a ledger, whatever state it is in."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        (folder / (FILE_NAME + suffix)).unlink(missing_ok=True)
