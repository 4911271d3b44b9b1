import copy
import hashlib
import pickle

import pytest
import torch
from torch import nn

import normwise as nw
from normwise.catalogue import parse_candidate

CANDIDATES = [
    f"{name}:2" if entry.argument else name
    for name, entry in nw.catalogue().items()
    if not entry.reversible
]  # every model here has even channel counts
SHAPES = {1: (4, 4, 9), 2: (4, 4, 6, 5), 3: (4, 4, 4, 3, 3)}

each_candidate = pytest.mark.parametrize("candidate", CANDIDATES)
each_dim = pytest.mark.parametrize("dim", SHAPES)


class Tree(nn.Module):
    """Norms in every place that a model has for them."""

    def __init__(self, dim=1):
        super().__init__()
        convolution, norm = getattr(nn, f"Conv{dim}d"), getattr(nn, f"BatchNorm{dim}d")
        instance = getattr(nn, f"InstanceNorm{dim}d")
        self.stem = nn.Sequential(convolution(4, 6, 1), norm(6), nn.ReLU())
        self.branches = nn.ModuleDict({"a": norm(6), "b": nn.Sequential(instance(6))})
        self.layers = nn.ModuleList([nn.GroupNorm(3, 6)])
        self.shared = norm(6)
        self.shared_again = nn.Sequential(self.shared)
        self.lazy = getattr(nn, f"LazyBatchNorm{dim}d")()
        self.tied, self.tied_too = (
            convolution(6, 6, 1, bias=False),
            convolution(6, 6, 1, bias=False),
        )
        self.tied_too.weight = self.tied.weight
        self.kept = [self.shared]  # a reference that is no submodule

    def forward(self, x):
        x = self.stem(x)
        x = self.branches["a"](x) + self.branches["b"](x)
        x = self.shared(self.layers[0](x)) + self.shared_again(x)
        return self.tied_too(self.tied(self.lazy(x)))


PATHS = [
    ("stem.1",),
    ("branches.a",),
    ("branches.b.0",),
    ("layers.0",),
    ("shared", "shared_again.0"),
    ("lazy",),
]


def x_of(dim, dtype=torch.float32):
    return torch.randn(SHAPES[dim], generator=torch.Generator().manual_seed(0)).to(dtype)


def fingerprint(model):
    """All that a swap must leave alone: classes, modes, flags and every byte."""
    digest = hashlib.sha256()
    for path, module in model.named_modules(remove_duplicate=False):
        digest.update(f"{path} {type(module)} {id(module)} {module.training}".encode())
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in tensors:
            digest.update(f"{name} {tensor.requires_grad} {id(tensor)}".encode())
            if not nn.parameter.is_lazy(tensor):
                digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()


def norms(model):
    return [site.module for site in nw.find(model)]


@each_dim
def test_find_names_every_norm_once(dim):
    sites = nw.find(Tree(dim))
    assert [site.paths for site in sites] == PATHS
    assert [site.kind for site in sites] == [
        "batch",
        "batch",
        "instance",
        "group",
        "batch",
        "batch",
    ]
    assert [site.num_features for site in sites] == [6, 6, 6, 6, 6, None]
    assert [site.dim for site in sites] == [dim, dim, dim, None, dim, dim]
    assert nw.find(nn.Linear(2, 2)) == []


@pytest.mark.parametrize(
    ("candidate", "dim"),
    [(c, dim) for c in CANDIDATES for dim in SHAPES if dim in parse_candidate(c).entry.layers],
)
def test_every_candidate_goes_everywhere_and_the_original_stays(candidate, dim):
    model = Tree(dim)
    before = fingerprint(model)
    plan = nw.plan(model, candidate)
    swapped = nw.swap(model, candidate)
    assert fingerprint(model) == before
    assert not hasattr(model, "_normwise_receipt")
    assert nw.receipt(swapped) == plan

    assert [change.paths for change in plan.changes] == PATHS
    made = nw.make(candidate, 6, dim)
    for change, module in zip(plan.changes, norms(swapped), strict=True):
        assert swapped.get_submodule(change.paths[0]) is module
        assert type(module) is type(made) or isinstance(module, nw.layers.Lazy)
    assert swapped.shared is swapped.shared_again[0] is swapped.kept[0]
    assert swapped.tied.weight is swapped.tied_too.weight
    assert swapped.tied.weight is not model.tied.weight
    swapped(x_of(dim)).sum().backward()
    assert swapped.stem[0].weight.grad is not None
    assert fingerprint(model) == before


