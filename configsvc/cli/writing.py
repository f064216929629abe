"""How every command that writes goes: plan and ask where it is production, write, tell. Imported only when one runs.

What was shown is what is written: the digest of the plan that somebody agreed to goes with the write.
"""

import asyncio
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import msgspec
import typer

from configsvc.cli import exits, misspelt, output, review
from configsvc.cli.options import Say, Where
from configsvc.cli.remote import LIFTS, Remote, Scope, exit_code
from configsvc_client.admin import AdminError, WriteOptions
from configsvc_client.admin_types import Outcome

LISTED = 20
"""Up to so many changes are told after a write; who wants all of many asks for a plan, or `show`."""

Attempt = Callable[[Remote, WriteOptions], Awaitable[Outcome]]


async def write(where: Where, say: Say, attempt: Attempt, what: str, *, difference: bool = False) -> None:
    """Carry a write out, or show its plan. `attempt` sends it, `what` says in a word or two what it is.

    With `difference`, a plan that would change anything ends with 1.
    """
    async with Remote(where) as remote:
        scope = Scope(*await remote.scope())
        asks = must_ask(scope.environment, say) and not say.dry_run
        if say.dry_run or asks:
            with waiting(f"planning {what}"):
                found = await attempt(remote, _options(say, dry_run=True))
            if found.base_release is None:
                await _doubt(remote, scope, "would be")
            if say.dry_run:
                _show_plan(remote, f"{scope}: {what}", found, as_json=where.as_json)
                raise typer.Exit(_verdict(found, difference=difference))
            if not found.unchanged or found.blocked:
                output.styled(review.plan(f"{scope}: {what}", found, LIFTS), to_stderr=True)
                if found.blocked:
                    raise typer.Exit(_verdict(found))
                ask(f"Write this to {scope}?")
                say = say._replace(digest=found.digest)
        elif say.digest is None and say.base_release is None and await remote.is_unknown():
            await _doubt(remote, scope, "is")
        with waiting(f"{what} to {scope}"), interruptible():
            done = await attempt(remote, _options(say))
        tell(remote, scope, done, as_json=where.as_json)


async def _doubt(remote: Remote, scope: Scope, verb: str) -> None:
    """Before a scope's first release: say which there are that are called nearly so."""
    if others := await misspelt.near(remote, scope):
        exits.warn(f"warning: {scope} {verb} a new scope{misspelt.did_you_mean(others)}")


def promoting(source: str, **named: Any) -> Attempt:
    """Promote; an environment that nothing was released to is doubted too."""

    async def attempt(remote: Remote, options: WriteOptions) -> Outcome:
        try:
            return await remote.promote(source, **named, **options)
        except AdminError as error:
            if error.code == "release_not_found":
                namespace, _ = await remote.scope()
                others = await misspelt.near(remote, Scope(namespace, source))
                error.fields["near"] = [one.environment for one in others if one.namespace == namespace]
            raise

    return attempt


@contextmanager
def interruptible() -> Iterator[None]:
    """Around what writes: Ctrl-C says that it may be written all the same."""
    try:
        yield
    except asyncio.CancelledError:
        exits.warn("interrupted: it is not known whether it was written; configsvc history tells")
        raise


def _options(say: Say, *, dry_run: bool = False) -> WriteOptions:
    return WriteOptions(
        dry_run=dry_run, digest=say.digest, base_release=say.base_release, reason=say.reason, force=say.force
    )


def _show_plan(remote: Remote, title: str, found: Outcome, *, as_json: bool) -> None:
    if as_json:
        show_json(remote)
        return
    output.styled(review.plan(title, found, LIFTS))
    if found.digest and not found.blocked and not found.unchanged:
        output.styled([("", ""), ("Exactly this is applied by", ""), (f"  {_apply_line(found.digest)}", "cyan")])
    elif found.digest:
        output.styled([(f"Plan {found.digest}", "dim")])


def _apply_line(digest: str) -> str:
    """The command that was typed, as one that applies its plan."""
    typed = sys.argv[1:]
    end = typed.index("--") if "--" in typed else len(typed)
    words = [word for word in typed[:end] if word not in ("--dry-run", "--exit-code", "--json")]
    if words and words[0] == "plan":
        words[0] = "deploy"
    # What follows two dashes is no option, whatever it looks like.
    return shlex.join(["configsvc", *words, "--digest", digest, *typed[end:]])


def _verdict(found: Outcome, *, difference: bool = False) -> int:
    if found.blocked:
        return exit_code(found.blocked[0].code, found.blocked[0].status)
    return exits.FAILED if difference and not found.unchanged else 0


def tell(remote: Remote, scope: Scope, done: Outcome, *, as_json: bool = False) -> None:
    """What a write did."""
    if as_json:
        show_json(remote)
        return
    for warning in done.warnings:
        exits.warn(f"warning: {output.printable(warning)}")
    if done.unchanged:
        stays = f"stays at release {done.release}" if done.release else "has no release"
        output.line(f"nothing to change: {scope} {stays}")
        return
    if len(done.changes) <= LISTED:
        output.styled(review.changes(done.changes))
    version = f" ({output.printable(done.version)})" if done.version else ""
    output.line(
        f"{scope} is at release {done.release}{version}, revision {done.revision}: {review.counts(done.changes)}"
    )


def show_json(remote: Remote) -> None:
    """The service's last answer, whole."""
    output.line(output.json_text(msgspec.json.decode(remote.last.body), indent=2))


# ---- asking ----------------------------------------------------------------------------------------------------------


def is_production(environment: str) -> bool:
    """Whether somebody should look twice before writing there."""
    return environment.lower().startswith("prod")


def must_ask(environment: str, say: Say) -> bool:
    """Whether a write needs a person's yes; exits 2 where it does and there is nobody to ask."""
    if say.yes or not (say.confirm or is_production(environment)):
        return False
    if not say.dry_run and not sys.stdin.isatty():
        exits.fail(
            exits.USAGE, f"{environment} is not written to without a yes: say --yes, for nobody can be asked here"
        )
    return True


def ask(question: str) -> None:
    """Ask for a yes; exits 1 without one."""
    # The loop's own handler would wait for the answer before it ends anything.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
        answer = sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, before)
    if answer.strip().lower() not in ("y", "yes"):
        _declined()


def _declined() -> NoReturn:
    exits.fail(exits.FAILED, "nothing was changed")


# ---- waiting ---------------------------------------------------------------------------------------------------------


@contextmanager
def waiting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show on a terminal that something goes on, with how much of it is done where that is told; gone at its end."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
    if total is not None:
        columns += [BarColumn(), DownloadColumn()]
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(output.printable(what), total=total or None)
        yield lambda done: progress.update(task, completed=done)
