"""The command line: one file per group of commands, each a few lines that read options and call the service.

Nothing is decided here. Imports at the top of a command's file are those that its `--help` needs; what a command works
with it imports when it runs, so that the command line answers at once. `app` is all of them (`commands.py`), made when
it is asked for: the service itself runs without.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from configsvc.cli.commands import app

    return app
