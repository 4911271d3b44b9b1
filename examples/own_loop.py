"""A task with a training loop of one's own: `normwise compare examples/own_loop.py`.

normwise hands over a model with a candidate's norms and a seed, and takes a score
back; what happens between is the loop's affair. Here: predict a series' next value.
"""

import torch
from torch import nn

import normwise as nw


def build():
    return nn.Sequential(
        nn.Conv1d(1, 16, kernel_size=5),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, kernel_size=5),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(1),
    )


def windows(count, draw):
    """Damped waves at random levels: x (count, 1, 32), and the value that follows each."""
    time = torch.arange(33) / 8
    level = 3 * torch.randn(count, 1, generator=draw)
    speed = 2 + torch.rand(count, 1, generator=draw)
    series = level + torch.exp(-time / 4) * torch.sin(speed * time)
    return series[:, None, :-1], series[:, -1:]


def run(model, seed, report):
    draw = torch.Generator().manual_seed(seed)
    x, y = windows(512, torch.Generator().manual_seed(0))
    xv, yv = windows(512, torch.Generator().manual_seed(1))
    model(x[:2])  # LazyLinear learns its size
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(1, 9):
        model.train()
        for batch in torch.randperm(len(x), generator=draw).split(32):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            error = nn.functional.mse_loss(model(xv), yv).item()
        report(epoch, error)
    return error


task = nw.Task(model=build, run=run, higher_is_better=False)
