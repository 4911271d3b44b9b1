"""Spoken languages: held-out prompts are recognised, padding is not heard, and bad input."""

import numpy as np
import pytest
import soundfile
import torch

from normwise.errors import NormError
from normwise.recipes.sounds.clips import Clip, parted
from normwise.recipes.speech import Part, Recogniser, batched_and_alone


def test_languages_of_prompts_that_were_not_learned(recipe, tmp_path):
    words = ("--seeds", 1, "--epochs", 8, "--candidates", "none")
    code, printed, complaints, figures = recipe("speech", *words)
    assert (code, complaints) == (0, "")
    assert figures["classes"] == ["en", "es", "fr", "it", "ru"]
    accuracy = figures["accuracy"]["as-is"]  # chance is 0.2
    assert accuracy["held out"]["mean"] > 0.85
    assert accuracy["unheard"]["mean"] > 0.3
    assert figures["batched and alone"]["masked"] < 1e-5
    assert figures["batched and alone"]["unmasked"] > 0.1
    assert np.array(figures["confusion"]).sum(1).tolist() == [20] * 5
    assert 0 < figures["latency"]["of which spectrogram"] < figures["latency"]["of a second"] < 1
    assert max(map(len, printed.splitlines())) <= 80
    assert "Dal Zot (http://www.voip.ammdomus.it)" in printed.replace("\n", " ")
    assert (tmp_path / "runs/speech/speech.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_whose_norms_are_torchs_hears_padding():
    """What the check measures is there where masks are not."""
    torch.manual_seed(0)
    part = Part([torch.randn(8, t) for t in (5, 20, 60)], torch.tensor([0, 1, 0]))
    model = Recogniser(8, 2).eval()
    assert batched_and_alone(model, part)["masked"] < 1e-6
    model.features[1] = torch.nn.BatchNorm1d(64).eval()
    torch.nn.init.ones_(model.features[1].bias)
    assert batched_and_alone(model, part)["masked"] > 1e-3


def write(path, hz=None, rate=16000, duration_s=0.3, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(size=(int(rate * duration_s), 2)) / 50
    tone = 0 if hz is None else np.sin(2 * np.pi * hz * np.arange(len(noise)) / rate)[:, None] / 2
    soundfile.write(path, noise + tone, rate)


def test_classes_of_ones_own(recipe, tmp_path):
    """Low and high tones, stereo at 16 kHz, of unequal length; from another voice, too."""
    for i in range(10):
        write(tmp_path / f"mine/low/{i}-low.flac", 300 + 10 * i, duration_s=0.2 + i / 20, seed=i)
        write(tmp_path / f"mine/high/{i}-high.ogg", 2000 + 50 * i, duration_s=0.7 - i / 20, seed=i)
    write(tmp_path / "other/low/a.wav", 350, rate=22050)
    (tmp_path / "mine/high/empty.wav").write_bytes(b"")
    words = ("--folder", "mine", "--unheard", "other", "--seeds", 1, "--epochs", 15)
    code, _, complaints, figures = recipe("speech", *words, "--candidates", "none", "--skip")
    assert (code, complaints) == (0, "")
    assert figures["clips"] == {"train": 12, "valid": 4, "test": 4, "unheard": 1, "left out": 1}
    assert figures["accuracy"]["as-is"]["held out"]["mean"] == 1


@pytest.mark.parametrize(
    ("files", "words", "sentence"),
    [
        ((), (), "there is no folder mine"),
        (("mine/a.wav",), (), "mine has no class folders with sound files in them; put the files"),
        (("mine/a/1.wav", "mine/a/2.wav"), (), "there is one class, 'a'; two at least are needed"),
        (("mine/a/1.wav", "mine/b/2.wav"), (), "the class 'a' has 1 clips, too few for 3 parts"),
        (("mine/a/1.wav", "mine/b/0.wav"), (), "mine/b/0.wav is no sound file that can be read"),
        (("mine/a/1.wav", "mine/b/2.wav"), ("--rate", 8), "rate 8 must be 1000 at least, and"),
        (("mine/a/1.wav", "mine/b/2.wav"), ("--seconds", 0), "rate 8000 must be 1000 at least"),
        (
            ("mine/a/1.wav", "mine/b/2.wav", "other/c/3.wav"), ("--unheard", "other"),
            "other has the class 'c', which is not among ['a', 'b']",
        ),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence_and_writes_nothing(recipe, tmp_path, files, words, sentence):
    for name in files:
        write(tmp_path / name)
        if name.endswith("0.wav"):
            (tmp_path / name).write_bytes(b"")
    code, printed, complaints, figures = recipe("speech", "--folder", "mine", *words)
    assert (code, printed, figures) == (2, "", None)
    assert complaints.startswith(f"normwise: {sentence}")
    assert complaints.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def clips(*names):
    return [Clip(torch.zeros(1), (name.split("/")[0],), name.split("/")[1]) for name in names]


@pytest.mark.parametrize("shared", [True, False])
def test_parts_hold_every_class_in_proportion_and_no_name_twice(shared):
    every = clips(*(f"{c}/{i if shared else f'{c}{i}'}" for c in "abc" for i in range(20)))
    labels = [clip.folders[0] for clip in every]
    parts = parted(every, labels, (0.6, 0.2, 0.2))
    assert sorted(i for part in parts for i in part) == list(range(60))
    names = [{every[i].stem for i in part} for part in parts]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
    counts = [[sum(labels[i] == c for i in part) for c in "abc"] for part in parts]
    assert counts == [[12] * 3, [4] * 3, [4] * 3]
    assert parted(every, labels, (0.6, 0.2, 0.2)) == parts
    assert parted(every, labels, (0.6, 0.2, 0.2), seed=1) != parts


def test_parts_of_which_one_would_lack_a_class():
    every = clips(*(f"a/{i}" for i in range(20)), "b/0", "b/1", "b/2")
    with pytest.raises(NormError, match="the class 'b' has 3 clips, too few for 3 parts"):
        parted(every, [clip.folders[0] for clip in every], (0.6, 0.2, 0.2))
