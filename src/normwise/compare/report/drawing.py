"""The look that all plots share, and the way of a drawing into a page or a notebook.

A plot names its colours by role: "ink", "rule", "better". For a page, each role is a
colour that nothing else uses while matplotlib draws; in the finished SVG it becomes a
custom property, `var(--ink)`, so one drawing serves a light page and a dark one. For a
notebook the same drawing is made with the palette itself.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from matplotlib import style
from matplotlib.figure import Figure

# role: on a light page, on a dark one
_COLOURS = {
    "paper": ("#fcfcfb", "#15181c"),
    "raised": ("#f4f4f2", "#1d2126"),
    "ink": ("#1b1f24", "#e7e9ec"),
    "muted": ("#5c6570", "#9aa4af"),
    "rule": ("#d5d8dc", "#3a4149"),
    "shade": ("#e7ecea", "#26302f"),
    "baseline": ("#1b1f24", "#e7e9ec"),
    "better": ("#0065a8", "#6db7f2"),
    "equivalent": ("#007a5c", "#4ec9a2"),
    "undecided": ("#66707c", "#a3acb6"),
    "worse": ("#b54708", "#f79a5e"),
    "failed": ("#66707c", "#a3acb6"),
    "line-0": ("#0065a8", "#6db7f2"),
    "line-1": ("#b54708", "#f79a5e"),
    "line-2": ("#007a5c", "#4ec9a2"),
    "line-3": ("#7b3fb5", "#c3a0f5"),
    "line-4": ("#b5177a", "#f48fc4"),
    "line-5": ("#7a6a00", "#d6c34a"),
    "line-6": ("#00738a", "#4fc3d9"),
    "line-7": ("#8a4b2a", "#d9a07c"),
}
LIGHT = {role: light for role, (light, _) in _COLOURS.items()}
DARK = {role: dark for role, (_, dark) in _COLOURS.items()}
LINES = [role for role in LIGHT if role.startswith("line-")]
_PLACEHOLDERS = {role: f"#0101{number:02x}" for number, role in enumerate(LIGHT)}
_palette: ContextVar[Mapping[str, str]] = ContextVar("palette", default=_PLACEHOLDERS)

# As wide as this, a point becomes about one pixel on a phone and one and a half
# in a column of a wide page: both leave 9.5 points readable.
WIDTH_INCHES = 4.7

_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"#([\w-]+)")


def paint(role: str) -> str:
    """The colour of a role in the drawing that is under way."""
    return _palette.get()[role]


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
        "color": paint(verdict),
        "markerfacecolor": paint("paper" if mark.hollow else verdict),
        "markeredgewidth": 1.5 if mark.hollow else 0.5,
        "zorder": 3,
    }


@dataclass(frozen=True)
class Plot:
    """A drawing with its name, its title, what it shows in words, and how to read it."""

    name: str
    title: str
    finding: str
    reading: str
    height_inches: float
    draw: Callable[[Figure], None]

    def svg(self) -> str:
        """An `<svg>` to stand inside an HTML page, with title and finding for who cannot see it.

        No namespace, no metadata, no size but its viewBox; and of all ids those that
        are referred to, numbered under `name`, so that several can share a page.
        The same drawing gives the same text.
        """
        text = io.StringIO()
        with _look(_PLACEHOLDERS):
            figure = Figure(figsize=(WIDTH_INCHES, self.height_inches), layout="constrained")
            self.draw(figure)
            figure.savefig(text, format="svg", transparent=True)
        root = ElementTree.fromstring(text.getvalue())
        for child in [c for c in root if c.find("{*}style") is not None or "metadata" in c.tag]:
            root.remove(child)
        _strip(root)
        _renumber(root, self.name)
        root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img"}
        for place, (tag, words) in enumerate((("title", self.title), ("desc", self.finding))):
            element = ElementTree.Element(tag, id=f"{self.name}-{tag}")
            element.text = words
            root.insert(place, element)
        root.set("aria-labelledby", f"{self.name}-title {self.name}-desc")
        return ElementTree.tostring(root, encoding="unicode")

    def figure(self) -> Figure:
        """The drawing as a figure of matplotlib, in the light palette; a notebook shows it."""
        with _look(LIGHT):
            figure = Picture(figsize=(WIDTH_INCHES, self.height_inches), layout="constrained")
            figure.set_facecolor(paint("paper"))
            self.draw(figure)
            figure.draw_without_rendering()  # ticks are made now, in this look
        return figure


class Picture(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        with _look(LIGHT):
            self.savefig(image, format="png", dpi=144)
        return image.getvalue()


@contextmanager
def _look(palette: Mapping[str, str]) -> Iterator[None]:
    """Everything is drawn in one style inside the block, whatever the user's is."""
    token = _palette.set(palette)
    own = {
        "svg.fonttype": "none",  # text stays text: selectable, and set in the page's own font
        "text.parse_math": False,  # a $ in a name is a $
        "font.size": 9.5,
        "axes.titlesize": 9,
        "axes.titlepad": 3,
        "text.color": paint("ink"),
        "axes.facecolor": "none",
        "axes.edgecolor": paint("rule"),
        "axes.labelcolor": paint("muted"),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "grid.color": paint("rule"),
        "grid.linewidth": 0.7,
        "lines.solid_capstyle": "round",
        "xtick.color": paint("rule"),
        "xtick.labelcolor": paint("muted"),
        "ytick.color": paint("rule"),
        "ytick.labelcolor": paint("muted"),
        "ytick.left": False,
    }
    try:
        with style.context(["default", own]), warnings.catch_warnings():
            # The browser has the glyphs that matplotlib's own font misses.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            yield
    finally:
        _palette.reset(token)


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
                for role, colour in _PLACEHOLDERS.items():
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
