"""`configsvc get`: values from a running service, for a terminal or a script."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from configsvc.cli import exits
from configsvc.cli.options import Environment, Namespace, Timeout, TokenFile, Url, Where

if TYPE_CHECKING:
    from configsvc.cli.remote import Remote


def get(
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="Without it: all values.")] = None,
    url: Url = None,
    namespace: Namespace = None,
    environment: Environment = None,
    token_file: TokenFile = None,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="VERSION", help="As this release left it: a label, @17 or 17."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="A text value without its quotes.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The service's whole answer: version, revision, metadata too.")
    ] = False,
    timeout_s: Timeout = 10.0,
) -> None:
    """Print a value, or all, of a running service.

    Example: configsvc get database.pool_size

    Exit codes: 0, 1 no such key or scope, 2 wrong arguments, 69 no service answers, 77 not allowed.
    """
    if raw and (as_json or key is None):
        raise typer.BadParameter("--raw prints one value: it needs a KEY and goes without --json")
    from configsvc.cli.remote import Remote, call

    remote = Remote(Where(url, namespace, environment, token_file, timeout_s, as_json))
    call(_get(remote, key, release, raw=raw, as_json=as_json))


async def _get(remote: "Remote", key: str | None, release: str | None, *, raw: bool, as_json: bool) -> None:
    import msgspec

    from configsvc.cli import output

    async with remote:
        if release is not None:
            values = (await remote.as_of(release)).values
            if key is not None and key not in values:
                exits.fail(exits.FAILED, f"release {release} had no key {key!a}")
        elif key is not None:
            values = {key: (await remote.get(key)).value}
        else:
            values = (await remote.entries()).values
    if remote.stale:
        exits.warn(remote.stale)
    if as_json:
        found: Any = msgspec.json.decode(remote.last.body)
        output.line(output.json_text(found, indent=2))
    elif key is not None:
        output.line(_raw(values[key]) if raw and isinstance(values[key], str) else output.json_text(values[key]))
    elif not values and output.is_terminal():
        exits.warn(f"{'/'.join(await remote.scope())} has no values")
    else:
        output.table(("key", "value"), [(name, output.json_text(value)) for name, value in sorted(values.items())])


def _raw(text: str) -> str:
    """A text as it is; on a terminal without what would steer it."""
    from configsvc.cli import output

    return "\n".join(map(output.printable, text.split("\n"))) if output.is_terminal() else text
