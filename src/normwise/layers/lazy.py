"""Layers that learn how many features they have from what they first see."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy


class Lazy(LazyModuleMixin):
    """Beside a `Normalization`: learns the number of features from the first input.

    ``class LazyGroupNorm1d(GroupNorm1d, Lazy)`` is all it takes. A layer that is
    made without a size becomes its lazy class, and turns back at the first input.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        sized: Any = cls.__mro__[1]
        cls.cls_to_become = sized
        sized.lazy_class = cls

    def initialize_parameters(
        self: Any, x: Tensor, *_: Any, index: Any = None, mask: Any = None
    ) -> None:
        """Take the size from x and make the parameters; torch calls this before forward."""
        if not self.feature_shape:
            self.check_input(x)
            self._materialise(self.features_of(x))

    def _lazy_load_hook(self: Any, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
        """A state dict brings the size, too. torch calls this before it is copied in."""
        for name, own in [*self._parameters.items(), *self._buffers.items()]:
            loaded = state_dict.get(prefix + name)
            if _is_unsized(own) and loaded is not None and not is_lazy(loaded) and loaded.numel():
                self._materialise(tuple(loaded.shape[len(self.leading) :]))
                break

    def _materialise(self: Any, shape: tuple[int, ...]) -> None:
        self.set_size(shape)
        for parameter in self._parameters.values():
            if is_lazy(parameter):
                parameter.materialize((*self.leading, *shape))
        for name, buffer in self._buffers.items():
            if _is_unsized(buffer):
                self._buffers[name] = buffer.new_empty(shape)
        self.reset_parameters()


def make_lazy(layer: Any) -> None:
    """Turn a layer made with size 0 into its lazy class.

    Its buffers stay empty tensors until then: torch cannot copy an uninitialized one.
    """
    uninitialized: Any = UninitializedParameter  # torch leaves its constructor without types
    for name, parameter in layer._parameters.items():
        if _is_unsized(parameter):
            layer._parameters[name] = uninitialized(
                parameter.requires_grad, parameter.device, parameter.dtype
            )
    layer.__class__ = layer.lazy_class
    layer._load_hook = layer._register_load_state_dict_pre_hook(layer._lazy_load_hook)
    layer._initialize_hook = layer.register_forward_pre_hook(
        layer._infer_parameters, with_kwargs=True
    )


def _is_unsized(tensor: Any) -> bool:
    """Whether a parameter or buffer waits for the number of features."""
    return tensor is not None and (is_lazy(tensor) or tensor.numel() == 0)
