"""Stop norms from learning, and let them learn again; let them learn together."""

from collections.abc import Callable
from typing import Any

import torch

from normwise import layers
from normwise.errors import NormError
from normwise.layers.remembering import Remembering
from normwise.surgery.carrying import KeptError, alike, carry, refuse_computed, with_inner
from normwise.surgery.recognition import epsilon_of
from normwise.surgery.replacing import OURS, Change, Plan, Replacement, perform, shown
from normwise.surgery.sites import Site, bare_sites, is_frozen
from normwise.surgery.swapping import Where, is_meant, nothing_to_do
from normwise.surgery.twins import twin


def freeze(
    model: torch.nn.Module, where: Where = None, *, affine: bool = False, inplace: bool = False
) -> torch.nn.Module:
    """The model with running statistics that are used as they are and no longer change.

        model = nw.freeze(model)                      the statistics
        model = nw.freeze(model, affine=True)         weight and bias, too
        model = nw.freeze(model, "encoder.*")

    A frozen layer is in evaluation whatever `.train()` is told, so it survives every
    training loop, a copy and a pickle. Layers of torch.nn become normwise's, with the
    same numbers. With `affine`, weight and bias of every norm that is meant, with or
    without statistics, require no gradients.

    where    which norms, as in `swap`; all if left out

    Raises
        NormError  if no norm that is meant has anything to freeze.
    """

    def frozen(site: Site) -> torch.nn.Module:
        if is_frozen(site.module):
            raise KeptError("it is frozen already")
        remembers = site.module._buffers.get("running_var") is not None
        learned = [n for n, p in site.module.named_parameters(recurse=False) if p.requires_grad]
        if not remembers and not (affine and learned):
            raise KeptError("it remembers nothing that could be frozen")
        new = alike(site.module) if isinstance(site.module, OURS) else twin(site)
        if remembers and isinstance(new, Remembering):
            new.frozen = True
            new.eval()
        if affine:
            vars(new)["_normwise_frozen"] = tuple(learned)  # for unfreeze
        return new

    model = _rebuilt(model, "freeze", where, frozen, inplace=inplace)
    for module in model.modules() if affine else ():
        for name in getattr(module, "_normwise_frozen", ()):
            module.get_parameter(name).requires_grad_(False)
    return model


def unfreeze(
    model: torch.nn.Module, where: Where = None, *, inplace: bool = False
) -> torch.nn.Module:
    """The model with its frozen norms learning again, in the model's own training mode.

    What `freeze` took gradients from gets them back. A FrozenBatchNorm, ours or
    torchvision's, becomes a BatchNorm whose weight and bias are parameters.

    where    which norms, as in `swap`; all if left out

    Raises
        NormError  if no norm that is meant is frozen.
    """

    def thawed(site: Site) -> torch.nn.Module:
        held = getattr(site.module, "_normwise_frozen", ())
        if not is_frozen(site.module) and not held:
            raise KeptError("it is not frozen")
        if isinstance(site.module, Remembering) or held:
            new = alike(site.module)
            vars(new).pop("_normwise_frozen", None)
            vars(new)["_normwise_thawed"] = held
            if isinstance(new, Remembering):
                new.frozen = False
        else:
            build: Any = getattr(layers, f"BatchNorm{site.dim or 1}d")
            new = build(site.num_features, epsilon_of(site.module) or 1e-5)
            new.to(site.module.running_var.device)
            carry(site.module, new)
        return new.train(model.training)

    changed = _rebuilt(model, "unfreeze", where, thawed, inplace=inplace)
    for module in changed.modules():
        for name in vars(module).pop("_normwise_thawed", ()):
            module.get_parameter(name).requires_grad_(True)
    return changed


def sync(
    model: torch.nn.Module,
    where: Where = None,
    *,
    process_group: Any = None,
    inplace: bool = False,
) -> torch.nn.Module:
    """The model with batch norms that share their statistics between processes.

    Every batch norm, torch's or ours, becomes an `nw.SyncBatchNorm` with the same
    parameters and statistics. Frozen ones stay: they share nothing.

    where          which norms, as in `swap`; all if left out
    process_group  of `torch.distributed`; all processes if left out

    Raises
        NormError  if no norm that is meant is a batch norm.
    """

    def synced(site: Site) -> torch.nn.Module:
        if isinstance(site.module, layers.SyncBatchNorm):
            raise KeptError("it is a SyncBatchNorm already")
        if is_frozen(site.module):
            raise KeptError("it is frozen")
        if site.kind != "batch":
            raise KeptError(f"it is no batch norm: {site.kind}")
        ours = twin(site)
        new = layers.SyncBatchNorm.convert_sync_batchnorm(ours, process_group)
        if new is ours:
            raise KeptError(f"{type(ours).__name__} is no plain batch norm")
        vars(new)["_normwise_dim"] = site.dim
        return new

    return _rebuilt(model, "sync", where, synced, inplace=inplace)


def _rebuilt(
    model: torch.nn.Module,
    why: str,
    where: Where,
    make: Callable[[Site], torch.nn.Module],
    *,
    inplace: bool,
) -> torch.nn.Module:
    """The model with every norm that is meant made anew from its own tensors, with a receipt."""
    sites = bare_sites(model)
    if not sites:
        raise NormError(f"{type(model).__name__} has no normalization layer to {why}")
    changes, skipped, replacements = [], [], []
    for site in (site for site in sites if is_meant(site, where)):
        new = _attempt(make, site)
        if isinstance(new, str):
            skipped.append((site.path, new))
            continue
        whole = with_inner(site.module, new)
        after = f"{shown(whole)}, frozen" if why == "freeze" else shown(whole)
        before = f"{shown(site.module)}, frozen" if why == "unfreeze" else shown(site.module)
        changes.append(Change(site.paths, before, after, tuple(dict(new.named_parameters()))))
        replacements.append(Replacement(site.module, whole, site.paths, carried=True))
    if not changes:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped)
        raise nothing_to_do(why, reasons or f"where={where!r} matches no norm", sites)
    done = Plan(why, tuple(changes), tuple(skipped))
    return perform(model, done, replacements, inplace=inplace)


def _attempt(make: Callable[[Site], torch.nn.Module], site: Site) -> torch.nn.Module | str:
    try:
        refuse_computed(site.module)
        return make(site)
    except KeptError as error:
        return str(error)
