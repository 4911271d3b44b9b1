"""Log-mel spectrograms, and the way back from them to sound."""

from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-6  # of power; a sine of full scale has 1/4, so it hides what is 54 dB below


@dataclass(frozen=True)
class LogMel:
    """Logarithms of the power in overlapping bands that are equally wide on the mel scale.

        power[f, t] = |sum_n hann[n] wave[n + t hop] exp(-2πi f n / size)|² / (sum_n hann[n])²
        out[b, t]   = log(sum_f triangle[b, f] power[f, t] + 1e-6)
        mel(hz)     = 2595 log10(1 + hz / 700)

    A frame stands in the middle of its window; silence is before the beginning and
    after the end.

    rate      samples in a second
    bands     triangles from low_hz to half the rate, each up to its neighbours' middle
    window_s, hop_s  length of a window, and from one to the next
    low_hz    an offset of the recorder is not heard, either

    Shapes
        wave  (T,) float, -1 to 1
        out   (bands, 1 + T // hop)
    """

    rate: int = 8000
    bands: int = 40
    window_s: float = 0.032
    hop_s: float = 0.01
    low_hz: float = 60.0

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.window_s * self.rate)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_s * self.rate)

    @property
    def size(self) -> int:
        """Samples that are transformed: windows are lengthened, so that no band is empty."""
        return 1 << (2 * self.window - 1).bit_length()

    def __call__(self, wave: Tensor) -> Tensor:
        power = self._transformed(wave).abs().square() / self._hann(wave).sum() ** 2
        return (self.triangles().to(wave) @ power + FLOOR).log()

    def triangles(self) -> Tensor:
        """How much each frequency counts in each band: (bands, size // 2 + 1) float32."""
        low, high = _mel(torch.tensor([self.low_hz, self.rate / 2], dtype=torch.float64))
        edges = _hertz(torch.linspace(low, high, self.bands + 2, dtype=torch.float64))[:, None]
        hz = torch.linspace(0, self.rate / 2, self.size // 2 + 1, dtype=torch.float64)
        rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
        return torch.minimum(rising, falling).clamp(min=0).float()

    def sound(self, log_mel: Tensor, iterations: int = 64, momentum: float = 0.99) -> Tensor:
        """Sound whose log-mel spectrogram is close to a given one.

        Bands are spread over frequencies by non-negative least squares, in multiplicative
        steps; phases are then found that agree with each other, by going back and forth
        between spectrum and sound.

        Shapes
            log_mel  (bands, frames)
            out      ((frames - 1) * hop,) float32

        Source: Lee and Seung 2001 (least squares); Griffin and Lim 1984; Perraudin, Balazs and
        Søndergaard 2013 (momentum).
        """
        amplitude = self._spread(log_mel).sqrt() * self._hann(log_mel).sum()
        generator = torch.Generator().manual_seed(0)
        turn = 2 * torch.pi * torch.rand(amplitude.shape, generator=generator).to(amplitude)
        phase, before = torch.polar(torch.ones_like(turn), turn), torch.zeros_like(turn)
        for _ in range(iterations):
            agreed = self._transformed(self._wave(amplitude * phase))
            moved = agreed - momentum / (1 + momentum) * before
            phase, before = torch.polar(torch.ones_like(turn), moved.angle()), agreed
        return self._wave(amplitude * phase)

    def _spread(self, log_mel: Tensor, iterations: int = 200) -> Tensor:
        """Power at each frequency, not negative, whose bands are nearly those given."""
        triangles = self.triangles().to(log_mel)
        bands = (log_mel.exp() - FLOOR).clamp(min=0)
        power = triangles.T @ (bands / triangles.sum(1, keepdim=True)) + FLOOR
        for _ in range(iterations):
            power *= (triangles.T @ bands) / (triangles.T @ (triangles @ power) + 1e-20)
        return power

    def _hann(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.window, dtype=like.dtype, device=like.device)

    def _transformed(self, wave: Tensor) -> Tensor:
        return torch.stft(
            wave, self.size, self.hop, self.window, self._hann(wave), pad_mode="constant",
            return_complex=True,
        )  # fmt: skip

    def _wave(self, spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, self.size, self.hop, self.window, self._hann(spectrum.real))


def _mel(hz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hz / 700)


def _hertz(mel: Tensor) -> Tensor:
    return 700 * (10 ** (mel / 2595) - 1)
