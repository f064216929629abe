"""Releases over HTTP: pages, one of them, differences, who set a key, past values, drift, and what is not kept."""

import asyncio
from typing import Any

import msgspec
import pytest

from configsvc.etcd.local import LocalEtcd
from configsvc.web import messages
from configsvc.web.build import guards
from configsvc.web.routes import ROUTES
from configsvc.writes.janitor import Janitor, Retention
from configsvc.writes.writer import Writer
from tests.support.service import central
from tests.support.writing import NOTHING, Api, Store, numbered, service


@pytest.fixture
async def past(api: Api) -> Api:
    """A scope with releases of several kinds."""
    await api.deploy({"a": 1, "n": None}, version="v1", reason="first", git_commit="abc", approved_by="ann")
    await api.deploy({"a": 2, "b": {"c": [1]}}, version="v2")
    await api.emergency("a", 3, reason="night")
    await api.delete("b.c")
    await api.rollback("v1", overrides="discard")
    return api


async def test_releases_newest_first_in_pages(past: Api) -> None:
    found = await past.ask("GET", "/v1/versions/{ns}/production")
    rows = msgspec.json.decode(found.body, type=messages.Releases).releases
    assert [(row.release, row.kind, row.version, row.changed, row.reason) for row in rows] == [
        (5, "rollback", "v1", 2, None),
        (4, "delete", None, 1, None),
        (3, "emergency", None, 1, "night"),
        (2, "deploy", "v2", 3, None),
        (1, "deploy", "v1", 2, "first"),
    ]
    assert {row.by for row in rows} == {"anonymous"}
    pages: list[list[int]] = []
    after: dict[str, Any] = {}
    while True:
        page = await past.ask("GET", "/v1/versions/{ns}/production", limit=2, **after)
        pages.append([one["release"] for one in page["releases"]])
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert pages == [[5, 4], [3, 2], [1]]
    assert (await past.ask("GET", "/v1/versions/{ns}/production", limit=5))["next"] is None
    assert (await past.ask("GET", "/v1/versions/{ns}/production", after=1))["releases"] == []
    assert (await past.ask("GET", "/v1/versions/{ns}/nowhere"))["releases"] == []
    assert len((await past.ask("GET", "/v1/versions/{ns}/production", limit=10**6))["releases"]) == 5


async def test_one_release_with_what_it_changed(past: Api) -> None:
    for name in ("@1", "1"):
        found = await past.ask("GET", f"/v1/versions/{{ns}}/production/{name}")
        release = msgspec.json.decode(found.body, type=messages.ReleaseDetails)
        assert (release.release, release.base_release, release.warnings) == (1, None, [])
        assert release.source == {"git_commit": "abc", "approved_by": "ann"}
        assert found.changes == [("a", NOTHING, 1), ("n", NOTHING, None)]
    # A label is its newest release.
    found = await past.ask("GET", "/v1/versions/{ns}/production/v1")
    assert (found["release"], found["source"], found["base_release"]) == (5, {"target": "1"}, 4)
    for name, code in (
        ("v9", "release_not_found"),
        ("@9", "release_not_found"),
        ("@x", "invalid_path"),
        ("", "invalid_path"),
    ):
        assert (await past.ask("GET", f"/v1/versions/{{ns}}/production/{name}")).code == code


async def test_any_two_releases_are_compared(past: Api) -> None:
    found = await past.ask("GET", "/v1/diff/{ns}/production", from_="@1", to="v2")
    assert (found["from"]["release"], found["to"]["release"]) == (1, 2)
    assert found.changes == [("a", 1, 2), ("b.c", NOTHING, [1]), ("n", None, NOTHING)]
    back = await past.ask("GET", "/v1/diff/{ns}/production", from_="v2", to="@1")
    assert back.changes == [("a", 2, 1), ("b.c", [1], NOTHING), ("n", NOTHING, None)]
    head = await past.ask("GET", "/v1/diff/{ns}/production", from_="@1")
    assert (head["to"]["release"], head.changes) == (5, [])
    missing = await past.ask("GET", "/v1/diff/{ns}/production", to="@1")
    assert (missing.status, missing.json["parameter"]) == (400, "from")
    assert (await past.ask("GET", "/v1/diff/{ns}/production", from_="@1", to="@9")).status == 404
    assert (await past.ask("GET", "/v1/diff/{ns}/nowhere", from_="@1")).status == 404


