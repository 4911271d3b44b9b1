"""The command as a user runs it: in a process of its own, beside this checkout's sources."""

import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent
TINY = TESTS / "tiny.py"
STOPPABLE = TESTS / "stoppable.py"
PATH = os.pathsep.join(filter(None, sys.path))
PATIENCE_S = 120  # a process takes 3 s to import torch, and several share a busy machine


def start(*words, cwd, stdout=subprocess.PIPE, **variables):
    """`normwise` with these words, under way in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "normwise.cli", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PATH, **variables},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*words, cwd, **variables):
    """The exit code, what was printed, and what went to stderr."""
    process = start(*words, cwd=cwd, **variables)
    printed, complaints = process.communicate(timeout=PATIENCE_S)
    return process.returncode, printed, complaints


def others(process):
    """The processes of its session that are alive, the first of it left out."""
    alive = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = status.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended meanwhile
            continue
        if int(session) == process.pid != int(status.parent.name) and state != "Z":
            alive.append(int(status.parent.name))
    return alive


def until(condition):
    """Wait for something to become true; whether it did."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
