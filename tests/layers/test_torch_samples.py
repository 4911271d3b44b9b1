"""torch's own samples for its norms: the same outputs, gradients, buffers and refusals."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import normwise as nw
from tolerances import assert_close

NORMS = {
    *(f"{kind}Norm{dim}d" for kind in ("Batch", "Instance") for dim in (1, 2, 3)),
    *("GroupNorm", "LayerNorm", "RMSNorm"),
}
ASKED = {"device": "cpu", "dtype": torch.float64, "requires_grad": True, "training": True}


@dataclass(frozen=True)
class Sample:
    """One of torch's samples: a class, what it is made with, what it is called with."""

    name: str
    description: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    x: torch.Tensor

    def make(self, package):
        layer = getattr(package, self.name)(*self.arguments, **self.keywords, dtype=torch.float64)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=random) + 0.5)
        return layer

    def __str__(self) -> str:
        return f"{self.name}-{self.description or 'plain'}"


def samples_of(info):
    for sample in info.module_inputs_func(info, **ASKED):
        made, called = sample.constructor_input, sample.forward_input
        (x,) = called.args
        yield Sample(info.module_cls.__name__, sample.desc, made.args, made.kwargs, x)


def refusals_of(info):
    """What torch refuses. Where torch does so at the first input, ours may do so at once."""
    for sample in info.module_error_inputs_func(info, **ASKED):
        made = sample.module_error_input.constructor_input
        called = sample.module_error_input.forward_input
        late = sample.error_on == ModuleErrorEnum.FORWARD_ERROR
        x = called.args[0] if late else torch.empty(0)
        yield Sample(info.module_cls.__name__, sample.error_regex, made.args, made.kwargs, x)


INFOS = [info for info in module_db if info.module_cls.__name__ in NORMS]
SAMPLES = [sample for info in INFOS for sample in samples_of(info)]
REFUSALS = [s for info in INFOS if info.module_error_inputs_func for s in refusals_of(info)]


def test_torch_has_samples_of_every_norm():
    assert {sample.name for sample in SAMPLES} == NORMS
    assert {sample.name for sample in REFUSALS} >= {"BatchNorm1d", "BatchNorm2d", "GroupNorm"}


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_outputs_gradients_and_buffers_are_torchs(sample):
    ours, torchs = sample.make(nw), sample.make(torch.nn)
    assert isinstance(ours, type(torchs))
    for training in (True, True, False):
        results = []
        for layer in (ours, torchs):
            x = sample.x.detach().clone().requires_grad_()
            y = layer.train(training)(x)
            wanted = [x, *layer.parameters()]
            cotangent = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
            results.append([y, *torch.autograd.grad(y, wanted, cotangent)])
        (y, *found), (truth, *wanted) = results
        assert_close(y, truth)
        for gradient, true_gradient in zip(found, wanted, strict=True):
            assert_close(gradient, true_gradient, backward=True)
        for name, buffer in torchs.named_buffers():
            if x.numel() or name != "num_batches_tracked":  # torch counts empty batches, too
                torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sample", REFUSALS, ids=str)
def test_what_torch_refuses_is_refused(sample):
    with pytest.raises(nw.NormError):
        sample.make(nw).train()(sample.x)
