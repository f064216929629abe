"""Exit codes of the commands (those of BSD's sysexits.h), and how a command says why it ends."""

from typing import NoReturn

import typer

UNAVAILABLE = 69
"""Something that the command needs is not to be had: a port, etcd in time."""
CONFIG = 78
"""Wrong settings, or a part that is not installed."""


def fail(code: int, *lines: str) -> NoReturn:
    """End the command with `code`, after a line on stderr for each problem."""
    for line in lines:
        typer.echo(f"configsvc: {line}", err=True)
    raise typer.Exit(code)
