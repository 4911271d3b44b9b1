"""The general form: any normalization, written as a pattern."""

from collections.abc import Iterable, Mapping
from math import prod

import torch
from torch import Tensor

from normwise.axes import ELLIPSIS, Axis, Scheme, parse, part_sizes
from normwise.checks import check_activation, check_floating, whole_number
from normwise.errors import NormError, describe
from normwise.layers.lazy import Lazy, make_lazy
from normwise.layers.remembering import Remembering
from normwise.running import Running


class Norm(Remembering):
    """Normalize as a pattern says: brackets around what is averaged.

        y[i] = (x[i] - mean[k]) / sqrt(var[k] + eps) * weight[c] + bias[c]

    where k is the part of index i that lies outside the brackets, so that there is
    one mean and variance for each, and c is its features::

        nw.Norm("n c [t]")                                 instance norm
        nw.Norm("n (g [c]) [t]", g=4)                      group norm
        nw.Norm("n [c] t", centres=False)                  RMS norm of each position
        nw.Norm("[n] c [t]", running=nw.Running())         batch norm
        nw.Norm("n c f [t]", running=nw.Running())         each bin of a spectrogram

    pattern  the dimensions of x, from left to right: ``n`` samples; ``c``, ``c1``, …
             features, that weight and bias run along, the whole of (g c) where they
             are part of one; ``...`` any number of dimensions
    eps      added to the variance; None is the machine epsilon of x's dtype
    affine   whether there is a weight and, with `bias`, a bias
    centres  whether the mean is removed; if not, var is the mean square
    running  what is remembered for evaluation, one statistic for each index of the
             axes that are kept, apart from n; nothing if left out
    activation  "relu", "leaky_relu", "gelu" or "silu" of y; none if left out
    sizes    of axes by name: c=64. Those that parameters and buffers need and that
             are not given are inferred from the first input

    Shapes
        x     as the pattern says, floating; any unit
        mask  x without its features, bool, True where x is real; all True if left out
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    Where nothing is real, the output is 0 and nothing is remembered.
    `normwise.padding` takes dimension 0 as samples.

    Raises
        NormError  if the pattern cannot be read, a size is not one of its axes', a
                   dimension in parentheses lacks more than one size, `affine` finds
                   no feature, or `running` would keep "..."; later, if x or mask
                   does not fit, or the mean is of one element.

    Source: Wu and He 2018, arXiv:1803.08494, section 3.1, sees batch, layer, instance
    and group norm as one formula over different sets. The pattern is ours.
    """

    def __init__(
        self,
        pattern: str,
        *,
        eps: float | None = 1e-5,
        affine: bool = True,
        bias: bool = True,
        centres: bool = True,
        running: Running | None = None,
        activation: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes: int,
    ) -> None:
        super().__init__()
        self.scheme = Scheme(parse(pattern), centres, remembers=running is not None)
        self.sizes = dict(sizes)
        self.eps = eps
        self.activation = check_activation(activation, "Norm")
        self.affine = affine
        self.running = running
        self.track_running_stats = running is not None
        self._check_arguments()
        for name, present in (("weight", affine), ("bias", affine and bias)):
            empty = torch.empty(self.shape_of(name), device=device, dtype=dtype)
            self.register_parameter(name, torch.nn.Parameter(empty) if present else None)
        for name in ("running_mean", "running_var"):
            present = self.track_running_stats and (centres or name == "running_var")
            empty = torch.empty(self.shape_of(name), device=device, dtype=dtype)
            self.register_buffer(name, empty if present else None)
        count = torch.zeros((), dtype=torch.long, device=device)
        self.register_buffer("num_batches_tracked", count if self.track_running_stats else None)
        self._widen()
        self.reset_parameters()
        if not self.is_sized:
            make_lazy(self)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and the running statistics as new."""
        self.reset_running_stats()
        for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if parameter is not None:
                torch.nn.init.constant_(parameter, value)

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch seen."""
        for name, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            buffer = self._buffers[name]
            if buffer is not None:
                buffer.fill_(value)

    # -- sizes ---------------------------------------------------------------

    @property
    def feature_shape(self) -> tuple[int, ...]:
        shape = self.shape_of("weight")
        return shape if all(shape) else ()

    @property
    def is_sized(self) -> bool:
        return all(name in self.sizes for name in self._needed())

    def shape_of(self, name: str) -> tuple[int, ...]:
        """A size that is still to be learned is 0."""
        if name in ("weight", "bias"):
            return tuple(
                prod(self.sizes.get(axis.name, 0) for axis in dimension)
                for dimension in self._feature_dimensions()
            )
        return tuple(self.sizes.get(axis.name, 0) for axis in self._remembered_axes())

    def learn(self, x: Tensor) -> None:
        self._learn(zip(self.scheme.pattern.spread(x.dim()), x.shape, strict=True))

    def learn_from_state(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        features = self._feature_dimensions()
        kept = [(axis,) for axis in self._remembered_axes()]
        for name, shape in shapes.items():
            dimensions = features if name in ("weight", "bias") else kept
            if len(dimensions) == len(shape):  # if not, torch says so when it copies
                self._learn(zip(dimensions, shape, strict=True))

    def _learn(self, dimensions: Iterable[tuple[tuple[Axis, ...], int]]) -> None:
        needed = self._needed()
        for dimension, total in dimensions:
            names = [axis.name for axis in dimension]
            for name, size in zip(names, part_sizes(names, total, self.sizes), strict=True):
                if name in needed:
                    self.sizes[name] = size

    def part_sizes(self) -> Mapping[str, int]:
        return self.sizes

    def _needed(self) -> set[str]:
        """The axes whose sizes parameters and buffers have."""
        features = [axis for dimension in self._feature_dimensions() for axis in dimension]
        return {axis.name for axis in [*features, *self._remembered_axes()]}

    def _feature_dimensions(self) -> list[tuple[Axis, ...]]:
        if not self.affine:
            return []
        dimensions = self.scheme.pattern.dimensions
        return [d for d in dimensions if any(axis.is_feature for axis in d)]

    def _remembered_axes(self) -> list[Axis]:
        if self.running is None:
            return []
        return [a for a in self.scheme.pattern.axes if not a.averaged and a.name != "n"]

    # -- what is remembered --------------------------------------------------

    def _policy(self) -> Running:
        return self.running or Running()

    # -- checks --------------------------------------------------------------

    def _check_arguments(self) -> None:
        pattern = self.scheme.pattern
        names = [axis.name for axis in pattern.axes if axis.name != ELLIPSIS]
        for name, size in self.sizes.items():
            if name not in names:
                raise NormError(
                    f"pattern {pattern.text!r} has no axis {name!r} to be of size {size!r}; "
                    f"it has {', '.join(names)}"
                )
            whole = whole_number(size)
            if whole is None:
                raise NormError(f"the size {name}={size!r} must be a whole number above 0")
            self.sizes[name] = whole
        for dimension in pattern.dimensions:
            unknown = [axis.name for axis in dimension if axis.name not in self.sizes]
            if len(dimension) > 1 and len(unknown) > 1:
                raise NormError(
                    f"pattern {pattern.text!r} takes a dimension apart and needs a size for all "
                    f"but one of its parts: write Norm({pattern.text!r}, {unknown[0]}=…)"
                )
        if self.affine and not self._feature_dimensions():
            raise NormError(
                f"pattern {pattern.text!r} names no features, c or c1, c2, …, for a weight to run "
                "along; name them, or write affine=False"
            )
        if any(axis.name == ELLIPSIS for axis in self._remembered_axes()):
            raise NormError(
                f"pattern {pattern.text!r} keeps ..., and what is remembered needs a fixed shape; "
                "name these dimensions, average over them, [...], or leave out running"
            )

    def check_input(self, x: Tensor) -> None:
        check_floating(x, self._name())
        pattern = self.scheme.pattern
        try:
            for dimension, total in zip(pattern.spread(x.dim()), x.shape, strict=True):
                part_sizes([axis.name for axis in dimension], total, self.sizes)
        except NormError as error:
            raise NormError(f"Norm({pattern.text!r}): {error}; received {describe(x)}") from None

    # -- words ---------------------------------------------------------------

    def extra_repr(self) -> str:
        words = [repr(self.scheme.pattern.text)]
        words += [f"{name}={size}" for name, size in self.sizes.items()]
        words += [f"eps={self.eps}", f"affine={self.affine}"]
        if self.affine and self.bias is None:
            words.append("bias=False")
        if not self.scheme.centres:
            words.append("centres=False")
        if self.running is not None:
            words.append(f"running={self.running}")
        return ", ".join(filter(None, [*words, super().extra_repr()]))


class LazyNorm(Norm, Lazy):
    """`Norm` whose sizes come from its first input, where they are not given."""
