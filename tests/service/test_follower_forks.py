"""Histories that fork, seen by a replica: at a restart, at a listing, by a reader; and writers that may not write."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from configsvc.core.model import Scope, entry_path, epoch_path, namespace_prefix
from configsvc.core.replica import Replica
from configsvc.epochs import Epochs
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd
from configsvc.follower import Follower
from configsvc.hub import Hub
from configsvc.store import Saver, Store
from configsvc_client.protocol import EventId
from tests.support import etcd as support
from tests.support.proxy import TcpProxy

SCOPE = Scope("shop", "production")
HEARTBEAT_S = 0.5


@pytest.fixture
def own_etcd() -> Iterator[LocalEtcd]:
    """An etcd that nobody else uses: these tests take its history away."""
    with LocalEtcd(options=support.options(support.newest(), progress_s=0.2)) as running:
        yield running


class Service:
    """What `configsvc serve` puts together, less HTTP."""

    def __init__(self, gateway: Gateway, folder: Path | None, *, writes: bool) -> None:
        store = Store(folder, max_age_s=1000) if folder else None
        replica = Replica()
        self.hub = Hub(replica, heartbeat_s=HEARTBEAT_S)
        self.follower = Follower(
            gateway,
            self.hub,
            prefix=namespace_prefix(SCOPE.namespace),
            epochs=Epochs(gateway) if writes else None,
            keep=store.save_history if store else lambda history: None,
        )
        self.saver = Saver(store, replica, proved_at=lambda: self.hub.proved_time) if store else None
        if store and self.saver:
            self.hub.on_publish = self.saver.note
            self.follower.recall(store.load(lambda scope: True), store.load_history())

    def value(self, key: str = "a") -> object:
        feed = self.hub.feeds.get(SCOPE)
        entry = feed.snapshot.entries.get(key) if feed else None
        return json.loads(msgspec.json.encode(entry.value)) if entry else None

    @property
    def epoch(self) -> str:
        return self.hub.epoch(SCOPE)


@asynccontextmanager
async def service(url: str, folder: Path | None = None, *, writes: bool = False) -> AsyncIterator[Service]:
    async with AsyncExitStack() as stack:
        config = GatewayConfig(endpoints=(url,), breaker_open_s=0.1, read_s=0.5, created_s=0.5)
        one = Service(await stack.enter_async_context(Gateway(config)), folder, writes=writes)
        loops = [one.follower.run(), one.hub.run(), *([one.saver.run()] if one.saver else [])]
        for task in [asyncio.create_task(loop) for loop in loops]:
            stack.push_async_callback(asyncio.gather, task, return_exceptions=True)
            stack.callback(task.cancel)
        await support.eventually(lambda: one.hub.listed and one.follower.connected)
        yield one
        if one.saver:
            await one.saver.flush()


async def put(url: str, value: object, key: str = "a", *, times: int = 1) -> int:
    async with Gateway(GatewayConfig(endpoints=(url,))) as gateway:
        for _ in range(times):
            revision = await support.put(gateway, entry_path(SCOPE, key), json.dumps({"value": value}).encode())
        return revision


@pytest.mark.parametrize("writes", [False, True], ids=["reads", "writes"])
@pytest.mark.parametrize("overtaken", [False, True], ids=["behind", "overtaken"])
async def test_a_restart_notices_that_the_store_was_made_anew(
    own_etcd: LocalEtcd, tmp_path: Path, overtaken: bool, writes: bool
) -> None:
    await put(own_etcd.url, 1, "b")
    await put(own_etcd.url, "before", times=10)
    async with service(own_etcd.url, tmp_path, writes=writes) as first:
        position = EventId(first.epoch, first.hub.proved(SCOPE))
    own_etcd.wipe()
    await put(own_etcd.url, "after", times=20 if overtaken else 1)
    async with service(own_etcd.url, tmp_path, writes=writes) as second:
        assert (second.value(), second.follower.forks) == ("after", 1)
        epoch = second.epoch
        assert epoch != position.epoch
        with second.hub.subscribe(SCOPE, position) as reader:
            [frame, *_] = reader.pull()
            assert (frame.event, frame.id and frame.id.epoch) == ("snapshot", epoch)
    async with service(own_etcd.url, tmp_path, writes=writes) as third:
        assert (third.epoch, third.follower.forks) == (epoch, 0), "a restart keeps the new history"


async def test_a_restart_on_the_same_history_is_none(own_etcd: LocalEtcd, tmp_path: Path) -> None:
    await put(own_etcd.url, 1)
    async with service(own_etcd.url, tmp_path) as first:
        position = EventId(first.epoch, first.hub.proved(SCOPE))
    revision = await put(own_etcd.url, 2)
    async with service(own_etcd.url, tmp_path) as second:
        assert (second.epoch, second.follower.forks, second.value()) == (position.epoch, 0, 2)
        with second.hub.subscribe(SCOPE, EventId(position.epoch, revision)) as reader:
            assert [frame.event for frame in reader.pull() if frame.event != "status"] == []


async def test_a_listing_shows_the_fork_where_the_position_is_compacted(own_etcd: LocalEtcd) -> None:
    """Wiped, overtaken and compacted while the service could not look: only the listing can tell."""
    position = await put(own_etcd.url, "before", times=10)
    async with TcpProxy(own_etcd.url) as proxy, service(proxy.url) as one:
        epoch = one.epoch
        await proxy.refuse()
        own_etcd.wipe()
        await put(own_etcd.url, "other", "b")
        revision = await put(own_etcd.url, "after", times=position + 20)
        await support.compact(own_etcd, revision)
        await proxy.listen()
        await support.eventually(lambda: one.value() == "after")
        assert one.epoch != epoch
        assert one.follower.forks == 1
        assert one.follower.relists["compacted"] + one.follower.relists["fork"] >= 1


async def rebuild(url: str, value: object, *, epoch: bytes | None = None) -> int:
    """What a script that fills a store does: the same keys in the same order each time."""
    async with Gateway(GatewayConfig(endpoints=(url,))) as gateway:
        if epoch is not None:
            await support.put(gateway, epoch_path(SCOPE.namespace), epoch)
        for key, stored in (("b", "same"), ("a", value), ("c", "same")):
            revision = await support.put(gateway, entry_path(SCOPE, key), json.dumps({"value": stored}).encode())
        return revision


async def test_a_restart_notices_a_rebuilt_store_by_its_values(own_etcd: LocalEtcd, tmp_path: Path) -> None:
    await rebuild(own_etcd.url, "before")
    async with service(own_etcd.url, tmp_path) as first:
        epoch = first.epoch
    own_etcd.wipe()
    await rebuild(own_etcd.url, "after")
    async with service(own_etcd.url, tmp_path) as second:
        assert (second.value(), second.follower.forks) == ("after", 1)
        assert second.epoch != epoch


async def test_a_rebuilt_store_is_told_by_its_epoch_key(own_etcd: LocalEtcd) -> None:
    await rebuild(own_etcd.url, "before", epoch=b"first")
    async with TcpProxy(own_etcd.url) as proxy, service(proxy.url) as one:
        epoch = one.epoch
        await proxy.refuse()
        own_etcd.wipe()
        await rebuild(own_etcd.url, "after", epoch=b"second")
        await put(own_etcd.url, 1, "later")
        await proxy.listen()
        await support.eventually(lambda: one.value() == "after" and one.value("later") == 1)
        assert (one.epoch != epoch, one.follower.forks) == (True, 1)


async def test_another_cluster_in_the_same_place_is_another_history(own_etcd: LocalEtcd) -> None:
    await put(own_etcd.url, "before", times=3)
    async with service(own_etcd.url) as one:
        epoch = one.epoch
        own_etcd.options = msgspec.structs.replace(own_etcd.options, cluster_token=uuid.uuid4().hex)
        for member in own_etcd.members:
            member.options = own_etcd.options
        own_etcd.wipe()
        await put(own_etcd.url, "after", times=30)
        await support.eventually(lambda: one.value() == "after")
        assert one.epoch != epoch
        assert one.hub.replica.salt == ""


async def test_a_reader_that_claims_more_than_the_store_has_gets_a_snapshot(own_etcd: LocalEtcd) -> None:
    await put(own_etcd.url, 1)
    async with service(own_etcd.url) as one:
        with one.hub.subscribe(SCOPE, EventId(one.epoch, 10**6)) as reader:
            [frame] = reader.pull()
            assert (frame.event, json.loads(frame.data)["state"], frame.id) == ("status", "behind", None)
            async with asyncio.timeout(20):
                async for frames in reader:
                    if frames[0].event == "snapshot":
                        break
            assert one.follower.forks == 0


async def test_a_user_who_may_only_read_goes_on_without_epoch_keys(own_etcd: LocalEtcd, tmp_path: Path) -> None:
    await put(own_etcd.url, 1)
    await read_only_user(own_etcd, namespace_prefix(SCOPE.namespace))
    password = tmp_path / "password"
    password.write_text("s3cret")
    config = GatewayConfig(endpoints=(own_etcd.url,), user="reader", password_file=password)
    async with Gateway(config) as gateway:
        one = Service(gateway, None, writes=True)
        task = asyncio.create_task(one.follower.run())
        try:
            await support.eventually(lambda: one.hub.state() == "live" and one.follower.connected)
            assert (one.value(), one.hub.replica.epoch_value(SCOPE.namespace)) == (1, None)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def read_only_user(etcd: LocalEtcd, prefix: bytes) -> None:
    def ask(path: str, body: dict[str, object]) -> None:
        answer = etcd.members[0].ask(path, body)
        assert "code" not in answer, answer

    end = support.encoded(support.prefix_end(prefix))
    permission = {"permType": "READ", "key": support.encoded(prefix), "range_end": end}
    for name in ("root", "reader"):
        ask("/v3/auth/role/add", {"name": name})
        ask("/v3/auth/user/add", {"name": name, "password": "s3cret"})
        ask("/v3/auth/user/grant", {"user": name, "role": name})
    ask("/v3/auth/role/grant", {"name": "reader", "perm": permission})
    ask("/v3/auth/enable", {})
