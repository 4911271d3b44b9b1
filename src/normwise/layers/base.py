"""What every layer does with (x, mask): check, complete, normalize, remember.

A layer names its row of the table and holds parameters under torch.nn's names;
this file does the rest, so that a new norm is a constructor and a docstring.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from normwise.axes import Fitted, Scheme
from normwise.checks import check_averaged, check_floating, check_residual, whole_number
from normwise.errors import NormError, describe
from normwise.layers.padding import full_mask, is_padding
from normwise.ops import Recurring, Stored, Tensors, again, forget, known_of, normalize
from normwise.reference import Moments, finish, scale
from normwise.running import Remembered, recall

_SPACE = {1: "T", 2: "H, W", 3: "D, H, W"}


class Normalization(torch.nn.Module):
    """A layer that is one row of the table.

    Subclasses set `scheme` and, where they take x of one rank only, `dim`: how
    many dimensions follow N and C. Their constructors leave `weight`, `bias` and
    `eps` behind, and the number of features under the name `size_name`.
    """

    scheme: Scheme
    dim: ClassVar[int | None] = None
    size_name: ClassVar[str] = "num_features"
    takes_flat: ClassVar[bool] = False  # (N, C) beside (N, C, T)
    takes_unbatched: ClassVar[bool] = False  # (C, T) beside (N, C, T)
    lazy_class: ClassVar[type[torch.nn.Module]]  # set by the class that stands beside `Lazy`
    carries: ClassVar[tuple[str, ...]] = ("weight", "bias")  # means the same in other norms
    leading: tuple[int, ...] = ()  # sizes that weight and bias have before the features
    activation: str | None = None  # what follows the norm, by its name in `reference.ACTIVATIONS`

    # Tensor or None, float or None: each of torch.nn's classes declares them differently.
    weight: Any
    bias: Any
    eps: Any

    # -- what a subclass may say of itself -----------------------------------

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The sizes that weight and bias have; () while they are still to be learned."""
        size = getattr(self, self.size_name)
        shape = (size,) if isinstance(size, int) else tuple(size)
        return () if shape == (0,) else shape

    def features_of(self, x: Tensor) -> tuple[int, ...]:
        """The sizes of x along the dimensions that weight and bias run along."""
        unbatched = self._is_unbatched(x)
        features = self.scheme.pattern.fit(x.dim() + unbatched).features
        return tuple([x.shape[i - unbatched] for i in features])

    @property
    def is_sized(self) -> bool:
        """Whether nothing is left to be learned from an input or a state dict."""
        return bool(self.feature_shape)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter or buffer that waited for the sizes."""
        leading = self.leading if name in self._parameters else ()
        return (*leading, *self.feature_shape)

    def learn(self, x: Tensor) -> None:
        """Take the sizes from the first input."""
        self.set_size(self.features_of(x))

    def learn_from_state(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Take the sizes from the shapes that a state dict has."""
        name, shape = next(iter(shapes.items()))
        self.set_size(shape[len(self.leading) if name in self._parameters else 0 :])

    def set_size(self, shape: tuple[int, ...]) -> None:
        """Take the sizes of the features as learned from an input or a state dict."""
        single = isinstance(getattr(self, self.size_name), int)
        setattr(self, self.size_name, shape[0] if single else shape)

    def part_sizes(self) -> Mapping[str, int]:
        """Sizes of the parts of composite dimensions: {"g": 8} in a group norm."""
        return {}

    def remembered(self) -> Remembered | None:
        """The buffers to infer from, or None where the batch's own moments are used."""
        return None

    def given(self, x: Tensor, mask: Tensor | None, fitted: Fitted) -> Moments | None:
        """The moments to use instead of x's own, or None."""
        remembered = self.remembered()
        return None if remembered is None else recall(remembered, fitted)

    def given_from_buffers(self) -> bool:
        """Whether `given` depends on nothing but what is `remembered`."""
        return type(self).given is Normalization.given

    @property
    def remembers(self) -> bool:
        """Whether the moments of this batch are to be taken in."""
        return False

    def remember(self, moments: Moments | Stored, fitted: Fitted) -> None:
        """Take the moments of a training batch in."""

    # -- the one forward -----------------------------------------------------

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, residual: Tensor | None = None
    ) -> Tensor:
        """Normalize x, add the residual, apply the layer's activation.

        Positions where mask is False count for nothing and return 0.
        """
        if mask is None and residual is None and not torch.compiler.is_compiling():
            y = self._again(x)
            if y is not None:
                return y
        self.check_input(x)
        check_residual(x, residual, self._name())
        unbatched = self._is_unbatched(x)
        if unbatched:
            x, mask = x.unsqueeze(0), mask.unsqueeze(0) if isinstance(mask, Tensor) else mask
            residual = None if residual is None else residual.unsqueeze(0)
        fitted = self.scheme.pattern.fit(x.dim())
        mask = full_mask(x, mask, fitted.features, self._name())
        if mask is not None and type(self).normalized is not Normalization.normalized:
            x = torch.where(mask, x, 0.0)  # a NaN masked later would reach gradients, as 0 * NaN
        y = self.normalized(x, mask, fitted, residual)
        return y.squeeze(0) if unbatched else y

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """The layer's formula, for a checked x and residual and a mask of x's rank."""
        given = self.given(x, mask, fitted)
        y, moments = normalize(
            x,
            self.scheme,
            weight=self.weight,
            bias=getattr(self, "bias", None),
            eps=torch.finfo(x.dtype).eps if self.eps is None else self.eps,
            mask=mask,
            sizes=self.part_sizes(),
            given=given,
            activation=self.activation,
            residual=residual,
            keeps=self.remembers,
            recurring=self._recurring(x),
        )
        if given is None:
            self.check_elements(x, moments.elements)
            if self.remembers:
                self.remember(moments, fitted)
        return y

    def _recurring(self, x: Tensor) -> Recurring | None:
        """What holds for all calls like this one; None where another may come to another end."""
        tensors = self._tensors(x)
        recurs = (
            not torch.compiler.is_compiling()
            and not is_padding()
            and type(self).normalized is Normalization.normalized
            and self.given_from_buffers()
            and tensors[1] is self.weight
            and tensors[2] is getattr(self, "bias", None)
        )
        return Recurring(self, tensors) if recurs else None

    def _tensors(self, x: Tensor) -> Tensors:
        """x, and whatever the layer has that its result can come from, used or not."""
        parameters, buffers = self._parameters, self._buffers  # a third of the time of getattr
        weight, bias = parameters.get("weight"), parameters.get("bias")
        return (
            x,
            buffers.get("weight") if weight is None else weight,  # as a frozen layer has them
            buffers.get("bias") if bias is None else bias,
            buffers.get("running_mean"),
            buffers.get("running_var"),
            buffers.get("num_batches_tracked"),
        )

    def _again(self, x: Tensor) -> Tensor | None:
        """The result for x, if there was a call like this one since the layer last changed."""
        known = known_of(self)
        return None if known is None or is_padding() else again(known, self._tensors(x))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        forget(self)

    def finish(
        self,
        y: Tensor,
        x: Tensor,
        mask: Tensor | None,
        fitted: Fitted,
        residual: Tensor | None = None,
    ) -> Tensor:
        """How a formula of a layer's own ends: y scaled and shifted, then as every other."""
        y = scale(y, fitted.features, self.weight, getattr(self, "bias", None))
        return finish(y, x.dtype, mask=mask, activation=self.activation, residual=residual)

    # -- checks --------------------------------------------------------------

    def check_input(self, x: Tensor) -> None:
        """Refuse what the layer cannot take, before anything is changed."""
        check_floating(x, self._name())
        rank, dim = x.dim(), self.dim
        fits = (
            dim is None
            or rank == dim + 2
            or (rank == 2 and self.takes_flat)
            or (rank == dim + 1 and self.takes_unbatched)
        )
        if not fits:
            raise NormError(
                f"{self._name()} takes {self._layout()}, received {describe(x)}{self._hint(x)}"
            )
        try:
            expected, here = self.feature_shape, self.features_of(x)
        except NormError as error:
            raise NormError(f"{self._name()}: {error}; received {describe(x)}") from error
        if expected and here != expected:
            wanted, found = (str(s[0]) if len(s) == 1 else str(s) for s in (expected, here))
            raise NormError(
                f"{self._name()} was made for {wanted} features, and x has {found}: received "
                f"{describe(x)}; make it with {found}, or without a number to have it inferred"
            )

    def check_elements(self, x: Tensor, elements: Tensor | int) -> None:
        """Refuse a variance of one element: it is 0 whatever x is. With a mask, it may be."""
        check_averaged(x, self.scheme, elements, self._name())

    # -- words ---------------------------------------------------------------

    def extra_repr(self) -> str:
        words = super().extra_repr()
        if self.activation is None:
            return words
        return ", ".join(filter(None, [words, f"activation={self.activation!r}"]))

    def _name(self) -> str:
        return type(self).__name__

    def _is_unbatched(self, x: Tensor) -> bool:
        return self.takes_unbatched and self.dim is not None and x.dim() == self.dim + 1

    def _layout(self) -> str:
        space = _SPACE[self.dim or 1]
        return (
            f"x of (N, C, {space})"
            + " or (N, C)" * self.takes_flat
            + f" or (C, {space})" * self.takes_unbatched
        )

    def _hint(self, x: Tensor) -> str:
        sibling = self._name().replace(f"{self.dim}d", f"{x.dim() - 2}d")
        there_is = hasattr(sys.modules[type(self).__module__], sibling)
        return f"; that is for {sibling}" * (there_is and sibling != self._name())


def checked_size(layer: Normalization, size: int | None) -> int:
    """The number of features a constructor was given; 0 if it was left out."""
    if size is None:
        return 0
    whole = whole_number(size)
    if whole is None:
        hint = "; eps has to be named: eps=…" * isinstance(size, float)
        raise NormError(
            f"{type(layer).__name__} takes its number of features as a whole number above 0, "
            f"received {size!r}; leave it out to have it inferred{hint}"
        )
    return whole


def checked_shape(layer: Normalization, shape: int | Sequence[int] | None) -> tuple[int, ...]:
    """The trailing shape a constructor was given; (0,) if it was left out."""
    if not isinstance(shape, Iterable):
        return (checked_size(layer, shape),)
    sizes = tuple(checked_size(layer, size) for size in shape)
    if not sizes:
        raise NormError(f"{type(layer).__name__} needs at least one dimension, received {shape!r}")
    return sizes