async def test_who_set_a_key(past: Api) -> None:
    found = await past.ask("GET", "/v1/history/{ns}/production/a")
    history = msgspec.json.decode(found.body, type=messages.KeyHistory)
    assert [(one.release, one.kind, one.op) for one in history.releases] == [
        (5, "rollback", "set"),
        (3, "emergency", "set"),
        (2, "deploy", "set"),
        (1, "deploy", "set"),
    ]
    assert [(one.old, one.new) for one in history.releases] == [(3, 1), (2, 3), (1, 2), (msgspec.UNSET, 1)]
    page = await past.ask("GET", "/v1/history/{ns}/production/a", limit=2)
    rest = await past.ask("GET", "/v1/history/{ns}/production/a", limit=2, after=page["next"])
    assert page["releases"] + rest["releases"] == found["releases"]
    gone = await past.ask("GET", "/v1/history/{ns}/production/b.c")
    assert [(one["kind"], one["op"]) for one in gone["releases"]] == [("delete", "delete"), ("deploy", "set")]
    assert (await past.ask("GET", "/v1/history/{ns}/production/never"))["releases"] == []


@pytest.mark.parametrize("count", [0, 150])
async def test_a_release_that_took_a_hand_s_value_over_is_in_the_history_of_the_key(
    api: Api, store: Store, count: int
) -> None:
    many = dict.fromkeys(numbered(count), 1)
    await api.deploy(many | {"a": 1, "b": 1, "c": 1}, version="v1")
    await store.hand("a", 99)
    await store.hand("b")
    again = dict.fromkeys(many, 2) | {"a": 1, "b": 1, "c": 1}
    await api.deploy(again, version="v2", overrides="keep")
    await api.deploy(again, version="v3", overrides="discard")
    for key, expected in {
        "a": [(3, 99, 1), (2, 1, 99), (1, NOTHING, 1)],
        "b": [(3, NOTHING, 1), (2, 1, NOTHING), (1, NOTHING, 1)],
        "c": [(1, NOTHING, 1)],
    }.items():
        found = await api.ask("GET", f"/v1/history/{{ns}}/production/{key}")
        rows = [(one["release"], one.get("old", NOTHING), one.get("new", NOTHING)) for one in found["releases"]]
        assert rows == expected


async def test_values_as_a_release_left_them(past: Api) -> None:
    expected: list[dict[str, Any]] = [
        {"a": 1, "n": None},
        {"a": 2, "b.c": [1]},
        {"a": 3, "b.c": [1]},
        {"a": 3},
        {"a": 1, "n": None},
    ]
    for number, values in enumerate(expected, 1):
        found = await past.read(release=f"@{number}")
        assert (found["release"], found["values"]) == (number, values)
        assert "ETag" not in found.headers
    assert (await past.read(release="v2"))["values"] == expected[1]
    assert (await past.read(release="v1"))["release"] == 5
    assert (await past.read(release="@9")).code == "release_not_found"
    assert (await past.read(release="a b")).code == "invalid_query"
    entries = (await past.read(release="v2", view="entries"))["entries"]
    assert {key: entry["value"] for key, entry in entries.items()} == expected[1]
    now = (await past.read(view="entries"))["entries"]
    assert all(entry.pop("revision") for entry in now.values())
    assert (await past.read(release="@5", view="entries"))["entries"] == now
    assert (await past.read(release="@1", min_revision="ffffffffffff:1")).code == "epoch_changed"
    assert (await past.read(release="@1", min_revision=2**60, wait_s=0)).code == "revision_not_reached"


async def test_past_values_past_many_releases_and_a_checkpoint(api: Api) -> None:
    for number in range(1, 56):
        assert (await api.change({"n": number, f"k{number % 7}": number})).status == 200
    for number in (1, 2, 49, 50, 51, 52, 55):
        assert (await api.read(release=f"@{number}"))["values"]["n"] == number


async def test_drift_tells_hand_and_overrides_apart(api: Api, store: Store) -> None:
    nothing = await api.drift("nowhere")
    assert (nothing["release"], nothing["hand"], nothing["overrides"]) == (None, [], [])
    await api.deploy({"a": 1, "b": 1, "c": 1}, version="v1")
    await api.emergency("a", 2, ttl_s=3600)
    await store.hand("b", 5)
    await store.hand("c")
    await store.hand("d", 1)
    found = await api.drift()
    drift = msgspec.json.decode(found.body, type=messages.Drift)
    assert (drift.release, drift.version) == (2, None)
    assert [(one.key, one.op, one.old, one.new) for one in drift.hand or ()] == [
        ("b", "set", 1, 5),
        ("c", "delete", 1, msgspec.UNSET),
        ("d", "set", msgspec.UNSET, 1),
    ]
    (override,) = drift.overrides
    assert (override.key, override.value, override.returns, override.release) == ("a", 2, 1, 2)
    assert override.expires_at


