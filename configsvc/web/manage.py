"""Writes: a request becomes a command, and what the writer made of it the answer.

What a body and a query may hold is the route table's to say, who may send it the middleware's, what comes of it the
plan's. Answers of a write say its release and revision; a dry run says what would happen and what stands in the way.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from configsvc.core import documents
from configsvc.core.commands import About, Change, Command, Deploy, Rollback, View
from configsvc.core.model import Freeze, Scope
from configsvc.core.release import Kind
from configsvc.core.schema import object_keys
from configsvc.errors import ConfigSvcError
from configsvc.web import bodies, context
from configsvc.web.problems import TYPE
from configsvc.web.syntax import StateTag
from configsvc.writes import promotion
from configsvc.writes.promotion import offered
from configsvc.writes.telling import told
from configsvc.writes.threads import off_loop
from configsvc.writes.writer import Key, Outcome, Prepare, Writer
from configsvc_client.protocol import EventId, format_time

SEEN_S = 2.0
"""How long an answer waits until this replica's own readers see the write."""
JSON = "application/json"

T = TypeVar("T")

log = structlog.get_logger("configsvc.http")
_encoder = msgspec.json.Encoder()
_left: "set[asyncio.Task[Any]]" = set()


async def deploy(request: web.Request) -> web.StreamResponse:
    """`POST /v1/deploy/{ns}/{env}`."""
    query, tree = context.query(request), context.body(request)

    async def prepare(view: View) -> Command:
        return Deploy(
            values=await off_loop(bodies.keys_in(request), documents.flatten, tree, object_keys(view.schema)),
            version=query.get("version"),
            overrides=query.get("overrides", "refuse"),
            git_commit=query.get("git_commit"),
            approved_by=query.get("approved_by"),
        )

    return await write(request, prepare, label=query.get("version"))


async def change(request: web.Request) -> web.StreamResponse:
    """`PATCH /v1/config/{ns}/{env}`."""
    query, patch = context.query(request), context.body(request)
    kind: Kind = "emergency" if query.get("emergency") == "true" else "change"
    return await _change(request, Change(kind=kind, set=patch.set, delete=patch.delete))


async def emergency(request: web.Request) -> web.StreamResponse:
    """`PUT /v1/emergency/{ns}/{env}/{key}`."""
    key = context.key(request)
    return await _change(request, Change(kind="emergency", set={key: context.body(request)}))


async def delete(request: web.Request) -> web.StreamResponse:
    """`DELETE /v1/config/{ns}/{env}/{key}`."""
    return await _change(request, Change(kind="delete", delete=(context.key(request),)))


async def _change(request: web.Request, command: Change) -> web.StreamResponse:
    ttl_s = context.query(request).get("ttl_s")

    async def prepare(view: View) -> Command:
        # From now on, not from when the request came: it may have waited for another release.
        expires_at = _later(context.writer(request), ttl_s) if ttl_s else None
        return msgspec.structs.replace(command, expires_at=expires_at)

    return await write(request, prepare)


async def rollback(request: web.Request) -> web.StreamResponse:
    """`POST /v1/rollback/{ns}/{env}/{version}`."""
    writer, scope, query = context.writer(request), context.scope(request), context.query(request)
    target = await writer.find(scope, context.version(request))

    async def prepare(view: View) -> Command:
        entries, kept = await writer.deployed_at(scope, target)
        return Rollback(
            entries=entries,
            target=target.number,
            kept=kept,
            version=target.version,
            digest=target.digest,
            overrides=query.get("overrides", "refuse"),
        )

    return await write(request, prepare, label=target.version)


