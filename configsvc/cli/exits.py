"""Exit codes of the commands (from 64 on those of BSD's sysexits.h), and how a command says why it ends.

Without typer: the service ends by these too, and runs without it (`process.py`).
"""

import sys
from typing import NoReturn

FAILED = 1
"""What was asked for is not there, or a check failed."""
USAGE = 2
"""A wrong command line, or an argument that cannot be right."""
DATA = 65
"""What was to be written, or a file that was to be restored, cannot be taken as it is."""
UNAVAILABLE = 69
"""Something that the command needs is not to be had: a port, etcd in time, the service."""
OUTPUT = 74
"""What was to be printed could not be written."""
TRY_AGAIN = 75
"""Other writers came first, or it is not known whether the write took place."""
CONFLICT = 76
"""The scope is not as the write took it to be, is frozen, or has something that the write would undo."""
REFUSED = 77
"""The service says that the caller may not do this."""
CONFIG = 78
"""Wrong settings, or a part that is not installed."""


def warn(line: str) -> None:
    """A line on stderr; the command goes on."""
    print(f"configsvc: {line}", file=sys.stderr, flush=True)  # noqa: T201


def fail(code: int, *lines: str) -> NoReturn:
    """End the command with `code`, after a line on stderr for each problem."""
    for line in lines:
        warn(line)
    raise SystemExit(code)
