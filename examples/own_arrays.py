"""A task from arrays of one's own: `normwise compare examples/own_arrays.py`.

Whose data it is does not matter: here two kinds of chirp are made up, in noise and
at an offset that differs from recording to recording, as a sensor's does.
"""

import torch
from torch import nn

import normwise as nw


def chirps(count, seed):
    """Rising and falling chirps: x (count, 3, 128) float32, y (count,) 0 or 1."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (count,), generator=draw)
    time = torch.linspace(0, 1, 128)
    rate = torch.where(y == 0, 6.0, -6.0)[:, None] * (
        1 + 0.3 * torch.randn(count, 1, generator=draw)
    )
    clean = torch.sin(2 * torch.pi * (12 * time + rate * time**2))
    noise = torch.randn(count, 3, 128, generator=draw)
    offset = 5 * torch.randn(count, 3, 1, generator=draw)
    return clean[:, None] + noise + offset, y


def build():
    return nn.Sequential(
        nn.Conv1d(3, 32, kernel_size=9, padding=4),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Conv1d(32, 32, kernel_size=9, padding=4),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(32, 2),
    )


task = nw.Task(
    model=build,
    train=chirps(256, seed=1),
    valid=chirps(512, seed=2),
    loss="cross_entropy",
    metric="accuracy",
    batch_size=16,
    epochs=12,
    learning_rate=3e-3,
    schedule="cosine",
)
