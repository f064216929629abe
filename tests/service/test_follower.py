"""Follower and hub on a real etcd: what is in etcd is what readers see, and what is wrong there is served around."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from configsvc.core.model import (
    Scope,
    content_prefix,
    entry_path,
    epoch_path,
    head_path,
    manifests_prefix,
    namespace_prefix,
    schema_path,
)
from configsvc.core.release import Written, encode_content, manifest_name
from configsvc.core.replica import Replica
from configsvc.epochs import FORKS, Epochs, Fork
from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import Compare, Delete, Put, Range, Txn
from configsvc.follower import Follower
from configsvc.hub import Hub
from tests.support.etcd import compact, eventually, put

GARBAGE = {
    "empty": b"",
    "not-json": b"{value: 1}",
    "not-utf8": b'{"value": "\xff"}',
    "bare": b"50",
    "list": b'["value", 1]',
    "no-value": b'{"version": "v1"}',
    "nan": b'{"value": NaN}',
    "infinite": b'{"value": 1e999}',
    "huge-integer": b'{"value": 18446744073709551616}',
    "deep": b'{"value": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "version-number": b'{"value": 1, "version": 7}',
    "metadata-text": b'{"value": 1, "metadata": "x"}',
    "megabyte": b'{"value": "' + b"x" * 1024 * 1024,
    "lone-surrogate": b'{"value": "\\ud800"}',
}


class Following:
    """A replica of one namespace while its follower runs."""

    def __init__(self, gateway: Gateway, namespace: str, epochs: Epochs | None) -> None:
        self.hub = Hub(Replica(), heartbeat_s=1)
        self.follower = Follower(gateway, self.hub, prefix=namespace_prefix(namespace), epochs=epochs)
        self.scope = Scope(namespace, "production")

    def values(self) -> dict[str, Any]:
        feed = self.hub.feeds.get(self.scope)
        entries = feed.snapshot.entries if feed else {}
        return {key: json.loads(msgspec.json.encode(entry.value)) for key, entry in entries.items()}

    async def sees(self, values: dict[str, Any]) -> None:
        try:
            await eventually(lambda: self.values() == values)
        except TimeoutError:
            assert self.values() == values

    def problems(self) -> dict[str, str]:
        return {key: problem.reason for key, problem in self.hub.replica.scopes[self.scope].unreadable.items()}


@asynccontextmanager
async def following(gateway: Gateway, namespace: str, epochs: Epochs | None = None) -> AsyncIterator[Following]:
    async with AsyncExitStack() as stack:
        replica = Following(gateway, namespace, epochs)
        for loop in (replica.follower.run(), replica.hub.run()):
            task = asyncio.create_task(loop)
            stack.push_async_callback(asyncio.gather, task, return_exceptions=True)
            stack.callback(task.cancel)
        await eventually(lambda: replica.hub.listed)
        yield replica


@pytest.fixture
def namespace() -> str:
    return f"ns-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def scope(namespace: str) -> Scope:
    return Scope(namespace, "production")


def entry(scope: Scope, key: str, value: Any) -> Put:
    return Put(key=entry_path(scope, key), value=json.dumps({"value": value}).encode())


def head(scope: Scope, release: int, **more: Any) -> Put:
    text = {"format": 1, "release": release, "version": f"v{release}", "id": f"id{release}", "overrides": {}, **more}
    return Put(key=head_path(scope), value=json.dumps(text).encode())


async def write(gateway: Gateway, *operations: Put | Delete) -> int:
    return (await gateway.txn(Txn(success=operations))).header.revision


async def store_release(gateway: Gateway, scope: Scope, number: int, id: str, written: list[Written]) -> None:
    manifest = json.dumps({"format": 1, "number": number, "id": id, "content": "c1"}).encode()
    puts = [Put(key=manifests_prefix(scope) + manifest_name(number), value=manifest)]
    for index, chunk in enumerate(encode_content(written)):
        puts.append(Put(key=content_prefix(scope, "c1") + b"%06d" % index, value=chunk))
    await write(gateway, *puts)


async def test_a_transaction_is_one_change_and_its_revision_is_etcds(gateway: Gateway, scope: Scope) -> None:
    await write(gateway, entry(scope, "a", 1), entry(scope, "b", 1))
    async with following(gateway, scope.namespace) as replica:
        await replica.sees({"a": 1, "b": 1})
        with replica.hub.subscribe(scope, None) as reader:
            reader.pull()
            revision = await write(
                gateway, entry(scope, "a", 2), entry(scope, "c", 2), Delete(key=entry_path(scope, "b"))
            )
            await replica.sees({"a": 2, "c": 2})
            frames = [frame for frame in reader.pull() if frame.event == "change"]
        assert [(frame.id.revision, *sorted(json.loads(frame.data)["set"])) for frame in frames if frame.id] == [
            (revision, "a", "c")
        ]
        assert json.loads(frames[0].data)["deleted"] == ["b"]
        assert replica.hub.proved(scope) >= revision


async def test_garbage_is_reported_and_served_around(gateway: Gateway, scope: Scope) -> None:
    for key, value in GARBAGE.items():
        await put(gateway, entry_path(scope, key), value)
    await write(gateway, entry(scope, "good", None))
    async with following(gateway, scope.namespace) as replica:
        await replica.sees({"good": None})
        assert replica.problems().keys() == GARBAGE.keys()
        for key in GARBAGE:
            await write(gateway, entry(scope, key, 7))
        await replica.sees({"good": None, **dict.fromkeys(GARBAGE, 7)})
        assert replica.problems() == {}
        for key, value in GARBAGE.items():
            await put(gateway, entry_path(scope, key), value)
        await write(gateway, entry(scope, "good", 1))
        await replica.sees({"good": 1, **dict.fromkeys(GARBAGE, 7)})
        assert replica.problems().keys() == GARBAGE.keys()
        assert "-" in replica.hub.feeds[scope].etag
    async with following(gateway, scope.namespace) as cold:
        await cold.sees({"good": 1, **dict.fromkeys(GARBAGE, 7)})


async def test_what_etcd_has_forgotten_comes_from_the_heads_release(
    gateway: Gateway, etcd_server: LocalEtcd, scope: Scope
) -> None:
    readable = json.dumps({"value": "released"}).encode()
    await store_release(gateway, scope, 1, "id1", [Written("a", None, readable), Written("b", None, b"\xff")])
    await write(gateway, head(scope, 1), Put(key=entry_path(scope, "a"), value=readable))
    await put(gateway, entry_path(scope, "b"), b"\xff")
    revision = await put(gateway, entry_path(scope, "a"), b"nonsense")
    await compact(etcd_server, revision)
    async with following(gateway, scope.namespace) as replica:
        await replica.sees({"a": "released"})
        assert replica.problems().keys() == {"a", "b"}


@pytest.mark.parametrize("content", ["kept", "lost", "kept, and a hand put another key"])
async def test_a_cold_start_inside_a_window_that_was_compacted(
    gateway: Gateway, etcd_server: LocalEtcd, scope: Scope, content: str
) -> None:
    before = {"a": 1, "b": 1, "c": 1}
    await write(gateway, head(scope, 1), *(entry(scope, key, value) for key, value in before.items()))
    new = [json.dumps({"value": 2}).encode(), None, json.dumps({"value": 2}).encode()]
    old = [json.dumps({"value": 1}).encode(), json.dumps({"value": 1}).encode(), None]
    written = [Written(key, was, becomes) for key, was, becomes in zip("abd", old, new, strict=True)]
    if content != "lost":
        await store_release(gateway, scope, 2, "w2", written)
    window = {"id": "w2", "sha256": "", "kind": "deploy", "state": "opened", "since": "2026-01-01T00:00:00Z", "by": "t"}
    opened = await write(gateway, head(scope, 1, applying=window))
    await write(gateway, head(scope, 1, applying={**window, "state": "verified", "opened_revision": opened}))
    revision = await write(gateway, entry(scope, "a", 2), entry(scope, "d", 2))
    c = 1
    if content.endswith("another key"):
        # What it was before, which other replicas show, nobody knows any more.
        revision = await write(gateway, entry(scope, "c", c := 3))
    await compact(etcd_server, revision)
    async with following(gateway, scope.namespace) as replica:
        if content == "kept":
            await replica.sees(before)
            feed = replica.hub.feeds[scope]
            assert (replica.hub.proved(scope), feed.snapshot.release) == (opened - 1, 1)
            assert "-" in feed.etag
        else:
            assert not replica.hub.ready
        await write(gateway, Delete(key=entry_path(scope, "b")))
        assert replica.values() == (before if content == "kept" else {})
        closed = await write(gateway, head(scope, 2))
        await replica.sees({"a": 2, "c": c, "d": 2})
        assert replica.hub.ready
        assert (replica.hub.proved(scope), replica.hub.feeds[scope].snapshot.release) >= (closed, 2)
        assert replica.hub.feeds[scope].etag == f"{replica.hub.epoch(scope)}:{closed}"


async def test_a_schemas_defaults_apply_where_nothing_is_stored(gateway: Gateway, scope: Scope) -> None:
    schema = {"format": 1, "schema": {"pool": {"size": {"type": "integer", "default": 10}}, "x": {"type": "string"}}}
    await put(gateway, schema_path(scope.namespace), json.dumps(schema).encode())
    await write(gateway, entry(scope, "x", "stored"))
    async with following(gateway, scope.namespace) as replica:
        await replica.sees({"x": "stored", "pool.size": 10})
        await write(gateway, entry(scope, "pool.size", 20))
        await replica.sees({"x": "stored", "pool.size": 20})
        await write(gateway, Delete(key=entry_path(scope, "pool.size")))
        await replica.sees({"x": "stored", "pool.size": 10})


async def test_who_may_write_gives_a_namespace_its_epoch_key_before_anybody_reads(
    gateway: Gateway, scope: Scope
) -> None:
    await write(gateway, entry(scope, "a", 1))
    async with following(gateway, scope.namespace) as reader:
        plain = reader.hub.epoch(scope)
        async with following(gateway, scope.namespace, Epochs(gateway)) as replica:
            epoch = replica.hub.epoch(scope)
            assert epoch != plain
            await eventually(lambda: reader.hub.epoch(scope) == epoch)
        async with following(gateway, scope.namespace, Epochs(gateway)) as again:
            assert again.hub.epoch(scope) == epoch


async def test_a_rotation_that_was_begun_is_finished_and_loses_races(gateway: Gateway, scope: Scope) -> None:
    other = f"{scope.namespace}-other"
    moved = f"{scope.namespace}-moved"
    for name in (scope.namespace, moved):
        await put(gateway, epoch_path(name), b"old")
    fork = Fork(since="2026-01-01", epochs={scope.namespace: b"old", other: b"", moved: b"older"})
    marker = FORKS + uuid.uuid4().hex.encode()
    await put(gateway, marker, msgspec.json.encode(fork))
    await Epochs(gateway).finish()

    async def value(key: bytes) -> bytes | None:
        kvs = (await gateway.range(Range(key=key))).kvs
        return kvs[0].value if kvs else None

    assert await value(epoch_path(scope.namespace)) not in (None, b"old")
    assert await value(epoch_path(other)) is not None
    assert await value(epoch_path(moved)) == b"old"
    assert await value(marker) is None


async def test_writes_are_guarded(gateway: Gateway, scope: Scope) -> None:
    key = epoch_path(scope.namespace)
    await Epochs(gateway).create_epochs([scope.namespace])
    first = (await gateway.range(Range(key=key))).kvs[0].value
    await Epochs(gateway).create_epochs([scope.namespace])
    assert (await gateway.range(Range(key=key))).kvs[0].value == first
    await Epochs(gateway).rotate_epochs({scope.namespace: b"another"})
    assert (await gateway.range(Range(key=key))).kvs[0].value == first
    await Epochs(gateway).rotate_epochs({scope.namespace: first})
    assert (await gateway.range(Range(key=key))).kvs[0].value != first
    await Epochs(gateway).rotate_epochs({})
    guard = Compare(key=key, target="VALUE", value=first)
    assert not (await gateway.txn(Txn(compare=(guard,)))).succeeded
