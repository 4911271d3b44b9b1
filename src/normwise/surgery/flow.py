"""Who calls whom in a model: traced symbolically, on a copy, as far as its code lets it be."""

import copy
import inspect
import random
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from normwise.surgery.replacing import process_groups


class Flow:
    """The calls of a model's modules, in as many graphs as its code could be traced in.

    A forward that cannot be traced (it asks a tensor for its values, say) is one
    call in the graph around it, and what it calls is traced on its own.

    calls    the nodes of each module of the model, by its id; none where the code
             that calls it was not traced
    """

    def __init__(self, model: torch.nn.Module, leaves: set[int]) -> None:
        """Trace a model; `leaves` are ids of modules to look no further into."""
        self.calls: dict[int, list[fx.Node]] = {}
        self._modules: dict[fx.Node, torch.nn.Module] = {}
        try:
            # Parameters are read at most; buffers a forward may write to.
            parameters = {id(p): p for p in model.parameters()}
            copied = copy.deepcopy(model, {**parameters, **process_groups(model)})
        except Exception:  # a model that cannot be copied is not run, either
            return
        originals = {
            id(theirs): ours
            for (_, theirs), (_, ours) in zip(
                copied.named_modules(), model.named_modules(), strict=True
            )
        }
        inside = {id(m) for m in copied.modules() if id(originals[id(m)]) in leaves}
        state = random.getstate()
        with torch.random.fork_rng([]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for root, graph in _graphs(copied, inside):
                    self._read(root, graph, originals)
            finally:
                random.setstate(state)

    def _read(
        self, root: torch.nn.Module, graph: fx.Graph, originals: dict[int, torch.nn.Module]
    ) -> None:
        for node in graph.nodes:
            if node.op == "call_module":
                module = originals[id(root.get_submodule(node.target))]
                self._modules[node] = module
                self.calls.setdefault(id(module), []).append(node)

    def module(self, node: Any) -> torch.nn.Module | None:
        """The module that a node calls; None for everything else."""
        return self._modules.get(node)

    def only_call(self, module: torch.nn.Module) -> fx.Node | None:
        """The node of a module that is called once, with one input; else None."""
        calls = self.calls.get(id(module), [])
        if len(calls) != 1 or len(calls[0].args) + len(calls[0].kwargs) != 1:
            return None
        return calls[0]

    def source(self, node: fx.Node) -> Any:
        """Where a node's input comes from, past identities."""
        found: Any = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        while type(self.module(found)) is torch.nn.Identity:
            found = found.args[0]
        return found

    def users(self, node: fx.Node) -> list[fx.Node]:
        """What takes a node's output, past identities."""
        taken = []
        for user in node.users:
            if type(self.module(user)) is torch.nn.Identity:
                taken += self.users(user)
            else:
                taken.append(user)
        return taken


class _Tracer(fx.Tracer):
    """Traces what can be, and takes for a single call what cannot."""

    def __init__(self, leaves: set[int]) -> None:
        super().__init__()
        self.leaves = leaves
        self.closed: list[torch.nn.Module] = []  # whose own forward cannot be traced

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: torch.nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        last = next(reversed(self.graph.nodes), None)
        stack, called = self.module_stack.copy(), dict(self.num_calls)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if id(m) in self.leaves:
                raise
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            self.module_stack, self.num_calls = stack, called
            self.leaves.add(id(m))
            self.closed.append(m)
            return super().call_module(m, forward, args, kwargs)


def _graphs(root: torch.nn.Module, leaves: set[int]) -> Iterator[tuple[torch.nn.Module, fx.Graph]]:
    """The graph of a module; where it has none, those of its children."""
    if id(root) in leaves and not isinstance(root, fx.GraphModule):
        return
    tracer = _Tracer(set(leaves))
    try:
        yield root, tracer.trace(root, _defaults(root))
        closed = tracer.closed
    except Exception:
        closed = [root]
    for module in closed:
        for child in module.children():
            if next(child.children(), None) is not None:
                yield from _graphs(child, leaves)


def _defaults(root: torch.nn.Module) -> dict[str, Any]:
    """Arguments a caller may leave out are left out, so that `if mask is None` can be traced."""
    parameters = inspect.signature(root.forward).parameters
    return {n: p.default for n, p in parameters.items() if p.default is not p.empty}
