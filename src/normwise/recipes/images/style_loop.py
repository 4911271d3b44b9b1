"""How a style network is trained: on what, by what loss, in what steps, and how it goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normwise.compare.task.fingerprint import digest, of_code
from normwise.recipes.images.perceptual import GramStyle, content_distance, variation
from normwise.recipes.images.pictures import resized, sheet, write_image
from normwise.recipes.images.vgg import VGG
from normwise.recipes.outcome import counted

CONTENT = "relu2_2"
STYLE = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
SCORED, APART = 12, 5  # times in a training at the most, and steps between them at the least
VARIATION = 0.1  # its weight in the loss


class Perceptual:
    """How far paintings are from the content of photos, and from a style.

        loss = content + style_weight · style + 0.1 · variation

    with the distances of `perceptual`, on the layers that Johnson, Alahi and Fei-Fei took (2016,
    arXiv:1603.08155).
    """

    def __init__(self, vgg: VGG, style: Tensor, style_weight: float) -> None:
        self.vgg, self.style, self.style_weight = vgg, style, style_weight
        with torch.no_grad():
            features = vgg(style[None], STYLE)
        # Not among what tells a task from another: threads and devices round it differently.
        self._styles = {name: GramStyle([features[name]], [1.0]) for name in STYLE}

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.style.device

    def __call__(self, paintings: Tensor, photos: Tensor) -> Tensor:
        content, style = self.parts(paintings, photos)
        return content + self.style_weight * style + VARIATION * variation(paintings)

    def parts(self, paintings: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        """The distances from the content and from the style.

        Shapes
            paintings, photos  (N, 3, H, W) float32, 0 to 1
        """
        with torch.no_grad():
            aim = self.vgg(photos, [CONTENT])[CONTENT]
        features = self.vgg(paintings, STYLE)
        distances = [self._styles[name].distance(features[name]) for name in STYLE]
        return content_distance(features[CONTENT], aim), torch.stack(distances).mean()


@dataclass(frozen=True)
class Loop:
    """Trains a network, as `nw.Task(run=…)` takes it; goes on where it was stopped.

    train, valid  (N, 3, S, S) float32, 0 to 1
    folder        for what goes on
    preview       a picture of how far it is, rewritten as it gets further; none, if None
    """

    train: Tensor
    valid: Tensor
    loss: Perceptual
    steps: int
    batch_size: int
    folder: Path
    preview: Path | None = None
    learning_rate: float = 2e-3

    def __call__(
        self, network: torch.nn.Module, seed: int, report: Callable[[int, float], None]
    ) -> float:
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "decay": decay}
        file = self.folder / f"{digest(repr(network), of_code(self))}-{seed}.pt"
        start, curve = 0, [(0, self.score(network))]
        if file.is_file():
            kept = torch.load(file, weights_only=True)
            start, curve = kept["step"], kept["curve"]
            for name, part in parts.items():
                part.load_state_dict(kept[name])
        for step, score in curve:
            report(step, score)
        every = max(APART, self.steps // SCORED)
        steps: Sequence[int] = range(start + 1, self.steps + 1)
        for step in steps if self.preview is None else counted(steps, "training"):
            x = self.batch(step, seed)
            loss = self.loss(network(x), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            if step % every == 0 or step == self.steps:
                curve.append((step, self.score(network)))
                self._keep(file, {name: part.state_dict() for name, part in parts.items()}, curve)
                self._show(network)
                report(*curve[-1])
        if file.is_file():  # the caller has the network now
            file.unlink()
        return curve[-1][1]

    def batch(self, step: int, seed: int) -> Tensor:
        """The crops of a step, some of them mirrored: the same whenever it is asked for."""
        drawn = torch.Generator().manual_seed(seed * 1_000_003 + step)
        places = torch.randint(len(self.train), (self.batch_size,), generator=drawn)
        x = self.train[places]
        if torch.rand((), generator=drawn) < 0.5:
            x = x.flip(-1)
        return x.to(self.loss.device)

    def score(self, network: torch.nn.Module) -> float:
        """The mean loss of what was held out, as the network is used: in evaluation mode."""
        return self.losses(network)["loss"]

    def losses(self, network: torch.nn.Module | None) -> dict[str, float]:
        """The loss and the distances from content and style of what was held out.

        network  None: of the photos as they are
        """
        found = []
        for x in torch.split(self.valid, 4):
            x = x.to(self.loss.device)
            with torch.no_grad():
                y = x if network is None else self.paint(network, x)
                found.append(torch.stack([self.loss(y, x), *self.loss.parts(y, x)]) * len(x))
        means = torch.stack(found).sum(0) / len(self.valid)
        return dict(zip(("loss", "content", "style"), means.tolist(), strict=True))

    def paint(self, network: torch.nn.Module, x: Tensor) -> Tensor:
        """What a network paints in evaluation mode, in which it is not left."""
        network.eval()
        with torch.no_grad():
            y: Tensor = network(x.to(self.loss.device))
        network.train()
        return y

    def _keep(self, file: Path, states: dict[str, Any], curve: list[tuple[int, float]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        torch.save({**states, "step": curve[-1][0], "curve": curve}, part)
        part.replace(file)

    def _show(self, network: torch.nn.Module) -> None:
        if self.preview is not None:
            shown = self.valid[:4]
            paintings = self.paint(network, shown).cpu()
            write_image(sheet([*shown, *paintings], columns=len(shown), height=192), self.preview)


def crops(photos: Sequence[Tensor], size: int, count: int, seed: int = 0) -> Tensor:
    """Squares of photos, from as large as they fit to a side of `size`, brought to it.

    Shapes
        photos  each (3, H, W) float32
        out     (count, 3, size, size) float32
    """
    drawn = torch.Generator().manual_seed(seed)
    squares = []
    for place in range(count):
        photo = photos[place % len(photos)]
        least, most = sorted((size, min(photo.shape[1:])))
        if min(photo.shape[1:]) < size:
            most = least
        side = int(torch.randint(least, most + 1, (), generator=drawn))
        top, left = (
            int(torch.randint(length - side + 1, (), generator=drawn)) for length in photo.shape[1:]
        )
        square = photo[:, top : top + side, left : left + side]
        squares.append(square if side == size else resized(square, size, size))
    return torch.stack(squares)
