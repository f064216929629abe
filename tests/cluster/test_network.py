"""What the network does between replica and etcd: stalls, cuts in the middle of a line, ends that never answer."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from configsvc.etcd.local import LocalCluster, LocalEtcd
from tests.cluster.world import until_stale, world
from tests.support.proxy import TcpProxy
from tests.support.scripted import ScriptedGateway


@pytest.fixture
async def proxies(cluster: LocalCluster) -> AsyncIterator[list[TcpProxy]]:
    """One proxy before each member, for the replicas only."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(TcpProxy(url)) for url in cluster.endpoints]


def urls(proxies: list[TcpProxy]) -> list[str]:
    return [proxy.url for proxy in proxies]


async def test_a_stalled_connection_is_left_within_two_heartbeats(
    cluster: LocalCluster, proxies: list[TcpProxy], tmp_path: Path
) -> None:
    async with world(cluster.endpoints, tmp_path, endpoints=urls(proxies)) as w:
        for _ in range(3):
            watched = next(proxy for proxy in proxies if proxy.url == w.local.watched)
            watched.stall()
            await w.moves_again(time.monotonic())
            assert w.local.watched != watched.url
            # What was held back arrives now, if anybody still listens.
            watched.resume()
            await w.settled()
        assert sum(proxy.open for proxy in proxies) < 30


async def test_connections_are_cut_in_the_middle_of_a_line(
    cluster: LocalCluster, proxies: list[TcpProxy], tmp_path: Path
) -> None:
    rng = random.Random(1)
    async with world(cluster.endpoints, tmp_path, endpoints=urls(proxies)) as w:
        for _ in range(15):
            cut = time.monotonic()
            for proxy in proxies:
                proxy.cut_after = rng.randrange(1, 2000)
            await asyncio.sleep(rng.uniform(0, 0.2))
            await w.moves_again(cut)
        for proxy in proxies:
            proxy.cut_after = None
        await w.settled()


async def test_the_replicas_are_cut_off_from_all_of_etcd(
    cluster: LocalCluster, proxies: list[TcpProxy], tmp_path: Path
) -> None:
    async with world(cluster.endpoints, tmp_path, endpoints=urls(proxies)) as w:
        for proxy in proxies:
            await proxy.refuse()
        await until_stale(w)
        for proxy in proxies:
            await proxy.listen()
        await w.moves_again(time.monotonic())


@pytest.mark.parametrize("kind", ["refused", "silent", "another cluster", "no etcd"])
async def test_an_endpoint_that_is_of_no_use(
    cluster: LocalCluster, any_etcd: LocalEtcd, tmp_path: Path, kind: str
) -> None:
    target = {"refused": "http://127.0.0.1:1", "another cluster": any_etcd.url}.get(kind, cluster.endpoints[0])
    async with AsyncExitStack() as stack:
        useless = await stack.enter_async_context(TcpProxy(target))
        if kind == "silent":
            useless.stall()
        nonsense = await stack.enter_async_context(ScriptedGateway())
        url = nonsense.url if kind == "no etcd" else useless.url
        good = await stack.enter_async_context(TcpProxy(cluster.endpoints[0]))
        async with world(cluster.endpoints, tmp_path, endpoints=[good.url, url]) as w:
            # The watch ends, and what is next on the list is of no use.
            for _ in range(2):
                good.cut()
                await w.moves_again(time.monotonic())
            useless.resume()
