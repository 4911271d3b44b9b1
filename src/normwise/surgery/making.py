"""Make the layer that takes a norm's place, and carry over what means the same in both."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from normwise import layers
from normwise.catalogue import Candidate, catalogue, parse_candidate
from normwise.checks import divisors, whole_number
from normwise.errors import NormError, describe
from normwise.surgery.recognition import (
    Known,
    bare_copy,
    epsilon_of,
    inner_modules,
    kinds,
    recognise,
)
from normwise.surgery.replacing import OURS, shown
from normwise.surgery.sites import Site, convolution_dims, find

Make = Callable[[Any, int], torch.nn.Module]  # of (num_features, dim)
SAME = "same"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# How far a twin may be from the layer it stands for: float32 rounding, computed in float64.
_TWIN = 1e-6


class KeptError(Exception):
    """A layer stays, for the reason that is the text."""


@dataclass(frozen=True)
class Made:
    """A new layer, and what is to be said of it."""

    layer: torch.nn.Module
    notes: tuple[str, ...] = ()


class Own:
    """A candidate that is a function of the user's."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.text: str = getattr(make, "__name__", repr(make))


class Same:
    """The candidate that puts in place of each norm the one of ours that computes the same."""

    text = SAME


def read(to: str | Make) -> Candidate | Own | Same:
    """What a swap was asked for.

    Raises
        NormError  if it is a class, or a string that is no candidate.
    """
    if isinstance(to, type):
        raise NormError(
            f"a class cannot tell (num_features, dim) from its own arguments; write "
            f"lambda num_features, dim: {to.__name__}(num_features)"
        )
    if callable(to):
        return Own(to)
    return Same() if to == SAME else parse_candidate(to)


def make(
    candidate: Candidate | Own | Same, site: Site, model: torch.nn.Module, *, groups: str
) -> Made | str:
    """The new layer, where and as the old one is; or why the old one has to stay.

    Raises
        NormError  if the candidate does not fit the layer.
    """
    try:
        return _make(candidate, site, model, groups)
    except KeptError as error:
        return str(error)


def _make(
    candidate: Candidate | Own | Same, site: Site, model: torch.nn.Module, groups: str
) -> Made:
    refuse_computed(site.module)
    if isinstance(candidate, Same):
        new = twin(site)
        if new is site.module:
            raise KeptError("it is normwise's already")
        return Made(new)
    if isinstance(candidate, Candidate) and site.dim == 0 and 0 not in candidate.entry.layers:
        raise KeptError(f"{candidate.entry.name} has no layer for features in the last dimensions")
    _refuse_astray(candidate, site, model)
    dim = _rank(site, model)
    notes: tuple[str, ...] = ()
    try:
        if isinstance(candidate, Candidate) and groups == "auto":
            candidate, notes = _dividing(candidate, site.num_features)
        new = candidate.make(site.num_features, dim)
    except NormError as error:
        raise NormError(f"{site.name} ({shown(site.module)}): {error}") from error
    if not isinstance(new, torch.nn.Module):
        raise NormError(
            f"{site.name} ({shown(site.module)}): {candidate.text} returned {describe(new)}; "
            "a function of (num_features, dim) has to return a torch.nn.Module"
        )
    # A norm without tensors of its own is where the model is.
    tensors = [*site.module.parameters(), *site.module.buffers(), *model.parameters()]
    like = next((tensor for tensor in tensors if tensor.dtype.is_floating_point), None)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    new._normwise_dim = dim  # type: ignore[assignment]  # for the next swap: Identity has no rank
    if isinstance(candidate, Own):  # what it is may not show
        new._normwise_place = (site.num_features, dim)  # type: ignore[assignment]
    if isinstance(new, OURS) and new.activation is None:
        new.activation = activation_of(site.module)
    if getattr(site.module, "frozen", False) and hasattr(new, "frozen"):
        new.frozen = site.module.frozen
    return Made(new.train(site.module.training), notes)


def refuse_computed(module: torch.nn.Module) -> None:
    """Leave a layer alone whose weight is computed from other tensors.

    Raises
        KeptError  if it is.
    """
    if parametrize.is_parametrized(module):
        names = ", ".join(module.parametrizations)  # type: ignore[arg-type]
        raise KeptError(
            f"its {names} is parametrized; torch.nn.utils.parametrize.remove_parametrizations "
            "makes it plain"
        )
    for hook in module._forward_pre_hooks.values():
        if type(hook).__name__ in ("WeightNorm", "SpectralNorm"):
            name = type(hook).__name__
            raise KeptError(f"its weight is computed by a hook, {name}; remove that first")


