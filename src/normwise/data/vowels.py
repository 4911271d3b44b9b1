"""Japanese vowels: real speech, small enough to ship."""

from importlib.resources import as_file, files
from typing import NamedTuple

import torch
from torch import Tensor


class Utterances(NamedTuple):
    """A batch of speech of unequal length.

    Shapes
        x         (N, 12, T) float32, cepstrum coefficients without unit; 0 in the padding
        speakers  (N,) int64, 0 to 8
        lengths   (N,) int64, in frames
    """

    x: Tensor
    speakers: Tensor
    lengths: Tensor


def japanese_vowels() -> tuple[Utterances, Utterances]:
    """Nine men saying two vowels: 270 utterances to train on, 370 to test on.

    Each is 7 to 29 frames of 12 cepstrum coefficients from linear prediction;
    the task is to tell the speaker. Each part is padded to its longest utterance, 26 and 29 frames.

    Source: Kudo, Toyama and Shimbo 1999, Pattern Recognition Letters 20,
    1103–1111; UCI Machine Learning Repository, CC BY 4.0.
    """
    import numpy as np

    with as_file(files("normwise.data") / "japanese_vowels.npz") as path, np.load(path) as arrays:
        parts = []
        for part in ("train", "test"):
            lengths = torch.from_numpy(arrays[f"{part}_lengths"].astype(np.int64))
            frames = torch.from_numpy(arrays[f"{part}_frames"])
            series = torch.split(frames, lengths.tolist())
            x = torch.nn.utils.rnn.pad_sequence(list(series), batch_first=True).mT.contiguous()
            speakers = torch.from_numpy(arrays[f"{part}_speakers"].astype(np.int64))
            parts.append(Utterances(x, speakers, lengths))
    return parts[0], parts[1]
