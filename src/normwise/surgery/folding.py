"""Fold batch norms, as evaluation uses them, into the layers beside them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import Parameter, is_lazy

from normwise import layers
from normwise.errors import NormError
from normwise.layers.materialize import call, unchanged
from normwise.surgery.carrying import KeptError, activation_of, alike, refuse_computed, with_inner
from normwise.surgery.flow import Flow
from normwise.surgery.recognition import bare_copy, inner_modules
from normwise.surgery.replacing import (
    OURS,
    Change,
    Plan,
    Replacement,
    own_hooks,
    perform,
    shown,
)
from normwise.surgery.sites import Site, bare_sites, is_feeding
from normwise.surgery.swapping import Where, is_meant, nothing_to_do

# Rounding of weights and sums, as a share of the largest output.
_EQUAL = {torch.float64: 1e-10, torch.float32: 1e-4}


@dataclass(frozen=True)
class _Affine:
    """What a norm does in evaluation: x * scale + shift, in float64, for each channel."""

    scale: Tensor
    shift: Tensor


def fold(
    model: torch.nn.Module, sample: Any = None, where: Where = None, *, inplace: bool = False
) -> torch.nn.Module:
    """The model with its batch norms folded into the layers before or after them.

        conv(x) * scale + shift   =  conv'(x)    weight' = weight * scale, bias' = …

        scale = norm.weight / sqrt(running_var + eps)
        shift = norm.bias - running_mean * scale

    For inference: it takes the norms as they are in evaluation, so the model has to
    be in evaluation (or the norm frozen). A norm goes into the convolution,
    transposed convolution or linear layer whose output it alone takes, or else into
    the one that alone takes its output, where that is exact: behind a norm, zeros that
    a convolution pads with would have to be shifted, too. Grouped and depthwise
    layers fold likewise. An activation within the norm stays.

    sample   what the model is called with, as in `materialize`. Whether a linear layer
             sees (N, C) or (N, T, C) cannot be told without one; and with one, outputs
             before and after are compared
    where    which norms, as in `swap`; all if left out

    Returns the model; ``nw.receipt`` lists what was folded, and why the rest was not.

    Raises
        NormError  if nothing can be folded (with the reason for each norm), or if the
                   outputs for the sample would differ by more than rounding.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2, fold before quantizing.
    """
    sites = bare_sites(model)
    flow = Flow(model, {id(site.module) for site in sites})
    seen = _Seen(model, flow, sample)
    changed: dict[torch.nn.Module, torch.nn.Module] = {}
    changes, skipped, replacements = [], [], []
    for site in (site for site in sites if is_meant(site, where)):
        reason = _into_neighbour(site, seen, changed)
        if isinstance(reason, str):
            skipped.append((site.path, reason))
            continue
        path = seen.paths[id(reason)][0]
        after = f"folded into {path}, {type(reason).__name__}"
        changes.append(Change(tuple(seen.paths[id(site.module)]), shown(site.module), after))
        replacements.append(Replacement(site.module, _remains(site), site.paths))
    if not changes:
        if not sites:
            raise NormError(f"{type(model).__name__} has no normalization layer to fold")
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped)
        raise nothing_to_do("fold", reasons or f"where={where!r} matches no norm", sites)
    replacements += [
        Replacement(old, new, tuple(seen.paths[id(old)])) for old, new in changed.items()
    ]
    done = Plan("fold", tuple(changes), tuple(skipped))
    if sample is not None:
        _check(model, perform(model, done, replacements, inplace=False), sample)
    return perform(model, done, replacements, inplace=inplace)


class _Seen:
    """What folding asks of a model: its calls, its paths, and what its layers were given."""

    def __init__(self, model: torch.nn.Module, flow: Flow, sample: Any) -> None:
        self.flow = flow
        self.paths: dict[int, list[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self.paths.setdefault(id(module), []).append(path)
        owners: dict[int, int] = {}
        for module in model.modules():
            for parameter in module._parameters.values():
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        self._owners = owners
        self.ranks = {} if sample is None else _ranks(model, sample)

    def shares_weight(self, module: torch.nn.Module) -> bool:
        """Whether another module has one of its parameters, too."""
        return any(self._owners[id(p)] > 1 for p in module._parameters.values() if p is not None)


def _into_neighbour(
    site: Site, seen: _Seen, changed: dict[torch.nn.Module, torch.nn.Module]
) -> torch.nn.Module | str:
    """Fold one norm; the layer it went into, or why it stays."""
    try:
        affine = _affine(site)
        node = _single_call(site, seen)
        before, after = _neighbours(node, seen)
        reasons = []
        for neighbour, behind in ((before, False), (after, True)):
            if neighbour is None:
                continue
            reason = _obstacle(site, neighbour, seen, affine, behind=behind)
            if reason is None:
                current: Any = changed.get(neighbour) or alike(neighbour)
                changed[neighbour] = _folded(current, affine, behind=behind)
                return neighbour
            reasons.append(f"{seen.paths[id(neighbour)][0]}: {reason}")
        return ", ".join(reasons) or "no convolution or linear layer is alone beside it"
    except KeptError as error:
        return str(error)


def _affine(site: Site) -> _Affine:
    norm: Any = site.module
    if site.kind not in ("batch", "renorm", "ghost"):
        raise KeptError(f"what it does depends on its input: {site.kind}")
    if norm.training:
        raise KeptError("it is in training, where its statistics change; model.eval() first")
    mean, var = norm._buffers.get("running_mean"), norm._buffers.get("running_var")
    if mean is None or var is None:
        raise KeptError("it has no running statistics, and uses the batch's own")
    refuse_computed(norm)
    if own_hooks(norm):
        raise KeptError("it has hooks, which would no longer be called")
    return _measured(site)


def _measured(site: Site) -> _Affine:
    """Run a copy of the norm on zeros and ones, and see that it does the same to all else.

    Raises
        KeptError  if it does more than to scale and shift its channels.
    """
    copied: Any = bare_copy(site.module).double()
    for name in () if isinstance(copied, OURS) else inner_modules(copied):
        setattr(copied, name, torch.nn.Identity())
    if isinstance(copied, OURS):
        copied.activation = None
    where = copied._buffers["running_var"].device
    shape = (2, copied._buffers["running_var"].numel(), *[3] * (site.dim or 1))
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw, dtype=torch.float64).to(where)
    with torch.no_grad():
        shift = copied(torch.zeros_like(x))
        scale = copied(torch.ones_like(x)) - shift
        if not torch.allclose(copied(x), x * scale + shift, rtol=1e-6, atol=1e-9):
            raise KeptError("it does more in evaluation than to scale and shift its channels")
    first = (0, slice(None), *[0] * (site.dim or 1))
    return _Affine(scale[first], shift[first])


def _single_call(site: Site, seen: _Seen) -> Any:
    if not seen.flow.calls.get(id(site.module)):
        raise KeptError("the code that calls it could not be traced")
    node = seen.flow.only_call(site.module)
    if node is None:
        raise KeptError("it is called more than once, or with more than its input")
    return node


def _neighbours(node: Any, seen: _Seen) -> tuple[torch.nn.Module | None, torch.nn.Module | None]:
    """The layers that feed the norm alone, and that it alone feeds."""
    source = seen.flow.source(node)
    before = seen.flow.module(source)
    if before is not None and (not is_feeding(before) or len(seen.flow.users(source)) != 1):
        before = None
    users = seen.flow.users(node)
    after = seen.flow.module(users[0]) if len(users) == 1 else None
    return before, after if after is not None and is_feeding(after) else None


def _obstacle(site: Site, layer: Any, seen: _Seen, affine: _Affine, *, behind: bool) -> str | None:
    """Why a norm cannot be folded into a layer before it, or `behind` it; None if it can."""
    try:
        refuse_computed(layer)
    except KeptError as error:
        return str(error)
    if any(is_lazy(p) for p in layer.parameters()):
        return "it is lazy"
    if seen.flow.only_call(layer) is None:
        return "it is called more than once"
    if seen.shares_weight(layer):
        return "another layer has its weight, too"
    if own_hooks(layer):
        return "it has hooks, which would see other values"
    channels = _in_channels(layer) if behind else _out_channels(layer)
    if channels != len(affine.scale):
        return f"it has {channels} channels, and the norm {len(affine.scale)}"
    if isinstance(layer, torch.nn.Linear):
        rank = seen.ranks.get(id(layer))
        if rank is None:
            return "whether it sees (N, C) cannot be told; give a sample"
        if rank != 2:
            return f"it sees {rank} dimensions, and the norm's channels are the second"
    if not behind:
        return None
    if activation_of(site.module) or (
        not isinstance(site.module, OURS) and inner_modules(site.module)
    ):
        return "the norm's activation comes before it"
    if isinstance(layer, torch.nn.Linear) or not affine.shift.any():
        return None
    if isinstance(layer, _ConvTransposeNd):
        return "a transposed convolution adds up a shift unevenly"
    plain = type(layer).__module__.startswith("torch.nn")
    padded = layer.padding_mode == "zeros" and layer.padding not in (
        "valid",
        (0,) * len(layer.kernel_size),
    )
    if padded or not plain:
        return "it pads with zeros, which the norm's shift does not reach"
    if isinstance(site.module, OURS) and max(layer.kernel_size) > 1:
        return "masked positions are zeros, which the norm's shift does not reach"
    return None


def _in_channels(layer: Any) -> int:
    return int(layer.in_channels if isinstance(layer, _ConvNd) else layer.in_features)


def _out_channels(layer: Any) -> int:
    return int(layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features)


def _folded(layer: Any, affine: _Affine, *, behind: bool) -> torch.nn.Module:
    """The layer with new weights: those of norm after layer, or of layer after norm."""
    weight = layer.weight.detach().double()
    bias = None if layer.bias is None else layer.bias.detach().double()
    # (groups, out, in, positions): what a group of outputs takes from its group of inputs.
    groups = getattr(layer, "groups", 1)
    is_transposed = isinstance(layer, _ConvTransposeNd)
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    grouped = grouped.transpose(1, 2) if is_transposed else grouped
    if behind:
        scale, shift = (t.reshape(groups, 1, -1, 1) for t in (affine.scale, affine.shift))
        added = (grouped * shift).sum((2, 3)).reshape(-1)
        grouped = grouped * scale
        bias = added if bias is None else bias + added
    else:
        grouped = grouped * affine.scale.reshape(groups, -1, 1, 1)
        bias = affine.shift if bias is None else bias * affine.scale + affine.shift
    grouped = grouped.transpose(1, 2) if is_transposed else grouped
    for name, value in (("weight", grouped.reshape(weight.shape)), ("bias", bias)):
        old = layer._parameters[name]
        learns = layer.weight.requires_grad if old is None else old.requires_grad
        layer._parameters[name] = Parameter(value.to(layer.weight.dtype), requires_grad=learns)
    folded: torch.nn.Module = layer
    return folded


def _remains(site: Site) -> torch.nn.Module:
    """What stands where the norm was: nothing but its mask and its activation."""
    if isinstance(site.module, OURS):
        place = layers.Identity(site.num_features, activation=activation_of(site.module))
        vars(place)["_normwise_dim"] = site.dim
        return place.train(site.module.training)
    return with_inner(site.module, torch.nn.Identity().train(site.module.training))


def _ranks(model: torch.nn.Module, sample: Any) -> dict[int, int]:
    """The number of dimensions of what each layer is given."""
    ranks: dict[int, int] = {}

    def note(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            ranks[id(module)] = args[0].dim()

    handles = [m.register_forward_pre_hook(note) for m in model.modules() if is_feeding(m)]
    try:
        with unchanged(model), torch.no_grad():
            call(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    return ranks


def _check(model: torch.nn.Module, folded: torch.nn.Module, sample: Any) -> None:
    outputs = []
    for each in (model, folded):
        with unchanged(each), torch.no_grad():
            outputs.append(list(_tensors(call(each, sample))))
    for before, after in zip(*outputs, strict=True):
        allowed = _EQUAL.get(before.dtype, 5e-2) * float(before.abs().max().clamp(min=1e-30))
        largest = float((before.double() - after.double()).abs().max()) if before.numel() else 0.0
        if not largest <= allowed:
            raise NormError(
                f"folding would change the outputs for the sample by {largest:.2g}, which is more "
                "than rounding; nothing was folded. where=… leaves norms out"
            )


def _tensors(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
