"""The race beside the full grid, on real series: what each recommends, and with how many trials.

    pip download --no-deps aeon==1.6.0 && unzip aeon-*.whl 'aeon/datasets/data/*'
    python benchmarks/race.py aeon/datasets/data

The grid is trained, 8 candidates with 12 seeds. A trial's score is decided by candidate and
seed, so the race over the same task is replayed from the grid's trials: each that it asks for
ends as it did there, or stops where its curve falls below its floor.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import normwise as nw
from normwise.compare.ledger import Ledger
from normwise.compare.race import History, Race
from normwise.compare.results import gather_results
from normwise.compare.trial import AS_IS, Outcome
from normwise.machine import stamp
from normwise.recipes import vowels

RESULTS = Path(__file__).parent / "results" / "race.json"
CANDIDATES = ["none", "instance", "group:8", "layer", "rms", "renorm", "switchable"]
SEEDS = 12
EPOCHS = {"ItalyPowerDemand": 20, "GunPoint": 40, "BasicMotions": 10}


class Classifier(nn.Module):
    """Three convolutions with batch norm, the mean over time, a linear readout."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, kernel in ((channels, 7), (32, 5), (32, 3)):
            layers += [
                nn.Conv1d(inside, 32, kernel, padding=kernel // 2),
                nn.BatchNorm1d(32),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.readout = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.readout(self.body(x).mean(-1))
        return logits


def read_series(path: Path) -> tuple[torch.Tensor, list[str]]:
    """(N, C, T) float32, and a label each, from a .ts file of series of one length."""
    body = path.read_text(encoding="utf-8").split("@data", 1)[1].strip()
    rows = [line.split(":") for line in body.splitlines()]
    values = [[np.array(c.split(","), dtype=np.float32) for c in row[:-1]] for row in rows]
    return torch.from_numpy(np.array(values)), [row[-1] for row in rows]


def task_of(name: str, folder: Path) -> nw.Task:
    """A set of the UCR or UEA archive with its own split, as a task."""
    parts = [read_series(folder / name / f"{name}_{part}.ts") for part in ("TRAIN", "TEST")]
    labels = sorted(set(parts[0][1]))
    train, valid = ((x, torch.tensor([labels.index(y) for y in own])) for x, own in parts)
    channels = train[0].shape[1]
    return nw.Task(
        model=lambda: Classifier(channels, len(labels)),
        train=train,
        valid=valid,
        batch_size=16,
        epochs=EPOCHS[name],
        schedule="cosine",
        name=name,
    )


def replayed(grid: Path, race_folder: Path, higher_is_better: bool) -> dict:
    """The results of a race over the trials of a grid."""
    with Ledger(grid) as ledger:
        known = {(o.candidate, o.seed): o for o in ledger.outcomes()}
        asked, costs = ledger.read("asked"), ledger.costs()
    schedule = Race(
        History(asked["candidates"], AS_IS, higher_is_better, seeds=SEEDS), keep_weights=0
    )
    with Ledger(race_folder) as ledger:
        while (trial := schedule.next()) is not None:
            outcome = _stopped(known[trial.candidate, trial.seed], trial.floors, higher_is_better)
            ledger.add(outcome)
            schedule.add(outcome)
        for name, cost in costs.items():
            ledger.add_cost(name, cost)
        ledger.write("asked", {**asked, "race": {"ended": schedule.ended}})
        return gather_results(ledger)


def _stopped(outcome: Outcome, floors, higher_is_better: bool) -> Outcome:
    for place, entry in enumerate(outcome.curve):
        floor = floors.get(int(entry["epoch"]))
        if floor is not None and (entry["score"] < floor) == higher_is_better:
            curve = outcome.curve[: place + 1]
            reason = f"stopped in epoch {entry['epoch']}"
            return Outcome(outcome.candidate, outcome.seed, None, reason, curve, kind="stopped")
    return outcome


def compared(task: nw.Task) -> dict:
    """What grid and race recommend, and what the race took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        grid = nw.compare(
            task, CANDIDATES, seeds=SEEDS, race=False, out=Path(folder) / "grid", progress=False
        )
        taken = time.perf_counter() - start
        raced = replayed(Path(folder) / "grid", Path(folder) / "race", task.higher_is_better)
    both = [grid.best, raced["recommendation"]["candidate"]]
    against = _verdict(grid.results, both)
    found = {
        "grid": grid.results["recommendation"],
        "race": raced["recommendation"],
        "same": both[0] == both[1],
        "apart": against,
        "trials": raced["race"]["trials"],
        "of": raced["race"]["grid"],
        "stopped": sum(len(row["stopped"]) for row in raced["candidates"]),
        "ended": raced["race"]["ended"],
        "dropped": {row["name"]: row["dropped"] for row in raced["candidates"]},
        "scores": {row["name"]: row["scores"] for row in grid.results["candidates"]},
        "grid_s": round(taken, 1),
    }
    print(
        f"{task.name}: grid {both[0]}, race {both[1]}"
        f"{'' if against is None else f' ({against} in the grid)'}; "
        f"{found['trials']} of {found['of']} trials; {found['ended']}\n"
        f"  grid: {found['grid']['why']}\n  race: {found['race']['why']}",
        flush=True,
    )
    return found


def _verdict(results: dict, both: list[str]) -> str | None:
    """What the grid's trials say of the race's choice against the grid's own; None if equal."""
    from normwise.compare.verdict import judge

    if both[0] == both[1]:
        return None
    scores = {
        row["name"]: {int(seed): score for seed, score in row["scores"].items()}
        for row in results["candidates"]
    }
    higher = results["metric"]["higher_is_better"]
    return judge(scores, both[0], higher)[both[1]].word


def main() -> None:
    """Run all four sets and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="aeon/datasets/data")
    parser.add_argument("--only", default="", help="sets whose name has this in it")
    options = parser.parse_args()
    tasks = [vowels.task(), *(task_of(name, options.folder) for name in EPOCHS)]
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"sets": {}}
    found.update(stamp())
    for task in tasks:
        if options.only in str(task.name):
            found["sets"][task.name] = compared(task)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
