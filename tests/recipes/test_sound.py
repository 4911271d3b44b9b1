"""Sound: files of every kind, log-mel by its formula, and the way back."""

import io
import zipfile

import numpy as np
import pytest
import soundfile
import torch

from normwise.data import prompts
from normwise.errors import NormError
from normwise.recipes.sounds.clips import read_folder, read_sound, write_sound
from normwise.recipes.sounds.mel import FLOOR, LogMel
from tolerances import assert_close

TONE_HZ = 440


def tone(rate, duration_s=0.5):
    return (0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(duration_s * rate) / rate)).astype("f")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [8000, 11025, 44100])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_file_of_any_rate_and_channels_is_the_sound_it_holds(tmp_path, suffix, rate, channels):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.tile(tone(rate)[:, None], channels), rate)
    wave = read_sound(path, 8000)
    expected = tone(8000)
    assert wave.dtype == torch.float32
    assert abs(len(wave) - len(expected)) <= 1
    inner = slice(400, 3600)  # filters ring at both ends
    assert np.abs(wave[: len(expected)].numpy() - expected)[inner].max() < 0.02


def test_an_offset_alone_is_silence(tmp_path):
    soundfile.write(tmp_path / "offset.wav", np.full(800, 0.25), 8000)
    with pytest.raises(NormError, match="is silent throughout"):
        read_sound(tmp_path / "offset.wav", 8000)


def test_what_is_written_is_read_again(tmp_path):
    wave = torch.from_numpy(tone(8000)) * 3  # louder than a file can hold
    path = write_sound(wave, 8000, tmp_path / "loud.wav")
    assert (read_sound(path, 8000) - wave.clamp(-1, 1)).abs().max() < 1e-4


BAD = {
    "gone.wav": (None, "there is no file"),
    "text.wav": (b"no sound", "is no sound file that can be read: "),
    "cut.wav": (b"RIFF", "is no sound file that can be read: "),
    "empty.wav": (np.zeros(0), "holds no samples; leave it out"),
    "silence.wav": (np.zeros(800), "is silent throughout; leave it out"),
    "nan.wav": (np.full(800, np.nan), "holds samples that are not finite; leave it out"),
    "infinite.wav": (np.full(800, np.inf), "holds samples that are not finite; leave it out"),
}


def write_bad(folder, name):
    content = BAD[name][0]
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    elif content is not None:
        soundfile.write(folder / name, content, 8000, subtype="FLOAT")
    return folder / name


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named(tmp_path, name):
    path = write_bad(tmp_path, name)
    with pytest.raises(NormError) as raised:
        read_sound(path, 8000)
    sentence = str(raised.value)
    assert str(path) in sentence
    assert BAD[name][1] in sentence
    assert "\n" not in sentence


def test_a_folder_of_class_folders(tmp_path):
    for place in ("a/x.wav", "a/deep/y.wav", "b/x.wav"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / place, tone(8000), 8000)
    (tmp_path / "a/notes.txt").write_text("not a sound")
    soundfile.write(tmp_path / "beside.wav", tone(8000), 8000)
    clips, left_out = read_folder(tmp_path, 8000)
    assert [(clip.folders, clip.stem) for clip in clips] == [
        (("a", "deep"), "y"), (("a",), "x"), (("b",), "x"),
    ]  # fmt: skip
    assert left_out == 0
    write_bad(tmp_path / "b", "silence.wav")
    with pytest.raises(NormError, match=r"silence\.wav is silent .* left out \(--skip\)"):
        read_folder(tmp_path, 8000)
    assert read_folder(tmp_path, 8000, skip=True)[1] == 1


def test_a_folder_that_is_not_there_or_has_no_classes(tmp_path):
    with pytest.raises(NormError, match=r"there is no folder .*missing"):
        read_folder(tmp_path / "missing", 8000)
    soundfile.write(tmp_path / "beside.wav", tone(8000), 8000)
    with pytest.raises(NormError, match="has no class folders with sound files in them"):
        read_folder(tmp_path, 8000)


def test_a_zip_is_a_folder():
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        packed = io.BytesIO()
        soundfile.write(packed, tone(8000), 8000, format="FLAC")
        archive.writestr("a/x.flac", packed.getvalue())
        clips, _ = read_folder(zipfile.Path(archive), 8000)
    assert [(clip.folders, clip.stem) for clip in clips] == [(("a",), "x")]


def by_the_formula(features, wave):
    """Log-mel in float64, frame by frame, frequency by frequency."""
    window, hop, size = features.window, features.hop, features.size
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(np.asarray(wave, dtype=np.float64), window)
    n, f = np.arange(window), np.arange(size // 2 + 1)
    turns = np.exp(-2j * np.pi * np.outer(f, n) / size)
    hz = f * features.rate / size
    mel = 2595 * np.log10(1 + np.array([features.low_hz, features.rate / 2]) / 700)
    edges = 700 * (10 ** (np.linspace(*mel, features.bands + 2) / 2595) - 1)
    frames = []
    for middle in range(0, len(wave) + 1, hop):
        start = middle + window - window // 2
        power = np.abs(turns @ (hann * padded[start : start + window])) ** 2 / hann.sum() ** 2
        bands = [
            np.interp(hz, edges[b : b + 3], [0, 1, 0], left=0, right=0) @ power
            for b in range(features.bands)
        ]
        frames.append(np.log(np.array(bands) + FLOOR))
    return torch.from_numpy(np.stack(frames, 1))


@pytest.mark.parametrize(
    "features", [LogMel(), LogMel(16000, 23, 0.025, 0.01), LogMel(8000, 64, 0.032, 0.008, 0.0)]
)
def test_log_mel_is_its_formula(features):
    wave = torch.randn(features.rate // 4, generator=torch.Generator().manual_seed(0))
    assert_close(features(wave), by_the_formula(features, wave))
    assert not (features.triangles().sum(1) == 0).any()


def test_a_clip_shorter_than_a_window_has_a_frame():
    assert LogMel()(torch.ones(10)).shape == (40, 1)


def test_sound_made_of_a_spectrogram_has_that_spectrogram():
    """Within 0.2 of the logarithm of power (0.9 dB), over what is loud, and 20 of the range."""
    features = LogMel(8000, 64, 0.032, 0.008)
    for voice in ("it/Carlo", "it/Menardi"):
        given = features(read_sound(prompts() / f"{voice}/vm-goodbye.opus", 8000))
        found = features(features.sound(given))
        assert found.shape[1] in (given.shape[1] - 1, given.shape[1])
        given = given[:, : found.shape[1]]
        loud = given > given.max() - 10
        assert (found - given).abs()[loud].mean() < 0.2
        assert torch.corrcoef(torch.stack([found.flatten(), given.flatten()]))[0, 1] > 0.99
