"""`configsvc serve`: the service as production runs it."""

from pathlib import Path
from typing import Annotated

import typer

from configsvc import signals
from configsvc.cli import process

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file, instead of config-service.yaml in this directory."),
]


def serve(config: ConfigFile = None) -> None:
    """Serve configuration from etcd, as environment and file say.

    Example: SERVICE_NAME=payments ETCD_ENDPOINTS=http://etcd-1:2379 configsvc serve

    Exit codes: 0 after SIGTERM or SIGINT, 69 port in use or start time-out, 78 wrong settings (all of them listed).
    """
    signals.begin()
    process.serve(config)