@each_candidate
def test_in_place_is_the_same_swap(candidate):
    torch.manual_seed(0)
    model = Tree()
    copied = nw.swap(model, candidate)
    assert nw.swap(model, candidate, inplace=True) is model
    assert nw.receipt(model) == nw.receipt(copied)
    assert model.shared is model.shared_again[0]
    assert torch.equal(model(x_of(1)), copied(x_of(1)))


@each_candidate
@pytest.mark.parametrize("first", CANDIDATES)
def test_swapping_twice_leaves_no_trace_of_the_first(first, candidate):
    once, twice = nw.swap(Tree(), candidate), nw.swap(nw.swap(Tree(), first), candidate)
    assert [(n, type(m)) for n, m in twice.named_modules()] == [
        (n, type(m)) for n, m in once.named_modules()
    ]
    assert nw.receipt(twice).candidate == candidate


def test_swapping_to_the_norm_that_is_there_changes_no_result():
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.GroupNorm(2, 6), nn.ReLU())
    model(x_of(1))
    with torch.no_grad():
        model[2].weight.uniform_()
    model.eval()
    batch, group = nw.swap(model, "batch", "1"), nw.swap(model, "group:2", "2")
    for swapped in (batch, group):
        torch.testing.assert_close(swapped(x_of(1)), model(x_of(1)))
    assert nw.receipt(batch).changes[0].carried == (
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    )
    assert nw.receipt(batch).changes[0].left == ()


def test_what_means_the_same_is_carried_and_the_rest_is_said():
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6))
    with torch.no_grad():
        model[1].weight.uniform_()
        model[1].bias.uniform_()
    swapped = nw.swap(model, "group:2")
    (change,) = nw.receipt(swapped).changes
    assert torch.equal(swapped[1].weight, model[1].weight)
    assert torch.equal(swapped[1].bias, model[1].bias)
    assert change.carried == ("weight", "bias")
    assert change.left == ("running_mean", "running_var")
    assert str(change) == (
        "1: BatchNorm1d(6) → GroupNorm1d(2, 6)   (left behind: running_mean, running_var)"
    )


@each_candidate
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mode_and_dtype_stay(candidate, training, dtype):
    model = Tree().to(dtype).train(training)
    model.branches["a"].train(not training)
    swapped = nw.swap(model, candidate)
    for old, new in zip(norms(model), norms(swapped), strict=True):
        assert new.training is old.training
        assert {parameter.dtype for parameter in new.parameters()} <= {dtype}
        # Running statistics are never narrower than float32.
        wide = torch.promote_types(dtype, torch.float32)
        assert {buffer.dtype for buffer in new.buffers()} <= {wide, torch.int64}


@each_candidate
def test_what_was_frozen_stays_frozen(candidate):
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.BatchNorm1d(6))
    model[1].requires_grad_(False)
    swapped = nw.swap(model, candidate)
    frozen, free = norms(swapped)
    carried = nw.receipt(swapped).changes[0].carried
    assert not any(p.requires_grad for n, p in frozen.named_parameters() if n in carried)
    assert all(p.requires_grad for p in free.parameters())


@each_candidate
def test_a_norm_that_is_the_model(candidate):
    model = nn.BatchNorm1d(4)
    before = fingerprint(model)
    swapped = nw.swap(model, candidate)
    assert type(swapped) is type(nw.make(candidate, 4))
    assert nw.receipt(swapped).changes[0].paths == ("",)
    assert str(nw.receipt(swapped)).startswith("(the model): BatchNorm1d(4) → ")
    swapped(x_of(1))
    assert fingerprint(model) == before
    with pytest.raises(nw.NormError) as caught:
        nw.swap(model, candidate, inplace=True)
    assert str(caught.value) == "a model that is itself a norm cannot be swapped in place"


WHERE = [
    ("stem.*", ["stem.1"]),
    ("shared_again.0", ["shared"]),
    ("*a*", ["branches.a", "branches.b.0", "layers.0", "shared", "lazy"]),
    (["stem.*", "lazy"], ["stem.1", "lazy"]),
    (nn.GroupNorm, ["layers.0"]),
    (nn.InstanceNorm1d, ["branches.b.0"]),
    (lambda path, module: path == "lazy", ["lazy"]),
    (lambda path, module: getattr(module, "num_groups", 0) == 3, ["layers.0"]),
]


@pytest.mark.parametrize(("where", "paths"), WHERE)
def test_where_chooses(where, paths):
    model = Tree()
    model(x_of(1))  # torch cannot copy a lazy batch norm before
    plan = nw.plan(model, "rms", where)
    swapped = nw.swap(model, "rms", where)
    assert nw.receipt(swapped) == plan
    assert [change.paths[0] for change in plan.changes] == paths
    assert [site.path for site in nw.find(swapped) if site.kind == "rms"] == paths


