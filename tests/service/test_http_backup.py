"""Backup and restore over HTTP: values and history come back as they were, numbers and epochs go on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from configsvc.core import backup as file_format
from configsvc.core.model import Scope, decode_head, head_path, schema_path
from configsvc.etcd.local import LocalEtcd
from configsvc.writes.schedule import kept_here
from tests.support.etcd import delete, newest, options, put, wipe
from tests.support.service import until
from tests.support.writing import Api, Store, numbered, service

GZIP = "application/gzip"


async def save(api: Api, **query: Any) -> bytes:
    answer = await api.ask("POST", "/v1/backup", **query)
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == GZIP
    assert answer.headers["Content-Disposition"].endswith('.configsvc.gz"')
    return answer.body


async def restore(api: Api, file: bytes, **query: Any) -> Any:
    return await api.ask("POST", "/v1/restore", file, media=GZIP, **query)


async def history(api: Api, env: str = "production") -> list[dict[str, Any]]:
    return list((await api.ask("GET", f"/v1/versions/{{ns}}/{env}", limit=500))["releases"])


@pytest.fixture
async def full(api: Api) -> Api:
    """A namespace with history, an override, labels, and two environments."""
    await api.deploy({"a": 1, "b": [1.0, None]}, version="v1", reason="first")
    await api.deploy({"a": 2, "b": [1.0, None]}, version="v2")
    await api.emergency("a", 9, reason="night")
    await api.deploy({"s": 1}, env="staging", version="s1")
    return api


async def test_a_namespace_comes_back_into_the_same_etcd(full: Api, other: Api, store: Store) -> None:
    entries, before = await store.entries(), await history(full)
    epoch = (await full.read())["epoch"]
    file = await save(full, namespace=full.namespace)
    contents = file_format.read(file, 10**8)
    assert contents.head.namespace == full.namespace
    await full.deploy({"a": 5, "c": 1}, overrides="discard", version="v3")
    await full.deploy({"t": 1}, env="later")
    planned = await restore(full, file, dry_run="true")
    assert [(one["environment"], one["changed"], one["blocked"]) for one in planned["scopes"]] == [
        ("production", 3, []),
        ("staging", 0, []),
    ]
    assert await full.values() == {"a": 5, "c": 1}
    done = await restore(full, file, reason="lost")
    assert [(one["environment"], one["release"]) for one in done["scopes"]] == [("production", 5), ("staging", None)]
    assert await store.entries() == entries
    after = await history(full)
    assert [one["kind"] for one in after[:2]] == ["restore", "deploy"]
    assert after[2:] == before
    # Replicas follow by themselves, into a new epoch; what the backup does not have stays.
    async with asyncio.timeout(20):
        while (read := await other.read())["epoch"] == epoch or read["values"] != {"a": 9, "b": [1.0, None]}:
            await asyncio.sleep(0.05)
    assert await other.values(env="later") == {"t": 1}
    (pending,) = (await full.drift())["overrides"]
    assert (pending["key"], pending["value"], pending["returns"], pending["reason"]) == ("a", 9, 2, "night")
    assert (await full.deploy({"a": 2, "b": [1.0, None]})).code == "override_pending"


async def test_and_into_an_empty_one(full: Api, store: Store) -> None:
    entries, before = await store.entries(), await history(full)
    file = await save(full, namespace=full.namespace)
    for prefix in ("/config", "/configsvc/releases", "/configsvc/overrides"):
        await wipe(store.gateway, f"{prefix}/{full.namespace}/".encode())
    async with asyncio.timeout(20):
        while (await full.read()).status != 404:
            await asyncio.sleep(0.05)
    done = await restore(full, file)
    assert [(one["environment"], one["release"]) for one in done["scopes"]] == [("production", 4), ("staging", 2)]
    assert await store.entries() == entries
    assert (await history(full))[1:] == before
    async with asyncio.timeout(20):
        while (await full.read()).status != 200:
            await asyncio.sleep(0.05)
    assert await full.values() == {"a": 9, "b": [1.0, None]}
    assert (await full.read(release="@1"))["values"] == {"a": 1, "b": [1.0, None]}
    back = await full.rollback("v1", overrides="discard")
    assert (back["release"], back.changes) == (5, [("a", 9, 1)])
    key = await full.ask("GET", "/v1/history/{ns}/production/a")
    assert [(one["release"], one["kind"]) for one in key["releases"]][:3] == [
        (5, "rollback"),
        (4, "restore"),
        (3, "emergency"),
    ]


async def test_the_keys_of_its_own_come_back_where_there_are_none(full: Api, store: Store) -> None:
    """A promotion after a disaster must not overwrite what differs by environment on purpose."""
    own = "/v1/own-keys/{ns}/production"
    await full.ask("PUT", own, b'["database.host"]')
    file = await save(full, namespace=full.namespace)
    await full.ask("PUT", own, b'["other"]')
    await restore(full, file)
    assert (await full.ask("GET", own))["patterns"] == ["other"]
    for prefix in ("/config", "/configsvc/releases", "/configsvc/overrides"):
        await wipe(store.gateway, f"{prefix}/{full.namespace}/".encode())
    await restore(full, file, dry_run="true")
    assert (await full.ask("GET", own))["patterns"] == []
    await restore(full, file)
    assert (await full.ask("GET", own))["patterns"] == ["database.host"]


async def test_everything_into_another_cluster(namespace: str) -> None:
    """With readers that were there before; a second restore changes nothing."""
    with LocalEtcd(options=options(newest())) as one, LocalEtcd(options=options(newest())) as two:
        async with service(one, namespace) as source:
            for name in ("alpha", "beta"):
                api = Api(source.session, source.url, name)
                await api.deploy({"name": name, "n": 1}, version="v1")
                await api.change({"n": 2})
            file = await save(source)
        async with service(two, "alpha") as target:
            await target.deploy({"name": "old"})
            done = await restore(target, file, namespace="beta")
            assert [(scope["namespace"], scope["release"]) for scope in done["scopes"]] == [("beta", 3)]
            done = await restore(target, file)
            assert [(scope["namespace"], scope["release"]) for scope in done["scopes"]] == [
                ("alpha", 2),
                ("beta", None),
            ]
            async with asyncio.timeout(20):
                while (await target.values()) != {"name": "alpha", "n": 2}:
                    await asyncio.sleep(0.05)
            assert [one["kind"] for one in await history(target)] == ["restore", "deploy"]
            again = await restore(target, file)
            assert [scope["release"] for scope in again["scopes"]] == [None, None]
            assert (await restore(target, file, namespace="gamma")).code == "invalid_body"


async def test_a_store_of_large_values(namespace: str) -> None:
    """More than etcd, or we, could take in one answer."""
    with LocalEtcd(options=options(newest())) as etcd:
        async with service(etcd, namespace) as api:
            values = {name: f"{name}{'x' * 1_000_000}" for name in numbered(25)}
            for env in ("one", "two", "three"):
                assert (await api.deploy(values, env=env)).status == 200
            file = await save(api)
            await api.deploy({"other": 1}, env="two", force="x")
            done = await restore(api, file, force="x")
            assert [(one["environment"], one["release"]) for one in done["scopes"]] == [
                ("one", None),
                ("three", None),
                ("two", 3),
            ]
            assert await api.values(env="one") == values
            async with asyncio.timeout(30):
                while await api.values(env="two") != values:
                    await asyncio.sleep(0.1)


async def test_overrides_whose_time_passed_have_ended(full: Api, store: Store) -> None:
    await full.emergency("b", "now", ttl_s=2)
    file = await save(full, namespace=full.namespace)
    async with asyncio.timeout(30):
        while (await full.values())["b"] == "now":
            await asyncio.sleep(0.05)
    done = await restore(full, file)
    warnings = done["scopes"][0]["warnings"]
    assert warnings == ["overrides whose time passed since the backup have ended: b"]
    assert (await full.values())["b"] == [1.0, None]
    assert [one["key"] for one in (await full.drift())["overrides"]] == ["a"]


async def test_so_have_those_of_a_scope_that_was_never_deployed_to(api: Api) -> None:
    await api.change({"a": 1, "b": 1})
    await api.emergency("b", 5, ttl_s=3600)
    file = await save(api, namespace=api.namespace)
    await api.emergency("a", 9, ttl_s=2)
    passed = await save(api, namespace=api.namespace)
    async with asyncio.timeout(30):
        while (await api.values())["a"] == 9:
            await asyncio.sleep(0.05)
    done = await restore(api, passed)
    assert done["scopes"][0]["warnings"] == ["overrides whose time passed since the backup have ended: a"]
    assert await api.values() == {"a": 1, "b": 5}
    # What still has time goes on, also where nothing is left of it.
    await api.change({"b": 1})
    await restore(api, file)
    (pending,) = (await api.drift())["overrides"]
    assert (pending["key"], pending["value"], pending["returns"]) == ("b", 5, 1)
    assert pending["expires_at"]
    assert (await restore(api, file))["scopes"][0]["unchanged"]


async def test_what_was_put_by_hand_comes_back_as_an_override(api: Api, store: Store) -> None:
    """A label stands for what was deployed under it, and no deploy undoes a hand's value unasked."""
    await api.deploy({"a": 1, "b": 1, "c": 1}, version="v1")
    await store.hand("a", 9)
    await store.hand("c")
    await store.hand("d", 4)
    entries = await store.entries()
    file = await save(api, namespace=api.namespace)
    await api.deploy({"a": 2}, version="v2", overrides="discard", force="x")
    done = await restore(api, file)
    assert (done["scopes"][0]["release"], await store.entries()) == (3, entries)
    drift = await api.drift()
    assert (drift["version"], drift["hand"]) == ("v1", [])
    assert [(one["key"], one.get("value"), one.get("returns")) for one in drift["overrides"]] == [
        ("a", 9, 1),
        ("c", None, 1),
        ("d", 4, None),
    ]
    assert {(one["reason"], one["expires_at"]) for one in drift["overrides"]} == {("changed by hand", None)}
    refused = await api.deploy({"a": 3, "b": 1})
    assert (refused.code, [one["key"] for one in refused.json["overrides"]]) == ("override_pending", ["a", "d"])
    assert (await restore(api, file))["scopes"][0]["unchanged"]
    assert (await restore(api, await save(api, namespace=api.namespace)))["scopes"][0]["unchanged"]
    await api.rollback("v1", overrides="discard")
    assert await api.values() == {"a": 1, "b": 1, "c": 1}


