"""The version: what the package, the command and every result name."""

__version__ = "0.1.0.dev0"
