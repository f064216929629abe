"""What a hand, or a dead writer, left in etcd beside the values: writes go on, or say what is in their way."""

import json
from typing import Any

import msgspec
from structlog.testing import capture_logs

from configsvc.core.model import (
    MAX_HEAD_BYTES,
    Applying,
    Scope,
    content_prefix,
    decode_head,
    encode_head,
    epoch_path,
    head_path,
    manifests_prefix,
    overrides_prefix,
)
from configsvc.core.release import Override, Written, decode_manifest, encode_record, manifest_name
from configsvc.core.retention import Retention
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import Range
from configsvc.writes import history, txns
from configsvc.writes.janitor import ORPHAN_S, Janitor
from configsvc.writes.writer import Key, Writer
from tests.support.etcd import delete, put
from tests.support.writing import Api, Store, numbered, service


def scope_of(api: Api) -> Scope:
    return Scope(api.namespace, "production")


async def stored(store: Store, path: bytes) -> bytes:
    return (await store.gateway.range(Range(key=path))).kvs[0].value


async def test_an_epoch_key_without_a_value(api: Api, store: Store) -> None:
    await put(store.gateway, epoch_path(api.namespace), b"")
    first = await api.deploy({"a": 1})
    assert await api.values(first) == {"a": 1}
    assert (await api.deploy({"a": 2}))["epoch"] == first["epoch"]
    assert await stored(store, epoch_path(api.namespace))


async def test_a_receipt_that_does_not_read(api: Api, store: Store) -> None:
    await api.deploy({"a": 1})
    await put(store.gateway, Key("anonymous", api.namespace, "").path, b"garbage")
    refused = await api.deploy({"a": 2}, headers={"Idempotency-Key": api.namespace})
    assert (refused.status, refused.code) == (409, "write_conflict")
    assert "cannot be read" in refused.json["detail"]


async def test_names_of_manifests_that_are_no_numbers(api: Api, store: Store) -> None:
    await api.deploy({"a": 1})
    for name in (b"9" * 5000, b"zzz", b"1"):
        await put(store.gateway, manifests_prefix(scope_of(api)) + name[:1000] + name[1000:], b"x")
    assert (await api.deploy({"a": 2}))["release"] == 2
    assert (await api.rollback("@9")).code == "release_not_found"
    assert (await api.ask("GET", "/v1/drift/{ns}/production"))["release"] == 2


async def test_a_head_with_a_number_that_is_none(api: Api, store: Store) -> None:
    await api.deploy({"a": 1})
    for release in (10**12 - 1, 2**62):
        head = msgspec.json.decode(await stored(store, head_path(scope_of(api))))
        await put(store.gateway, head_path(scope_of(api)), json.dumps(head | {"release": release}).encode())
        done = await api.ask("POST", "/v1/repair/{ns}/production")
        assert done["release"] < 10
        assert (await api.deploy({"a": release}))["release"] == done["release"] + 1


async def test_no_freeze_in_the_place_of_a_head_that_does_not_read(api: Api, store: Store) -> None:
    await api.deploy({"a": 1})
    await put(store.gateway, head_path(scope_of(api)), b"garbage")
    refused = await api.ask("PUT", "/v1/freeze/{ns}/production", reason="x", ttl_s=60)
    assert (refused.status, refused.code) == (409, "write_conflict")
    assert "configsvc repair" in refused.json["detail"]
    assert await stored(store, head_path(scope_of(api))) == b"garbage"
    await delete(store.gateway, head_path(scope_of(api)))
    assert (await api.ask("PUT", "/v1/freeze/{ns}/production", reason="x", ttl_s=60)).code == "write_conflict"
    assert (await api.ask("PUT", "/v1/own-keys/{ns}/production", ["a"])).code == "write_conflict"


async def test_records_of_overrides_that_are_no_keys(api: Api, store: Store) -> None:
    """A timer in a made up place writes nowhere."""
    await api.deploy({"a": 1})
    record = encode_record(Override(release=1, returns=b'{"value": 6}', expires_at="2020-01-01T00:00:00.000Z"))
    for name in (f"/config/{api.namespace}/other/x", "_meta/head", "_x", "a/b"):
        await put(store.gateway, overrides_prefix(scope_of(api)) + name.encode(), record)
    await janitor_of(api, store)._expire()
    assert await api.kinds() == ["deploy"]
    assert not await store.entries("other")
    assert (await api.deploy({"a": 2}))["release"] == 2