async def test_and_so_it_does_at_once_and_into_an_empty_etcd(api: Api, store: Store) -> None:
    """At once it is a release that writes no value: it says what was put by hand."""
    await api.deploy({"a": 1, "b": 1}, version="v1")
    await store.hand("a", 9)
    entries = await store.entries()
    file = await save(api, namespace=api.namespace)
    for changed in (0, 2):
        (done,) = (await restore(api, file))["scopes"]
        assert (done["release"], done["changed"]) == (2, changed)
        assert await store.entries() == entries
        (pending,) = (await api.drift())["overrides"]
        assert (pending["key"], pending["value"], pending["returns"]) == ("a", 9, 1)
        assert (await api.deploy({"a": 3, "b": 1})).code == "override_pending"
        for prefix in ("/config", "/configsvc/releases", "/configsvc/overrides"):
            await wipe(store.gateway, f"{prefix}/{api.namespace}/".encode())


async def test_no_timer_ends_what_a_hand_put_over_an_emergency(api: Api, store: Store) -> None:
    await api.deploy({"a": 1, "b": 1}, version="v1")
    await api.emergency("a", 5, ttl_s=3600, reason="night")
    await api.emergency("b", 5, ttl_s=3, reason="night")
    await store.hand("a", 9)
    await store.hand("b", 9)
    file = await save(api, namespace=api.namespace)
    async with asyncio.timeout(30):
        while "expiry" not in await api.kinds():
            await asyncio.sleep(0.05)
    await api.deploy({"a": 1, "b": 1}, overrides="discard")
    (done,) = (await restore(api, file))["scopes"]
    assert done["warnings"] == []
    assert await api.values() == {"a": 9, "b": 9}
    assert [
        (one["key"], one["value"], one["returns"], one["reason"], one["expires_at"])
        for one in (await api.drift())["overrides"]
    ] == [("a", 9, 1, "changed by hand", None), ("b", 9, 1, "changed by hand", None)]


