"""A worker: the process that trials run in, whoever started it."""

import os
import pickle
import platform
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import parent_process
from typing import Any

from normwise.compare.schedule import Trial
from normwise.compare.task import TASK_MODULE, Task
from normwise.compare.trial import Outcome, run_trial
from normwise.errors import NormError, one_line


def name_of_process() -> str:
    """Host and process, as the ledger names workers."""
    return f"{platform.node()}:{os.getpid()}"


def trial_of(task: Task, trial: Trial, on_progress: Callable[[int], None] | None) -> Outcome:
    """Run one trial of a schedule."""
    return run_trial(
        task,
        trial.candidate,
        trial.seed,
        keep_weights=trial.keep_weights,
        floors=trial.floors,
        on_progress=on_progress,
    )


def pack(task: Task) -> bytes:
    """A task as bytes that another process can make it from.

    Raises
        NormError  if something in it cannot be sent.
    """
    import cloudpickle

    for name, module in list(sys.modules.items()):
        if name.startswith(TASK_MODULE):  # no other process could import a task file by name
            cloudpickle.register_pickle_by_value(module)
    try:
        packed: bytes = cloudpickle.dumps(task)
    except Exception as error:
        raise NormError(
            f"the task cannot be sent to worker processes ({error}); use engine='here', or build "
            "the model and open files inside functions"
        ) from error
    return packed


def unpack(packed: bytes) -> Task:
    """The task that was packed.

    Raises
        NormError  if this process lacks what the task is made of.
    """
    import cloudpickle

    try:
        task: Task = cloudpickle.loads(packed)
    except Exception as error:
        raise NormError(
            f"a worker cannot rebuild the task ({one_line(error)}); what the task imports must "
            "be importable there, too"
        ) from error
    return task


def serve(pipe: Connection) -> None:
    """Be a worker of this machine: a task comes first, then trials; tell how each of them went.

    What goes back is ("ready", name), ("reached", epochs), ("ended", bytes of an outcome)
    and ("refused", error).
    """
    _belong_to_driver()

    def reached(epochs: int) -> None:
        pipe.send(("reached", epochs))

    with suppress(EOFError, OSError):  # the driver has nothing more to do, and hung up
        try:
            task = unpack(pipe.recv_bytes())
            pipe.send(("ready", name_of_process()))
            while True:
                outcome = trial_of(task, pipe.recv(), reached)
                # As it is, torch would share every tensor by an open file.
                pipe.send(("ended", pickle.dumps(outcome)))
        except NormError as error:
            pipe.send(("refused", error))


def _belong_to_driver() -> None:
    """Leave Ctrl-C to the driver, have a group for all children, and end when the driver does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if sys.platform == "linux":
        _die_with_parent()
    threading.Thread(target=_end_with_driver, daemon=True).start()


def _die_with_parent() -> None:
    """Have the kernel see to it: a thread would wait for whatever holds the interpreter's lock."""
    import ctypes

    libc: Any = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _end_with_driver() -> None:
    """A killed driver cannot tell its workers to stop."""
    driver = parent_process()
    if driver is not None:
        wait([driver.sentinel])
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)
