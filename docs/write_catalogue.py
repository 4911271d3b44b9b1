"""Write docs/catalogue.md from the catalogue and the layers' docstrings.

python docs/write_catalogue.py
"""

import inspect
from functools import partial
from itertools import dropwhile, takewhile
from pathlib import Path
from textwrap import fill

import torch

import normwise as nw
from normwise.catalogue import Entry
from normwise.demands import IN_WORDS, Passes

PAGE = Path(__file__).parent / "catalogue.md"

# Layers that no candidate string makes: their classes, when to take them, what they cost.
OTHERS = [
    (
        (nw.SyncBatchNorm,),
        "Batch norm in several processes, where one's batch is too small.",
        "as `batch`; and the processes wait for each other, to exchange 3 numbers per channel",
    ),
    (
        (nw.FrozenBatchNorm1d, nw.FrozenBatchNorm2d, nw.FrozenBatchNorm3d),
        "A pretrained network that is to keep the statistics it came with.",
        "as `batch` in inference, in training too",
    ),
    (
        (nw.AdaptiveInstanceNorm1d, nw.AdaptiveInstanceNorm2d),
        "The style of another signal or image, given as an example.",
        "as `instance`; and a read of the style",
    ),
    (
        (nw.ConditionalInstanceNorm1d, nw.ConditionalInstanceNorm2d),
        "One network for many styles, speakers or sensors, known by number.",
        "as `instance`; and 2 parameters per style and channel",
    ),
    (
        (nw.Norm,),
        "Any other axes, or another memory: a normalization of one's own, as a pattern.",
        "as the norm above whose brackets are alike",
    ),
]

INTRODUCTION = f"""\
# The catalogue

Every norm that `nw.make`, `nw.swap` and `normwise compare` know by name. In a pattern,
brackets stand around what is averaged, and everything else keeps a statistic of its own:
`n` samples, `c` channels, `g` a part of a dimension, `...` all that are not named.

{fill(IN_WORDS, width=90)}

`docs/write_catalogue.py` writes this page.
"""


def classes(entry: Entry) -> list[type[torch.nn.Module]]:
    """The classes that an entry makes, each once."""
    made = (build.func if isinstance(build, partial) else build for build in entry.layers.values())
    return list(dict.fromkeys(made))


def description(layer: type[torch.nn.Module]) -> list[str]:
    """The lines of the docstring that tells of a layer: its own, or the one it refers to."""
    text = inspect.cleandoc(layer.__doc__)
    return (
        description(getattr(nw, text.split("`")[1])) if text.startswith("`") else text.split("\n")
    )


def formula(layer: type[torch.nn.Module]) -> str:
    """The first indented lines of a layer's description."""
    lines = dropwhile(lambda line: not line.startswith("    "), description(layer))
    return inspect.cleandoc("\n" + "\n".join(takewhile(str.strip, lines)))


def passes(counted: Passes) -> str:
    """How often the signal goes through memory: 1 read, 1 write."""
    named = zip(counted._fields, counted, strict=True)
    return ", ".join(
        f"{count} {name.removesuffix('s') if count == 1 else name}" for name, count in named
    )


def section(entry: Entry) -> str:
    """What the page says of one norm."""
    layers, least = classes(entry), entry.demands
    patterns = " and ".join(f"`{pattern}`" for pattern in filter(None, entry.averages.split(" + ")))
    formulas = dict.fromkeys(map(formula, layers))
    return "\n".join(
        [
            f"## `{entry.usage}`",
            "",
            entry.when,
            "",
            *(f"```text\n{text}\n```\n" for text in formulas),
            f"- Averaged over: {patterns or 'nothing'}",
            f"- Inference: {passes(least.inference)}; sees its {least.infers_from}",
            f"- Training: {passes(least.training)}; sees its {least.trains_on}; "
            f"keeps {' and '.join(least.keeps) or 'no number'}",
            f"- Layers: {', '.join(f'`{layer.__name__}`' for layer in layers)}",
            *([f"- Source: {entry.source}"] if entry.source != "–" else []),
            "",
        ]
    )


def other(layers: tuple[type[torch.nn.Module], ...], when: str, cost: str) -> str:
    """What the page says of layers that no candidate makes."""
    scheme = getattr(layers[0], "scheme", None)
    source = " ".join(description(layers[0])).rpartition("Source: ")[2].partition(". ")[0]
    return "\n".join(
        [
            f"### {', '.join(f'`{layer.__name__}`' for layer in layers)}",
            "",
            when,
            "",
            f"```text\n{formula(layers[0])}\n```",
            "",
            f"- Averaged over: {f'`{scheme.pattern}`' if scheme else 'what its brackets hold'}",
            f"- Cost: {cost}",
            f"- Source: {' '.join(source.split()).rstrip('.')}",
            "",
        ]
    )


def page() -> str:
    """The whole page."""
    others = ["## Layers that are made by class alone", "", *(other(*each) for each in OTHERS)]
    return "\n".join([INTRODUCTION, *map(section, nw.catalogue().values()), *others])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
