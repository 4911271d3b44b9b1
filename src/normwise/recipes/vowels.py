"""Who is speaking? A residual convolutional network over utterances of unequal length."""

import torch
from torch import Tensor, nn

from normwise.compare import Task
from normwise.data import japanese_vowels

CHANNELS, SPEAKERS, FEATURES = 64, 9, 12


class ResidualBlock(nn.Module):
    """x + relu(norm(convolution(x))), of the same size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class SpeakerClassifier(nn.Module):
    """Four residual convolutions, the mean over the recorded frames, and a linear readout.

    Shapes
        x        (N, 12, T) float32
        lengths  (N,) int64, in frames
        out      (N, 9), one logit per speaker
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(FEATURES, CHANNELS, kernel_size=1)
        self.blocks = nn.Sequential(*(ResidualBlock(CHANNELS) for _ in range(4)))
        self.readout = nn.Linear(CHANNELS, SPEAKERS)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        features = self.blocks(self.stem(x))
        recorded = torch.arange(x.shape[-1], device=x.device) < lengths[:, None]
        mean = (features * recorded[:, None]).sum(-1) / lengths[:, None]
        logits: Tensor = self.readout(mean)
        return logits


def task() -> Task:
    """Japanese vowels: 270 utterances of nine men to learn from, 370 to recognise."""
    train, test = japanese_vowels()
    return Task(
        model=SpeakerClassifier,
        train=tuple(train),
        valid=tuple(test),
        loss="cross_entropy",
        metric="accuracy",
        batch_size=8,
        epochs=10,
        learning_rate=2e-3,
        schedule="cosine",
        name="japanese-vowels",
    )
