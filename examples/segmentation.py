"""A label at every moment: `normwise compare examples/segmentation.py`.

Where in a recording is there a tone? Recordings differ in length and are padded; the
padding counts neither in the loss nor in the score. Each seed holds recordings of other
sensors out, so that none is known from training.
"""

import torch
from torch import nn

import normwise as nw


def recordings(count, seed):
    """Noise at a sensor's level, with a tone in it; its labels; and whose recording it is."""
    draw = torch.Generator().manual_seed(seed)
    series, labels, sensors = [], [], []
    for n in range(count):
        length = int(torch.randint(60, 160, (), generator=draw))
        start, end = (torch.rand(2, generator=draw).sort().values * length).long()
        time = torch.arange(length)
        tone = (time >= start) & (time < end)
        sensor = n % 12
        level, gain = 3 * (sensor % 4), 1 + sensor // 4
        noise = torch.randn(1, length, generator=draw)
        series.append(gain * (tone * torch.sin(0.8 * time) + noise) + level)
        labels.append(tone.long())
        sensors.append(sensor)
    return series, labels, sensors


def build():
    return nn.Sequential(
        nn.Conv1d(1, 24, kernel_size=9, padding=4),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Conv1d(24, 24, kernel_size=9, padding=4),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Conv1d(24, 2, kernel_size=1),
    )


series, labels, sensors = recordings(480, seed=0)

task = nw.Task(
    model=build,
    train=(series, labels),
    valid=0.25,
    groups=sensors,
    loss="cross_entropy",
    metric="accuracy",
    batch_size=16,
    epochs=20,
    learning_rate=3e-3,
    patience=4,
)
