"""Build src/normwise/data/japanese_vowels.npz from the UEA text files.

    pip download --no-deps aeon==1.6.0 && unzip aeon-*.whl 'aeon/datasets/data/JapaneseVowels/*'
    python tools/make_japanese_vowels.py aeon/datasets/data/JapaneseVowels

The archive holds every utterance end to end, without padding, so that its size
is the size of the speech: `frames` (frames, 12) float32, `lengths` (utterances,)
and `speakers` (utterances,) from 0, for each of train and test.
"""

import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent.parent / "src/normwise/data/japanese_vowels.npz"


def read_utterances(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """One (T, 12) array and one speaker number from 0 per line after @data."""
    utterances, speakers = [], []
    body = path.read_text().split("@data\n", 1)[1]
    for line in body.strip().splitlines():
        *channels, label = line.split(":")
        series = [np.array(channel.split(","), dtype=np.float32) for channel in channels]
        utterances.append(np.stack(series, axis=1))
        speakers.append(int(label) - 1)
    return utterances, speakers


def main(folder: Path) -> None:
    arrays = {}
    for part in ("train", "test"):
        path = folder / f"JapaneseVowels_{part.upper()}.ts"
        utterances, speakers = read_utterances(path)
        arrays[f"{part}_frames"] = np.concatenate(utterances)
        arrays[f"{part}_lengths"] = np.array([len(u) for u in utterances], dtype=np.int16)
        arrays[f"{part}_speakers"] = np.array(speakers, dtype=np.int8)
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
