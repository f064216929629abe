"""Streams once their heads are out: thousands of connections that cost little and are written to in passes.

A stream takes its connection over from aiohttp, so that request, response, parser and task are freed while it lasts.
Whatever is to be sent is written from one place, a pass over the streams that may have news: those that stand at the
same place share what is pulled and the bytes made of it, and one whose connection does not take them is left alone
until it does, holding one piece and no queue. A pass yields to the rest of the service every few streams.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import structlog
from aiohttp import web

from configsvc.core.feed import Frame
from configsvc.core.policy import Identity
from configsvc.hub import Hub
from configsvc.metrics import Metrics
from configsvc.readers import Reader, Shared
from configsvc.web.protocol import reset

SLICE_BYTES = 64 * 1024
"""What one write hands to the transport."""
PASS_STREAMS = 16
"""How many streams are written to before others get the event loop: about 0.2 ms of small frames."""
LOOKS = 5
"""How often a blocked stream is looked at within `slow_reader_s`."""

Piece = bytes | memoryview

log = structlog.get_logger("configsvc.http")


class Fanout:
    """All streams of one application. `holds` tells whether an identity may still read; asked before each write."""

    def __init__(self, hub: Hub, metrics: Metrics, slow_reader_s: float, holds: Callable[[Identity], bool]) -> None:
        self.metrics = metrics
        self.holds = holds
        self.streams: set[Stream] = set()
        self._hub = hub
        self._slow_reader_s = slow_reader_s
        self._ready: deque[Stream] = deque()
        self._passing = False
        self._blocked: set[Stream] = set()
        self._looking = False
        self._ended = asyncio.Event()
        self._closed = False
        self._last: tuple[list[Frame], bool, bytes] = ([], False, b"")

    def __repr__(self) -> str:
        return f"<Fanout {len(self.streams)} streams, {len(self._ready)} ready, {len(self._blocked)} blocked>"

    def add(self, stream: "Stream") -> None:
        """Take a stream in that has its connection; aborts it where the application is closed already."""
        self.streams.add(stream)
        self.metrics.streams["sse"] += 1
        if self._closed:
            stream.abort()

    def remove(self, stream: "Stream") -> None:
        """Forget a stream whose connection is gone."""
        self.streams.discard(stream)
        self._blocked.discard(stream)
        self.metrics.streams["sse"] -= 1
        self._ended.set()

    async def close(self, timeout_s: float) -> None:
        """Wait until every stream has ended, for `timeout_s` at most; then abort what is left, and what still comes."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._emptied()
        except TimeoutError:
            log.warning("streams are broken off", count=len(self.streams))
        self._closed = True
        for stream in self.streams:
            stream.abort()
        await self._emptied()

    async def _emptied(self) -> None:
        while self.streams:
            self._ended.clear()
            await self._ended.wait()

    # ---- passes -------------------------------------------------------------------------------------------------

    def enqueue(self, stream: "Stream") -> None:
        """Have the next pass come by `stream`."""
        self._ready.append(stream)
        if not self._passing:
            self._passing = True
            # Not at once: what is published in one step of the loop goes out in one write.
            asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        try:
            shared = self._hub.shared()
            for _ in range(min(PASS_STREAMS, len(self._ready))):
                stream = self._ready.popleft()
                try:
                    stream.advance(shared)
                except Exception:
                    log.exception("a stream failed")
                    stream.abort()
        finally:
            self._passing = bool(self._ready)
            if self._passing:
                asyncio.get_running_loop().call_soon(self._pass)

    def piece(self, frames: list[Frame], chunked: bool) -> bytes | None:
        """All of `frames` as one piece, made once for streams that share them; None where that is too large."""
        of, how, piece = self._last
        if of is not frames or how != chunked:
            if sum(map(len, frames)) + 256 * len(frames) > SLICE_BYTES:
                return None
            piece = b"".join(slices(frames, chunked))
            self._last = (frames, chunked, piece)
        return piece

    # ---- slow ones ----------------------------------------------------------------------------------------------

    def block(self, stream: "Stream") -> None:
        """Keep an eye on a stream whose connection is full."""
        self._blocked.add(stream)
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(self._slow_reader_s / LOOKS, self._look)

    def unblock(self, stream: "Stream") -> None:
        """It goes on."""
        self._blocked.discard(stream)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for stream in list(self._blocked):
            if stream.still_for() >= self._slow_reader_s:
                self._blocked.discard(stream)
                self.metrics.slow_stream("sse")
                stream.abort()
        self._looking = bool(self._blocked)
        if self._looking:
            loop.call_later(self._slow_reader_s / LOOKS, self._look)


