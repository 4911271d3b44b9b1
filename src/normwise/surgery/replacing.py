"""Put modules in the place of others, in a copy of the model or in the model, and take it back."""

import copy
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from normwise.errors import NormError
from normwise.layers import Identity, Norm, Normalization

OURS = (Normalization, Identity)
_HOOK_FLAGS = (
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_is_full_backward_hook",
)


@dataclass(frozen=True)
class Change:
    """One layer that is replaced: where, by what, and what it took along."""

    paths: tuple[str, ...]
    before: str
    after: str
    carried: tuple[str, ...] = ()
    left: tuple[str, ...] = ()  # what the old layer had and the new one has no place for
    notes: tuple[str, ...] = ()  # what else is to be known of it

    def __str__(self) -> str:
        left = f"   (left behind: {', '.join(self.left)})" if self.left else ""
        notes = "".join(f"; {note}" for note in self.notes)
        return f"{self.paths[0] or '(the model)'}: {self.before} → {self.after}{notes}{left}"


@dataclass(frozen=True)
class Plan:
    """What a call changes, and what it leaves alone and why. Prints as a list.

    candidate  what was asked for
    changes    the layers that are replaced
    skipped    (path, reason) of the layers that stay
    """

    candidate: str
    changes: tuple[Change, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    # What a receipt needs to take the changes back, and to tell an optimizer of them.
    replaced: "tuple[Replaced, ...]" = field(default=(), compare=False, repr=False)
    links: "Links | None" = field(default=None, compare=False, repr=False)
    earlier: "Plan | None" = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        lines = [str(change) for change in self.changes]
        lines += [f"{path or '(the model)'}: kept, {reason}" for path, reason in self.skipped]
        return "\n".join(lines)


@dataclass(frozen=True)
class Replaced:
    """A module that is no longer in the model.

    paths    where it was
    module   itself; None where it could not be copied
    carried  whether its successor has its tensors
    learned  the names of its parameters that required gradients
    """

    paths: tuple[str, ...]
    module: torch.nn.Module | None
    carried: bool
    learned: tuple[str, ...]


@dataclass(frozen=True)
class Replacement:
    """What takes a module's place.

    old, new  the modules
    paths     every name the old one has
    carried   whether the new one has the old one's tensors, or their values
    links     (name in old, name in new) of the parameters that become others
    """

    old: torch.nn.Module
    new: torch.nn.Module
    paths: tuple[str, ...]
    carried: bool = False
    links: tuple[tuple[str, str], ...] = ()


class Links:
    """Which parameter became which: what an optimizer has to know.

    Weak references, and none after a copy or a pickle: the parameters of another
    model are no business of this one's.
    """

    def __init__(self) -> None:
        self.successors: list[tuple[Any, Any]] = []  # (old, new or None)
        self.fresh: list[tuple[Any, Any]] = []  # (a parameter of the old layer or None, new)

    def __reduce__(self) -> Any:
        return Links, ()

    def __deepcopy__(self, memo: Any) -> "Links":
        return Links()


def perform(
    model: torch.nn.Module, done: Plan, replacements: list[Replacement], *, inplace: bool
) -> torch.nn.Module:
    """The model with the replacements made, and a receipt that says so.

    Raises
        NormError  if the model itself would be replaced in place.
    """
    earlier = getattr(model, "_normwise_receipt", None)
    before = dict(model.named_parameters())
    memo = process_groups(model, *(r.new for r in replacements))
    olds: list[torch.nn.Module | None]
    if inplace:
        if any("" in r.paths for r in replacements):
            raise NormError("a model that is itself a norm cannot be swapped in place")
        news, olds = [r.new for r in replacements], [r.old for r in replacements]
        try:
            for r in replacements:
                _move_hooks(vars(r.old), r.old, r.new)
                put(model, r.paths, r.new)
        except BaseException:  # a model may refuse to be assigned to
            for r in replacements:
                put(model, r.paths, r.old)
            raise
    else:
        # Each copy knows of the ones before: parameters that are shared stay shared.
        news = [copy.deepcopy(r.new, memo) for r in replacements]
        olds = [_copied(r.old, memo) for r in replacements]
        # Whatever refers to an old layer, however often, refers to its successor in the copy.
        memo |= {id(r.old): new for r, new in zip(replacements, news, strict=True)}
        model = copy.deepcopy(model, memo)
        earlier = copy.deepcopy(earlier, memo)
        for r, new in zip(replacements, news, strict=True):
            _move_hooks(copy.deepcopy(_hooks(r.old), memo), r.old, new)
    unfuse(model)
    receipt = replace(
        done,
        replaced=tuple(
            Replaced(r.paths, old, r.carried, _learned(r.old))
            for r, old in zip(replacements, olds, strict=True)
        ),
        links=_linked(before, replacements, news, memo),
        earlier=earlier,
    )
    vars(model)["_normwise_receipt"] = receipt
    return model


def process_groups(*models: torch.nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy`: what stands for other processes cannot be copied."""
    modules = (module for model in models for module in model.modules())
    groups = (getattr(module, "process_group", None) for module in modules)
    return {id(group): group for group in groups if group is not None}


def put(model: torch.nn.Module, paths: Iterable[str], module: torch.nn.Module) -> None:
    """Set a module at every path of a model."""
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module)


def unfuse(model: torch.nn.Module) -> None:
    """Keep torch's transformers from their fused path.

    In evaluation it reads norm1.weight and norm1.bias, and never calls norm1.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.TransformerEncoderLayer):
            if isinstance(module.norm1, OURS) or isinstance(module.norm2, OURS):
                module.activation_relu_or_gelu = 0
        elif isinstance(module, torch.nn.TransformerEncoder):
            module.use_nested_tensor = False


def shown(module: torch.nn.Module) -> str:
    """BatchNorm1d(64), GroupNorm1d(8, 64), Norm('[n] c [t]')."""
    if isinstance(module, Norm):
        return f"{type(module).__name__}({module.scheme.pattern.text!r})"
    if type(module) is torch.nn.Sequential:
        return " + ".join(shown(child) for child in module)
    names = ("num_groups", "num_channels", "num_features", "normalized_shape")
    sizes = [s for name in names if (s := getattr(module, name, None)) is not None]
    plain = [s[0] if isinstance(s, tuple) and len(s) == 1 else s for s in sizes]
    return f"{type(module).__name__}({', '.join(map(str, plain))})"


def own_hooks(module: torch.nn.Module) -> bool:
    """Whether somebody hung hooks on a module; a lazy layer's own do not count."""
    return any(kept for name, kept in _hooks(module).items() if isinstance(kept, dict))


def _hooks(module: torch.nn.Module) -> dict[str, Any]:
    """The hooks of a module, without those by which a lazy layer learns its size."""
    lazy = {
        handle.id
        for name in ("_load_hook", "_initialize_hook")
        for handle in [getattr(module, name, None)]
        if handle is not None
    }
    kept: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            kept[name] = type(value)({k: v for k, v in value.items() if k not in lazy})
        elif name in _HOOK_FLAGS:
            kept[name] = value
    return kept


def _move_hooks(hooks: dict[str, Any], old: torch.nn.Module, new: torch.nn.Module) -> None:
    """Hang a module's hooks on its successor; `hooks` are the module's own, or a copy."""
    mine = _hooks(old)
    for name, value in hooks.items():
        if name not in mine:
            continue
        here = getattr(new, name, None)
        if not isinstance(value, dict):
            if value is not None:
                setattr(new, name, value)
        elif here:
            here.update({k: v for k, v in value.items() if k in mine[name]})
        elif mine[name]:
            setattr(new, name, value)  # the same dictionary, so that a handle can still remove it


def _copied(module: torch.nn.Module, memo: dict[int, Any]) -> torch.nn.Module | None:
    """A copy for the receipt, without hooks; None for what cannot be copied, as torch's lazy."""
    emptied = {
        id(value): type(value)()
        for child in module.modules()
        for name, value in vars(child).items()
        if name.endswith("_hooks") and isinstance(value, dict)
    }
    inner = {**memo, **emptied}
    try:
        copied = copy.deepcopy(module, inner)
    except Exception:
        return None
    # Parameters that came along are in memo now, but for the module itself and its hooks.
    memo |= {key: value for key, value in inner.items() if isinstance(value, torch.Tensor)}
    return copied


def _learned(module: torch.nn.Module) -> tuple[str, ...]:
    return tuple(name for name, p in module.named_parameters(recurse=False) if p.requires_grad)


def _linked(
    before: dict[str, torch.nn.Parameter],
    replacements: list[Replacement],
    news: list[torch.nn.Module],
    memo: dict[int, Any],
) -> Links:
    links = Links()
    became: dict[int, Any] = {}
    replaced: set[int] = set()
    for r, new in zip(replacements, news, strict=True):
        olds, parameters = dict(r.old.named_parameters()), dict(new.named_parameters())
        replaced |= {id(p) for p in olds.values()}
        here = {id(p) for p in parameters.values()}
        copied = {id(p): memo.get(id(p), p) for p in olds.values()}
        became |= {key: p for key, p in copied.items() if id(p) in here}
        became |= {id(olds[a]): parameters[b] for a, b in r.links if a in olds and b in parameters}
        taken = {id(p) for p in became.values()}
        beside = next(iter(olds.values()), None)
        links.fresh += [
            (None if beside is None else weakref.ref(beside), weakref.ref(p))
            for p in parameters.values()
            if id(p) not in taken and id(p) not in replaced
        ]
    for parameter in before.values():
        default = None if id(parameter) in replaced else memo.get(id(parameter), parameter)
        successor = became.get(id(parameter), default)
        after = None if successor is None else weakref.ref(successor)
        links.successors.append((weakref.ref(parameter), after))
    return links
