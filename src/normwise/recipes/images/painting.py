"""A picture that changes step by step until its features are those of a content and a style."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.errors import NormError
from normwise.machine import free_memory
from normwise.recipes.images.perceptual import STYLES, content_distance, variation
from normwise.recipes.images.pictures import fitted, resized
from normwise.recipes.images.vgg import CHANNELS, VGG

HISTORY = 10  # steps that L-BFGS remembers, two pictures for each
FIRST = 0.003  # how far the first step of L-BFGS moves colours at the most, in the mean
FARTHEST = 0.03  # and any other
LEARNING_RATES = {"lbfgs": 1.0, "adam": 0.02}
NARROWEST = 32  # pixels of the shorter side: two positions at least behind four poolings
COARSEST = 96  # pixels of the longer side below which there is no coarser size
COLUMNS = ("size", "step", "content", "style", "variation", "total", "seconds")
INITS = ("content", "noise", "style")
_KEPT = 2.8  # numbers held for each that the convolutions give: measured, 256 to 1024 pixels


@dataclass(frozen=True)
class Plan:
    """What is sought, and how.

    sizes    pixels of the longer side, from coarse to fine
    steps    at each of them
    weights  of content, style and variation
    decay    what is left of the learning rate at the end of each size
    """

    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    content_layers: tuple[str, ...]
    style_layers: tuple[str, ...]
    style_by: str
    style_weights: tuple[float, ...]
    style_scale: float
    weights: tuple[float, float, float]
    optimizer: str
    learning_rate: float
    decay: float
    init: str
    seed: int


@dataclass
class Reached:
    """How far a painting is.

    image      (1, 3, H, W) float32, about 0 to 1
    size       place in the plan's sizes
    step       steps done at this size
    losses     a row for each step, as `COLUMNS` names its numbers, before the step was made
    optimizer  what it remembers; None between sizes
    """

    image: Tensor
    size: int = 0
    step: int = 0
    losses: list[list[float]] = field(default_factory=list)
    optimizer: dict[str, Any] | None = None


class Goal:
    """Content and style to be reached at one size, and the distance of an image from them.

    content  (3, H, W), of the size
    styles   each (3, H', W')
    """

    def __init__(self, network: VGG, content: Tensor, styles: Sequence[Tensor], plan: Plan) -> None:
        self.network, self.plan = network, plan
        with torch.no_grad():
            self.content = network(content[None], plan.content_layers)
            features = [network(style[None], plan.style_layers) for style in styles]
        self.styles = {
            name: STYLES[plan.style_by]([each[name] for each in features], plan.style_weights)
            for name in plan.style_layers
        }

    def parts(self, image: Tensor) -> list[Tensor]:
        """Content, style and variation, each without its weight: means over layers."""
        features = self.network(image, [*self.content, *self.styles])
        contents = [content_distance(features[name], aim) for name, aim in self.content.items()]
        styles = [style.distance(features[name]) for name, style in self.styles.items()]
        return [torch.stack(contents).mean(), torch.stack(styles).mean(), variation(image)]


def sizes_of(content: Tensor, scales: int) -> tuple[int, ...]:
    """Pixels of the longer side from coarse to fine, each double the one before."""
    longest = max(content.shape[1:])
    halves = [round(longest / 2**k) for k in range(scales)]
    fits = [size for size in halves if size >= COARSEST
            and min(fitted(content.shape[1:], size)) >= NARROWEST]  # fmt: skip
    return tuple(reversed(fits or [longest]))


def at_size(image: Tensor, size: int) -> Tensor:
    """The picture with its longer side brought to size, or as it is, if it has that already."""
    shape = fitted(image.shape[1:], size)
    return image if tuple(image.shape[1:]) == shape else resized(image, *shape)


def styles_at(styles: Sequence[Tensor], size: int, scale: float) -> list[Tensor]:
    """The styles beside a picture of a size: scale times as long, but not larger than they are."""
    return [at_size(style, min(round(size * scale), max(style.shape[1:]))) for style in styles]


def check_memory(
    network: VGG, plan: Plan, content: Tensor, styles: Sequence[Tensor], device: torch.device
) -> None:
    """Raises NormError if the finest size takes more memory than is free."""
    free = free_memory(device)
    needed = memory_needed(network, plan, content, styles)
    if free is not None and needed > free:
        height, width = content.shape[1:]
        size = max(plan.sizes)
        fits = int(size * (free / needed) ** 0.5 * 0.9) // 16 * 16
        raise NormError(
            f"{width}×{height} pixels need about {needed / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free; give a smaller picture by --size {fits}"
        )


def memory_needed(network: VGG, plan: Plan, content: Tensor, styles: Sequence[Tensor]) -> float:
    """Bytes at the finest size, about: features with what their gradients need, and L-BFGS."""
    wanted = {*plan.content_layers, *plan.style_layers}
    each, numbers = 0.0, 0.0
    for name in network.layers():
        if name.startswith("conv"):
            block = int(name[4])
            each += CHANNELS[block - 1] / 4 ** (block - 1)
        numbers = each if name in wanted else numbers
    pixels = content.shape[1] * content.shape[2]
    others = sum(style.shape[1] * style.shape[2] for style in styles)
    features = 4 * numbers * (_KEPT * max(pixels, others / len(styles) / 2) + 0.5 * others)
    return features + 12 * pixels * (2 * HISTORY + 6 if plan.optimizer == "lbfgs" else 6)


def paint(
    network: VGG,
    content: Tensor,
    styles: Sequence[Tensor],
    plan: Plan,
    reached: Reached | None = None,
) -> Iterator[Reached]:
    """How far the painting is after each step; from where it was, if that is given.

    content  (3, H, W) float32, on the network's device, as styles are

    Raises
        NormError  if the losses are no longer finite.
    """
    done = Reached(_first(content, styles, plan)) if reached is None else reached
    for place in range(done.size, len(plan.sizes)):
        if place > done.size:
            done = Reached(done.image, place, losses=done.losses)
        size = plan.sizes[place]
        small = at_size(content, size)
        goal = Goal(network, small, styles_at(styles, size, plan.style_scale), plan)
        image = _enlarged(done.image.to(small.device), *small.shape[1:]).requires_grad_()
        optimizer = _optimizer(plan, image)
        if done.optimizer is not None:
            optimizer.load_state_dict(done.optimizer)
        for step in range(done.step, plan.steps[place]):
            optimizer.param_groups[0]["lr"] = _rate(plan, step, plan.steps[place], image)
            begun = time.perf_counter()
            losses = [*done.losses, [size, step, *_improve(optimizer, image, goal)]]
            losses[-1].append(time.perf_counter() - begun)
            done = Reached(image.detach(), place, step + 1, losses, optimizer.state_dict())
            yield done


def _improve(optimizer: torch.optim.Optimizer, image: Tensor, goal: Goal) -> list[float]:
    """One step; content, style, variation and their weighted sum before it."""
    found: list[float] = []

    def closure() -> float:
        optimizer.zero_grad()
        parts = goal.parts(image)
        weighted = [w * part for w, part in zip(goal.plan.weights, parts, strict=True)]
        total = torch.stack(weighted).sum()
        total.backward()
        found[:] = torch.stack([*parts, total]).tolist()
        return found[-1]

    before = image.detach().clone()
    optimizer.step(closure)
    if isinstance(optimizer, torch.optim.LBFGS):
        _shorten(optimizer, image, before)
    if not all(map(torch.isfinite, torch.tensor(found))):
        raise NormError(
            f"the losses grew without bound at a learning rate of {goal.plan.learning_rate:g}; "
            "give a smaller one by --lr"
        )
    return found


def _shorten(optimizer: torch.optim.LBFGS, image: Tensor, before: Tensor) -> None:
    """Take back what a step went too far, and let L-BFGS know how long it has become.

    It searches no line, which would take twice the time, and may jump where curvature misleads.
    """
    with torch.no_grad():
        moved = image - before
        share = FARTHEST / max(FARTHEST, float(moved.abs().mean()))
        if share < 1:
            image.copy_(before + share * moved)
            optimizer.state[image]["t"] *= share


def _optimizer(plan: Plan, image: Tensor) -> torch.optim.Optimizer:
    if plan.optimizer == "adam":
        return torch.optim.Adam([image], lr=plan.learning_rate)
    return torch.optim.LBFGS(  # a step is one evaluation, and ends for no other reason
        [image], lr=plan.learning_rate, max_iter=1, history_size=HISTORY,
        tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip


def _rate(plan: Plan, step: int, steps: int, image: Tensor) -> float:
    """The learning rate of a step.

    torch's L-BFGS moves all numbers together by 1 at first. Shared by a million, that is
    less than float32 resolves, and the curvature it then sees is noise: losses rose 90 times.
    """
    if plan.optimizer == "lbfgs" and step == 0:
        return plan.learning_rate * FIRST * image.numel()
    left: float = plan.decay ** (step / max(1, steps - 1))
    return plan.learning_rate * left


def _first(content: Tensor, styles: Sequence[Tensor], plan: Plan) -> Tensor:
    """The picture before the first step: (1, 3, H, W) of the coarsest size."""
    small = at_size(content, plan.sizes[0])
    if plan.init == "noise":
        generator = torch.Generator().manual_seed(plan.seed)
        return (0.5 + 0.1 * torch.randn(small.shape, generator=generator)).to(small.device)[None]
    if plan.init == "style":
        return _enlarged(styles[0][None], *small.shape[1:])
    return small[None].clone()


def _enlarged(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[2:] == (height, width):
        return image.clone()
    return F.interpolate(image, (height, width), mode="bicubic", antialias=True)
