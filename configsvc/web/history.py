"""Releases over HTTP: lists, differences, past states, drift. Answered by etcd, not from the replica."""

from typing import Any

import msgspec
from aiohttp import web

from configsvc.core.model import decode_entry, value_of
from configsvc.core.plan import differences
from configsvc.web import context, syntax
from configsvc.web.manage import answer
from configsvc.writes import history
from configsvc.writes.reading import Reading
from configsvc.writes.telling import told
from configsvc.writes.threads import off_loop

DEFAULT_LIMIT = 50


async def versions(request: web.Request) -> web.StreamResponse:
    """`GET /v1/versions/{ns}/{env}`."""
    query, scope = context.query(request), context.scope(request)
    with told(sent=False):
        found = await history.page(_reading(request), scope, limit=_limit(query), after=query.get("after"))
    return answer(found)


async def version(request: web.Request) -> web.StreamResponse:
    """`GET /v1/versions/{ns}/{env}/{version}`."""
    scope = context.scope(request)
    manifest = await context.writer(request).find(scope, context.version(request))
    with told(sent=False):
        return answer(await history.release(_reading(request), scope, manifest))


async def diff(request: web.Request) -> web.StreamResponse:
    """`GET /v1/diff/{ns}/{env}`."""
    query, scope = context.query(request), context.scope(request)
    writer = context.writer(request)
    before = await writer.find(scope, query["from"])
    after = await writer.find(scope, query["to"]) if "to" in query else await writer.newest(scope)
    one, other = await writer.state_at(scope, before.number), await writer.state_at(scope, after.number)
    changes = await off_loop(len(one) + len(other), differences, one, other)
    return answer({"from": history.row(before), "to": history.row(after), "changes": changes})


async def key(request: web.Request) -> web.StreamResponse:
    """`GET /v1/history/{ns}/{env}/{key}`."""
    query, name = context.query(request), context.key(request)
    with told(sent=False):
        found = await history.key_page(
            _reading(request), context.scope(request), name, limit=_limit(query), after=query.get("after")
        )
    return answer({"key": name, "releases": found.releases, "next": found.next})


async def drift(request: web.Request) -> web.StreamResponse:
    """`GET /v1/drift/{ns}/{env}`."""
    scope, writer = context.scope(request), context.writer(request)
    with told(sent=False):
        found = await history.drift(writer.reading, scope, writer.now())
    return answer({"namespace": scope.namespace, "environment": scope.environment} | msgspec.structs.asdict(found))


async def state(request: web.Request, wanted: syntax.Version, view: str) -> web.StreamResponse:
    """`GET /v1/config/{ns}/{env}?release=`: what was stored as a release left it, without schema defaults."""
    scope, writer = context.scope(request), context.writer(request)
    manifest = await writer.find(scope, wanted)
    entries = await writer.state_at(scope, manifest.number)
    found = await off_loop(len(entries), _values if view == "values" else _entries, entries)
    return answer(
        {
            "namespace": scope.namespace,
            "environment": scope.environment,
            "epoch": request.app[context.HUB].epoch(scope),
            "release": manifest.number,
            "version": manifest.version,
            view: found,
        }
    )


def _values(entries: dict[str, bytes]) -> dict[str, Any]:
    """The values that can be read, by key."""
    found = ((name, value_of(raw)) for name, raw in sorted(entries.items()))
    return {name: msgspec.Raw(value) for name, value in found if value is not None}


def _entries(entries: dict[str, bytes]) -> dict[str, Any]:
    """The entries that can be read, by key. They have no revision: that would be of where they lie now."""
    found: dict[str, Any] = {}
    for name, value in _values(entries).items():
        entry = decode_entry(entries[name])
        found[name] = {"value": value, "version": entry.version, "source": "stored", "metadata": entry.metadata}
    return found


def _reading(request: web.Request) -> Reading:
    return context.writer(request).reading


def _limit(query: Any) -> int:
    return int(query.get("limit", DEFAULT_LIMIT))
