import inspect

import pytest
import torch

import normwise as nw
from normwise.axes import parse
from normwise.catalogue import parse_candidate

ENTRIES = list(nw.catalogue().values())
MADE = [(entry, dim) for entry in ENTRIES for dim in entry.layers]
SHAPES = {0: (4, 5, 8), 1: (4, 8, 5), 2: (4, 8, 2, 3), 3: (4, 8, 2, 2, 3)}

each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
each_made = pytest.mark.parametrize(
    ("entry", "dim"), MADE, ids=[f"{entry.name}-{dim}" for entry, dim in MADE]
)

READ = [
    # candidate, class, attributes that differ from the class's defaults
    ("batch", nw.BatchNorm1d, {}),
    ("  batch ", nw.BatchNorm1d, {}),
    ("batch:", nw.BatchNorm1d, {}),
    ("batch:momentum=0.01", nw.BatchNorm1d, {"momentum": 0.01}),
    ("batch:momentum=none", nw.BatchNorm1d, {"momentum": None}),
    ("batch:affine=False,eps=1e-3", nw.BatchNorm1d, {"affine": False, "eps": 1e-3}),
    ("batch: momentum = 0.5 , eps = 0.1", nw.BatchNorm1d, {"momentum": 0.5, "eps": 0.1}),
    ("instance", nw.InstanceNorm1d, {"affine": True}),
    ("instance:affine=false", nw.InstanceNorm1d, {"affine": False}),
    ("group:2", nw.GroupNorm1d, {"num_groups": 2}),
    ("group:num_groups=4", nw.GroupNorm1d, {"num_groups": 4}),
    ("group:2,eps=1e-3", nw.GroupNorm1d, {"num_groups": 2, "eps": 1e-3}),
    ("layer:bias=False", nw.LayerNorm1d, {"bias": None}),
    ("tanh:alpha=0.8", nw.DynamicTanh, {"initial_alpha": 0.8}),
    ("none", nw.Identity, {"num_features": 8}),
]

KNOWN = "momentum, affine, track_running_stats, bias, on_nonfinite"
WRONG = [
    ("grup:8", "candidate 'grup:8' is not known; did you mean 'group:8'? Known are none, batch, "),
    ("batchnorm", "candidate 'batchnorm' is not known; did you mean 'batch'? Known are none, "),
    ("xyz", "candidate 'xyz' is not known. Known are none, batch, "),
    ("", "candidate '' is not known. Known are none, batch, "),
    ("group", "candidate 'group' needs num_groups: write group:8"),
    ("group:eps=1e-3", "candidate 'group:eps=1e-3' needs num_groups: write group:8"),
    (
        "batch:8",
        "candidate 'batch:8': '8' needs a name before it, as in batch:eps=1e-3; "
        "batch takes no bare value",
    ),
    (
        "group:2,4",
        "candidate 'group:2,4': '4' needs a name before it, as in group:8,eps=1e-3; "
        "group takes one bare value",
    ),
    ("group:2,num_groups=4", "candidate 'group:2,num_groups=4' gives num_groups twice"),
    ("batch:eps=1,eps=2", "candidate 'batch:eps=1,eps=2' gives eps twice"),
    *(
        (
            f"batch:{name}=3",
            f"candidate 'batch:{name}=3': batch has no argument {name!r}; it has eps, {KNOWN}",
        )
        for name in ("speed", "num_features", "device", "dtype")
    ),
    ("none:depth=3", "candidate 'none:depth=3': none has no argument 'depth'; it has none"),
    ("group:3", "3 groups do not divide 8 channels; these do: 1, 2, 4, 8"),
    ("group:many", "num_groups must be a whole number above 0, received 'many'"),
    ("batch:momentum=2", "Running(momentum=2): must lie between 0 and 1"),
]


def normalized(entry, layer, *inputs):
    """The result alone, where a layer returns what it takes to go back, too."""
    return layer(*inputs)[0] if entry.reversible else layer(*inputs)


@each_made
def test_each_makes_a_layer_of_its_rank(entry, dim):
    candidate = f"{entry.name}:2" if entry.argument else entry.name
    layer = nw.make(candidate, SHAPES[dim][1 if dim else -1], dim)
    x = torch.randn(SHAPES[dim], generator=torch.Generator().manual_seed(0))
    mask = torch.ones(x.shape[0], *[1] * (x.dim() - 2), dtype=torch.bool)
    assert normalized(entry, layer, x).shape == x.shape
    assert normalized(entry, layer, x, mask).shape == x.shape


@each_made
def test_each_is_lazy_without_a_size(entry, dim):
    candidate = f"{entry.name}:2" if entry.argument else entry.name
    lazy = nw.make(candidate, dim=dim)
    sized = nw.make(candidate, SHAPES[dim][1 if dim else -1], dim)
    x = torch.randn(SHAPES[dim], generator=torch.Generator().manual_seed(0))
    assert torch.equal(normalized(entry, lazy, x), normalized(entry, sized, x))
    assert type(lazy) is type(sized)


@each_entry
def test_each_says_when_and_by_whom(entry):
    assert entry.when.endswith(".")
    assert entry.source
    assert nw.catalogue()[entry.name] is entry
    assert entry.usage.split(":")[0] == entry.name
    for pattern in filter(None, entry.averages.split(" + ")):
        assert str(parse(pattern)) == pattern
    if entry.argument:
        for build in entry.layers.values():
            assert next(iter(inspect.signature(build).parameters)) == entry.argument


@pytest.mark.parametrize(("candidate", "layer", "attributes"), READ)
def test_a_candidate_is_read(candidate, layer, attributes):
    made = nw.make(candidate, 8)
    assert type(made) is layer
    for name, value in attributes.items():
        assert getattr(made, name) == value, name


@pytest.mark.parametrize(("candidate", "sentence"), WRONG)
def test_a_wrong_candidate_is_refused(candidate, sentence):
    with pytest.raises(nw.NormError) as caught:
        nw.make(candidate, 8)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value) == sentence or sentence.endswith(", ")  # the list of what is known


def test_the_list_of_what_is_known_is_how_each_is_written():
    with pytest.raises(nw.NormError) as caught:
        parse_candidate("?")
    known = str(caught.value).split("Known are ")[1]
    assert known.split(", ") == [entry.usage for entry in ENTRIES]


def test_a_rank_without_a_layer_is_refused():
    with pytest.raises(nw.NormError) as caught:
        nw.make("batch", 8, dim=0)
    assert str(caught.value) == "'batch' has no layer for dim=0; it has 1, 2, 3"


def test_the_text_of_a_candidate_is_kept():
    assert parse_candidate(" group:2 ").text == "group:2"
