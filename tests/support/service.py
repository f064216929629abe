"""A service on a real socket for tests: over a hub that the test feeds, or over an etcd."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from aiohttp import web

from configsvc.core.model import Scope, entry_path, head_path, schema_path
from configsvc.core.replica import Event, Record, Replica, sort_listing
from configsvc.hub import Hub
from configsvc.settings import Settings, parse
from configsvc.settings_values import Address
from configsvc.web.app import create_app
from configsvc.web.server import bind, listening

CLUSTER = "77"
SCOPE = Scope("payments", "production")


def make_settings(environ: Mapping[str, str] | None = None, **changes: Any) -> Settings:
    """Settings of a sidecar for `payments` on a free port, but for `changes`."""
    settings = parse(environ or {"SERVICE_NAME": "payments", "CONFIGSVC_LISTEN": "127.0.0.1:0"})
    return msgspec.structs.replace(settings, **changes)


def central(**changes: Any) -> Settings:
    """Settings of a central service."""
    return make_settings({"CONFIGSVC_MODE": "central", "CONFIGSVC_LISTEN": "127.0.0.1:0"}, **changes)


def stored(key: str, value: object, revision: int, scope: Scope = SCOPE, **more: object) -> Record:
    """An entry as etcd has it."""
    text = json.dumps({"value": value, **more}).encode()
    return Record(key=entry_path(scope, key), value=text, mod_revision=revision)


def head(revision: int, release: int, version: str | None = None, scope: Scope = SCOPE, **more: object) -> Record:
    """A scope's head as etcd has it."""
    text = json.dumps({"format": 1, "release": release, "version": version, "id": f"id{release}", **more})
    return Record(key=head_path(scope), value=text.encode(), mod_revision=revision)


def schema(revision: int, rules: object, namespace: str = SCOPE.namespace) -> Record:
    """A namespace's schema as etcd has it."""
    return Record(
        key=schema_path(namespace), value=json.dumps({"format": 1, "schema": rules}).encode(), mod_revision=revision
    )


def make_hub(settings: Settings, **more: Any) -> Hub:
    """A hub as `build` makes it."""
    return Hub(
        Replica(settings.environment),
        heartbeat_s=settings.heartbeat_s,
        max_frames=settings.frame_log_count,
        max_bytes=settings.frame_log_bytes,
        max_streams=settings.max_streams,
        **more,
    )


def fill(hub: Hub, revision: int, *records: Record) -> None:
    """Give a hub a listing."""
    hub.rebase(sort_listing(records, revision, CLUSTER, hub.replica.environment), windows={}, found={})


def change(hub: Hub, *records: Record) -> None:
    """Give a hub the puts of one revision."""
    hub.apply(records[0].mod_revision, [Event(key=record.key, record=record) for record in records])


@asynccontextmanager
async def serving(
    hub: Hub, settings: Settings | None = None, app: web.Application | None = None, **more: Any
) -> AsyncIterator[str]:
    """The application over `hub` on a free port; yields its URL."""
    settings = settings or make_settings()
    sock = bind(Address("127.0.0.1", 0))
    async with listening(app or create_app(settings, hub, **more), sock) as url:
        yield url


class Connection:
    """A plain socket, for requests that no client library would send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """One response with a Content-Length (or none): status, headers by small name, body."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        length = int(headers.get("content-length", 0))
        body = await asyncio.wait_for(self.reader.readexactly(length), 20) if length else b""
        return status, headers, body

    async def problem(self) -> dict[str, Any]:
        """One response that has to be a problem document; its status is in it."""
        status, headers, body = await self.response()
        assert headers["content-type"] == "application/problem+json", (status, headers, body)
        document: dict[str, Any] = json.loads(body)
        assert document["status"] == status
        assert headers["x-request-id"] == document["request_id"]
        assert_sound(document)
        return document

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        return await asyncio.wait_for(self.reader.read(), 20)


def assert_sound(problem: Mapping[str, Any]) -> None:
    """A problem has a stable code and a sentence, and shows nothing of the service's inside."""
    assert {"type", "title", "status", "code", "detail", "request_id"} <= problem.keys()
    assert problem["type"] == f"urn:configsvc:error:{problem['code']}"
    assert problem["detail"].strip()
    text = json.dumps(problem)
    for trace in ("Traceback", 'File \\"', "site-packages", "Error(", "Exception"):
        assert trace not in text


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Connection]:
    """A plain socket to a URL's server."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**24)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def lazy_socket(url: str, request: bytes, buffer: int = 4096) -> AsyncIterator[socket.socket]:
    """A socket that has asked and reads nothing by itself."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (host, int(port)))
        await loop.sock_sendall(sock, request)
        yield sock


async def ask(url: str, target: str | bytes, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """One request whose target is sent as it is."""
    raw = target.encode("utf-8") if isinstance(target, str) else target
    async with connect(url) as connection:
        lines = "".join(f"{line}\r\n" for line in headers)
        connection.send(method.encode() + b" " + raw + b" HTTP/1.1\r\nHost: test\r\nConnection: close\r\n")
        connection.send(lines.encode() + b"\r\n")
        if method != "HEAD":
            return await connection.response()
        first = await connection.reader.readuntil(b"\r\n\r\n")
        status, *lines_ = first.decode("latin-1").strip().split("\r\n")
        found = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines_)}
        return int(status.split(" ")[1]), found, await connection.rest()


async def ask_problem(url: str, target: str | bytes, *headers: str, method: str = "GET") -> dict[str, Any]:
    """The same, where the answer has to be a problem."""
    raw = target.encode("utf-8") if isinstance(target, str) else target
    async with connect(url) as connection:
        connection.send(method.encode() + b" " + raw + b" HTTP/1.1\r\nHost: test\r\nConnection: close\r\n")
        connection.send("".join(f"{line}\r\n" for line in headers).encode() + b"\r\n")
        return await connection.problem()


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Poll for a condition."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
