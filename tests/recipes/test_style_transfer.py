"""Style transfer with real weights and photos: style comes, content stays; going on; bad input."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from normwise.data import packaged
from normwise.errors import NormError
from normwise.recipes.images.painting import Plan, check_memory, memory_needed, paint, sizes_of
from normwise.recipes.images.perceptual import STYLES, content_distance
from normwise.recipes.images.pictures import read_image, write_image
from normwise.recipes.images.studio import Studio, mark_of
from normwise.recipes.images.vgg import VGG, load_vgg
from normwise.recipes.style import STYLE_LAYERS, style

SIZE = 96


@pytest.fixture(scope="module")
def network(weights):
    return load_vgg(weights)


@pytest.fixture
def photos(tmp_path):
    """Two halves of a photo of a Chinese temple, and a flower for its style."""
    folder = packaged("sklearn", "datasets/images/china.jpg", "").parent
    temple = read_image(folder / "china.jpg", 2 * SIZE)
    write_image(temple[..., :SIZE], tmp_path / "left.png")
    write_image(temple[..., SIZE:], tmp_path / "right.png")
    shutil.copy(folder / "flower.jpg", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("by", "falls_to"), [("gram", 0.25), ("statistics", 0.25)])
def test_the_style_comes_and_the_content_stays(recipe, network, weights, photos, by, falls_to):
    words = ("left.png", "flower.jpg", "--weights", weights, "--size", SIZE, "--style-by", by)
    code, printed, complaints, figures = recipe("style", *words, "--steps", 30)
    assert (code, complaints) == (0, "")
    (found,) = figures["sizes"]
    assert found["steps"] == 30
    first, last = found["style"]
    assert last < falls_to * first
    assert max(map(len, printed.splitlines())) <= 80
    folder = photos / "runs" / "style"
    painted = read_image(folder / "left-flower.png")
    before = read_image(photos / "left.png", SIZE)

    def features(image, names):
        return network(image[None], names)

    deep = ["relu5_1"]  # what is in a picture, and not a layer that was aimed at for content
    seen = features(painted, deep)["relu5_1"]
    left, right = (
        features(read_image(photos / f"{name}.png", SIZE), deep)["relu5_1"]
        for name in ("left", "right")
    )
    assert content_distance(seen, left) < 0.8 * content_distance(seen, right)
    assert painted.shape == before.shape
    aims = features(read_image(photos / "flower.jpg", SIZE), STYLE_LAYERS)
    for name, aim in aims.items():  # at every layer, as measured here
        far, near = (STYLES[by]([aim], [1.0]).distance(features(image, [name])[name])
                     for image in (before, painted))  # fmt: skip
        assert near < 0.6 * far, name


@pytest.fixture(scope="module")
def small():
    """A network that nobody trained, two textures and a photo: for all that needs no looking."""
    generator = torch.Generator().manual_seed(0)
    made = VGG("vgg16")
    for parameter in made.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    ramp = torch.linspace(0, 1, 48)
    photo = torch.stack(
        [ramp.expand(32, -1), ramp.flip(0).expand(32, -1), ramp.sin().expand(32, -1)]
    )
    styles = [(8 * ramp).sin()[None, :, None].expand(3, 48, 48) / 2 + 0.5,
              torch.rand(3, 40, 40, generator=generator)]  # fmt: skip
    return made, photo, styles


def plan(**changes):
    usual = {
        "sizes": (48,), "steps": (6,), "content_layers": ("relu2_2",),
        "style_layers": ("relu1_1", "relu2_1"), "style_by": "gram", "style_weights": (1.0,),
        "style_scale": 1.0, "weights": (1.0, 10.0, 1.0), "optimizer": "lbfgs",
        "learning_rate": 1.0, "decay": 1.0, "init": "content", "seed": 0,
    }  # fmt: skip
    return Plan(**{**usual, **changes})


def painted(small, asked, reached=None):
    network, photo, styles = small
    *_, last = paint(network, photo, styles[: len(asked.style_weights)], asked, reached)
    return last


def untimed(losses):
    return [row[:-1] for row in losses]


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("stop", [1, 4, 6, 8])
def test_what_was_stopped_goes_on_as_if_it_had_not_been(small, tmp_path, optimizer, stop):
    network, photo, styles = small
    rate = {"lbfgs": 1.0, "adam": 0.02}[optimizer]
    asked = plan(sizes=(40, 48), steps=(6, 4), optimizer=optimizer, learning_rate=rate, decay=0.5)
    whole = painted(small, asked)
    mark = mark_of(network, asked, [photo, *styles])
    studio = Studio(tmp_path, "painting", mark, lambda image: image)
    for reached in paint(network, photo, styles[:1], asked):
        if len(reached.losses) == stop:
            studio.keep(reached)
            break
    again = Studio(tmp_path, "painting", mark, lambda image: image).reached()
    assert len(again.losses) == stop
    resumed = painted(small, asked, again)
    assert torch.equal(resumed.image, whole.image)
    assert untimed(resumed.losses) == untimed(whole.losses)
    rows = list(csv.DictReader((tmp_path / "painting-losses.csv").read_text().splitlines()))
    assert [float(row["style"]) for row in rows] == [row[3] for row in whole.losses[:stop]]


def test_another_painting_of_the_same_name_does_not_go_on(small, tmp_path):
    network, photo, styles = small
    marks = [mark_of(network, plan(), [photo]), mark_of(network, plan(seed=1), [photo]),
             mark_of(network, plan(), styles), mark_of(network, plan(), [photo], "luminance"),
             mark_of(VGG("vgg19"), plan(), [photo])]  # fmt: skip
    assert len(set(marks)) == 5
    Studio(tmp_path, "one", marks[0], lambda image: image).keep(painted(small, plan(steps=(1,))))
    assert Studio(tmp_path, "one", marks[0], lambda image: image).reached() is not None
    assert Studio(tmp_path, "one", marks[1], lambda image: image).reached() is None
    (tmp_path / "one.pt").write_bytes(b"half a file")
    assert Studio(tmp_path, "one", marks[0], lambda image: image).reached() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"style_by": "statistics"}, {"optimizer": "adam", "learning_rate": 0.02},
        {"init": "noise"}, {"init": "style"}, {"style_weights": (0.3, 0.7)},
        {"sizes": (32, 48), "steps": (4, 4)}, {"style_scale": 0.7},
    ],
)  # fmt: skip
def test_every_way_of_painting_lowers_what_it_is_to_lower_and_does_so_again(small, changes):
    asked = plan(**changes)
    one, again = painted(small, asked), painted(small, asked)
    assert torch.equal(one.image, again.image)
    assert one.image.shape == (1, 3, 32, 48)
    totals = [row[5] for row in one.losses]
    assert totals[-1] < 0.9 * totals[0]
    assert max(totals) == totals[0]  # no step jumps away


def test_the_first_step_is_a_step(small):
    """torch's L-BFGS would move a colour by 1 divided by the number of all."""
    first, second, *_ = painted(small, plan(steps=(2,))).losses
    assert second[5] < 0.99 * first[5]


