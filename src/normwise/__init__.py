"""Find the right normalization layer for a network, on its own data."""

__version__ = "0.1.0.dev0"
