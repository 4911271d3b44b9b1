"""What `compare` adds to a training loop written by hand, and what a second worker brings.

    python benchmarks/engines.py [--only trial|workers]

A trial through `compare` counts from being asked for to being in the ledger, its weights
saved; the loop by hand does the same training and nothing else, and must come to the
same score. The two take turns; the figure is the median of the rounds' ratios, with their
quartiles. Trials a minute count from the first one's start to the last one's end: what workers
take to start is a figure of its own.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import normwise as nw
from normwise.compare.comparison import run_schedule
from normwise.compare.engines import Engine, choose_engine
from normwise.compare.ledger import Ledger
from normwise.compare.loggers import Logs, Run
from normwise.compare.progress import Progress, plan_of
from normwise.compare.schedule import Grid
from normwise.compare.sharing import Driver
from normwise.machine import OtherWork, stamp
from normwise.timing import take_turns

RESULTS = Path(__file__).parent / "results" / "engines.json"
ROUNDS, WORKER_ROUNDS, TRIALS = 15, 3, 10
SAMPLES, LENGTH, EPOCHS, BATCH, RATE = 512, 128, 6, 32, 1e-3


def waves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Slow and quick waves in noise: x (count, 4, 128), y (count,) 0 or 1."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    cycles = (4 + y)[:, None, None] * torch.linspace(0, 1, LENGTH)
    phases = torch.rand(count, 4, 1, generator=draw)
    noise = torch.randn(count, 4, LENGTH, generator=draw)
    return torch.sin(2 * torch.pi * (cycles + phases)) + 2 * noise, y


def build() -> nn.Module:
    """Three convolutions with batch norm."""
    layers: list[nn.Module] = []
    for inside, outside in ((4, 64), (64, 64), (64, 64)):
        layers += [nn.Conv1d(inside, outside, 7, padding=3), nn.BatchNorm1d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 2))


TRAIN, VALID = waves(SAMPLES, seed=1), waves(SAMPLES // 2, seed=2)
TASK = nw.Task(
    model=build,
    train=TRAIN,
    valid=VALID,
    batch_size=BATCH,
    epochs=EPOCHS,
    learning_rate=RATE,
    device="cpu",
    name="overhead",
)


def by_hand(seed: int) -> float:
    """The same training, as one writes it for oneself; the score."""
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    (x, y), (xv, yv) = TRAIN, VALID
    score = 0.0
    for _ in range(EPOCHS):
        model.train()
        for index in torch.randperm(SAMPLES, generator=order).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[index]), y[index])
            loss.backward()
            optimizer.step()
            if not torch.isfinite(loss):
                raise ArithmeticError("diverged")
        model.eval()
        with torch.no_grad():
            outputs = torch.cat([model(part) for part in xv.split(4 * BATCH)])
        score = float((outputs.argmax(1) == yv).double().mean())
    return score


def through_compare(engine: Engine, seeds: int) -> tuple[list[float], float, float]:
    """Scores, seconds until the first trial starts, and from there to the end of the last."""
    with tempfile.TemporaryDirectory() as place, Ledger(Path(place)) as ledger:
        plan = plan_of(TASK, ["as-is"], seeds)
        logs = Logs([], Run("overhead", {}, "accuracy", Path(place)), ledger)
        begun: list[float] = []

        class Timed(Progress):
            """Notes when the first trial starts."""

            def watch(self, *what: Any) -> None:
                begun.append(time.perf_counter())
                super().watch(*what)

        asked = time.perf_counter()
        with Driver(ledger) as driver:
            schedule = Grid(["as-is"], seeds, [], keep_weights=0)
            shown = Timed(plan, [], enabled=False)
            run_schedule(TASK, schedule, engine, driver, ledger, [], shown, logs)
            ended = time.perf_counter()
        scores = [outcome.score for outcome in ledger.outcomes() if outcome.score is not None]
    return scores, begun[0] - asked, ended - begun[0]


def measure_trial() -> dict[str, Any]:
    """One trial through `compare` beside the loop by hand."""
    here = choose_engine("here")
    assert through_compare(here, 1)[0] == [by_hand(0)], "not the same training"
    calls = {"compare": lambda: through_compare(here, 1), "by hand": lambda: by_hand(0)}
    seconds = take_turns(calls, ROUNDS, 0)
    pairs = zip(seconds["compare"], seconds["by hand"], strict=True)
    lower, median, upper = statistics.quantiles((one / other - 1 for one, other in pairs), n=4)
    return {
        **{f"{who.replace(' ', '_')}_s": statistics.median(s) for who, s in seconds.items()},
        "longer": median,
        "longer_quartiles": [lower, upper],
    }


def measure_workers() -> dict[str, Any]:
    """Trials a minute with one worker process and with two, taking turns."""
    per_minute: dict[int, list[float]] = {1: [], 2: []}
    starting: list[float] = []
    for _ in range(WORKER_ROUNDS):
        for workers in (1, 2):
            engine = choose_engine("processes", workers=workers)
            scores, start_s, run_s = through_compare(engine, TRIALS)
            assert len(scores) == TRIALS
            per_minute[workers].append(60 * TRIALS / run_s)
            starting.append(start_s)
    ratios = [two / one for one, two in zip(per_minute[1], per_minute[2], strict=True)]
    return {
        "one_worker_per_minute": statistics.median(per_minute[1]),
        "two_workers_per_minute": statistics.median(per_minute[2]),
        "ratio": statistics.median(ratios),
        "start_s": statistics.median(starting),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("trial", "workers"))
    only = parser.parse_args().only
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name, measure in (("trial", measure_trial), ("workers", measure_workers)):
        if only in (None, name):
            stamped, others = stamp(), OtherWork()
            results[name] = {**measure(), "busy_cores": others.cores(), **stamped}
            print(name, json.dumps(results[name], indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
