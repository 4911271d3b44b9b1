"""Sound files: read at any rate, gathered from class folders, parted, and written."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import Path as ZipPath

import numpy as np
import torch
from torch import Tensor

from normwise.errors import NormError, one_line

SUFFIXES = (".wav", ".flac", ".ogg", ".opus")
SILENT = 1e-4  # a clip that never gets louder says nothing; 1 is full scale


class Clip(NamedTuple):
    """A recording out of a folder of class folders.

    wave    (T,) float32, -1 to 1
    folders  names of the folders that it lies in, from the class on: ("it", "Carlo", "digits")
    stem    name of the file without its suffix
    """

    wave: Tensor
    folders: tuple[str, ...]
    stem: str

    def cut(self, seconds: float, rate: int) -> "Clip":
        """Its first seconds, of `rate` samples each."""
        return self._replace(wave=self.wave[: max(1, round(seconds * rate))])


def read_sound(path: Path | ZipPath, rate: int) -> Tensor:
    """The samples of a wav, flac, ogg or opus file: channels averaged, at another rate.

    Shapes
        out  (T,) float32, -1 to 1

    Raises
        NormError  if there is no such file, it cannot be read, or it holds no sound: no samples,
                   samples that are not finite, or silence.
    """
    soundfile = _soundfile()
    if not path.is_file():
        raise NormError(f"there is no file {path}")
    try:
        samples, own_rate = soundfile.read(
            io.BytesIO(path.read_bytes()), dtype="float32", always_2d=True
        )
    except soundfile.SoundFileError as error:
        raise NormError(f"{path} is no sound file that can be read: {one_line(error)}") from error
    if not len(samples):
        raise NormError(f"{path} holds no samples; leave it out")
    if not np.isfinite(samples).all():
        raise NormError(f"{path} holds samples that are not finite; leave it out")
    if np.abs(samples - samples.mean(0)).max() < SILENT:
        raise NormError(f"{path} is silent throughout; leave it out")
    return torch.from_numpy(_resampled(samples.mean(1), own_rate, rate))


def write_sound(wave: Tensor, rate: int, path: Path) -> Path:
    """Write samples (T,) of -1 to 1 as a wav file of 16 bits; where it is. Louder ones are cut."""
    samples = wave.detach().cpu().clamp(-1, 1).numpy()
    _soundfile().write(path, samples, rate, subtype="PCM_16")
    return path


def read_folder(folder: Path | ZipPath, rate: int, *, skip: bool = False) -> tuple[list[Clip], int]:
    """Every sound file below the folders of a folder, or of a .zip, and how many were left out.

    Files beside the class folders, and those of other kinds, are passed over.

    skip  leave out files that `read_sound` refuses

    Raises
        NormError  if there is no such folder, no class folder of it holds a sound file, or
                   one cannot be read and is not to be left out.
    """
    if not folder.is_dir():
        raise NormError(f"there is no folder {folder}")
    clips, left_out = [], 0
    for path, folders in _below(folder, ()):
        if not folders or not path.name.lower().endswith(SUFFIXES):
            continue
        try:
            wave = read_sound(path, rate)
        except NormError as error:
            if not skip:
                raise NormError(f"{error}, or have all such files left out (--skip)") from error
            left_out += 1
            continue
        clips.append(Clip(wave, folders, path.name.rpartition(".")[0]))
    if not clips:
        raise NormError(
            f"{folder} has no class folders with sound files in them; put the files of each class "
            f"into a folder of its own: {folder.name or folder}/english/hello.wav "
            f"({', '.join(SUFFIXES)})"
        )
    return clips, left_out


def parted(
    clips: Sequence[Clip], labels: Sequence[str], shares: Sequence[float], seed: int = 0
) -> list[list[int]]:
    """Indices of the clips of each part, drawn at random.

    Where classes share names of files, as the same prompts in several languages, files of one
    name are all in one part: what was learned of a sentence is not asked again. Else
    each class is shared out in proportion.

    Raises
        NormError  if there is one class alone, or a part would have no clip of some class.
    """
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise NormError(
            f"there is one class, {classes[0]!r}; two at least are needed to tell apart"
        )
    generator = np.random.default_rng(seed)
    named = set(zip(labels, [clip.stem for clip in clips], strict=True))
    shared = Counter(stem for _, stem in named).most_common(1)[0][1] > 1
    parts: list[list[int]] = [[] for _ in shares]
    for members in [list(labels)] if shared else classes:
        mine = [i for i, label in enumerate(labels) if shared or label == members]
        names = [clips[i].stem if shared else str(i) for i in mine]
        order = generator.permutation(sorted(set(names))).tolist()
        edges = np.round(np.cumsum(shares) / sum(shares) * len(order)).astype(int)
        part_of = {
            name: int(np.searchsorted(edges, k, side="right")) for k, name in enumerate(order)
        }
        for i, name in zip(mine, names, strict=True):
            parts[part_of[name]].append(i)
    for part in parts:
        missing = [name for name in classes if name not in {labels[i] for i in part}]
        if missing:
            raise NormError(
                f"the class {missing[0]!r} has {list(labels).count(missing[0])} clips, too few for "
                f"{len(shares)} parts; give more of them"
            )
    return parts


def _below(folder: Any, names: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Every file below a folder, by name, with the folders between."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_dir():
            yield from _below(path, (*names, path.name))
        else:
            yield path, names


def _resampled(samples: Any, old: int, new: int) -> Any:
    if old == new:
        return samples
    from scipy.signal import resample_poly

    common = gcd(old, new)
    return resample_poly(samples, new // common, old // common).astype(np.float32)


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError:
        raise NormError(
            'sound is read by soundfile, which is not installed: pip install "normwise[recipes]"'
        ) from None
    return soundfile