class Stream(asyncio.Protocol):
    """One connection that only listens from here on; what it says is ignored, and its end is the end of the stream.

    `on_end` is called once, when the connection is gone.
    """

    __slots__ = (
        "_blocked",
        "_chunked",
        "_fanout",
        "_identity",
        "_left",
        "_moved_at",
        "_pieces",
        "_queued",
        "_reader",
        "_transport",
        "on_end",
    )

    def __init__(self, fanout: Fanout, reader: Reader, identity: Identity, *, chunked: bool) -> None:
        self.on_end: Callable[[], None] = _nobody_asks
        self._fanout = fanout
        self._reader = reader
        self._identity = identity
        self._chunked = chunked
        self._transport: asyncio.Transport
        self._queued = self._blocked = False
        self._pieces: Iterator[Piece] | None = None
        """What is still to be sent of the last frames pulled, where that is more than one piece."""
        self._left = 0
        self._moved_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, on a connection that has the stream's head behind it."""
        self._transport = cast("asyncio.Transport", transport)
        self._fanout.add(self)
        # Told at once when the kernel takes no more, and when it has taken everything.
        self._transport.set_write_buffer_limits(high=0)
        if self._transport.get_write_buffer_size() and not self._blocked:
            self.pause_writing()
        self._reader.poke = self.wake
        self.wake()

    def wake(self) -> None:
        """There may be something to send."""
        if not self._queued and not self._blocked:
            self._queued = True
            self._fanout.enqueue(self)

    def advance(self, shared: Shared) -> None:
        """Send one piece: of what is left, else of what the reader lacks by now."""
        self._queued = False
        if self._blocked or self._transport.is_closing():
            return
        piece = next(self._pieces, None) if self._pieces else None
        if piece is None:
            self._pieces = None
            if self._reader.ended or not self._fanout.holds(self._identity):
                self._end()
                return
            frames = self._reader.pull(shared)
            if not frames:
                return
            piece = self._fanout.piece(frames, self._chunked)
            if piece is None:
                self._pieces = slices(frames, self._chunked)
                piece = next(self._pieces)
        self._transport.write(piece)
        if self._pieces or self._reader.ended:
            # One piece at a time, so that everybody gets theirs.
            self.wake()

    def _end(self) -> None:
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._reader.close()
        self._transport.close()

    def abort(self) -> None:
        """End at once, with what is unsent."""
        reset(self._transport)

    def pause_writing(self) -> None:
        """The connection is full: the kernel takes nothing until some of it was read."""
        self._blocked = True
        self._left = self._transport.get_write_buffer_size()
        self._moved_at = asyncio.get_running_loop().time()
        self._fanout.block(self)

    def resume_writing(self) -> None:
        """It has taken everything."""
        self._blocked = False
        self._fanout.unblock(self)
        self.wake()

    def still_for(self) -> float:
        """For how many seconds the other side has taken nothing, while there is something to take."""
        now, left = asyncio.get_running_loop().time(), self._transport.get_write_buffer_size()
        if left < self._left:
            self._left, self._moved_at = left, now
        return now - self._moved_at

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone, or we have closed."""
        self._reader.close()
        self._fanout.remove(self)
        self.on_end()


class Head(web.StreamResponse):
    """The head of an answer whose body a stream sends, and ends, by itself."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Leave the body to the stream."""


FANOUT = web.AppKey("fanout", Fanout)
STREAM = web.RequestKey("stream", Stream)
"""Set where the answer goes on after its handler has returned."""


def _nobody_asks() -> None:
    pass


def slices(frames: Iterable[Frame], chunked: bool) -> Iterator[Piece]:
    """The frames as SSE bytes, in pieces of at most `SLICE_BYTES`: small ones joined, large ones cut but not copied.

    Where the body is `chunked`, small ones that go together are a chunk, and so is a large one.
    """
    joined: list[bytes] = []
    size = 0
    for frame in frames:
        large = len(frame) + 256 > SLICE_BYTES
        if joined and (large or size + len(frame.sse) > SLICE_BYTES):
            yield _chunk(b"".join(joined)) if chunked else b"".join(joined)
            joined, size = [], 0
        if not large:
            joined.append(frame.sse)
            size += len(frame.sse)
            continue
        head = frame.sse_head
        yield b"%x\r\n%s" % (len(head) + len(frame) + 2, head) if chunked else head
        data = memoryview(frame.data)
        for start in range(0, len(data), SLICE_BYTES):
            yield data[start : start + SLICE_BYTES]
        yield b"\n\n\r\n" if chunked else b"\n\n"
    if joined:
        yield _chunk(b"".join(joined)) if chunked else b"".join(joined)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
