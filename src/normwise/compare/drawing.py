"""The look that all plots share, and the way of a figure into a page.

A plot names its colours by role: "ink", "rule", "better". While matplotlib
draws, each role is a colour that nothing else uses; in the finished SVG it
becomes a custom property of the page, `var(--ink)`, so one drawing serves a
light page and a dark one, and the palette lives in the page's style alone.
"""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from matplotlib import style
from matplotlib.figure import Figure

from normwise.compare.outcome import VERDICTS

PAINTS = {
    role: f"#0101{number:02x}"
    for number, role in enumerate(("ink", "muted", "rule", "shade", "paper", *VERDICTS))
}

# As wide as this, a point becomes about one pixel on a phone and one and a half
# in a column of a wide page: both leave 9.5 points readable.
WIDTH_INCHES = 4.7

_LOOK = {
    "svg.fonttype": "none",  # text stays text: selectable, and set in the page's own font
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 9.5,
    "axes.titlesize": 9,
    "axes.titlepad": 3,
    "text.color": PAINTS["ink"],
    "axes.edgecolor": PAINTS["rule"],
    "axes.labelcolor": PAINTS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": PAINTS["rule"],
    "grid.linewidth": 0.7,
    "lines.solid_capstyle": "round",
    "xtick.color": PAINTS["rule"],
    "xtick.labelcolor": PAINTS["muted"],
    "ytick.color": PAINTS["rule"],
    "ytick.labelcolor": PAINTS["muted"],
    "ytick.left": False,
}

_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"#([\w-]+)")


@dataclass(frozen=True)
class Mark:
    """How a verdict looks besides its colour: a sign in text, a marker in plots."""

    sign: str
    marker: str
    hollow: bool = False


MARKS = {
    "baseline": Mark("■", "s"),
    "better": Mark("▲", "^"),
    "equivalent": Mark("◆", "D"),
    "undecided": Mark("○", "o", hollow=True),
    "worse": Mark("▼", "v"),
    "failed": Mark("✕", "x"),
}


def marker(verdict: str) -> dict[str, Any]:
    """How a mean is drawn, as arguments of `Axes.plot`."""
    mark = MARKS[verdict]
    return {
        "marker": mark.marker,
        "markersize": 7,
        "linestyle": "none",
        "color": PAINTS[verdict],
        "markerfacecolor": PAINTS["paper"] if mark.hollow else PAINTS[verdict],
        "markeredgewidth": 1.5 if mark.hollow else 0.5,
        "zorder": 3,
    }


def draw_inline(name: str, label: str, height_inches: float, draw: Callable[[Figure], None]) -> str:
    """An `<svg>` to stand inside an HTML page, which says `label` to who cannot see it.

    No namespace, no metadata, no size but its viewBox; and of all ids those that
    are referred to, numbered under `name`, so that several can share a page.
    The same drawing gives the same text.
    """
    text = io.StringIO()
    with style.context(["default", _LOOK]), warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's own font misses.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        draw(figure)
        figure.savefig(text, format="svg", transparent=True)
    root = ElementTree.fromstring(text.getvalue())
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    for child in [c for c in root if c.find("{*}style") is not None or "metadata" in c.tag]:
        root.remove(child)
    _strip(root)
    _renumber(root, name)
    return ElementTree.tostring(root, encoding="unicode")


def _strip(root: ElementTree.Element) -> None:
    """Take off namespaces and hidden digits, and put the page's colours in."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if element.tag not in ("text", "tspan"):
            element.text = None
        for attribute, value in list(element.attrib.items()):
            del element.attrib[attribute]
            if attribute in ("d", "x", "y", "transform"):
                # A hundredth of a point is invisible, and the page half as long.
                value = _NUMBER.sub(lambda m: f"{float(m[0]):.2f}", " ".join(value.split()))
            if attribute in ("style", "fill", "stroke"):
                for role, colour in PAINTS.items():
                    value = value.replace(colour, f"var(--{role})")
            element.attrib[attribute.rpartition("}")[2]] = value


def _renumber(root: ElementTree.Element, name: str) -> None:
    """Give the ids that are referred to short names of their own, and drop the rest."""
    linking = ("href", "clip-path")
    used = dict.fromkeys(
        found
        for element in root.iter()
        for attribute in linking
        for found in _REFERENCE.findall(element.get(attribute, ""))
    )
    short = {found: f"{name}-{number}" for number, found in enumerate(used)}
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in short:
            element.set("id", short[own])
        for attribute in linking:
            if attribute in element.attrib:
                link = element.attrib[attribute]
                element.set(attribute, _REFERENCE.sub(lambda m: f"#{short[m[1]]}", link))
