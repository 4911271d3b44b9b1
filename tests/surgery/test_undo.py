"""What goes along with a norm, how it is taken back, and how an optimizer follows."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from foreign import ChannelsLast, FromOne, RootMeanSquare, WholeSample, WithActivation
from torch import nn

import normwise as nw

CANDIDATES = [
    "same",
    *(
        f"{name}:2" if entry.argument else name
        for name, entry in nw.catalogue().items()
        if not entry.reversible
    ),
]
each_candidate = pytest.mark.parametrize("candidate", CANDIDATES)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 1)
        self.norm = nn.BatchNorm1d(6)
        self.again = nn.Sequential(self.norm, nn.GroupNorm(3, 6))
        self.last = nn.InstanceNorm1d(6, affine=True)
        self.last.weight = self.again[1].weight

    def forward(self, x):
        return self.last(self.again(self.norm(self.conv(x))))


def x_of():
    return torch.randn(4, 4, 9, generator=torch.Generator().manual_seed(0))


def state(model):
    return OrderedDict((name, tensor.clone()) for name, tensor in model.state_dict().items())


def assert_same_bytes(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert tensor.contiguous().numpy().tobytes() == after[name].contiguous().numpy().tobytes()


@each_candidate
@pytest.mark.parametrize("inplace", [False, True])
def test_undo_gives_back_the_bytes(candidate, inplace):
    model = Net()
    model(x_of())
    before, modules = state(model), [(n, type(m)) for n, m in model.named_modules()]
    swapped = nw.swap(model, candidate, inplace=inplace)
    back = nw.undo(swapped, inplace=inplace)
    assert_same_bytes(back, before)
    assert [(n, type(m)) for n, m in back.named_modules()] == modules
    assert back.norm is back.again[0]
    assert back.last.weight is back.again[1].weight
    assert torch.equal(back.eval()(x_of()), copy.deepcopy(back).eval()(x_of()))
    with pytest.raises(nw.NormError, match=r"does not come from nw\.swap"):
        nw.receipt(back)
    if inplace:
        assert back is model


def test_undo_keeps_what_was_learned_since():
    model = nw.swap(Net(), "same")
    with torch.no_grad():
        model.norm.weight.fill_(3)
    model(x_of())
    back = nw.undo(model)
    assert type(back.norm) is nn.BatchNorm1d
    assert torch.equal(back.norm.weight, torch.full((6,), 3.0))
    assert torch.equal(back.norm.running_mean, model.norm.running_mean)
    assert type(model.norm) is nw.BatchNorm1d  # undo, too, leaves what it is given


def test_undo_goes_back_one_by_one_also_after_a_copy_and_a_pickle():
    model = Net()
    before = state(model)
    twice = nw.swap(nw.swap(model, "group:2"), "rms")
    for copied in (copy.deepcopy(twice), pickle.loads(pickle.dumps(twice))):
        once = nw.undo(copied)
        assert nw.receipt(once).candidate == "group:2"
        assert {site.kind for site in nw.find(once)} == {"group"}
        assert_same_bytes(nw.undo(once), before)


@pytest.mark.parametrize(
    "norm", [ChannelsLast(), FromOne(), WholeSample(), WithActivation(), RootMeanSquare()]
)
def test_undo_of_a_foreign_norm(norm):
    model = nn.Sequential(nn.Conv2d(3, 6, 1), norm)
    before = state(model)
    assert_same_bytes(nw.undo(nw.swap(model, "rms")), before)


def test_a_weight_that_counts_from_one_is_carried_as_what_it_means():
    norm = FromOne()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(6.0))
    swapped = nw.swap(nn.Sequential(norm), "rms:eps=1e-6")
    assert torch.equal(swapped[0].weight, torch.arange(6.0) + 1)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(swapped(x), norm(x))


def test_a_lazy_layer_of_torchs_cannot_be_taken_back():
    swapped = nw.swap(nn.Sequential(nn.LazyBatchNorm1d()), "group:2")
    with pytest.raises(nw.NormError) as caught:
        nw.undo(swapped)
    assert str(caught.value).startswith("0 could not be kept when the model was swapped")


def test_undo_of_a_model_that_is_a_norm():
    model = nn.BatchNorm1d(6)
    swapped = nw.swap(model, "group:2")
    assert type(nw.undo(swapped)) is nn.BatchNorm1d
    with pytest.raises(nw.NormError, match="cannot be swapped in place"):
        nw.undo(swapped, inplace=True)


# -- what is asked for beside the norm ------------------------------------------------


GROUPS = [
    (72, 32, 24),
    (6, 4, 3),
    (7, 4, 1),
    (3, 8, 1),
    (16, 32, 8),
    (1, 8, 1),
    (8, 8, 8),
]


@pytest.mark.parametrize(("channels", "asked", "chosen"), GROUPS)
def test_a_number_of_groups_that_does_not_divide_is_chosen_by_rule(channels, asked, chosen):
    model = nn.Sequential(nn.Conv1d(2, channels, 1), nn.BatchNorm1d(channels))
    (change,) = nw.plan(model, f"group:{asked}").changes
    assert nw.swap(model, f"group:{asked}")[1].num_groups == chosen
    note = f"{chosen} groups, since {asked} do not divide {channels} channels"
    assert change.notes == ((note,) if channels % asked else ())
    assert (f"; {note}" in str(change)) is bool(channels % asked)


def test_exact_groups_are_refused_where_they_do_not_divide():
    with pytest.raises(nw.NormError, match="4 groups do not divide 6 channels"):
        nw.plan(Net(), "group:4", groups="exact")
    with pytest.raises(nw.NormError, match="groups='any' is not known; write 'auto' or 'exact'"):
        nw.swap(Net(), "group:4", groups="any")


@pytest.mark.parametrize("candidate", CANDIDATES[1:])
def test_without_carrying_layers_start_anew(candidate):
    model = Net()
    model(x_of())
    with torch.no_grad():
        model.norm.weight.fill_(3)
    model.norm.requires_grad_(False)
    swapped = nw.swap(model, candidate, carry=False)
    if "weight" in dict(swapped.norm.named_parameters()) and candidate != "global-response":
        assert torch.equal(swapped.norm.weight, torch.ones(6))
        assert not swapped.norm.weight.requires_grad
    assert all(change.carried == () for change in nw.receipt(swapped).changes)
    assert torch.equal(model.norm.weight, torch.full((6,), 3.0))


def test_the_same_norm_without_its_weights_is_refused():
    with pytest.raises(nw.NormError, match="is to change no number, so carry=False cannot be"):
        nw.swap(Net(), "same", carry=False)


@pytest.mark.parametrize("candidate", ["same", "group:2", "none"])
@pytest.mark.parametrize("inplace", [False, True])
def test_hooks_go_along(candidate, inplace):
    model, seen = Net(), []
    model.norm.register_forward_pre_hook(lambda m, args: seen.append("before"))
    handle = model.norm.register_forward_hook(
        lambda m, args, kwargs, out: seen.append("after"), with_kwargs=True, always_call=True
    )
    model.norm.register_full_backward_hook(lambda m, i, o: seen.append("backward"))
    swapped = nw.swap(model, candidate, inplace=inplace)
    swapped(x_of().requires_grad_()).sum().backward()
    # the norm is called twice
    assert seen[:4] == ["before", "after"] * 2
    assert seen.count("backward") == 2
    if inplace:
        handle.remove()
        seen.clear()
        swapped(x_of())
        assert seen == ["before"] * 2


class Counts(nn.Module):
    """A hook that is bound to the model itself."""

    def __init__(self):
        super().__init__()
        self.norm, self.calls = nn.BatchNorm1d(4), 0
        self.norm.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def forward(self, x):
        return self.norm(x)


def test_a_hook_that_refers_to_the_model_refers_to_the_copy():
    model = Counts()
    swapped = nw.swap(model, "group:2")
    swapped(x_of())
    assert (model.calls, swapped.calls) == (0, 1)


def test_a_lazy_norms_own_hooks_stay_behind():
    model = nn.Sequential(nn.LazyBatchNorm1d())
    model[0].register_forward_hook(lambda *_: None)
    swapped = nw.swap(model, "group:2")
    swapped(x_of())
    assert len(swapped[0]._forward_hooks) == 1
    assert len(swapped[0]._forward_pre_hooks) == 0


# -- the optimizer ---------------------------------------------------------------------


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.AdamW(p, lr=0.1),
]


@each_candidate
@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("inplace", [False, True])
def test_an_optimizer_follows(candidate, make, inplace):
    model = Net()
    norms = {*model.norm.parameters(), *model.again.parameters(), *model.last.parameters()}
    rest = [p for p in model.parameters() if p not in norms]
    groups = [{"params": rest}, {"params": [p for p in model.parameters() if p in norms]}]
    groups[1]["weight_decay"] = 0.0
    optimizer = make(groups)
    model(x_of()).square().sum().backward()
    optimizer.step()
    kept = optimizer.state[model.conv.weight]

    swapped = nw.swap(model, candidate, inplace=inplace)
    assert nw.update_optimizer(optimizer, nw.receipt(swapped)) is optimizer
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in swapped.parameters()}
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {
        id(p) for p in swapped.conv.parameters()
    }
    assert optimizer.state[swapped.conv.weight] is kept
    assert {id(p) for p in optimizer.state} <= {id(p) for p in held}

    before = state(swapped)
    optimizer.zero_grad()
    swapped(x_of()).square().sum().backward()
    optimizer.step()
    changed = [n for n, p in swapped.named_parameters() if not torch.equal(p, before[n])]
    assert {"conv.weight"} <= set(changed)


def test_what_was_carried_keeps_its_momentum():
    model = Net()
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    model(x_of()).square().sum().backward()
    optimizer.step()
    momentum = optimizer.state[model.norm.weight]["momentum_buffer"].clone()
    swapped = nw.swap(model, "rms")
    nw.update_optimizer(optimizer, nw.receipt(swapped))
    assert torch.equal(optimizer.state[swapped.norm.weight]["momentum_buffer"], momentum)
    assert optimizer.param_groups[0]["param_names"] == [n for n, _ in swapped.named_parameters()]


def test_an_optimizer_that_knows_nothing_of_the_model_is_refused_as_it_was():
    swapped = nw.swap(Net(), "group:2")
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(nw.NormError, match="the optimizer has none of the parameters"):
        nw.update_optimizer(optimizer, nw.receipt(swapped))
    for receipt in (nw.plan(Net(), "rms"), nw.receipt(copy.deepcopy(swapped))):
        with pytest.raises(nw.NormError, match="this receipt does not know the parameters"):
            nw.update_optimizer(optimizer, receipt)
    assert optimizer.state_dict() == before
