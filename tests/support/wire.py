"""A connection without a socket: segments go in exactly as a test cuts them, and what is answered comes out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from configsvc.hub import Hub
from configsvc.metrics import Metrics
from configsvc.web import context
from configsvc.web.app import create_app
from configsvc.web.memo import Memo
from configsvc.web.protocol import Protocol
from tests.support.service import make_settings

SPINS = 100
"""Turns of the event loop that any answer is made in; there is no I/O to wait for."""


class Pipe(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self.sent = b""
        self.closed = False
        self.protocol: Protocol | None = None

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent += bytes(data)

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            assert self.protocol is not None
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        raise AssertionError("too much at once for this test")

    def resume_reading(self) -> None:
        pass


class Line:
    """One connection to a server."""

    def __init__(self, protocol: Protocol, pipe: Pipe) -> None:
        self.protocol, self.pipe = protocol, pipe

    def send(self, *segments: bytes) -> None:
        """Hand segments in, one right after the other."""
        for segment in segments:
            if not self.pipe.closed:
                self.protocol.data_received(segment)

    async def settle(self) -> None:
        """Let everything be answered that can be."""
        for _ in range(SPINS):
            await asyncio.sleep(0)

    async def ask(self, *segments: bytes) -> bytes:
        """Hand segments in, once all before is answered, and return what is answered."""
        await self.settle()
        before = len(self.pipe.sent)
        self.send(*segments)
        await self.settle()
        return self.pipe.sent[before:]


class Side:
    """A service, and connections to it without sockets."""

    def __init__(self, app: web.Application, server: web.Server) -> None:
        self.app = app
        self.server = server

    @property
    def memo(self) -> Memo:
        return self.app[context.MEMO]

    @property
    def metrics(self) -> Metrics:
        return self.app[context.METRICS]

    @property
    def hits(self) -> int:
        """How often the memo has answered."""
        self.metrics.flush()
        return self.metrics.memo_hits

    def connect(self, listener: str = "", **extra: Any) -> Line:
        pipe = Pipe(extra)
        protocol = Protocol(
            self.server,
            loop=asyncio.get_running_loop(),
            head_timeout_s=10,
            stalled_s=60,
            metrics=self.metrics,
            memo=self.app.get(context.MEMO),
            listener=listener,
        )
        pipe.protocol = protocol
        protocol.connection_made(pipe)
        return Line(protocol, pipe)

    async def warm(self, *requests: bytes) -> Line:
        """A connection on which each of `requests` was asked twice: the memo has what it may have of them."""
        line = self.connect()
        for request in (*requests, *requests):
            await line.ask(request)
        return line


@asynccontextmanager
async def side(hub: Hub, *, hot_reads: bool = True, **more: Any) -> AsyncIterator[Side]:
    """A service over `hub`, with or without the memo."""
    app = create_app(make_settings(hot_reads=hot_reads), hub, **more)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    assert runner.server is not None
    try:
        yield Side(app, runner.server)
    finally:
        await runner.cleanup()


def request(target: str, *lines: str, method: str = "GET") -> bytes:
    """A request without a body."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: test", *lines, "", ""]).encode("latin-1")
