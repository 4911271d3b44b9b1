"""A style network of one's own: it learns, goes on where it stopped, norms; and bad input."""

import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from normwise.data import packaged
from normwise.recipes.images.pictures import read_image, write_image
from normwise.recipes.images.style_loop import Loop, Perceptual, crops
from normwise.recipes.images.stylenet import StyleNetwork, load_network
from normwise.recipes.images.vgg import load_vgg
from normwise.recipes.style_train import SIZES
from normwise.surgery import swap
from tolerances import assert_close

SIZE = 32


@pytest.fixture
def style(tmp_path):
    """A flower, whose style is to be learned; beside it, a photo to learn on."""
    folder = packaged("sklearn", "datasets/images/china.jpg", "").parent
    (tmp_path / "photos").mkdir()
    write_image(read_image(folder / "china.jpg", 120), tmp_path / "photos/china.png")
    shutil.copy(folder / "flower.jpg", tmp_path)
    return "flower.jpg"


@pytest.fixture
def loop(weights, style, tmp_path):
    picture, photo = read_image(tmp_path / style, SIZE), read_image(tmp_path / "photos/china.png")
    loss = Perceptual(load_vgg(weights), picture, style_weight=3.0)
    return Loop(crops([photo], SIZE, 8), crops([photo], SIZE, 2, 1), loss, 8, 1, tmp_path / "kept")


def test_a_network_learns_a_style_and_paints_in_it(recipe, weights, style, tmp_path):
    words = (style, "--photos", "photos", "--weights", weights, "--size", SIZE)
    code, printed, complaints, figures = recipe("style-train", *words, "--steps", 30)
    assert (code, complaints) == (0, "")
    assert max(map(len, printed.splitlines())) <= 80
    (found,) = figures["trained"]
    curve = [entry["score"] for entry in found["curves"]["0"]]
    assert curve[-1] < 0.7 * curve[0]
    assert found["loss"]["mean"] == pytest.approx(curve[-1], rel=1e-5)
    assert found["style"]["mean"] < 0.75 * figures["as they are"]["style"]
    folder = tmp_path / "runs/style-train"
    assert (folder / "samples.jpg").is_file()
    assert (folder / "preview.jpg").is_file()
    words = ("photos/china.png", "--network", folder / "flower.pt")
    assert recipe("style-fast", *words)[0] == 0
    painting = read_image(tmp_path / "runs/style-fast/china-flower.jpg")
    assert painting.shape == read_image(tmp_path / "photos/china.png").shape


def test_a_training_that_was_stopped_comes_to_what_one_that_was_not_does(loop):
    def trained(report, loop=loop):
        torch.manual_seed(0)
        network = StyleNetwork(SIZES)
        return loop(network, 0, report), network

    whole: list[tuple[int, float]] = []
    score, network = trained(lambda *entry: whole.append(entry))

    def stop(step, score):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(stop, replace(loop))
    assert len(list(loop.folder.iterdir())) == 1
    again: list[tuple[int, float]] = []
    score_again, network_again = trained(lambda *entry: again.append(entry))
    assert (score_again, again) == (score, whole)
    assert [step for step, _ in whole] == [0, 5, 8]
    for one, other in zip(network.parameters(), network_again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not list(loop.folder.iterdir())


def test_norms_are_compared_with_the_same_seeds(recipe, weights, style, tmp_path):
    words = (style, "--photos", "photos", "--weights", weights, "--size", SIZE, "--steps", 2)
    code, printed, complaints, figures = recipe("style-train", *words, "--compare", "--seeds", 1)
    assert (code, complaints) == (0, "")
    assert max(map(len, printed.splitlines())) <= 80
    assert {one["norm"] for one in figures["trained"]} == {"instance", "batch", "none"}
    assert all(len(one["curves"]["0"]) == 2 for one in figures["trained"])
    best = min(figures["trained"], key=lambda one: one["loss"]["mean"])
    network = load_network(tmp_path / "runs/style-train/flower.pt")
    named = {"instance": "InstanceNorm2d", "batch": "BatchNorm2d", "none": "Identity"}
    assert type(network.contract[0].norm).__name__ == named[best["norm"]]
    assert (tmp_path / "runs/style-train/batch-4/report.html").is_file()


def test_of_one_picture_batch_norm_is_instance_norm_until_it_is_used():
    """Which is why norms that are compared at batch size 1 differ in evaluation alone."""
    torch.manual_seed(0)
    instance, x = StyleNetwork(SIZES), torch.rand(1, 3, 32, 32)
    batch = swap(instance, "batch")
    with torch.no_grad():
        assert_close(batch.train()(x), instance.double()(x.double()))
        difference = batch.eval()(x) - instance(x.double())
    assert difference.abs().mean() > 0.05


def test_crops_are_parts_of_photos_and_as_large_as_asked():
    photos = [torch.rand(3, 40, 70), torch.rand(3, 20, 90)]  # the second has to be enlarged
    found = crops(photos, 32, 6)
    assert found.shape == (6, 3, 32, 32)
    assert torch.equal(found, crops(photos, 32, 6))
    grey = crops([torch.full((3, 50, 50), 0.5)], 32, 1)
    torch.testing.assert_close(grey, torch.full((1, 3, 32, 32), 0.5), atol=1 / 255, rtol=0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nowhere.jpg",), "there is no file nowhere.jpg"),
        (("text.jpg",), "text.jpg is no picture that can be read"),
        (("flower.jpg", "--photos", "empty"), "there is no picture in empty; give one with"),
        (("flower.jpg", "--photos", "texts"), "texts/text.jpg is no picture that can be read"),
        (("flower.jpg", "--photos", "pixels"), "pixels/a.png has 1×1 pixels; each side needs 16"),
        (("flower.jpg", "--weights", "no.pth"), "there is no file no.pth"),
        (("flower.jpg", "--weights", "text.jpg"), "text.jpg is no state dict of torch that can be"),
        (("flower.jpg", "--size", "8"), "size is 32 pixels or more, steps and batch sizes 1 or"),
        (("flower.jpg", "--steps", "0"), "size is 32 pixels or more, steps and batch sizes 1 or"),
        (("flower.jpg", "--style-weight", "nan"), "size is 32 pixels or more, steps and batch"),
        (("flower.jpg", "--batch-size", "1,4"), "several batch sizes are for --compare; give one"),
        (("flower.jpg", "--compare", "--candidates", "bath"), "candidate 'bath' is not known;"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence_and_writes_nothing(
    recipe, style, weights, tmp_path, words, sentence
):
    for folder in ("empty", "texts", "pixels"):
        (tmp_path / folder).mkdir()
    for path in ("text.jpg", "texts/text.jpg"):
        (tmp_path / path).write_text("no picture")
    Image.new("RGB", (1, 1)).save(tmp_path / "pixels/a.png")
    given = () if "--weights" in words else ("--weights", weights)
    code, printed, complaints, figures = recipe("style-train", *words, *given)
    assert (code, printed, figures) == (2, "", None)
    assert complaints.startswith(f"normwise: {sentence}")
    assert complaints.count("\n") == 1
    assert not (tmp_path / "runs").exists()
