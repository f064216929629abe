"""A writer is a real process, and dies between any two of its calls to etcd; readers look on, and others clean up.

`CONFIGSVC_TEST_ALL_POINTS=1` kills it at every call also for the large release (some 200, which takes 15 to 20
minutes); otherwise at the first and the last ones and some in between.
"""

import asyncio
import itertools
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from configsvc.core.commands import About, Change, Command, View
from configsvc.core.model import (
    Head,
    canonical,
    content_prefix,
    decode_head,
    entry_path,
    head_path,
    manifests_prefix,
    releases_prefix,
)
from configsvc.core.release import Manifest, decode_manifest
from configsvc.core.replica import Replica
from configsvc.core.retention import Retention
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import Range
from configsvc.follower import Follower
from configsvc.hub import Hub
from configsvc.writes import txns
from configsvc.writes.janitor import ORPHAN_S, Janitor
from configsvc_client.protocol import decode_baseline, decode_delta
from configsvc_client.snapshot import Snapshot
from tests.support.etcd import ROOT, compact, delete, eventually
from tests.writes.mortal import Order, new_writer, release

ALL_POINTS = os.environ.get("CONFIGSVC_TEST_ALL_POINTS") == "1"
EXTRA = "zz"
"""A key that the writer after the dead one sets: not all have the same value then."""