def _refuse_astray(candidate: Candidate | Own, site: Site, model: torch.nn.Module) -> None:
    """Leave a layer alone where the code around it does not know what the other returns.

    Raises
        KeptError  if a norm that returns statistics, too, would come or go outside a `Reversible`.
    """
    comes = isinstance(candidate, Candidate) and candidate.entry.reversible
    entry = catalogue().get(site.kind)  # none for a norm that nobody named
    goes = entry is not None and entry.reversible
    places = [path.rpartition(".") for path in site.paths]
    if (comes or goes) and not all(
        name == "norm" and isinstance(model.get_submodule(parent), layers.Reversible)
        for parent, _, name in places
    ):
        which = "a reversible norm" if comes else "it"
        raise KeptError(
            f"{which} returns its statistics, too; nw.Reversible(norm, model) takes any"
        )


def carry(
    old: torch.nn.Module, new: torch.nn.Module, *, values: bool = True
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Hand on what means the same in both layers.

    A parameter of the same shape goes on as the object it is, so that ties, gradients
    and hooks of its own stay; so does a buffer. What has another shape or counts from
    another number is copied. With `values` off only requires_grad is handed on.

    Returns what went, what stayed, and which parameter became which.
    """
    knowns = recognise(old), recognise(new)
    origins = [0.0 if known is None else known.origin for known in knowns]
    theirs, ours = (_canonical(m, known) for m, known in zip((old, new), knowns, strict=True))
    same_kind = bool(set(kinds(old)) & set(kinds(new)))
    alike = set(_alike(old)) & set(_alike(new))
    carried, left, links = [], [], []
    for called, (name, tensor) in theirs.items():
        # Statistics mean the same only where both are built on one kind of norm.
        means_the_same = same_kind or called in alike
        target_name, target = ours.get(called, ("", None)) if means_the_same else ("", None)
        if target is not None and target.numel() == tensor.numel():
            if values:
                origin = origins[0] - origins[1] if called == "weight" else 0.0
                _hand_on(tensor, new, target_name, target, origin)
                carried.append(called)
                if name in old._parameters and target_name in new._parameters:
                    links.append((name, target_name))
            elif isinstance(tensor, torch.nn.Parameter) and target_name in new._parameters:
                target.requires_grad_(tensor.requires_grad)
        elif called != "num_batches_tracked" and values:
            left.append(name)
    activation = activation_of(old)
    if activation not in (None, activation_of(new)):
        left.append(f"activation={activation!r}")
    return tuple(carried), tuple(left), tuple(links)


def alike(module: torch.nn.Module) -> torch.nn.Module:
    """A second layer with the same parameters, buffers and attributes, and no hooks."""
    second = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):
            empty = name.endswith("_hooks")
            vars(second)[name] = type(value)() if empty else copy.copy(value)
    return second


def activation_of(module: torch.nn.Module) -> str | None:
    """The activation that a layer of ours applies itself; others apply none."""
    return module.activation if isinstance(module, OURS) else None


def activates(candidate: Candidate | Own | Same) -> bool:
    """Whether a candidate's layers bring the activation that follows."""
    return isinstance(candidate, Candidate) and candidate.entry.activates


def with_inner(old: torch.nn.Module, new: torch.nn.Module) -> torch.nn.Module:
    """The new layer, followed by the dropout and the activation that the old one had within."""
    inner = {} if isinstance(old, OURS) else inner_modules(old)
    if not inner:
        return new
    return torch.nn.Sequential(OrderedDict([("norm", new), *inner.items()])).train(old.training)


# -- the twin ------------------------------------------------------------------------


def twin(site: Site) -> torch.nn.Module:
    """The layer of ours that computes what a norm does, with the same parameters.

    Raises
        KeptError  if there is none, or its results would differ.
    """
    old = site.module
    if isinstance(old, OURS):
        return old
    base = _torch_class(old)
    try:
        new = _twin_of_torch(old, base) if base is not None else _twin_by_kind(site)
    except NormError as error:
        raise KeptError(str(error)) from error
    if new is None:
        raise KeptError(f"no layer of normwise computes what {type(old).__name__} does")
    if base is None and not _agree(site, new):
        raise KeptError(f"{type(old).__name__} computes something else than {shown(new)}")
    plain = set(vars(new))
    for name, value in vars(old).items():  # what the model's own code may ask the layer for
        if name not in plain and not name.endswith("_hook") and not hasattr(type(new), name):
            object.__setattr__(new, name, value)
    return new.train(old.training)


def _torch_class(module: torch.nn.Module) -> Any:
    """The class of torch.nn whose forward a module has; None if its forward is another."""
    base: Any = next((b for b in type(module).__mro__ if b.__module__.startswith("torch.nn")), None)
    same = base is not None and type(module).forward is base.forward
    return base if same and hasattr(layers, base.__name__) and not inner_modules(module) else None


def _twin_of_torch(old: Any, base: Any) -> torch.nn.Module:
    twins: Any = getattr(layers, base.__name__)
    has_bias = getattr(old, "bias", None) is not None
    if issubclass(base, torch.nn.GroupNorm):
        new = twins(old.num_groups, old.num_channels, old.eps, old.affine, bias=has_bias)
    elif issubclass(base, torch.nn.LayerNorm):
        new = twins(old.normalized_shape, old.eps, old.elementwise_affine, has_bias)
    elif issubclass(base, torch.nn.RMSNorm):
        new = twins(old.normalized_shape, old.eps, old.elementwise_affine)
    else:
        arguments = [old.num_features or None, old.eps, old.momentum, old.affine]
        arguments.append(old.track_running_stats)
        if issubclass(base, torch.nn.SyncBatchNorm):
            arguments.append(old.process_group)
        lazy = any(is_lazy(t) for t in [*old.parameters(), *old.buffers()])
        if lazy:
            arguments[0] = None
        new = twins(*arguments, bias=has_bias or (lazy and old.affine))
        if lazy:
            like = next(iter([*old.parameters(), *old.buffers()]))
            return new.to(device=like.device, dtype=like.dtype)  # type: ignore[no-any-return]
    return _with_tensors(new, old)


def _with_tensors(new: Any, old: torch.nn.Module) -> torch.nn.Module:
    """The new layer with the old one's own parameters and buffers."""
    new._parameters.update(old._parameters)
    new._buffers.update(old._buffers)
    if hasattr(new, "_widen"):
        new._widen()  # statistics of a layer in half precision stay wide
    return new  # type: ignore[no-any-return]


def _twin_by_kind(site: Site) -> torch.nn.Module | None:
    old = site.module
    known = recognise(old)
    eps = epsilon_of(old)
    size = site.num_features
    if known is None or known.origin or eps is None or size is None or _rank_free(known):
        return None
    tensors = [t for t in _tensors(old).values() if t.is_floating_point()]
    where = {"device": tensors[0].device, "dtype": tensors[0].dtype} if tensors else {}
    parameters = dict(old.named_parameters(recurse=False))
    affine, has_bias = known.weight in parameters, known.bias in parameters
    dim = known.dim
    if known.kind == "batch" and dim and not parameters:
        new = getattr(layers, f"FrozenBatchNorm{dim}d")(size, eps, **where)
    elif known.kind == "batch" and dim:
        momentum = getattr(old, "momentum", 0.1)
        new = getattr(layers, f"BatchNorm{dim}d")(
            *(size, eps, momentum, affine), bias=has_bias, **where
        )
    elif known.kind == "group":
        count = known.groups or getattr(old, "num_groups", None)
        name = f"GroupNorm{dim}d" if dim else "GroupNorm"
        new = getattr(layers, name)(count, size, eps, affine, bias=has_bias, **where)
    elif known.kind == "rms":
        if has_bias:
            return None
        new = catalogue()["rms"].layers[dim or 0](size, eps, affine, **where)
    elif known.kind in ("layer", "causal", "instance"):
        entry = catalogue()[known.kind]
        keywords = {"bias": has_bias, **where}
        affine_name = "elementwise_affine" if known.kind == "layer" else "affine"
        new = entry.layers[dim or 0](size, eps, **{affine_name: affine}, **keywords)
    else:
        return None
    carry(old, new)
    twins: torch.nn.Module = new
    return twins


def _rank_free(known: Known) -> bool:
    return known.dim is None and known.kind != "group"


def _agree(site: Site, new: torch.nn.Module) -> bool:
    """Whether two layers give the same for the same input, in training and in evaluation."""
    size, dim = site.num_features, site.dim
    channels = size if isinstance(size, int) else size[-1] if size else 1
    shape = (4, 5, channels) if dim == 0 else (4, channels, *(5, 6, 3)[: dim or 2])
    draw = torch.Generator().manual_seed(0)
    theirs, ours = (_filled(bare_copy(module)) for module in (site.module, new))
    for name in inner_modules(theirs):
        setattr(theirs, name, torch.nn.Identity())
    carry(theirs, ours)
    for training in (False, True):
        for scale in (1.0, 1e-3):  # the smaller, the more eps matters
            x = torch.randn(shape, generator=draw, dtype=torch.float64) * scale
            results = []
            for module in (theirs, ours):
                copied: Any = copy.deepcopy(module).train(training)
                try:
                    with torch.no_grad():
                        results.append([copied(x)])
                except Exception:  # whatever a module raises that cannot run here
                    return False
                results[-1] += [b for n, b in copied.named_buffers() if n in _STATISTICS[:2]]
            for a, b in zip(*results, strict=True):
                if a.shape != b.shape or float((a - b).norm()) > _TWIN * float(b.norm()):
                    return False
    return True


def _filled(module: torch.nn.Module) -> torch.nn.Module:
    """On the CPU, in float64, with numbers that tell one channel from another."""
    draw = torch.Generator().manual_seed(1)
    module = module.to_empty(device=torch.device("cpu")).double()
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            drawn = torch.rand(tensor.numel(), generator=draw, dtype=torch.float64)
            tensor.data = (0.5 + drawn).reshape(tensor.shape)
        else:
            tensor.zero_()
    return module


# -- parts -----------------------------------------------------------------------------


def _rank(site: Site, model: torch.nn.Module) -> int:
    if site.dim is not None:
        return site.dim
    dims = convolution_dims(model) or {1}  # without convolutions: (N, C), as 1-D layers take
    if len(dims) != 1:
        known = next(s for s in find(model) if s.module is site.module)
        before = None if known.fed_by is None else model.get_submodule(known.fed_by)
        dims = dims if before is None else convolution_dims(before)
    if len(dims) != 1:
        raise NormError(
            f"{site.name}: {shown(site.module)} takes signals and images alike, and the "
            f"model's convolutions do not tell which it sees; put nw.GroupNorm1d (or 2d, "
            "3d) there"
        )
    return dims.pop()


def _dividing(candidate: Candidate, size: Any) -> tuple[Candidate, tuple[str, ...]]:
    """The candidate with a group count that divides the channels, and what was changed."""
    asked = whole_number(candidate.arguments.get("num_groups"))
    if asked is None or not isinstance(size, int) or size % asked == 0:
        return candidate, ()
    # Two channels in a group at least: one alone, without positions, would be erased.
    fitting = [g for g in divisors(size) if g <= min(asked, max(size // 2, 1))]
    arguments = {**candidate.arguments, "num_groups": fitting[-1]}
    note = f"{fitting[-1]} groups, since {asked} do not divide {size} channels"
    return Candidate(candidate.text, candidate.entry, arguments), (note,)


def _hand_on(old: Tensor, new: torch.nn.Module, name: str, target: Tensor, origin: float) -> None:
    store = new._parameters if name in new._parameters else new._buffers
    was_parameter = isinstance(old, torch.nn.Parameter)
    same = target.shape == old.shape and not origin and was_parameter == (name in new._parameters)
    if same and (was_parameter or target.dtype == old.dtype):
        store[name] = old  # type: ignore[assignment]
        return
    target.data.copy_(old.data.reshape(target.shape) + origin)
    if was_parameter and name in new._parameters:
        target.requires_grad_(old.requires_grad)


def _tensors(module: torch.nn.Module) -> Mapping[str, Any]:
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {name: t for name, t in tensors if not is_lazy(t)}


def _canonical(module: torch.nn.Module, known: Known | None) -> dict[str, tuple[str, Any]]:
    """The tensors of a norm by the names that torch.nn gives them: (name in the module, tensor)."""
    names = {} if known is None else {known.weight: "weight", known.bias: "bias"}
    return {names.get(name, name): (name, t) for name, t in _tensors(module).items()}


def _alike(module: torch.nn.Module) -> tuple[str, ...]:
    """The parameters that mean the same in every norm that has them."""
    return module.carries if isinstance(module, layers.Normalization) else ("weight", "bias")
