"""Which activations can go into the norm before them."""

from collections.abc import Callable, Mapping

import torch

from normwise.surgery.flow import Flow
from normwise.surgery.recognition import inner_modules, is_activation
from normwise.surgery.replacing import OURS, own_hooks


def fusible(
    model: torch.nn.Module,
    layers: Mapping[torch.nn.Module, torch.nn.Module],
    name_of: Callable[[torch.nn.Module], str | None],
) -> dict[torch.nn.Module, tuple[str, tuple[torch.nn.Module, ...]]]:
    """For each norm that can take its activation in: the activation's name, and the modules.

    layers   the norms of the model, and what will stand in their places
    name_of  the name of an activation that can go; None for every other module

    A norm can where every use of its output is such an activation; an activation
    can go where every one of its inputs is such a norm. Both have to be seen in
    the model's code.
    """
    taking = {id(old): old for old, new in layers.items() if _can_take(old, new)}
    flow = Flow(model, {id(old) for old in layers})
    going = {id(m): m for m in model.modules() if name_of(m) and not own_hooks(m)}
    going = {key: module for key, module in going.items() if flow.calls.get(key)}
    followers: dict[int, set[int]] = {}
    while True:
        before = len(taking), len(going)
        for key in list(taking):
            users = [user for node in flow.calls.get(key, []) for user in flow.users(node)]
            modules = {id(flow.module(user)) for user in users}
            names = {name_of(going[m]) for m in modules if m in going}
            if not users or not modules <= going.keys() or len(names) != 1:
                del taking[key]
            followers[key] = modules
        for key in list(going):
            sources = {id(flow.module(flow.source(node))) for node in flow.calls[key]}
            if not sources <= taking.keys():
                del going[key]
        if (len(taking), len(going)) == before:
            break
    found = {}
    for key, norm in taking.items():
        activations = tuple(going[m] for m in followers[key])
        name = name_of(activations[0])
        assert name is not None  # the others have left `going`
        found[norm] = name, activations
    return found


def activation_name(module: torch.nn.Module) -> str | None:
    """The name our layers have for an activation of torch.nn; None for one they cannot apply."""
    if type(module) is torch.nn.ReLU:
        return "relu"
    if type(module) is torch.nn.SiLU:
        return "silu"
    if type(module) is torch.nn.LeakyReLU and module.negative_slope == 0.01:
        return "leaky_relu"
    if type(module) is torch.nn.GELU and module.approximate == "none":
        return "gelu"
    return None


def any_activation(module: torch.nn.Module) -> str | None:
    """The name of an activation that a norm with one of its own stands for; else None."""
    plain = is_activation(module) and next(module.parameters(), None) is None
    return type(module).__name__ if plain else None


def _can_take(old: torch.nn.Module, new: torch.nn.Module) -> bool:
    free = isinstance(new, OURS) and new.activation is None
    return free and not own_hooks(old) and (isinstance(old, OURS) or not inner_modules(old))
