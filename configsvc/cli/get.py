"""`configsvc get`: values from a running service, for a terminal or a script."""

from typing import TYPE_CHECKING, Annotated

import typer

from configsvc.cli import exits
from configsvc.cli.options import Environment, Namespace, Timeout, TokenFile, Url

if TYPE_CHECKING:
    from configsvc.cli.remote import Answer
    from configsvc_client.options import Options


def get(
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="Without it: all values.")] = None,
    url: Url = None,
    namespace: Namespace = None,
    environment: Environment = None,
    token_file: TokenFile = None,
    raw: Annotated[bool, typer.Option("--raw", help="A text value without its quotes.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The service's whole answer: version, revision, metadata too.")
    ] = False,
    timeout_s: Timeout = 10.0,
) -> None:
    """Print a value, or all, of a running service.

    Exit codes: 0, 1 no such key or scope, 2 wrong arguments, 69 no service answers, 77 not allowed.
    """
    if raw and (as_json or key is None):
        raise typer.BadParameter("--raw prints one value: it needs a KEY and goes without --json")
    from configsvc.cli.remote import call, resolve_options

    answer = call(_ask(resolve_options(url, namespace, environment, token_file), key, timeout_s))
    if answer.stale:
        exits.warn(answer.stale)
    _print(answer, key, raw=raw, as_json=as_json)


async def _ask(options: "Options", key: str | None, timeout_s: float) -> "Answer":
    from configsvc.cli.remote import open_remote

    async with open_remote(options, timeout_s) as remote:
        scope = await remote.scope()
        return await remote.get(scope.path(key) if key is not None else f"{scope.path()}?view=entries")


def _print(answer: "Answer", key: str | None, *, raw: bool, as_json: bool) -> None:
    import msgspec

    from configsvc.cli import output

    found = msgspec.json.decode(answer.body)
    if as_json:
        output.line(output.json_text(found, indent=2))
    elif key is not None:
        value = found["value"]
        output.line(value if raw and isinstance(value, str) else output.json_text(value))
    elif not found["entries"] and output.is_terminal():
        exits.warn(f"{found['namespace']}/{found['environment']} has no values")
    else:
        rows = [(name, output.json_text(entry["value"])) for name, entry in sorted(found["entries"].items())]
        output.table(("key", "value"), rows)
