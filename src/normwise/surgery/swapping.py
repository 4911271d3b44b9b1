"""Put one norm in the place of others: say what would change, then change it in a copy."""

import copy
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch

from normwise.catalogue import Candidate
from normwise.errors import NormError
from normwise.surgery.carrying import activation_of, alike, carry, with_inner
from normwise.surgery.fusing import activation_name, any_activation, fusible
from normwise.surgery.making import Made, Make, Own, Same, activates, make, read
from normwise.surgery.recognition import recognise
from normwise.surgery.replacing import (
    OURS,
    Change,
    Plan,
    Replacement,
    perform,
    process_groups,
    put,
    shown,
)
from normwise.surgery.sites import Site, bare_sites, find, is_frozen

Where = str | type | Collection[str] | Callable[[str, torch.nn.Module], bool] | None
Groups = Literal["auto", "exact"]


def plan(
    model: torch.nn.Module,
    to: str | Make,
    where: Where = None,
    *,
    groups: Groups = "auto",
    carry: bool = True,
    fuse: bool = False,
) -> Plan:
    """Say what `swap` would do with the same arguments; nothing is touched."""
    return _prepare(model, to, where, groups, carry, fuse)[0]


def swap(
    model: torch.nn.Module,
    to: str | Make,
    where: Where = None,
    *,
    groups: Groups = "auto",
    carry: bool = True,
    fuse: bool = False,
    inplace: bool = False,
) -> torch.nn.Module:
    """The model with its norms replaced: ``swap(model, "group:8")``.

    The model that is given stays as it is, unless `inplace`. Channel counts are
    inferred; weight and bias are carried over where the new layer has them, and
    running statistics from batch norm to batch norm. Device, dtype,
    requires_grad, training mode, hooks, and a dropout or activation within the old
    layer stay. A layer that is shared stays shared.

    ``swap(model, "same")`` puts in the place of every norm of torch.nn, and of every
    other that is found, the layer of normwise that computes the same: the same
    numbers with the same parameters, and masks besides. One thing differs: what
    would average over a single element, and so erase its input, is refused.

    to       a candidate of the catalogue; "same"; or a function of (num_features, dim)
             that returns a layer, with dim as in `make`, and num_features None for a
             layer that is lazy and a tuple where the features are in the last dimensions
    where    which norms: a path with wildcards ("encoder.*"), several of them, a
             class, or a function of (path, module); all if left out
    groups   "auto": where a number of groups does not divide the channels, the largest
             below it that does and leaves two channels in each; the plan says so.
             "exact": that is an error
    carry    whether weights and statistics go on; if not, the new layers start anew
    fuse     whether an activation that follows a norm directly, and takes nothing else,
             goes into it: one pass over memory instead of two. Known are ReLU, leaky
             ReLU of slope 0.01, exact GELU and SiLU, as modules. Norms that bring an
             activation of their own, as EvoNorm does, take the place of any

    Raises
        NormError  if the candidate is not known or does not fit a layer (which
                   one, and what would), a function returns no module, or there
                   is no norm to swap.
    """
    done, replacements = _prepare(model, to, where, groups, carry, fuse)
    return perform(model, done, replacements, inplace=inplace)


def receipt(model: torch.nn.Module) -> Plan:
    """What the last `swap`, `freeze`, `sync` or `fold` that made this model did to it.

    Raises
        NormError  if the model does not come from one of them.
    """
    done = getattr(model, "_normwise_receipt", None)
    if not isinstance(done, Plan):
        raise NormError("this model does not come from nw.swap, so there is no receipt")
    return done


def undo(model: torch.nn.Module, *, inplace: bool = False) -> torch.nn.Module:
    """The model with the layers that it had before its last `swap`, `freeze`, `sync` or `fold`.

    What was carried into the new layers goes back with what has been learned since;
    what was left behind is as it was. So right after a swap this gives the model that
    was swapped, and after ``swap(model, "same")`` and a training, the trained model
    with the layers of torch.nn. The receipt is then the one before.

    Raises
        NormError  if the model does not come from a swap, or a layer was lazy then.
    """
    done = receipt(model)
    lost = [r.paths[0] for r in done.replaced if r.module is None]
    if lost or len(done.replaced) < len(done.changes):
        raise NormError(
            f"{', '.join(lost) or 'its layers'} could not be kept when the model was swapped, as "
            "torch cannot copy a lazy layer; swap to another norm instead"
        )
    if not inplace:
        model = copy.deepcopy(model, process_groups(model))
        done = receipt(model)
    whole = None
    for replaced in done.replaced:
        old = replaced.module
        assert old is not None  # as checked above
        here = model.get_submodule(replaced.paths[0])
        norm = next((m for m in here.modules() if recognise(m) is not None), None)
        if replaced.carried and norm is not None:
            carry(norm, old)
        for name, parameter in old.named_parameters(recurse=False):
            parameter.requires_grad_(name in replaced.learned)
        _follow(model, old)
        old.train(old.training if is_frozen(here) else here.training)
        if "" in replaced.paths:
            whole = old
        else:
            put(model, replaced.paths, old)
    if whole is not None:
        if inplace:
            raise NormError("a model that is itself a norm cannot be swapped in place")
        model = whole
    if done.earlier is None:
        vars(model).pop("_normwise_receipt", None)
    else:
        vars(model)["_normwise_receipt"] = done.earlier
    return model


