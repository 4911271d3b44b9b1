"""Where trials run: here, or in worker processes of this machine."""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from normwise.compare.schedule import Schedule, Trial
from normwise.compare.task import TASK_MODULE, Task
from normwise.compare.trial import Outcome, run_trial
from normwise.errors import NormError

Watch = Callable[[Trial, int], None]  # a trial under way, and the epochs it has behind it


def run_here(task: Task, schedule: Schedule, watch: Watch) -> Iterator[Outcome]:
    """Run trials one after the other in this process."""
    while (trial := schedule.next()) is not None:
        watch(trial, 0)
        yield run_trial(
            task,
            trial.candidate,
            trial.seed,
            keep_weights=trial.keep_weights,
            # mypy cannot infer a lambda's default; it binds this trial, not the loop's last.
            on_progress=lambda epoch, trial=trial: watch(trial, epoch),  # type: ignore[misc]
        )


def run_in_workers(task: Task, schedule: Schedule, watch: Watch, workers: int) -> Iterator[Outcome]:
    """Run trials in `workers` processes.

    Raises
        NormError  if the task cannot be sent to another process, or one dies.
    """
    import cloudpickle

    for name, module in list(sys.modules.items()):
        if name.startswith(TASK_MODULE):  # no other process could import a task file by name
            cloudpickle.register_pickle_by_value(module)
    try:
        packed = cloudpickle.dumps(task)
    except Exception as error:
        raise NormError(
            f"the task cannot be sent to worker processes ({error}); use workers=1, or build the "
            "model and open files inside functions"
        ) from error
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(packed,),
    )
    running: dict[Future[bytes], Trial] = {}
    try:
        while True:
            while len(running) < workers and (trial := schedule.next()) is not None:
                watch(trial, 0)
                with _interrupts_held():
                    running[pool.submit(_work, trial)] = trial
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            # What was finished is handed on before an error ends the run.
            for future in sorted(done, key=lambda future: future.exception() is not None):
                outcome = pickle.loads(future.result())
                del running[future]
                yield outcome
    except BrokenProcessPool as error:
        names = ", ".join(f"{trial.candidate} with seed {trial.seed}" for trial in running.values())
        raise NormError(
            f"a worker process died, perhaps for want of memory, while it ran {names}; what was "
            "finished is kept, and the same command goes on from there. (A script that asks for "
            "workers starts below if __name__ == '__main__':)"
        ) from error
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits for the end of the block; processes that begin inside never see one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_task: Task


def _begin(packed: bytes) -> None:
    import cloudpickle

    global _task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _task = cloudpickle.loads(packed)


def _end_with_parent() -> None:
    """A killed driver cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(trial: Trial) -> bytes:
    outcome = run_trial(_task, trial.candidate, trial.seed, keep_weights=trial.keep_weights)
    return pickle.dumps(outcome)  # as it is, torch would share every tensor by an open file
