"""The options that commands share which talk to a running service."""

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The service; several: comma separated. Default: CONFIGSVC_URL, else http://127.0.0.1:8080, "
        "else http://config-service:8080.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", help="Default: SERVICE_NAME, else what the service says is its own."),
]
Environment = Annotated[
    str | None,
    typer.Option(
        "--environment", metavar="NAME", help="Default: CONFIG_ENVIRONMENT, else what the service says is its own."
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="Holds the token. Default: CONFIG_TOKEN_FILE.")
]
Timeout = Annotated[
    float, typer.Option("--timeout-s", metavar="SECONDS", min=0.1, max=3600, help="How long to wait for an answer.")
]
