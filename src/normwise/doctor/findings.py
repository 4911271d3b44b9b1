"""What the doctor says: findings, each with its evidence and its cure."""

import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal, get_args

Severity = Literal["error", "warning", "hint"]
WIDTH = 80
_INDENT = 8


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a model, or could be better.

    check     the name of what was looked for: "one-element"
    severity  "error": results are wrong or lost; "warning": they will suffer;
              "hint": nothing is wrong, and something could be better
    where     the paths of the layers
    what      what was found, with numbers
    why       why it matters
    cure      the call that cures it
    evidence  the numbers, by name
    """

    check: str
    severity: Severity
    where: tuple[str, ...]
    what: str
    why: str
    cure: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        places = _several(self.where)
        head = f"{self.severity.upper():8}{places}  ({self.check})"
        lines = textwrap.wrap(head, WIDTH, subsequent_indent=" " * _INDENT, break_long_words=False)
        lines += _paragraph("", self.what) + _paragraph("why", self.why)
        for i, line in enumerate(self.cure.splitlines()):
            # Code keeps its own indentation; no word of it is broken.
            lines.append(f"{' ' * _INDENT}{'' if i else 'cure':5}{line}")
        return "\n".join(lines)


class Findings(tuple[Finding, ...]):
    """The findings of an examination, worst first. Prints as a report of 80 columns."""

    __slots__ = ()

    def __new__(cls, findings: Iterable[Finding] = ()) -> "Findings":
        order = get_args(Severity)
        return super().__new__(cls, sorted(findings, key=lambda f: order.index(f.severity)))

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; hints do not count."""
        return all(finding.severity == "hint" for finding in self)

    def rows(self) -> list[dict[str, Any]]:
        """The findings as plain data, for JSON, which has no NaN: "nan", "inf" and "-inf"."""
        return [_plain(asdict(finding)) for finding in self]

    def __str__(self) -> str:
        if not self:
            return "Nothing found: the norms of this model are well."
        counts = [
            f"{n} {name}{'s' * (n > 1)}"
            for name in get_args(Severity)
            if (n := sum(finding.severity == name for finding in self))
        ]
        return "\n\n".join([", ".join(counts) + ".", *map(str, self)])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _several(paths: tuple[str, ...], shown: int = 4) -> str:
    names = [path or "(the model)" for path in paths]
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _paragraph(title: str, text: str) -> list[str]:
    first = " " * _INDENT + (f"{title:5}" if title else "")
    rest = " " * len(first)
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False
    )
