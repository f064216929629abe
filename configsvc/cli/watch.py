"""`configsvc watch`: one line for each change, until Ctrl-C."""

from typing import Annotated

import typer

from configsvc.cli.options import Environment, Namespace, Timeout, TokenFile, Url


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

    Goes on by itself after the service was away.
    Exit codes: 0 after Ctrl-C, SIGTERM, or when nobody reads on; before the first answer those of get.
    """
    from configsvc.cli.following import follow
    from configsvc.cli.remote import call, resolve_options

    options = resolve_options(url, namespace, environment, token_file)
    call(follow(options, keys or [], timeout_s, as_json=as_json))
