"""Carry over what means the same in two norms."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from normwise import layers
from normwise.surgery.recognition import (
    Known,
    inner_modules,
    kinds,
    recognise,
)
from normwise.surgery.replacing import OURS


class KeptError(Exception):
    """A layer stays, for the reason that is the text."""


def refuse_computed(module: torch.nn.Module) -> None:
    """Leave a layer alone whose weight is computed from other tensors.

    Raises
        KeptError  if it is.
    """
    if parametrize.is_parametrized(module):
        computed: Any = module.parametrizations
        names = ", ".join(computed)
        raise KeptError(
            f"its {names} is parametrized; torch.nn.utils.parametrize.remove_parametrizations "
            "makes it plain"
        )
    for hook in module._forward_pre_hooks.values():
        if type(hook).__name__ in ("WeightNorm", "SpectralNorm"):
            name = type(hook).__name__
            raise KeptError(f"its weight is computed by a hook, {name}; remove that first")


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


def with_inner(old: torch.nn.Module, new: torch.nn.Module) -> torch.nn.Module:
    """The new layer, followed by the dropout and the activation that the old one had within."""
    inner = {} if isinstance(old, OURS) else inner_modules(old)
    if not inner:
        return new
    return torch.nn.Sequential(OrderedDict([("norm", new), *inner.items()])).train(old.training)


def _hand_on(old: Tensor, new: torch.nn.Module, name: str, target: Tensor, origin: float) -> None:
    store: Any = new._parameters if name in new._parameters else new._buffers
    was_parameter = isinstance(old, torch.nn.Parameter)
    same = target.shape == old.shape and not origin and was_parameter == (name in new._parameters)
    if same and (was_parameter or target.dtype == old.dtype):
        store[name] = old
        return
    target.data.copy_(old.data.reshape(target.shape) + origin)
    if was_parameter and name in new._parameters:
        target.requires_grad_(old.requires_grad)


def tensors_of(module: torch.nn.Module) -> Mapping[str, Any]:
    """The parameters and buffers that have a size, by name."""
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {name: t for name, t in tensors if not is_lazy(t)}


def _canonical(module: torch.nn.Module, known: Known | None) -> dict[str, tuple[str, Any]]:
    """The tensors of a norm by the names that torch.nn gives them: (name in the module, tensor)."""
    names = {} if known is None else {known.weight: "weight", known.bias: "bias"}
    return {names.get(name, name): (name, t) for name, t in tensors_of(module).items()}


def _alike(module: torch.nn.Module) -> tuple[str, ...]:
    """The parameters that mean the same in every norm that has them."""
    return module.carries if isinstance(module, layers.Normalization) else ("weight", "bias")
