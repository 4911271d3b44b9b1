"""Batch norms folded into what is beside them: the outputs stay, and what cannot be is refused."""

import copy

import pytest
import torch
from foreign import Frozen, WithActivation
from torch import nn

import normwise as nw

SHAPES = {0: (5, 8), 1: (3, 8, 9), 2: (3, 8, 6, 5), 3: (3, 8, 4, 3, 5)}


def x_of(dim, dtype=torch.float64):
    return torch.randn(SHAPES[dim], generator=torch.Generator().manual_seed(0)).to(dtype)


def layer_of(dim, *, transposed=False, inputs=8, outputs=8, **options):
    if not dim:
        options.pop("groups", None)
        return nn.Linear(inputs, outputs, bias=options.get("bias", True))
    kind = getattr(nn, f"ConvTranspose{dim}d" if transposed else f"Conv{dim}d")
    return kind(inputs, outputs, 3, **options)


def used(norm):
    """Statistics and weights that are far from those of a new norm."""
    draw = torch.Generator().manual_seed(1)
    for tensor in [*norm.parameters(), *norm.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
    return norm


def norms(dim, size=8):
    rank = max(dim, 1)
    torchs = getattr(nn, f"BatchNorm{rank}d")
    ours = getattr(nw, f"BatchNorm{rank}d")
    yield torchs(size)
    yield torchs(size, affine=False, eps=0.1)
    yield torchs(size, bias=False)
    yield nn.SyncBatchNorm(size)
    yield ours(size)
    yield ours(size, activation="relu")
    yield getattr(nw, f"FrozenBatchNorm{rank}d")(size)
    yield getattr(nw, f"BatchRenorm{rank}d")(size)
    if dim == 2:
        yield WithActivation(size)
        yield Frozen(size)


FORMS = [
    {},
    {"bias": False},
    {"groups": 2, "stride": 2, "padding": 1},
    {"groups": 8, "dilation": 2},
    {"transposed": True},
    {"transposed": True, "groups": 2, "stride": 2, "output_padding": 1, "bias": False},
    {"transposed": True, "groups": 8},
    {"padding": "same", "padding_mode": "circular"},
]
CASES = [
    (dim, form, i)
    for dim in SHAPES
    for f, form in enumerate(FORMS if dim else FORMS[:2])
    for i in range(len(list(norms(dim))))
    if f == 0 or i in (0, 5)  # every norm with one form of layer, every form with two norms
    if not (dim == 3 and form.get("dilation"))
]


@pytest.mark.parametrize(("dim", "form", "i"), CASES)
def test_a_norm_goes_into_the_layer_before_it(dim, form, i):
    torch.manual_seed(0)
    norm = used(list(norms(dim))[i])
    model = nn.Sequential(layer_of(dim, **form), norm, nn.Tanh()).double().eval()
    x = x_of(dim)
    folded = nw.fold(model, x)
    torch.testing.assert_close(folded(x), model(x))
    assert [site.kind for site in nw.find(folded) if site.kind != "none"] == []
    (change,) = nw.receipt(folded).changes
    assert change.after == f"folded into 0, {type(model[0]).__name__}"
    back = nw.undo(folded)
    assert torch.equal(back(x), model(x))
    assert type(back[1]) is type(norm)


AFTER = [
    *((dim, {"padding_mode": mode, "padding": 1}) for dim in (1, 2) for mode in ("reflect",)),
    *((dim, {"padding_mode": "circular", "padding": 2}) for dim in (1, 2, 3)),
    *((dim, {"groups": groups}) for dim in (1, 2) for groups in (1, 2, 8)),
    *((dim, {"bias": False, "stride": 2}) for dim in (1, 2, 3)),
    (0, {}),
    (0, {"bias": False}),
]


@pytest.mark.parametrize(("dim", "form"), AFTER)
def test_a_norm_goes_into_the_layer_after_it(dim, form):
    torch.manual_seed(0)
    norm = used(getattr(nn, f"BatchNorm{max(dim, 1)}d")(8))
    model = nn.Sequential(nn.Tanh(), norm, layer_of(dim, outputs=16, **form)).double().eval()
    x = x_of(dim)
    folded = nw.fold(model, x)
    torch.testing.assert_close(folded(x), model(x))
    assert type(folded[1]) is nn.Identity


@pytest.mark.parametrize("transposed", [False, True])
def test_zeros_around_a_signal_are_no_obstacle_where_nothing_is_shifted(transposed):
    norm = used(nn.BatchNorm1d(8))
    norm.running_mean.zero_()
    norm.bias.data.zero_()
    after = layer_of(1, transposed=transposed, padding=1, groups=2)
    model = nn.Sequential(nn.Tanh(), norm, after).double().eval()
    torch.testing.assert_close(nw.fold(model)(x_of(1)), model(x_of(1)))


def test_norms_on_both_sides_of_a_layer_go_into_it():
    torch.manual_seed(0)
    model = nn.Sequential(
        used(nn.BatchNorm1d(8)), layer_of(1), used(nn.BatchNorm1d(8)), nn.ReLU(), layer_of(1)
    )
    model = model.double().eval()
    folded = nw.fold(model)
    assert len(nw.receipt(folded).changes) == 2
    torch.testing.assert_close(folded(x_of(1)), model(x_of(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_lower_precision(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(layer_of(1), used(nn.BatchNorm1d(8))).to(dtype).eval()
    x = x_of(1, dtype)
    folded = nw.fold(model, x)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(folded(x), model(x), rtol=tolerance, atol=tolerance)
    assert folded[0].bias.dtype == dtype


def test_the_model_that_is_given_stays_unless_in_place():
    model = nn.Sequential(layer_of(1, bias=False), used(nn.BatchNorm1d(8))).double().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    y = model(x_of(1))
    nw.fold(model, x_of(1))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert nw.fold(model, x_of(1), inplace=True) is model
    torch.testing.assert_close(model(x_of(1)), y)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    torch.testing.assert_close(nw.undo(model, inplace=True)(x_of(1)), y)


def test_padding_is_still_masked():
    model = nn.Sequential(
        layer_of(1, padding=1),
        used(nw.BatchNorm1d(8, activation="silu")),
        layer_of(1, padding=1),
        used(nw.BatchNorm1d(8)),
    )
    model = model.double().eval()
    folded = nw.fold(model)
    with nw.padding([9, 4, 1]):
        wanted, y = model(x_of(1)), folded(x_of(1))
    torch.testing.assert_close(y, wanted)
    assert not y[2, :, 1:].any()


# -- what is refused ------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, forward, *, weight=None, **modules):
        super().__init__()
        self.conv, self.norm, self.last = layer_of(1), used(nn.BatchNorm1d(8)), layer_of(1)
        for name, module in modules.items():
            setattr(self, name, module)
        if weight:
            self.last.weight = self.conv.weight
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def plain(net, x):
    return net.norm(net.conv(x))


def hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


class Absolute(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x).abs()


ALONE = "no convolution or linear layer is alone beside it"
REFUSED = [
    (lambda: Net(plain).train(), "it is in training, where its statistics change; "),
    (lambda: Net(lambda n, x: n.norm(n.conv(x)) + n.conv(x)), "conv: it is called more than once"),
    (
        lambda: Net(lambda n, x: [n.norm(y := n.conv(x)), y][0] * y),
        ALONE,
    ),
    (lambda: Net(lambda n, x: n.norm(n.norm(n.conv(x)))), "it is called more than once, or with"),
    (lambda: Net(lambda n, x: n.norm(n.conv(x)) if x.sum() > 0 else x), "the code that calls it"),
    (lambda: Net(lambda n, x: n.norm(n.conv(x).relu())), ALONE),
    (lambda: Net(lambda n, x: n.last(n.norm(x.relu()) * 2)), ALONE),
    (
        lambda: Net(lambda n, x: n.last(n.norm(n.conv(x)[..., :7])), weight=True),
        "last: another layer has its weight, too",
    ),
    (lambda: Net(plain, conv=hooked(layer_of(1))), "conv: it has hooks, which would see other"),
    (lambda: Net(plain, norm=hooked(nn.BatchNorm1d(8))), "it has hooks, which would no longer"),
    (lambda: Net(plain, norm=nn.GroupNorm(2, 8)), "what it does depends on its input: group"),
    (
        lambda: Net(plain, norm=nn.BatchNorm1d(8, track_running_stats=False)),
        "it has no running statistics, and uses the batch's own",
    ),
    (lambda: Net(plain, norm=Absolute(8)), "it does more in evaluation than to scale and shift"),
    (
        lambda: Net(plain, conv=nn.utils.parametrizations.weight_norm(layer_of(1))),
        "conv: its weight is parametrized; ",
    ),
    (
        lambda: Net(plain, conv=nn.Linear(9, 9)),
        "conv: it has 9 channels, and the norm 8",
    ),
    (
        lambda: Net(plain, conv=nn.Linear(8, 8)),
        "conv: whether it sees (N, C) cannot be told; give a sample",
    ),
    (
        lambda: Net(lambda n, x: n.last(n.norm(x.relu())), last=layer_of(1, padding=1)),
        "last: it pads with zeros, which the norm's shift does not reach",
    ),
    (
        lambda: Net(lambda n, x: n.last(n.norm(x.relu())), last=layer_of(1, transposed=True)),
        "last: a transposed convolution adds up a shift unevenly",
    ),
    (
        lambda: Net(lambda n, x: n.last(n.norm(x.relu())), norm=used(nw.BatchNorm1d(8))),
        "last: masked positions are zeros, which the norm's shift does not reach",
    ),
    (
        lambda: Net(
            lambda n, x: n.last(n.norm(x.relu())), norm=nw.BatchNorm1d(8, activation="relu")
        ),
        "last: the norm's activation comes before it",
    ),
]


@pytest.mark.parametrize(("build", "reason"), REFUSED)
def test_where_it_would_be_wrong_the_norm_stays(build, reason):
    model = build()
    if "training" not in reason:
        model.eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(nw.NormError) as caught:
        nw.fold(model)
    assert str(caught.value).startswith(f"nothing to fold: norm: {reason}")
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_linear_layer_that_sees_a_sequence_is_not_what_the_norm_counts():
    model = nn.Sequential(nn.Linear(8, 8), used(nn.BatchNorm1d(8))).eval()
    with pytest.raises(nw.NormError, match="0: it sees 3 dimensions, and the norm's channels are"):
        nw.fold(model, torch.randn(2, 8, 8))
    assert nw.receipt(nw.fold(model, torch.randn(2, 8))).changes


def test_without_a_norm_there_is_nothing_to_fold():
    with pytest.raises(nw.NormError, match="Sequential has no normalization layer to fold"):
        nw.fold(nn.Sequential(nn.Linear(2, 2)).eval())
    model = nn.Sequential(layer_of(1), nn.BatchNorm1d(8)).eval()
    with pytest.raises(nw.NormError, match=r"where='head\.\*' matches no norm"):
        nw.fold(model, where="head.*")
