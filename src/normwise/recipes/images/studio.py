"""Where a painting is while it is made: how far it is, its previews and losses, on disk."""

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normwise.errors import NormError
from normwise.recipes.images.painting import COLUMNS, Plan, Reached
from normwise.recipes.images.pictures import write_image
from normwise.recipes.images.vgg import VGG
from normwise.recipes.images.weights import read_torch


class Studio:
    """The folder of a painting, under a name.

    mark    tells one painting from another of the same name: see `mark_of`
    finish  what is done to the picture before it is shown
    """

    def __init__(
        self, folder: Path, name: str, mark: str, finish: Callable[[Tensor], Tensor]
    ) -> None:
        self.folder, self.name, self.mark, self.finish = folder, name, mark, finish
        self.picture = folder / f"{name}.png"
        self.losses = folder / f"{name}-losses.csv"
        self._state = folder / f"{name}.pt"
        self._previews = folder / f"{name}-previews"

    def reached(self) -> Reached | None:
        """How far this very painting was; None if there is none, or it is another."""
        try:
            kept = read_torch(self._state, "")
        except NormError:
            return None
        if not isinstance(kept, dict) or kept.get("mark") != self.mark:
            return None
        return Reached(**kept["reached"])

    def keep(self, reached: Reached) -> None:
        """Write how far it is: the picture, a preview, the losses, and what it takes to go on."""
        self._previews.mkdir(parents=True, exist_ok=True)
        image = self.finish(reached.image[0].cpu())
        write_image(image, self.picture)
        write_image(image, self._previews / f"{len(reached.losses):04}.jpg")
        with self.losses.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *reached.losses])
        part = self._state.with_suffix(".part")
        torch.save({"mark": self.mark, "reached": vars(reached)}, part)
        part.replace(self._state)

    def clear(self) -> None:
        """Forget the previews of another painting of this name."""
        for path in self._previews.glob("*.jpg"):
            path.unlink()


def mark_of(network: VGG, plan: Plan, images: Sequence[Tensor], *more: Any) -> str:
    """The same for the same painting: network, plan, pictures, and whatever else it depends on."""
    told = hashlib.sha256(repr((asdict(plan), network.kind, network.pooling, more)).encode())
    for tensor in (next(network.parameters()), *images):
        told.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return told.hexdigest()


@contextmanager
def shown(plan: Plan, done: Reached | None) -> Iterator[Callable[[Reached], None]]:
    """A line on the terminal, where there is one: step, losses, and how long it will take."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    work = [steps * size**2 for size, steps in zip(plan.sizes, plan.steps, strict=True)]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        line = progress.add_task(f"{plan.sizes[0]} px", total=sum(work))

        def tell(reached: Reached) -> None:
            size, step = plan.sizes[reached.size], reached.step
            _, _, content, style, *_ = reached.losses[-1]
            progress.update(
                line,
                completed=sum(work[: reached.size]) + step * size**2,
                description=f"{size} px, step {step}/{plan.steps[reached.size]}: "
                f"content {content:.3f}, style {style:.4f}",
            )

        if done is not None and done.losses:
            tell(done)
        yield tell


def draw_losses(reached: Reached, path: Path) -> Path:
    """Content and style by step; a line where the picture became larger."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    panel = figure.subplots()
    steps = range(1, len(reached.losses) + 1)
    for column, name, colour in ((2, "content", "#1b6ca8"), (3, "style", "#d1495b")):
        values = [row[column] if row[column] > 0 else float("nan") for row in reached.losses]
        panel.plot(steps, values, color=colour, label=name)
    sizes = [row[0] for row in reached.losses]
    for step in steps:
        if step == 1 or sizes[step - 1] != sizes[step - 2]:
            panel.axvline(step, color="#bbbbbb", linewidth=0.8)
            panel.annotate(f" {sizes[step - 1]:g} px", (step, 1.02), fontsize=9,
                           xycoords=("data", "axes fraction"))  # fmt: skip
    panel.set_yscale("log")
    panel.set_xlabel("step")
    panel.set_ylabel("distance, as a share of the aim")
    panel.legend(frameon=False)
    figure.savefig(path, dpi=110)
    return path
