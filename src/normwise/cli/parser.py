"""How the command's words are read, and how its help is set."""

import argparse
import re
import textwrap
from collections.abc import Iterable
from typing import Any

_MEANT = re.compile(r" +\S+(?: \S+)*  +")  # up to where an indented line says what words mean


class Parser(argparse.ArgumentParser):
    """As argparse has it, and so have the commands below it; its help fits the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})


class _Help(argparse.HelpFormatter):
    """Descriptions keep their paragraphs and what is indented; options tell their defaults."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = (self._filled(block.splitlines(), width) for block in text.split("\n\n"))
        return "\n\n".join("\n".join(block) for block in blocks)

    def _filled(self, lines: list[str], width: int) -> Iterable[str]:
        prose: list[str] = []
        for line in lines:
            if not line.startswith(" "):
                prose.append(line)
                continue
            if prose:
                yield textwrap.fill(" ".join(prose), width)
                prose = []
            meant = _MEANT.match(line)  # without: a command, which is to be copied whole
            further = " " * (meant.end() if meant else 0)
            yield textwrap.fill(line, width, subsequent_indent=further) if meant else line
        if prose:
            yield textwrap.fill(" ".join(prose), width)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is False or action.default in (None, (), argparse.SUPPRESS)
        if nothing or action.help is None or "default" in action.help:
            return action.help
        return f"{action.help}; default: {_as_written(action.default)}"


def _as_written(default: object) -> str:
    """A value as one would give it to the command."""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)
