"""The checks: each reads an examination and says what it finds, or nothing."""

from collections.abc import Callable, Iterator
from math import log
from typing import Any

from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from normwise.doctor.examination import Examination, Patient
from normwise.doctor.findings import Finding
from normwise.doctor.probes import causal_and_remembering, padding_error, relative
from normwise.errors import NormError
from normwise.layers import Normalization
from normwise.surgery.folding import fold
from normwise.surgery.recognition import is_activation
from normwise.surgery.replacing import OURS
from normwise.surgery.sites import is_feeding
from normwise.surgery.swapping import plan, receipt, swap

Check = Callable[[Examination], Iterator[Finding]]

_SMALL_BATCH = 8
# A tenth of a percent of running statistics' start may be left when training ends.
_LEFT_OVER = 0.05
_EXPLODING = 1e4


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
            f"{_name(first)} averages over one element: it was given {_shape(first)}.",
            "The mean of one element is the element itself, so nothing of the signal is left. In "
            "training torch refuses some of these, and returns zeros for the rest.",
            f'nw.swap(model, "rms", {_where(centred)})',
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
        p = _patient(seen, next(iter(found)))
        groups = getattr(p.module, "num_groups", "?")
        rest = "zeros" if found[p.path] == 1 else "signs"
        yield Finding(
            "erased-groups",
            "error",
            tuple(found),
            f"{groups} groups of {p.site.num_features} channels leave {found[p.path]} element(s) "
            f"in a group: it was given {_shape(p)}.",
            f"Standardised by its own mean, a group this small is {rest}: the input is erased.",
            f'nw.swap(model, "group:1", {_where(found)})',
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
            f'nw.swap(model, "group:8", {_where(found)})\n# or "renorm", or larger batches',
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
        p = _patient(seen, path)
        yield Finding(
            "wrong-channels",
            "error",
            tuple(found),
            f"{_name(p)} is made for {size} channels and was given {_shape(p)}, "
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
            f"nw.recalibrate(model, loader, {_where(stale)})",
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
            f"nw.freeze(model, {_where(moving)}, affine=True)",
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
            f"nw.freeze(model, {_where(loose)})",
            {"norms": len(loose)},
        )


def padding_leaks(seen: Examination) -> Iterator[Finding]:
    """Results that depend on how far the batch is padded."""
    if seen.lengths is None or seen.x is None:
        return
    try:
        leak = padding_error(seen.model, seen.sample, seen.lengths)
    except Exception:  # the model does not take a longer input
        return
    if leak.leaks:
        name = leak.first or ""
        ours = all(isinstance(p.module, OURS) for p in seen.patients)
        yield Finding(
            "padding-leak",
            "error",
            (name,),
            f"Twice the padding changes the results at real positions by {leak.error:.1e}; the "
            f"first layer that differs is {name}.",
            "A clip's result then depends on the longest clip of its batch: padding counts in "
            "statistics, or reaches real positions through a convolution or an average.",
            f"with nw.padding(lengths): model(x)\n# and mask what is no norm: {name}"
            if ours
            else 'model = nw.swap(model, "same")\nwith nw.padding(lengths): model(x)',
            {"error": leak.error, "first": name},
        )


def not_causal(seen: Examination) -> Iterator[Finding]:
    """A norm that looks ahead in a network that otherwise does not."""
    x = seen.x
    if x is None or x.dim() < 3 or x.shape[-1] < 4 or not x.is_floating_point():
        return
    try:
        causality, _ = causal_and_remembering(seen.model, seen.sample)
        if causality:
            return
        bare = swap(seen.model, "none")
        without, remembers = causal_and_remembering(bare, seen.sample)
    except Exception:  # a model that takes no shorter input cannot be asked
        return
    if without and remembers:
        yield Finding(
            "not-causal",
            "warning",
            (causality.first or "",),
            f"Without norms the model looks at the past alone; with them the future changes its "
            f"outputs by {causality.error:.1e}, first at {causality.first}.",
            "Statistics over all of T mix what comes later into what came before: a stream gives "
            "other results than the whole.",
            'nw.swap(model, "causal")   # or "layer": one position at a time',
            {"error": causality.error},
        )


def useless_bias(seen: Examination) -> Iterator[Finding]:
    """A bias that the norm behind it takes off again."""
    found = {}
    for p in seen.patients:
        node = seen.flow.only_call(p.module)
        whole = p.site.kind == "instance" or (p.site.kind in ("batch", "renorm", "ghost"))
        if node is None or not whole or not (p.module.training or p.site.kind == "instance"):
            continue
        source = seen.flow.source(node)
        layer: Any = seen.flow.module(source)
        if is_feeding(layer) and layer.bias is not None and len(seen.flow.users(source)) == 1:
            if p.is_frozen or not layer.bias.requires_grad:
                continue
            found[seen.names[id(layer)]] = p.path
    if found:
        layer_path, norm_path = next(iter(found.items()))
        yield Finding(
            "useless-bias",
            "hint",
            tuple(found),
            f"{layer_path} has a bias, and {norm_path} behind it takes each channel's mean off.",
            "The bias changes nothing, costs a pass over its gradients, and drifts under weight "
            "decay.",
            "bias=False in these layers",
            dict(found),
        )


def weight_decay(seen: Examination) -> Iterator[Finding]:
    """Weight decay on the weights and biases of norms."""
    if seen.optimizer is None:
        return
    original = {id(p): name for name, p in seen.original.named_parameters()}
    norms = {
        f"{p.path}.{name}".lstrip(".")
        for p in seen.patients
        for name, _ in p.module.named_parameters(recurse=False)
    }
    found: dict[str, float] = {}
    for group in seen.optimizer.param_groups:
        for parameter in group["params"] if group.get("weight_decay", 0) else ():
            name = original.get(id(parameter), "")
            if name in norms:
                found[name] = group["weight_decay"]
    if found:
        name, decay = next(iter(found.items()))
        yield Finding(
            "weight-decay",
            "warning",
            tuple(found),
            f"{len(found)} weights and biases of norms decay by {decay:g}.",
            "Decay pulls a norm's scale to 0, where it means no smaller function but a smaller "
            "signal; it is usually left out (He et al. 2019, arXiv:1812.01187, section 3).",
            "norms = {p for s in nw.find(model) for p in s.module.parameters()}\n"
            "rest = [p for p in model.parameters() if p not in norms]\n"
            'groups = [{"params": rest},\n'
            '          {"params": list(norms), "weight_decay": 0.0}]',
            {"parameters": len(found), "weight_decay": decay},
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
            f'dropout after the last norm; or nw.swap(model, "layer", {_where(found)})',
            {path: {"dropout": d, "p": r} for path, (d, r) in found.items()},
        )


def dead_or_exploding(seen: Examination) -> Iterator[Finding]:
    """Channels that no longer say anything, and outputs that are too large."""
    dead = {p.path: p.dead for p in seen.patients if p.dead}
    if dead:
        path, count = max(dead.items(), key=lambda item: item[1])
        size = _patient(seen, path).site.num_features
        yield Finding(
            "dead-channels",
            "warning",
            tuple(dead),
            f"{count} of {size} channels of {path or '(the model)'} are constant over the sample.",
            "Their weight is 0 or their input is: they take time and carry nothing, and a division "
            "by a variance near 0 may make them explode on other data.",
            "remove the channels, or train from a checkpoint before they died",
            dict(dead),
        )
    large = {
        p.path: p.largest
        for p in seen.patients
        if p.largest is not None and not p.largest <= _EXPLODING
    }
    if large:
        path, most = max(large.items(), key=lambda item: item[1])
        yield Finding(
            "exploding",
            "error" if most != most or most == float("inf") else "warning",
            tuple(large),
            f"{path or '(the model)'} returns values of up to {most:.1e} in evaluation.",
            "A standardised channel is of size 1: the running variance is far below what arrives, "
            "or the weights have grown.",
            "nw.recalibrate(model, loader)",
            dict(large),
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


def could_be_faster(seen: Examination) -> Iterator[Finding]:
    """Norms that could be folded away, and norms and activations that one pass could do."""
    if not seen.original.training:
        try:
            folded = receipt(fold(seen.model, seen.sample))
        except Exception:  # nothing can be folded
            folded = None
        if folded is not None and folded.changes:
            yield Finding(
                "could-fold",
                "hint",
                tuple(change.paths[0] for change in folded.changes),
                f"{len(folded.changes)} norm(s) can be folded into the layers beside them.",
                "In evaluation they scale and shift each channel by constants, which the weights "
                "of a convolution can do for nothing.",
                "nw.fold(model, sample)",
                {"norms": len(folded.changes)},
            )
            return
    try:
        same = plan(seen.model, "same", fuse=True)
    except NormError:
        return
    if same.changes:
        fused = sum(any(n.startswith("takes in") for n in c.notes) for c in same.changes)
        yield Finding(
            "could-fuse" if fused else "could-mask",
            "hint",
            tuple(change.paths[0] for change in same.changes),
            f"{len(same.changes)} norm(s) have a twin in normwise"
            + (f", {fused} of which can take in the activation that follows." if fused else "."),
            "Its results are the same, right at any offset, with masks, and in one pass over "
            "memory with the activation.",
            'nw.swap(model, "same", fuse=True)',
            {"norms": len(same.changes), "activations": fused},
        )


CHECKS: tuple[Check, ...] = (
    one_element,
    erased_groups,
    wrong_channels,
    bad_statistics,
    padding_leaks,
    refused,
    train_eval_gap,
    never_updated,
    half_frozen,
    small_batch,
    not_causal,
    after_dropout,
    weight_decay,
    slow_momentum,
    dead_or_exploding,
    useless_bias,
    could_be_faster,
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


def _patient(seen: Examination, path: str) -> Patient:
    return next(p for p in seen.patients if p.path == path)


def _shape(p: Patient) -> str:
    """What it was given: (8,12,100), without spaces for a line to break at."""
    return f"({','.join(map(str, p.inputs[0]))})"


def _name(p: Patient) -> str:
    return f"{p.path or '(the model)'}, {type(p.module).__name__},"


def _where(found: Any) -> str:
    """The argument that means these paths."""
    paths = [f'"{path}"' for path in found]
    if len(paths) == 1:
        return paths[0]
    return f"[{', '.join(paths)}]" if len(", ".join(paths)) <= 30 else "[…]"


def _rounded_up(number: float) -> float:
    """Two digits that are not below a number: 0.0583 → 0.059."""
    digits = 10.0 ** (1 - int(log(number) // log(10)))
    return -(-number * digits // 1) / digits
