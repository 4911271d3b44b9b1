"""Whether padding and the future reach results, and where they first do."""

import pytest
import torch
from torch import nn

import normwise as nw


def x_of(length=12):
    return torch.randn(3, 4, length, generator=torch.Generator().manual_seed(0))


LENGTHS = [12, 7, 3]


class Pooled(nn.Module):
    """The mean over what is real, if it is told."""

    def __init__(self, norm, *, told=True):
        super().__init__()
        self.norm, self.told = norm, told

    def forward(self, x, lengths=None):
        y = self.norm(x).relu()
        if lengths is None or not self.told:
            return y.mean(-1)
        mask = nw.lengths_to_mask(lengths, x.shape[-1])[:, None]
        return torch.where(mask, y, 0).sum(-1) / lengths[:, None]


def stack(norm, **convolution):
    return nn.Sequential(
        nn.Conv1d(4, 6, 3, **{"padding": 1} | convolution),
        norm(6),
        nn.ReLU(),
        nn.Conv1d(6, 6, 3, **{"padding": 1} | convolution),
        norm(6),
    )


TIGHT = [
    stack(nw.BatchNorm1d),
    stack(nw.BatchNorm1d).eval(),
    stack(nw.InstanceNorm1d),
    stack(lambda c: nw.GroupNorm1d(2, c)),
    stack(nw.LayerNorm1d),
    stack(nw.BatchNorm1d, stride=2),
    stack(lambda c: nw.GroupNorm1d(1, c), stride=2),
    nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6)).eval(),
    Pooled(nw.InstanceNorm1d(4)),
]
LEAKING = [
    (stack(nn.BatchNorm1d), "1"),
    (stack(nn.BatchNorm1d).eval(), "3"),  # the convolution sees what the norm shifted
    (stack(nn.InstanceNorm1d), "1"),
    (stack(lambda c: nn.GroupNorm(2, c)), "1"),
    (nn.Sequential(nn.Conv1d(4, 6, 1), nn.Conv1d(6, 6, 3, padding=1)), "1"),
    (Pooled(nw.InstanceNorm1d(4), told=False), "(the model)"),
    (nn.Sequential(nw.InstanceNorm1d(4), nn.AdaptiveAvgPool1d(1)), "1"),
]


@pytest.mark.parametrize("model", TIGHT)
@pytest.mark.parametrize("lengths", [LENGTHS, [11, 8, 4], [9, 6, 1]], ids=str)
def test_what_masks_does_not_leak(model, lengths):
    before = {name: t.clone() for name, t in model.state_dict().items()}
    leak = nw.padding_error(model, x_of(), lengths)
    assert (leak.leaks, leak.first) == (False, None)
    assert float(leak) <= 1e-5
    assert str(leak).startswith("padding changes nothing")
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())


@pytest.mark.parametrize(("model", "first"), LEAKING)
def test_a_leak_is_found_where_it_begins(model, first):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-2, -1)
    leak = nw.padding_error(model, x_of(), torch.tensor(LENGTHS))
    assert (leak.leaks, leak.first) == (True, first)
    assert leak.error > 1e-3
    assert str(leak).endswith(f"first at {first}")


def test_padding_error_refuses_what_does_not_fit():
    model = stack(nw.BatchNorm1d)
    for x, lengths, sentence in (
        (torch.zeros(3), [1], r"padding_error takes x of \(N, …, T\), received \(3,\)"),
        (x_of(), [1, 2], "2 lengths do not fit a batch of 3: one for each series"),
        (x_of(), [13, 1, 1], "a length of 13 does not fit in 12 positions"),
    ):
        with pytest.raises(nw.NormError, match=sentence):
            nw.padding_error(model, x, lengths)


class Ahead(nn.Module):
    """Left padding makes a convolution causal; the norm may spoil it."""

    def __init__(self, norm, stride=1):
        super().__init__()
        self.pad, self.conv = nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(4, 4, 3, stride=stride)
        self.norm = norm

    def forward(self, x):
        return self.norm(self.conv(self.pad(x)))


class Transposed(nn.Module):
    """A recurrent network, which has its time in the middle."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x.mT)[0].mT


CAUSAL = [
    (Ahead(nw.CausalNorm1d(4)), True, None),
    (Ahead(nw.CausalNorm1d(4), stride=3), True, None),
    (Ahead(nw.LayerNorm1d(4)), True, None),
    (Ahead(nn.BatchNorm1d(4)), True, None),
    (Transposed(), True, None),
    (Ahead(nn.InstanceNorm1d(4)), False, "norm"),
    (Ahead(nn.GroupNorm(2, 4)), False, "norm"),
    (stack(nw.LayerNorm1d), False, "0"),
]


@pytest.mark.parametrize(("model", "causal", "first"), CAUSAL, ids=lambda v: type(v).__name__)
def test_what_looks_ahead_is_found(model, causal, first):
    found = nw.is_causal(model, x_of())
    assert (bool(found), found.first) == (causal, first)
    assert str(found).startswith("causal" if causal else f"not causal: {first} looks ahead")


def test_is_causal_refuses_what_has_no_time():
    with pytest.raises(nw.NormError, match="no output's size follows T, so there is nothing"):
        nw.is_causal(nn.Sequential(nn.AdaptiveAvgPool1d(1)), x_of())
    with pytest.raises(nw.NormError, match="with two positions at least"):
        nw.is_causal(stack(nw.LayerNorm1d), x_of(1))
