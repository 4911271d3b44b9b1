"""What a module is: a norm known by its class, by a name users registered, or by what it does."""

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from normwise import layers
from normwise.axes import SCHEMES, Scheme, trailing_scheme
from normwise.catalogue import catalogue
from normwise.checks import divisors
from normwise.errors import NormError, describe
from normwise.reference import Moments, normalize, scale


@dataclass(frozen=True)
class Known:
    """What is known of a norm.

    kind    its name in the catalogue
    dim     dimensions after N and C; None where it takes any number, 0 where the
            features are in the last dimensions
    weight, bias  the names of the parameters (or buffers) that scale and shift
    groups  how many groups of channels share statistics, where that was measured
    origin  what is added to the weight before it scales: 1 in norms whose weight starts at 0
    """

    kind: str
    dim: int | None
    weight: str = "weight"
    bias: str = "bias"
    groups: int | None = None
    origin: float = 0.0


# torch.nn's own classes, and ours that no candidate makes; the catalogue knows the rest.
_KINDS: dict[type, str] = {
    layers.Identity: "none",
    _BatchNorm: "batch",
    layers.FrozenBatchNorm1d: "batch",
    layers.FrozenBatchNorm2d: "batch",
    layers.FrozenBatchNorm3d: "batch",
    _InstanceNorm: "instance",
    torch.nn.GroupNorm: "group",
    torch.nn.LayerNorm: "layer",
    torch.nn.RMSNorm: "rms",
}
for _entry in catalogue().values():
    _KINDS |= {layer: _entry.name for layer in _entry.layers.values() if isinstance(layer, type)}

# Norms without tensors to measure by, and ones whose formula is none of the table's.
_REGISTERED: dict[type | str, Known] = {
    "OlmoLayerNorm": Known("layer", 0),
    "FilterResponseNormTlu2d": Known("filter-response", 2),
    "FilterResponseNormAct2d": Known("filter-response", 2),
    "EvoNorm2dS0": Known("evonorm-s0", 2),
    "EvoNorm2dS0a": Known("evonorm-s0", 2),
    "EvoNorm2dB0": Known("evonorm-b0", 2),
}

_CHANNELS_SECOND = tuple(
    getattr(layers, f"{name}{dim}d") for name in ("LayerNorm", "RMSNorm") for dim in (1, 2, 3)
)
_SIZES = ("num_features", "num_channels", "normalized_shape")
_WEIGHTS = ("weight", "gamma", "scale", "g")
_BIASES = ("bias", "beta", "shift", "b")
_EPSILONS = ("eps", "variance_epsilon", "epsilon", "variance_eps", "norm_eps")
_STATISTICS = ("running_mean", "running_var")
_PLAIN = (bool, int, float, str, tuple, type(None))
_OF_EVERY_MODULE = vars(torch.nn.Module()).keys()
_MEASURED: dict[Any, Known | None] = {}  # what modules of one make were found to be
# eps is not always to be found, and 1e-3 of a variance of 1 shifts a result by 5e-4.
_ALIKE = 2e-3


def register(layer: type[torch.nn.Module] | str, kind: str, *, dim: int | None = None) -> None:
    """Tell `find`, `plan` and `swap` that a class is a norm.

        nw.register(MyNorm, "layer", dim=1)
        nw.register("TheirNorm", "rms", dim=0)     by name, without importing it

    Only classes that cannot be told by what they do have to be: those of torch.nn and
    normwise are known, and so is every module whose output is that of a batch,
    instance, group, layer or RMS norm with its weight and bias.

    layer  the class, or its name; classes that inherit from it are meant, too
    kind   a name of the catalogue
    dim    how many dimensions follow N and C; 0 where the features are in the last
           dimension; None where the layer takes any number

    Raises
        NormError  if the kind or the dim is not known, or layer is no class of modules.
    """
    if kind not in catalogue():
        raise NormError(f"kind {kind!r} is not in the catalogue: {', '.join(catalogue())}")
    if dim not in (None, 0, 1, 2, 3):
        raise NormError(f"dim={dim!r} must be 0, 1, 2, 3 or None")
    if not isinstance(layer, str) and not (
        isinstance(layer, type) and issubclass(layer, torch.nn.Module)
    ):
        raise NormError(f"a class of modules or its name is registered, not {describe(layer)}")
    _REGISTERED[layer] = Known(kind, dim)


