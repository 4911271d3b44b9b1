"""A task that trains in milliseconds; a task file as well: `normwise compare tests/tiny.py`."""

import torch
from torch import nn

import normwise as nw

LENGTH = 16


def waves(count, seed):
    """Slow and quick waves in noise: x (count, 2, 16) float32, y (count,) 0 or 1."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    time = torch.linspace(0, 1, LENGTH)
    cycles = (2 + 3 * y)[:, None, None] * time + torch.rand(count, 2, 1, generator=draw)
    noise = torch.randn(count, 2, LENGTH, generator=draw)
    return torch.sin(2 * torch.pi * cycles) + 0.5 * noise, y


def frames(count, seed, fill=0):
    """Waves of unequal length, and at each position whether the first channel is positive."""
    x, _ = waves(count, seed)
    lengths = torch.arange(count) % 12 + 4
    recorded = torch.arange(LENGTH) < lengths[:, None]
    return x * recorded[:, None], torch.where(recorded, x[:, 0] > 0, fill).long(), lengths


class Net(nn.Module):
    """Two convolutions with batch norm and dropout, the mean over time, a linear readout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2, 8, kernel_size=3, padding=1),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv1d(8, 8, kernel_size=3, padding=1),
            nn.BatchNorm1d(8),
            nn.ReLU(),
        )
        self.readout = nn.Linear(8, 2)

    def forward(self, x):
        return self.readout(self.layers(x).mean(-1))


class PerFrame(Net):
    """The same with a readout at every position."""

    def forward(self, x):
        return self.readout(self.layers(x).mT).mT


def a_task(**options):
    """The tiny task, with other options where they are given."""
    usual = {
        "model": Net,
        "train": waves(24, seed=1),
        "valid": waves(40, seed=2),
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 0.03,
        "device": "cpu",
        "name": "tiny",
    }
    if "run" in options:
        usual |= {"train": None, "valid": None, "higher_is_better": True}
    return nw.Task(**usual | options)


task = a_task()
