"""What is learned of a model once, for all checks to read."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from normwise import layers
from normwise.axes import Scheme
from normwise.doctor.probes import recorded
from normwise.errors import one_line
from normwise.layers.materialize import call, unchanged
from normwise.surgery.flow import Flow
from normwise.surgery.recognition import kinds, recognise
from normwise.surgery.replacing import process_groups
from normwise.surgery.sites import Site, find, is_frozen

_LIKE_BATCH = ("batch", "renorm", "ghost", "switchable", "evonorm-b0")


@dataclass
class Patient:
    """A norm, and what was seen of it.

    inputs    the shapes it was given, in the order of its calls
    low, high  the smallest and largest variance of an input channel; None unseen
    largest   the largest magnitude that it returned; None unseen
    dead      channels whose output did not vary over the sample, where others did
    """

    site: Site
    inputs: list[tuple[int, ...]] = field(default_factory=list)
    low: float | None = None
    high: float | None = None
    largest: float | None = None
    dead: int = 0

    @property
    def path(self) -> str:
        return self.site.path

    @property
    def module(self) -> Any:
        return self.site.module

    @property
    def remembers(self) -> bool:
        """Whether it has running statistics."""
        return self.module._buffers.get("running_var") is not None

    @property
    def is_frozen(self) -> bool:
        return is_frozen(self.module)

    @property
    def over_batch(self) -> bool:
        """Whether statistics are shared between samples in training."""
        return bool({*kinds(self.module)} & {*_LIKE_BATCH}) and not self.is_frozen

    @property
    def batches(self) -> int | None:
        """How many batches went into what it remembers; None where nobody counted."""
        counter = self.module._buffers.get("num_batches_tracked")
        return None if counter is None else int(counter)

    def elements(self) -> int | None:
        """The fewest elements that one statistic was averaged over, in training."""
        counts = [n for shape in self.inputs if (n := averaged_over(self.site, shape)) is not None]
        return min(counts, default=None)


class Examination:
    """A copy of a model, run in evaluation and in training on a sample; the facts of both.

    patients   the norms
    departures (path, relative difference between training and evaluation) of every
               module, in the order in which they end; empty where a run failed
    refusals   (mode, path of the norm or None, what was said) of runs that failed
    """

    def __init__(
        self,
        model: torch.nn.Module,
        sample: Any,
        *,
        loader: Iterable[Any] | None,
        lengths: Any,
        optimizer: torch.optim.Optimizer | None,
        steps: int | None,
    ) -> None:
        self.original = model
        self.model = copy.deepcopy(model, process_groups(model))
        self.sample, self.loader, self.lengths = sample, loader, lengths
        self.optimizer, self.steps = optimizer, steps
        self.patients = [Patient(site) for site in find(self.model)]
        self.flow = Flow(self.model, {id(p.module) for p in self.patients})
        self.names = {id(m): path for path, m in self.model.named_modules()}
        self.refusals: list[tuple[str, str | None, str]] = []
        self.departures: list[tuple[str, Tensor, Tensor]] = []
        evaluated = self._run("evaluation")
        trained = self._run("training")
        if evaluated is not None and trained is not None:
            self.departures = [
                (path, a, b)
                for (path, a), (other, b) in zip(evaluated, trained, strict=False)
                if path == other and a.shape == b.shape
            ]
        self.first_batch = self._first_batch()

    @property
    def x(self) -> Tensor | None:
        """The first tensor of the sample."""
        parts = self.sample if isinstance(self.sample, tuple) else (self.sample,)
        if isinstance(self.sample, dict):
            parts = tuple(self.sample.values())
        return next((part for part in parts if isinstance(part, Tensor)), None)

    @property
    def batch_size(self) -> int | None:
        """Samples in a batch of the loader, or in the sample."""
        if self.first_batch is not None:
            return self.first_batch
        return None if self.x is None or not self.x.dim() else len(self.x)

    def _first_batch(self) -> int | None:
        if self.loader is None or iter(self.loader) is self.loader:
            return None
        with torch.random.fork_rng([]):  # a loader that shuffles draws from the generator
            batch = next(iter(self.loader), None)
        parts = batch.values() if isinstance(batch, dict) else batch
        parts = [batch] if isinstance(batch, Tensor) else list(parts or [])
        first = next((part for part in parts if isinstance(part, Tensor)), None)
        return None if first is None else len(first)

    def _run(self, mode: str) -> list[tuple[str, Tensor]] | None:
        """Every module's output; None, and a refusal noted, where the model raised."""
        begun: list[str] = []
        try:
            with (
                warnings.catch_warnings(),
                unchanged(self.model),
                torch.no_grad(),
                recorded(self.model) as seen,
            ):
                warnings.simplefilter("ignore")  # what torch only warns of is a finding
                torch.manual_seed(0)
                for patient in self.patients if mode == "training" else ():
                    patient.module.training = not patient.is_frozen
                with self._watched(begun, note=mode == "evaluation"):
                    call(self.model, self.sample)
        except Exception as error:  # a model may raise anything; the doctor reports it
            self.refusals.append((mode, begun[-1] if begun else None, one_line(error)))
            return None
        return seen

    @contextmanager
    def _watched(self, begun: list[str], *, note: bool) -> Iterator[None]:
        handles = []
        for patient in self.patients:

            def before(module: Any, args: Any, kwargs: Any, patient: Patient = patient) -> None:
                begun.append(patient.path)
                x = args[0] if args else next(iter(kwargs.values()), None)
                if isinstance(x, Tensor) and (note or not patient.inputs):
                    patient.inputs.append(tuple(x.shape))
                    _note_input(patient, x)

            def after(module: Any, args: Any, output: Any, patient: Patient = patient) -> None:
                begun.pop()
                if note and isinstance(output, Tensor) and output.numel():
                    _note_output(patient, output)

            handles.append(patient.module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(patient.module.register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def averaged_over(site: Site, shape: tuple[int, ...]) -> int | None:
    """How many elements a norm's statistic is averaged over, for x of a shape, in training."""
    module: Any = site.module
    kind = site.kind
    space = prod(shape[2:])
    if isinstance(module, layers.Norm):
        scheme: Scheme = module.scheme
        sizes = dict(module.part_sizes())
        names = scheme.pattern.spread(len(shape))
        count = 1
        for axes, size in zip(names, shape, strict=True):
            known = prod(sizes.get(a.name, 1) for a in axes)
            for axis in axes:
                if axis.averaged:
                    count *= sizes.get(axis.name, size // known if len(axes) > 1 else size)
        return count
    if len(shape) < 2:
        return None
    if kind in ("batch", "renorm"):
        return shape[0] * space
    if kind == "ghost":
        return min(int(module.ghost_size), shape[0]) * space
    if kind == "instance":
        unbatched = site.dim is not None and len(shape) == site.dim + 1
        return prod(shape[1:]) if unbatched else space
    if kind == "group":
        found = recognise(module)
        groups = getattr(module, "num_groups", None) or (found.groups if found else None)
        return None if not groups else shape[1] // int(groups) * space
    if kind in ("layer", "rms"):
        if site.dim:
            return shape[1]
        features = site.num_features
        return prod(features) if isinstance(features, tuple) else shape[-1]
    return None


def _note_input(patient: Patient, x: Tensor) -> None:
    if patient.site.dim == 0 or x.dim() < 2 or not x.is_floating_point() or not x.numel():
        return
    over = [i for i in range(x.dim()) if i != 1]
    var = x.detach().double().var(over, correction=0)
    patient.low, patient.high = float(var.min()), float(var.max())


def _note_output(patient: Patient, y: Tensor) -> None:
    y = y.detach().double()
    patient.largest = max(patient.largest or 0.0, float(y.abs().max()))
    if patient.site.dim == 0 or y.dim() < 2 or y.shape[0] * prod(y.shape[2:]) < 2:
        return
    over = [i for i in range(y.dim()) if i != 1]
    spread = y.std(over, correction=0)
    usual = float(spread.median())
    patient.dead = max(patient.dead, int((spread <= 1e-6 * usual).sum()) if usual else 0)
