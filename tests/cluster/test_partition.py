"""One member is cut off from the others and still takes clients: it must not be believed, nor be waited for."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import PROGRESS_S, Act, require
from tests.cluster.peers import peer_network
from tests.cluster.world import HEARTBEAT_S, until_stale, world
from tests.support.etcd import current_versions, options

NO_LEADER_S = 4.5
"""How long a member takes at most to notice that it has no leader, and to say so to those who asked for it.

Until then it goes on to send progress. Two of the default heartbeats are longer than that, two of these tests' are not.
"""


@pytest.mark.parametrize("version", current_versions())
async def test_the_watched_member_is_cut_off(version: str, act: Act, tmp_path: Path) -> None:
    settings = options(require(version), progress_s=PROGRESS_S)
    async with peer_network(settings, tmp_path / "etcd", act) as network:
        watched, *others = network.members
        direct = [member.url for member in others]
        async with world(direct, tmp_path, endpoints=network.endpoints, count_files=False) as w:
            assert w.local.watched == watched.url
            await network.isolate(watched, act)
            cut = time.monotonic()
            await w.load.acknowledged(cut)
            async with asyncio.timeout(NO_LEADER_S + 2 * HEARTBEAT_S):
                while w.local.watched == watched.url or not w.local.follower.connected:
                    await asyncio.sleep(0.02)
            await w.moves_again(time.monotonic())
            await w.equals_etcd_now()
            network.heal()
            await w.settled()


@pytest.mark.parametrize("version", current_versions())
async def test_all_that_can_be_reached_is_a_member_that_is_cut_off(version: str, act: Act, tmp_path: Path) -> None:
    """It sends progress as long as it is cut off: true of itself, and no proof of anything."""
    settings = options(require(version), progress_s=PROGRESS_S)
    async with peer_network(settings, tmp_path / "etcd", act) as network:
        alone, *others = network.members
        direct = [member.url for member in others]
        async with world(direct, tmp_path, endpoints=[alone.url], count_files=False) as w:
            await network.isolate(alone, act)
            await until_stale(w)
            network.heal()
            async with asyncio.timeout(20):
                while not w.local.follower.connected:
                    await asyncio.sleep(0.02)
            await w.moves_again(time.monotonic())