def test_the_seed_is_that_of_the_noise(small):
    one, other = (painted(small, plan(init="noise", seed=seed, steps=(1,))) for seed in (0, 1))
    assert not torch.equal(one.image, other.image)


def test_a_rate_that_is_too_large_gets_a_sentence(small):
    with pytest.raises(NormError, match=r"the losses grew without bound at a learning rate of 1e"):
        painted(small, plan(optimizer="adam", learning_rate=1e18, weights=(1.0, 1.0, 1e12)))


def test_sizes_go_from_coarse_to_fine_as_far_as_something_can_be_seen():
    assert sizes_of(torch.zeros(3, 300, 512), 3) == (128, 256, 512)
    assert sizes_of(torch.zeros(3, 300, 512), 9) == (128, 256, 512)
    assert sizes_of(torch.zeros(3, 60, 512), 3) == (512,)
    assert sizes_of(torch.zeros(3, 90, 90), 3) == (90,)


def test_memory_grows_with_the_pixels(small):
    network, _, styles = small
    asked = plan(content_layers=("relu4_2",), style_layers=STYLE_LAYERS)
    at_512 = memory_needed(network, asked, torch.empty(3, 512, 512), styles[:1])
    assert 0.7e9 < at_512 < 1e9  # 0.77 GB were measured
    huge = torch.empty(3, 1, 1).expand(3, 32_000, 32_000)
    assert memory_needed(network, asked, huge, styles[:1]) > 3000 * at_512
    with pytest.raises(
        NormError, match=r"^32000×32000 pixels need about 3\d\d\d.\d GB of memory, and"
    ):
        check_memory(network, asked, huge, styles[:1], torch.device("cpu"))


