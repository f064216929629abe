"""`configsvc watch`: one line for each change, until Ctrl-C."""

from typing import Annotated

import typer

from configsvc.cli.options import Environment, Namespace, Timeout, TokenFile, Url, Where


def watch(
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY", help="Only these. Without: all.")] = None,
    url: Url = None,
    namespace: Namespace = None,
    environment: Environment = None,
    token_file: TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    timeout_s: Timeout = 10.0,
) -> None:
    """Print each change as it happens, until Ctrl-C.

    Example: configsvc watch database.pool_size

    Goes on by itself after the service was away.
    Exit codes: 0 after Ctrl-C, SIGTERM, or when nobody reads on; before the first answer those of get.
    """
    from configsvc.cli.following import follow
    from configsvc.cli.remote import call

    call(follow(Where(url, namespace, environment, token_file, timeout_s), keys or [], as_json=as_json))