def kinds(module: torch.nn.Module) -> list[str]:
    """The catalogue's names for a module, its own first, then those of what it is built on."""
    named = [_KINDS[base] for base in type(module).__mro__ if base in _KINDS]
    return named or [known.kind for known in [recognise(module)] if known is not None]


def recognise(module: torch.nn.Module) -> Known | None:
    """What norm a module is; None if it is none.

    Whatever a swap put in the place of a norm is one, of the kind "norm" if of no other.
    """
    known = _recognised(module)
    placed = getattr(module, "_normwise_place", None)
    return Known("norm", placed[1]) if known is None and placed is not None else known


def _recognised(module: torch.nn.Module) -> Known | None:
    """What norm a module is by its class, or by what it computes.

    A class decides where its forward is the class's own. A subclass of one of
    torch.nn's norms may do something else, and so may any module whose tensors are
    all one number for each channel: these are run, on a copy, beside the formulas.
    """
    for base in type(module).__mro__:
        known = _REGISTERED.get(base) or _REGISTERED.get(base.__name__)
        if known is not None:
            return known
    if isinstance(module, layers.Norm):
        return _pattern(module)
    named = next((_KINDS[base] for base in type(module).__mro__ if base in _KINDS), None)
    if named is not None and (
        isinstance(module, layers.Normalization | layers.Identity) or _is_plain(module)
    ):
        return Known(named, _dim(module))
    if named is None and not _could_be_one(module):
        return None
    make = _make_of(module)
    found = _MEASURED[make] if make in _MEASURED else _measure(module)
    if make is not None:
        _MEASURED[make] = found
    return Known(named, _dim(module)) if found is None and named is not None else found


def size_of(module: torch.nn.Module, known: Known) -> int | tuple[int, ...] | None:
    """C, or the trailing shape; None while a lazy layer does not know it."""
    for name in _SIZES:
        size = getattr(module, name, None)
        if size is not None:
            break
    else:
        placed: tuple[int, int] | None = getattr(module, "_normwise_place", None)
        if placed is not None:
            return placed[0]
        tensors = (getattr(module, n, None) for n in (known.weight, known.bias, *_STATISTICS))
        sized = (t for t in tensors if isinstance(t, Tensor) and not is_lazy(t))
        size = next((t.numel() for t in sized), None)
    size = tuple(size) if isinstance(size, list | tuple) else size
    if size == (0,) or not size:
        return None
    if isinstance(size, tuple) and known.dim != 0:
        (size,) = size
    if known.dim == 0 and isinstance(size, int):
        size = (size,)
    return size


def epsilon_of(module: torch.nn.Module) -> float | None:
    """The number a norm adds to its variance, by whatever name; None where it has none."""
    for name in _EPSILONS:
        eps = getattr(module, name, None)
        if isinstance(eps, float | int):
            return float(eps)
    return None


def is_activation(module: torch.nn.Module) -> bool:
    """Whether a module acts on each value alone: torch.nn's activations, and others by name."""
    name = type(module).__name__
    if isinstance(module, torch.nn.MultiheadAttention) or "oftm" in name:
        return False
    if type(module).__module__ == "torch.nn.modules.activation":
        return True
    own = next(module.parameters(), None) is None and not list(module.children())
    known = torch.nn.modules.activation.__all__
    return own and (name in known or name.endswith(("Activation", "Swish", "HardSwish", "Act")))


