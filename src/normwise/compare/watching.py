"""A comparison that another process runs, seen through its ledger."""

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from normwise.compare.ledger import existing
from normwise.compare.progress import Progress
from normwise.compare.sharing import claims, is_running
from normwise.errors import NormError

LOOK_S = 1.0
COLUMNS = (
    *("candidate", "seed", "kind", "score", "reason", "epochs", "seconds"),
    *("started", "finished", "worker", "attempts"),
)


def watch(folder: Path) -> None:
    """Show a run on the terminal until it ends.

    Raises
        NormError  if the folder holds no ledger.
    """
    with existing(folder) as ledger:
        plan, seen = ledger.read("plan"), ledger.outcomes()
        if plan is None:
            return
        with Progress(plan, seen) as shown:
            while is_running(ledger):
                new = ledger.outcomes(after=len(seen))
                seen += new
                for outcome in new:
                    shown.add(outcome)
                under_way = {(c.candidate, c.seed): c.epochs for c in claims(ledger)}
                shown.running(under_way)
                shown.say("" if under_way else "timing the candidates side by side")
                time.sleep(LOOK_S)


def write_csv(folder: Path, to: str) -> None:
    """Write a row for every trial that has ended, in that order, to a file, or "-" for stdout.

    Times are UTC. The run may be going on.

    Raises
        NormError  if the folder holds no ledger, or the file cannot be written.
    """
    with existing(folder) as ledger:
        rows = ledger.read_rows(
            "SELECT candidate, seed, kind, score, reason, json_array_length(curve), seconds, "
            "started, finished, worker, json_array_length(lost) + 1 FROM trials ORDER BY rowid"
        )
    if to == "-":
        _write_rows(rows, sys.stdout)
        return
    try:
        with Path(to).open("w", newline="", encoding="utf-8") as stream:
            _write_rows(rows, stream)
    except OSError as error:
        raise NormError(f"{to} cannot be written: {error.strerror}") from error


def _write_rows(rows: Sequence[tuple[Any, ...]], stream: IO[str]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