async def promote(request: web.Request) -> web.StreamResponse:
    """`POST /v1/promote/{ns}/{env}`."""
    query, scope = context.query(request), context.scope(request)
    source = Scope(scope.namespace, query["from"])
    context.check(request, "read", source)
    writer = context.writer(request)
    min_age_s = request.app[context.SETTINGS].promote_min_age_s

    async def prepare(view: View) -> Command:
        with told(sent=False):
            found = await offered(writer.reading, source, min_age_s=min_age_s, now=datetime.fromisoformat(writer.now()))
        patterns = len(view.head.own) if view.head else 0
        return await off_loop(
            (len(found.values) + len(view.entries)) * (1 + patterns),
            promotion.promote,
            found,
            view,
            version=query.get("version"),
            overrides=query.get("overrides", "refuse"),
            approved_by=query.get("approved_by"),
        )

    return await write(request, prepare, label=query.get("version"))


async def own_keys(request: web.Request) -> web.StreamResponse:
    """`GET /v1/own-keys/{ns}/{env}`."""
    scope = context.scope(request)
    return answer(_own(scope, (await context.writer(request).head(scope)).own))


async def set_own_keys(request: web.Request) -> web.StreamResponse:
    """`PUT /v1/own-keys/{ns}/{env}`."""
    scope = context.scope(request)
    found = context.body(request)
    head = await _set(request, "own-keys", context.writer(request).own_keys(scope, found), patterns=len(found))
    return answer(_own(scope, head.own))


def _own(scope: Scope, patterns: list[str]) -> dict[str, Any]:
    return {"namespace": scope.namespace, "environment": scope.environment, "patterns": patterns}


async def freeze(request: web.Request) -> web.StreamResponse:
    """`PUT /v1/freeze/{ns}/{env}`."""
    query, writer = context.query(request), context.writer(request)
    frozen = Freeze(
        until=_later(writer, query["ttl_s"]),
        reason=query["reason"],
        by=context.identity(request).name,
        since=writer.now(),
    )
    await _set(request, "freeze", writer.freeze(context.scope(request), frozen), until=frozen.until)
    return answer(_frozen(context.scope(request), frozen))


async def unfreeze(request: web.Request) -> web.StreamResponse:
    """`DELETE /v1/freeze/{ns}/{env}`."""
    await _set(request, "unfreeze", context.writer(request).freeze(context.scope(request), None))
    return answer(_frozen(context.scope(request), None))


async def repair(request: web.Request) -> web.StreamResponse:
    """`POST /v1/repair/{ns}/{env}`."""
    writer, scope = context.writer(request), context.scope(request)
    about_it = about(request)

    async def repairing() -> Outcome:
        found = await writer.repair(scope, about_it)
        note(request, found, about_it)
        return found

    return answer(_done(await carried_out(request, repairing())))


async def _set(request: web.Request, kind: str, work: Coroutine[Any, Any, T], **facts: Any) -> T:
    """Carry out what makes no release, and log it like one."""

    async def setting() -> T:
        found = await work
        log.info(
            "write",
            scope=str(context.scope(request)),
            kind=kind,
            by=context.identity(request).name,
            request_id=request[context.REQUEST_ID],
            **facts,
        )
        return found

    return await carried_out(request, setting())


def _frozen(scope: Scope, frozen: Freeze | None) -> dict[str, Any]:
    return {"namespace": scope.namespace, "environment": scope.environment, "frozen": frozen}


# ---- what they share -------------------------------------------------------------------------------------------------


async def write(request: web.Request, prepare: Prepare, *, label: str | None = None) -> web.StreamResponse:
    """Carry a command out as the request's parameters and headers say, and answer."""
    query, scope = context.query(request), context.scope(request)
    key = context.header(request, "Idempotency-Key")
    dry_run = query.get("dry_run") == "true"
    about_it = about(request)

    async def writing() -> Outcome:
        found = await context.writer(request).write(
            scope,
            prepare,
            about_it,
            label=label,
            dry_run=dry_run,
            if_match=_known(request, scope),
            key=Key(about_it.by, key, _digest(request)) if key and not dry_run else None,
        )
        if not dry_run:
            note(request, found, about_it)
        return found

    found = await carried_out(request, writing())
    if dry_run:
        return answer(_planned(found, request[context.REQUEST_ID]))
    hub = request.app[context.HUB]
    with suppress(ConfigSvcError):
        # Not needed, with min_revision at hand; but who reads here next should not wonder.
        await hub.reached(scope, found.revision, None, SEEN_S)
    return answer(_done(found))


