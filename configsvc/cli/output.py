"""What commands print: a table for people on a terminal, plain lines for whatever reads a pipe.

Nothing is wrapped or shortened in a pipe, and no text that came over the network can steer a terminal.
"""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import typer

from configsvc.cli import exits

_CONTROL = re.compile(r"[\x7f-\x9f\u2028\u2029]")


def is_terminal() -> bool:
    """Whether a person reads along."""
    # Python has none where it was closed before the start.
    return sys.stdout is not None and sys.stdout.isatty()


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Write to stdout. Ends the command where that cannot be: with 0 where nobody reads on, else with 74 and a line."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        forget()
        raise typer.Exit(0) from None
    except OSError as error:
        forget()
        exits.fail(exits.OUTPUT, f"cannot write to stdout: {error.strerror or error}")


def forget() -> None:
    """Keep the interpreter from writing at its end what could not be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def json_text(value: Any, *, indent: int = 0) -> str:
    """JSON on one line, or indented; control characters that JSON would leave as they are get escaped too."""
    encoded = msgspec.json.encode(value)
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode("utf-8")
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    """Text for one cell or line: what is not printable is escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def line(text: str) -> None:
    """One line to stdout as UTF-8, whatever the locale."""
    with written():
        typer.echo(text.encode("utf-8", "surrogateescape"))


SHORT = 24
"""Characters of a cell that is never folded; a time has as many."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a head on a terminal; else one line per row, cells separated by tabs, without the head."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not is_terminal():
        for row in cells:
            line("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    shown = Table(*head, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, width in zip(shown.columns, widths, strict=True):
        column.overflow = "fold"
        # A short cell, such as a time, is read at a glance or not at all: it is the long ones that are folded.
        column.no_wrap = width <= SHORT
    # What it is about stays in one piece as long as there is room.
    shown.columns[0].min_width = min(32, widths[0])
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    with written():
        Console(highlight=False).print(shown)


def styled(lines: Iterable[tuple[str, str]], *, to_stderr: bool = False) -> None:
    """Lines with a style each, which only a terminal is shown. Nothing is wrapped: they can be copied."""
    stream = sys.stderr if to_stderr else sys.stdout
    if stream is None or not stream.isatty():
        for text, _ in lines:
            if to_stderr:
                typer.echo(text.encode("utf-8", "surrogateescape"), err=True)
            else:
                line(text)
        return
    from rich.console import Console
    from rich.text import Text

    out = Console(highlight=False, soft_wrap=True, stderr=to_stderr)
    for text, style in lines:
        out.print(Text(text, style))
