"""The norms by name: what `"group:8"` means, and when each is the right choice."""

import ast
import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from normwise import layers
from normwise.axes import SCHEMES, Scheme, parse
from normwise.demands import Demands, demands
from normwise.errors import NormError


@dataclass(frozen=True)
class Entry:
    """One norm of the catalogue.

    name      the first word of its candidate string
    rows      its rows of the table; empty where nothing is measured, None where nothing
              is done
    when      when it is the right choice, in one sentence
    source    authors, year and arXiv number
    layers    the class for x with 1, 2 or 3 dimensions after N and C; 0 is the one
              for features in the last dimensions
    argument  what stands after the colon, "group:8"; None where nothing has to
    defaults  what the class is given beside its number of features
    usual     whether a comparison tries it without being asked
    cumulative  whether a position counts itself and those before it, none after
    activates  whether it takes the place of the activation that follows, too
    reversible  whether its layer returns what it takes to go back, too, and so can stand
              in a `Reversible` alone
    """

    name: str
    rows: tuple[Scheme, ...] | None
    when: str
    source: str
    layers: Mapping[int, Callable[..., torch.nn.Module]]
    argument: str | None = None
    defaults: Mapping[str, Any] | None = None
    usual: bool = False
    cumulative: bool = False
    activates: bool = False
    reversible: bool = False

    @property
    def averages(self) -> str:
        """Its rows as patterns, joined by +; empty where nothing is measured."""
        return " + ".join(str(row.pattern) for row in self.rows or ())

    @property
    def demands(self) -> Demands:
        """What it demands, at the least, of memory and of the data around."""
        return demands(self.rows, cumulative=self.cumulative)

    @property
    def usage(self) -> str:
        """How a candidate of this norm is written: group:8."""
        return f"{self.name}:8" if self.argument else self.name


def _ranks(
    name: str, dims: tuple[int, ...] = (1, 2, 3)
) -> dict[int, Callable[..., torch.nn.Module]]:
    return {dim: getattr(layers, f"{name}{dim}d") for dim in dims}


def _rows(*names: str) -> tuple[Scheme, ...]:
    return tuple(SCHEMES[name] for name in names)


_ENTRIES = (
    Entry(
        "none",
        None,
        "The network may not need a norm at all; always worth a try.",
        "–",
        {0: partial(layers.Identity, trailing=True), **dict.fromkeys((1, 2, 3), layers.Identity)},
        usual=True,
    ),
    Entry(
        "batch",
        _rows("batch"),
        "Large batches of data that stays the same in use.",
        "Ioffe and Szegedy 2015, arXiv:1502.03167",
        _ranks("BatchNorm"),
        usual=True,
    ),
    Entry(
        "instance",
        _rows("instance"),
        "Level and loudness of a series carry no meaning: style, speakers, sensors.",
        "Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022",
        _ranks("InstanceNorm"),
        defaults={"affine": True},
        usual=True,
    ),
    Entry(
        "group",
        _rows("group"),
        "Small batches, where batch norm's statistics are noise.",
        "Wu and He 2018, arXiv:1803.08494",
        _ranks("GroupNorm"),
        argument="num_groups",
        usual=True,
    ),
    Entry(
        "layer",
        _rows("layer"),
        "Streams and transformers: no position depends on another.",
        "Ba, Kiros and Hinton 2016, arXiv:1607.06450",
        {0: layers.LayerNorm, **_ranks("LayerNorm")},
        usual=True,
    ),
    Entry(
        "rms",
        _rows("rms"),
        "As layer norm, cheaper: the mean stays.",
        "Zhang and Sennrich 2019, arXiv:1910.07467",
        {0: layers.RMSNorm, **_ranks("RMSNorm")},
        usual=True,
    ),
    Entry(
        "renorm",
        _rows("batch"),
        "As batch norm, where batches are small or not alike.",
        "Ioffe 2017, arXiv:1702.03275",
        _ranks("BatchRenorm"),
        # A hundredth of the paper's steps, for trainings of about 1,600 batches.
        defaults={"hold_steps": 50, "r_steps": 400, "d_steps": 250},
        usual=True,
    ),
    Entry(
        "ghost",
        _rows("ghost"),
        "Large batches that generalise worse than small ones did.",
        "Hoffer, Hubara and Soudry 2017, arXiv:1705.08741",
        _ranks("GhostBatchNorm"),
        argument="ghost_size",
    ),
    Entry(
        "switchable",
        _rows("instance", "sample", "batch"),
        "It is not clear which statistics to trust, and there is data to learn it from.",
        "Luo, Ren, Peng, Zhang and Li 2019, arXiv:1806.10779",
        _ranks("SwitchableNorm"),
    ),
    Entry(
        "causal",
        (Scheme(parse("n [c t]")),),
        "Streams, where layer norm's single position is too little to go by.",
        "Luo and Mesgarani 2019, arXiv:1809.07454",
        _ranks("CausalNorm", (1,)),
        cumulative=True,
    ),
    Entry(
        "reversible",
        _rows("instance"),
        "Forecasts of series whose level and scale drift; takes them off and puts them back.",
        "Kim, Kim, Tae, Park, Choi and Choo 2022, OpenReview cGDAkQo1C0p",
        {1: layers.ReversibleInstanceNorm},
        reversible=True,
    ),
    Entry(
        "filter-response",
        _rows("response"),
        "Convolutions on batches of any size; brings its own activation.",
        "Singh and Krishnan 2020, arXiv:1911.09737",
        _ranks("FilterResponseNorm", (1, 2)),
        activates=True,
    ),
    Entry(
        "evonorm-s0",
        _rows("group"),
        "As group norm, where the activation may be replaced with it.",
        "Liu, Brock, Simonyan and Le 2020, arXiv:2004.02967",
        _ranks("EvoNormS0", (1, 2)),
        activates=True,
    ),
    Entry(
        "evonorm-b0",
        _rows("instance", "batch"),
        "As batch norm, where the activation may be replaced with it.",
        "Liu, Brock, Simonyan and Le 2020, arXiv:2004.02967",
        _ranks("EvoNormB0", (1, 2)),
        activates=True,
    ),
    Entry(
        "global-response",
        _rows("response"),
        "Wide layers whose channels grow alike or fall silent.",
        "Woo, Debnath, Hu, Chen, Liu, Kweon and Xie 2023, arXiv:2301.00808",
        _ranks("GlobalResponseNorm", (1, 2)),
    ),
    Entry(
        "tanh",
        (),
        "Statistics are too dear or too noisy: a learned squashing instead.",
        "Zhu, Chen, He, LeCun and Liu 2025, arXiv:2503.10622",
        dict.fromkeys((1, 2, 3), layers.DynamicTanh),
    ),
    Entry(
        "erf",
        (),
        "As tanh, with a flatter middle and sharper ends.",
        "Chen, Lu, Zhu, Sun and Liu 2025, arXiv:2512.10938",
        dict.fromkeys((1, 2, 3), layers.DynamicErf),
    ),
)