def _known(request: web.Request, scope: Scope) -> EventId | None:
    """The state that the sender has read, if `If-Match` says one.

    The tag that this replica shows now has stood until what it has proved since. Of a scope that rests, etcd has long
    forgotten the tag's own revision; and what nobody can read moves no tag.
    """
    known: StateTag | None = context.header(request, "If-Match")
    if known is None:
        return None
    hub = request.app[context.HUB]
    feed = hub.feed(scope)
    if feed is None or feed.etag != known.tag:
        return known.state
    return EventId(known.state.epoch, hub.proved(scope))


def note(request: web.Request, found: Outcome, about: About) -> None:
    """One line per write, also where it changed nothing; never a value."""
    log.info(
        "write",
        scope=str(found.scope),
        kind=found.plan.kind if found.plan else None,
        release=found.release,
        version=found.version,
        changed=len(found.changes),
        outcome="repeated" if found.plan is None else "unchanged" if found.unchanged else "released",
        forced=about.force is not None,
        by=about.by,
        request_id=request[context.REQUEST_ID],
    )


async def carried_out(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which goes on where the request's sender goes away: a write is not left half done."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            metrics, request_id = request.app[context.METRICS], request[context.REQUEST_ID]

            def end(task: "asyncio.Task[T]") -> None:
                _left.discard(task)
                metrics.in_progress -= 1
                error = None if task.cancelled() else task.exception()
                log.info("a write whose sender is gone has ended", request_id=request_id, error=str(error or ""))

            # Stopping waits for it too.
            metrics.in_progress += 1
            _left.add(task)
            task.add_done_callback(end)
        raise


def about(request: web.Request) -> About:
    """Who asked for a write, when, and what was said about it."""
    query = context.query(request)
    return About(
        by=context.identity(request).name,
        at=context.writer(request).now(),
        id=secrets.token_hex(16),
        reason=query.get("reason"),
        force=query.get("force"),
        digest=query.get("digest"),
        base_release=query.get("base_release"),
    )


def _digest(request: web.Request) -> str:
    """What makes a request the same as another one: all that was sent but the headers."""
    digest = hashlib.sha256(f"{request.method} {request.raw_path}\n".encode())
    digest.update(request.get(bodies.BODY_DIGEST, b""))
    return digest.hexdigest()


def _later(writer: Writer, ttl_s: float) -> str:
    return format_time(datetime.fromisoformat(writer.now()) + timedelta(seconds=ttl_s))


def _done(found: Outcome) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "release": found.release,
        "revision": found.revision,
        "epoch": found.epoch,
        "version": found.version,
        "changes": found.changes,
        "warnings": found.warnings,
    }
    return answer | ({"unchanged": True} if found.unchanged else {})


def _planned(found: Outcome, request_id: str) -> dict[str, Any]:
    plan = found.plan
    assert plan is not None
    answer: dict[str, Any] = {
        "epoch": found.epoch,
        "version": plan.manifest.version,
        "changes": found.changes,
        "warnings": found.warnings,
        "digest": plan.digest,
        "base_release": plan.base or None,
        "blocked": [_problem(error, request_id) for error in plan.blocked],
    }
    return answer | ({"unchanged": True} if found.unchanged else {})


def _problem(error: ConfigSvcError, request_id: str) -> dict[str, Any]:
    return {
        "type": TYPE + error.code,
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
        **error.fields,
    }


def answer(body: Any) -> web.Response:
    """A body that is made for this request and is kept by nobody."""
    return web.Response(body=_encoder.encode(body), headers={"Content-Type": JSON, "Cache-Control": "no-store"})
