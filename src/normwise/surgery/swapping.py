"""Put one norm in the place of others: say what would change, then change it in a copy."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from normwise.catalogue import Candidate, parse_candidate
from normwise.errors import NormError, describe
from normwise.layers import Identity, Norm, Normalization
from normwise.surgery.sites import Site, convolution_dims, find, kinds

Make = Callable[[Any, int], torch.nn.Module]  # of (num_features, dim)
_OURS = (Normalization, Identity)
Where = str | type | Callable[[str, torch.nn.Module], bool] | None


@dataclass(frozen=True)
class Change:
    """One layer that is replaced: where, by what, and what it took along."""

    paths: tuple[str, ...]
    before: str
    after: str
    carried: tuple[str, ...]
    left: tuple[str, ...]  # what the old layer had and the new one has no place for

    def __str__(self) -> str:
        left = f"   (left behind: {', '.join(self.left)})" if self.left else ""
        return f"{self.paths[0] or '(the model)'}: {self.before} → {self.after}{left}"


@dataclass(frozen=True)
class Plan:
    """What a swap changes, and what it leaves alone and why. Prints as a list."""

    candidate: str
    changes: tuple[Change, ...]
    skipped: tuple[tuple[str, str], ...]  # (path, reason)

    def __str__(self) -> str:
        lines = [str(change) for change in self.changes]
        lines += [f"{path or '(the model)'}: kept, {reason}" for path, reason in self.skipped]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Own:
    """A candidate that is a function of the user's."""

    make: Make

    @property
    def text(self) -> str:
        return getattr(self.make, "__name__", repr(self.make))


def plan(model: torch.nn.Module, to: str | Make, where: Where = None) -> Plan:
    """Say what `swap` would do with the same arguments; nothing is touched."""
    return _prepare(model, to, where)[0]


def swap(
    model: torch.nn.Module, to: str | Make, where: Where = None, *, inplace: bool = False
) -> torch.nn.Module:
    """The model with its norms replaced: ``swap(model, "group:8")``.

    The model that is given stays as it is, unless `inplace`. Channel counts are
    inferred; weight and bias are carried over where the new layer has them, and
    running statistics from batch norm to batch norm. Device, dtype,
    requires_grad and training mode stay. A layer that is shared stays shared.

    to       a candidate of the catalogue; or a function of (num_features, dim) that
             returns a layer, with dim as in `make`, and num_features None for a
             layer that is lazy and a tuple where the features are in the last dimensions
    where    which norms: a path with wildcards ("encoder.*"), a class, or a
             function of (path, module); all if left out

    Raises
        NormError  if the candidate is not known or does not fit a layer (which
                   one, and what would), a function returns no module, or there
                   is no norm to swap.
    """
    done, replacements = _prepare(model, to, where)
    if inplace:
        if "" in (path for change in done.changes for path in change.paths):
            raise NormError("a model that is itself a norm cannot be swapped in place")
        for change, (_, new) in zip(done.changes, replacements, strict=True):
            for path in change.paths:
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, new)
    else:
        # Whatever refers to an old layer, however often, refers to its successor in the copy.
        model = copy.deepcopy(model, {id(old): new for old, new in replacements})
    _unfuse(model)
    model._normwise_receipt = done  # type: ignore[assignment]
    return model


def receipt(model: torch.nn.Module) -> Plan:
    """What the last `swap` that made this model did to it.

    Raises
        NormError  if the model does not come from a swap.
    """
    done = getattr(model, "_normwise_receipt", None)
    if not isinstance(done, Plan):
        raise NormError("this model does not come from nw.swap, so there is no receipt")
    return done


def _prepare(
    model: torch.nn.Module, to: str | Make, where: Where
) -> tuple[Plan, list[tuple[torch.nn.Module, torch.nn.Module]]]:
    candidate = _read(to)
    sites = find(model)
    if not sites:
        raise NormError(
            f"{type(model).__name__} has no normalization layer to swap; put nw.Identity(channels) "
            "where one may go"
        )
    changes, skipped, replacements = [], [], []
    for site in filter(lambda site: _is_meant(site, where), sites):
        if isinstance(candidate, Candidate) and site.dim == 0 and 0 not in candidate.entry.layers:
            reason = f"{candidate.entry.name} has no layer for features in the last dimensions"
            skipped.append((site.path, reason))
            continue
        new = _make(candidate, site, model)
        carried, left = _carry(site, new)
        replacements.append((site.module, new))
        changes.append(Change(site.paths, _short(site.module), _short(new), carried, left))
    _tie(changes, replacements)
    if not changes:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped)
        reasons = reasons or f"where={where!r} matches no norm"
        raise NormError(
            f"nothing to swap for {candidate.text!r}: {reasons}; "
            f"the model's norms are {', '.join(site.name for site in sites)}"
        )
    return Plan(candidate.text, tuple(changes), tuple(skipped)), replacements


