"""How much longer a trial takes than the same training written by hand.

    python benchmarks/overhead.py

Speech with lengths, and arrays without; both sides take turns, and the ratio is the
median over rounds. Both end with the same score, or the comparison would mean nothing.
"""

import runpy
import statistics
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import normwise as nw
from normwise.compare.randomness import own_randomness
from normwise.compare.trial import candidate_model, run_trial, threads
from normwise.recipes import vowels
from normwise.timing import take_turns

ROUNDS = 9
ARRAYS = Path(__file__).parents[1] / "examples" / "own_arrays.py"


def by_hand(task, candidate, seed):
    """The loop that a user would write for the task: no report, no curve, no checks."""
    x, y, *lengths = task.train.arrays
    with own_randomness(seed), threads(1):
        model = candidate_model(task, candidate, seed)
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=task.learning_rate, fused=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=task.epochs)
        order = torch.Generator().manual_seed(seed)
        for _ in range(task.epochs):
            model.train()
            for index in torch.randperm(len(y), generator=order).split(task.batch_size):
                if len(index) == 1:
                    continue
                optimizer.zero_grad()
                loss = cross_entropy(outputs(model, x, lengths, index), y[index])
                loss.backward()
                optimizer.step()
            scheduler.step()
            accuracy = evaluated(model.eval(), task)
    return accuracy


@torch.no_grad()
def evaluated(model, task):
    x, y, *lengths = task.valid.arrays
    parts = torch.arange(len(y)).split(4 * task.batch_size)
    right = [outputs(model, x, lengths, part).argmax(1) == y[part] for part in parts]
    return torch.cat(right).double().mean().item()


def outputs(model, x, lengths, index):
    if not lengths:
        return model(x[index])
    chosen = lengths[0][index]
    with nw.padding(chosen):
        return model(x[index][..., : int(chosen.max())], chosen)


def main():
    arrays = runpy.run_path(str(ARRAYS))["task"]
    for name, task in (("speech", vowels.task()), ("arrays", arrays)):
        task = task.replace(epochs=2)
        for candidate in ("as-is", "group:8"):
            assert by_hand(task, candidate, 0) == run_trial(task, candidate, 0).score
            rounds = take_turns(
                {
                    "by hand": lambda task=task, c=candidate: by_hand(task, c, 0),
                    "trial": lambda task=task, c=candidate: run_trial(task, c, 0),
                },
                ROUNDS,
                0,
            )
            hand, trial = rounds["by hand"], rounds["trial"]
            ratio = statistics.median(t / h for t, h in zip(trial, hand, strict=True))
            print(
                f"{name} {candidate}: by hand {statistics.median(hand):.3f} s, "
                f"as a trial {statistics.median(trial):.3f} s, ratio {ratio:.3f}"
            )


if __name__ == "__main__":
    main()
