"""What the commands of `looking.py` print. Imported only when one runs."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import typer

from configsvc.cli import exits, misspelt, output, review
from configsvc.cli.options import Say, Where
from configsvc.cli.output import json_text
from configsvc.cli.remote import Remote, Scope
from configsvc.cli.review import excerpt
from configsvc.cli.writing import ask, must_ask, show_json
from configsvc_client import MISSING
from configsvc_client.admin_link import Answer
from configsvc_client.admin_types import (
    AdminError,
    Changed,
    Freshness,
    Frozen,
    Override,
    ReleaseRow,
    Service,
    Status,
)

SOME = 10
"""Keys that `status` names of each kind."""


async def history(where: Where, key: str | None, limit: int, after: int | None) -> None:
    """Releases, or those of one key."""
    async with Remote(where) as remote:
        if key is not None:
            found = await remote.key_page(key, limit=limit, after=after)
            head: tuple[str, ...] = ("release", "at", "by", "kind", "old", "new", "reason")
            rows: list[tuple[str, ...]] = [
                (_name(one), one.at, one.by, str(one.kind), _text(one.old), _text(one.new), one.reason or "")
                for one in found.releases
            ]
            following = found.next
        else:
            page = await remote.page(limit=limit, after=after)
            head = ("release", "kind", "at", "by", "keys", "reason")
            rows = [
                (_name(one), str(one.kind), one.at, one.by, str(one.changed), one.reason or "") for one in page.releases
            ]
            following = page.next
        if where.as_json:
            show_json(remote)
        elif rows:
            output.table(head, rows)
        if following is not None and output.is_terminal():
            exits.warn(f"there are older ones: --after {following}")
        if not rows and following is None:
            scope = Scope(*await remote.scope())
            which = f" that changed {key!a}" if key is not None else ""
            if after is not None:
                # The end of a list is no failure; that there is none is.
                newest = await (remote.page(limit=1) if key is None else remote.key_page(key, limit=1))
                if newest.releases or newest.next is not None:
                    exits.warn(f"{scope} has no release before {after}{which}")
                    return
            exits.fail(exits.FAILED, f"{scope} has no release{which}")


async def show(where: Where, version: str) -> None:
    """One release."""
    async with Remote(where) as remote:
        found = await remote.release(version)
        if where.as_json:
            show_json(remote)
            return
        output.styled([(f"{Scope(*await remote.scope())}: release {_name(found)}, {found.kind}", review.BOLD)])
        facts = {"by": found.by, "at": found.at, "reason": found.reason, "onto": found.base_release, **found.source}
        for name, value in facts.items():
            if value is not None:
                output.line(f"  {output.printable(name)}: {output.printable(str(value))}")
        output.line("")
        for warning in found.warnings:
            output.styled([(f"! {output.printable(warning)}", review.YELLOW), ("", "")])
        if found.changes is None:
            output.line(f"{found.changed} keys; what they were is not kept any more")
        else:
            _changes(found.changes)


async def diff(where: Where, before: str, after: str | None, *, difference: bool) -> None:
    """Two releases."""
    async with Remote(where) as remote:
        found = await remote.diff(before, after)
        if where.as_json:
            show_json(remote)
        else:
            title = f"{Scope(*await remote.scope())}: from release {_name(found.before)} to {_name(found.after)}"
            output.styled([(title, review.BOLD), ("", "")])
            _changes(found.changes)
        if difference and found.changes:
            raise typer.Exit(exits.FAILED)


def _changes(found: Iterable[Changed]) -> None:
    output.styled(review.changes(found))
    output.styled([(f"In all: {review.counts(found)}.", review.BOLD)])


async def drift(where: Where, *, difference: bool) -> None:
    """What differs from the newest release."""
    async with Remote(where) as remote:
        found = await remote.drift()
        if where.as_json:
            show_json(remote)
        if misspelt.shows_nothing(found):
            await misspelt.refuse(remote, Scope(found.namespace, found.environment))
        if not where.as_json:
            if found.hand is None:
                exits.warn(
                    "what was changed by hand is not known: the scope's history cannot be read (configsvc repair)"
                )
            rows = [
                *((one.key, "by hand", _text(one.old), _text(one.new), "", "") for one in found.hand or ()),
                *(
                    (one.key, "override", _text(one.returns), _text(one.value), _whose(one), one.expires_at or "")
                    for one in found.overrides
                ),
            ]
            if rows:
                output.table(("key", "what", "deployed", "now", "by", "until"), rows)
            elif output.is_terminal() and found.hand is not None:
                exits.warn(f"{found.namespace}/{found.environment} is as release {found.release} left it")
        if difference and (found.hand or found.hand is None or found.overrides):
            raise typer.Exit(exits.FAILED)


async def status(where: Where) -> None:
    """How a scope is."""
    async with Remote(where) as remote:
        await remote.scope()
        # What was asked to learn the scope is no part of the answer.
        remote.answers.clear()
        try:
            found = await remote.status()
        except AdminError as error:
            await _reads_only(remote, error, as_json=where.as_json)
            raise
        asked, now = remote.last.url, _asked_at(remote.last)
        if found.newest is None and found.source == "none":
            await misspelt.warn(remote, Scope(found.namespace, found.environment))
        if where.as_json:
            service, told, newest = (msgspec.json.decode(one.body) for one in remote.answers if one.body)
            whole = {
                **told,
                "newest": next(iter(newest["releases"]), None),
                "source": found.source,
                "staleness_s": found.staleness_s,
                "service": service,
            }
            output.line(output.json_text(whole, indent=2))
            return
    newest, hand = found.newest, found.hand
    # One that is over may still be stored.
    frozen = found.frozen if found.frozen and datetime.fromisoformat(found.frozen.until) > now else None
    rows: list[tuple[str, Any]] = [
        ("scope", f"{found.namespace}/{found.environment}"),
        ("release", f"{_name(newest)}, {newest.kind}" if newest else "none yet"),
        ("made", f"{newest.at} by {newest.by}" + (f": {newest.reason}" if newest.reason else "") if newest else ""),
        ("revision", str(found.revision)),
        ("frozen", f"until {frozen.until} by {frozen.by}: {frozen.reason}" if frozen else "no"),
        (
            "overrides",
            _some([f"{one.key}: {_text(one.value)} {_until(one)}{_whose(one)}" for one in found.overrides], "; ")
            or "none",
        ),
        ("by hand", "not known" if hand is None else _some([one.key for one in hand]) or "nothing"),
        *_served(asked, found, found.service),
    ]
    output.table(("what", "now"), [row for row in rows if row[1]])


async def _reads_only(remote: Remote, error: AdminError, *, as_json: bool) -> None:
    """What can be told while etcd is away: the rest is not known, and `error` says why. Nothing for other errors."""
    if error.code != "store_unavailable":
        return
    service = await remote.service()
    said = remote.last
    reads = await remote.freshness()
    namespace, environment = await remote.scope()
    if as_json:
        whole = {
            "namespace": namespace,
            "environment": environment,
            "revision": reads.revision,
            "source": reads.source,
            "staleness_s": reads.staleness_s,
            "service": msgspec.json.decode(said.body),
            "problem": {"code": error.code, "detail": error.detail},
        }
        output.line(output.json_text(whole, indent=2))
        return
    rows = [
        ("scope", f"{namespace}/{environment}"),
        ("release", "not known"),
        ("revision", str(reads.revision) if reads.revision else ""),
        *_served(said.url, reads, service),
    ]
    output.table(("what", "now"), [row for row in rows if row[1]])


def _served(asked: str, reads: Freshness | Status, service: Service) -> list[tuple[str, str]]:
    return [
        ("reads", _freshness(reads)),
        ("service", f"{asked}, {service.version}, {service.mode}"),
        ("you", service.identity or "anonymous"),
    ]


async def freezing(where: Where, say: Say, attempt: Callable[[Remote], Awaitable[Frozen]], question: str) -> None:
    """Freeze a scope, or end that; `question` asks whether, with `{}` for the scope."""
    async with Remote(where) as remote:
        scope = Scope(*await remote.scope())
        asks = must_ask(scope.environment, say)
        await misspelt.refuse(remote, scope)
        if asks:
            ask(f"{question.format(scope)}?")
        found = await attempt(remote)
        if where.as_json:
            show_json(remote)
        elif found.frozen:
            output.line(f"{found.namespace}/{found.environment} is frozen until {found.frozen.until}")
        else:
            output.line(f"{found.namespace}/{found.environment} takes deploys")


async def own_keys(where: Where, say: Say, patterns: Sequence[str] | None) -> None:
    """The patterns of a scope's own keys, one a line; with `patterns` after they were made these."""
    async with Remote(where) as remote:
        if patterns is not None:
            scope = Scope(*await remote.scope())
            asks = must_ask(scope.environment, say)
            await misspelt.warn(remote, scope)
            if asks:
                new, old = (output.printable(_some(list(one)) or "none") for one in (patterns, await remote.own_keys()))
                ask(f"Name {new} as the keys of its own of {scope}, in place of {old}?")
        found = await remote.own_keys() if patterns is None else await remote.set_own_keys(patterns)
        if where.as_json:
            show_json(remote)
            return
        for pattern in found:
            output.line(output.printable(pattern))
        if not found and output.is_terminal():
            exits.warn(f"{Scope(*await remote.scope())} has no keys of its own: a promotion changes any")


def _some(words: list[str], between: str = ", ") -> str:
    """The first of a list, and how many more there are; `drift` has all."""
    more = f" and {len(words) - SOME:,} more" if len(words) > SOME else ""
    return between.join(words[:SOME]) + more


def _name(one: ReleaseRow) -> str:
    return f"{one.release} ({one.version})" if one.version else str(one.release)


def _freshness(found: Freshness | Status) -> str:
    words = {"live": "live", "none": "nothing to read"}
    return words.get(found.source) or f"{output.printable(found.source)}, proved {found.staleness_s:g} s ago"


def _text(value: Any) -> str:
    return "(none)" if value is MISSING else excerpt(json_text(value))


def _until(one: Override) -> str:
    return f"until {one.expires_at} " if one.expires_at else ""


def _asked_at(answer: Answer) -> datetime:
    """When an answer was made, by the service's clock where it says so: this machine's may be wrong."""
    try:
        return parsedate_to_datetime(answer.headers.get("Date", "")).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)


def _whose(one: Override) -> str:
    release = f"in release {one.release}" if one.release else "by hand"
    return " ".join(["by", one.by, release] if one.by else [release]) + (f": {one.reason}" if one.reason else "")
