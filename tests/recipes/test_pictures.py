"""Pictures of every mode come in as red, green and blue; what is none gets a sentence."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from normwise.errors import NormError
from normwise.recipes.images.colors import luminance, matched, with_colors_of
from normwise.recipes.images.pictures import (
    LARGEST,
    read_image,
    resized,
    sheet,
    write_image,
)

GREY = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (20, 1))
COLOURS = np.stack([GREY, GREY[:, ::-1], np.full_like(GREY, 100)], -1)


def saved(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "array", "mode"),
    [
        ("a.png", GREY, None), ("a.png", GREY, "LA"), ("a.png", GREY, "P"), ("a.gif", GREY, None),
        ("a.png", GREY.astype(np.uint16) * 257, None), ("a.tif", GREY / np.float32(255), None),
        ("a.tif", GREY.astype(np.int32) * 257, None), ("a.png", GREY, "RGBA"),
    ],
)  # fmt: skip
def test_grey_of_any_kind_becomes_three_colours_alike(tmp_path, name, array, mode):
    image = read_image(saved(tmp_path / name, array, mode))
    assert image.shape == (3, 20, 40)
    assert image.dtype == torch.float32
    assert torch.allclose(image, torch.from_numpy(GREY).float().div(255).expand(3, -1, -1))


@pytest.mark.parametrize(
    ("name", "mode", "within"),
    [("a.png", "RGB", 0), ("a.tif", "CMYK", 0.001), ("a.jpg", "YCbCr", 0.01),
     ("a.png", "P", 0.06), ("a.webp", "RGB", 0.03), ("a.tif", "LAB", 0.01)],
)  # fmt: skip
def test_colours_of_any_kind(tmp_path, name, mode, within):
    if mode == "LAB":
        srgb, lab = (ImageCms.createProfile(space) for space in ("sRGB", "LAB"))
        picture = ImageCms.profileToProfile(Image.fromarray(COLOURS), srgb, lab, outputMode="LAB")
        picture.save(tmp_path / name)
    else:
        saved(tmp_path / name, COLOURS, mode)
    image = read_image(tmp_path / name)
    expected = torch.from_numpy(COLOURS).permute(2, 0, 1) / 255
    assert (image - expected).abs().mean() <= within


def test_what_is_transparent_lies_on_white(tmp_path):
    layers = np.dstack([COLOURS, np.where(np.arange(40) < 20, 0, 255).astype(np.uint8) + 0 * GREY])
    image = read_image(saved(tmp_path / "a.png", layers))
    assert (image[..., :20] == 1).all()
    assert torch.equal(image[0, 0, 20:], torch.from_numpy(GREY[0, 20:]) / 255)


def test_a_cameras_rotation_is_done_and_size_is_of_the_longer_side(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    image = read_image(saved(tmp_path / "a.jpg", COLOURS, quality=95, exif=exif), size=30)
    assert image.shape == (3, 30, 15) or image.shape == (3, 30, 16)
    assert image[0, 0].mean() < 0.1 < 0.9 < image[0, -1].mean()
    assert read_image(tmp_path / "a.jpg", size=1000).shape == (3, 40, 20)


def test_a_colour_profile_is_followed(tmp_path):
    """One that calls blue what sRGB calls red."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = profile.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    swapped = read_image(saved(tmp_path / "a.png", COLOURS, icc_profile=tags))
    without = read_image(saved(tmp_path / "b.png", COLOURS))
    assert (swapped - without.flip(0)).abs().mean() < 0.02
    broken = read_image(saved(tmp_path / "c.png", COLOURS, icc_profile=b"no profile"))
    assert torch.equal(broken, without)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no file {path}"),
        (b"", "{path} is no picture that can be read (UnidentifiedImageError:"),
        (b"not a picture at all", "{path} is no picture that can be read"),
        (np.zeros((1, 1), np.uint8), "{path} has 1×1 pixels; each side needs 16 at the least"),
        (np.zeros((9, 99, 3), np.uint8), "{path} has 99×9 pixels; each side needs 16"),
        (np.full((20, 20), 70000, np.int32), "{path} has levels from 70000 to 70000, and 0 to"),
        (np.full((20, 20), np.nan, np.float32), "{path} has levels from nan to nan"),
    ],
)
def test_what_is_no_picture_gets_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "a.tif"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        saved(path, content)
    with pytest.raises(NormError) as refused:
        read_image(path)
    assert str(refused.value).startswith(sentence.format(path=path))
    assert "\n" not in str(refused.value)


