"""Where the norms of a model are, and what each of them is."""

from dataclasses import dataclass, replace

import torch
from torch import fx
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from normwise import layers
from normwise.errors import NormError, describe
from normwise.surgery.flow import Flow
from normwise.surgery.recognition import (
    Known,
    inner_modules,
    is_activation,
    recognise,
    size_of,
)

_ACTIVATIONS = {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "gelu", "silu"}
_ACTIVATIONS |= {"sigmoid", "tanh", "hardswish", "hardtanh", "mish", "prelu", "selu", "softplus"}


@dataclass(frozen=True)
class Site:
    """One norm of a model, wherever it is reached from.

    paths         every name it has in the model, the first as named_modules() has it
    module        the layer itself
    kind          its name in the catalogue
    num_features  C, or the trailing shape; None while a lazy layer does not know it
    dim           dimensions after N and C; None where the layer takes any number,
                  0 where the features are in the last dimensions
    fed_by        the path of the convolution or linear layer whose output it takes;
                  None where there is none
    activation    the path of the activation that takes its output, or the name of a
                  function: "relu()"; None where there is none
    traced        whether the two were seen in the model's code; if not, they were
                  read off the order in which the model lists its layers
    """

    paths: tuple[str, ...]
    module: torch.nn.Module
    kind: str
    num_features: int | tuple[int, ...] | None
    dim: int | None
    fed_by: str | None = None
    activation: str | None = None
    traced: bool = False

    @property
    def path(self) -> str:
        return self.paths[0]

    @property
    def name(self) -> str:
        """The path for people: the model itself has none."""
        return self.path or "(the model)"

    @property
    def state(self) -> str:
        """One of "lazy", "frozen", "training" and "evaluation"."""
        own = isinstance(self.module, layers.Lazy) and not self.module.is_sized
        if own or any(is_lazy(tensor) for tensor in self.module.parameters()):
            return "lazy"
        if is_frozen(self.module):
            return "frozen"
        return "training" if self.module.training else "evaluation"

    def __str__(self) -> str:
        size = "?" if self.num_features is None else str(self.num_features).strip("(,)")
        words = [f"{self.name}: {type(self.module).__name__}, {self.kind} of {size}", self.state]
        words += [f"after {self.fed_by}"] * (self.fed_by is not None)
        words += [f"before {self.activation}"] * (self.activation is not None)
        return ", ".join(words)


def find(model: torch.nn.Module) -> list[Site]:
    """Every norm of a model, in the order of named_modules(); a shared one once.

    Known are the norms of torch.nn and normwise, classes that were registered
    (`register`), and every module that computes what one of those would: run on a
    copy beside the formulas, so that torchvision's, timm's, Hugging Face's and one's
    own need not be named. What feeds a norm and what follows it is traced, on a
    copy; where code cannot be traced, it is read off the order of the layers.

    Each prints as a line: ``for site in nw.find(model): print(site)``.

    Raises
        NormError  if the model is no module.
    """
    sites = bare_sites(model)
    flow = Flow(model, {id(site.module) for site in sites})
    names = {id(module): path for path, module in reversed(list(model.named_modules()))}
    return [_with_neighbours(site, model, flow, names) for site in sites]


def bare_sites(model: torch.nn.Module) -> list[Site]:
    """What `find` returns, without looking what surrounds the norms."""
    if not isinstance(model, torch.nn.Module):
        raise NormError(f"a torch.nn.Module has norms, received {describe(model)}")
    paths: dict[torch.nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    sites: list[Site] = []
    within: tuple[str, ...] = ()  # what begins so is part of a norm
    for module, names in paths.items():
        known = recognise(module)
        if known is not None and not all(name.startswith(within) for name in names):
            sites.append(site_of(tuple(names), module, known))
            within += tuple(f"{name}." for name in names if name)
    return sites


def site_of(paths: tuple[str, ...], module: torch.nn.Module, known: Known) -> Site:
    """The site of one module that is known to be a norm."""
    return Site(paths, module, known.kind, size_of(module, known), known.dim)


def is_frozen(module: torch.nn.Module) -> bool:
    """Whether a norm keeps its statistics whatever `.train()` says."""
    if getattr(module, "frozen", False) is True:
        return True
    held = ("running_mean" in module._buffers) and ("num_batches_tracked" not in module._buffers)
    return held and "Frozen" in type(module).__name__


def is_feeding(module: torch.nn.Module | None) -> bool:
    """Whether a module is a convolution, transposed or not, or a linear layer."""
    return isinstance(module, _ConvNd | torch.nn.Linear)


def convolution_dims(model: torch.nn.Module) -> set[int]:
    """The dimensions, after N and C, of the signals that a model's convolutions see."""
    return {len(m.kernel_size) for m in model.modules() if isinstance(m, _ConvNd)}


def _with_neighbours(site: Site, model: torch.nn.Module, flow: Flow, names: dict[int, str]) -> Site:
    inner = next(
        (
            f"{site.path}.{name}".lstrip(".")
            for name, child in inner_modules(site.module).items()
            if is_activation(child)
        ),
        None,
    )
    calls = flow.calls.get(id(site.module), [])
    if calls:
        sources = {flow.module(flow.source(node)) for node in calls}
        fed_by = next(iter(sources)) if len(sources) == 1 else None
        followers = [{_activation(user, flow, names) for user in flow.users(n)} for n in calls]
        after = set.union(*followers)
        activation = next(iter(after)) if len(after) == 1 else None
        traced = True
    else:
        fed_by, following = _siblings(site, model)
        activation = None if following is None else names[id(following)]
        traced = False
    return replace(
        site,
        fed_by=names[id(fed_by)] if fed_by is not None and is_feeding(fed_by) else None,
        activation=inner or activation,
        traced=traced,
    )


def _activation(node: fx.Node, flow: Flow, names: dict[int, str]) -> str | None:
    module = flow.module(node)
    if module is not None:
        return names[id(module)] if is_activation(module) else None
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return f"{name.rstrip('_')}()" if name in _ACTIVATIONS else None


def _siblings(
    site: Site, model: torch.nn.Module
) -> tuple[torch.nn.Module | None, torch.nn.Module | None]:
    """The layers listed before and after a norm, where its parent lists what runs in order."""
    parent = model.get_submodule(site.path.rpartition(".")[0]) if site.path else None
    unordered = (torch.nn.ModuleList, torch.nn.ModuleDict)
    if parent is None or isinstance(parent, unordered):
        return None, None
    if type(parent).__module__.startswith("torch.") and not isinstance(parent, torch.nn.Sequential):
        return None, None
    children = [c for c in parent.children() if type(c) is not torch.nn.Identity]
    here = children.index(site.module)
    before = children[here - 1] if here else None
    after = children[here + 1] if here + 1 < len(children) else None
    return before, after if after is not None and is_activation(after) else None