async def test_the_schema_comes_back_too(full: Api, store: Store) -> None:
    rules = json.dumps({"format": 1, "schema": {"limit": {"type": "integer", "default": 5}}}).encode()
    await put(store.gateway, schema_path(full.namespace), rules)
    file = await save(full, namespace=full.namespace)
    await delete(store.gateway, schema_path(full.namespace))
    await restore(full, file)
    async with asyncio.timeout(20):
        while (await full.values()).get("limit") != 5:
            await asyncio.sleep(0.05)


async def test_a_backup_from_within_an_open_window(full: Api, store: Store) -> None:
    """Saved while a large release is half applied: what comes back is the state before it."""
    release = (await full.deploy(dict.fromkeys(numbered(1500), 1), overrides="discard", force="x"))["release"]
    before: dict[int, dict[str, bytes]] = {}
    files: list[tuple[bytes, int]] = []
    finished = asyncio.Event()

    async def saving() -> None:
        while not finished.is_set():
            file = await save(full, namespace=full.namespace)
            head = decode_head(file_format.read(file, 10**8).items[head_path(Scope(full.namespace, "production"))])
            if head.applying:
                files.append((file, head.release))

    task = asyncio.create_task(saving())
    async with asyncio.timeout(120):
        while not files:
            before[release] = await store.entries()
            release = (await full.deploy(dict.fromkeys(numbered(1500), release)))["release"]
    finished.set()
    await task
    file, last = files[0]
    await restore(full, file, force="x")
    assert await store.entries() == before[last]


