"""Networks of the windows of a series, behind a norm that can be swapped."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from normwise.compare import Comparison
from normwise.compare.trial import AS_IS
from normwise.layers import Reversible, ReversibleInstanceNorm

ROBUST = "reversible:statistics=median-mad"


class Linear(nn.Linear):
    """Every step ahead is a weighted sum of the window's steps, with the same weights for each
    channel.

    Shapes
        x    (N, C, T) float32
        out  (N, C, horizon)
    """


class Perceptron(nn.Sequential):
    """One hidden layer between the window and the steps ahead, shared by the channels."""

    def __init__(self, history: int, horizon: int, hidden: int = 256) -> None:
        super().__init__(
            nn.Linear(history, hidden), nn.GELU(), nn.Dropout(0.2), nn.Linear(hidden, horizon)
        )


class PatchTransformer(nn.Module):
    """Patches of the window are the words of a small transformer; channels do not mix.

    Shapes
        x    (N, C, T) float32, T at least 2
        out  (N, C, horizon)

    Source: Nie, Nguyen, Sinthong and Kalagnanam 2023, arXiv:2211.14730, much smaller.
    """

    def __init__(self, history: int, horizon: int, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.patch = max(2, history // 8)
        self.stride = max(1, self.patch // 2)
        count = (history - self.patch) // self.stride + 1
        self.embed = nn.Linear(self.patch, width)
        self.place = nn.Parameter(0.02 * torch.randn(count, width))
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.2, activation="gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.encode = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.readout = nn.Sequential(nn.Flatten(), nn.Linear(count * width, horizon))

    def forward(self, x: Tensor) -> Tensor:
        patches = x.flatten(0, 1).unfold(-1, self.patch, self.stride)
        ahead: Tensor = self.readout(self.encode(self.embed(patches) + self.place))
        return ahead.reshape(*x.shape[:2], -1)


class Autoencoder(nn.Sequential):
    """A window, squeezed through a few numbers and drawn again from them; channels mix.

    Shapes
        x    (N, C, T) float32
        out  (N, C, T)
    """

    def __init__(self, channels: int, length: int, code: int, hidden: int = 64) -> None:
        size = channels * length
        super().__init__(
            nn.Flatten(), nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, code),
            nn.Linear(code, hidden), nn.GELU(), nn.Linear(hidden, size),
            nn.Unflatten(1, (channels, length)),
        )  # fmt: skip


# What makes a network of (history, horizon), and the learning rate and epochs it is trained with.
FORECASTERS: dict[str, tuple[Any, float, int]] = {
    "linear": (Linear, 5e-3, 6),
    "mlp": (Perceptron, 1e-3, 6),
    "patch": (PatchTransformer, 1e-3, 6),
}


def forecaster(backbone: str, channels: int, history: int, horizon: int) -> nn.Module:
    """A forecaster behind a reversible norm, as it is before anything is swapped."""
    make, _, _ = FORECASTERS[backbone]
    return Reversible(ReversibleInstanceNorm(channels), make(history, horizon))


def reconstructor(channels: int, length: int, code: int) -> nn.Module:
    """An autoencoder behind a reversible norm, as it is before anything is swapped."""
    return Reversible(ReversibleInstanceNorm(channels), Autoencoder(channels, length, code))


def reversible_called(name: str) -> str:
    """How a candidate is called, where the model as it is has a reversible norm."""
    return {AS_IS: "reversible", ROBUST: "reversible, median-mad"}.get(name, name)


def models(compared: Comparison, name: str) -> Iterator[nn.Module]:
    """The trained models of a norm, one for each seed."""
    return (compared.model(name, seed) for seed in compared.results["seeds"])


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    """What a model makes of many windows, on the CPU."""
    device = next(model.parameters()).device
    with torch.no_grad():
        return torch.cat([model(some.to(device)).cpu() for some in torch.split(x, 1024)])
