"""`history`, `show`, `diff`, `drift`, `status`: what was, what is, and what differs."""

from typing import Annotated

import typer

from configsvc.cli.options import ExitCode, Where, asks

Version = Annotated[str, typer.Argument(metavar="VERSION", help="A release: a label, @17 or 17.")]


@asks
def history(
    where: Where,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="Who set this key? Without: all releases.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="COUNT", min=1, max=500, help="How many.")] = 20,
    after: Annotated[
        int | None, typer.Option("--after", metavar="NUMBER", min=0, help="Those older than this release.")
    ] = None,
) -> None:
    """List releases, newest first; or those that changed one key, with the values.

    Example: configsvc history database.pool_size

    Exit codes: 0, 1 there is none, 69 no service answers, 77 not allowed.
    """
    from configsvc.cli import past
    from configsvc.cli.remote import call

    call(past.history(where, key, limit, after))


@asks
def show(where: Where, version: Version) -> None:
    """Show a release: who made it, when and why, and what it changed.

    Example: configsvc show v42

    Exit codes: 0, 1 there is no such release, or it is not kept any more.
    """
    from configsvc.cli import past
    from configsvc.cli.remote import call

    call(past.show(where, version))


@asks
def diff(
    where: Where,
    before: Annotated[str, typer.Argument(metavar="A", help="A release: a label, @17 or 17.")],
    after: Annotated[
        str | None, typer.Argument(metavar="B", help="The one that is compared with it; without: the newest.")
    ] = None,
    exit_code: ExitCode = False,
) -> None:
    """Show what differs between two releases.

    Example: configsvc diff v41 v42

    Exit codes: 0, 1 there is no such release, or with --exit-code they differ.
    """
    from configsvc.cli import past
    from configsvc.cli.remote import call

    call(past.diff(where, before, after, difference=exit_code))


@asks
def drift(where: Where, exit_code: ExitCode = False) -> None:
    """Show what differs from the newest release: changes by hand, and overrides that a deploy would undo.

    Example: configsvc drift --exit-code

    Exit codes: 0, 1 nothing is stored there, or with --exit-code if anything differs.
    """
    from configsvc.cli import past
    from configsvc.cli.remote import call

    call(past.drift(where, difference=exit_code))


@asks
def status(where: Where) -> None:
    """Show how a scope is: its release, who made it, what is pending, whether it is frozen, and how fresh reads are.

    Example: configsvc status --environment production

    While etcd is away it shows what the service knows by itself, and ends with 69.

    Exit codes: 0, 69 no service answers or etcd is away, 77 not allowed.
    """
    from configsvc.cli import past
    from configsvc.cli.remote import call

    call(past.status(where))
