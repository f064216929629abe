"""History that is cut or forked under a running service: compaction, backups, wiped stores, expiring tokens.

On one member of each version, because what counts is etcd's history and not its consensus.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configsvc.etcd.local import LocalEtcd
from tests.cluster.conftest import PROGRESS_S, Act, require
from tests.cluster.load import Login
from tests.cluster.world import until_stale, world
from tests.support.etcd import WHEEL, compact, enable_auth, newest, options, root_token
from tests.support.proxy import TcpProxy


async def test_compaction_again_and_again(single: LocalEtcd, tmp_path: Path) -> None:
    async with world(single.endpoints, tmp_path) as w:
        for _ in range(4):
            await asyncio.sleep(0.5)
            await compact(single, w.load.acks[-1].revision)
            await w.moves_again(time.monotonic())
        assert not w.local.follower.relists["compacted"]


async def test_a_replica_that_was_away_over_a_compaction(single: LocalEtcd, tmp_path: Path) -> None:
    async with TcpProxy(single.url) as proxy, world(single.endpoints, tmp_path, endpoints=[proxy.url]) as w:
        w.complete = False
        await w.load.write(w.load.put("gone", 1))
        await w.settled()
        await proxy.refuse()
        await until_stale(w)
        await w.load.write(w.load.delete("gone"))
        await compact(single, w.load.acks[-1].revision)
        await proxy.listen()
        await w.moves_again(time.monotonic())
        assert w.local.follower.relists["compacted"] == 1
        # A listing is published as a difference: no reader had to start anew.
        assert all(len(seen.bases) == 1 for stream in w.streams for seen in stream.epochs)


async def test_a_deletion_at_the_very_revision_of_a_compaction(single: LocalEtcd, tmp_path: Path) -> None:
    """Old versions do not deliver it, without a word."""
    async with TcpProxy(single.url) as proxy, world(single.endpoints, tmp_path, endpoints=[proxy.url]) as w:
        w.complete = False
        await w.load.write(w.load.put("gone", 1))
        await w.standstill()
        await proxy.refuse()
        await until_stale(w)
        # One above the position: that is where the next watch would begin, had it not to begin at the position.
        await compact(single, await w.load.write(w.load.delete("gone"), w.load.put("count", 0)))
        await proxy.listen()
        w.load.resume()
        await w.moves_again(time.monotonic())
        await w.equals_etcd_now()


async def test_a_deletion_at_the_position_is_compacted(single: LocalEtcd, tmp_path: Path) -> None:
    async with TcpProxy(single.url) as proxy, world(single.endpoints, tmp_path, endpoints=[proxy.url]) as w:
        await w.load.write(w.load.put("gone", 1))
        await w.standstill()
        deleted = await w.load.write(w.load.delete("gone"))
        await w.everybody_reaches(deleted)
        await proxy.refuse()
        await until_stale(w)
        await compact(single, deleted)
        await proxy.listen()
        w.load.resume()
        await w.moves_again(time.monotonic())
        assert not w.local.follower.relists["compacted"]


@pytest.mark.parametrize("how", ["restored", "restored and overtaken", "wiped", "wiped and overtaken"])
async def test_the_store_goes_back(single: LocalEtcd, act: Act, tmp_path: Path, how: str) -> None:
    backup = tmp_path / "backup.db"
    async with TcpProxy(single.url) as proxy, world(single.endpoints, tmp_path, endpoints=[proxy.url]) as w:
        await act(single.snapshot, backup)
        await w.load.write_many(120)
        position = await w.standstill()
        for poll in w.polls:
            poll.may_be_gone = how.startswith("wiped")
        if "overtaken" in how:
            await proxy.refuse()
        w.end_history()
        await (act(single.restore, backup) if how.startswith("restored") else act(single.wipe))
        await w.begin_history()
        w.load.resume()
        while "overtaken" in how and w.load.acks[-1].revision < position + 40:
            await w.load.write_many(60)
        if "overtaken" in how:
            await proxy.listen()
        await w.moves_again(time.monotonic())
        await w.standstill()
        await w.one_epoch()
        assert w.local.hub.epoch(w.scope) not in w.forks
        w.load.resume()


@pytest.mark.parametrize("version", sorted({WHEEL, newest()}))
async def test_tokens_expire_every_second(version: str, hands: ThreadPoolExecutor, act: Act, tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    password_file.write_text("secret\n")
    settings = options(require(version), progress_s=PROGRESS_S, extra=("--auth-token-ttl=1",))
    etcd = LocalEtcd(options=settings)
    await act(etcd.start)
    try:
        await enable_auth(etcd, user="service", password="secret", prefix=b"/config")
        token = await root_token(etcd)
        login = Login("service", password_file)
        async with (
            TcpProxy(etcd.url) as proxy,
            world(
                etcd.endpoints,
                tmp_path,
                endpoints=[proxy.url],
                login=login,
                headers=lambda: {"Authorization": token},
            ) as w,
        ):
            for _ in range(3):
                # A watch outlives its token; the next one needs another.
                await asyncio.sleep(2.5)
                proxy.cut()
                await w.moves_again(time.monotonic())
    finally:
        await act(etcd.stop)
