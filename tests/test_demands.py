"""What a norm demands: what its rows say is what its layer does."""

import pytest
import torch

import normwise as nw
from normwise.axes import SCHEMES, Scheme, parse
from normwise.demands import Demands, Passes, demands

ENTRIES = nw.catalogue().values()
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)

# By the shape of x: one element of the output, and where else in x its gradient may be found.
SHAPE = (4, 8, 6)
ELEMENT = n, c, t = 1, 3, 2
REACHES = {
    "element": ELEMENT,
    "position": (n, slice(None), t),
    "past": (n, slice(None), slice(t + 1)),
    "sample": n,
    "batch": slice(None),
}


def outside(reach):
    """Where in x an element of the output does not reach."""
    beyond = torch.ones(SHAPE, dtype=torch.bool)
    beyond[REACHES[reach]] = False
    return beyond


def seen(layer):
    """Where in x one element of the output changes with it."""
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    result = layer(x)
    y = result[0] if isinstance(result, tuple) else result  # a reversible norm's statistics, too
    (gradient,) = torch.autograd.grad(y[ELEMENT], x)
    return gradient != 0


@each_entry
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_a_result_depends_on_what_is_said_and_on_no_more(entry, training):
    candidate = f"{entry.name}:2" if entry.argument else entry.name
    layer = nw.make(candidate, SHAPE[1]).double().train(training)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.5)  # where a weight starts at 0, nothing would be seen
    reach = entry.demands.trains_on if training else entry.demands.infers_from
    found = seen(layer)
    assert found[ELEMENT]
    assert not found[outside(reach)].any(), "it depends on more"
    for nearer in list(REACHES)[: list(REACHES).index(reach)]:
        assert found[outside(nearer)].any(), f"it depends on its {nearer} alone"


def test_passes_are_those_that_the_kernels_aim_at():
    """In units of a copy, which is one read and one write."""

    def copies(passes):
        return sum(passes) / 2

    batch, others = (demands([SCHEMES[name]]) for name in ("batch", "instance"))
    assert (copies(others.forward), copies(others.backward)) == (1, 1.5)
    assert (copies(batch.forward), copies(batch.backward)) == (1.5, 2.5)
    assert copies(batch.inference) == copies(others.inference) == 1
    assert batch.training == Passes(6, 2)


ONE, TWO = (Passes(1, 1), Passes(1, 1), Passes(2, 1)), (Passes(1, 1), Passes(2, 1), Passes(4, 1))
CUSTOM = [
    # rows of the table → passes, reach in inference, reach in training, what is kept
    (["instance"], Demands(*ONE, "sample", "sample", ("2 per sample, channel",))),
    (["rms"], Demands(*ONE, "position", "position", ("1 per sample, position",))),
    (["ghost"], Demands(*TWO, "element", "batch", ("2 per batch part, channel",))),
    (["[n] c t"], Demands(Passes(2, 1), *TWO[1:], "batch", "batch", ("2 per channel, position",))),
    (["n (g [c]) t"], Demands(*ONE, "position", "position", ("2 per sample, group, position",))),
    (["n [t c]"], Demands(*ONE, "sample", "sample", ("2 per sample",))),
    (
        ["instance", "batch"],
        Demands(*TWO, "sample", "batch", ("2 per sample, channel", "2 per channel")),
    ),
    ([], Demands(*ONE, "element", "element", ())),
]


@pytest.mark.parametrize(("rows", "expected"), CUSTOM)
def test_demands_are_read_off_the_rows(rows, expected):
    assert demands([SCHEMES.get(row) or Scheme(parse(row)) for row in rows]) == expected


def test_nothing_demands_nothing():
    assert demands(None).training == demands(None).inference == (0, 0)
