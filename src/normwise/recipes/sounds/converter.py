"""The networks of voice conversion: what is said apart from who says it, and a listener."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normwise.layers import AdaptiveInstanceNorm1d, BatchNorm1d, InstanceNorm1d

WIDTH = 64
CODE = 4  # channels of what is said, at half the frames: little room for who says it


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, kernel_size=5, stride=stride, padding=2)


class Content(nn.Sequential):
    """What is said: instance norm takes off each channel's mean and scale, and the voice with them.

    Shapes
        x    (N, bands, T) float32
        out  (N, CODE, ceil(T / 2))
    """

    def __init__(self, bands: int) -> None:
        layers: list[nn.Module] = []
        for inputs, stride in ((bands, 1), (WIDTH, 2), (WIDTH, 1)):
            layers += [_convolution(inputs, WIDTH, stride), InstanceNorm1d(WIDTH), nn.ReLU()]
        super().__init__(*layers, nn.Conv1d(WIDTH, CODE, kernel_size=1), InstanceNorm1d(CODE))


class Converter(nn.Module):
    """An autoencoder whose decoder gives each channel the statistics it has in a voice.

    Shapes
        x    (N, 2 bands, T) float32: what is to be said again, above another clip of the same
             voice
        out  (N, bands, T)

    Source: Chou, Yeh and Lee 2019, arXiv:1904.05742, much smaller; statistics are those of the
    other clip's features, as Huang and Belongie take them from a style (2017, arXiv:1703.06868).
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.content = Content(bands)
        self.voice = nn.ModuleList(
            _convolution(*sizes) for sizes in ((bands, WIDTH), (WIDTH, WIDTH, 2), (WIDTH, WIDTH))
        )
        self.told = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, kernel_size=1) for _ in self.voice)
        self.said = nn.ModuleList(_convolution(inputs, WIDTH) for inputs in (CODE, WIDTH, WIDTH))
        self.adapt = AdaptiveInstanceNorm1d()
        self.out = _convolution(WIDTH, bands)

    def forward(self, x: Tensor) -> Tensor:
        said, voice = x.chunk(2, dim=1)
        return self.convert(said, voice)

    def convert(self, said: Tensor, voice: Tensor) -> Tensor:
        """What is said in a clip (N, bands, T), in the voice of another (N or 1, bands, T')."""
        levels = []
        for hear, tell in zip(self.voice, self.told, strict=True):
            voice = torch.relu(hear(voice))
            levels.append(tell(voice))
        features = self.content(said)
        for level, (say, style) in enumerate(zip(self.said, reversed(levels), strict=True)):
            if level == len(levels) - 1:  # as many frames as there were
                features = F.interpolate(features, size=said.shape[-1])
            features = torch.relu(self.adapt(say(features), style))
        clip: Tensor = self.out(features)
        return clip


class Listener(nn.Module):
    """Tells speakers by features over time: means and deviations of two convolutions."""

    def __init__(self, channels: int, speakers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (channels, WIDTH):
            layers += [_convolution(inputs, WIDTH), BatchNorm1d(WIDTH), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.readout = nn.Linear(2 * WIDTH, speakers)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        logits: Tensor = self.readout(torch.cat([features.mean(-1), features.std(-1)], 1))
        return logits


def taught(x: Tensor, speakers: Tensor, count: int, seed: int, epochs: int = 12) -> Listener:
    """A listener that has learned who speaks in clips x (N, C, T)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        listener = Listener(x.shape[1], count)
        optimizer = torch.optim.Adam(listener.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(x)), 32):
                if len(batch) > 1:  # no batch norm can train on one
                    optimizer.zero_grad()
                    loss: Any = F.cross_entropy(listener(x[batch]), speakers[batch])
                    loss.backward()
                    optimizer.step()
            schedule.step()
    return listener.eval()


@torch.no_grad()
def recognised(listener: Listener, x: Tensor, speakers: Tensor) -> float:
    """The share of clips whose speaker is told, each speaker counting the same."""
    right = listener(x).argmax(1) == speakers
    each = [right[speakers == who].float().mean() for who in sorted(set(speakers.tolist()))]
    return float(torch.stack(each).mean())