def _read(to: str | Make) -> Candidate | _Own:
    if isinstance(to, type):
        raise NormError(
            f"a class cannot tell (num_features, dim) from its own arguments; write "
            f"lambda num_features, dim: {to.__name__}(num_features)"
        )
    return _Own(to) if callable(to) else parse_candidate(to)


def _is_meant(site: Site, where: Where) -> bool:
    if where is None:
        return True
    if isinstance(where, str):
        return any(fnmatchcase(path, where) for path in site.paths)
    if isinstance(where, type):
        return isinstance(site.module, where)
    return bool(where(site.path, site.module))


def _make(candidate: Candidate | _Own, site: Site, model: torch.nn.Module) -> torch.nn.Module:
    dim = site.dim
    if dim is None:
        dims = convolution_dims(model) or {1}  # without convolutions: (N, C), as 1-D layers take
        if len(dims) != 1:
            raise NormError(
                f"{site.name}: {_short(site.module)} takes signals and images alike, and the "
                f"model's convolutions do not tell which it sees; put nw.GroupNorm1d (or 2d, "
                "3d) there"
            )
        dim = dims.pop()
    try:
        new = candidate.make(site.num_features, dim)
    except NormError as error:
        raise NormError(f"{site.name} ({_short(site.module)}): {error}") from error
    if not isinstance(new, torch.nn.Module):
        raise NormError(
            f"{site.name} ({_short(site.module)}): {candidate.text} returned {describe(new)}; "
            "a function of (num_features, dim) has to return a torch.nn.Module"
        )
    # A norm without tensors of its own is where the model is.
    tensors = [*site.module.parameters(), *site.module.buffers(), *model.parameters()]
    like = next((tensor for tensor in tensors if tensor.dtype.is_floating_point), None)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    new._normwise_dim = dim  # type: ignore[assignment]  # for the next swap: Identity has no rank
    if isinstance(new, _OURS) and new.activation is None:
        new.activation = _activation(site.module)
    return new.train(site.module.training)


def _carry(site: Site, new: torch.nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Copy what means the same thing in both layers; returns what went and what stayed."""
    old_state = _tensors(site.module)
    new_state = _tensors(new)
    same_kind = bool(set(kinds(site.module)) & set(kinds(new)))
    alike = set(_alike(site.module)) & set(_alike(new))
    carried, left = [], []
    for name, old in old_state.items():
        # Statistics mean the same only where both are built on one kind of norm.
        target = new_state.get(name) if same_kind or name in alike else None
        if target is not None and target.shape == old.shape:
            target.data.copy_(old.data)
            if isinstance(old, torch.nn.Parameter) and isinstance(target, torch.nn.Parameter):
                target.requires_grad_(old.requires_grad)
            carried.append(name)
        elif name != "num_batches_tracked":
            left.append(name)
    activation = _activation(site.module)
    if activation not in (None, _activation(new)):
        left.append(f"activation={activation!r}")
    return tuple(carried), tuple(left)


def _tie(
    changes: list[Change], replacements: list[tuple[torch.nn.Module, torch.nn.Module]]
) -> None:
    """Parameters that old layers shared, new ones share."""
    successors: dict[Any, Any] = {}
    for change, (old, new) in zip(changes, replacements, strict=True):
        for name in set(change.carried) & set(old._parameters) & set(new._parameters):
            setattr(new, name, successors.setdefault(getattr(old, name), getattr(new, name)))


def _unfuse(model: torch.nn.Module) -> None:
    """Keep torch's transformers from their fused path.

    In evaluation it reads norm1.weight and norm1.bias, and never calls norm1.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.TransformerEncoderLayer):
            if isinstance(module.norm1, _OURS) or isinstance(module.norm2, _OURS):
                module.activation_relu_or_gelu = 0
        elif isinstance(module, torch.nn.TransformerEncoder):
            module.use_nested_tensor = False


def _activation(module: torch.nn.Module) -> str | None:
    """The activation that a layer of ours applies itself; others apply none."""
    return module.activation if isinstance(module, _OURS) else None


def _tensors(module: torch.nn.Module) -> Mapping[str, Any]:
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {name: t for name, t in tensors if not torch.nn.parameter.is_lazy(t)}


def _alike(module: torch.nn.Module) -> tuple[str, ...]:
    """The parameters that mean the same in every norm that has them."""
    return module.carries if isinstance(module, Normalization) else ("weight", "bias")


def _short(module: torch.nn.Module) -> str:
    """BatchNorm1d(64), GroupNorm1d(8, 64), Norm('[n] c [t]')."""
    if isinstance(module, Norm):
        return f"{type(module).__name__}({module.scheme.pattern.text!r})"
    names = ("num_groups", "num_channels", "num_features", "normalized_shape")
    sizes = [getattr(module, name) for name in names if hasattr(module, name)]
    plain = [s[0] if isinstance(s, tuple) and len(s) == 1 else s for s in sizes]
    return f"{type(module).__name__}({', '.join(map(str, plain))})"
