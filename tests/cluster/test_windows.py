"""Releases larger than a transaction, played by hand: replicas that die, start and miss things inside apply windows.

The writer takes the steps of the release protocol; between them things go wrong. Whatever happens, every reader sees
the release before or the one after, never a mixture, and no revision of an open window.
"""

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from configsvc.core.model import Scope, content_prefix, entry_path, head_path, manifests_prefix
from configsvc.core.release import Written, encode_content, manifest_name
from configsvc.core.replica import Replica as State
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import Compare, Delete, Put, Txn
from configsvc.follower import Follower
from configsvc.hub import Hub
from configsvc_client.protocol import decode_baseline, decode_delta
from configsvc_client.snapshot import Snapshot
from tests.support.etcd import compact, eventually
from tests.support.proxy import TcpProxy

KEYS = 24
CHUNK = 5


class Publisher:
    """The writer of one scope. Every release writes all keys with its own number, so that a mixture shows."""

    def __init__(self, gateway: Gateway, scope: Scope) -> None:
        self._gateway = gateway
        self.scope = scope
        self.release = 0
        self.closed: dict[int, int] = {}
        """The revision at which each release became the one to see."""
        self.opened = 0
        self.fence = 0
        self._id = ""

    async def write(self, *operations: Put | Delete) -> int:
        guard = (Compare(key=head_path(self.scope), target="MOD", value=self.fence),) if self.fence else ()
        result = await self._gateway.txn(Txn(compare=guard, success=operations))
        assert result.succeeded
        if any(operation.key == head_path(self.scope) for operation in operations):
            self.fence = result.header.revision
        return result.header.revision

    def values(self, release: int) -> dict[str, int]:
        """What a release has: a third of the keys come and go."""
        return {f"k{n:02}": release for n in range(KEYS) if n % 3 or release % 2}

    def head(self, **more: Any) -> Put:
        head = {"format": 1, "release": self.release, "version": f"v{self.release}", "id": self._id, "overrides": {}}
        return Put(key=head_path(self.scope), value=json.dumps({**head, **more}).encode())

    def operations(self, release: int) -> list[Put | Delete]:
        values = self.values(release)
        return [
            Put(key=entry_path(self.scope, key), value=stored(values[key]))
            if key in values
            else Delete(key=entry_path(self.scope, key))
            for key in (f"k{n:02}" for n in range(KEYS))
        ]

    async def small(self) -> None:
        """A release in one transaction."""
        self.release += 1
        self._id = uuid.uuid4().hex
        self.closed[self.release] = await self.write(*self.operations(self.release), self.head())

    async def stage(self) -> None:
        """Write down what the next release will do."""
        number, self._next = self.release + 1, uuid.uuid4().hex
        old, new = self.values(self.release), self.values(number)
        written = [
            Written(key, stored(old[key]) if key in old else None, stored(new[key]) if key in new else None)
            for key in sorted(old.keys() | new.keys())
        ]
        for index, chunk in enumerate(encode_content(written)):
            path = content_prefix(self.scope, self._next) + b"%06d" % index
            await self._gateway.txn(Txn(success=(Put(key=path, value=chunk),)))

    async def open(self) -> None:
        number = self.release + 1
        manifest = json.dumps({"format": 1, "number": number, "id": self._next, "content": self._next}).encode()
        put = Put(key=manifests_prefix(self.scope) + manifest_name(number), value=manifest)
        self.opened = await self.write(self.head(applying=self._window("opened")), put)

    async def verify(self) -> None:
        window = self._window("verified") | {"opened_revision": self.opened}
        await self.write(self.head(applying=window))

    def _window(self, state: str) -> dict[str, Any]:
        since = "2026-01-01T00:00:00Z"
        return {"id": self._next, "sha256": "", "kind": "deploy", "state": state, "since": since, "by": "test"}

    async def apply(self, part: int) -> int:
        """One chunk of the open release."""
        operations = self.operations(self.release + 1)
        return await self.write(*operations[part * CHUNK : (part + 1) * CHUNK])

    async def close(self) -> None:
        self.release += 1
        self._id = self._next
        self.closed[self.release] = await self.write(self.head())

    @property
    def parts(self) -> int:
        return -(-KEYS // CHUNK)


def stored(value: object) -> bytes:
    return json.dumps({"value": value}).encode()


class Following:
    """A replica while its follower runs, and one reader that checks everything as it comes."""

    def __init__(self, gateway: Gateway, publisher: Publisher) -> None:
        self.hub = Hub(State(), heartbeat_s=1)
        self.follower = Follower(gateway, self.hub, prefix=f"/config/{publisher.scope.namespace}/".encode())
        self._publisher = publisher
        self.snapshot = Snapshot(namespace="", environment="")
        self.seen: list[int] = []

    @property
    def release(self) -> int | None:
        return self.snapshot.release

    async def read(self) -> None:
        """Follow the scope and check each state that comes of it."""
        with self.hub.subscribe(self._publisher.scope, None) as reader:
            async for frames in reader:
                for frame in frames:
                    if frame.event == "snapshot":
                        self.snapshot = self.snapshot.apply(decode_baseline(frame.data))
                    elif frame.event == "change":
                        self.snapshot = self.snapshot.apply(decode_delta(frame.data))
                    self._check(frame.id.revision if frame.id else None)

    def _check(self, proved: int | None) -> None:
        if not self.snapshot.epoch:
            return
        release = self.snapshot.release or 0
        self.seen.append(release)
        values = {key: entry.value for key, entry in self.snapshot.entries.items()}
        assert values == self._publisher.values(release), f"release {release} was never {values}"
        assert self.seen == sorted(self.seen)
        # A release that its writer has no answer for yet was seen here first.
        closed = self._publisher.closed.get(release)
        if proved is not None and closed is not None and self._publisher.opened > closed:
            assert proved < self._publisher.opened or release + 1 in self._publisher.closed, "inside an open window"


@pytest.fixture
async def publisher(single: LocalEtcd) -> AsyncIterator[Publisher]:
    async with Gateway(GatewayConfig(endpoints=single.endpoints)) as gateway:
        yield Publisher(gateway, Scope(f"ns-{uuid.uuid4().hex[:12]}", "production"))


@asynccontextmanager
async def following(url: str, publisher: Publisher) -> AsyncIterator[Following]:
    config = GatewayConfig(endpoints=(url,), breaker_open_s=0.1, read_s=0.5, created_s=0.5)
    async with AsyncExitStack() as stack:
        replica = Following(await stack.enter_async_context(Gateway(config)), publisher)
        tasks = [asyncio.create_task(loop) for loop in (replica.follower.run(), replica.hub.run(), replica.read())]
        try:
            await eventually(lambda: replica.release is not None or any(task.done() for task in tasks))
            yield replica
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result


async def caught_up(replica: Following, publisher: Publisher) -> None:
    await eventually(lambda: replica.release == publisher.release and replica.hub.state() == "live")
    assert replica.hub.proved(publisher.scope) >= publisher.closed[publisher.release]


async def test_windows_come_and_go_while_replicas_start_cold(single: LocalEtcd, publisher: Publisher) -> None:
    await publisher.small()
    async with following(single.url, publisher) as warm:
        for compacting in (False, True):
            await publisher.stage()
            await publisher.open()
            async with following(single.url, publisher) as at_opening:
                await publisher.verify()
                for part in range(publisher.parts):
                    revision = await publisher.apply(part)
                    if compacting and part == 2:
                        await compact(single, revision)
                    if part == 3:
                        # Cold, in the middle: from etcd's past, or where that is gone, from the release's content.
                        async with following(single.url, publisher) as cold:
                            assert cold.release == publisher.release
                            assert cold.hub.proved(publisher.scope) < publisher.opened
                    assert warm.release == at_opening.release == publisher.release
                async with following(single.url, publisher) as before_close:
                    await publisher.close()
                    for replica in (warm, at_opening, before_close):
                        await caught_up(replica, publisher)
                await publisher.small()
                await caught_up(at_opening, publisher)
                await caught_up(warm, publisher)
        assert warm.seen[-1] == publisher.release
        assert sorted(set(warm.seen)) == list(range(1, publisher.release + 1))


@pytest.mark.parametrize("compacting", [False, True], ids=["kept", "compacted"])
async def test_a_close_is_missed_and_another_window_found(
    single: LocalEtcd, publisher: Publisher, compacting: bool
) -> None:
    await publisher.small()
    async with TcpProxy(single.url) as proxy, following(proxy.url, publisher) as replica:
        await publisher.stage()
        await publisher.open()
        await publisher.apply(0)
        await eventually(lambda: replica.hub.replica.held(publisher.scope))
        await proxy.refuse()
        for part in range(1, publisher.parts):
            await publisher.apply(part)
        await publisher.close()
        await publisher.stage()
        await publisher.open()
        await publisher.verify()
        revision = await publisher.apply(0)
        if compacting:
            await compact(single, revision)
        assert replica.release == publisher.release - 1
        await proxy.listen()
        await eventually(lambda: replica.release == publisher.release)
        for part in range(1, publisher.parts):
            await publisher.apply(part)
        await publisher.close()
        await caught_up(replica, publisher)
        assert bool(replica.follower.relists["compacted"]) == compacting


async def test_a_writer_dies_inside_and_another_one_ends_the_window(single: LocalEtcd, publisher: Publisher) -> None:
    await publisher.small()
    async with following(single.url, publisher) as replica:
        await publisher.stage()
        await publisher.open()
        await publisher.verify()
        await publisher.apply(0)
        # Taken over: the same window by another hand, which may start anywhere.
        await publisher.verify()
        for part in (3, 1, 0, 2, 4):
            await publisher.apply(part)
        assert replica.release == 1
        await publisher.close()
        await caught_up(replica, publisher)
        # Rolled back: opened, nothing verified, closed as it was.
        await publisher.stage()
        await publisher.open()
        await publisher.write(publisher.head())
        publisher.opened = 0
        await publisher.small()
        await caught_up(replica, publisher)


async def test_connections_are_cut_again_and_again_while_releases_are_applied(
    single: LocalEtcd, publisher: Publisher
) -> None:
    rng = random.Random(7)
    await publisher.small()
    async with TcpProxy(single.url) as proxy, following(proxy.url, publisher) as replica:
        for _ in range(4):
            await publisher.stage()
            await publisher.open()
            await publisher.verify()
            for part in range(publisher.parts):
                proxy.cut_after = rng.randrange(1, 900)
                await publisher.apply(part)
                await asyncio.sleep(rng.uniform(0, 0.05))
                if rng.random() < 0.3:
                    proxy.cut()
            await publisher.close()
        proxy.cut_after = None
        await caught_up(replica, publisher)