LAST = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.RMSNorm(6))
MIXED = nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.LayerNorm(9))
UNCLEAR = nn.Sequential(nn.Conv1d(4, 6, 1), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.GroupNorm(2, 6))

LAST_ONLY = "batch has no layer for features in the last dimensions"
REFUSED = [
    (Tree(), "grup:2", None, "candidate 'grup:2' is not known; did you mean 'group:2'?"),
    (
        *(Tree(), "group:0", None),
        "stem.1 (BatchNorm1d(6)): num_groups must be a whole number above 0, received 0",
    ),
    (
        *(Tree(), "rms:speed=3", None),
        "stem.1 (BatchNorm1d(6)): candidate 'rms:speed=3': rms has no argument 'speed'; it has ",
    ),
    (
        *(nn.Linear(4, 4), "rms", None),
        "Linear has no normalization layer to swap; put nw.Identity(channels) where one may go",
    ),
    (
        *(MIXED, "rms", "encoder.*"),
        "nothing to swap for 'rms': where='encoder.*' matches no norm; the model's norms are 1, 2",
    ),
    (
        *(LAST, "batch", None),
        f"nothing to swap for 'batch': 1: {LAST_ONLY}; 2: {LAST_ONLY}; the model's norms are 1, 2",
    ),
    (
        *(UNCLEAR, "rms", None),
        "3: GroupNorm(2, 6) takes signals and images alike, and the model's convolutions do not "
        "tell which it sees; put nw.GroupNorm1d (or 2d, 3d) there",
    ),
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("model", "candidate", "where", "sentence"), REFUSED)
def test_a_refusal_leaves_everything_as_it_was(model, candidate, where, sentence, inplace):
    before = fingerprint(model)
    for call in (nw.plan, lambda *a: nw.swap(*a, inplace=inplace)):
        with pytest.raises(nw.NormError) as caught:
            call(model, candidate, where)
        assert str(caught.value).startswith(sentence)
    assert fingerprint(model) == before
    assert not hasattr(model, "_normwise_receipt")


def test_the_convolution_before_a_norm_tells_its_rank():
    model = nn.Sequential(nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6), nn.Flatten(2), nn.Conv1d(6, 6, 1))
    assert type(nw.swap(model, "layer")[1]) is nw.LayerNorm2d


class Guarded(nn.Module):
    """Takes one assignment and refuses the next."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.is_guarded = True

    def __setattr__(self, name, value):
        if (
            name == "second"
            and getattr(self, "is_guarded", False)
            and isinstance(value, nw.RMSNorm)
        ):
            raise RuntimeError("no")
        super().__setattr__(name, value)


def test_a_model_that_refuses_half_way_is_as_it_was():
    model = Guarded()
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match="no"):
        nw.swap(model, "rms", inplace=True)
    assert fingerprint(model) == before
    assert not hasattr(model, "_normwise_receipt")


def test_what_has_no_place_is_kept_and_said():
    plan = nw.plan(MIXED, "batch")
    assert plan.skipped == (("2", LAST_ONLY),)
    assert str(plan) == f"1: BatchNorm1d(6) → BatchNorm1d(6)\n2: kept, {LAST_ONLY}"
    assert type(nw.swap(MIXED, "batch")[2]) is nn.LayerNorm


@pytest.mark.parametrize("candidate", ["layer", "rms", "none"])
def test_several_trailing_dimensions(candidate):
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm((2, 6)))
    x = torch.randn(4, 2, 6)
    swapped = nw.swap(model, candidate)
    assert swapped(x).shape == x.shape
    assert nw.find(swapped)[0].num_features == (2, 6)
    back = nw.swap(swapped, "layer")
    assert isinstance(back[1], nn.LayerNorm)
    assert back[1].normalized_shape == (2, 6)


@pytest.mark.parametrize("candidate", ["none", "tanh"])
def test_back_from_a_layer_of_any_rank(candidate):
    """The model has convolutions of two ranks, and only the old norm knew which one it sees."""
    model = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.Flatten(2), nn.Conv1d(6, 6, 1))
    back = nw.swap(nw.swap(model, candidate), "batch")
    assert isinstance(back[1], nn.BatchNorm2d)


@pytest.mark.parametrize("candidate", ["layer", "rms", "none"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_transformer_runs_the_norms_that_were_put_in(candidate, training, depth):
    """In evaluation torch takes a fused path that reads norm1.weight and never calls norm1."""
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    if depth > 1:
        model = nn.TransformerEncoder(model, depth)
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    padded = torch.arange(5) >= torch.tensor([5, 4, 2, 1])[:, None]
    swapped = nw.swap(model.train(training), candidate)
    assert [site.kind for site in nw.find(swapped)] == [candidate] * 2 * depth
    calls = []
    for module in [site.module for site in nw.find(swapped)]:
        module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        y = swapped(x, src_key_padding_mask=padded)
    assert len(calls) == 2 * depth
    if candidate == "layer":
        torch.testing.assert_close(y, model.train()(x, src_key_padding_mask=padded))


def test_a_transformer_in_padding():
    model = nw.swap(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), "layer")
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    with nw.padding([5, 2], size=5), torch.no_grad():
        y = model(x)
    assert not y[1, 2:].any()
    assert y[1, :2].all()


@each_candidate
def test_a_swapped_model_is_copied_pickled_and_compiled(candidate):
    torch._dynamo.reset()
    model = nw.swap(nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.ReLU()), candidate)
    y = model.eval()(x_of(1))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x_of(1)), y)
        assert nw.receipt(twin) == nw.receipt(model)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x_of(1)), y)


class Block(nn.Module):
    """A norm that is given a residual and applies the activation itself."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(6, 6, 1)
        self.norm = nw.BatchNorm1d(6, activation="relu")

    def forward(self, x):
        return self.norm(self.convolution(x), residual=x)


