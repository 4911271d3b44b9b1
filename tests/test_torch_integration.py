"""Our layers inside torch's machinery: compile, export, func, autocast, layouts, DDP, ONNX."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.export import Dim
from torch.nn.parallel import DistributedDataParallel

import normwise as nw
from processes import together
from tolerances import assert_close


@dataclass(frozen=True)
class Row:
    """One layer, for x (N, 6, T), or (N, T, 6) where features come last."""

    name: str
    make: Callable[[], torch.nn.Module]
    last: bool = False
    remembers: bool = False

    def x(self, n: int = 4, t: int = 10) -> Tensor:
        x = torch.randn(n, 6, t, generator=torch.Generator().manual_seed(n + t)) + 1
        return x.mT.contiguous() if self.last else x

    def mask(self, n: int = 4, t: int = 10) -> Tensor:
        return nw.lengths_to_mask([t, 2, *[t - 1] * (n - 2)][:n], t)

    def inputs(self, masked: bool, n: int = 4, t: int = 10) -> tuple[Tensor, ...]:
        return (self.x(n, t), self.mask(n, t)) if masked else (self.x(n, t),)

    def settled(self, *, training: bool = False) -> torch.nn.Module:
        """A layer that has seen two batches."""
        layer = self.make()
        for t in (7, 8):
            layer(self.x(t=t))
        return layer.train(training)

    def __str__(self) -> str:
        return self.name


REMEMBER, BLEND = nw.Running(), nw.Running(inference="blend")
ROWS = [
    Row("BatchNorm1d", lambda: nw.BatchNorm1d(6), remembers=True),
    Row("BatchNorm1d skip", lambda: nw.BatchNorm1d(6, on_nonfinite="skip"), remembers=True),
    Row("BatchNorm1d momentum=None", lambda: nw.BatchNorm1d(6, momentum=None), remembers=True),
    Row("BatchNorm1d untracked", lambda: nw.BatchNorm1d(6, track_running_stats=False)),
    Row("SyncBatchNorm", lambda: nw.SyncBatchNorm(6), remembers=True),
    Row("InstanceNorm1d", lambda: nw.InstanceNorm1d(6, affine=True)),
    Row("InstanceNorm1d tracked", lambda: nw.InstanceNorm1d(6, track_running_stats=True),
        remembers=True),
    Row("GroupNorm", lambda: nw.GroupNorm(3, 6)),
    Row("GroupNorm1d", lambda: nw.GroupNorm1d(2, 6)),
    Row("LayerNorm", lambda: nw.LayerNorm(6), last=True),
    Row("LayerNorm1d", lambda: nw.LayerNorm1d(6)),
    Row("RMSNorm", lambda: nw.RMSNorm(6), last=True),
    Row("RMSNorm1d", lambda: nw.RMSNorm1d(6)),
    Row("Norm", lambda: nw.Norm("n (g [c]) [t]", g=3, c=2)),
    Row("Norm running", lambda: nw.Norm("[n] c [t]", c=6, running=REMEMBER), remembers=True),
    Row("Norm blending", lambda: nw.Norm("[n] c [t]", c=6, running=BLEND), remembers=True),
    Row("DynamicTanh", lambda: nw.DynamicTanh(6)),
    Row("Identity", lambda: nw.Identity(6)),
]  # fmt: skip
each = pytest.mark.parametrize("row", ROWS, ids=str)
# What remembers nothing is the same in both.
in_each_mode = pytest.mark.parametrize(
    ("row", "training"),
    [(row, training) for row in ROWS for training in (True, False) if training or row.remembers],
    ids=lambda value: str(value) if isinstance(value, Row) else ["evaluation", "training"][value],
)
in_training_and_evaluation = pytest.mark.parametrize("training", [True, False])
with_and_without_mask = pytest.mark.parametrize("masked", [False, True])


# -- torch.compile -----------------------------------------------------------------


@in_each_mode
@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_after_the_first_change_no_batch_size_compiles_anew(row, training, masked):
    torch._dynamo.reset()
    layer, counter = row.settled(training=training), CompileCounter()
    compiled = torch.compile(copy.deepcopy(layer), backend=counter, fullgraph=True)
    counts = []
    for n in (4, 5, 7, 3):
        inputs = row.inputs(masked, n)
        assert_close(compiled(*inputs).detach(), layer(*inputs).detach())
        counts.append(counter.frame_count)
    assert counts[0] == 1
    assert counts[1] == counts[3] <= 2
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(compiled._orig_mod.get_buffer(name), buffer)


# -- torch.export -------------------------------------------------------------------


def dynamic(row, masked):
    """Batch and length may change; the number of features may not."""
    x = {0: Dim("n"), 1 if row.last else 2: Dim("t")}
    return (x, {0: Dim("n"), 1: Dim("t")}) if masked else (x,)


@in_each_mode
@with_and_without_mask
def test_an_exported_layer_takes_any_batch_and_length(row, training, masked):
    layer = row.settled(training=training)
    program = torch.export.export(
        copy.deepcopy(layer), row.inputs(masked), dynamic_shapes=dynamic(row, masked)
    ).module()
    for n, t in ((4, 10), (7, 13), (2, 3)):
        inputs = row.inputs(masked, n, t)
        assert_close(program(*inputs).detach(), layer(*inputs).detach())
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(program.get_buffer(name), buffer)


# torch's own exporter reads a tree in a way that torch's own tree deprecates
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
# x and mask share n and t, as they should
@pytest.mark.filterwarnings("ignore:# The axis name.* will not be used:UserWarning")
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] * (row.name != "GroupNorm")) for row in ROWS],
    ids=str,
)
def test_onnx_runtime_agrees_on_any_batch_and_length(row):
    onnxruntime = pytest.importorskip("onnxruntime")
    layer = row.settled()
    program = torch.onnx.export(
        layer, row.inputs(True), dynamo=True, dynamic_shapes=dynamic(row, True), verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for n, t in ((4, 10), (7, 13), (2, 3)):
        inputs = row.inputs(True, n, t)
        names = (argument.name for argument in session.get_inputs())
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        y = torch.from_numpy(session.run(None, arrays)[0])
        assert_close(y, layer(*inputs).detach())


# -- torch.func ---------------------------------------------------------------------


@in_each_mode
def test_functional_call_uses_what_it_is_given(row, training):
    layer, other = row.settled(training=training), row.settled(training=training)
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            tensor.add_(1)
    state = {name: t.clone() for name, t in [*other.named_parameters(), *other.named_buffers()]}
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    y = torch.func.functional_call(layer, state, row.inputs(True))
    assert torch.equal(y, other(*row.inputs(True)))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, buffer in other.named_buffers():
        assert torch.equal(state[name], buffer)


@each
@with_and_without_mask
def test_vmap_over_a_batch_of_inputs_and_its_gradients(row, masked):
    # In training, one set of buffers cannot follow several batches; nor can torch.nn's.
    layer = row.settled(training=not row.remembers)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x, *mask):
        return torch.func.functional_call(layer, parameters, (x, *mask)).sin().sum()

    xs = torch.stack([row.x(t=10) * (i + 1) for i in range(3)])
    masks = (row.mask().expand(3, -1, -1),) if masked else ()
    axes = (None, 0, *[0] * masked)
    found = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), axes)(parameters, xs, *masks)
    for i in range(3):
        one = torch.func.grad(loss, argnums=(0, 1))(parameters, xs[i], *[m[i] for m in masks])
        for name in parameters:
            assert_close(found[0][name][i], one[0][name], backward=True)
        assert_close(found[1][i], one[1], backward=True)


@each
def test_an_ensemble_trains_with_statistics_of_its_own(row):
    layers = [row.settled(training=True) for _ in range(3)]
    state = torch.func.stack_module_state(copy.deepcopy(layers))
    xs = torch.stack([row.x() * (i + 1) for i in range(3)])

    def call(parameters, buffers, x):
        return torch.func.functional_call(layers[0], (parameters, buffers), (x,))

    ys = torch.func.vmap(call)(*state, xs)
    for i, layer in enumerate(copy.deepcopy(layers)):
        assert_close(ys[i].detach(), layer(xs[i]).detach())
        for name, buffer in layer.named_buffers():
            torch.testing.assert_close(state[1][name][i], buffer)


# -- autocast -----------------------------------------------------------------------


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing_but_what_comes_in(row, dtype):
    layer, x, mask = row.settled(training=True), row.x().to(dtype), row.mask()
    expected = copy.deepcopy(layer)(x, mask)
    with torch.autocast("cpu", dtype):
        y = layer(x, mask)
    assert y.dtype == dtype
    assert torch.equal(y, expected)


# -- memory formats -----------------------------------------------------------------

LAYOUTS = [
    (torch.channels_last, (3, 6, 4, 5), 2),
    (torch.channels_last_3d, (3, 6, 2, 4, 5), 3),
]
CHANNELWISE = ["BatchNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


@pytest.mark.parametrize(("layout", "shape", "dim"), LAYOUTS, ids=["2d", "3d"])
@pytest.mark.parametrize("name", [*CHANNELWISE, "GroupNorm", "Norm", "Sync", "Tanh", "Identity"])
@in_training_and_evaluation
@with_and_without_mask
def test_a_layout_is_kept(name, layout, shape, dim, training, masked):
    layer = {
        "GroupNorm": lambda: getattr(nw, f"GroupNorm{dim}d")(3),
        "Norm": lambda: nw.Norm("n (g [c]) [...]", g=3),
        "Sync": lambda: nw.SyncBatchNorm(),
        "Tanh": lambda: nw.DynamicTanh(),
        "Identity": lambda: nw.Identity(),
    }.get(name, lambda: getattr(nw, f"{name}{dim}d")(6))()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(shape[0], *shape[2:], dtype=torch.bool) if masked else None
    layer(x)
    layer.train(training)
    same = copy.deepcopy(layer)
    leaf = x.contiguous(memory_format=layout).requires_grad_()
    y = layer(leaf, mask)
    assert y.is_contiguous(memory_format=layout)
    assert_close(y.detach(), same(x, mask).detach())
    y.square().sum().backward()
    assert leaf.grad.is_contiguous(memory_format=layout)


# -- DistributedDataParallel ----------------------------------------------------------


def model(norm):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv1d(2, 6, 3), norm)


def whole_batch():
    return torch.randn(5, 2, 9, generator=torch.Generator().manual_seed(1))


def gradients(network, x):
    network(x).sin().sum().backward()
    return {name: p.grad for name, p in network.named_parameters()}


def distributed(rank, processes):
    x = whole_batch()
    part = x[:2] if rank == 0 else x[2:]
    found = gradients(DistributedDataParallel(model(nw.GroupNorm1d(3, 6))), part)
    try:
        DistributedDataParallel(model(nw.SyncBatchNorm(6)))
    except ValueError as error:
        return {name.removeprefix("module."): gradient for name, gradient in found.items()}, str(
            error
        )


def test_data_parallel_gradients_are_those_of_the_whole_batch(tmp_path):
    expected = gradients(model(nw.GroupNorm1d(3, 6)), whole_batch())
    for found, refusal in together(distributed, 2, tmp_path):
        for name, gradient in expected.items():
            assert_close(found[name] * 2, gradient, backward=True)  # DDP averages over processes
        # torch asks isinstance, so a subclass cannot escape; its docstring says so.
        assert refusal == "SyncBatchNorm layers only work with GPU modules"
