"""The gateway against three members that fail: what each fault looks like from here, on every version."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import pytest

from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalCluster, LocalEtcd
from configsvc.etcd.ops import Ambiguous, EtcdError, NoSpace, Range, Unavailable, Unreachable, WatchBatch
from tests.support import etcd as support
from tests.support.etcd import delete, get, put

T = TypeVar("T")


@pytest.fixture
async def cluster(etcd_version: str) -> AsyncIterator[LocalCluster]:
    with LocalCluster(3, options=support.options(etcd_version)) as running:
        yield running


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, once the members have agreed on a leader. What is asked may happen twice."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask()
            except EtcdError:
                await asyncio.sleep(0.05)


async def broken(watch: AsyncIterator[WatchBatch]) -> Unavailable:
    """How the watch ends."""
    async with asyncio.timeout(60):
        try:
            async for _ in watch:
                pass
        except Unavailable as error:
            return error
    raise AssertionError("the watch was canceled")


async def test_without_a_quorum_everything_says_so(cluster: LocalCluster, make_gateway: Any) -> None:
    """A member that is cut off would serve its watches in silence; asked for a leader, it ends them."""
    gateway: Gateway = await make_gateway(*cluster.endpoints, config={"breaker_failures": 1000})
    start = await put(gateway, b"k", b"1")
    left = gateway.members[0]
    async with gateway.watch(b"k", start, member=left) as watch:
        assert (await anext(watch)).kind == "created"
        for member in cluster.members[1:]:
            member.kill()
        assert "no leader" in (await broken(watch)).detail
    with pytest.raises(Unavailable, match="no leader"):
        await gateway.range(Range(key=b"k"), member=left)
    with pytest.raises(Unavailable, match="no leader"):
        async with gateway.watch(b"k", start, member=left):
            pass
    with pytest.raises((Unavailable, Unreachable)) as raised:
        await put(gateway, b"k", b"2")
    assert not isinstance(raised.value, Ambiguous)
    for member in cluster.members[1:]:
        member.start()
    assert (await patiently(lambda: get(gateway, b"k"))).kvs[0].value == b"1"


async def test_a_member_that_was_left_alone_comes_back_although_nobody_needs_it(
    cluster: LocalCluster, make_gateway: Any
) -> None:
    gateway: Gateway = await make_gateway(
        *cluster.endpoints, config={"breaker_failures": 2, "breaker_open_s": 0.1, "connect_s": 0.5}
    )
    await put(gateway, b"k", b"1")
    away, used, _ = gateway.members
    await gateway.range(Range(key=b"k"), member=used)
    cluster.members[0].kill()
    for _ in range(2):
        with pytest.raises((Unreachable, Unavailable)):
            await gateway.range(Range(key=b"k"), member=away)
    readmitting = asyncio.create_task(gateway.readmit(b"k"))
    try:
        assert away.breaker != "closed"
        failures = away.failures
        await patiently_until(lambda: away.failures > failures + 1)
        assert away.breaker != "closed"
        cluster.members[0].restart()
        await patiently_until(lambda: away.breaker == "closed")
        # It is one of those to go to now, and no reason to leave the one that is in use.
        assert gateway.next_member() is used
    finally:
        readmitting.cancel()
        await asyncio.wait([readmitting])


async def patiently_until(seen: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not seen():
            await asyncio.sleep(0.02)


async def test_the_watched_member_ends(cluster: LocalCluster, make_gateway: Any) -> None:
    """Killed, or told to end (later versions deliver for 7 s more): the watch raises; the next member has it all."""
    gateway: Gateway = await make_gateway(*cluster.endpoints)
    position = await put(gateway, b"k", b"0")
    for n, end in ((0, cluster.members[0].kill), (1, cluster.members[1].terminate)):
        member = gateway.members[n]
        async with gateway.watch(b"k", position, member=member) as watch:
            assert (await anext(watch)).kind == "created"
            ending = asyncio.create_task(asyncio.to_thread(end))
            await broken(watch)
            await ending
        position = await patiently(lambda: put(gateway, b"k", b"later"))
        following = gateway.next_member(after=member)
        assert following is not member
        async with gateway.watch(b"k", position, member=following) as watch:
            assert (await anext(watch)).kind == "created"
            assert (await anext(watch)).events[-1].mod_revision == position
        cluster.members[n].restart()


async def test_a_frozen_member_confirms_no_watch(cluster: LocalCluster, make_gateway: Any) -> None:
    """Its kernel takes connections still."""
    gateway: Gateway = await make_gateway(*cluster.endpoints, config={"created_s": 0.5, "read_s": 0.5})
    await put(gateway, b"k", b"1")
    cluster.members[2].freeze()
    frozen = gateway.members[2]
    with pytest.raises(Unavailable, match="not confirmed"):
        async with gateway.watch(b"k", 1, member=frozen):
            pass
    with pytest.raises(Unavailable, match="no answer in time"):
        await gateway.range(Range(key=b"k"), member=frozen)
    assert (await patiently(lambda: get(gateway, b"k"))).kvs[0].value == b"1"
    cluster.members[2].thaw()
    await patiently(lambda: gateway.range(Range(key=b"k"), member=frozen))


async def test_reads_and_guarded_writes_while_the_leader_is_killed(cluster: LocalCluster, make_gateway: Any) -> None:
    """A write that ended without an answer is read back, and then nothing is lost and nothing is applied twice."""
    gateway: Gateway = await make_gateway(*cluster.endpoints)
    revision, done = await put(gateway, b"n", b"0"), 0
    for round_ in range(2):
        leader = await support.eventually(cluster.leader)
        for n in range(40):
            if n == 10:
                leader.kill()
            revision, done = await patiently(partial(counted, gateway, revision, done))
        leader.restart()
        assert done == 40 * (round_ + 1)
    assert (await patiently(lambda: get(gateway, b"n"))).kvs[0].version == done + 1


async def counted(gateway: Gateway, revision: int, done: int) -> tuple[int, int]:
    """Write the next number under a guard; a read tells how an ambiguous one ended."""
    with contextlib.suppress(Unavailable, Unreachable):
        written = await gateway.put(b"n", b"%d" % (done + 1), expected=revision)
        if written.succeeded:
            return written.header.revision, done + 1
    kv = (await get(gateway, b"n")).kvs[0]
    if kv.mod_revision == revision:
        raise Unavailable("not written")
    assert kv.value == b"%d" % (done + 1)
    return kv.mod_revision, done + 1


async def test_no_space(etcd_version: str, make_gateway: Any) -> None:
    """Writes are refused by name; reads and watches go on."""
    options = support.options(etcd_version, extra=("--quota-backend-bytes=3000000",))
    with LocalEtcd(options=options) as etcd:
        gateway: Gateway = await make_gateway(etcd.url)
        start = await put(gateway, b"k", b"1")
        with pytest.raises(NoSpace, match="space exceeded"):
            for n in range(100):
                await put(gateway, b"fill/%d" % n, b"x" * 500_000)
        with pytest.raises(NoSpace):
            await gateway.lease_grant(60)
        assert (await get(gateway, b"k")).kvs[0].value == b"1"
        async with gateway.watch(b"k", start, member=gateway.members[0]) as watch:
            assert [(await anext(watch)).kind, (await anext(watch)).kind] == ["created", "events"]
        assert any("NOSPACE" in error for error in (await gateway.status()).errors)
        assert gateway.members[0].breaker == "closed"
        if support.version_of(etcd) >= (3, 6):
            await delete(gateway, b"k")