def catalogue() -> dict[str, Entry]:
    """Every norm that can be a candidate, by name."""
    return {entry.name: entry for entry in _ENTRIES}


@dataclass(frozen=True)
class Candidate:
    """A candidate string taken apart: the norm, and the arguments it is made with."""

    text: str
    entry: Entry
    arguments: Mapping[str, Any]

    def make(self, num_features: int | tuple[int, ...] | None, dim: int) -> torch.nn.Module:
        """The layer for `num_features` channels and `dim` dimensions after N and C."""
        build = self.entry.layers.get(dim)
        if build is None:
            dims = ", ".join(map(str, self.entry.layers))
            raise NormError(f"{self.text!r} has no layer for dim={dim}; it has {dims}")
        keywords = {**(self.entry.defaults or {}), **self.arguments}
        known = self._known(build)
        for keyword in keywords:
            if keyword not in known:
                raise NormError(
                    f"candidate {self.text!r}: {self.entry.name} has no argument {keyword!r}; "
                    f"it has {', '.join(known) or 'none'}"
                )
        leading = [keywords.pop(self.entry.argument)] if self.entry.argument else []
        return build(*leading, num_features, **keywords)

    def _known(self, build: Callable[..., torch.nn.Module]) -> list[str]:
        """What a candidate may say: all but the size and the place, which the model decides."""
        size = 1 if self.entry.argument else 0
        return [
            parameter.name
            for i, parameter in enumerate(inspect.signature(build).parameters.values())
            if i != size
            and parameter.name not in ("device", "dtype", "trailing", "activation")
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]


def parse_candidate(text: str) -> Candidate:
    """Read ``name``, ``name:value`` or ``name:key=value,key=value``.

    Raises
        NormError  for a name that is not in the catalogue (with the nearest that
                   is), a value that is missing, or one that is not wanted.
    """
    name, _, rest = text.strip().partition(":")
    entries = catalogue()
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        meant = f"; did you mean {text.replace(name, near[0])!r}?" if near else "."
        known = ", ".join(entry.usage for entry in entries.values())
        raise NormError(f"candidate {text!r} is not known{meant} Known are {known}")
    entry = entries[name]
    arguments: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.rpartition("=")
        if not equals:
            if entry.argument is None or arguments:
                start = f"{entry.usage}," if entry.argument else f"{name}:"
                raise NormError(
                    f"candidate {text!r}: {part!r} needs a name before it, as in {start}eps=1e-3; "
                    f"{name} takes {'one' if entry.argument else 'no'} bare value"
                )
            key = entry.argument
        key = key.strip()
        if key in arguments:
            raise NormError(f"candidate {text!r} gives {key} twice")
        arguments[key] = _value(value.strip())
    if entry.argument and entry.argument not in arguments:
        raise NormError(f"candidate {text!r} needs {entry.argument}: write {entry.usage}")
    return Candidate(text.strip(), entry, arguments)


def split_candidates(text: str) -> list[str]:
    """group:8,batch:momentum=0.01,eps=1e-3 → two candidates: eps belongs to batch."""
    names: list[str] = []
    for part in text.replace(" ", ",").split(","):
        if names and "=" in part and ":" not in part:
            names[-1] += f",{part}"
        elif part:
            names.append(part)
    return names


def make(candidate: str, num_features: int | None = None, dim: int = 1) -> torch.nn.Module:
    """The layer that a candidate string means: ``make("group:8", 64)``.

    num_features  C; inferred from the first input if left out
    dim           how many dimensions follow N and C: 1 signals, 2 images, 3 volumes;
                  0 where the features are in the last dimension

    Raises
        NormError  if the string is not understood or the layer cannot be made.
    """
    return parse_candidate(candidate).make(num_features, dim)


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
