"""Which samples a seed trains on, and which it is scored on."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from normwise.errors import NormError, describe

Kind = Literal["random", "stratified", "temporal"]


class Split:
    """One set of samples, parted anew by each seed; every candidate of a seed gets the same parts.

    samples   how many there are
    held_out  the share that is kept for validation, above 0 and below 1
    folds     cross-validation instead: seed k is scored on fold k mod folds and trained on
              the others. The next `folds` seeds part the samples afresh
    kind      "random"; "stratified": every class is shared out in proportion; "temporal":
              what is held out comes after what is trained on, and with folds, the samples
              are cut into folds + 1 blocks, of which all before one are trained on
    classes   of every sample, for "stratified"
    groups    of every sample: a group is never on both sides
    gap       samples left out between the two sides of a temporal split

    Raises
        NormError  if the options contradict each other, or a side would be empty.
    """

    def __init__(
        self,
        samples: int,
        held_out: float | None = None,
        folds: int | None = None,
        kind: Kind = "random",
        *,
        classes: Tensor | None = None,
        groups: Any = None,
        gap: int = 0,
    ) -> None:
        if kind not in get_args(Kind):
            raise NormError(
                f"split={kind!r} is not known; write 'random', 'stratified' or 'temporal'"
            )
        if held_out is not None and folds is not None:
            raise NormError(
                f"valid={held_out} and folds={folds} both part the samples; give one of them"
            )
        if held_out is not None and not 0 < held_out < 1:
            raise NormError(
                "valid must be data, or the share of train that is held out, above 0 and below 1; "
                f"received {held_out}"
            )
        if groups is not None and kind != "random":
            raise NormError(f"groups= asks for a random split of groups; leave out split={kind!r}")
        self.samples = samples
        self.held_out = held_out
        self.folds = folds
        self.kind = kind
        self.gap = gap
        self._classes = classes
        self._groups = None if groups is None else _numbered(groups, samples)
        units = "samples" if self._groups is None else "groups"
        count = samples if self._groups is None else int(self._groups.max()) + 1
        train, valid = self.of(0)
        least = min(len(train), len(valid), int(samples * (held_out or 1)))
        if least < 1 or count < (folds or 0):
            raise NormError(f"{count} {units} are too few for {self.describe()}")

    def of(self, seed: int) -> tuple[Tensor, Tensor]:
        """The samples to train on, and those to be scored on, each in the order of the data."""
        if self.kind == "temporal":
            return self._temporal(seed)
        held_out = self._held_out(seed)
        return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()

    def describe(self) -> str:
        """What was asked for, in words: '20 % held out, stratified'."""
        kind = self.kind if self._groups is None else "by groups"
        share = (
            f"{self.folds} folds" if self.folds else f"{100 * (self.held_out or 0):g} % held out"
        )
        return f"{share}, {kind}"

    def _temporal(self, seed: int) -> tuple[Tensor, Tensor]:
        every = torch.arange(self.samples)
        if self.folds is None:
            first, last = self.samples - round((self.held_out or 0) * self.samples), self.samples
        else:
            blocks = torch.linspace(0, self.samples, self.folds + 2).round().long().tolist()
            first, last = blocks[seed % self.folds + 1], blocks[seed % self.folds + 2]
        return every[: max(0, first - self.gap)], every[first:last]

    def _held_out(self, seed: int) -> Tensor:
        """For every sample whether it is held out."""
        draw = torch.Generator().manual_seed(seed if self.folds is None else seed // self.folds)
        if self._groups is not None:
            return self._groups_held_out(draw, seed)[self._groups]
        order = torch.randperm(self.samples, generator=draw)
        if self._classes is not None:
            order = order[torch.argsort(self._classes[order], stable=True)]
        place = torch.arange(self.samples)
        if self.folds is not None:
            chosen = place % self.folds == seed % self.folds
        else:  # every 1/share-th place, so that each class gives its share
            start = float(torch.rand((), generator=draw)) if self._classes is not None else 0.5
            reached = (place * (self.held_out or 0) + start).floor()
            following = ((place + 1) * (self.held_out or 0) + start).floor()
            chosen = following > reached
        held_out = torch.zeros(self.samples, dtype=torch.bool)
        held_out[order] = chosen
        return held_out

    def _groups_held_out(self, draw: torch.Generator, seed: int) -> Tensor:
        """For every group whether it is held out: as many as come closest to the share asked."""
        assert self._groups is not None
        sizes = torch.bincount(self._groups)
        order = torch.randperm(len(sizes), generator=draw)
        held_out = torch.zeros(len(sizes), dtype=torch.bool)
        if self.folds is None:
            reached = sizes[order].cumsum(0)[:-1]  # one group at least is left to train on
            if len(reached):
                wanted = (self.held_out or 0) * self.samples
                held_out[order[: int((reached - wanted).abs().argmin()) + 1]] = True
            return held_out
        filled = torch.zeros(self.folds, dtype=torch.int64)
        for group in order[sizes[order].argsort(descending=True, stable=True)].tolist():
            fold = int(filled.argmin())
            filled[fold] += sizes[group]
            held_out[group] = fold == seed % self.folds
        return held_out


def _numbered(groups: Any, samples: int) -> Tensor:
    """The groups as numbers from 0 up, whatever they were named by."""
    names = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(names) != samples:
        raise NormError(
            f"groups= must name the group of each of the {samples} samples; "
            f"received {describe(groups)} with {len(names)}"
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])