@each_candidate
def test_a_layer_with_an_activation_hands_it_on(candidate):
    swapped = nw.swap(Block(), candidate)
    x = torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(0))
    y = swapped(x)
    assert swapped.norm.activation == "relu"
    assert (y >= 0).all()
    swapped.norm.activation = None
    torch.testing.assert_close(swapped(x).relu(), y)


def test_an_activation_is_told_apart_and_left_behind_where_it_has_no_place():
    def torchs(num_features, dim):
        return nn.GroupNorm(2, num_features)

    def with_its_own(num_features, dim):
        return nw.GroupNorm(2, num_features, activation="silu")

    for make in (torchs, with_its_own):
        assert nw.plan(Block(), make).changes[0].left[-1] == "activation='relu'"
    assert nw.swap(Block(), with_its_own).norm.activation == "silu"


def test_a_model_that_was_not_swapped_has_no_receipt():
    with pytest.raises(nw.NormError) as caught:
        nw.receipt(Tree())
    assert str(caught.value) == "this model does not come from nw.swap, so there is no receipt"


def test_norms_that_tie_their_weights_stay_tied():
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.BatchNorm1d(6))
    model[2].weight = model[1].weight
    swapped = nw.swap(model, "group:2")
    assert swapped[1].weight is swapped[2].weight


# -- a function in place of a candidate -------------------------------------------


def halves(num_features, dim):
    return nw.make("group:2", num_features, dim)


@each_dim
def test_a_function_makes_the_layers(dim):
    model = Tree(dim)
    before = fingerprint(model)
    swapped, wanted = nw.swap(model, halves), nw.swap(model, "group:2")
    assert fingerprint(model) == before
    assert nw.receipt(swapped) == nw.plan(model, halves)
    assert nw.receipt(swapped).candidate == "halves"
    assert nw.receipt(swapped).changes == nw.receipt(wanted).changes
    assert torch.equal(swapped(x_of(dim)), wanted(x_of(dim)))


def test_a_function_is_told_the_size_and_the_rank_of_each_place():
    asked = []

    def make(*place):
        asked.append(place)
        return nn.Identity()

    nw.swap(MIXED, make)
    nw.swap(nn.Sequential(nn.BatchNorm2d(6), nn.LazyBatchNorm3d(), nn.LayerNorm((2, 6))), make)
    assert asked == [(6, 1), ((9,), 0), (6, 2), (None, 3), ((2, 6), 0)]


