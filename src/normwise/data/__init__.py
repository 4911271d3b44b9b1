"""Signals: real ones that come with the package, and series from a file of one's own.

README.md beside this file names the sources of those that come.
"""

from normwise.data.series import Series, packaged, read_series
from normwise.data.voices import VOICES, prompts
from normwise.data.vowels import Utterances, japanese_vowels

__all__ = [
    "VOICES",
    "Series",
    "Utterances",
    "japanese_vowels",
    "packaged",
    "prompts",
    "read_series",
]
