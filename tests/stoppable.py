"""A task whose every trial is noted in a file, and may stop the whole run: see `STOP`.

TRIALS  a file: each trial adds the line "none with seed 0" when it begins
STOP    "5 SIGKILL": the trial that adds the fifth line sends this signal to the driver;
        "5 exit": its own process ends without a word. No trial begins meanwhile
"""

import fcntl
import multiprocessing
import os
import signal
import time
from pathlib import Path

import torch

import normwise as nw
import tiny

NAMES = {torch.nn.BatchNorm1d: "as-is", nw.Identity: "none", nw.RMSNorm1d: "rms"}


def run(model, seed, report):
    at, _, how = os.environ.get("STOP", "0 never").partition(" ")
    with Path(os.environ["TRIALS"]).open("a+") as trials:
        fcntl.flock(trials, fcntl.LOCK_EX)  # or another trial begins, and ends, before the signal
        trials.write(f"{NAMES[type(model.layers[1])]} with seed {seed}\n")
        trials.seek(0)
        if len(trials.readlines()) == int(at):
            stop(how)
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
    if how == "exit":
        os._exit(7)
    time.sleep(0.3)  # another trial would begin now, if it could
    parent = multiprocessing.parent_process()
    driver = parent.pid if parent else os.getpid()
    if how == "SIGINT":
        os.killpg(driver, signal.SIGINT)  # as a terminal does, to all who share it
    else:
        os.kill(driver, signal.SIGKILL)
    time.sleep(60)


task = tiny.a_task(run=run, higher_is_better=False, name="stoppable")
