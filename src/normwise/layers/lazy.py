"""Layers that learn how many features they have from what they first see."""

import copy
import inspect
from collections.abc import Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from normwise.errors import NormError


class Unsized(UninitializedParameter):
    """A parameter that waits for its size, and says what gives it one.

    It becomes a plain parameter, the same object, so an optimizer may have it before.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # whatever torch is asked to do with the parameter comes through here
        try:
            plain: Any = super()  # torch's own has no types
            return plain.__torch_function__(func, types, args, kwargs)
        except ValueError:
            raise NormError(
                f"{getattr(func, '__name__', func)} was asked of a parameter that has no size yet; "
                "run one batch through its layer, or nw.materialize(model, sample)"
            ) from None


class Lazy(LazyModuleMixin):
    """Beside a `Normalization`: learns the number of features from the first input.

    ``class LazyGroupNorm1d(GroupNorm1d, Lazy)`` is all it takes. A layer that is
    made without a size becomes its lazy class, and turns back at the first input;
    a lazy class that is made with a size turns back at once. Where the lazy class
    has other defaults, as one of torch.nn's may, they are named beside its bases:
    ``class LazyInstanceNorm1d(InstanceNorm1d, Lazy, affine=True)``.
    """

    def __init_subclass__(cls, **defaults: Any) -> None:
        super().__init_subclass__()
        if Lazy not in cls.__bases__:
            return  # what inherits from a lazy class is none beside a class of its own
        sized: Any = cls.__mro__[1]
        cls.cls_to_become = sized
        sized.lazy_class = cls
        # torch's class comes after Module in our order, and would be asked too late.
        for name in ("_save_to_state_dict", "_replicate_for_data_parallel"):
            setattr(cls, name, getattr(LazyModuleMixin, name))

        signature = inspect.signature(sized.__init__)
        signature = signature.replace(
            parameters=[
                parameter.replace(default=defaults.get(name, parameter.default))
                for name, parameter in signature.parameters.items()
            ]
        )

        @wraps(sized.__init__)
        def construct(*arguments: Any, **keywords: Any) -> None:
            given = signature.bind(*arguments, **keywords)
            given.apply_defaults()
            sized.__init__(*given.args, **given.kwargs)
            layer = given.args[0]
            if not hasattr(layer, "_initialize_hook"):
                layer.__class__ = sized

        construct.__signature__ = signature  # type: ignore[attr-defined]  # what help() shows
        cls.__init__ = construct  # type: ignore[method-assign]  # of each lazy class, its own

    def initialize_parameters(self: Any, *arguments: Any, **named: Any) -> None:
        """Take the size from x and make the parameters; torch calls this before forward.

        A copy goes first, so that what forward refuses leaves the layer without a size.
        """
        if self.is_sized:
            return
        x = arguments[0] if arguments else named["x"]
        self.check_input(x)
        if not is_fake(x):  # torch.compile asks for sizes alone
            first = self._rehearsal()
            first.learn(x)
            first._materialise()
            first.__class__ = self.cls_to_become
            with torch.no_grad():
                first.forward(*arguments, **named)
        self.learn(x)
        self._materialise()

    def _rehearsal(self: Any) -> Any:
        """A copy for one call, without the hooks and whatever they refer to."""
        hooks = {id(v): type(v)() for name, v in vars(self).items() if name.endswith("_hooks")}
        return copy.deepcopy(self, hooks)

    def _lazy_load_hook(self: Any, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
        """A state dict brings the size, too. torch calls this before it is copied in."""
        shapes = {}
        for name, own in [*self._parameters.items(), *self._buffers.items()]:
            loaded = state_dict.get(prefix + name)
            if _is_unsized(own) and loaded is not None and not is_lazy(loaded) and loaded.numel():
                shapes[name] = tuple(loaded.shape)
        if shapes:
            self.learn_from_state(shapes)
        if shapes and self.is_sized:
            self._materialise()

    def _materialise(self: Any) -> None:
        for name, parameter in self._parameters.items():
            if is_lazy(parameter):
                parameter.materialize(self.shape_of(name))
        for name, buffer in self._buffers.items():
            if _is_unsized(buffer):
                self._buffers[name] = buffer.new_empty(self.shape_of(name))
        self.reset_parameters()


def make_lazy(layer: Any) -> None:
    """Turn a layer made with size 0 into its lazy class.

    Its buffers stay empty tensors until then: torch cannot copy an uninitialized one.

    Raises
        NormError  if it is of a user's class, which would be lost on the way.
    """
    name = type(layer).__name__
    if not isinstance(layer, Lazy) and "lazy_class" not in vars(type(layer)):
        raise NormError(
            f"{name} needs its number of features, as it has no lazy class; give the number, "
            f"or write class Lazy{name}({name}, nw.Lazy)"
        )
    unsized: Any = Unsized  # torch leaves its constructor without types
    for name, parameter in layer._parameters.items():
        if _is_unsized(parameter):
            layer._parameters[name] = unsized(
                parameter.requires_grad, parameter.device, parameter.dtype
            )
    layer.__class__ = layer.lazy_class
    layer._load_hook = layer._register_load_state_dict_pre_hook(layer._lazy_load_hook)
    layer._initialize_hook = layer.register_forward_pre_hook(
        layer._infer_parameters, with_kwargs=True
    )


def _is_unsized(tensor: Any) -> bool:
    """Whether a parameter or buffer waits for a size."""
    return tensor is not None and (is_lazy(tensor) or tensor.numel() == 0)
