"""A real etcd with as little in between as possible, for tests that ask it a million times: one small HTTP client
without failover, and one watch from which every namespace's history comes.

What is sent and understood is the gateway's own (`etcd/wire.py`); only the transport is another one.
"""

import asyncio
from collections import defaultdict
from types import TracebackType
from urllib.parse import urlsplit

from configsvc.etcd import limits, wire
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.ops import Range, RangeResult, Txn, TxnResult, WatchEvent, prefix_end

CONNECTIONS = 16
ROOT = b"/config"
"""Everything of the service begins so: `/config/` and `/configsvc/`."""


class _Connection(asyncio.Protocol):
    """One request at a time; answers with a length or in chunks."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("etcd closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        found = _answer(self._buffer)
        if found is not None and self._answer and not self._answer.done():
            self._buffer = b""
            self._answer.set_result(found)

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        assert self._transport
        self._answer = asyncio.get_running_loop().create_future()
        head = f"POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)
        return await self._answer

    def close(self) -> None:
        if self._transport:
            self._transport.close()


def _answer(data: bytes) -> tuple[int, bytes] | None:
    """Status and body of a complete answer."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    lines = head.split(b"\r\n")
    status = int(lines[0].split(b" ")[1])
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return (status, rest) if len(rest) >= int(value) else None
    if not rest.endswith(b"0\r\n\r\n"):
        return None
    body = b""
    while True:
        size, end, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not end or len(rest) < length + 2:
            return None
        if not length:
            return status, body
        body += rest[:length]
        rest = rest[length + 2 :]


class LeanEtcd:
    """Reads, transactions, and the history of all that was ever stored, by namespace. An async context manager."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls = 0
        self.position = 0
        """The revision up to which `events` are complete, once something was stored there."""
        self.events: defaultdict[bytes, list[WatchEvent]] = defaultdict(list)
        self._address = urlsplit(url)
        self._free: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
        self._moved = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "LeanEtcd":
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            _, connection = await loop.create_connection(_Connection, self._address.hostname, self._address.port)
            self._free.put_nowait(connection)
        # Asked here, so that nothing that is written from now on is missed, however late the watch opens.
        start = (await self.range(Range(key=ROOT, limit=1))).header.revision + 1
        self._watching = asyncio.create_task(self._watch(start))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._watching
        self._watching.cancel()
        await asyncio.wait({self._watching})
        while not self._free.empty():
            self._free.get_nowait().close()

    async def _watch(self, start: int) -> None:
        async with (
            Gateway(GatewayConfig(endpoints=(self.url,))) as gateway,
            gateway.watch(ROOT, start, member=gateway.members[0]) as batches,
        ):
            async for batch in batches:
                for event in batch.events:
                    self.events[namespace_of(event.key)].append(event)
                    self.position = event.mod_revision
                self._moved.set()

    async def reached(self, revision: int) -> None:
        """Wait until the history has `revision`, at which something below `ROOT` was stored."""
        async with asyncio.timeout(60):
            while self.position < revision:
                assert self._watching
                assert not self._watching.done(), self._watching
                self._moved.clear()
                await self._moved.wait()

    async def _post(self, path: str, body: bytes) -> bytes:
        self.calls += 1
        connection = await self._free.get()
        try:
            status, answer = await connection.post(path, body)
        finally:
            self._free.put_nowait(connection)
        assert status == 200, (path, body, status, answer)
        return answer

    async def range(self, request: Range) -> RangeResult:
        return wire.decode_range(await self._post("/v3/kv/range", wire.encode_range(request)))

    async def list(self, prefix: bytes, revision: int = 0) -> RangeResult:
        return await self.range(Range(key=prefix, range_end=prefix_end(prefix), revision=revision))

    async def txn(self, txn: Txn) -> TxnResult:
        limits.check_txn(txn)
        return wire.decode_txn(await self._post("/v3/kv/txn", wire.encode_txn(txn)))


def namespace_of(path: bytes) -> bytes:
    """Whose key it is; empty for what is nobody's, such as a receipt."""
    parts = path.split(b"/")
    match parts[1:3]:
        case [b"config", namespace]:
            return namespace
        case [b"configsvc", b"releases" | b"overrides"] if len(parts) > 3:
            return parts[3]
    return b""
