"""Make the layer that takes a norm's place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from normwise import layers
from normwise.catalogue import Candidate, catalogue, parse_candidate
from normwise.checks import divisors, whole_number
from normwise.errors import NormError, describe
from normwise.surgery.carrying import KeptError, activation_of, refuse_computed
from normwise.surgery.replacing import OURS, shown
from normwise.surgery.sites import Site, convolution_dims, find
from normwise.surgery.twins import twin

Make = Callable[[Any, int], torch.nn.Module]  # of (num_features, dim)
SAME = "same"


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
    vars(new)["_normwise_dim"] = dim  # for the next swap: Identity has no rank
    if isinstance(candidate, Own):  # what it is may not show
        vars(new)["_normwise_place"] = (site.num_features, dim)
    if isinstance(new, OURS) and new.activation is None:
        new.activation = activation_of(site.module)
    if getattr(site.module, "frozen", False) and hasattr(new, "frozen"):
        new.frozen = site.module.frozen
    return Made(new.train(site.module.training), notes)


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


def activates(candidate: Candidate | Own | Same) -> bool:
    """Whether a candidate's layers bring the activation that follows."""
    return isinstance(candidate, Candidate) and candidate.entry.activates


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