REFUSED_FUNCTIONS = [
    (
        nw.GroupNorm1d,
        "a class cannot tell (num_features, dim) from its own arguments; write "
        "lambda num_features, dim: GroupNorm1d(num_features)",
    ),
    (
        lambda num_features, dim: "group:2",
        "stem.1 (BatchNorm1d(6)): <lambda> returned str 'group:2'; a function of "
        "(num_features, dim) has to return a torch.nn.Module",
    ),
    (
        lambda num_features, dim: nw.GroupNorm(4, num_features),
        "stem.1 (BatchNorm1d(6)): 4 groups do not divide 6 channels; these do: 1, 2, 3, 6",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED_FUNCTIONS)
def test_a_function_that_does_not_fit_is_refused(make, sentence):
    model = Tree()
    before = fingerprint(model)
    with pytest.raises(nw.NormError) as caught:
        nw.swap(model, make)
    assert str(caught.value) == sentence
    assert fingerprint(model) == before


@pytest.mark.parametrize("candidate", ["batch", "group:2", "layer"])
def test_a_place_for_a_norm_in_a_model_without_convolutions(candidate):
    model = nn.Sequential(nn.Linear(4, 6), nw.Identity(6), nn.Linear(6, 2))
    swapped = nw.swap(model, candidate)
    assert type(swapped[1]) is type(nw.make(candidate, 6))
    assert swapped(torch.randn(5, 4)).shape == (5, 2)


# ── norms that return what it takes to go back, too ─────────────────────────────────────────


def forecaster(norm):
    return nw.Reversible(norm, nn.Sequential(nn.Linear(9, 4), nn.LayerNorm(4)))


@pytest.mark.parametrize("candidate", ["none", "batch", "layer", "reversible"])
def test_a_reversible_norm_and_any_other_stand_in_for_each_other(candidate):
    x = x_of(1) + 100
    model = forecaster(nw.ReversibleInstanceNorm(4))
    swapped = nw.swap(model, candidate, where="norm")
    assert swapped(x).shape == (4, 4, 4)
    back = nw.swap(swapped, "reversible", where="norm")
    assert torch.equal(back(x), model(x))
    assert torch.equal(nw.undo(swapped)(x), model(x))


def test_a_reversible_norm_takes_the_series_back_and_others_do_not():
    x = x_of(1) + 100
    for candidate, level in [("reversible:statistics=median-mad", 100), ("batch", 0)]:
        y = nw.swap(forecaster(nw.Identity(4)), candidate, where="norm")(x)
        assert (y - level).abs().max() < 10


def test_where_statistics_go_nowhere_no_reversible_norm_is_put_or_taken():
    alone = "returns its statistics, too; nw.Reversible(norm, model) takes any"
    with pytest.raises(nw.NormError) as caught:
        nw.swap(nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)), "reversible")
    assert f"1: a reversible norm {alone}" in str(caught.value)
    theirs = nn.Sequential(nw.ReversibleInstanceNorm(4), nn.BatchNorm1d(4))
    assert nw.plan(theirs, "none").skipped == (("0", f"it {alone}"),)


# -- layers of the user's own ------------------------------------------------------------


class Peak(nn.Module):
    """A norm that nothing of ours computes, with statistics that nothing of ours knows."""

    def __init__(self, num_features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x):
        return x / x.abs().amax(1, keepdim=True) * self.scale[:, None]


OWN = {
    "a class": lambda num_features, dim: Peak(num_features),
    "several layers": lambda num_features, dim: nn.Sequential(Peak(num_features), nn.Dropout(0.1)),
    "a norm within": lambda num_features, dim: nn.Sequential(
        nn.BatchNorm1d(num_features), nn.Dropout(0.1)
    ),
    "a pattern": lambda num_features, dim: nw.Norm("n (g [c]) t", g=2, c=num_features // 2),
}


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_layer_of_ones_own_is_found_and_comes_out_again(make, inplace):
    model = nn.Sequential(nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8), nn.ReLU())
    own = nw.swap(model, make, inplace=inplace)
    for again in (own, copy.deepcopy(own), nw.swap(own, make)):
        (site,) = nw.find(again)
        assert (site.path, site.num_features, site.kind) == ("1", 8, "norm")
        back = nw.swap(again, "group:4")
        assert type(back[1]) is nw.GroupNorm1d
        assert back(torch.randn(2, 4, 5)).shape == (2, 8, 5)
    assert not [f for f in nw.doctor(own.train(), torch.randn(9, 4, 5)) if f.severity == "error"]
    assert type(nw.undo(own)[1]) is nn.BatchNorm1d


def test_statistics_of_ones_own_are_left_alone():
    model = nw.swap(nn.Sequential(nn.BatchNorm1d(8)), OWN["a class"])
    with pytest.raises(nw.NormError, match="what it averages over is not known"):
        nw.recalibrate(model, [torch.randn(2, 8, 5)])


def test_what_is_no_module_is_refused():
    for call in (nw.find, lambda m: nw.swap(m, "rms"), lambda m: nw.plan(m, "rms"), nw.freeze):
        with pytest.raises(
            nw.NormError, match=r"a torch.nn.Module has norms, received str 'model'"
        ):
            call("model")
