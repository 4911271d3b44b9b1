"""Voice conversion: what instance norm takes away, what is converted, and bad input."""

import numpy as np
import pytest
import soundfile
import torch

from normwise.recipes.sounds.clips import read_sound
from normwise.recipes.sounds.converter import CODE, Converter, recognised, taught


def test_the_code_tells_less_of_the_speaker_with_instance_norm(recipe, tmp_path):
    words = ("--seeds", 1, "--epochs", 2, "--candidates", "none")
    code, printed, complaints, figures = recipe("voice", *words)
    assert (code, complaints) == (0, "")
    assert figures["speakers"] == ["Allison", "Carlo", "Ivrvoice", "June", "Menardi"]
    instance, none = (
        {key: found["mean"] for key, found in figures["norms"][name].items()}
        for name in ("as-is", "none")
    )
    assert figures["judge"] > 0.85
    assert instance["all"] < none["all"] - 0.08
    assert instance["error"] < 1.2 * none["error"]  # an empty code would not give this
    assert instance["converted"] > 0.6
    assert instance["kept"] > 0.6
    assert max(map(len, printed.splitlines())) <= 80
    out = tmp_path / "runs/voice"
    source = read_sound(out / "source.wav", 8000)
    for name in ("instance", "none"):
        converted = read_sound(out / f"converted-{name}.wav", 8000)
        assert len(converted) == pytest.approx(len(source), abs=64)
        assert converted.abs().max() == pytest.approx(0.9, abs=0.01)
    assert (out / "voice.png").read_bytes().startswith(b"\x89PNG")


def test_the_code_knows_neither_level_nor_scale_of_a_channel():
    model = Converter(8).eval()
    x = torch.randn(2, 8, 33)
    codes = model.content(x)
    assert codes.shape == (2, CODE, 17)
    assert codes.mean(-1).abs().max() < 1e-5
    assert (codes.std(-1, correction=0) - 1).abs().max() < 1e-2
    assert model.convert(x, torch.randn(1, 8, 50)).shape == x.shape


def test_a_listener_tells_a_level_and_not_noise():
    who = torch.arange(60) % 3
    noise = torch.randn(60, 2, 20, generator=torch.Generator().manual_seed(0))
    listener = taught(noise + who[:, None, None], who, 3, seed=0)
    assert recognised(listener, noise.flip(0) + who[:, None, None], who) > 0.9
    assert recognised(listener, noise, who) == pytest.approx(1 / 3, abs=0.1)


def write(path, hz, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(4800) / 8000
    beats = np.sin(2 * np.pi * hz * time) * (1 + np.sin(2 * np.pi * (3 + seed) * time)) / 4
    soundfile.write(path, beats + np.random.default_rng(seed).normal(size=4800) / 100, 8000)


def test_files_of_ones_own(recipe, tmp_path):
    for i in range(8):
        write(tmp_path / f"mine/anna/{i}.flac", 1500, i)
        write(tmp_path / f"mine/ben/{i}.ogg", 500, i)
    words = ("--folder", "mine", "--source", "mine/anna/1.flac", "--target", "mine/ben/2.ogg")
    code, _, complaints, figures = recipe("voice", *words, "--seeds", 1, "--epochs", 2)
    assert (code, complaints) == (0, "")
    assert figures["pair"] == ["anna", "ben"]
    assert set(figures["norms"]) == {"as-is", "none", "batch"}
    assert read_sound(tmp_path / "runs/voice/converted-instance.wav", 8000).isfinite().all()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--source", "a.wav"), "give --source and --target, both, or none of them"),
        (("--source", "a.wav", "--target", "b.wav"), "there is no file a.wav"),
        (("--folder", "gone"), "there is no folder gone"),
        (("--folder", "mine"), "there is one class, 'anna'; two at least are needed"),
        (("--rate", 10), "rate 10 must be 1000 at least"),
    ],
)
def test_bad_input_gets_a_sentence_and_writes_nothing(recipe, tmp_path, words, sentence):
    write(tmp_path / "mine/anna/0.wav", 500, 0)
    code, printed, complaints, figures = recipe("voice", *words)
    assert (code, printed, figures) == (2, "", None)
    assert complaints.startswith(f"normwise: {sentence}")
    assert complaints.count("\n") == 1
    assert not (tmp_path / "runs").exists()
