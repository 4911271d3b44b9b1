"""Surgery on models as people have them: torchvision's, timm's and Hugging Face's."""

import io
from fnmatch import fnmatchcase

import pytest
import real_models
import torch

import normwise as nw
from normwise.surgery.sites import bare_sites
from tolerances import error

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

EVERY = pytest.mark.parametrize("name", real_models.BUILDERS)
CANDIDATES = [
    f"{name}:8" if entry.argument else name
    for name, entry in nw.catalogue().items()
    if not entry.reversible
]
# (norms, of which traced, kinds)
FOUND = {
    "torchvision resnet18": (20, {"batch"}),
    "torchvision mobilenet_v3_small": (34, {"batch"}),
    "torchvision convnext_tiny": (23, {"layer"}),
    "torchvision efficientnet_b0": (49, {"batch"}),
    "timm convnext_atto": (17, {"layer"}),
    "timm regnetx_002": (44, {"batch"}),
    "timm vit": (5, {"layer"}),
    "timm efficientnet_lite0": (49, {"batch"}),
    "wav2vec2": (5, {"group", "layer"}),
    "hubert": (6, {"layer"}),
    "t5": (7, {"rms"}),
    "llama": (3, {"rms"}),
    "gemma2": (5, {"rms"}),
}


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def outside(model):
    """Every tensor that is no norm's."""
    paths = tuple(f"{path}." for site in bare_sites(model) for path in site.paths)
    acts = tuple(path.removesuffix(".norm.") + "." for path in paths if path.endswith(".norm."))
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith((*paths, *acts))
    }


@EVERY
def test_every_norm_is_found(name):
    sites = nw.find(real_models.built(name))
    count, kinds = FOUND[name]
    assert (len(sites), {site.kind for site in sites}) == (count, kinds)


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_the_same_gives_the_same(name, training):
    model = real_models.built(name)
    before = state(model)
    swapped = nw.swap(model, "same")
    results = []
    for each in (nw.undo(swapped), swapped):
        torch.manual_seed(0)
        with torch.no_grad():
            results.append(real_models.run(name, each.train(training)))
    # float32 rounding, through up to 50 layers that magnify it
    assert error(results[1], results[0]) <= 1e-4
    left = {type(site.module).__name__ for site in nw.find(swapped) if not ours(site.module)}
    assert left == ({"Gemma2RMSNorm"} if name == "gemma2" else set())
    after = model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def ours(module):
    return type(module).__module__.startswith("normwise")


# The heads of these see one position, which no instance norm can do anything with.
HEADS = {"torchvision convnext_tiny": "classifier.*", "timm convnext_atto": "head.*"}


def has_place(model, candidate):
    """Transformers have no place for a norm of channels, images none for one of signals."""
    layers = nw.catalogue()[candidate.partition(":")[0]].layers
    dims = {1 if site.dim is None else site.dim for site in bare_sites(model)}
    return all(dim in layers for dim in dims - {0}) and any(dim in layers for dim in dims)


@EVERY
@pytest.mark.parametrize("candidate", CANDIDATES)
def test_every_norm_of_the_catalogue_goes_in_trains_and_comes_out(name, candidate):
    model = real_models.built(name)
    before = state(model)
    if not has_place(model, candidate):
        with pytest.raises(nw.NormError, match=r"nothing to swap for|has no layer for dim"):
            nw.plan(model, candidate)
        return
    head = HEADS.get(name, "") if candidate == "instance" else ""

    def where(path, module):
        return not fnmatchcase(path, head)

    plan = nw.plan(model, candidate, where)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    swapped = nw.swap(model, candidate, where).train()
    assert nw.receipt(swapped) == plan
    kept = outside(swapped)
    assert kept.keys() == outside(model).keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in kept.items())

    nw.update_optimizer(optimizer, nw.receipt(swapped))
    y = real_models.run(name, swapped)
    assert y.isfinite().all()
    y.square().mean().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save(swapped.state_dict(), file)
    file.seek(0)
    loaded = nw.swap(model, candidate, where)
    loaded.load_state_dict(torch.load(file))
    with torch.no_grad():
        for each in (swapped, loaded):
            each.eval()
        assert torch.equal(real_models.run(name, loaded), real_models.run(name, swapped))

    back = nw.undo(nw.swap(model, candidate, where))
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    after = back.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@EVERY
def test_fusing_changes_nothing_but_the_number_of_passes(name):
    model = real_models.built(name)
    swapped = nw.swap(model, "same", fuse=True).eval()
    with torch.no_grad():
        wanted = real_models.run(name, nw.undo(swapped).eval())
        assert error(real_models.run(name, swapped), wanted) <= 1e-4


@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("size", [803, 900])
def test_features_of_a_padded_clip_are_those_of_the_clip_alone(name, size):
    """Convolutions without padding, whose lengths no proportion gives."""
    lengths = [803, 411, 256, 77]
    draw = torch.Generator().manual_seed(0)
    clips = [torch.randn(1, length, generator=draw) for length in lengths]
    x = torch.cat([torch.nn.functional.pad(clip, (0, size - clip.shape[1])) for clip in clips])
    features = nw.swap(real_models.built(name), "same").eval().feature_extractor
    with torch.no_grad():
        with nw.padding(lengths):
            y = features(x)
        for i, clip in enumerate(clips):
            alone = features(clip)
            assert error(y[i : i + 1, :, : alone.shape[-1]], alone) <= 1e-6
