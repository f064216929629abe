"""One watch, and what becomes of silence: with progress notices, without them, and behind a proxy that stalls."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from configsvc.core.model import Scope, entry_path, namespace_prefix
from configsvc.core.replica import Replica
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import Member, Range, RangeResult
from configsvc.follower import Follower
from configsvc.hub import Hub
from tests.support import etcd as support
from tests.support.proxy import TcpProxy

HEARTBEAT_S = 0.5


@pytest.fixture(scope="module")
def silent_etcd() -> Iterator[LocalEtcd]:
    """An etcd with its default: a progress notice every ten minutes."""
    with LocalEtcd(options=support.options(support.newest(), progress_s=600)) as running:
        yield running


@pytest.fixture
def scope() -> Scope:
    return Scope(f"ns-{uuid.uuid4().hex[:12]}", "production")


@asynccontextmanager
async def following(
    scope: Scope, *urls: str, heartbeat_s: float = HEARTBEAT_S, gateway: Gateway | None = None
) -> AsyncIterator[tuple[Hub, Follower]]:
    async with gateway or Gateway(GatewayConfig(endpoints=urls, created_s=1)) as gateway:
        hub = Hub(Replica(), heartbeat_s=heartbeat_s)
        follower = Follower(gateway, hub, prefix=namespace_prefix(scope.namespace), rng=random.Random(1))
        task = asyncio.create_task(follower.run())
        try:
            await support.eventually(lambda: hub.listed and follower.connected)
            yield hub, follower
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def put(gateway: Gateway, scope: Scope, key: str, value: object) -> int:
    return await support.put(gateway, entry_path(scope, key), json.dumps({"value": value}).encode())


async def test_without_notices_probes_prove_the_state_and_move_the_position(
    silent_etcd: LocalEtcd, scope: Scope
) -> None:
    async with Gateway(GatewayConfig(endpoints=(silent_etcd.url,))) as gateway:
        await put(gateway, scope, "a", 1)
        async with following(scope, silent_etcd.url) as (hub, follower):
            elsewhere = await support.put(gateway, b"/elsewhere", b"x")
            await support.eventually(lambda: hub.replica.position >= elsewhere)
            for _ in range(8):
                assert hub.state() == "live"
                await asyncio.sleep(HEARTBEAT_S / 2)
            assert (sum(follower.reconnects.values()), sum(follower.relists.values())) == (0, 1)
            revision = await put(gateway, scope, "a", 2)
            await support.eventually(lambda: hub.proved(scope) >= revision)
            await support.compact(silent_etcd, revision)
            later = await support.put(gateway, b"/elsewhere", b"y")
            await support.eventually(lambda: hub.replica.position >= later)
            assert sum(follower.relists.values()) == 1
        assert follower.progress_interval_s is None


async def test_a_stalled_watch_is_noticed_although_probes_are_answered(silent_etcd: LocalEtcd, scope: Scope) -> None:
    async with (
        Gateway(GatewayConfig(endpoints=(silent_etcd.url,))) as gateway,
        TcpProxy(silent_etcd.url) as proxy,
    ):
        await put(gateway, scope, "a", 1)
        async with following(scope, proxy.url) as (hub, follower):
            # What is connected now stalls, the watch among it; new connections, for the probes, work.
            proxy.stall_open()
            revision = await put(gateway, scope, "a", 2)
            await support.eventually(lambda: hub.proved(scope) >= revision)
            assert json.loads(bytes(hub.feeds[scope].snapshot.entries["a"].value)) == 2
            assert follower.reconnects["lost"] >= 1
            assert sum(follower.relists.values()) == 1


async def test_a_watch_that_stalls_before_its_first_probe_is_left_within_two_heartbeats(
    silent_etcd: LocalEtcd, scope: Scope
) -> None:
    heartbeat_s = 2.0
    async with TcpProxy(silent_etcd.url) as proxy:
        stalled_at: list[float] = []

        class Stalling(Gateway):
            async def range(
                self, request: Range, *, member: Member | None = None, timeout_s: float | None = None
            ) -> RangeResult:
                # The first question with a deadline of its own is the probe after the opening.
                if timeout_s is not None and not stalled_at:
                    stalled_at.append(time.monotonic())
                    proxy.stall()
                return await super().range(request, member=member, timeout_s=timeout_s)

        gateway = Stalling(GatewayConfig(endpoints=(proxy.url,), created_s=1))
        async with following(scope, gateway=gateway, heartbeat_s=heartbeat_s) as (_, follower):
            await support.eventually(lambda: follower.reconnects["lost"])
            assert time.monotonic() - stalled_at[0] < 2 * heartbeat_s


async def test_with_notices_a_silent_watch_is_given_up_and_an_idle_one_is_not(scope: Scope) -> None:
    options = support.options(support.newest(), progress_s=0.2)
    with LocalEtcd(options=options) as quick:
        async with Gateway(GatewayConfig(endpoints=(quick.url,))) as gateway, TcpProxy(quick.url) as proxy:
            await put(gateway, scope, "a", 1)
            async with following(scope, proxy.url) as (hub, follower):
                await support.eventually(lambda: follower.progress_interval_s)
                await asyncio.sleep(HEARTBEAT_S * 6)
                assert (sum(follower.reconnects.values()), hub.state()) == (0, "live")
                proxy.stall_open()
                await support.eventually(lambda: follower.reconnects["lost"] >= 1)
                await support.eventually(lambda: follower.connected and hub.state() == "live")
                revision = await put(gateway, scope, "a", 2)
                await support.eventually(lambda: hub.proved(scope) >= revision)
                assert sum(follower.relists.values()) == 1


async def test_a_watch_is_kept_although_we_stood_still_ourselves(scope: Scope) -> None:
    options = support.options(support.newest(), progress_s=0.2)
    with LocalEtcd(options=options) as quick:
        async with Gateway(GatewayConfig(endpoints=(quick.url,))) as gateway:
            await put(gateway, scope, "a", 1)
            async with following(scope, quick.url) as (hub, follower):
                await support.eventually(lambda: follower.progress_interval_s)
                for pause_s in (1.0, 0.7, 1.3, 0.9):
                    time.sleep(pause_s)  # Of this loop: as a process that gets no processor.
                    await asyncio.sleep(HEARTBEAT_S * 3)
                assert (sum(follower.reconnects.values()), hub.state()) == (0, "live")
                assert (follower.progress_interval_s or 0) > 0.1


async def test_a_resumed_watch_is_live_without_waiting_for_a_notice(silent_etcd: LocalEtcd, scope: Scope) -> None:
    async with Gateway(GatewayConfig(endpoints=(silent_etcd.url,))) as gateway, TcpProxy(silent_etcd.url) as proxy:
        await put(gateway, scope, "a", 1)
        async with following(scope, proxy.url, heartbeat_s=30) as (hub, follower):
            at = hub.proved_time
            await proxy.refuse()
            await support.eventually(lambda: not follower.connected)
            await proxy.listen()
            await support.eventually(lambda: follower.connected)
            await support.eventually(lambda: hub.proved_time != at)
