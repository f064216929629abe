"""Catching up with much: large values, large transactions, a raft snapshot to a laggard, a reader that was paused."""

import asyncio
import json
import random
import time
import uuid
from pathlib import Path

from configsvc.core.model import Scope, entry_path, namespace_prefix
from configsvc.core.replica import Replica as State
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalCluster, LocalEtcd
from configsvc.etcd.ops import Put, Txn
from configsvc.follower import Follower
from configsvc.hub import Hub
from tests.cluster.conftest import PROGRESS_S, Act, freeze
from tests.cluster.world import until_stale, world
from tests.support.etcd import WHEEL, compact, eventually, options
from tests.support.proxy import TcpProxy

MEGABYTE = 1_000_000


async def test_large_values_and_transactions_while_catching_up_over_a_bad_line(single: LocalEtcd) -> None:
    scope = Scope(f"ns-{uuid.uuid4().hex[:12]}", "production")
    rng = random.Random(3)
    expected: dict[str, str] = {}

    async def write(gateway: Gateway, values: dict[str, str]) -> int:
        expected.update(values)
        puts = (Put(key=entry_path(scope, k), value=json.dumps({"value": v}).encode()) for k, v in values.items())
        return (await gateway.txn(Txn(success=tuple(puts)))).header.revision

    config = GatewayConfig(endpoints=single.endpoints, write_s=10)
    async with Gateway(config) as writer, TcpProxy(single.url) as proxy:
        quick = GatewayConfig(endpoints=(proxy.url,), breaker_failures=1000)
        async with Gateway(quick) as gateway:
            hub = Hub(State(), heartbeat_s=2)
            follower = Follower(gateway, hub, prefix=namespace_prefix(scope.namespace))
            await write(writer, {"first": "1"})
            task = asyncio.create_task(follower.run())
            try:
                await eventually(lambda: hub.listed and follower.connected)
                torn = asyncio.create_task(watch_for_torn(hub, scope))
                await proxy.refuse()
                for number in range(8):
                    await write(writer, {f"large{number % 3}": chr(97 + number) * MEGABYTE})
                    last = await write(writer, {f"many{n:03}": str(number) * 2000 for n in range(128)})
                await proxy.listen()
                for _ in range(6):
                    proxy.cut_after = rng.randrange(1, 2 * MEGABYTE)
                    await asyncio.sleep(0.1)
                proxy.cut_after = None
                await eventually(lambda: hub.proved(scope) >= last)
                entries = hub.feeds[scope].snapshot.entries
                assert {key: json.loads(bytes(entry.value)) for key, entry in entries.items()} == expected
                assert sum(follower.relists.values()) == 1
                torn.cancel()
                await asyncio.wait({torn})
                assert torn.cancelled()
            finally:
                task.cancel()
                await asyncio.wait({task})


async def watch_for_torn(hub: Hub, scope: Scope) -> None:
    """The keys of each large transaction change together."""
    while True:
        entries = hub.feeds[scope].snapshot.entries if scope in hub.feeds else {}
        assert len({entry.revision for key, entry in entries.items() if key.startswith("many")}) <= 1
        await hub.moved(1.0)


async def test_a_laggard_gets_a_raft_snapshot_and_goes_back_in_time(act: Act, tmp_path: Path) -> None:
    """3.5.1 then replays to a watch what it has delivered before, and tells of compactions that do not concern it."""
    cluster = LocalCluster(3, options=options(WHEEL, progress_s=PROGRESS_S, extra=("--snapshot-count=50",)))
    await act(cluster.start)
    try:
        watched, *others = cluster.members
        leader = await act(cluster.leader)
        if leader is watched:
            watched, others = others[0], [leader, others[1]]
        endpoints = [watched.url, *(member.url for member in others)]
        # This replica has nowhere else to go: its watch stays where it is.
        async with world(endpoints[1:], tmp_path, endpoints=endpoints[:1], processes=0) as w:
            w.complete = False
            await act(freeze, watched)
            for _ in range(6):
                await w.load.write_many(1000)
            await compact(others[0], w.load.acks[-1].revision - 5)
            await act(watched.thaw)
            await w.moves_again(time.monotonic())
            assert "applied snapshot" in watched.log_path.read_text()
            await w.equals_etcd_now()
    finally:
        await act(cluster.stop)


async def test_a_replica_is_paused_over_a_compaction(single: LocalEtcd, tmp_path: Path) -> None:
    """As a machine that sleeps: nothing is read from the watch's socket while the past goes."""
    async with TcpProxy(single.url) as proxy, world(single.endpoints, tmp_path, endpoints=[proxy.url]) as w:
        w.complete = False
        proxy.stall()
        await until_stale(w)
        await w.load.write_many(400)
        await compact(single, w.load.acks[-1].revision)
        await w.load.write_many(100)
        proxy.resume()
        await w.moves_again(time.monotonic())
        await w.equals_etcd_now()
