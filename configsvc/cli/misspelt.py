"""Scopes that nobody has heard of: whether one is, what it may have been meant to be, and how that is said.

Asks the service only what everybody may ask who reads there, and never keeps a command from what it can't tell.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher

from configsvc.cli import exits
from configsvc.cli.output import printable
from configsvc.cli.remote import Remote, Scope
from configsvc_client.admin import AdminError
from configsvc_client.admin_types import Drift


async def refuse(remote: Remote, scope: Scope) -> None:
    """End the command with 1 where nothing is stored in a scope."""
    if await _is_empty(remote):
        exits.fail(exits.FAILED, await _nothing_in(remote, scope))


async def warn(remote: Remote, scope: Scope) -> None:
    """Say so, and go on."""
    if await _is_empty(remote):
        exits.warn(f"warning: {await _nothing_in(remote, scope)}")


async def _nothing_in(remote: Remote, scope: Scope) -> str:
    """That nothing is stored in a scope, with near names of those that have something."""
    return f"nothing is stored in {scope}{did_you_mean(await near(remote, scope))}"


def did_you_mean(names: Iterable[object]) -> str:
    """A question to end a sentence with; nothing where there are no names."""
    shown = ", ".join(printable(str(one)) for one in names)
    return f"; did you mean {shown}?" if shown else ""


def shows_nothing(found: Drift) -> bool:
    """Whether a scope has no release, nothing that was written by hand, and no freeze. It may name keys of its own."""
    return found.release is None and found.hand == [] and not found.overrides and not found.frozen


async def _is_empty(remote: Remote) -> bool:
    """Whether the scope has neither a key nor a release nor anything set about it.

    The replica that is asked may lag: it is believed that there is something; that there is nothing, etcd says.
    """
    before = len(remote.answers)
    try:
        return (
            not (await remote.page(limit=1)).releases
            and not await _is_read(remote)
            and shows_nothing(await remote.drift())
            and not await remote.own_keys()
        )
    except AdminError as error:
        if error.status is None:
            raise
        # What is to be done may be allowed, or possible, all the same; else it will be said then.
        return False
    finally:
        del remote.answers[before:]


async def _is_read(remote: Remote) -> bool:
    try:
        await remote.entries()
    except AdminError as error:
        if error.code != "scope_not_found":
            raise
        return False
    return True


async def near(remote: Remote, scope: Scope) -> list[Scope]:
    """Scopes that are there and called nearly as one that is not; none where it is there too, or nobody can tell."""
    named, before = None, len(remote.answers)
    try:
        await remote.at(*scope).entries()
    except AdminError as error:
        named = error.fields.get("near") if error.code == "scope_not_found" else None
    del remote.answers[before:]
    found = [Scope(*str(one).split("/", 1)) for one in named if "/" in str(one)] if isinstance(named, list) else []
    return [one for one in found if _are_alike(one, scope)]


def _are_alike(one: Scope, other: Scope) -> bool:
    """Whether one is nearly spelt as the other, by part: environments of a namespace share most of their letters."""
    return all(SequenceMatcher(None, *pair).ratio() >= 0.75 for pair in zip(one, other, strict=True))
