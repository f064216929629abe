"""Backups over HTTP: the file goes out piece by piece, and comes back as one body."""

import asyncio

from aiohttp import web

from configsvc.core import backup as file_format
from configsvc.core.commands import About
from configsvc.errors import Forbidden, Unavailable
from configsvc.etcd.ops import EtcdError
from configsvc.web import context
from configsvc.web.manage import about, answer, carried_out, note
from configsvc.writes import backup
from configsvc.writes.schedule import name_of
from configsvc.writes.telling import told
from configsvc.writes.writer import Outcome

MEDIA_TYPE = "application/gzip"
UNPACKED_FACTOR = 16
"""How many times larger than the largest body a backup may be, unpacked."""


async def save(request: web.Request) -> web.StreamResponse:
    """`POST /v1/backup`."""
    writer = context.writer(request)
    namespace = _namespace(request)
    at = writer.now()
    pieces = backup.file(writer.etcd, namespace=namespace, by=context.identity(request).name, at=at)
    with told(sent=False):
        first = await anext(pieces)
    name = name_of(namespace, at)
    response = web.StreamResponse(
        headers={
            "Content-Type": MEDIA_TYPE,
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        }
    )
    await response.prepare(request)
    try:
        await response.write(first)
        async for piece in pieces:
            if piece:
                await response.write(piece)
    except EtcdError as error:
        # The head is out: the answer breaks off, and a file without its last line is refused by every reader.
        raise Unavailable("etcd went away in the middle of a backup", code="store_unavailable") from error
    await response.write_eof()
    return response


async def restore(request: web.Request) -> web.StreamResponse:
    """`POST /v1/restore`."""
    writer, query, settings = context.writer(request), context.query(request), request.app[context.SETTINGS]
    namespace = _namespace(request)
    most = settings.max_body_bytes * UNPACKED_FACTOR
    contents = await asyncio.to_thread(file_format.read, context.body(request), most)
    dry_run = query.get("dry_run") == "true"
    about_it = about(request)

    def each() -> About:
        # A release has an id of its own.
        return about(request)

    async def restoring() -> list[Outcome]:
        found = await backup.Restoring(writer.etcd, writer).restore(
            contents, each, namespace=namespace, dry_run=dry_run
        )
        for one in () if dry_run else found:
            note(request, one, about_it)
        return found

    found = await carried_out(request, restoring())
    return answer({"head": contents.head, "scopes": [backup.answer_of(one) for one in found]})


def _namespace(request: web.Request) -> str | None:
    """Which namespace is meant; a sidecar has but one, and none whole where it follows one environment."""
    asked: str | None = context.query(request).get("namespace")
    settings = request.app[context.SETTINGS]
    own = settings.service_name
    if own and (settings.environment or asked not in (None, own)):
        follows = f"{own}/{settings.environment or '*'}"
        raise Forbidden(
            f"this sidecar follows {follows}, not {asked or own}/*; a backup has whole ones: ask a central service",
            code="outside_sidecar",
            follows=follows,
        )
    return asked or own