def test_half_a_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = saved(tmp_path / "a.png", noise).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NormError, match=r"half.png is no picture that can be read"):
        read_image(tmp_path / "half.png")


def test_more_pixels_than_pillow_reads_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "a.png")
    with pytest.raises(NormError, match="more than 179 million pixels; give a smaller version"):
        read_image(tmp_path / "a.png", size=64)
    assert 2 * Image.MAX_IMAGE_PIXELS == LARGEST


def test_eight_thousand_pixels_across_are_scaled(tmp_path):
    Image.new("RGB", (7680, 4320), (10, 200, 30)).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg", size=256)
    assert image.shape == (3, 144, 256)
    assert torch.allclose(image.mean((1, 2)) * 255, torch.tensor([10.0, 200, 30]), atol=2)


def test_a_picture_comes_back_as_it_was_written(tmp_path):
    image = torch.rand(3, 20, 30)
    assert torch.allclose(read_image(write_image(image, tmp_path / "a.png")), image, atol=0.003)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(NormError, match=r"a.txt is no name of a picture; end it in .png"):
        write_image(image, tmp_path / "a.txt")


def test_a_sheet_holds_all_pictures_in_rows_of_one_height():
    images = [torch.full((3, 20, 40), level) for level in (0.1, 0.4, 0.7)]
    page = sheet(images, ["1", "2", "3"], columns=2, height=10, margin=5)
    assert page.shape == (3, 2 * (10 + 24 + 5) + 5, 20 + 20 + 3 * 5)
    for level, top, left in ((0.1, 5, 5), (0.4, 5, 30), (0.7, 44, 5)):
        inside = page[:, top : top + 10, left : left + 20]
        assert torch.allclose(inside, torch.full_like(inside, level), atol=0.01)
    assert resized(images[0], 7, 9).shape == (3, 7, 9)


def test_a_caption_longer_than_its_picture_is_whole():
    image = torch.full((3, 20, 40), 0.5)
    words = "instance, batch 4"
    page, alone = sheet([image, image], [words, ""], height=10), sheet([image], [words], height=10)
    assert (page[..., -12:] == 1).all()
    drawn = [one[:, 22:46].lt(0.9).any(0).any(0).nonzero().flatten() for one in (page, alone)]
    assert torch.equal(*drawn)
    assert drawn[0].max() - drawn[0].min() > 100, "as wide as the words"
    assert drawn[0].max() + 12 <= alone.shape[2]


def test_light_of_one_picture_and_colours_of_another():
    generator = torch.Generator().manual_seed(0)
    painted, photo = (0.3 + 0.3 * torch.rand(3, 9, 9, generator=generator) for _ in range(2))
    kept = with_colors_of(painted, photo)
    assert torch.allclose(luminance(kept), luminance(painted), atol=1e-6)
    assert torch.allclose(kept - luminance(kept), photo - luminance(photo), atol=1e-6)


def test_matched_colours_have_the_mean_and_covariance_asked_for():
    generator = torch.Generator().manual_seed(0)
    image = 0.4 + 0.2 * torch.rand(3, 30, 30, generator=generator)
    mix = torch.tensor([[0.5, 0.2, 0.0], [0.1, 0.4, 0.2], [0.2, 0.0, 0.3]])
    photo = (mix @ torch.rand(3, 400, generator=generator)).reshape(3, 20, 20) * 0.5 + 0.2
    found = matched(image, photo).flatten(1)
    assert torch.allclose(found.mean(1), photo.flatten(1).mean(1), atol=1e-3)
    assert torch.allclose(torch.cov(found), torch.cov(photo.flatten(1)), atol=1e-3)
    assert torch.isfinite(matched(torch.full((3, 9, 9), 0.5), photo)).all()