def inner_modules(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The activation and dropout that some norms have within, in the order they are applied.

    What a swap put there as a whole is taken for one.
    """
    if hasattr(module, "_normwise_place"):
        return {}
    return {
        name: child
        for name, child in module.named_children()
        if not isinstance(child, torch.nn.Identity)
    }


def _pattern(module: layers.Norm) -> Known:
    """A norm in the general form: of a kind of the table where its brackets say the same."""
    pattern = module.scheme.pattern
    rank = len(pattern.dimensions) - pattern.open
    dim = None if pattern.open else rank - 2
    rank = max(rank, 3)
    brackets = _brackets(module.scheme, rank)
    if dim is not None and brackets[-1:] == [(True,)] and not any(map(any, brackets[:-1])):
        names = [axis.is_feature for axis in pattern.spread(rank)[-1]]
        dim = 0 if any(names) and rank != 2 else dim
    alike = [
        kind
        for kind in ("batch", "instance", "group", "layer", "rms", "sample")
        if SCHEMES[kind].centres is module.scheme.centres
        and _brackets(SCHEMES[kind], rank) == brackets
    ]
    if dim == 0:
        alike = ["layer" if module.scheme.centres else "rms"]
    kind = alike[0] if alike else "norm"
    return Known("group", dim, groups=1) if kind == "sample" else Known(kind, dim)


def _brackets(scheme: Scheme, rank: int) -> list[tuple[bool, ...]]:
    return [tuple(a.averaged for a in d) for d in scheme.pattern.spread(rank)]


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether a torch.nn norm computes what the class of torch.nn does."""
    base: Any = next(b for b in type(module).__mro__ if b.__module__.startswith("torch.nn.modules"))
    return type(module).forward is base.forward and not inner_modules(module)


def _dim(module: torch.nn.Module) -> int | None:
    """1, 2 or 3 for a layer of fixed rank, told by its class's name as torch.nn spells it."""
    if isinstance(module, layers.Identity) and module.trailing:
        return 0
    is_trailing = isinstance(module, (torch.nn.LayerNorm, torch.nn.RMSNorm))
    if is_trailing and not isinstance(module, _CHANNELS_SECOND):
        return 0
    for base in type(module).__mro__:
        if base.__name__[-2:] in ("1d", "2d", "3d"):
            return int(base.__name__[-2])
    return getattr(module, "_normwise_dim", None)  # what a swap knew


def _could_be_one(module: torch.nn.Module) -> bool:
    """A leaf whose tensors are one number for each channel, under the names norms give them."""
    if type(module).__module__.startswith("torch.") or isinstance(module, layers.Normalization):
        return False
    if any(
        not is_activation(c) and not isinstance(c, torch.nn.Dropout)
        for c in inner_modules(module).values()
    ):
        return False
    tensors = dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])
    if any(is_lazy(t) for t in tensors.values()):
        return False
    channels = {name: t for name, t in tensors.items() if t.numel() > 1 or t.dim()}
    sizes = {t.numel() for t in channels.values()}
    flat = all(max(t.shape) == t.numel() for t in channels.values())
    named = {*_WEIGHTS, *_BIASES, *_STATISTICS}
    return len(sizes) == 1 and flat and channels.keys() <= named


def _make_of(module: torch.nn.Module) -> Any:
    """What two modules have in common that compute the same: class, attributes and sizes.

    None where an attribute is more than a plain value, and might do anything.
    """
    attributes = []
    for name, value in vars(module).items():
        if isinstance(value, _PLAIN):
            attributes.append((name, str(value)))
        elif name not in _OF_EVERY_MODULE:
            return None
    tensors = [*module.named_parameters(), *module.named_buffers()]
    sizes = ((name, tuple(t.shape)) for name, t in tensors)
    return type(module), *attributes, *sizes, *map(type, module.modules())


def bare_copy(module: torch.nn.Module) -> torch.nn.Module:
    """A copy without the hooks, and so without whatever they refer to."""
    hooks = {
        id(value): type(value)()
        for child in module.modules()
        for name, value in vars(child).items()
        if name.endswith("_hooks") and isinstance(value, dict)
    }
    return copy.deepcopy(module, hooks)


