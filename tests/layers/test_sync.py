"""Batch norm over processes: real ones, compared with one process that has the whole batch."""

from functools import partial

import pytest
import torch
from torch import distributed as dist

import normwise as nw
from normwise.ops import choice, watch
from processes import together
from tolerances import assert_close

# what is normalized: samples of each process, an offset, whether there is a mask
CASES = {
    "equal": ([2, 2, 2], 0.0, False),
    "unequal": ([3, 1, 2], 3.0, False),
    "masked": ([2, 3, 1], 3.0, True),
    "an empty process": ([3, 0, 2], 3.0, False),
    "an empty process, masked": ([0, 4, 3], 3.0, True),
    "far from 0": ([2, 3, 1], 1e5, True),
    "nothing anywhere": ([0, 0, 0], 0.0, False),
}
C, T = 3, 5
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def whole(sizes, offset):
    """Two batches: process after process, each at a level of its own."""
    generator = torch.Generator().manual_seed(sum(sizes))
    x = torch.randn(2, sum(sizes), C, T, generator=generator) + offset
    level = [torch.full((size,), float(i)) for i, size in enumerate(sizes)]
    mask = torch.rand(2, sum(sizes), T, generator=generator) < 0.6
    return x + torch.cat(level)[:, None, None] * 2, mask


def trained(layer, x, mask):
    """Outputs, gradients of x twice, of the parameters, and the state, after two batches."""
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, C))
        layer.bias.copy_(torch.linspace(-1, 1, C))
    x = x.clone().requires_grad_()
    y = torch.stack([layer(x[i], None if mask is None else mask[i]) for i in range(2)])
    slope = torch.linspace(-1, 1, T)
    (first,) = torch.autograd.grad((y.sin() * slope).sum(), x, create_graph=True)
    first.square().sum().backward(retain_graph=True)
    second, x.grad = x.grad, None
    layer.zero_grad()
    (y.sin() * slope).sum().backward()
    return {
        "y": y.detach(),
        "gradient": x.grad,
        "second": second,
        "weight": layer.weight.grad,
        "bias": layer.bias.grad,
        **{name: buffer.clone() for name, buffer in layer.named_buffers()},
    }


def stepped(layer, x):
    """y and the gradients of x, residual and weight, of one step with a residual, x[1]."""
    x = [t.clone().requires_grad_() for t in x]
    y = layer(x[0], residual=x[1])
    slope = torch.linspace(-1, 1, T, dtype=torch.bfloat16).to(y.dtype).expand(y.shape)
    gradients = torch.autograd.grad(y, [*x, layer.weight], slope)
    return dict(zip(("y", "x", "residual", "weight"), (y.detach(), *gradients), strict=True))


def part(rank, sizes, tensor):
    start = sum(sizes[:rank])
    return tensor[:, start : start + sizes[rank]]


def work(kernel, rank, processes):
    """What each process does: every case, its own part of it."""
    choice.FORCED = kernel
    results = {}
    for name, (sizes, offset, masked) in CASES.items():
        sizes = sizes[:processes]
        x, mask = (part(rank, sizes, tensor) for tensor in whole(sizes, offset))
        with watch() as calls:
            results[name] = trained(nw.SyncBatchNorm(C), x, mask if masked else None)
        assert {call.kernel for call in calls} == {kernel}, calls
    for dtype in PRECISIONS:
        sizes = CASES["equal"][0][:processes]
        x, _ = (part(rank, sizes, tensor) for tensor in whole(sizes, 3.0))
        results[dtype] = stepped(nw.SyncBatchNorm(C, activation="silu"), x.to(dtype))
    groups = [dist.new_group([i]) if i else dist.new_group([0, processes - 1]) for i in range(2)]
    x, _ = whole([2] * processes, 0.0)
    mine = nw.SyncBatchNorm(C, process_group=groups[0 if rank in (0, processes - 1) else 1])
    results["groups"] = trained(mine, part(rank, [2] * processes, x), None)
    # One process has yet to learn the size, the others wait for it in the first batch.
    layer = nw.SyncBatchNorm(None if rank == 0 else C, process_group=dist.group.WORLD)
    results["lazy"] = layer(part(rank, [1] * processes, x)[0, ..., :1]).detach()
    return results


