"""The command: parse, call, print. A file for each of its commands."""

import argparse
import shlex
import sys
from collections.abc import Sequence

from normwise.cli import bench, compare, doctor, norms, recipe, report
from normwise.cli.parser import Parser
from normwise.cli.terminal import UNREAD, is_unread
from normwise.errors import NormError
from normwise.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0 done, 1 the doctor found something wrong, 2 bad input (one line says what is
    wrong), 130 stopped by Ctrl-C, 141 whoever read the output has left.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _called(words)
        sys.stdout.flush()
    except BrokenPipeError:
        if not is_unread():  # it was another pipe
            raise
        return UNREAD
    return code


def _called(words: list[str]) -> int:
    try:
        options = _parser().parse_args(words)
    except SystemExit as ended:  # --help and --version have printed, deaf to errors
        sys.stdout.flush()
        if ended.code == 0 and is_unread():
            return UNREAD
        raise
    options.command_line = shlex.join(["normwise", *words])
    try:
        code: int | None = options.call(options)
    except NormError as error:
        print(f"normwise: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nnormwise: stopped; {options.left}", file=sys.stderr)
        return 130
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="normwise",
        description="Find the right normalization layer for a network. `normwise compare` alone "
        "tries it on speech that comes with normwise; `normwise COMMAND --help` tells more.",
    )
    parser.add_argument("--version", action="version", version=f"normwise {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parser.set_defaults(left="nothing was written")  # if the command is stopped
    for command in (compare, report, doctor, bench, recipe, norms):
        command.add(commands)
    return parser