def _measure(module: torch.nn.Module) -> Known | None:
    """The kind of norm whose formula gives what a copy of the module gives, if one does."""
    if any(is_lazy(t) for t in [*module.parameters(), *module.buffers()]):
        return None
    draw = torch.Generator().manual_seed(0)
    try:
        copied = bare_copy(module).to_empty(device=torch.device("cpu")).double().eval()
        for name in inner_modules(copied):
            setattr(copied, name, torch.nn.Identity())
        for tensor in [*copied.parameters(), *copied.buffers()]:
            if tensor.is_floating_point():
                drawn = torch.rand(tensor.shape, generator=draw, dtype=torch.float64)
                tensor.data.copy_(0.5 + drawn)
        found = [known for dim in range(4) for known in _matches(copied, dim, draw)]
    except Exception:  # a module that cannot be copied, moved or filled is none that is known
        return None
    if not found:
        return None
    first = found[0]
    alike = [k for k in found if (k.kind, k.groups) == (first.kind, first.groups)]
    return first if len(alike) == 1 else dataclasses.replace(first, dim=None)


def _matches(module: torch.nn.Module, dim: int, draw: torch.Generator) -> Iterator[Known]:
    """What the module is for x with `dim` dimensions after N and C; at most one."""
    names = [
        next((n for n in some if isinstance(getattr(module, n, None), Tensor)), None)
        for some in (_WEIGHTS, _BIASES)
    ]
    weight, bias = (None if n is None else getattr(module, n).detach().reshape(-1) for n in names)
    tensors = [weight, bias, getattr(module, "running_var", None)]
    size = next((t.numel() for t in tensors if t is not None), 0)
    if not size:
        return
    space = (5 if size != 5 else 6, 4, 3)
    shape = (2, size, *space[:dim]) if dim else (2, space[0], size)
    # An offset and unequal scales, so that no two formulas give the same.
    x = torch.randn(shape, generator=draw, dtype=torch.float64) + 0.7
    x = x * (1 + torch.rand((*shape[:2], *[1] * (len(shape) - 2)), generator=draw))
    try:
        with torch.no_grad():
            y = module(x.clone())
    except Exception:  # whatever a module raises for x of a rank it does not take
        return
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return
    eps = epsilon_of(module) or 1e-5
    for kind, formula in _formulas(module, dim, size):
        plain = formula(x, eps)
        groups = formula.keywords.get("sizes", {}).get("g")
        for origin in (0.0,) if weight is None else (0.0, 1.0):
            weighed = None if weight is None else weight + origin
            truth = scale(plain, (2,) if dim == 0 else (1,), weighed, bias)
            if float((y - truth).norm()) <= _ALIKE * float(truth.norm()):
                yield Known(kind, dim, names[0] or "weight", names[1] or "bias", groups, origin)
                return


def _formulas(
    module: torch.nn.Module, dim: int, size: int
) -> Iterator[tuple[str, "partial[Tensor]"]]:
    """Each formula, without weight and bias, that x of this rank may have gone through."""

    def row(scheme: Scheme, **keywords: Any) -> "partial[Tensor]":
        return partial(_normalized, scheme=scheme, **keywords)

    if dim == 0:
        yield "layer", row(trailing_scheme(1))
        yield "rms", row(trailing_scheme(1, centres=False))
        return
    mean, var = (getattr(module, name, None) for name in _STATISTICS)
    if isinstance(mean, Tensor) and isinstance(var, Tensor):
        shape = (1, size) + (1,) * dim
        given = Moments(mean.reshape(shape), mean.new_zeros(()), var.reshape(shape), 0)
        yield "batch", row(SCHEMES["batch"], given=given)
        return
    for kind in ("layer", "rms", "instance"):
        yield kind, row(SCHEMES[kind])
    groups = getattr(module, "num_groups", None)
    for count in [groups] if isinstance(groups, int) else divisors(size):
        if size % count == 0:
            yield "group", row(SCHEMES["group"], sizes={"g": count})
    if dim == 1:
        yield "causal", partial(_cumulative)


def _normalized(x: Tensor, eps: float, *, scheme: Scheme, **keywords: Any) -> Tensor:
    return normalize(x, scheme, eps=eps, **keywords)[0]


def _cumulative(x: Tensor, eps: float) -> Tensor:
    y: Tensor = layers.CausalNorm1d(x.shape[1], eps, affine=False)(x)
    return y
