"""Watches through the gateway on every version of etcd."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import Invalid, Oversized, Put, Txn, Unavailable, WatchBatch
from tests.support.etcd import compact, delete, fresh_prefix, put
from tests.support.proxy import TcpProxy


async def events(watch: AsyncIterator[WatchBatch], count: int) -> list[tuple[bytes, int, bytes | None]]:
    """The next events, at least `count`, as key, revision and value; progress is passed over."""
    seen: list[tuple[bytes, int, bytes | None]] = []
    async with asyncio.timeout(60):
        while len(seen) < count:
            batch = await anext(watch)
            assert batch.kind in ("events", "progress"), batch
            seen += [(e.key, e.mod_revision, e.kv.value if e.kv else None) for e in batch.events]
    return seen


async def test_created_history_live_and_deletes(gateway: Gateway, prefix: bytes) -> None:
    first = await put(gateway, prefix + b"a", b"1")
    second = await delete(gateway, prefix + b"a")
    async with gateway.watch(prefix, first, member=gateway.members[0]) as watch:
        created = await anext(watch)
        assert created.kind == "created"
        assert created.header.revision >= second
        assert await events(watch, 2) == [(prefix + b"a", first, b"1"), (prefix + b"a", second, None)]
        third = await put(gateway, prefix + b"b", b"")
        assert await events(watch, 1) == [(prefix + b"b", third, b"")]
        await put(gateway, fresh_prefix(), b"of another prefix")
        fourth = await put(gateway, prefix + b"c", b"2")
        assert await events(watch, 1) == [(prefix + b"c", fourth, b"2")]


async def test_progress_moves_with_other_keys(gateway: Gateway, prefix: bytes) -> None:
    start = await put(gateway, prefix, b"")
    async with gateway.watch(prefix, start, member=gateway.members[0]) as watch:
        other = await put(gateway, fresh_prefix(), b"")
        async with asyncio.timeout(20):
            while (batch := await anext(watch)).kind != "progress" or batch.header.revision < other:
                pass
    assert batch.events == []


async def test_one_revision_is_one_batch(gateway: Gateway, prefix: bytes) -> None:
    """A transaction of 128 keys of 11 KB: 1.9 MB in a line, live and from history."""
    start = await put(gateway, prefix + b"start", b"")

    async with gateway.watch(prefix, start + 1, member=gateway.members[0]) as watch:
        assert (await anext(watch)).kind == "created"
        puts = tuple(Put(key=prefix + b"%03d" % n, value=b"v" * 11_000) for n in range(128))
        revision = (await gateway.txn(Txn(success=puts))).header.revision
        live = await events(watch, 1)
    assert live == [(put.key, revision, put.value) for put in puts]
    async with gateway.watch(prefix, start + 1, member=gateway.members[0]) as watch:
        assert (await anext(watch)).kind == "created"
        assert await events(watch, 1) == live


async def test_values_of_a_mebibyte_from_history(gateway: Gateway, prefix: bytes) -> None:
    """Lines of megabytes and fragments, in order and complete, and nothing is cut at a revision."""
    value = b"v" * (1024 * 1024)
    revisions = [await put(gateway, prefix + b"%d" % (n % 3), value) for n in range(24)]
    async with gateway.watch(prefix, revisions[0], member=gateway.members[0]) as watch:
        assert (await anext(watch)).kind == "created"
        seen = await events(watch, 24)
    assert [revision for _, revision, _ in seen] == revisions
    assert all(held == value for _, _, held in seen)


async def test_many_revisions_from_history(gateway: Gateway, prefix: bytes) -> None:
    pairs = [
        (await gateway.txn(Txn(success=(Put(key=prefix + b"a", value=b""), Put(key=prefix + b"b", value=b""))))).header
        for _ in range(1500)
    ]
    async with gateway.watch(prefix, pairs[0].revision, member=gateway.members[0]) as watch:
        assert (await anext(watch)).kind == "created"
        batches: list[WatchBatch] = []
        while sum(len(batch.events) for batch in batches) < 3000:
            batches.append(await anext(watch))
    for batch in batches:
        assert len([e for e in batch.events if e.mod_revision == batch.events[-1].mod_revision]) == 2
    seen = [(e.mod_revision, e.key[-1:]) for batch in batches for e in batch.events]
    assert seen == [(header.revision, key) for header in pairs for key in (b"a", b"b")]


async def test_compacted_start(etcd_server: LocalEtcd, gateway: Gateway, prefix: bytes) -> None:
    start = await put(gateway, prefix, b"1")
    compacted = await put(gateway, prefix, b"2")
    await compact(etcd_server, compacted)
    async with gateway.watch(prefix, start, member=gateway.members[0]) as watch:
        batches = [batch async for batch in watch]
    assert [(batch.kind, batch.compact_revision) for batch in batches] == [("created", 0), ("canceled", compacted)]
    async with gateway.watch(prefix, compacted, member=gateway.members[0]) as watch:
        assert (await anext(watch)).kind == "created"
        assert await events(watch, 1) == [(prefix, compacted, b"2")]


async def test_start_before_the_first_revision(gateway: Gateway, prefix: bytes) -> None:
    for start in (0, -1):
        with pytest.raises(Invalid, match="starts at revision 1"):
            async with gateway.watch(prefix, start, member=gateway.members[0]):
                pass


async def test_waiting_may_be_interrupted(gateway: Gateway, prefix: bytes) -> None:
    """A reader with a time limit of its own loses nothing by it."""
    start = await put(gateway, prefix, b"0")
    async with gateway.watch(prefix, start + 1, member=gateway.members[0]) as watch:
        assert (await anext(watch)).kind == "created"
        for n in range(20):
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            if n % 2:
                waiting.cancel()
                await asyncio.wait([waiting])
            revision = await put(gateway, prefix, b"%d" % n)
            batch = await anext(watch) if n % 2 else await waiting
            while batch.kind == "progress":
                batch = await anext(watch)
            assert [e.mod_revision for e in batch.events] == [revision]


async def test_a_reader_that_does_not_read_pushes_back(
    any_etcd: LocalEtcd, any_gateway: Gateway, make_gateway: Any, prefix: bytes
) -> None:
    """Nothing is read before it is asked for, beyond a buffer; then everything comes, in order."""
    async with TcpProxy(any_etcd.url) as proxy:
        watching = await make_gateway(proxy.url)
        start = await put(any_gateway, prefix, b"")
        async with watching.watch(prefix, start + 1, member=watching.members[0]) as watch:
            assert (await anext(watch)).kind == "created"
            revisions = [await put(any_gateway, prefix, b"v" * 1_000_000) for _ in range(30)]
            await asyncio.sleep(1.0)
            assert proxy.sent < 20_000_000
            assert [revision for _, revision, _ in await events(watch, 30)] == revisions


async def test_leaving_closes_the_connection(
    any_etcd: LocalEtcd, any_gateway: Gateway, make_gateway: Any, prefix: bytes
) -> None:
    start = await put(any_gateway, prefix, b"")
    async with TcpProxy(any_etcd.url) as proxy:
        watching = await make_gateway(proxy.url)
        for _ in range(3):
            async with watching.watch(prefix, start, member=watching.members[0]) as watch:
                assert (await anext(watch)).kind == "created"
        assert proxy.accepted == 3


async def test_many_watches_at_once(any_gateway: Gateway, prefix: bytes) -> None:
    """Each holds a connection, and requests go on beside them."""
    start = await put(any_gateway, prefix, b"")
    member = any_gateway.members[0]

    async def one() -> int:
        async with any_gateway.watch(prefix, start, member=member) as watch:
            assert (await anext(watch)).kind == "created"
            return (await events(watch, 2))[-1][1]

    watches = [asyncio.ensure_future(one()) for _ in range(150)]
    last = await put(any_gateway, prefix, b"")
    assert await asyncio.gather(*watches) == [last] * 150


@pytest.mark.parametrize("cut_after", [1, 200, 700_000])
async def test_cut_in_the_middle_of_a_line(
    any_etcd: LocalEtcd, any_gateway: Gateway, make_gateway: Any, prefix: bytes, cut_after: int
) -> None:
    async with TcpProxy(any_etcd.url) as proxy:
        watching = await make_gateway(proxy.url)
        start = await put(any_gateway, prefix, b"")
        with pytest.raises(Unavailable) as raised:
            async with watching.watch(prefix, start + 1, member=watching.members[0]) as watch:
                assert (await anext(watch)).kind == "created"
                proxy.cut_after = cut_after
                revision = await put(any_gateway, prefix, b"v" * 1_000_000)
                while (batch := await anext(watch)).kind == "progress":
                    pass
                raise AssertionError(batch.kind)
        assert raised.value.endpoint == proxy.url
        async with watching.watch(prefix, start + 1, member=watching.members[0]) as watch:
            assert (await anext(watch)).kind == "created"
            assert [seen for _, seen, _ in await events(watch, 1)] == [revision]


async def test_a_line_over_the_bound_asks_for_a_list(any_etcd: LocalEtcd, make_gateway: Any, prefix: bytes) -> None:
    bounded = await make_gateway(any_etcd.url, config={"max_line_bytes": 100_000})
    start = await put(bounded, prefix, b"small")
    await put(bounded, prefix, b"v" * 200_000)
    with pytest.raises(Oversized):
        async with bounded.watch(prefix, start, member=bounded.members[0]) as watch:
            async for _ in watch:
                pass
    await delete(bounded, prefix)


async def test_reset_and_stalled(any_etcd: LocalEtcd, any_gateway: Gateway, make_gateway: Any, prefix: bytes) -> None:
    async with TcpProxy(any_etcd.url) as proxy:
        watching = await make_gateway(proxy.url, config={"created_s": 0.3})
        start = await put(any_gateway, prefix, b"")
        with pytest.raises(Unavailable):
            async with watching.watch(prefix, start, member=watching.members[0]) as watch:
                assert (await anext(watch)).kind == "created"
                proxy.cut()
                async for _ in watch:
                    pass
        proxy.stall()
        with pytest.raises(Unavailable, match="not confirmed within"):
            async with watching.watch(prefix, start, member=watching.members[0]):
                pass
