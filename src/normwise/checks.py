"""What x, a mask and moments must be: said once, for the layers and the functions alike."""

import operator
from typing import Any

import torch
from torch import Tensor

from normwise.axes import Scheme
from normwise.errors import NormError, describe
from normwise.reference import ACTIVATIONS


def check_floating(x: object, name: str) -> None:
    """Refuse what is no floating tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise NormError(f"{name} takes a floating tensor, received {describe(x)}")


def full_rank(x: Tensor, mask: Tensor, features: tuple[int, ...], name: str) -> Tensor:
    """A mask of x without its features, at x's rank: of size 1 along them.

    Raises
        NormError  if the mask does not fit x without its features.
    """
    plain = [size for i, size in enumerate(x.shape) if i not in features]
    fits = (
        isinstance(mask, Tensor)
        and mask.dtype == torch.bool
        and mask.dim() <= len(plain)
        and all(m in (1, p) for m, p in zip(reversed(mask.shape), reversed(plain), strict=False))
    )
    if not fits:
        raise NormError(
            f"the mask of {name} must be bool and fit x without its features, {tuple(plain)}: "
            f"True where x is real; received {describe(mask)} for x {tuple(x.shape)}"
        )
    mask = mask.reshape([1] * (len(plain) - mask.dim()) + list(mask.shape))
    for feature in features:
        mask = mask.unsqueeze(feature)
    return mask


def check_activation(activation: str | None, name: str) -> str | None:
    """Refuse what is neither None nor the name of an activation."""
    if activation is not None and activation not in [*ACTIVATIONS]:
        raise NormError(
            f"{name} has no activation {activation!r}; "
            f"write one of {', '.join(map(repr, ACTIVATIONS))}, or None"
        )
    return activation


def check_residual(x: Tensor, residual: Tensor | None, name: str) -> None:
    """Refuse what cannot be added to the result for x."""
    if residual is None:
        return
    fits = (
        isinstance(residual, Tensor)
        and residual.is_floating_point()
        and residual.shape == x.shape
        and residual.device == x.device
    )
    if not fits:
        raise NormError(
            f"the residual of {name} must be floating, of x's shape and on its device; "
            f"received {describe(residual)} for x {describe(x)}"
        )


def check_averaged(x: Tensor, scheme: Scheme, elements: Tensor | int, name: str) -> None:
    """Refuse to centre about the mean of one element: nothing of the signal would be left."""
    if scheme.centres and isinstance(elements, int) and elements == 1 and x.numel():
        raise NormError(
            f"{name} would average over one element, {scheme.pattern}, which erases the signal: "
            f"received {describe(x)}; give it more samples or positions, or take another norm"
        )


def whole_number(number: Any) -> int | None:
    """A whole number above 0, numpy's or anyone's, as an int; None for all else, True included."""
    try:
        whole = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        return None
    return whole if whole > 0 else None


def check_groups(num_groups: int, channels: int) -> int:
    """Refuse groups of unequal size. 0 channels are still to be learned and fit any groups."""
    groups = whole_number(num_groups)
    if groups is None:
        raise NormError(f"num_groups must be a whole number above 0, received {num_groups!r}")
    if channels % groups:
        raise NormError(
            f"{groups} groups do not divide {channels} channels; "
            f"these do: {', '.join(map(str, divisors(channels)))}"
        )
    return groups


def divisors(channels: int) -> list[int]:
    """The group counts that divide `channels`, ascending."""
    return [g for g in range(1, channels + 1) if channels % g == 0]
