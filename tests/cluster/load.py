"""Writers that never stop: pairs that belong together, single keys, deletions; each knows what etcd acknowledged."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from configsvc.core.model import Scope, entry_path
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.ops import Delete, EtcdError, Put, Txn

PAIRS = 4
SINGLES = 6
PAUSE_S = (0.02, 0.08)


class Ack(NamedTuple):
    """One write that etcd acknowledged; times are monotonic."""

    sent: float
    at: float
    revision: int


class Login(NamedTuple):
    """A user of etcd's."""

    user: str
    password_file: Path


class Load:
    """Writers of one scope, each with a gateway of its own that prefers another endpoint."""

    def __init__(self, urls: Sequence[str], scope: Scope, *, writers: int = 3, login: Login | None = None) -> None:
        self._scope = scope
        self._urls = list(urls)
        self._writers = writers
        self._login = login
        self.acks: list[Ack] = []
        self.failures: list[EtcdError] = []
        self._count = 0
        self._open: list[Gateway] = []
        self._under_way = 0
        self._stopping = asyncio.Event()
        self._going = asyncio.Event()
        self._going.set()

    async def run(self) -> None:
        """Write until `stop`."""
        async with AsyncExitStack() as stack:
            for number in range(self._writers):
                turn = number % len(self._urls)
                urls = (*self._urls[turn:], *self._urls[:turn])
                self._open.append(await stack.enter_async_context(Gateway(self.config(urls))))
            async with asyncio.TaskGroup() as tasks:
                for number, gateway in enumerate(self._open):
                    tasks.create_task(self._write(gateway, random.Random(number)))

    def config(self, urls: tuple[str, ...]) -> GatewayConfig:
        user, password_file = self._login or (None, None)
        return GatewayConfig(
            endpoints=urls,
            user=user,
            password_file=password_file,
            write_s=0.6,
            connect_s=0.3,
            breaker_failures=1000,
        )

    async def _write(self, gateway: Gateway, rng: random.Random) -> None:
        while True:
            # A paused writer that is let go and held back at once has been woken all the same.
            while not self._going.is_set():
                await self._going.wait()
            if self._stopping.is_set():
                return
            self._count += 1
            try:
                await self._commit(gateway, *self._operations(rng, self._count))
            except EtcdError as error:
                self.failures.append(error)
            await asyncio.sleep(rng.uniform(*PAUSE_S))

    async def _commit(self, gateway: Gateway, *operations: Put | Delete) -> int:
        sent = time.monotonic()
        self._under_way += 1
        try:
            result = await gateway.txn(Txn(success=operations))
        finally:
            self._under_way -= 1
        self.acks.append(Ack(sent, time.monotonic(), result.header.revision))
        return result.header.revision

    async def write(self, *operations: Put | Delete) -> int:
        """Write under no guard, as a hand would; the revision."""
        return await self._commit(self.gateway, *operations)

    async def write_many(self, count: int) -> None:
        """So many more writes, as fast as they go."""
        rng = random.Random(count)

        async def some(gateway: Gateway) -> None:
            for _ in range(count // len(self._open) // 4):
                self._count += 1
                with contextlib.suppress(EtcdError):
                    await self._commit(gateway, *self._operations(rng, self._count))

        await asyncio.gather(*(some(gateway) for gateway in self._open for _ in range(4)))

    async def pause(self) -> None:
        """Let the writers stand still; returns when nothing is under way."""
        self._going.clear()
        while self._under_way:
            await asyncio.sleep(0.01)

    def resume(self) -> None:
        """Go on writing."""
        self._going.set()

    @property
    def gateway(self) -> Gateway:
        """A gateway of the writers'."""
        return self._open[0]

    def put(self, key: str, value: object) -> Put:
        return Put(key=entry_path(self._scope, key), value=json.dumps({"value": value}).encode())

    def delete(self, key: str) -> Delete:
        return Delete(key=entry_path(self._scope, key))

    def _operations(self, rng: random.Random, count: int) -> list[Put | Delete]:
        pair = f"pair{rng.randrange(PAIRS)}"
        single = f"single{rng.randrange(SINGLES)}"
        match rng.randrange(10):
            # A put goes with each deletion: that of a key which is not there is no revision of its own.
            case 0:
                return [self.delete(f"{pair}.a"), self.delete(f"{pair}.b"), self.put("count", count)]
            case 1:
                return [self.delete(single), self.put("count", count)]
            case 2 | 3:
                return [self.put(single, count)]
            case 4:
                return [self.put(f"{pair}.a", count), self.delete(single), self.put(f"{pair}.b", count)]
        return [self.put(f"{pair}.a", count), self.put(f"{pair}.b", count)]

    def stop(self) -> None:
        """End after the writes under way."""
        self._stopping.set()
        self._going.set()

    async def acknowledged(self, since: float, timeout_s: float = 20.0) -> Ack:
        """The first acknowledged write that was sent after `since`: the moment from which progress was possible."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for ack in self.acks[-200:]:
                if ack.sent >= since:
                    return ack
            await asyncio.sleep(0.005)
        raise AssertionError(f"etcd takes no writes: {self.failures[-5:]}")
