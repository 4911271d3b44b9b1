"""Where the norms of a model are, and what each of them is."""

from dataclasses import dataclass

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from normwise import layers
from normwise.catalogue import catalogue


@dataclass(frozen=True)
class Site:
    """One norm of a model, wherever it is reached from.

    paths         every name it has in the model, the first as named_modules() has it
    module        the layer itself
    kind          its name in the catalogue
    num_features  C, or the trailing shape; None while a lazy layer does not know it
    dim           dimensions after N and C; None where the layer takes any number,
                  0 where the features are in the last dimensions
    """

    paths: tuple[str, ...]
    module: torch.nn.Module
    kind: str
    num_features: int | tuple[int, ...] | None
    dim: int | None

    @property
    def path(self) -> str:
        return self.paths[0]

    @property
    def name(self) -> str:
        """The path for people: the model itself has none."""
        return self.path or "(the model)"


_CHANNELS_SECOND = tuple(
    getattr(layers, f"{name}{dim}d") for name in ("LayerNorm", "RMSNorm") for dim in (1, 2, 3)
)
_SIZES = ("num_features", "num_channels", "normalized_shape")
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


def kinds(module: torch.nn.Module) -> list[str]:
    """The catalogue's names for a module, its own first, then those of what it is built on."""
    return [_KINDS[base] for base in type(module).__mro__ if base in _KINDS]


def find(model: torch.nn.Module) -> list[Site]:
    """Every norm of a model, in the order of named_modules(); a shared one once."""
    paths: dict[torch.nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    sites = []
    for module, names in paths.items():
        known = kinds(module)
        if known:
            size = next(getattr(module, name) for name in _SIZES if hasattr(module, name))
            dim = _dim(module)
            if size == (0,) or not size:
                size = None
            elif isinstance(size, tuple) and dim != 0:
                (size,) = size
            sites.append(Site(tuple(names), module, known[0], size, dim))
    return sites


def _dim(module: torch.nn.Module) -> int | None:
    """1, 2 or 3 for a layer of fixed rank, told by its class's name as torch.nn spells it."""
    if isinstance(module, layers.Identity) and module.trailing:
        return 0
    trailing = isinstance(module, (torch.nn.LayerNorm, torch.nn.RMSNorm))
    if trailing and not isinstance(module, _CHANNELS_SECOND):
        return 0
    for base in type(module).__mro__:
        if base.__name__[-2:] in ("1d", "2d", "3d"):
            return int(base.__name__[-2])
    return getattr(module, "_normwise_dim", None)  # what a swap knew


def convolution_dims(model: torch.nn.Module) -> set[int]:
    """The dimensions, after N and C, of the signals that a model's convolutions see."""
    return {len(m.kernel_size) for m in model.modules() if isinstance(m, _ConvNd)}
