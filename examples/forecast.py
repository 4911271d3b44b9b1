"""A forecast of what follows: `normwise compare examples/forecast.py`.

A daily rhythm on a level that wanders: the next 12 hours from the last 48, all at once.
What is held out comes last, and no window of the training reaches into it.
"""

import torch
from torch import nn

import normwise as nw

HISTORY, HORIZON = 48, 12


def hourly(days, seed):
    """Two sensors (2, T) float32: a rhythm of 24 hours, a level that wanders, and noise."""
    draw = torch.Generator().manual_seed(seed)
    time = torch.arange(24 * days)
    rhythm = torch.sin(2 * torch.pi * time / 24) + 0.5 * torch.sin(2 * torch.pi * time / 12)
    level = 0.1 * torch.randn(2, len(time), generator=draw).cumsum(-1)
    return rhythm + level + 0.1 * torch.randn(2, len(time), generator=draw)


class Forecaster(nn.Module):
    """Convolutions over the past, a linear map from all of it to all that follows."""

    def __init__(self, channels=2, hidden=16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, hidden, kernel_size=5, padding=2),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, kernel_size=5, padding=2),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, channels, kernel_size=5, padding=2),
        )
        self.readout = nn.Linear(HISTORY, HORIZON)

    def forward(self, x):
        return self.readout(self.layers(x) + x)


task = nw.Task(
    model=Forecaster,
    train=nw.Windows(hourly(90, seed=0), HISTORY, HORIZON),
    valid=0.2,
    loss="mse",
    metric="mae",
    batch_size=32,
    epochs=8,
    learning_rate=2e-3,
    schedule="cosine",
)
