"""The ledger: every finished trial, in one SQLite file, from the moment it ended.

run      key → value (JSON)       the task's fingerprint and what the report needs
trials   candidate, seed → how it ended: score or reason, curve (JSON), seconds, when, where
costs    candidate → training step, inference, memory, parameters
drivers  the processes that run trials now, and when each was last heard of
claims   candidate, seed → the driver that runs this trial now

`docs/ledger.md` describes every column.
"""

import errno
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from normwise.compare.trial import Outcome
from normwise.errors import NormError

FILE_NAME = "ledger.sqlite"
PATIENCE_S = 30  # for another process that is writing
_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    candidate TEXT NOT NULL, seed INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('finished', 'failed', 'stopped')),
    score REAL, reason TEXT, curve TEXT NOT NULL, seconds REAL NOT NULL,
    worker TEXT, lost TEXT NOT NULL DEFAULT '[]',
    started TEXT NOT NULL, finished TEXT NOT NULL,
    PRIMARY KEY (candidate, seed),
    CHECK ((score IS NULL) <> (kind = 'finished')), CHECK ((reason IS NULL) = (kind = 'finished'))
);
CREATE TABLE IF NOT EXISTS costs (
    candidate TEXT PRIMARY KEY, train_s_per_step REAL, inference_us_per_sample REAL,
    peak_memory_mb REAL, parameters INTEGER,
    train_compiled_s_per_step REAL, inference_compiled_us_per_sample REAL, not_compiled TEXT
);
CREATE TABLE IF NOT EXISTS drivers (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, heard_of REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS claims (
    candidate TEXT NOT NULL, seed INTEGER NOT NULL, driver TEXT NOT NULL,
    since REAL NOT NULL, epochs INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (candidate, seed)
);
"""
# From each earlier version to the next, by its number.
_MIGRATIONS = {
    1: f"""
    ALTER TABLE trials RENAME TO trials_1;
    ALTER TABLE costs RENAME TO costs_1;
    {_SCHEMA}
    INSERT INTO trials (candidate, seed, kind, score, reason, curve, seconds, started, finished)
        SELECT candidate, seed, CASE WHEN score IS NULL THEN 'failed' ELSE 'finished' END,
            score, reason, curve, seconds, datetime(finished, -seconds || ' seconds'), finished
        FROM trials_1 ORDER BY rowid;
    INSERT INTO costs
        (candidate, train_s_per_step, inference_us_per_sample, peak_memory_mb, parameters)
        SELECT * FROM costs_1;
    DROP TABLE trials_1;
    DROP TABLE costs_1;
    """
}


@dataclass(frozen=True)
class Cost:
    """What a candidate costs to run, measured; None where it cannot be.

    train_s_per_step         seconds, one optimizer step on a full batch
    inference_us_per_sample  microseconds, evaluation mode
    peak_memory_mb           megabytes (1e6) that a training step has in use at most,
                             beside the model and the optimizer's state
    parameters               how many numbers are trained
    train_compiled_s_per_step, inference_compiled_us_per_sample  the same of the model as
                             torch.compile makes it, where that was asked for
    not_compiled             why there are no such figures, where they were asked for
    """

    train_s_per_step: float | None = None
    inference_us_per_sample: float | None = None
    peak_memory_mb: float | None = None
    parameters: int | None = None
    train_compiled_s_per_step: float | None = None
    inference_compiled_us_per_sample: float | None = None
    not_compiled: str | None = None

    @property
    def compiling_was_tried(self) -> bool:
        """Whether there are figures of the compiled model, or it is known why not."""
        return self.train_compiled_s_per_step is not None or self.not_compiled is not None


class Ledger:
    """Finished trials in ``<folder>/ledger.sqlite``; use as a context manager.

    Several processes may read and write it at once. An earlier version's ledger is
    brought up to date when it is opened. A new ledger is removed again, with its
    folder, if the block ends by an exception before there is a trial in it.

    Raises
        NormError  if the file is damaged or no ledger, or a later version's, the disk is
                   full, or the folder cannot be made.
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
            # SQLite's own journal: it survives kill -9 and works on network drives,
            # where a write-ahead log does not.
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=PATIENCE_S)
        try:
            if self._version() != _VERSION:
                with self.writing() as connection:  # others may have come to do the same
                    _bring_up_to_date(connection, self._version(), self.path)
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        in_vain = kind is not None and self._is_new and self._is_empty()
        self._connection.close()
        if in_vain:
            remove(self.path.parent)
            with suppress(OSError):  # something else has been put there
                for folder in self._new_folders:
                    folder.rmdir()

    def _version(self) -> int:
        with self._explained():
            version, tables = self._connection.execute(
                "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
            ).fetchone()
            if version == 0 and tables:
                raise sqlite3.DatabaseError("its tables are others")
            return int(version)

    def _is_empty(self) -> bool:
        """Whether neither a trial nor a driver is in it; another process may have put some."""
        with suppress(NormError):
            count = "SELECT (SELECT count(*) FROM trials) + (SELECT count(*) FROM drivers)"
            return self.read_rows(count) == [(0,)]
        return False

    def claim(
        self,
        fingerprint: Mapping[str, str],
        cure: str = "use another --out, or --fresh to start again there",
    ) -> None:
        """Make the ledger this task's, or check that it is; `cure` says what to do if not.

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
                f"{self.path.parent} holds the trials of another task; what differs: {shown}; "
                f"{cure}"
            )

    def write(self, key: str, value: Any) -> None:
        """Keep a JSON value of the run as a whole."""
        with self.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    def read(self, key: str) -> Any:
        """A value that was written, or None."""
        with self._explained():
            rows = self.read_rows("SELECT value FROM run WHERE key = ?", key)
            return json.loads(rows[0][0]) if rows else None

    def add(self, outcome: Outcome) -> None:
        """Keep a trial that has ended; one that is there already stays as it is."""
        with self.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, "
                "datetime('now', ?), datetime('now'))",
                (
                    outcome.candidate,
                    outcome.seed,
                    outcome.kind,
                    outcome.score,
                    outcome.reason,
                    json.dumps(outcome.curve),
                    outcome.seconds,
                    outcome.worker,
                    json.dumps(outcome.lost),
                    f"{-outcome.seconds} seconds",
                ),
            )
            connection.execute(
                "DELETE FROM claims WHERE candidate = ? AND seed = ?",
                (outcome.candidate, outcome.seed),
            )

    def outcomes(self, after: int = 0) -> list[Outcome]:
        """Every trial that has ended, in that order; the first `after` of them left out."""
        with self._explained():
            return [
                Outcome(
                    candidate=candidate,
                    seed=seed,
                    kind=kind,
                    score=score,
                    reason=reason,
                    curve=json.loads(curve),
                    seconds=seconds,
                    worker=worker,
                    lost=json.loads(lost),
                )
                for candidate, seed, kind, score, reason, curve, seconds, worker, lost in (
                    self.read_rows(
                        "SELECT candidate, seed, kind, score, reason, curve, seconds, worker, lost "
                        "FROM trials ORDER BY rowid LIMIT -1 OFFSET ?",
                        after,
                    )
                )
            ]

    def add_cost(self, candidate: str, cost: Cost) -> None:
        """Keep what a candidate was measured to cost."""
        with self.writing() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO costs (candidate, {_COST_COLUMNS}) "
                f"VALUES (?{', ?' * len(fields(Cost))})",
                (candidate, *asdict(cost).values()),
            )

    def costs(self) -> dict[str, Cost]:
        """What has been measured, by candidate."""
        rows = self.read_rows(f"SELECT candidate, {_COST_COLUMNS} FROM costs")
        return {row[0]: Cost(*row[1:]) for row in rows}

    def read_rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query gives."""
        with self._explained():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A block that is written as a whole or not at all; no other process writes meanwhile."""
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise NormError(self._told(error)) from error

    def _told(self, error: Exception) -> str:
        said = str(error)
        if "disk is full" in said or "disk I/O error" in said:
            return full_disk(self.path.parent, said)
        if "locked" in said:
            return (
                f"another process has been writing to {self.path} for {PATIENCE_S} s; what was "
                "finished is kept, and the same command goes on"
            )
        if "readonly" in said:
            return f"{self.path} cannot be written to ({error}); see to its permissions"
        return (
            f"{self.path} is damaged or no ledger ({error}); move it away to keep it, or use "
            "--fresh to start again"
        )


_COST_COLUMNS = ", ".join(field.name for field in fields(Cost))


def _bring_up_to_date(connection: sqlite3.Connection, version: int, path: Path) -> None:
    """Make the tables, or those of an earlier version into today's."""
    if version > _VERSION:
        raise NormError(
            f"{path} was written by a later version of normwise (ledger {version}, this is "
            f"{_VERSION}); use that version, another --out, or --fresh"
        )
    scripts = [_SCHEMA] if version == 0 else [_MIGRATIONS[v] for v in range(version, _VERSION)]
    for statement in ";".join(scripts).split(";"):  # executescript would commit what is under way
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """A block that writes into a run's folder, where the disk may be full.

    Raises
        NormError  if it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NormError(full_disk(folder, str(error.strerror))) from error


def full_disk(folder: Path, reason: str) -> str:
    """What is said where no more can be written."""
    return (
        f"{folder} cannot be written to ({reason}); what was finished is kept: make room, and the "
        "same command goes on"
    )


def existing(folder: Path) -> Ledger:
    """The ledger of a folder that has one.

    Raises
        NormError  if it has none.
    """
    ledger = Ledger(folder)
    if not ledger.path.is_file():
        raise NormError(f"{folder} holds no ledger; name the folder of a run, as in runs/my-task")
    return ledger


def remove(folder: Path) -> None:
    """Remove a ledger, whatever state it is in."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        (folder / (FILE_NAME + suffix)).unlink(missing_ok=True)
