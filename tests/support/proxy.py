"""A TCP proxy that misbehaves on demand: stalls, delays, buffers, cuts in the middle of whatever passes, refuses."""

import asyncio
import re
import socket
import struct
from types import TracebackType
from urllib.parse import urlsplit


class TcpProxy:
    """Stands before one server. `url` is where to connect instead; faults concern what the server sends.

    Every knob acts at once, on open connections too.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname
        assert parts.port
        self._scheme = parts.scheme
        self._target = (parts.hostname, parts.port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.delay_s = 0.0
        """Added before each piece that the server sends."""
        self.cut_after: int | None = None
        """Cut the connection after so many more bytes of the server's; each connection that sends counts down."""
        self.hold_bytes = 0
        """Keep what the server sends until so many bytes have come, the server ends or, for an answer of known length,
        all of it is there: as proxies do that buffer."""
        self.sent = 0
        """Bytes of the server's that were passed on."""
        self.accepted = 0
        """Connections, ever."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._writers) // 2

    async def __aenter__(self) -> "TcpProxy":
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Take connections (again, on the same port)."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections and reset the open ones."""
        if self._server:
            self._server.close()
            self._server = None
        self.cut()
        await asyncio.sleep(0)

    def stall(self) -> None:
        """Nothing passes any more; connections stay open, and new ones are taken."""
        self._flowing.clear()

    def stall_open(self) -> None:
        """Nothing passes any more on the connections that are open, for ever; new ones work."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def resume(self) -> None:
        """What was held back passes, and all after it."""
        self._flowing.set()

    def cut(self) -> None:
        """Reset all open connections."""
        for writer in list(self._writers):
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            reset(writer)
            return
        self._writers |= {writer, there_writer}
        flowing = self._flowing
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_requests(reader, there_writer, flowing))
                group.create_task(self._pass_answers(there_reader, writer, flowing))
        except* (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers -= {writer, there_writer}
            reset(there_writer)
            reset(writer)

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            await flowing.wait()
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def _pass_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        held = b""
        while data := await reader.read(65536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await flowing.wait()
            held += data
            if len(held) < self.hold_bytes and not _is_whole(held):
                continue
            data, held = held, b""
            cut = self.cut_after is not None and len(data) >= self.cut_after
            if cut:
                data = data[: self.cut_after]
            elif self.cut_after is not None:
                self.cut_after -= len(data)
            writer.write(data)
            await writer.drain()
            self.sent += len(data)
            if cut:
                self.cut_after = None
                # What was written has to arrive; a reset would take it back.
                writer.write_eof()
                raise EOFError
        if held:
            writer.write(held)
            writer.write_eof()
        raise EOFError


def _is_whole(held: bytes) -> bool:
    """Whether this ends an answer that says how long it is."""
    head, end, body = held.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    return bool(end) and (b" 304 " in head[:16] or (length is not None and len(body) >= int(length[1])))


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a killed process or a firewall does."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
