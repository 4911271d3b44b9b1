"""Layers that learn how many features they have."""

import copy
import pickle

import pytest
import torch
from conformance import assert_same_state, each_lazy

import normwise as nw

LAZY_WAYS = {
    "without the size": lambda case, **kw: case.make_unsized(case.layer, **kw),
    "lazy class": lambda case, **kw: case.make_unsized(case.lazy, **kw),
    "lazy class with the size": lambda case, **kw: case.lazy(
        *case.arguments, **{**case.defaults, **case.keywords, **kw}
    ),
}
in_every_lazy_way = pytest.mark.parametrize("way", LAZY_WAYS.values(), ids=LAZY_WAYS)
unsized = pytest.mark.parametrize("way", list(LAZY_WAYS.values())[:2], ids=list(LAZY_WAYS)[:2])
COPIES = {
    "itself": lambda layer: layer,
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
}


@each_lazy
@in_every_lazy_way
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_lazy_is_sized_after_the_first_input(case, way, copied):
    lazy = copied(way(case))
    sized = case.layer(*case.arguments, **case.keywords)
    for seed in range(2):
        x = case.x(seed=seed)
        assert torch.equal(lazy(x), sized(x))
        assert type(lazy) is case.layer
        assert_same_state(lazy, sized)
        assert repr(lazy) == repr(sized)
        assert not lazy._forward_pre_hooks


@each_lazy
@unsized
def test_lazy_takes_its_size_from_a_state_dict(case, way):
    lazy, sized = way(case), case.make()
    lazy.load_state_dict(sized.state_dict())
    assert_same_state(lazy, sized)
    assert torch.equal(lazy.eval()(case.x()), sized.eval()(case.x()))
    assert_same_state(lazy, sized)


@each_lazy
@unsized
def test_lazy_keeps_the_dtype_it_was_moved_to(case, way):
    made, moved_later = way(case, dtype=torch.float64), way(case).double()
    for lazy in (made.eval(), moved_later.eval()):
        lazy(case.x(torch.float64))
        assert_same_state(lazy, case.layer(*case.arguments, **case.keywords, dtype=torch.float64))


@each_lazy
@unsized
def test_lazy_stays_lazy_if_its_first_input_is_refused(case, way):
    lazy, x = way(case), case.x()
    for wrong in (x.long(), torch.tensor(1.0)):
        with pytest.raises(nw.NormError):
            lazy(wrong)
        assert type(lazy) is case.lazy
        assert repr(lazy) == repr(way(case))
    lazy.eval()(x)
    assert_same_state(lazy, case.layer(*case.arguments, **case.keywords))


def refused_calls(case):
    """A good x in calls that are refused for something else."""
    x = case.x()
    plain = list(case.mask().shape)
    yield x, torch.ones(*plain[:-1], plain[-1] + 1, dtype=torch.bool)
    yield x, torch.ones(plain)
    one = x[tuple(slice(None if i in case.features else 1) for i in range(x.dim()))]
    if case.is_refused(one):
        yield one, None


def values(layer):
    """What a state dict holds; None for a parameter that waits for its size."""
    state = layer.state_dict()
    return {n: None if torch.nn.parameter.is_lazy(t) else t.tolist() for n, t in state.items()}


@each_lazy
@unsized
def test_lazy_stays_lazy_if_its_first_call_is_refused(case, way):
    called_by_hook = []
    lazy, untouched = way(case), way(case)
    lazy.register_forward_pre_hook(lambda *_: called_by_hook.append(1))
    for x, mask in refused_calls(case):
        with pytest.raises(nw.NormError):
            lazy(x, mask)
        assert type(lazy) is case.lazy
        assert not lazy.is_sized
        assert repr(lazy) == repr(untouched)
        assert values(lazy) == values(untouched)
    assert not called_by_hook
    lazy(case.x())
    sized = case.layer(*case.arguments, **case.keywords)
    sized(case.x())
    assert_same_state(lazy, sized)
    assert called_by_hook == [1]


@each_lazy
@unsized
def test_lazy_starts_with_a_mask(case, way):
    lazy, sized = way(case), case.layer(*case.arguments, **case.keywords)
    assert torch.equal(lazy(case.x(), mask=case.mask()), sized(case.x(), case.mask()))