class Graves:
    """The process that forks writers and tells how they ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def start(self, order: Order) -> None:
        assert self._process.stdin
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        await self._process.stdin.drain()

    async def told(self) -> dict[str, Any]:
        assert self._process.stdout
        async with asyncio.timeout(120):
            found: dict[str, Any] = msgspec.json.decode(await self._process.stdout.readline())
            return found

    async def write(self, order: Order) -> dict[str, Any]:
        await self.start(order)
        return await self.told()


class Reader:
    """A replica with its follower, and one who reads its frames: every key has the same value in each state."""

    def __init__(self, gateway: Gateway, order: Order) -> None:
        self.hub = Hub(Replica(), heartbeat_s=1)
        self.follower = Follower(gateway, self.hub, prefix=f"/config/{order.namespace}/".encode())
        self.snapshot = Snapshot(namespace="", environment="")
        self.states: list[str] = []
        self._order = order

    async def read(self) -> None:
        with self.hub.subscribe(self._order.scope, None) as reader:
            async for frames in reader:
                for frame in frames:
                    if frame.event == "snapshot":
                        self.snapshot = self.snapshot.apply(decode_baseline(frame.data))
                    elif frame.event == "change":
                        self.snapshot = self.snapshot.apply(decode_delta(frame.data))
                    else:
                        continue
                    self._look()

    def _look(self) -> None:
        values = {entry.value.partition("|")[0] for key, entry in self.snapshot.entries.items() if key != EXTRA}
        count = len(self.snapshot.entries.keys() - {EXTRA})
        assert len(values) <= 1, f"a mixture of {values}"
        assert count in (0, self._order.keys), f"{count} keys"
        self.states += values


@asynccontextmanager
async def reading(url: str, order: Order) -> AsyncIterator[Reader]:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway(GatewayConfig(endpoints=(url,))))
        reader = Reader(gateway, order)
        loops = [asyncio.create_task(loop) for loop in (reader.follower.run(), reader.hub.run(), reader.read())]
        try:
            await eventually(lambda: reader.snapshot.epoch or any(loop.done() for loop in loops), timeout_s=60)
            yield reader
            failed = [loop for loop in loops if loop.done()]
            assert not failed, failed
        finally:
            for loop in loops:
                loop.cancel()
            for result in await asyncio.gather(*loops, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result


@pytest.fixture
async def graves(store: LocalEtcd) -> AsyncIterator[Graves]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.writes.mortal", store.url),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Graves(process)
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


@pytest.fixture
async def gateway(store: LocalEtcd) -> AsyncIterator[Gateway]:
    async with Gateway(GatewayConfig(endpoints=(store.url,))) as found:
        yield found


async def let_leases_end(gateway: Gateway, order: Order) -> None:
    """What time does: the signs of life of the dead go."""
    for kv in (await gateway.list(releases_prefix(order.scope) + b"w/")).kvs:
        await gateway.lease_revoke(kv.lease)


async def head_of(gateway: Gateway, order: Order) -> Head:
    found = await gateway.range(Range(key=head_path(order.scope)))
    return decode_head(found.kvs[0].value)


async def another_writer(gateway: Gateway, order: Order) -> None:
    """Any other write: it finishes first what it finds."""

    async def prepare(view: View) -> Command:
        return Change(set={EXTRA: canonical(uuid.uuid4().hex)})

    writer = new_writer(gateway, order, "another")
    about = About(by="another", at=writer.now(), id=txns.new_id())
    assert not (await writer.write(order.scope, prepare, about)).unchanged


def janitor_of(gateway: Gateway, order: Order, hours: "itertools.count[float]") -> Janitor:
    return Janitor(
        gateway,
        new_writer(gateway, order, "janitor"),
        namespace=order.namespace,
        open_scopes=lambda: [order.scope],
        retention=Retention(count=3 if order.large else 0),
        clock=lambda: next(hours),
    )


async def check_whole(gateway: Gateway, order: Order, numbers: set[int]) -> int:
    """The scope is exactly one of two releases, and nothing of a third is left. Returns which one."""
    head = await head_of(gateway, order)
    assert head.applying is None
    listed = await gateway.list(entry_path(order.scope, "k"))
    values = {int(msgspec.json.decode(kv.value)["value"].partition("|")[0]) for kv in listed.kvs}
    assert len(values) == 1, f"a mixture of {values}"
    assert len(listed.kvs) == order.keys
    assert values <= numbers
    manifests = await manifests_of(gateway, order)
    first = manifests[0].number if order.large else 1
    assert [one.number for one in manifests] == list(range(first, head.release + 1))
    assert not (await gateway.list(releases_prefix(order.scope) + b"w/")).kvs
    return values.pop()


async def manifests_of(gateway: Gateway, order: Order) -> list[Manifest]:
    return [decode_manifest(kv.value) for kv in (await gateway.list(manifests_prefix(order.scope))).kvs]


async def check_swept(gateway: Gateway, order: Order, janitor: Janitor) -> None:
    """After an hour there is only content that a release names."""
    # Nothing renews its lease here.
    await delete(gateway, janitor._key)
    assert await janitor._take_turn() is not None
    await janitor.sweep()
    await janitor.sweep()
    prefix = content_prefix(order.scope, "")[:-1]
    found = await gateway.range(Range(key=prefix, range_end=prefix[:-1] + b"0", keys_only=True))
    there = {kv.key.split(b"/")[-2].decode() for kv in found.kvs}
    named = {id for one in await manifests_of(gateway, order) for id in (one.content, one.checkpoint) if id}
    assert there == named


def order_of(keys: int, **more: Any) -> Order:
    return Order(namespace=f"ns-{uuid.uuid4().hex[:12]}", number=0, keys=keys, **more)


SHAPES = {"one transaction": order_of(3), "a window": order_of(3, max_steps=1)}


@pytest.mark.parametrize("who", ["writer", "janitor"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_killed_at_every_call(store: LocalEtcd, graves: Graves, gateway: Gateway, shape: Order, who: str) -> None:
    order = order_of(shape.keys, max_steps=shape.max_steps)
    points = itertools.count(1)
    assert await deaths(store, graves, gateway, order, who, points) > (5 if order.max_steps > 1 else 14)


@pytest.mark.timeout(3600 if ALL_POINTS else 600)
async def test_killed_while_a_large_release_is_applied(store: LocalEtcd, graves: Graves, gateway: Gateway) -> None:
    order = order_of(5000, large=20)
    await graves.write(order)
    # The second one is as long as those after it: they have old values too.
    last = (await graves.write(msgspec.structs.replace(order, number=1)))["calls"]
    assert last > 100
    some = range(1, last + 1) if ALL_POINTS else sorted({3, 8, last // 4, last // 2, last - 20, last - 2, last - 1})
    await deaths(store, graves, gateway, msgspec.structs.replace(order, number=1), "janitor", iter(some))


async def deaths(
    store: LocalEtcd, graves: Graves, gateway: Gateway, order: Order, who: str, points: "itertools.count[int] | Any"
) -> int:
    """Kill a writer at each point, one release after the other, and look at what comes of it; the last point."""
    replace = msgspec.structs.replace
    janitor = janitor_of(gateway, order, itertools.count(0.0, ORPHAN_S + 1))
    if not order.number:
        assert (await graves.write(order))["answer"] == "1"
    value, compacted = order.number, 0
    async with reading(store.url, order) as warm:
        for point in points:
            coming = value + 1
            end = await graves.write(replace(order, number=coming, at=point))
            if end["ended"] == 0:
                await eventually(lambda: warm.states[-1] == str(coming), timeout_s=60)  # noqa: B023
                await check_swept(gateway, order, janitor)
                return int(point)
            assert end["ended"] == -signal.SIGKILL
            inside = (await head_of(gateway, order)).applying is not None
            revision = (await gateway.range(Range(key=b"/"))).header.revision
            if point % 2 and revision > compacted:
                # Whoever starts now has the release's content only, to know what was before.
                await compact(store, revision)
                compacted = revision
            async with reading(store.url, order) as cold:
                assert cold.states[-1] in (str(value), str(coming))
                assert not inside or cold.states[-1] == warm.states[-1] == str(value)
                await let_leases_end(gateway, order)
                if who == "janitor":
                    await janitor._finish(order.scope)
                else:
                    await another_writer(gateway, order)
                value = await check_whole(gateway, order, {value, coming})
                for reader in (warm, cold):
                    await eventually(lambda: reader.states[-1] == str(value), timeout_s=60)  # noqa: B023
            if order.large:
                await check_swept(gateway, order, janitor)
        await check_swept(gateway, order, janitor)
    return int(point)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_another_writer_comes_while_it_stands_still(
    store: LocalEtcd, graves: Graves, gateway: Gateway, shape: Order
) -> None:
    order = order_of(shape.keys, max_steps=shape.max_steps)
    assert (await graves.write(order))["answer"] == "1"
    janitor = janitor_of(gateway, order, itertools.count(0.0, ORPHAN_S + 1))
    outcomes = set()
    async with reading(store.url, order) as warm:
        for point in itertools.count(1):
            numbers = {2 * point, 2 * point + 1}
            stopped = await graves.write(
                msgspec.structs.replace(order, number=2 * point, at=point, signal=int(signal.SIGSTOP))
            )
            if "stopped" not in stopped:
                break
            await let_leases_end(gateway, order)
            other = await release(gateway, msgspec.structs.replace(order, number=2 * point + 1), "the other")
            assert other.isdigit(), other
            os.kill(stopped["stopped"], signal.SIGCONT)
            answer = (await graves.told())["answer"]
            outcomes.add(answer.isdigit() or answer)
            last = await check_whole(gateway, order, numbers)
            manifests = {one.number: one for one in await manifests_of(gateway, order)}
            # What each was told is what is in the history.
            assert manifests[int(other)].by == "the other"
            if answer.isdigit():
                assert manifests[int(answer)].by.startswith("writer-")
                assert last == 2 * point + (int(other) > int(answer))
            await eventually(lambda: warm.states[-1] == str(last), timeout_s=60)  # noqa: B023
        await check_swept(gateway, order, janitor)
    assert outcomes <= {True, "outcome_unknown"}
