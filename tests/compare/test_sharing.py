"""Drivers that share a ledger: none repeats what another does, and the dead hold nothing."""

import subprocess
import sys
import time

import pytest

from normwise.compare import sharing
from normwise.compare.ledger import Ledger
from normwise.compare.schedule import Grid, Trial
from normwise.compare.sharing import Claim, Driver, Shared, claims, is_running
from normwise.compare.trial import Outcome

RMS, NONE = Trial("rms", 0), Trial("none", 0)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path) as opened:
        yield opened


@pytest.fixture
def other(tmp_path):
    """Another driver, with a connection of its own."""
    with Ledger(tmp_path) as opened, Driver(opened) as driver:
        yield driver


def ended(trial):
    return Outcome(trial.candidate, trial.seed, 0.5, None)


def test_a_trial_is_taken_once(ledger, other):
    with Driver(ledger) as driver:
        assert driver.take([RMS]) == RMS
        assert other.take([RMS]) is None
        assert other.take([RMS, NONE]) == NONE
        assert driver.take([RMS, NONE]) is None
        assert driver.take([]) is None
        assert claims(ledger) == [Claim("rms", 0, 0), Claim("none", 0, 0)]


def test_what_has_ended_is_not_taken(ledger):
    with Driver(ledger) as driver:
        driver.take([RMS])
        ledger.add(ended(RMS))
        assert driver.take([RMS]) is None
        assert claims(ledger) == []


def test_a_driver_that_stops_holds_nothing(ledger, other):
    with Driver(ledger) as driver:
        driver.take([RMS])
    assert claims(ledger) == []
    assert is_running(ledger)
    assert other.take([RMS]) == RMS


DOOMED = """
import os, signal, sys
from pathlib import Path
from normwise.compare.ledger import Ledger
from normwise.compare.schedule import Trial
from normwise.compare.sharing import Driver

with Ledger(Path(sys.argv[1])) as ledger, Driver(ledger) as driver:
    driver.take([Trial("rms", 0)])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no kill -9")
def test_a_killed_drivers_trials_are_free_at_once(ledger, other):
    killed = subprocess.run([sys.executable, "-c", DOOMED, ledger.path.parent], check=False)
    assert killed.returncode < 0
    assert ledger.read_rows("SELECT candidate, seed FROM claims") == [("rms", 0)]
    assert claims(ledger) == []
    assert other.take([RMS]) == RMS
    assert len(ledger.read_rows("SELECT * FROM drivers")) == 1, "the dead one is forgotten"


@pytest.mark.parametrize(("silent_s", "free"), [(5, False), (sharing.LEASE_S + 5, True)])
def test_a_far_drivers_trials_are_free_when_it_is_silent(ledger, other, silent_s, free):
    with ledger.writing() as connection:
        heard_of = time.time() - silent_s
        connection.execute("INSERT INTO drivers VALUES ('far', 'elsewhere', 1, ?)", (heard_of,))
        connection.execute("INSERT INTO claims VALUES ('rms', 0, 'far', ?, 3)", (heard_of,))
    assert claims(ledger) == ([] if free else [Claim("rms", 0, 3)])
    assert (other.take([RMS]) == RMS) is free


def test_a_driver_says_that_it_is_alive_and_how_far_it_is(ledger, monkeypatch):
    monkeypatch.setattr(sharing, "BEAT_S", 0.02)
    with Driver(ledger) as driver:
        driver.take([RMS])
        driver.reached(RMS, 7)
        before = time.time()
        deadline = before + 30
        while time.time() < deadline:
            ((heard_of,),) = ledger.read_rows("SELECT heard_of FROM drivers")
            if heard_of > before and claims(ledger) == [Claim("rms", 0, 7)]:
                break
            time.sleep(0.01)
        assert heard_of > before
        assert claims(ledger) == [Claim("rms", 0, 7)]


@pytest.fixture
def share(ledger, monkeypatch):
    """A schedule of one seed of two candidates, shared; with what others were heard to finish."""
    monkeypatch.setattr(sharing, "POLL_S", 0.01)
    with Driver(ledger) as driver:
        heard = []
        grid = Grid(["rms", "none"], 1, [], keep_weights=7)
        yield Shared(grid, ledger, driver, [], heard.append), heard


def test_what_others_run_is_left_to_them(ledger, share, other):
    shared, heard = share
    assert other.take([RMS]) == RMS
    assert shared.next() == NONE
    assert shared.next() is None, "something runs here, so nothing is waited for"
    for trial in (NONE, RMS):
        ledger.add(ended(trial))
    shared.add(ended(NONE))
    assert shared.next() is None
    assert heard == [ended(RMS)]


def test_what_came_while_the_schedule_was_made_is_heard(ledger, share):
    shared, heard = share  # neither knows of any outcome
    for trial in (RMS, NONE):
        ledger.add(ended(trial))
    assert shared.next() is None
    assert heard == [ended(RMS), ended(NONE)]


def test_what_others_finished_first_is_not_begun(ledger, share):
    shared, heard = share
    ledger.add(ended(NONE))
    assert shared.next() == RMS
    ledger.add(ended(RMS))
    shared.add(ended(RMS))
    assert shared.next() is None
    assert heard == [ended(NONE)]


def test_what_a_dead_driver_left_is_run_here(ledger, share, tmp_path):
    shared, _ = share
    with Ledger(tmp_path) as opened, Driver(opened) as doomed:
        assert doomed.take([RMS]) == RMS
        assert shared.next() == NONE
        ledger.add(ended(NONE))
        shared.add(ended(NONE))
    assert shared.next() == RMS


def test_one_driver_at_a_time_is_alone(ledger, other, monkeypatch):
    monkeypatch.setattr(sharing, "POLL_S", 0.01)
    with Driver(ledger) as driver:
        with driver.alone(lambda: False) as anything:
            assert anything
            looked = iter([False, False, True, True, True])
            with other.alone(lambda: next(looked)) as anything_else:
                assert not anything_else, "what it waited for has been done"
        with other.alone(lambda: False) as anything:
            assert anything
