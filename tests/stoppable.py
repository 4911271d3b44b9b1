"""A task whose every trial is noted in a file, and may go wrong or stop the whole run.

TRIALS    a file: each trial adds the line "none with seed 0" when it begins
STOP      "5 SIGKILL": the trial that adds the fifth line sends this signal to the driver, and
          no trial begins meanwhile
FAULTS    "rms with seed 0=hang once,…": what befalls a trial, each time or once; see `befall`
TOGETHER  "2": trials wait until so many have begun, as where two drivers share the work
"""

import ctypes
import fcntl
import math
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import torch

import normwise as nw
import tiny

NAMES = {torch.nn.BatchNorm1d: "as-is", nw.Identity: "none", nw.RMSNorm1d: "rms"}
FAULTS = dict(fault.split("=") for fault in filter(None, os.environ.get("FAULTS", "").split(",")))
PATIENCE_S = 60


def run(model, seed, report):
    trial = f"{NAMES[type(model.layers[1])]} with seed {seed}"
    at, _, how = os.environ.get("STOP", "0 never").partition(" ")
    with Path(os.environ["TRIALS"]).open("a+") as trials:
        fcntl.flock(trials, fcntl.LOCK_EX)  # or another trial begins, and ends, before the signal
        trials.write(f"{trial}\n")
        trials.seek(0)
        begun = trials.read().splitlines()
        if len(begun) == int(at):
            stop(how)
    fault, _, often = FAULTS.get(trial, "").partition(" ")
    if fault and (not often or begun.count(trial) == 1):
        score = befall(fault)
        if score is not None:
            return score
    wait_for(int(os.environ.get("TOGETHER", "0")))
    x, y = tiny.waves(24, seed=1)
    for step in range(4):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():  # importing torch's optimizers would take longer than all trials
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        report(step, loss)
    return loss


def stop(how):
    time.sleep(0.3)  # another trial would begin now, if it could
    parent = multiprocessing.parent_process()
    driver = parent.pid if parent else os.getpid()
    if how == "SIGINT":
        os.killpg(driver, signal.SIGINT)  # as a terminal does, to all who share it
    else:
        os.kill(driver, signal.SIGKILL)
    time.sleep(PATIENCE_S)


def befall(fault):
    """Let a trial go wrong; a score, where it ends in one."""
    if fault == "raises":
        raise RuntimeError("no luck")
    if fault == "nan":
        return math.nan
    if fault == "exits":
        os._exit(7)
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hangs":  # and holds the interpreter's lock, as code in C may
        ctypes.PyDLL(None).sleep(PATIENCE_S)
    if fault in ("tensor", "list"):
        starve(fault)
    if fault == "deaf":
        try:
            time.sleep(PATIENCE_S)
        except KeyboardInterrupt:
            return 0.5  # Ctrl-C ends the training early, and the loop thinks nothing of it
    if fault == "stubborn":
        stay()
    return None


def stay():
    """Hear of Ctrl-C, and go on."""
    try:
        time.sleep(PATIENCE_S)
    except KeyboardInterrupt:
        Path(os.environ["TRIALS"]).with_name("heard").touch()
        stay()


def starve(kind):
    """Take more memory than the process may have."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**26, before[1]))
    try:
        torch.empty(2**30) if kind == "tensor" else bytearray(2**32)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def wait_for(count):
    until = time.monotonic() + PATIENCE_S
    while len(Path(os.environ["TRIALS"]).read_text().splitlines()) < count:
        assert time.monotonic() < until, "nobody else came"
        time.sleep(0.02)


task = tiny.a_task(run=run, higher_is_better=False, name="stoppable")