def _follow(model: torch.nn.Module, old: torch.nn.Module) -> None:
    """Move a layer that was out of the model to where the model has gone meanwhile."""
    like = next((p for p in model.parameters() if p.dtype.is_floating_point), None)
    if like is not None and any(p.device != like.device for p in old.parameters()):
        old.to(like.device)


def is_meant(site: Site, where: Where) -> bool:
    """Whether `where` means this norm."""
    if where is None:
        return True
    if isinstance(where, str):
        return any(fnmatchcase(path, where) for path in site.paths)
    if isinstance(where, type):
        return isinstance(site.module, where)
    if isinstance(where, Collection):
        return any(is_meant(site, name) for name in where)
    return bool(where(site.path, site.module))


def sites_of(model: torch.nn.Module, where: Where, why: str) -> list[Site]:
    """The norms that `where` means.

    Raises
        NormError  if the model has no norm, or `where` means none of them.
    """
    sites = bare_sites(model)
    if not sites:
        raise NormError(
            f"{type(model).__name__} has no normalization layer to swap; put nw.Identity(channels) "
            "where one may go"
        )
    meant = [site for site in sites if is_meant(site, where)]
    if not meant:
        raise nothing_to_do(f"swap for {why!r}", f"where={where!r} matches no norm", sites)
    return meant


def nothing_to_do(what: str, reasons: str, sites: list[Site]) -> NormError:
    """The error of a call that would change no layer."""
    return NormError(
        f"nothing to {what}: {reasons}; "
        f"the model's norms are {', '.join(site.name for site in sites)}"
    )


def _prepare(
    model: torch.nn.Module,
    to: str | Make,
    where: Where,
    groups: Groups,
    carries: bool,
    fuse: bool,
) -> tuple[Plan, list[Replacement]]:
    candidate = read(to)
    if groups not in ("auto", "exact"):
        raise NormError(f"groups={groups!r} is not known; write 'auto' or 'exact'")
    if isinstance(candidate, Same) and not carries:
        raise NormError("swap(model, 'same') is to change no number, so carry=False cannot be")
    sites = sites_of(model, where, candidate.text)
    made: dict[Site, Made] = {}
    kept: dict[Site, str] = {}
    for site in sites:
        outcome = make(candidate, site, model, groups=groups)
        if isinstance(outcome, str):
            kept[site] = outcome
        else:
            made[site] = outcome
    fused = _fuse(model, made, kept, candidate) if fuse else {}
    if activates(candidate) and not fuse:
        _note_activations(model, made)
    changes, replacements = [], []
    for site in filter(made.__contains__, sites):
        new = made[site].layer
        carried, left, links = carry(site.module, new, values=carries)
        whole = with_inner(site.module, new)
        if whole is not new:
            links = tuple((old, f"norm.{name}") for old, name in links)
        words = shown(site.module), shown(whole)
        changes.append(Change(site.paths, *words, carried, left, made[site].notes))
        replacements.append(Replacement(site.module, whole, site.paths, bool(carried), links))
    replacements += [
        Replacement(m, torch.nn.Identity().train(m.training), paths) for m, paths in fused.items()
    ]
    if not changes and not (isinstance(candidate, Same) and kept):
        reasons = "; ".join(f"{site.path}: {reason}" for site, reason in kept.items())
        raise nothing_to_do(f"swap for {candidate.text!r}", reasons, bare_sites(model))
    skipped = tuple((site.path, reason) for site, reason in kept.items())
    return Plan(candidate.text, tuple(changes), skipped), replacements


def _note_activations(model: torch.nn.Module, made: dict[Site, Made]) -> None:
    """Say of norms with an activation of their own that the model's stays behind them."""
    found = {site.module: site.activation for site in find(model)}
    for site, new in made.items():
        after = activation_of(new.layer) or found[site.module]
        if after is not None:
            note = f"it activates, and {after} stays behind it: fuse=True takes that out"
            made[site] = Made(new.layer, (*new.notes, note))


def _fuse(
    model: torch.nn.Module,
    made: dict[Site, Made],
    kept: dict[Site, str],
    candidate: Candidate | Own | Same,
) -> dict[torch.nn.Module, tuple[str, ...]]:
    """Let new layers take in the activations that follow; which modules go, and their paths."""
    same, replaces = isinstance(candidate, Same), activates(candidate)
    for each in made.values() if replaces else ():
        plain: Any = each.layer
        plain.activation = None  # it has one of its own
    # Our own layers stay in a swap to "same", unless they have something to take in.
    ours = {site for site in kept if same and isinstance(site.module, OURS)}
    layers = {site.module: made[site].layer for site in made}
    layers |= {site.module: alike(site.module) for site in ours}
    sites = {site.module: site for site in [*made, *ours]}
    paths: dict[torch.nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    gone: dict[torch.nn.Module, tuple[str, ...]] = {}
    name_of = any_activation if replaces else activation_name
    for norm, (name, activations) in fusible(model, layers, name_of).items():
        site, new = sites[norm], layers[norm]
        if not replaces:
            takes_in: Any = new
            takes_in.activation = name
        where = ", ".join(paths[module][0] for module in activations)
        verb = "takes the place of" if replaces else "takes in"
        note = f"{verb} {where}, {type(activations[0]).__name__}"
        said = made[site].notes if site in made else ()
        made[site] = Made(new, (*said, note))
        kept.pop(site, None)
        gone |= {module: tuple(paths[module]) for module in activations}
    return gone
