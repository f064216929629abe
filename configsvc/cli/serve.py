"""`configsvc serve`: the service as production runs it."""

import asyncio
import os
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configsvc.cli import exits

if TYPE_CHECKING:
    from configsvc.settings import Settings

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file, instead of config-service.yaml in this directory."),
]


def serve(config: ConfigFile = None) -> None:
    """Serve configuration from etcd, as environment and file say.

    Exit codes: 0 after SIGTERM or SIGINT, 69 port in use or start time-out, 78 wrong settings (all of them listed).
    """
    settings = load_settings(config)
    from configsvc.settings import SettingsError
    from configsvc.web import server

    try:
        if settings.workers > 1:
            from configsvc.web import workers

            code = workers.serve(settings, run)
        else:
            code = run(server.serve(settings))
    except SettingsError as error:
        exits.fail(exits.CONFIG, *error.problems)
    raise typer.Exit(code)


def load_settings(config: Path | None, changes: Mapping[str, str | None] | None = None) -> "Settings":
    """The settings of this process; `changes` are variables to set or, where None, to leave out.

    Exits 78 where something is wrong, with a line for each problem.
    """
    from configsvc.settings import SettingsError, load

    environ = {**os.environ, **(changes or {})}
    try:
        return load({name: value for name, value in environ.items() if value is not None}, config)
    except SettingsError as error:
        exits.fail(exits.CONFIG, *error.problems)


def run(command: Coroutine[Any, Any, int]) -> int:
    """Run a command on uvloop where that is installed, else on asyncio's own loop."""
    try:
        from uvloop import new_event_loop
    except ModuleNotFoundError:
        return asyncio.run(command)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(command)
