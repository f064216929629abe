"""What `configsvc watch` does: follows a scope by the client and prints what it hears. Imported only when it runs."""

import asyncio
import logging
import select
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import typer

from configsvc.cli import exits, output
from configsvc.cli.options import Where
from configsvc.cli.remote import Remote, Scope, exit_code, lines_of
from configsvc_client import MISSING, AsyncConfigClient, ClientStatus, ConfigChange
from configsvc_client.admin import AdminError
from configsvc_client.errors import printable
from configsvc_client.protocol import format_time

LOOK_S = 0.25
"""How often is looked whether anybody reads on."""
AUTHORS = ("created_by", "updated_by", "author", "actor", "by")
"""Words of an entry's metadata that say who wrote it; the first that is there is shown."""


async def follow(where: Where, keys: list[str], *, as_json: bool) -> None:
    """Print each change of these keys (of all, if none) until a signal or until nobody reads.

    The scope is read once first, so that what a person has to put right is said at once, and with an exit code.
    """
    with output.written():
        pass
    scope = await _first_look(where, keys)
    # The client's own logger would say the same again, in its own form.
    logging.getLogger("configsvc_client").addHandler(logging.NullHandler())
    changes: asyncio.Queue[ConfigChange] = asyncio.Queue()
    client = AsyncConfigClient(
        where.url,
        namespace=scope.namespace,
        environment=scope.environment,
        token_file=where.token_file,
        # What was so at some time is no change; and the folder is the application's.
        cache_dir="off",
    )
    client.on_change(changes.put_nowait)
    client.on_status(_Teller(scope).tell)
    async with client:
        printing = asyncio.create_task(_print_all(changes, frozenset(keys), as_json=as_json))
        ended = asyncio.create_task(_until_nobody_reads())
        await _until_signal_or(printing, ended)


async def _first_look(where: Where, keys: list[str]) -> Scope:
    async with Remote(where) as remote:
        scope = Scope(*await remote.scope())
        asks: list[Callable[[], Awaitable[object]]] = [partial(remote.get, key) for key in keys]
        for ask in asks or [remote.entries]:
            try:
                await ask()
            except AdminError as error:
                if exit_code(error.code, error.status) != exits.FAILED:
                    raise
                exits.warn(f"{'; '.join(lines_of(error))} (waiting for it)")
        return scope


async def _until_signal_or(*tasks: "asyncio.Task[None]") -> None:
    """Until SIGINT or SIGTERM, or until one of the tasks ends; raises what it raised."""
    loop, signalled = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Where a loop takes no handlers, Python's own for SIGINT still ends the command.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, signalled.set)
    stop = asyncio.create_task(signalled.wait())
    try:
        done, _ = await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for other in (stop, *tasks):
            other.cancel()
        await asyncio.gather(stop, *tasks, return_exceptions=True)


async def _print_all(changes: "asyncio.Queue[ConfigChange]", keys: frozenset[str], *, as_json: bool) -> None:
    while True:
        change = await changes.get()
        if keys and change.key not in keys:
            continue
        now = datetime.now(UTC)
        output.line(as_object(change, now) if as_json else as_line(change, now))


def as_object(change: ConfigChange, at: datetime) -> str:
    """A change as one JSON object; `old` or `new` is left out where there is no value."""
    shown: dict[str, Any] = {"time": format_time(at), "key": change.key}
    sides = {"old": change.old, "new": change.new}
    shown |= {name: value for name, value in sides.items() if value is not MISSING}
    return output.json_text(shown | {"revision": change.revision, "metadata": change.metadata})


def as_line(change: ConfigChange, at: datetime) -> str:
    """A change for people: time, key, old and new value, revision, and who, where metadata tells."""
    old, new = (_side(value) for value in (change.old, change.new))
    key = output.printable(change.key)
    who = author(change.metadata)
    by = f"  by {output.printable(who)}" if who else ""
    return f"{format_time(at)}  {key}  {old} -> {new}  (revision {change.revision}){by}"


def _side(value: Any) -> str:
    return "(none)" if value is MISSING else output.json_text(value)


def author(metadata: Any) -> str | None:
    """Who wrote an entry, if its metadata says so in one of the usual words."""
    if not isinstance(metadata, dict):
        return None
    return next((metadata[word] for word in AUTHORS if isinstance(metadata.get(word), str)), None)


class _Teller:
    """Says on stderr when the state becomes live, stale, and live again."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._told = "connecting"

    def tell(self, status: ClientStatus) -> None:
        """Called at each change; the first word is that it is live, and the end is no news."""
        if status.state not in ("live", "stale") or status.state == self._told:
            return
        exits.warn(_told(status, self._scope, first=self._told == "connecting"))
        self._told = status.state


def _told(status: ClientStatus, scope: Scope, *, first: bool) -> str:
    if status.state == "live":
        begun = f"watching {scope} at {status.url}" if first else f"live again, at {status.url}"
        return f"{begun}, revision {status.revision}"
    reason = f": {printable(status.last_error)}" if status.last_error else ""
    return f"stale since {format_time(status.since)}, changes may be missing until it is live again{reason}"


async def _until_nobody_reads() -> None:
    """Return when the reader of a pipe has gone: `watch | head -1` ends without waiting for the next change."""
    if not hasattr(select, "poll"):
        await asyncio.Event().wait()
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        await asyncio.Event().wait()
        return
    poll = select.poll()
    poll.register(number, 0)
    while not any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0)):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    output.forget()
    raise typer.Exit(0)
