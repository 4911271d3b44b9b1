"""What a norm is given: how many elements a statistic is averaged over, and of what."""

from collections.abc import Iterator
from typing import Any

from normwise.doctor.checks.words import name_of, patient_of, shape_of, where_of
from normwise.doctor.examination import Examination
from normwise.doctor.findings import Finding

_SMALL_BATCH = 8


def one_element(seen: Examination) -> Iterator[Finding]:
    """A statistic over a single element: the mean is the element, and nothing is left."""
    found = {p.path: p for p in seen.patients if p.elements() == 1 and p.site.kind != "group"}
    centred = {path: p for path, p in found.items() if p.site.kind not in ("rms",)}
    if centred:
        first = next(iter(centred.values()))
        yield Finding(
            "one-element",
            "error",
            tuple(centred),
            f"{name_of(first)} averages over one element: it was given {shape_of(first)}.",
            "The mean of one element is the element itself, so nothing of the signal is left. In "
            "training torch refuses some of these, and returns zeros for the rest.",
            f'nw.swap(model, "rms", {where_of(centred)})',
            {path: {"input": p.inputs[0], "elements": 1} for path, p in centred.items()},
        )


def erased_groups(seen: Examination) -> Iterator[Finding]:
    """A group norm whose groups are so small that little but signs is left."""
    found = {
        p.path: n
        for p in seen.patients
        if p.site.kind == "group" and (n := p.elements()) is not None and n <= 2
    }
    if found:
        p = patient_of(seen, next(iter(found)))
        groups = getattr(p.module, "num_groups", "?")
        rest = "zeros" if found[p.path] == 1 else "signs"
        yield Finding(
            "erased-groups",
            "error",
            tuple(found),
            f"{groups} groups of {p.site.num_features} channels leave {found[p.path]} element(s) "
            f"in a group: it was given {shape_of(p)}.",
            f"Standardised by its own mean, a group this small is {rest}: the input is erased.",
            f'nw.swap(model, "group:1", {where_of(found)})',
            {path: {"elements": n} for path, n in found.items()},
        )


def small_batch(seen: Examination) -> Iterator[Finding]:
    """A batch norm that sees few samples at a time."""
    size = seen.batch_size
    found = {
        p.path: n
        for p in seen.patients
        if p.over_batch
        and p.module.training
        and p.site.kind not in ("renorm",)
        and p.inputs
        and (n := size or p.inputs[0][0]) < _SMALL_BATCH
    }
    if found:
        n = min(found.values())
        yield Finding(
            "small-batch",
            "warning",
            tuple(found),
            f"Batches have {n} samples; statistics shared between so few are noise.",
            "Batch norm trains on the batch's statistics and is used with their average: with few "
            "samples the two are different networks (Wu and He 2018, arXiv:1803.08494).",
            f'nw.swap(model, "group:8", {where_of(found)})\n# or "renorm", or larger batches',
            {"samples": n},
        )


def wrong_channels(seen: Examination) -> Iterator[Finding]:
    """A number of channels that is not the input's, and that nobody refused."""
    found: dict[str, tuple[Any, int]] = {}
    for p in seen.patients:
        size = p.site.num_features
        for shape in p.inputs:
            if p.site.dim == 0 or not isinstance(size, int) or len(shape) < 2:
                continue
            unbatched = p.site.kind == "instance" and p.site.dim and len(shape) == p.site.dim + 1
            channels = shape[0] if unbatched else shape[1]
            if channels != size or (unbatched and len(shape) == 2):
                found[p.path] = (size, shape[1])
    if found:
        path, (size, channels) = next(iter(found.items()))
        p = patient_of(seen, path)
        yield Finding(
            "wrong-channels",
            "error",
            tuple(found),
            f"{name_of(p)} is made for {size} channels and was given {shape_of(p)}, "
            f"which has {channels}.",
            "Where there is no weight torch does not look, and takes the second dimension for "
            "channels, or a batch for one unbatched series (pytorch #109652).",
            f"{type(p.module).__name__}({channels}) there, or x.transpose(1, 2) before it\n"
            'nw.swap(model, "same")   # refuses such input',
            {path: {"num_features": a, "given": b} for path, (a, b) in found.items()},
        )


def refused(seen: Examination) -> Iterator[Finding]:
    """The model raised, for a reason that no other finding explains."""
    explained = {p.path for p in seen.patients if p.elements() == 1}
    for mode, path, said in seen.refusals:
        if path in explained:
            continue
        yield Finding(
            "refused",
            "error",
            (path,) if path else ("",),
            f"In {mode} the model raises: {said}",
            "The sample has to be what the model takes; if it is, so is what is wrong.",
            "nw.doctor(model, sample) with a sample that model(sample) takes",
            {"mode": mode, "error": said},
        )
        return
