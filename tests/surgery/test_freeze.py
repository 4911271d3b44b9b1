"""Statistics that stay, weights that stay, and their way back; statistics that are shared."""

import copy
import pickle

import pytest
import torch
from foreign import Frozen, WithActivation
from torch import nn

import normwise as nw


def x_of(offset=0.0):
    return offset + torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(0))


REMEMBERING = [
    nn.BatchNorm1d(6),
    nn.SyncBatchNorm(6),
    nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
    nw.BatchNorm1d(6, activation="relu"),
    nw.BatchRenorm1d(6),
    nw.GhostBatchNorm1d(2, 6),
    nw.SwitchableNorm1d(6),
    nw.EvoNormB01d(6),
    nw.Norm("[n] c [t]", c=6, running=nw.Running()),
]
each_norm = pytest.mark.parametrize("norm", REMEMBERING, ids=lambda n: type(n).__name__)


def trained(norm):
    model = nn.Sequential(nn.Conv1d(6, 6, 1), copy.deepcopy(norm))
    for _ in range(3):
        model(x_of(1.0))
    return model, x_of()


def statistics(model):
    return {n: t.clone() for n, t in model.state_dict().items() if "running" in n or "num_b" in n}


@each_norm
@pytest.mark.parametrize("inplace", [False, True])
def test_frozen_statistics_survive_training(norm, inplace):
    model, x = trained(norm)
    wanted = copy.deepcopy(model).eval()(x)
    before = statistics(model)
    frozen = nw.freeze(model, inplace=inplace)
    assert (frozen is model) is inplace
    for each in (frozen, copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        y = each.eval().train().train(True)(x)
        torch.testing.assert_close(y, wanted)
        after = statistics(each)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
    site = nw.find(frozen)[-1]
    assert site.state == "frozen"
    assert all(p.requires_grad for p in frozen.parameters())
    assert "frozen" in str(nw.receipt(frozen))
    assert "frozen=True" in repr(site.module) or isinstance(norm, nw.Norm)


@each_norm
def test_what_is_unfrozen_learns_again(norm):
    model, x = trained(norm)
    again = nw.unfreeze(nw.freeze(model, affine=True))
    before = statistics(again)
    again(x + 1)
    after = statistics(again)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all(p.requires_grad for p in again.parameters())
    assert nw.find(again)[-1].state == "training"
    assert nw.find(nw.unfreeze(nw.freeze(model).eval()))[-1].state == "evaluation"


def test_weights_are_frozen_where_that_is_wished():
    model = nn.Sequential(
        nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6), nn.GroupNorm(2, 6), nn.LayerNorm(9)
    )
    model[2].bias.requires_grad_(False)
    frozen = nw.freeze(model, affine=True)
    assert [n for n, p in frozen.named_parameters() if p.requires_grad] == ["0.weight", "0.bias"]
    assert all(p.requires_grad for n, p in model.named_parameters() if n != "2.bias")
    again = nw.unfreeze(frozen)
    assert [n for n, p in again.named_parameters() if not p.requires_grad] == ["2.bias"]
    back = nw.undo(frozen)
    assert [type(m) for m in back] == [type(m) for m in model]
    assert [p.requires_grad for p in back.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    assert back[1].training


@pytest.mark.parametrize("norm", [nw.FrozenBatchNorm2d(6), Frozen()])
def test_a_frozen_batch_norm_becomes_one_that_learns(norm):
    for buffer in norm.buffers():
        buffer.data.uniform_(0.5, 1.5)
    x = x_of()[..., None]
    model = nn.Sequential(norm)
    again = nw.unfreeze(model)
    assert type(again[0]) is nw.BatchNorm2d
    torch.testing.assert_close(again.eval()(x), norm(x))
    assert [n for n, _ in again.named_parameters()] == ["0.weight", "0.bias"]


REFUSED = [
    (nw.freeze, nn.Sequential(nn.Linear(2, 2)), "Sequential has no normalization layer to freeze"),
    (
        *(nw.freeze, nn.Sequential(nn.LayerNorm(2))),
        "nothing to freeze: 0: it remembers nothing that could be frozen; the model's norms are 0",
    ),
    (
        *(nw.freeze, nn.Sequential(nw.FrozenBatchNorm1d(2))),
        "nothing to freeze: 0: it is frozen already",
    ),
    (nw.unfreeze, nn.Sequential(nn.BatchNorm1d(2)), "nothing to unfreeze: 0: it is not frozen"),
    (nw.sync, nn.Sequential(nn.LayerNorm(2)), "nothing to sync: 0: it is no batch norm: layer"),
    (
        *(nw.sync, nn.Sequential(nw.FrozenBatchNorm1d(2))),
        "nothing to sync: 0: it is frozen; the model's norms are 0",
    ),
    (
        *(nw.sync, nn.Sequential(nw.SyncBatchNorm(2))),
        "nothing to sync: 0: it is a SyncBatchNorm already",
    ),
    (
        lambda m: nw.freeze(m, "encoder.*"),
        nn.Sequential(nn.BatchNorm1d(2)),
        "nothing to freeze: where='encoder.*' matches no norm; the model's norms are 0",
    ),
]


@pytest.mark.parametrize(("call", "model", "sentence"), REFUSED)
def test_what_cannot_be_is_refused(call, model, sentence):
    with pytest.raises(nw.NormError) as caught:
        call(model)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nw.BatchNorm2d(6), WithActivation(6)])
@pytest.mark.parametrize("inplace", [False, True])
def test_batch_norms_share_their_statistics(norm, inplace):
    model = nn.Sequential(nn.Conv2d(6, 6, 1), copy.deepcopy(norm)).eval()
    model[1].running_mean.uniform_()
    x = x_of()[..., None]
    wanted = model(x)
    weight = model[1].weight
    group = Unpicklable()
    synced = nw.sync(model, process_group=group, inplace=inplace)
    (site,) = nw.find(synced)
    assert type(site.module) is nw.SyncBatchNorm
    assert site.module.process_group is group
    assert (site.module.weight is weight) is inplace
    torch.testing.assert_close(synced(x), wanted)
    assert type(nw.undo(synced)[1]) is type(norm)


class Unpicklable:
    """As a process group is."""

    def __reduce__(self):
        raise TypeError("cannot pickle")
