"""Whole applications on real data, each a start to copy from.

A recipe is a module of this folder that has

    a docstring     its first line is listed by `normwise recipe`, all of it is what
                    `normwise recipe NAME --help` tells
    add_options     of an argparse parser: what the recipe can be told
    a function      of the module's name, which takes these as keywords, and out and command;
                    it writes into the folder out and returns an `Outcome`
    LEFT            if stopping it leaves something else than finished trials: what

What recipes of one kind share lies in the folders: of series, sounds and images.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from normwise.recipes.outcome import Outcome

NAMES = ("adapt", "anomaly", "forecast", "speech", "style", "style-fast", "style-train", "voice")


def recipes() -> dict[str, ModuleType]:
    """Every recipe's module, by name."""
    return {name: import_module(f"normwise.recipes.{_module(name)}") for name in NAMES}


def function_of(name: str) -> Callable[..., Outcome]:
    """The function that a recipe is."""
    function: Callable[..., Outcome] = getattr(recipes()[name], _module(name))
    return function


def _module(name: str) -> str:
    return name.replace("-", "_")
