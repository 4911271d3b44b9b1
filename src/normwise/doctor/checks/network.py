"""What surrounds the norms, and what they return: padding, time, biases, decay, speed."""

from collections.abc import Iterator
from typing import Any

from normwise.doctor.checks.words import patient_of
from normwise.doctor.examination import Examination
from normwise.doctor.findings import Finding
from normwise.doctor.probes import causal_and_remembering, padding_error
from normwise.errors import NormError
from normwise.surgery.folding import fold
from normwise.surgery.replacing import OURS
from normwise.surgery.sites import is_feeding
from normwise.surgery.swapping import plan, receipt, swap

_EXPLODING = 1e4


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


def dead_or_exploding(seen: Examination) -> Iterator[Finding]:
    """Channels that no longer say anything, and outputs that are too large."""
    dead = {p.path: p.dead for p in seen.patients if p.dead}
    if dead:
        path, count = max(dead.items(), key=lambda item: item[1])
        size = patient_of(seen, path).site.num_features
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
