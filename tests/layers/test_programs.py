"""Every layer as a program: compiled, and exported."""

import pytest
import torch
from conformance import FIRST_OF_EACH, gradients
from torch.export import Dim

from tolerances import assert_close


def assert_compiled_agrees(case, backend):
    for training in (True, False):
        eager, traced = case.make().train(training), case.make().train(training)
        compiled = torch.compile(traced, fullgraph=True, backend=backend)
        x, mask, cotangent = case.x(), case.mask(), case.x(seed=3)
        for arguments in ((x,), (x, mask)):
            y, found = gradients(compiled, *arguments[:1], cotangent, *arguments[1:])
            wanted_y, wanted = gradients(eager, *arguments[:1], cotangent, *arguments[1:])
            assert_close(y, wanted_y.double())
            for name, gradient in wanted.items():
                assert_close(found[name], gradient, backward=True)
        for name, buffer in eager.named_buffers():
            torch.testing.assert_close(traced.get_buffer(name), buffer)


def slow_for_images(cases):
    """A compilation takes a second, and images take the way of signals."""
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(case, marks=marks[len(case.shape) > 3], id=str(case)) for case in cases]


@pytest.mark.parametrize("case", slow_for_images(FIRST_OF_EACH))
def test_it_compiles_into_one_graph(case):
    torch._dynamo.reset()
    assert_compiled_agrees(case, "eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize("case", FIRST_OF_EACH[-2:], ids=str)
def test_it_compiles_with_inductor(case):
    torch._dynamo.reset()
    assert_compiled_agrees(case, "inductor")


# -- torch.export and ONNX ---------------------------------------------------


def inputs(case, samples, size):
    """x and mask with another number of samples and positions."""
    shape = [samples if i == 0 else size if i == case.time else n for i, n in enumerate(case.shape)]
    draw = torch.Generator().manual_seed(samples + size)
    x = torch.randn(shape, generator=draw) + 1
    mask = torch.rand([n for i, n in enumerate(shape) if i not in case.features], generator=draw)
    mask = mask < 0.7
    mask[..., :2] = True
    return x, mask


def dynamic(case):
    """Samples and positions may change in number; features and what else there is may not."""
    n, t = Dim("n"), Dim("t")
    x = {0: n} if case.time is None else {0: n, case.time: t}
    rank = len(case.shape) - len(case.features)
    return x, {0: n} if case.time is None else {0: n, rank - 1: t}


@pytest.mark.parametrize("case", slow_for_images(FIRST_OF_EACH))
@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_exported_layer_takes_any_batch_and_length(case, masked):
    layer, count = case.make().eval(), 2 if masked else 1
    program = torch.export.export(
        case.make().eval(), inputs(case, 4, 10)[:count], dynamic_shapes=dynamic(case)[:count]
    ).module()
    for samples, size in ((4, 10), (7, 13), (2, 3)):
        arguments = inputs(case, samples, size)[:count]
        assert_close(program(*arguments).detach(), layer(*arguments).detach())


@pytest.mark.slow
# torch's own exporter reads a tree in a way that torch's own tree deprecates
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
# x and mask share n and t, as they should
@pytest.mark.filterwarnings("ignore:# The axis name.* will not be used:UserWarning")
@pytest.mark.parametrize("case", FIRST_OF_EACH, ids=str)
def test_onnx_runtime_agrees_on_any_batch_and_length(case):
    onnxruntime = pytest.importorskip("onnxruntime")
    layer = case.make().eval()
    program = torch.onnx.export(
        layer, inputs(case, 4, 10), dynamo=True, dynamic_shapes=dynamic(case), verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for samples, size in ((4, 10), (7, 13), (2, 3)):
        arguments = inputs(case, samples, size)
        names = (argument.name for argument in session.get_inputs())
        arrays = {name: t.numpy() for name, t in zip(names, arguments, strict=True)}
        y = torch.from_numpy(session.run(None, arrays)[0])
        assert_close(y, layer(*arguments).detach())
