"""Reads: a scope or a key as stored bytes, with the headers that say how old they are.

A body is a function of the feed's state and is encoded once per state; a request only chooses among bytes. Knows
neither who may read (`middleware.py`) nor how a state came about (`hub.py`).
"""

import zlib

from aiohttp import web

from configsvc.core.feed import Feed
from configsvc.core.model import Scope
from configsvc.core.near import near
from configsvc.errors import NotFound
from configsvc.hub import Hub
from configsvc.web import context, history, syntax
from configsvc.web.memo import Ground

MIN_GZIP_BYTES = 1024
"""Below this a compressed body saves no packet."""
FAST_GZIP_BYTES = 256 * 1024
MAX_GZIP_BYTES = 8 * 1024 * 1024
"""Compressing takes the event loop's time, once per state: from the first size on at the fastest level, from the
second on not at all."""
JSON = "application/json"
FEW_SCOPES = 5
"""Up to so many scopes are named to a reader that asked for another one."""


async def read_scope(request: web.Request) -> web.StreamResponse:
    """`GET /v1/config/{ns}/{env}`."""
    view = context.query(request).get("view", "values")
    await _reached(request)
    if (release := context.query(request).get("release")) is not None:
        return await history.state(request, release, view)
    feed = _feed(request)
    name = f"body:{view}"
    stored = name in feed.memo
    return _answer(request, feed, name, feed.body(view), stored)


async def read_key(request: web.Request) -> web.StreamResponse:
    """`GET /v1/config/{ns}/{env}/{key}`."""
    raw = context.query(request).get("raw") == "true"
    await _reached(request)
    feed = _feed(request)
    key = context.key(request)
    name = f"raw:{key}" if raw else f"key:{key}"
    stored = name in feed.memo
    body = feed.raw_body(key) if raw else feed.entry_body(key)
    if body is None:
        raise _no_key(request, feed, key)
    return _answer(request, feed, name, body, stored)


def _no_key(request: web.Request, feed: Feed, key: str) -> NotFound:
    hub = request.app[context.HUB]
    headers = freshness(hub, feed.scope)
    state = hub.replica.scopes.get(feed.scope)
    if state is not None and (problem := state.unreadable.get(key)):
        detail = (
            f"{feed.scope} has something stored for key {syntax.shown(key)}, but it cannot be read: {problem.reason}"
        )
        return NotFound(detail, code="key_not_found", headers=headers, near=[], unreadable=problem.reason)
    alike = near(key, feed.keys())
    hint = f"; did you mean {', '.join(alike)}?" if alike else ""
    return NotFound(
        f"{feed.scope} has no key {syntax.shown(key)}{hint}", code="key_not_found", headers=headers, near=alike
    )


async def _reached(request: web.Request) -> None:
    """Wait for the revision that the request wants to see."""
    query = context.query(request)
    if awaited := query.get("min_revision"):
        wait_s = query.get("wait_s", syntax.DEFAULT_WAIT_S)
        await request.app[context.HUB].reached(context.scope(request), awaited.revision, awaited.epoch, wait_s)


def _feed(request: web.Request) -> Feed:
    """The feed of the request's scope."""
    hub, scope = request.app[context.HUB], context.scope(request)
    feed = hub.feed(scope)
    if feed is not None:
        return feed
    readable = [str(one) for one in context.readable_scopes(request)]
    alike = near(str(scope), readable)
    hint = f"; did you mean {', '.join(alike)}?" if alike else ""
    if not alike and 0 < len(readable) <= FEW_SCOPES:
        hint = f"; there is {', '.join(readable)}"
    raise NotFound(
        f"{scope} has neither a key nor a release{hint}",
        code="scope_not_found",
        headers=freshness(hub, scope),
        near=alike,
        # What a stream of this scope would begin with: a client that polls has to come to the same state.
        epoch=hub.epoch(scope),
        entries=hub.replica.defaults(scope.namespace),
    )


def _answer(request: web.Request, feed: Feed, name: str, body: bytes, stored: bool) -> web.Response:
    """The stored body, its compressed form, or 304, with all headers of a read."""
    metrics = request.app[context.METRICS]
    etag = feed.etag
    zipped = len(body) > MIN_GZIP_BYTES and syntax.accepts_gzip(_joined(request, "Accept-Encoding"))
    packed = _gzip(feed, name, body) if zipped else None
    if "min_revision" not in context.query(request):
        # What waits for a revision is asked for once.
        request[context.GROUND] = Ground(feed, feed.generation, context.identity(request))
    headers = freshness(request.app[context.HUB], feed.scope)
    headers["ETag"] = f'"{etag}"' if packed is None else f'W/"{etag}"'
    headers["Cache-Control"] = "private, no-cache"
    headers["Vary"] = "Accept-Encoding"
    if (known := _joined(request, "If-None-Match")) and syntax.none_match(known, etag):
        metrics.read("not_modified")
        return web.Response(status=304, headers=headers)
    metrics.read("stored" if stored else "made")
    headers["Content-Type"] = JSON
    if packed is not None:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body if packed is None else packed, headers=headers)


def _joined(request: web.Request, header: str) -> str:
    """A list header as one line, however many lines it was sent in."""
    return ",".join(request.headers.getall(header, ()))


def freshness(hub: Hub, scope: Scope) -> dict[str, str]:
    """The headers that say how fresh a read is: what changes while its body and entity tag stand."""
    staleness_s = hub.staleness_s(scope)
    return {
        "Configsvc-Revision": str(hub.proved(scope)),
        "Configsvc-Staleness": f"{staleness_s:.3f}" if staleness_s else "0",
        "Configsvc-Source": hub.source(scope),
    }


def _gzip(feed: Feed, name: str, body: bytes) -> bytes | None:
    """The body compressed, kept with the state that it was made from; None where that does not make it smaller."""
    if len(body) > MAX_GZIP_BYTES:
        return None
    stored = feed.memo.get(f"gzip:{name}")
    if stored is None:
        packer = zlib.compressobj(6 if len(body) <= FAST_GZIP_BYTES else 1, wbits=31)
        stored = packer.compress(body) + packer.flush()
        feed.memo[f"gzip:{name}"] = stored = stored if len(stored) < len(body) else b""
    return stored or None
