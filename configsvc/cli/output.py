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

_CONTROL = re.compile(r"[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""What JSON leaves as it is and a terminal obeys, or shows nothing for."""


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
    """JSON on one line, or indented; characters that would steer a terminal, or not be seen, are escaped too."""
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
"""Characters of a cell that is not folded as long as there is room; a time has as many."""
NARROW = 8
"""Characters that a folded column keeps at least."""
FIRST = 32
"""The same for the first column, which says what a row is about."""
GAP = 3
"""Between two columns."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a head on a terminal; else one line per row, cells separated by tabs, without the head."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not is_terminal():
        for row in cells:
            line("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = list(zip(head, *cells, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    console = Console(highlight=False)
    folded = _folded(widths, [any(" " in cell for cell in column[1:]) for column in columns], console.width)
    if folded is None:
        # Too narrow for a table: each row is one long line, which the terminal wraps.
        console.width = sum(widths) + GAP * (len(widths) - 1)
    shown = Table(*head, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for n, column in enumerate(shown.columns):
        column.overflow = "fold"
        column.no_wrap = n not in (folded or {})
        column.min_width = (folded or {}).get(n, widths[n])
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    with written():
        console.print(shown, soft_wrap=folded is None)


def _folded(widths: Sequence[int], is_prose: Sequence[bool], room: int) -> dict[int, int] | None:
    """Which columns are folded so that rows fit, and how wide they stay at least; None where rows can't fit.

    Nothing is ever cut. Short cells are read at a glance or not at all: long ones are folded, and of short ones only
    as many as it takes, those of words first.
    """
    least = [min(width, NARROW if n else FIRST) for n, width in enumerate(widths)]
    folded = {n: least[n] for n, width in enumerate(widths) if width > SHORT}
    while sum(folded.get(n, width) for n, width in enumerate(widths)) + GAP * (len(widths) - 1) > room:
        rest = [n for n in range(len(widths)) if n not in folded]
        if not rest:
            return None
        next_one = max(rest, key=lambda n: (is_prose[n], widths[n]))
        folded[next_one] = least[next_one]
    return folded


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