KERNELS = [
    pytest.param(("native", 3), id="native"),
    pytest.param(("triton", 2), id="triton"),
    pytest.param(("reference", 2), id="reference", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=KERNELS)
def results(request, tmp_path_factory):
    """What each of 2 or 3 processes found, by rank."""
    kernel, processes = request.param
    if kernel == "triton":
        pytest.importorskip("triton")
    return together(partial(work, kernel), processes, tmp_path_factory.mktemp("meeting"))


@pytest.mark.parametrize("name", CASES)
def test_processes_together_are_one_with_the_whole_batch(results, name):
    sizes, offset, masked = CASES[name]
    sizes = sizes[: len(results)]
    x, mask = whole(sizes, offset)
    truth = trained(nw.BatchNorm1d(C).double(), x.double(), mask if masked else None)
    for rank, every in enumerate(results):
        found = every[name]
        for tensor in ("y", "gradient", "second"):
            expected = part(rank, sizes, truth[tensor])
            assert_close(found[tensor], expected, backward=tensor != "y")
        for statistic in ("running_mean", "running_var"):
            assert_close(found[statistic], truth[statistic])
            assert not found[statistic].requires_grad
        assert torch.equal(found["num_batches_tracked"], truth["num_batches_tracked"])
    for parameter in ("weight", "bias"):
        total = torch.stack([every[name][parameter] for every in results]).sum(0)
        assert_close(total, truth[parameter], backward=True)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_residual_and_activation_in_every_precision(results, dtype):
    sizes = CASES["equal"][0][: len(results)]
    x, _ = whole(sizes, 3.0)
    truth = stepped(nw.BatchNorm1d(C, activation="silu").double(), x.to(dtype).double())
    for rank, every in enumerate(results):
        for name in ("y", "x", "residual"):
            expected = part(rank, sizes, truth[name][None])[0]
            assert_close(every[dtype][name], expected, backward=name != "y")
    total = torch.stack([every[dtype]["weight"] for every in results]).sum(0)
    assert_close(total.to(dtype), truth["weight"], backward=True)


def test_processes_agree_with_their_group_alone(results, monkeypatch):
    last = len(results) - 1
    x, _ = whole([2] * len(results), 0.0)
    parts = [part(rank, [2] * len(results), x) for rank in range(len(results))]
    truth = trained(nw.BatchNorm1d(C), torch.cat([parts[0], parts[last]], 1), None)
    assert_close(results[0]["groups"]["y"], truth["y"][:, :2])
    assert_close(results[last]["groups"]["gradient"], truth["gradient"][:, 2:], backward=True)
    if last == 2:
        monkeypatch.setattr(choice, "FORCED", "native")  # what three processes ran, bit by bit
        alone = trained(nw.BatchNorm1d(C), parts[1], None)
        assert torch.equal(results[1]["groups"]["y"], alone["y"])


def test_one_that_is_lazy_keeps_step_with_the_others(results):
    x, _ = whole([2] * len(results), 0.0)
    truth = nw.BatchNorm1d(C)(x[0, : len(results), :, :1])
    assert_close(torch.cat([every["lazy"] for every in results]), truth.double())


# -- in one process ---------------------------------------------------------------


def test_alone_it_is_batch_norm():
    x, mask = whole([4], 3.0)
    one, other = (trained(layer(C), x, mask) for layer in (nw.SyncBatchNorm, nw.BatchNorm1d))
    for name in one:
        assert torch.equal(one[name], other[name])


def test_it_is_torchs_and_takes_every_rank():
    for shape in ((4, 3), (4, 3, 5), (4, 3, 5, 2), (4, 3, 2, 2, 2)):
        layer = nw.SyncBatchNorm()
        assert isinstance(layer, torch.nn.SyncBatchNorm)
        assert layer(torch.randn(shape)).shape == shape
        assert type(layer) is nw.SyncBatchNorm


def test_arguments_are_those_of_torch():
    group = object()
    arguments = (3, 1e-3, 0.2, True, True, group, "meta", torch.float64)
    ours, theirs = nw.SyncBatchNorm(*arguments), torch.nn.SyncBatchNorm(*arguments)
    assert ours.process_group is theirs.process_group is group
    assert repr(ours) == repr(theirs)
    assert {n: (t.shape, t.dtype) for n, t in ours.state_dict().items()} == {
        n: (t.shape, t.dtype) for n, t in theirs.state_dict().items()
    }


class TestConversion:
    def model(self):
        shared = nw.BatchNorm1d(3, momentum=0.3, on_nonfinite="skip")
        return torch.nn.ModuleDict(
            {
                "ours": shared,
                "again": shared,
                "torchs": torch.nn.BatchNorm2d(4, affine=False),
                "inside": torch.nn.Sequential(nw.BatchNorm3d(2, bias=False).eval()),
                "instance": nw.InstanceNorm1d(3),
                "nothing": torch.nn.BatchNorm1d(2, track_running_stats=False),
            }
        )

    def test_reaches_every_batch_norm(self):
        model = self.model()
        before = dict(model.named_parameters()), model.state_dict()
        tensors = {name: id(p) for name, p in model.named_parameters()}
        converted = nw.SyncBatchNorm.convert_sync_batchnorm(model, "group")
        assert converted is model
        assert {name: id(p) for name, p in model.named_parameters()} == tensors
        assert model.state_dict().keys() == before[1].keys()
        kinds = {name: type(m) for name, m in model.named_modules() if hasattr(m, "eps")}
        assert kinds.pop("instance") is nw.InstanceNorm1d
        assert set(kinds.values()) == {nw.SyncBatchNorm}
        assert model["ours"] is model["again"]
        assert model["ours"].momentum == 0.3
        assert model["ours"].on_nonfinite == "skip"
        assert model["ours"].process_group == "group"
        assert not model["inside"][0].training
        assert model["inside"][0].bias is None

    def test_of_a_layer_is_its_successor(self):
        layer = nw.BatchNorm1d(3)
        layer(torch.randn(2, 3, 4))
        converted = nw.SyncBatchNorm.convert_sync_batchnorm(layer)
        assert type(converted) is nw.SyncBatchNorm
        assert converted.weight is layer.weight
        assert converted.running_mean is layer.running_mean

    def test_keeps_the_activation(self):
        for layer in (nw.BatchNorm1d(3, activation="silu"), nw.BatchNorm2d(activation="silu")):
            assert nw.SyncBatchNorm.convert_sync_batchnorm(layer).activation == "silu"

    def test_of_a_lazy_layer_learns_its_size_later(self):
        converted = nw.SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(nw.BatchNorm1d()))
        assert isinstance(converted[0], nw.LazySyncBatchNorm)
        converted(torch.randn(2, 3, 4))
        assert converted[0].num_features == 3
        assert type(converted[0]) is nw.SyncBatchNorm

    def test_leaves_other_formulas_alone(self):
        class Rescaled(nw.BatchNorm1d):
            def normalized(self, x, mask, fitted, residual=None):
                return 2 * super().normalized(x, mask, fitted, residual)

        model = torch.nn.Sequential(Rescaled(3))
        assert type(nw.SyncBatchNorm.convert_sync_batchnorm(model)[0]) is Rescaled

    def test_torchs_own_converter_takes_our_layers(self):
        model = torch.nn.Sequential(nw.BatchNorm1d(3))
        converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        assert type(converted[0]) is torch.nn.SyncBatchNorm
