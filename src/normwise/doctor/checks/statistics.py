"""What norms remember, and what evaluation makes of it."""

from collections.abc import Iterator
from math import log
from typing import Any

from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from normwise.doctor.checks.words import where_of
from normwise.doctor.examination import Examination, Patient
from normwise.doctor.findings import Finding
from normwise.doctor.probes import relative
from normwise.layers import Normalization
from normwise.surgery.recognition import is_activation
from normwise.surgery.sites import is_feeding

# A twentieth of the running statistics' start may be left when training ends.
_LEFT_OVER = 0.05


def train_eval_gap(seen: Examination) -> Iterator[Finding]:
    """Training and evaluation that give different outputs: the first layer that departs."""
    known = {
        p.path: p for p in seen.patients if p.remembers and not p.is_frozen and (p.batches or 0) > 0
    }
    if not known or not seen.departures:
        return
    size = seen.batch_size or 1
    allowed = max(0.3, 3 / size**0.5)
    norms = [(path, relative(b, a)) for path, a, b in seen.departures if path in known]
    first = next(((path, error) for path, error in norms if error > allowed), None)
    output = next((relative(b, a) for path, a, b in reversed(seen.departures) if not path), 0.0)
    if first is None:
        return
    path, error = first
    worst = max(norms, key=lambda pair: pair[1])
    yield Finding(
        "train-eval-gap",
        "error" if output > 1 else "warning",
        (path,),
        f"For the sample, training and evaluation part at {path or '(the model)'}: its output "
        f"differs by {error:.0%}, the model's by {output:.0%} (largest: {worst[1]:.0%} at "
        f"{worst[0]}).",
        "The running statistics are not those of this data, so evaluation is another network than "
        "the one that was trained: the momentum, the data or the weights have changed.",
        "nw.recalibrate(model, loader)",
        {"layer": error, "output": output, "largest": worst[1], "allowed": allowed},
    )


def bad_statistics(seen: Examination) -> Iterator[Finding]:
    """Running statistics that are not finite, or variances below zero."""
    found = {}
    for p in seen.patients:
        mean, var = (p.module._buffers.get(n) for n in ("running_mean", "running_var"))
        bad = sum(int((~t.isfinite()).sum()) for t in (mean, var) if t is not None)
        bad += 0 if var is None else int((var < 0).sum())
        if bad:
            found[p.path] = bad
    if found:
        path, count = max(found.items(), key=lambda item: item[1])
        yield Finding(
            "bad-statistics",
            "error",
            tuple(found),
            f"{count} running statistics of {path or '(the model)'} are NaN, infinite or negative.",
            "One batch that was not finite spoils them for good, and evaluation with them; "
            "training does not show it.",
            'nw.recalibrate(model, loader)\n# in training: nw.BatchNorm1d(…, on_nonfinite="skip")',
            dict(found),
        )