async def test_a_timer_before_the_first_deploy_is_told_and_not_promoted(api: Api, store: Store) -> None:
    await api.change({"a": 1, "b": 1}, env="staging")
    await api.emergency("a", 9, env="staging", ttl_s=3600)
    (pending,) = (await api.drift("staging"))["overrides"]
    assert (pending["key"], pending["release"], pending["value"], pending["returns"]) == ("a", 2, 9, 1)
    assert pending["expires_at"]
    refused = await api.promote("staging")
    assert (refused.status, refused.code) == (422, "source_unfit")
    assert refused.json["detail"].startswith(f"{store.namespace}/staging was changed since it was deployed to: a;")
    assert (await api.promote("staging", force="x")).changes == [("a", NOTHING, 1), ("b", NOTHING, 1)]


async def test_a_freeze_that_is_over_is_none(api: Api) -> None:
    await api.deploy({"a": 1})
    await api.ask("PUT", "/v1/freeze/{ns}/production", reason="x", ttl_s=2)
    assert (await api.drift())["frozen"]["reason"] == "x"
    async with asyncio.timeout(10):
        while (await api.drift())["frozen"]:
            await asyncio.sleep(0.05)
    assert (await api.deploy({"a": 2})).status == 200


async def test_what_is_pruned_says_so(any_etcd: LocalEtcd, store: Store, api: Api) -> None:
    for number in range(1, 61):
        await api.change({"a": number})
    writer = Writer(store.gateway, by="test", guards=guards(central()))
    janitor = Janitor(
        store.gateway, writer, namespace=api.namespace, open_scopes=lambda: (), retention=Retention(count=5, age_s=0)
    )
    lease = await janitor._take_turn()
    assert lease is not None
    await janitor.sweep()
    await store.gateway.lease_revoke(lease)
    kept = [one["release"] for one in (await api.ask("GET", "/v1/versions/{ns}/production"))["releases"]]
    assert kept[0] == 60
    assert 5 <= len(kept) < 60
    assert janitor.pruned == 60 - len(kept)
    for answer in (
        await api.rollback("@1"),
        await api.read(release="@1"),
        await api.ask("GET", "/v1/versions/{ns}/production/@1"),
        await api.ask("GET", "/v1/diff/{ns}/production", from_="@1"),
    ):
        assert (answer.status, answer.code) == (404, "release_pruned")
    assert (await api.read(release=f"@{kept[-1]}"))["values"] == {"a": kept[-1]}
    assert (await api.rollback(f"@{kept[-1]}")).status == 200
    history = await api.ask("GET", "/v1/history/{ns}/production/a", limit=500)
    assert [one["release"] for one in history["releases"]] == [61, *kept]


async def test_answers_are_as_declared(past: Api, store: Store) -> None:
    await store.hand("a", 9)
    for route in ROUTES:
        if route.method != "GET" or route.handler.__module__ != "configsvc.web.history":
            continue
        path = route.path.replace("{env}", "production").replace("{key}", "a").replace("{version}", "v2")
        found = await past.ask("GET", path, **({"from_": "v1"} if "diff" in path else {}))
        (declared,) = route.answers[0].content["application/json"]
        msgspec.json.decode(found.body, type=declared)
        assert found.headers["Cache-Control"] == "no-store"


async def test_a_label_of_a_large_release(any_etcd: LocalEtcd, namespace: str) -> None:
    async with service(any_etcd, namespace) as api:
        await api.deploy(dict.fromkeys(numbered(300), 1), version="big", headers={"Idempotency-Key": namespace})
        again = await api.deploy(dict.fromkeys(numbered(300), 1), version="big", headers={"Idempotency-Key": namespace})
        assert (again["release"], len(again.changes)) == (1, 300)
        assert (await api.ask("GET", "/v1/versions/{ns}/production/big"))["changed"] == 300
        history = await api.ask("GET", "/v1/history/{ns}/production/k00299")
        assert [one["release"] for one in history["releases"]] == [1]
