"""Whole models with torch's norms, with ours in their place, and with none at all.

    python benchmarks/models.py [--only NAME]

A training step is forward, backward and an update; inference is a forward in
evaluation mode. The three take turns, and the figure is the median round. What the norms
cost is what they add to the time of the model without any.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import normwise as nw
from normwise.machine import stamp
from normwise.timing import take_turns

RESULTS = Path(__file__).parent / "results" / "models.json"
ROUNDS, ROUND_S = 5, 0.1
TORCH, OURS, NONE = "torch", "ours", "none"


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm, and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(inside, outside, 7, stride, 3, bias=False),
            nn.BatchNorm1d(outside),
            nn.ReLU(),
            nn.Conv1d(outside, outside, 7, 1, 3, bias=False),
            nn.BatchNorm1d(outside),
        )
        self.around = nn.Sequential()
        if stride > 1 or inside != outside:
            shortcut = nn.Conv1d(inside, outside, 1, stride, bias=False)
            self.around = nn.Sequential(shortcut, nn.BatchNorm1d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.around(x))


def resnet() -> nn.Module:
    """ResNet-18 in one dimension, for 12 leads of an electrocardiogram."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [
        ResidualBlock(inside, outside, 1 + (inside != outside))
        for inside, outside in pairwise(widths)
    ]
    stem = [nn.Conv1d(12, 64, 15, 2, 7, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    head = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(512, 5)]
    return nn.Sequential(*stem, nn.MaxPool1d(3, 2, 1), *blocks, *head)


class Separating(nn.Module):
    """A dilated depthwise convolution between two norms over the whole sample."""

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(channels, hidden, 1),
            nn.PReLU(),
            nn.GroupNorm(1, hidden, eps=1e-8),
            nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden),
            nn.PReLU(),
            nn.GroupNorm(1, hidden, eps=1e-8),
            nn.Conv1d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ConvTasNet(nn.Module):
    """Encode, mask for each of two speakers, decode."""

    def __init__(self, filters: int = 512, channels: int = 128, hidden: int = 512) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, filters, 16, 8, bias=False)
        blocks = [Separating(channels, hidden, 2**i) for _ in range(2) for i in range(8)]
        self.separator = nn.Sequential(
            nn.GroupNorm(1, filters, eps=1e-8),
            nn.Conv1d(filters, channels, 1),
            *blocks,
            nn.PReLU(),
            nn.Conv1d(channels, 2 * filters, 1),
            nn.Sigmoid(),
        )
        self.decoder = nn.ConvTranspose1d(filters, 1, 16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.encoder(x))
        masks = self.separator(code).unflatten(1, (2, -1))
        return self.decoder((masks * code[:, None]).flatten(0, 1))


class OverChannels(nn.Module):
    """A norm over the last dimension, where the channels are turned to."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mT).mT


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, and a small network for each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.each = nn.Sequential(
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.each(self.mix(x).mT).mT


def convnext() -> nn.Module:
    """ConvNeXt in one dimension, of half the tiny one's widths and depths."""
    widths, depths = (48, 96, 192, 384), (2, 2, 4, 2)
    layers: list[nn.Module] = [nn.Conv1d(12, widths[0], 4, 4), OverChannels(widths[0])]
    for before, width, depth in zip((0, *widths), widths, depths, strict=False):
        if before:
            layers += [OverChannels(before), nn.Conv1d(before, width, 2, 2)]
        layers += [ConvNeXtBlock(width) for _ in range(depth)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(384, 5))


def wav2vec() -> nn.Module:
    """The feature extractor of wav2vec 2.0, large: a norm over channels in each layer."""
    layers: list[nn.Module] = []
    channels = 1
    for kernel, stride in [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]:
        layers += [nn.Conv1d(channels, 512, kernel, stride), OverChannels(512), nn.GELU()]
        channels = 512
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Model:
    """A network, and an input as in use."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    input: str


MODELS = {
    "1-D ResNet-18": Model(resnet, (8, 12, 5000), "10 s of 12 leads at 500 Hz"),
    "Conv-TasNet": Model(ConvTasNet, (2, 1, 16000), "2 s of speech at 8 kHz"),
    "1-D ConvNeXt": Model(convnext, (8, 12, 5000), "10 s of 12 leads at 500 Hz"),
    "wav2vec features": Model(wav2vec, (2, 1, 32000), "2 s of speech at 16 kHz"),
}


def variants(model: Model) -> dict[str, nn.Module]:
    """One network in three: the same weights, other norms."""
    torch.manual_seed(0)
    stock = model.build()
    none = nw.swap(stock, lambda num_features, dim: nn.Identity())
    return {TORCH: stock, OURS: nw.swap(stock, "same"), NONE: none}


def training(network: nn.Module, x: Tensor) -> Callable[[], object]:
    """One step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()

    return step


def inference(network: nn.Module, x: Tensor) -> Callable[[], object]:
    """One forward."""

    @torch.no_grad()
    def run() -> None:
        network(x)

    return run


def difference(networks: Mapping[str, nn.Module], x: Tensor) -> float:
    """How far our outputs are from torch's: relative L2."""
    with torch.no_grad():
        ours, torchs = (networks[who](x).double() for who in (OURS, TORCH))
    return float((ours - torchs).norm() / torchs.norm())


def measure(name: str, model: Model) -> list[dict[str, object]]:
    """A row for the training step and one for inference."""
    x = torch.randn(model.shape, generator=torch.Generator().manual_seed(1))
    rows = []
    for way, call in (("training", training), ("inference", inference)):
        networks = {w: n.train(way == "training") for w, n in variants(model).items()}
        apart = difference(networks, x)
        calls = {who: call(network, x) for who, network in networks.items()}
        seconds = take_turns(calls, ROUNDS, ROUND_S, warm=True)

        def ratio(one: str, other: str, seconds: Mapping[str, list[float]] = seconds) -> float:
            pairs = zip(seconds[one], seconds[other], strict=True)
            return statistics.median(mine / theirs for mine, theirs in pairs)

        rows.append(
            {
                "model": name,
                "input": f"{'x'.join(map(str, model.shape))}, {model.input}",
                "pass": way,
                **{f"{who}_ms": statistics.median(s) * 1e3 for who, s in seconds.items()},
                "torch_adds": ratio(TORCH, NONE) - 1,
                "ours_adds": ratio(OURS, NONE) - 1,
                "over_torch": ratio(OURS, TORCH),
                "difference": apart,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=MODELS, metavar="NAME", help=", ".join(MODELS))
    only = parser.parse_args().only
    rows = []
    for name, model in MODELS.items():
        if only in (None, name):
            rows += measure(name, model)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "pass"):
        table.add_column(column)
    for column in ("bare", "torch.nn", "normwise", "torch +", "ours +", "ratio", "apart"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["model"],
            row["pass"],
            *(f"{row[f'{who}_ms']:.0f} ms" for who in (NONE, TORCH, OURS)),
            *(f"{row[f'{who}_adds']:+.0%}" for who in (TORCH, OURS)),
            f"{row['over_torch']:.2f}",
            f"{row['difference']:.0e}",
        )
    Console().print(table)
    if only is None:
        RESULTS.write_text(json.dumps({**stamp(), "rows": rows}, indent=1) + "\n")
        print(RESULTS)


if __name__ == "__main__":
    main()