async def test_a_key_beside_the_contents_is_no_content(api: Api, store: Store) -> None:
    await api.deploy({"a": 1})
    beside = content_prefix(scope_of(api), "")[:-1]
    for name in (b"x", b"\xff\xff/000000"):
        await put(store.gateway, beside + name, b"by hand")
    janitor = janitor_of(api, store)
    lease = await janitor._take_turn()
    assert lease is not None
    await janitor.sweep()
    await janitor.sweep()
    await store.gateway.lease_revoke(lease)
    left = [kv.key[len(beside) :] for kv in (await store.gateway.list(beside)).kvs]
    assert b"x" in left
    assert b"\xff\xff/000000" not in left
    assert (await api.read(release="@1"))["values"] == {"a": 1}


def janitor_of(api: Api, store: Store) -> Janitor:
    hours = iter(range(0, 10**9, int(ORPHAN_S) + 1))
    writer = Writer(store.gateway, by="test")
    return Janitor(
        store.gateway,
        writer,
        namespace=api.namespace,
        open_scopes=lambda: (),
        retention=Retention(),
        clock=lambda: float(next(hours)),
    )


async def test_a_release_that_was_given_up_breaks_no_chain(any_etcd: LocalEtcd, api: Api, store: Store) -> None:
    """Somebody has put a lost head back: the manifest of the release that went with it stays between two others."""
    await api.deploy({"a": 1, "b": 1})
    first = decode_manifest(await stored(store, manifests_prefix(scope_of(api)) + manifest_name(1)))
    lost = msgspec.structs.replace(first, number=2, id="lost", base=0, checkpoint=None)
    await put(store.gateway, manifests_prefix(scope_of(api)) + manifest_name(2), encode_record(lost))
    assert (await api.deploy({"a": 2, "b": 1}))["release"] == 3
    async with service(any_etcd, api.namespace) as fresh:
        assert (await fresh.drift())["hand"] == []
        assert (await fresh.read(release="@3"))["values"] == {"a": 2, "b": 1}


async def reopen(api: Api, store: Store, before: bytes) -> bytes:
    """Make release 2 one that is being applied, by a writer who lives; the etcd key that says so. `before` is the head
    that release 1 left."""
    scope = scope_of(api)
    manifest = decode_manifest(await stored(store, txns.manifest_path(scope, 2)))
    content = await Writer(store.gateway, by="test").reading.content(scope, manifest.content)
    assert content is not None
    path = head_path(scope)
    written = [*content, Written(path.decode(), before, await stored(store, path))]
    for chunk in txns.content_puts(scope, manifest.content, written):
        await put(store.gateway, chunk.key, chunk.value)
    applying = Applying(id=manifest.id, release=2, sha256=txns.digest(written), kind="deploy", state="verified")
    alive = txns.alive_path(scope, manifest.id)
    await put(store.gateway, alive, b"somebody")
    head = msgspec.structs.replace(decode_head(before), applying=applying)
    await put(store.gateway, path, encode_head(head, before))
    return alive


async def test_a_release_that_is_being_applied_is_not_listed(api: Api, store: Store) -> None:
    await api.deploy({"a": 1, "b": 1, "c": 1})
    raw = await stored(store, head_path(scope_of(api)))
    await api.deploy({"a": 2, "c": 1})
    await reopen(api, store, raw)
    assert await api.kinds() == ["deploy"]
    # What it has written so far was put by nobody's hand.
    await store.hand("c", 9)
    assert [one["key"] for one in (await api.drift())["hand"]] == ["c"]
    assert [one["release"] for one in (await api.ask("GET", "/v1/history/{ns}/production/a"))["releases"]] == [1]
    # Nor can it be looked at, or be gone back to: it may never be.
    for path in ("versions/{ns}/production/@2", "config/{ns}/production?release=@2"):
        assert (await api.ask("GET", f"/v1/{path}")).code == "release_not_found"
    assert (await api.rollback("@2")).code == "release_not_found"


# ---- what a window could not close over ------------------------------------------------------------------------------