def never_updated(seen: Examination) -> Iterator[Finding]:
    """Running statistics that are used and were never measured, or far less than others."""
    counted = {p.path: n for p in seen.patients if p.remembers and (n := p.batches) is not None}
    most = max(counted.values(), default=0)
    found = {
        p.path: counted[p.path]
        for p in seen.patients
        if p.path in counted
        and counted[p.path] <= most // 10
        and (most or not p.module.training)
        and _as_new(p)
    }
    stale = {path: n for path, n in counted.items() if 0 < n <= most // 10 and path not in found}
    if found:
        yield Finding(
            "never-updated",
            "warning",
            tuple(found),
            f"Running statistics are those of a new layer, mean 0 and variance 1, after "
            f"{min(found.values())} batches (others: {most}).",
            "Evaluation uses them, and nothing was ever measured: the layer only scales.",
            "nw.recalibrate(model, loader)",
            dict(found),
        )
    if stale:
        yield Finding(
            "stale",
            "warning",
            tuple(stale),
            f"Running statistics went in {min(stale.values())} times, where others have {most}.",
            "The layer ran in evaluation or was left out for most of the training, and remembers "
            "what the network was long before.",
            f"nw.recalibrate(model, loader, {where_of(stale)})",
            dict(stale),
        )


def half_frozen(seen: Examination) -> Iterator[Finding]:
    """Weights that are frozen while statistics move, and statistics that will wake up."""
    moving, loose = {}, {}
    for p in seen.patients:
        parameters = list(p.module.parameters(recurse=False))
        learns = any(parameter.requires_grad for parameter in parameters)
        if p.remembers and not p.is_frozen:
            if p.module.training and parameters and not learns:
                moving[p.path] = p
            if not p.module.training and seen.original.training:
                loose[p.path] = p
    if moving:
        yield Finding(
            "moving-statistics",
            "warning",
            tuple(moving),
            f"{len(moving)} norm(s) whose weights require no gradients still update their running "
            "statistics.",
            "requires_grad=False freezes parameters, and statistics are buffers: each training "
            "batch changes what the frozen layer does (pytorch #86590).",
            f"nw.freeze(model, {where_of(moving)}, affine=True)",
            {"norms": len(moving)},
        )
    if loose:
        yield Finding(
            "loosely-frozen",
            "warning",
            tuple(loose),
            f"{len(loose)} norm(s) are in evaluation while the model is in training.",
            "The next model.train(), which most training loops call each epoch, wakes them, and "
            "their statistics move again.",
            f"nw.freeze(model, {where_of(loose)})",
            {"norms": len(loose)},
        )


def after_dropout(seen: Examination) -> Iterator[Finding]:
    """A norm with running statistics whose input went through dropout."""
    found = {}
    for p in seen.patients:
        if not p.remembers or p.is_frozen:
            continue
        for node in seen.flow.calls.get(id(p.module), []):
            source = _past_activations(seen, seen.flow.source(node))
            module = seen.flow.module(source)
            if is_feeding(module):
                source = _past_activations(seen, seen.flow.source(source))
                module = seen.flow.module(source)
            if isinstance(module, _DropoutNd) and module.p > 0:
                found[p.path] = (seen.names[id(module)], module.p)
    if found:
        path, (dropout, rate) = next(iter(found.items()))
        yield Finding(
            "after-dropout",
            "warning",
            tuple(found),
            f"{path or '(the model)'} remembers variances behind {dropout}, a dropout of {rate:g}.",
            f"Dropout raises the variance in training by up to {1 / (1 - rate):.2g} times and not "
            "in evaluation, so the running variance fits neither (Li et al. 2018, "
            "arXiv:1801.05134).",
            f'dropout after the last norm; or nw.swap(model, "layer", {where_of(found)})',
            {path: {"dropout": d, "p": r} for path, (d, r) in found.items()},
        )


def slow_momentum(seen: Examination) -> Iterator[Finding]:
    """Running statistics that cannot reach their data's in the steps there are."""
    found: dict[str, float] = {}
    for p in seen.patients:
        momentum = getattr(p.module, "momentum", None)
        if isinstance(p.module, Normalization) and hasattr(p.module, "running"):
            momentum = getattr(p.module.running, "momentum", None)
        if not p.remembers or p.is_frozen or not isinstance(momentum, int | float):
            continue
        left = (1 - momentum) ** (seen.steps or 0) if seen.steps else float(momentum == 0)
        if left > _LEFT_OVER:
            found[p.path] = left
    if found:
        path, left = max(found.items(), key=lambda item: item[1])
        steps = seen.steps
        needed = 1 - _LEFT_OVER ** (1 / steps) if steps else 0.1
        ending = f"after {steps} steps" if steps else "for good, as momentum is 0"
        yield Finding(
            "slow-momentum",
            "warning",
            tuple(found),
            f"{left:.0%} of {path or '(the model)'}'s running statistics are still their start, "
            f"mean 0 and variance 1, {ending}.",
            "Evaluation then uses a mixture of the data's statistics and of numbers that mean "
            "nothing.",
            f"momentum={_rounded_up(needed):g} or momentum=None (the plain average)",
            {"left": left, "momentum_needed": needed} | {"steps": steps or 0},
        )


def _past_activations(seen: Examination, node: Any) -> Any:
    module = seen.flow.module(node)
    while module is not None and is_activation(module):
        node = seen.flow.source(node)
        module = seen.flow.module(node)
    return node


def _as_new(p: Patient) -> bool:
    mean, var = (p.module._buffers.get(n) for n in ("running_mean", "running_var"))
    plain: list[tuple[Tensor | None, float]] = [(mean, 0.0), (var, 1.0)]
    return all(bool((t == value).all()) for t, value in plain if t is not None)


def _rounded_up(number: float) -> float:
    """Two digits that are not below a number: 0.0583 → 0.059."""
    digits = 10.0 ** (1 - int(log(number) // log(10)))
    return -(-number * digits // 1) / digits