async def test_what_was_garbled_by_hand_is_saved_as_it_is(full: Api, store: Store) -> None:
    await put(store.gateway, store.path("bad"), b"\xff no entry")
    await put(store.gateway, store.path("a/b"), b"no key")
    entries = await store.entries()
    file = await save(full, namespace=full.namespace)
    await full.deploy({"x": 1}, overrides="discard", force="x")
    assert (await restore(full, file)).status == 200
    found = await store.entries()
    assert found["bad"] == b"\xff no entry"
    assert {key: value for key, value in found.items() if key != "a/b"} == {
        key: value for key, value in entries.items() if key != "a/b"
    }


async def test_a_garbled_head_does_not_keep_the_rest_from_coming_back(full: Api, store: Store) -> None:
    await put(store.gateway, head_path(Scope(full.namespace, "production")), b"garbage")
    entries = await store.entries()
    file = await save(full, namespace=full.namespace)
    await wipe(store.gateway, f"/config/{full.namespace}/".encode())
    done = await restore(full, file, force="x")
    assert done.status == 200
    assert await store.entries() == entries


async def test_a_restore_that_would_look_like_an_accident_says_so(full: Api) -> None:
    file = await save(full, namespace=full.namespace)
    await full.deploy(dict.fromkeys(numbered(50), 1), overrides="discard", force="x")
    planned = await restore(full, file, dry_run="true")
    assert planned["scopes"][0]["blocked"]
    refused = await restore(full, file)
    assert (refused.status, refused.code) == (422, "blast_radius")
    assert (await restore(full, file, force="meant")).status == 200


async def test_a_damaged_file_changes_nothing(full: Api, store: Store) -> None:
    file = await save(full, namespace=full.namespace)
    before = await store.everything()
    for damaged in (file[:-1], file[: len(file) // 2], file + b"x", b"x" + file, file[:100] + b"!" + file[101:]):
        assert (await restore(full, damaged)).code == "invalid_body"
    assert await store.everything() == before


async def test_a_restore_that_broke_off_goes_on(full: Api, store: Store) -> None:
    """Part of the history is there already, as a restore that was killed leaves it."""
    entries, before = await store.entries(), await history(full)
    file = await save(full, namespace=full.namespace)
    items = file_format.read(file, 10**8).items
    for prefix in ("/config", "/configsvc/releases", "/configsvc/overrides"):
        await wipe(store.gateway, f"{prefix}/{full.namespace}/".encode())
    manifests = sorted(key for key in items if b"/production/n/" in key)
    await put(store.gateway, manifests[0], items[manifests[0]])
    assert (await restore(full, file)).status == 200
    assert await store.entries() == entries
    assert (await history(full))[1:] == before


# ---- at intervals ----------------------------------------------------------------------------------------------------


async def test_backups_at_intervals_and_the_newest_few_are_kept(namespace: str, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "mine.txt").write_text("not a backup")
    with LocalEtcd(options=options(newest())) as etcd:
        async with service(etcd, namespace, backup_dir=folder, backup_every_s=0.3, backup_keep=2) as api:
            await api.deploy({"a": 1})
            await until(lambda: len(kept_here(folder, None)) == 2, 60)
            first = set(kept_here(folder, None))
            await until(lambda: not first & set(kept_here(folder, None)), 60)
            text = (await api.ask("GET", "/metrics")).body.decode()
            assert "configsvc_backup_failures_total 0.0" in text
            assert "configsvc_janitor_working 1.0" in text
            assert float(text.split("\nconfigsvc_backup_timestamp_seconds ")[1].split()[0]) > 1.7e9
            file = kept_here(folder, None)[-1]
            assert file.stat().st_mode & 0o077 == 0
            done = await restore(api, file.read_bytes(), namespace=namespace)
            assert done["scopes"][0]["unchanged"]
    assert (folder / "mine.txt").exists()
    assert [path for path in folder.iterdir() if path.suffix == ".part"] == []
