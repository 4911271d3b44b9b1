"""Tell an optimizer which parameters a swap has put in the place of others."""

from typing import Any

import torch

from normwise.errors import NormError
from normwise.surgery.replacing import Plan


def update_optimizer(optimizer: torch.optim.Optimizer, receipt: Plan) -> torch.optim.Optimizer:
    """Move an optimizer from a model's old parameters to those after a swap, in place.

        swapped = nw.swap(model, "group:8")
        nw.update_optimizer(optimizer, nw.receipt(swapped))

    Each parameter keeps its group; what was carried keeps its momentum and other
    state. Parameters that no longer are leave; new ones join the group of the layer
    they came for, or the first.

    Returns the optimizer that was given.

    Raises
        NormError  if the receipt was copied or loaded, so that it no longer knows the
                   parameters, or the optimizer has none of them. Nothing is changed then.
    """
    links = receipt.links
    if links is None or not links.successors:
        raise NormError(
            "this receipt does not know the parameters: it is a plan, a copy, or was loaded; take "
            "nw.receipt(model) of the very model that nw.swap returned"
        )
    successors: dict[int, Any] = {}
    for old, new in links.successors:
        if old() is not None:
            successors[id(old())] = None if new is None else new()
    held = [p for group in optimizer.param_groups for p in group["params"]]
    news = {id(p) for p in successors.values() if p is not None}
    if not any(id(p) in successors or id(p) in news for p in held):
        raise NormError(
            "the optimizer has none of the parameters of the model that was swapped; give the "
            "optimizer that was made for it"
        )
    homes = {id(p): g for g, group in enumerate(optimizer.param_groups) for p in group["params"]}
    groups = [_moved(group, successors) for group in optimizer.param_groups]
    present = {id(p) for parameters, _ in groups for p in parameters}
    for beside, fresh in links.fresh:
        parameter = fresh()
        if parameter is None or id(parameter) in present:
            continue
        home = 0 if beside is None or beside() is None else homes.get(id(beside()), 0)
        groups[home][0].append(parameter)
        if groups[home][1] is not None:
            groups[home][1].append(f"(new) {len(groups[home][0])}")
    for group, (parameters, names) in zip(optimizer.param_groups, groups, strict=True):
        group["params"][:] = parameters
        if names is not None:
            group["param_names"] = names
    for old in list(optimizer.state):
        if id(old) in successors:
            new, state = successors[id(old)], optimizer.state.pop(old)
            if new is not None and new.shape == old.shape:
                optimizer.state[new] = state
    return optimizer


def _moved(group: dict[str, Any], successors: dict[int, Any]) -> tuple[list[Any], Any]:
    """The parameters of a group, and their names where it has them, after the swap."""
    names = group.get("param_names")
    pairs = [
        (successors.get(id(p), p), None if names is None else names[i])
        for i, p in enumerate(group["params"])
    ]
    pairs = [pair for pair in pairs if pair[0] is not None]
    return [p for p, _ in pairs], None if names is None else [name for _, name in pairs]
