"""What a process of the service is made of: settings, an event loop, and a start that imports no more than it needs.

Without typer and what comes with it: `__main__` calls `serve` directly where there is nothing to parse, because a
service runs for months with what its start has imported, in every pod again.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from configsvc.cli import exits

if TYPE_CHECKING:
    from configsvc.settings import Settings


def serve(config: Path | None) -> NoReturn:
    """Be `configsvc serve`: serve until a signal and exit, with the codes that its help names.

    Signals are `signals.begin`'s by now.
    """
    # Nearly all that importing makes stays: looking for garbage in it meanwhile took a tenth of their time.
    gc.disable()
    # First of all: without the packages of the service, settings are of no use.
    _import_structlog()
    settings = load_settings(config)
    from configsvc.settings import SettingsError
    from configsvc.web import server

    gc.freeze()
    gc.enable()
    try:
        if settings.workers > 1:
            from configsvc.web import workers

            code = workers.serve(settings, run)
        else:
            code = run(server.serve(settings))
    except SettingsError as error:
        exits.fail(exits.CONFIG, *error.problems)
    raise SystemExit(code)


def load_settings(config: Path | None, changes: Mapping[str, str | None] | None = None) -> "Settings":
    """The settings of this process; `changes` are variables to set or, where None, to leave out.

    Exits 78 where something is wrong, with a line for each problem, and for each warning that may explain one.
    """
    from configsvc.settings import SettingsError, load

    environ = {**os.environ, **(changes or {})}
    try:
        return load({name: value for name, value in environ.items() if value is not None}, config)
    except SettingsError as error:
        for warning in error.warnings:
            exits.warn(f"warning: {warning}")
        exits.fail(exits.CONFIG, *error.problems)


def run(command: Coroutine[Any, Any, int]) -> int:
    """Run a command on uvloop where that is installed, else on asyncio's own loop."""
    try:
        from uvloop import new_event_loop
    except ModuleNotFoundError:
        return asyncio.run(command)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(command)


def _import_structlog() -> None:
    """Import structlog without rich, which it takes where it finds it: a sixth of the imports' time.

    Rich is for tracebacks of a kind that `logs.py` does not write.
    """
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]  # how Python is told that there is none
        try:
            import structlog  # noqa: F401
        finally:
            del sys.modules["rich"]