async def test_more_overrides_than_a_head_can_name(api: Api) -> None:
    def many(value: Any) -> dict[str, Any]:
        return {f"{n:04}".ljust(1000, "x"): value for n in range(1700)}

    await api.deploy(many(1))
    refused = await api.change(many(2))
    assert (refused.status, refused.code) == (422, "too_many_overrides")
    assert (await api.change(many(2), force="really")).code == "too_many_overrides"
    planned = await api.change(many(2), dry_run="true")
    assert [one["code"] for one in planned["blocked"]] == ["too_many_overrides"]
    some = dict(list(many(2).items())[:500])
    assert (await api.change(some))["release"] == 2
    refused = await api.ask("PUT", "/v1/own-keys/{ns}/production", [f"{n:04}".ljust(1000, "x") for n in range(60)])
    assert (refused.status, refused.code) == (400, "invalid_values")
    assert str(MAX_HEAD_BYTES) in refused.json["detail"]
    assert len((await api.deploy(many(3), overrides="discard"))["changes"]) == 1700


async def test_a_value_by_hand_that_no_record_can_hold(api: Api, store: Store) -> None:
    await api.change({"a": 1, "b": 1})
    await store.hand("a", "x" * 1_300_000)
    refused = await api.emergency("a", 2, ttl_s=60)
    assert (refused.status, refused.code) == (400, "invalid_values")
    assert "nothing was changed" in refused.json["detail"]
    assert (await api.emergency("b", 2))["release"] == 2
    assert (await api.deploy({"a": 3, "b": 2}))["release"] == 3


async def test_the_keys_that_a_window_overwrote_are_named_in_few_words(api: Api, store: Store) -> None:
    """A window whose writer died, and a hand that put every key of it."""
    names = [f"{n:04}".ljust(1000, "x") for n in range(1700)]
    await api.deploy(dict.fromkeys(names, 1))
    raw = await stored(store, head_path(scope_of(api)))
    await api.deploy(dict.fromkeys(names, 2))
    alive = await reopen(api, store, raw)
    for name in names:
        await put(store.gateway, store.path(name), b'{"value": "hand"}')
    await delete(store.gateway, alive)
    done = await api.change({"other": 1})
    assert done["release"] == 3
    assert set((await api.read(release="@3"))["values"].values()) == {1, 2}
    (warning,) = (await api.ask("GET", "/v1/versions/{ns}/production/@2"))["warnings"]
    assert warning.endswith(" and 1680 more")


# ---- If-Match, history -----------------------------------------------------------------------------------------------


async def test_a_freeze_is_no_change_to_who_has_an_etag(api: Api) -> None:
    done = await api.deploy({"a": 1})
    await api.values(done)
    tag = (await api.read()).headers["ETag"]
    await api.ask("PUT", "/v1/freeze/{ns}/production", reason="x", ttl_s=60)
    await api.ask("PUT", "/v1/own-keys/{ns}/production", ["b"])
    assert (await api.read()).headers["ETag"] == tag
    assert (await api.change({"a": 2}, headers={"If-Match": tag}))["release"] == 2
    assert (await api.change({"a": 3}, headers={"If-Match": tag})).code == "precondition_failed"


async def test_a_keys_history_is_told_in_pages_of_bounded_work(api: Api, monkeypatch: Any) -> None:
    monkeypatch.setattr(history, "OPENED", 2)
    keys = list(numbered(150))
    for value in range(4):
        await api.deploy(dict.fromkeys(keys, value))
    found: list[int] = []
    after: dict[str, Any] = {}
    pages = 0
    while True:
        page = await api.ask("GET", f"/v1/history/{{ns}}/production/{keys[-1]}", **after)
        found += [one["release"] for one in page["releases"]]
        pages += 1
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert found == [4, 3, 2, 1]
    assert pages > 1


async def test_a_defect_of_the_janitor_ends_nothing_else(api: Api, store: Store, monkeypatch: Any) -> None:
    await api.deploy({"a": 1})
    janitor = janitor_of(api, store)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(janitor, "_sweep", broken)
    monkeypatch.setattr(janitor, "_expire", broken)
    with capture_logs() as logs:
        await janitor.work()
        await janitor.work()
    told = [(line["event"], line["log_level"], line["error"]) for line in logs]
    assert told == [
        ("overrides cannot be read", "error", "a defect"),
        ("old releases cannot be removed", "error", "a defect"),
    ]
