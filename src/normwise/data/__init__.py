"""Real signals that come with the package; README.md beside this file names their sources."""

from normwise.data.vowels import Utterances, japanese_vowels

__all__ = ["Utterances", "japanese_vowels"]
