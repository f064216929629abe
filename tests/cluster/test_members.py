"""Members that die, freeze, are cut off and come back, under continuous writes: nothing lost, torn or reordered."""

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest

from configsvc.etcd.local import LocalCluster, LocalMember
from tests.cluster.conftest import Act, freeze, heal
from tests.cluster.world import HEARTBEAT_S, until_stale, world
from tests.support.etcd import compact


def member_at(cluster: LocalCluster, url: str) -> LocalMember:
    return next(member for member in cluster.members if member.url == url)


async def leader_of(cluster: LocalCluster, act: Act) -> LocalMember:
    async with asyncio.timeout(10):
        while not (leader := await act(cluster.leader)):
            await asyncio.sleep(0.05)
    return leader


@pytest.mark.parametrize("watched", ["leader", "follower"])
async def test_the_leader_is_killed(cluster: LocalCluster, act: Act, tmp_path: Path, watched: str) -> None:
    leader = await leader_of(cluster, act)
    others = [member.url for member in cluster.members if member is not leader]
    endpoints = [leader.url, *others] if watched == "leader" else [*others, leader.url]
    async with world(cluster.endpoints, tmp_path, endpoints=endpoints) as w:
        assert (w.local.watched == leader.url) == (watched == "leader")
        await act(leader.kill)
        killed = time.monotonic()
        await w.moves_again(killed)
        await w.equals_etcd_now()
        await act(leader.restart)
        await w.settled()


async def test_the_watched_member_is_frozen_and_thaws(cluster: LocalCluster, act: Act, tmp_path: Path) -> None:
    watched, *others = cluster.members
    async with world([member.url for member in (*others, watched)], tmp_path, endpoints=cluster.endpoints) as w:
        assert w.local.watched == watched.url
        await act(freeze, watched)
        frozen = time.monotonic()
        await w.moves_again(frozen)
        assert w.local.watched != watched.url
        # What the frozen member has in its sockets arrives late, on connections that were left.
        await act(watched.thaw)
        await w.settled()


async def test_a_member_that_is_frozen_for_long_comes_back_behind_a_compaction(
    forgetful_cluster: LocalCluster, act: Act, tmp_path: Path
) -> None:
    cluster = forgetful_cluster
    watched, *others = cluster.members
    async with world([member.url for member in (*others, watched)], tmp_path, endpoints=cluster.endpoints) as w:
        await act(freeze, watched)
        await w.moves_again(time.monotonic())
        # Enough that etcd catches the member up by a raft snapshot, with its own past compacted away.
        await w.load.write_many(900)
        await compact(others[0], w.load.acks[-1].revision)
        await act(watched.thaw)
        await w.moves_again(time.monotonic())
        async with asyncio.timeout(20):
            while "applied snapshot" not in watched.log_path.read_text():
                await asyncio.sleep(0.1)
        # Whoever watches may now go back to it.
        for other in others:
            await act(freeze, other)
            await w.moves_again(time.monotonic())
            await act(other.thaw)
            await w.settled()


async def test_every_member_is_stopped_and_brought_back(cluster: LocalCluster, act: Act, tmp_path: Path) -> None:
    async with world(cluster.endpoints, tmp_path) as w:
        for member in cluster.members:
            await act(member.kill)
        await until_stale(w)
        for member in cluster.members:
            await act(member.start)
        back = time.monotonic()
        await w.moves_again(back)
        assert {"live", "memory"} <= w.polls[0].sources


async def test_quorum_is_lost_and_the_watched_member_left_alone(
    cluster: LocalCluster, act: Act, tmp_path: Path
) -> None:
    watched, *others = cluster.members
    async with world(cluster.endpoints, tmp_path) as w:
        assert w.local.watched == watched.url
        for member in others:
            await act(freeze, member)
        await until_stale(w)
        async with asyncio.timeout(2 * HEARTBEAT_S):
            while "stale" not in w.streams[0].states:
                await asyncio.sleep(0.02)
        for member in others:
            await act(member.thaw)
        back = time.monotonic()
        await w.moves_again(back)
        assert w.streams[0].states[-1] == "live"


async def test_the_watched_member_is_told_to_end(cluster: LocalCluster, act: Act, tmp_path: Path) -> None:
    watched = cluster.members[0]
    async with world(cluster.endpoints, tmp_path) as w:
        assert w.local.watched == watched.url
        ended = time.monotonic()
        # It takes no connections from now on, but its open watches deliver for seconds.
        ending = asyncio.ensure_future(act(watched.terminate))
        await w.moves_again(ended)
        await ending
        gone = time.monotonic()
        await w.moves_again(gone)
        assert w.local.watched != watched.url


async def test_one_after_the_other_for_a_while(cluster: LocalCluster, act: Act, tmp_path: Path) -> None:
    async with world(cluster.endpoints, tmp_path) as w:
        for round in range(4):
            member = member_at(cluster, w.local.watched)
            await act(partial(freeze, member) if round % 2 else member.kill)
            hurt = time.monotonic()
            await w.moves_again(hurt)
            await act(heal, cluster)
            await w.settled()
            await w.equals_etcd_now()
