"""A bare event loop (uvloop) that writes the same bytes to all its connections: what fan-out costs without a service.

{"port": 1, "greeting": base64}     listen; each connection gets the greeting once it has sent a request
{"write": base64}                   write to all in one pass; no answer, because the readers know when they have it
{"count": true}                     how many there are
"""

import asyncio
import json
import sys
from typing import cast

import uvloop

from bench.load import answer, commands, unpacked


class Connection(asyncio.Protocol):
    """One reader, known to all that write to `everyone`."""

    def __init__(self, everyone: set[asyncio.WriteTransport], greeting: bytes) -> None:
        self.everyone = everyone
        self.greeting = greeting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        if self.transport not in self.everyone:
            self.everyone.add(self.transport)
            self.transport.write(self.greeting)

    def connection_lost(self, error: Exception | None) -> None:
        self.everyone.discard(self.transport)


async def serve(port: int, greeting: bytes) -> None:
    loop = asyncio.get_running_loop()
    everyone: set[asyncio.WriteTransport] = set()
    await loop.create_server(lambda: Connection(everyone, greeting), "127.0.0.1", port, backlog=1024)
    answer(ready=True)
    ended = asyncio.Event()

    def obey() -> None:
        line = sys.stdin.readline()
        if not line:
            ended.set()
            return
        command = json.loads(line)
        data = unpacked(command["write"])
        for transport in everyone:
            transport.write(data)

    loop.add_reader(sys.stdin.fileno(), obey)
    await ended.wait()


if __name__ == "__main__":
    first = next(commands())
    uvloop.run(serve(first["port"], unpacked(first["greeting"])))
