"""What a terminal shows while trials run; silence everywhere else."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

import tiny
from normwise.compare import progress
from normwise.compare.progress import Progress, plan_of
from normwise.compare.schedule import Trial
from normwise.compare.trial import Outcome


def drawn(shown):
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(shown._picture())
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.fixture
def shown(monkeypatch):
    """A display of 2 candidates with 3 seeds, of which one trial is finished at time 0."""
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    plan = plan_of(tiny.task, ["as-is", "rms"], 3)
    return Progress(plan, [Outcome("as-is", 0, 0.5, None)])


def test_it_begins_with_what_is_finished(shown):
    head, _, now, names, *rows = drawn(shown)
    assert head == "tiny: 1 of 6 trials"
    assert now == ""
    assert names.split() == ["candidate", "trials", "mean", "accuracy"]
    assert [row.split() for row in rows] == [["as-is", "1", "0.5"], ["rms", "0", "–"]]


def test_it_says_what_is_tried_now(shown):
    shown.watch(Trial("rms", 0, True), 0)
    shown.watch(Trial("as-is", 1, False), 1)
    assert drawn(shown)[2] == "now rms, seed 0; as-is, seed 1, epoch 1 of 2"
    shown.add(Outcome("rms", 0, None, "diverged", kind="failed"))
    shown.add(Outcome("as-is", 1, 0.75, None))
    shown.say("timing")
    head, _, now, _, *rows = drawn(shown)
    assert (head, now) == ("tiny: 3 of 6 trials", "timing")
    assert [row.split() for row in rows] == [
        ["as-is", "2", "0.625"],
        ["rms", "1", "(1", "failed)", "–"],
    ]


@pytest.mark.parametrize(
    ("passed_s", "left"),
    [(1, ", about 2 s left"), (120, ", about 3 min left"), (0.1, "")],
)
def test_the_time_left_is_reckoned_from_this_runs_own_trials(shown, monkeypatch, passed_s, left):
    for seed in (0, 1):
        shown.add(Outcome("rms", seed, 0.5, None))
    monkeypatch.setattr(progress.time, "monotonic", lambda: passed_s)
    assert drawn(shown)[0] == f"tiny: 3 of 6 trials{left}"


def test_no_terminal_no_display(capsys):
    with Progress(plan_of(tiny.task, ["as-is"], 1), []) as silent:
        silent.watch(Trial("as-is", 0, True), 0)
        silent.add(Outcome("as-is", 0, 0.5, None))
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def hasty_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_it_can_be_drawn_while_it_changes(shown):
    stop = threading.Event()

    def draw():
        while not stop.is_set():
            shown._now()
            shown._so_far()

    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(draw)
        for seed in range(1500):
            shown.watch(Trial("rms", seed, False), 1)
            shown.add(Outcome("as-is", seed, 0.5, None))
        stop.set()
        drawing.result()
