"""Where the command prints, and what becomes of it when nobody reads on."""

import io
import os
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80
UNREAD = 141  # what a shell says of a program that SIGPIPE ended: 128 + 13


def terminal(*, wide: bool = False) -> "Console":
    """A console on stdout, of 80 columns at most if it is not to be wide."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich would end the process with code 1

    console = Terminal(highlight=False)
    return console if wide else Terminal(highlight=False, width=min(console.width, WIDTH))


def is_unread() -> bool:
    """Whether whoever read stdout has left, as `head` does; then what is printed goes nowhere."""
    try:
        stdout = sys.stdout.fileno()
    except io.UnsupportedOperation:  # no file at all
        return False
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(stdout, 0)  # errors are told unasked
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)  # for what is left in Python's buffer
    return True