@pytest.fixture
def pictures(tmp_path):
    """Files of many kinds, and weights that fit."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 80, 4), dtype=np.uint8)
    for name, mode in (("a", "RGB"), ("grey", "L"), ("clear", "RGBA"), ("palette", "P")):
        Image.fromarray(noise[..., :3]).convert(mode).save(tmp_path / f"{name}.png")
    Image.fromarray(noise[:1, :1]).save(tmp_path / "dot.png")
    Image.fromarray(noise[:20, :, :3]).save(tmp_path / "narrow.png")
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (7680, 4320), (10, 200, 30)).save(tmp_path / "8k.jpg")
    return tmp_path


def test_pictures_of_any_mode(recipe, pictures, network, weights):
    words = ("grey.png", "clear.png", "palette.png", "--weights", weights, "--steps", 2)
    code, _, complaints, figures = recipe("style", *words, "--style-weights", "1,3", "--keep-color")
    assert (code, complaints) == (0, "")
    assert figures["pixels"] == [80, 64]
    red, green, blue = read_image(pictures / "runs" / "style" / "grey-clear-palette.png")
    assert (red - green).abs().max() == (red - blue).abs().max() == 0  # its colours are kept
    code, _, complaints, _ = recipe(
        "style", "a.png", "8k.jpg", "--weights", weights, "--steps", 1, "--keep-color", "histogram"
    )
    assert (code, complaints) == (0, "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("none.png", "a.png"), "there is no file none.png"),
        (("a.png", "text.png"), "text.png is no picture that can be read"),
        (("dot.png", "a.png"), "dot.png has 1×1 pixels; each side needs 16 at the least"),
        (("narrow.png", "a.png"), "narrow.png is 80×20 pixels at the size of 80, and each side"),
        (("a.png", "a.png", "--size", 8), "size is 32 at the least; received 8"),
        (("a.png", "a.png", "--steps", 0), "steps is 1 at the least; received 0"),
        (("a.png", "a.png", "--every", 0), "every is 1 at the least; received 0"),
        (("a.png", "a.png", "--lr", "nan"), "lr is 1e-06 at the least; received nan"),
        (("a.png", "a.png", "--content-weight", -1), "content_weight is 0 at the least"),
        (("a.png", "a.png", "--style-weights", "1,2"), "the weights of 1 style are as many"),
        (("a.png", "a.png", "--style-weights", "0"), "the weights of 1 style are as many numbers"),
        (("a.png", "a.png", "--style-layers", "relu9_9"), "vgg16 has no layer 'relu9_9'; write"),
        (("a.png", "a.png", "--device", "quantum"), "there is no device 'quantum' (Runtime"),
        (("a.png", "a.png", "--weights", "a.png"), "a.png is no state dict of torch that can"),
        pytest.param(
            ("8k.jpg", "a.png", "--size", 7680),
            "7680×4320 pixels need about 10",
            marks=pytest.mark.slow,  # it is decoded whole before it is refused
        ),
    ],
)
def test_bad_input_gets_a_sentence_and_writes_nothing(recipe, pictures, weights, words, sentence):
    code, printed, complaints, figures = recipe("style", "--weights", weights, *words)
    assert (code, printed, figures) == (2, "", None)
    assert complaints.startswith(f"normwise: {sentence}")
    assert complaints.count("\n") == 1
    assert not (pictures / "runs").exists()


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"style_by": "taste"}, "style_by is one of 'gram', 'statistics'; received 'taste'"),
        ({"optimizer": "sgd"}, "optimizer is one of 'lbfgs', 'adam'; received 'sgd'"),
        ({"keep_color": "all"}, "keep_color is one of None, 'luminance', 'histogram'"),
        ({"init": "zero"}, "init is one of 'content', 'noise', 'style'; received 'zero'"),
        ({"styles": []}, "there is no style; give the file of a painting, or several"),
    ],
)
def test_words_that_are_not_known(told, sentence):
    with pytest.raises(NormError) as refused:
        style(**{"content": Path("a.png"), "styles": [Path("a.png")], **told})
    assert str(refused.value).startswith(sentence)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_stopped_goes_on(photos, weights, how):
    words = ("recipe", "style", "left.png", "flower.jpg", "--weights", str(weights))
    settings = ("--size", "96", "--steps", "40", "--every", "1")
    command = [sys.executable, "-m", "normwise.cli", *words, *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [*command, "--out", "stopped"], env=environment, stderr=subprocess.PIPE, text=True
    )
    losses = photos / "stopped" / "left-flower-losses.csv"
    while not (losses.is_file() and len(losses.read_text().splitlines()) > 5):
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(how)
    _, complaints = first.communicate(timeout=60)
    if how is signal.SIGINT:
        assert first.returncode == 130
        assert "normwise: stopped; the same command goes on from the last preview" in complaints
    done = len(losses.read_text().splitlines()) - 1
    assert done < 40
    for folder in ("stopped", "whole"):
        subprocess.run([*command, "--out", folder], env=environment, check=True, timeout=600)
    pictures = [read_image(photos / folder / "left-flower.png") for folder in ("stopped", "whole")]
    assert torch.equal(*pictures)
