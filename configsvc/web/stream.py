"""Streams: a scope's frames as Server-Sent Events or WebSocket messages, until one side ends it.

What to send is the hub's reader's to say. Server-Sent Events are `fanout.py`'s to get out of the door once their head
is written; WebSocket messages have a task for each connection here, since both sides speak: never faster than the other
side takes them, and not for ever to one that takes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import WSCloseCode, WSMsgType, web

from configsvc.errors import InvalidRequest
from configsvc.readers import Reader
from configsvc.web import context, syntax
from configsvc.web.fanout import FANOUT, LOOKS, SLICE_BYTES, STREAM, Head, Stream
from configsvc.web.protocol import Protocol, reset

EASY_BYTES = SLICE_BYTES // 2
"""Up to here the transport takes data without making its writer wait."""
MAX_MESSAGE_BYTES = 4096
CLOSE_TIMEOUT_S = 2.0

SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class SlowReader(Exception):
    """The other side has taken nothing for too long; its connection was aborted."""


class Outlet:
    """One connection's way out: waits while the other side is slow, and aborts when that takes nothing at all."""

    def __init__(
        self, transport: asyncio.Transport, slow_reader_s: float, on_slow: Callable[[], None] = lambda: None
    ) -> None:
        self._transport = transport
        self._on_slow = on_slow
        self._slow_reader_s = slow_reader_s
        self._clock = asyncio.get_running_loop().time
        self._written = 0
        self._taken = 0
        self._taken_at = self._clock()

    async def send(self, write: Awaitable[None], size: int) -> None:
        """Await one write of `size` bytes; raises `SlowReader`, after aborting, where nothing moves for too long."""
        self._written += size
        if self._left() + size <= EASY_BYTES:
            await write
            self._look()
            return
        writing = asyncio.ensure_future(write)
        try:
            while not writing.done():
                await asyncio.wait({writing}, timeout=self._slow_reader_s / LOOKS)
                self._look()
        finally:
            writing.cancel()
        await writing

    def _left(self) -> int:
        return self._transport.get_write_buffer_size()

    def _look(self) -> None:
        now, left = self._clock(), self._left()
        if left == 0 or self._written - left > self._taken:
            self._taken, self._taken_at = self._written - left, now
        elif now - self._taken_at >= self._slow_reader_s:
            self._on_slow()
            reset(self._transport)
            raise SlowReader


async def watch(request: web.Request) -> web.StreamResponse:
    """`GET /v1/watch/{ns}/{env}`."""
    reader, connection = _reader(request), request.protocol
    try:
        head = Head(headers={**SSE_HEADERS, **_staleness(request)})
        # Nothing else that arrives on this connection is answered.
        head.force_close()
        await head.prepare(request)
        request[context.ANSWERED] = 200
        assert isinstance(connection, Protocol)
        stream = Stream(
            request.app[FANOUT], reader, context.identity(request), chunked="Transfer-Encoding" in head.headers
        )
        connection.hand_over(stream)
    except BaseException:
        reader.close()
        raise
    request[STREAM] = stream
    return head


async def websocket(request: web.Request) -> web.StreamResponse:
    """`GET /v1/ws/{ns}/{env}`: the same frames for those who want WebSocket."""
    settings, metrics = request.app[context.SETTINGS], request.app[context.METRICS]
    socket = web.WebSocketResponse(
        # Pings find a peer that is gone although its kernel still takes our frames. One that merely does not read is
        # the outlet's to find, and sooner.
        heartbeat=2 * settings.slow_reader_s,
        timeout=CLOSE_TIMEOUT_S,
        max_msg_size=MAX_MESSAGE_BYTES,
        compress=False,
    )
    if not _is_handshake(socket, request):
        raise InvalidRequest(
            "this route speaks WebSocket: send its handshake (Upgrade: websocket), or read /v1/watch instead",
            code="invalid_header",
        )
    with _reader(request) as reader:
        socket.headers.update(_staleness(request))
        await socket.prepare(request)
        request[context.ANSWERED] = 101
        metrics.streams["websocket"] += 1
        try:
            code = await _until_closed(request, socket, reader)
            await socket.close(code=code)
        except SlowReader:
            pass
        finally:
            metrics.streams["websocket"] -= 1
    return socket


def _is_handshake(socket: web.WebSocketResponse, request: web.Request) -> bool:
    try:
        return socket.can_prepare(request).ok
    except ValueError:
        # A key with a byte outside ASCII: aiohttp decodes it without looking.
        return False


async def _until_closed(request: web.Request, socket: web.WebSocketResponse, reader: Reader) -> int:
    """Send and listen until either ends; returns the code to close with."""
    sending = asyncio.ensure_future(_send(request, socket, reader))
    listening = asyncio.ensure_future(_ignore(socket))
    try:
        await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = sending.done()
        sending.cancel()
        listening.cancel()
        await asyncio.gather(sending, listening, return_exceptions=True)
    return sending.result() if ended else WSCloseCode.OK


async def _send(request: web.Request, socket: web.WebSocketResponse, reader: Reader) -> int:
    outlet = _outlet(request, "websocket")
    async for frames in reader:
        if not _still_allowed(request):
            return WSCloseCode.POLICY_VIOLATION
        for frame in frames:
            await outlet.send(socket.send_frame(frame.ws, WSMsgType.TEXT), len(frame.ws))
    return WSCloseCode.GOING_AWAY


async def _ignore(socket: web.WebSocketResponse) -> None:
    """Listen, because that is what answers pings and notices a close; what is said does not matter."""
    async for _ in socket:
        pass


def _reader(request: web.Request) -> Reader:
    position = syntax.position(request.headers.get("Last-Event-ID"), context.query(request).get("last_event_id"))
    return request.app[context.HUB].subscribe(context.scope(request), position)


def _staleness(request: web.Request) -> dict[str, str]:
    """The header that says how old the state is, before any event; none where there is no state yet.

    A `snapshot` looks the same whenever it was proved, and a status follows it only where there is news.
    """
    status = request.app[context.HUB].status(context.scope(request))
    if status.state == "starting":
        return {}
    # 0 says that it is live; a file from the future, by a clock that was set back, is none the fresher for that.
    staleness_s = "0" if status.staleness_s is None else f"{max(status.staleness_s, 0.001):.3f}"
    return {"Configsvc-Staleness": staleness_s}


def _outlet(request: web.Request, transport: str) -> Outlet:
    if request.transport is None:
        raise ConnectionResetError("the other side is gone")
    slow = partial(request.app[context.METRICS].slow_stream, transport)
    return Outlet(request.transport, request.app[context.SETTINGS].slow_reader_s, slow)


def _still_allowed(request: web.Request) -> bool:
    """Whether the stream's reader may still read; asked before each write, heartbeats included."""
    return request.app[context.AUTHENTICATOR].holds(context.identity(request))
