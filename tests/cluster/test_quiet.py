"""Nothing happens in the service's part of etcd, for long: it stays live, moves on, and does not connect again."""

import asyncio
import time
from pathlib import Path

import pytest

from configsvc.etcd.local import LocalEtcd
from tests.cluster.conftest import PROGRESS_S, Act, require
from tests.cluster.world import HEARTBEAT_S, world
from tests.support.etcd import WHEEL, compact, current_versions, options, put
from tests.support.proxy import TcpProxy

QUIET_S = 4 * HEARTBEAT_S


@pytest.mark.parametrize("progress_s", [PROGRESS_S, 600.0], ids=["progress", "probes"])
@pytest.mark.parametrize("version", [WHEEL, *current_versions()])
async def test_an_idle_scope(version: str, progress_s: float, act: Act, tmp_path: Path) -> None:
    etcd = LocalEtcd(options=options(require(version), progress_s=progress_s))
    await act(etcd.start)
    try:
        async with (
            TcpProxy(etcd.url) as proxy,
            world(etcd.endpoints, tmp_path, endpoints=[proxy.url], processes=0) as w,
        ):
            await w.standstill()
            relists = sum(w.local.follower.relists.values())
            reconnects = sum(w.local.follower.reconnects.values())
            ends = time.monotonic() + QUIET_S
            while time.monotonic() < ends:
                assert w.local.hub.state() == "live"
                await asyncio.sleep(0.05)
            # What happens beside the prefix moves the position, so that compactions do not pass it.
            elsewhere = await put(w.load.gateway, b"/elsewhere", b"1")
            await w.everybody_reaches(elsewhere)
            await compact(etcd, elsewhere)
            assert sum(w.local.follower.reconnects.values()) == reconnects
            # The silence is noticed also when there was nothing to be said.
            proxy.stall()
            ends = time.monotonic() + 20
            while w.local.follower.connected:
                assert time.monotonic() < ends
                await asyncio.sleep(0.02)
            proxy.resume()
            w.load.resume()
            await w.moves_again(time.monotonic())
            assert sum(w.local.follower.relists.values()) == relists
    finally:
        await act(etcd.stop)
