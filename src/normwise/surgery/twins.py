"""The layer of ours that computes what another norm does."""

import copy
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from normwise import layers
from normwise.catalogue import catalogue
from normwise.errors import NormError
from normwise.layers.remembering import WideStatistics
from normwise.surgery.carrying import KeptError, carry, tensors_of
from normwise.surgery.recognition import (
    Known,
    bare_copy,
    epsilon_of,
    inner_modules,
    recognise,
)
from normwise.surgery.replacing import OURS, shown
from normwise.surgery.sites import Site

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# How far a twin may be from the layer it stands for: float32 rounding, computed in float64.
_TWIN = 1e-6


def twin(site: Site) -> torch.nn.Module:
    """The layer of ours that computes what a norm does, with the same parameters.

    Raises
        KeptError  if there is none, or its results would differ.
    """
    old = site.module
    if isinstance(old, OURS):
        return old
    base = _torch_class(old)
    try:
        new = _twin_of_torch(old, base) if base is not None else _twin_by_kind(site)
    except NormError as error:
        raise KeptError(str(error)) from error
    if new is None:
        raise KeptError(f"no layer of normwise computes what {type(old).__name__} does")
    if base is None and not _agree(site, new):
        raise KeptError(f"{type(old).__name__} computes something else than {shown(new)}")
    plain = set(vars(new))
    for name, value in vars(old).items():  # what the model's own code may ask the layer for
        if name not in plain and not name.endswith("_hook") and not hasattr(type(new), name):
            object.__setattr__(new, name, value)
    return new.train(old.training)


def _torch_class(module: torch.nn.Module) -> Any:
    """The class of torch.nn whose forward a module has; None if its forward is another."""
    base: Any = next((b for b in type(module).__mro__ if b.__module__.startswith("torch.nn")), None)
    same = base is not None and type(module).forward is base.forward
    return base if same and hasattr(layers, base.__name__) and not inner_modules(module) else None


def _twin_of_torch(old: Any, base: Any) -> torch.nn.Module:
    twins: Any = getattr(layers, base.__name__)
    has_bias = getattr(old, "bias", None) is not None
    if issubclass(base, torch.nn.GroupNorm):
        new = twins(old.num_groups, old.num_channels, old.eps, old.affine, bias=has_bias)
    elif issubclass(base, torch.nn.LayerNorm):
        new = twins(old.normalized_shape, old.eps, old.elementwise_affine, has_bias)
    elif issubclass(base, torch.nn.RMSNorm):
        new = twins(old.normalized_shape, old.eps, old.elementwise_affine)
    else:
        arguments = [old.num_features or None, old.eps, old.momentum, old.affine]
        arguments.append(old.track_running_stats)
        if issubclass(base, torch.nn.SyncBatchNorm):
            arguments.append(old.process_group)
        lazy = any(is_lazy(t) for t in [*old.parameters(), *old.buffers()])
        if lazy:
            arguments[0] = None
        new = twins(*arguments, bias=has_bias or (lazy and old.affine))
        if lazy:
            like = next(iter([*old.parameters(), *old.buffers()]))
            waiting: torch.nn.Module = new.to(device=like.device, dtype=like.dtype)
            return waiting
    return _with_tensors(new, old)


def _with_tensors(new: torch.nn.Module, old: torch.nn.Module) -> torch.nn.Module:
    """The new layer with the old one's own parameters and buffers."""
    new._parameters.update(old._parameters)
    new._buffers.update(old._buffers)
    if isinstance(new, WideStatistics):
        new._widen()  # statistics of a layer in half precision stay wide
    return new


def _twin_by_kind(site: Site) -> torch.nn.Module | None:
    old = site.module
    known = recognise(old)
    eps = epsilon_of(old)
    size = site.num_features
    if known is None or known.origin or eps is None or size is None or _rank_free(known):
        return None
    tensors = [t for t in tensors_of(old).values() if t.is_floating_point()]
    where = {"device": tensors[0].device, "dtype": tensors[0].dtype} if tensors else {}
    parameters = dict(old.named_parameters(recurse=False))
    affine, has_bias = known.weight in parameters, known.bias in parameters
    dim = known.dim
    if known.kind == "batch" and dim and not parameters:
        new = getattr(layers, f"FrozenBatchNorm{dim}d")(size, eps, **where)
    elif known.kind == "batch" and dim:
        momentum = getattr(old, "momentum", 0.1)
        new = getattr(layers, f"BatchNorm{dim}d")(
            *(size, eps, momentum, affine), bias=has_bias, **where
        )
    elif known.kind == "group":
        count = known.groups or getattr(old, "num_groups", None)
        name = f"GroupNorm{dim}d" if dim else "GroupNorm"
        new = getattr(layers, name)(count, size, eps, affine, bias=has_bias, **where)
    elif known.kind == "rms":
        if has_bias:
            return None
        new = catalogue()["rms"].layers[dim or 0](size, eps, affine, **where)
    elif known.kind in ("layer", "causal", "instance"):
        entry = catalogue()[known.kind]
        keywords = {"bias": has_bias, **where}
        affine_name = "elementwise_affine" if known.kind == "layer" else "affine"
        new = entry.layers[dim or 0](size, eps, **{affine_name: affine}, **keywords)
    else:
        return None
    carry(old, new)
    twins: torch.nn.Module = new
    return twins


def _rank_free(known: Known) -> bool:
    return known.dim is None and known.kind != "group"


def _agree(site: Site, new: torch.nn.Module) -> bool:
    """Whether two layers give the same for the same input, in training and in evaluation."""
    size, dim = site.num_features, site.dim
    channels = size if isinstance(size, int) else size[-1] if size else 1
    shape = (4, 5, channels) if dim == 0 else (4, channels, *(5, 6, 3)[: dim or 2])
    draw = torch.Generator().manual_seed(0)
    theirs, ours = (_filled(bare_copy(module)) for module in (site.module, new))
    for name in inner_modules(theirs):
        setattr(theirs, name, torch.nn.Identity())
    carry(theirs, ours)
    for training in (False, True):
        for scale in (1.0, 1e-3):  # the smaller, the more eps matters
            x = torch.randn(shape, generator=draw, dtype=torch.float64) * scale
            results = []
            for module in (theirs, ours):
                copied: Any = copy.deepcopy(module).train(training)
                try:
                    with torch.no_grad():
                        results.append([copied(x)])
                except Exception:  # whatever a module raises that cannot run here
                    return False
                results[-1] += [b for n, b in copied.named_buffers() if n in _STATISTICS[:2]]
            for a, b in zip(*results, strict=True):
                if a.shape != b.shape or float((a - b).norm()) > _TWIN * float(b.norm()):
                    return False
    return True


def _filled(module: torch.nn.Module) -> torch.nn.Module:
    """On the CPU, in float64, with numbers that tell one channel from another."""
    draw = torch.Generator().manual_seed(1)
    module = module.to_empty(device=torch.device("cpu")).double()
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            drawn = torch.rand(tensor.numel(), generator=draw, dtype=torch.float64)
            tensor.data = (0.5 + drawn).reshape(tensor.shape)
        else:
            tensor.zero_()
    return module
