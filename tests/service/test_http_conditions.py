"""Writes under conditions: a plan's digest, a base release, If-Match, guards; and requests that come twice."""

import asyncio
import json
import uuid
from typing import Any

import pytest

from configsvc.etcd.local import LocalEtcd
from tests.support.etcd import compact, put
from tests.support.writing import NOTHING, Answer, Api, Store, numbered, service

YAML = "application/yaml"


# ---- dry runs, digests, base releases --------------------------------------------------------------------------------


async def test_a_dry_run_changes_nothing_and_its_digest_applies_it(api: Api, store: Store) -> None:
    await api.deploy({"a": 1, "b": 2})
    before, key = await store.everything(), named("k")
    planned = await api.deploy({"a": 2}, dry_run="true", reason="x", headers=key)
    assert await store.everything() == before
    assert (planned["base_release"], planned["blocked"]) == (1, [])
    assert planned["digest"].startswith("1-")
    assert planned.changes == [("a", 1, 2), ("b", 2, NOTHING)]
    done = await api.deploy({"a": 2}, digest=planned["digest"], headers=key)
    assert done.changes == planned.changes


@pytest.mark.parametrize("between", ["release", "hand", "hand_delete", "hand_same_key"])
async def test_a_digest_is_refused_with_what_moved(api: Api, store: Store, between: str) -> None:
    await api.deploy({"a": 1, "b": 2})
    planned = await api.deploy({"a": 2, "b": 2}, dry_run="true")
    if between == "release":
        await api.change({"b": 3})
    elif between == "hand":
        await store.hand("c", 1)
    elif between == "hand_delete":
        await store.hand("b")
    else:
        await store.hand("a", 9)
    expected = {
        "release": ("b", 2, 3),
        "hand": ("c", NOTHING, 1),
        "hand_delete": ("b", 2, NOTHING),
        "hand_same_key": ("a", 1, 9),
    }[between]
    before = await store.everything()
    refused = await api.deploy({"a": 2, "b": 2}, digest=planned["digest"], overrides="discard")
    assert (refused.status, refused.code) == (409, "plan_changed")
    moved = [(one["key"], one.get("old", NOTHING), one.get("new", NOTHING)) for one in refused.json["changes"]]
    assert moved == [expected]
    assert await store.everything() == before


async def test_a_digest_is_of_one_request(api: Api) -> None:
    await api.deploy({"a": 1})
    planned = await api.deploy({"a": 2}, dry_run="true")
    assert (await api.deploy({"a": 3}, digest=planned["digest"])).code == "plan_changed"
    assert (await api.emergency("a", 2, digest=planned["digest"])).code == "plan_changed"
    assert (await api.deploy({"a": 2}, digest="nonsense")).code == "plan_changed"


async def test_a_base_release_that_moved_is_refused_with_the_changes_since(api: Api) -> None:
    await api.deploy({"a": 1}, base_release=0)
    await api.deploy({"a": 2, "b": 1}, base_release="@1")
    refused = await api.deploy({"a": 3}, base_release=1)
    assert (refused.status, refused.code, refused.json["release"]) == (409, "base_moved", 2)
    assert [one["key"] for one in refused.json["changes"]] == ["a", "b"]
    assert (await api.deploy({"a": 3, "b": 1}, base_release=2)).status == 200


async def test_everything_in_the_way_is_listed_and_the_first_of_it_answered(api: Api) -> None:
    await api.deploy(dict.fromkeys(numbered(10), 1), version="v1")
    await api.emergency("k00000", 2)
    await api.ask("PUT", "/v1/freeze/{ns}/production", reason="x", ttl_s=60)
    wrong = {"version": "v1", "base_release": 1, "digest": "x"}
    planned = await api.deploy({}, dry_run="true", **wrong)
    assert [one["code"] for one in planned["blocked"]] == [
        *("base_moved", "plan_changed", "scope_frozen", "version_exists", "override_pending", "blast_radius")
    ]
    assert all(one["request_id"] and one["status"] in (409, 422) for one in planned["blocked"])
    assert (await api.deploy({}, **wrong)).code == "base_moved"


async def test_accidents_are_stopped_unless_they_are_forced(api: Api) -> None:
    await api.deploy(dict.fromkeys(numbered(10), 1))
    for body in ({}, {"k00000": 1}):
        refused = await api.deploy(body)
        assert (refused.status, refused.code) == (422, "blast_radius")
        assert refused.json["problems"]
    done = await api.deploy({}, force="the service is gone")
    assert len(done.changes) == 10
    shown = await api.ask("GET", "/v1/versions/{ns}/production/@2")
    assert shown["source"] == {"force": "the service is gone"}


async def test_the_guards_are_settings(any_etcd: LocalEtcd, namespace: str) -> None:
    strict = {"max_deleted": 0.1, "max_scope_bytes": 3000, "max_releases_per_min": 4, "max_growth": 2.0}
    async with service(any_etcd, namespace, **strict) as api:
        assert (await api.deploy(dict.fromkeys(numbered(40), 1))).code == "blast_radius"
        assert (await api.deploy({"a": "x" * 400, "b": 1, "c": 1, "d": 1, "e": 1})).status == 200
        assert "4 of 5 keys" in (await api.deploy({"b": 1}, dry_run="true"))["blocked"][0]["detail"]
        assert "budget is 3000" in (await api.deploy({"a": "x" * 4000}, dry_run="true"))["blocked"][0]["detail"]
        for value in range(3):
            assert (await api.change({"b": value + 2})).status == 200
        refused = await api.change({"b": 9})
        assert "4 releases" in refused.json["problems"][0]
        assert (await api.emergency("b", 9)).status == 200
        assert (await api.rollback("@1", overrides="discard")).status == 200


# ---- If-Match --------------------------------------------------------------------------------------------------------


async def test_if_match_holds_until_the_scope_changes_on_whichever_replica(
    api: Api, other: Api, store: Store, any_etcd: LocalEtcd
) -> None:
    first = await api.deploy({"a": 1})
    tag = (await other.read(min_revision=first["revision"])).headers["ETag"]
    await api.deploy({"x": 1}, env="staging")
    for sent in (tag, f"W/{tag}", "*", f" {tag} ", tag[:-1] + '-0123abcd"'):
        planned = await api.deploy({"a": 2}, dry_run="true", headers={"If-Match": sent})
        assert planned.changes == [("a", 1, 2)]
    done = await other.deploy({"a": 2}, headers={"If-Match": tag})
    assert done["release"] == 2
    before = await store.everything()
    for write in (
        api.deploy({"a": 3}, headers={"If-Match": tag}),
        api.change({"a": 3}, headers={"If-Match": tag}),
        api.emergency("a", 3, headers={"If-Match": tag}),
        api.delete("a", headers={"If-Match": tag}),
        api.rollback("@1", headers={"If-Match": tag}),
        api.deploy({"a": 3}, headers={"If-Match": f'"000000000000:{done["revision"]}"'}),
        api.deploy({"a": 3}, headers={"If-Match": f'"{done["epoch"]}:{done["revision"] + 10**6}"'}),
        api.deploy({"a": 3}, headers={"If-Match": f'"{done["epoch"]}:0"'}),
    ):
        refused = await write
        assert (refused.status, refused.code) == (412, "precondition_failed")
    planned = await api.deploy({"a": 3}, dry_run="true", headers={"If-Match": tag})
    assert (planned.changes, [one["code"] for one in planned["blocked"]]) == ([("a", 2, 3)], ["precondition_failed"])
    assert await store.everything() == before


async def test_if_match_holds_however_long_ago_the_scope_has_changed(
    api: Api, store: Store, any_etcd: LocalEtcd
) -> None:
    first = await api.deploy({"a": 1})
    tag = (await api.read(min_revision=first["revision"])).headers["ETag"]
    later = await api.deploy({"x": 1}, env="staging")
    await compact(any_etcd, later["revision"])
    await api.read(min_revision=later["revision"])
    await api.read()
    assert (await api.deploy({"a": 2}, headers={"If-Match": tag})).status == 200
    # What is no longer shown is too old to be compared.
    assert (await api.deploy({"a": 3}, headers={"If-Match": tag})).status == 412


async def test_if_match_takes_the_tag_of_a_scope_with_what_nobody_can_read(api: Api, store: Store) -> None:
    await api.deploy({"a": 1, "b": 2})
    revision = await put(store.gateway, store.path("b"), b"garbage")
    tag = (await api.read(min_revision=revision)).headers["ETag"]
    assert "-" in tag
    done = await api.change({"a": 2}, headers={"If-Match": tag})
    await api.read(min_revision=done["revision"])
    assert (await api.change({"a": 3}, headers={"If-Match": tag})).status == 412


async def test_if_match_sees_a_change_by_hand(api: Api, store: Store) -> None:
    first = await api.deploy({"a": 1})
    tag = (await api.read(min_revision=first["revision"])).headers["ETag"]
    await store.hand("b", 1)
    assert (await api.deploy({"a": 2, "b": 1}, headers={"If-Match": tag})).status == 412


@pytest.mark.parametrize("tag", ["", "x", "1", '"x"', '"0f9a3c52d1be:1", "0f9a3c52d1be:2"', '"0f9a3c52d1be"'])
async def test_an_if_match_that_cannot_be_understood_lets_nothing_through(api: Api, tag: str) -> None:
    refused = await api.deploy({"a": 2}, headers={"If-Match": tag})
    assert (refused.status, refused.code) == (400, "invalid_header")


# ---- Idempotency-Key -------------------------------------------------------------------------------------------------


def named(name: str) -> dict[str, str]:
    """A key that no other test uses: receipts are kept by who sent them, and everybody is the same here."""
    return {"Idempotency-Key": f"{name}/{uuid.uuid4().hex}"}


def told(answer: Answer) -> dict[str, Any]:
    return {name: value for name, value in answer.json.items() if name != "request_id"}


async def test_a_repeated_request_is_answered_as_the_first_time(api: Api, other: Api) -> None:
    key = named("deploy-1")
    first = await api.deploy({"a": 1, "n": None}, version="v1", headers=key)
    await api.deploy({"a": 2, "n": None}, version="v2")
    for one in (api, other):
        again = await one.deploy({"a": 1, "n": None}, version="v1", headers=key)
        assert told(again) == told(first)
    assert await api.kinds() == ["deploy", "deploy"]
    assert await api.values() == {"a": 2, "n": None}


@pytest.mark.parametrize("kind", ["change", "emergency", "delete", "rollback", "promote"])
async def test_each_kind_of_write_is_repeated(api: Api, other: Api, kind: str) -> None:
    await api.deploy({"a": 1, "b": 1})
    await api.deploy({"a": 2, "b": 1})
    await api.deploy({"a": 5, "b": 5}, env="staging")

    async def ask(one: Api, **more: Any) -> Answer:
        match kind:
            case "change":
                return await one.change({"a": 7}, "b", **more)
            case "emergency":
                return await one.emergency("a", 7, ttl_s=3600, **more)
            case "delete":
                return await one.delete("a", **more)
            case "rollback":
                return await one.rollback("@1", **more)
        return await one.promote("staging", **more)

    key = named("x" * 210)
    first = await ask(api, headers=key)
    assert first["release"] == 3
    assert told(await ask(other, headers=key)) == told(first)
    # Another request, if only by a parameter.
    mismatched = await ask(other, headers=key, base_release=2)
    assert (mismatched.status, mismatched.code) == (422, "idempotency_mismatch")
    assert len(await api.kinds()) == 3


async def test_it_is_known_after_a_restart_and_for_what_changed_nothing(any_etcd: LocalEtcd, namespace: str) -> None:
    one, nothing = named("one"), named("nothing")
    async with service(any_etcd, namespace) as api:
        first = await api.deploy({"a": 1}, headers=one)
        unchanged = await api.deploy({"a": 1}, headers=nothing)
        assert unchanged["unchanged"]
        await api.deploy({"a": 2})
    async with service(any_etcd, namespace) as api:
        assert told(await api.deploy({"a": 1}, headers=one)) == told(first)
        again = await api.deploy({"a": 1}, headers=nothing)
        assert (again["unchanged"], again["release"], again.changes) == (True, 1, [])
        assert await api.values() == {"a": 2}


async def test_what_changed_nothing_is_answered_as_the_first_time(api: Api) -> None:
    await api.deploy({"a": 1})
    await api.emergency("a", 9)
    wanted = {"overrides": "keep", "headers": named("kept")}
    first = await api.deploy({"a": 1}, **wanted)
    assert (first["unchanged"], len(first["warnings"])) == (True, 1)
    await api.deploy({"b": 1}, env="staging")
    assert told(await api.deploy({"a": 1}, **wanted)) == told(first)


async def test_another_request_with_the_same_key_is_refused(api: Api) -> None:
    key = named("k")
    await api.deploy({"a": 1}, headers=key)
    for refused in (
        await api.deploy({"a": 2}, headers=key),
        await api.deploy({"a": 1}, headers=key, reason="x"),
        await api.deploy({"a": 1}, headers=key, env="staging"),
        await api.change({"a": 1}, headers=key),
    ):
        assert (refused.status, refused.code) == (422, "idempotency_mismatch")
    assert (await api.deploy({"a": 1}, headers=named("K")))["unchanged"]


async def test_errors_are_not_kept(api: Api) -> None:
    key = named("k")
    await api.deploy({"a": 1})
    await api.emergency("a", 2)
    assert (await api.deploy({"a": 3}, headers=key)).code == "override_pending"
    await api.rollback("@1", overrides="discard")
    assert (await api.deploy({"a": 3}, headers=key))["release"] == 4


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é"])
async def test_a_key_that_is_none(api: Api, key: str) -> None:
    refused = await api.deploy({"a": 2}, headers={"Idempotency-Key": key})
    assert (refused.status, refused.code) == (400, "invalid_header")


async def test_duplicates_at_the_same_time_make_one_release(api: Api, other: Api) -> None:
    await api.deploy({"a": 1, "big": "x"})
    key = named("same")
    answers = await asyncio.gather(
        *(one.change({"a": 2}, headers=key) for one in (api, other) for _ in range(6)),
    )
    assert {answer.status for answer in answers} == {200}
    assert {json.dumps(told(answer), sort_keys=True) for answer in answers} == {
        json.dumps(told(answers[0]), sort_keys=True)
    }
    assert await api.kinds() == ["deploy", "change"]


async def test_writes_at_the_same_time_all_happen_one_after_the_other(api: Api, other: Api) -> None:
    await api.deploy({f"k{n}": 0 for n in range(6)})
    answers = await asyncio.gather(*((api, other)[n % 2].change({f"k{n}": 1}) for n in range(6)))
    done = [answer for answer in answers if answer.status == 200]
    assert {answer.code for answer in answers} <= {None, "write_conflict"}
    assert sorted(answer["release"] for answer in done) == list(range(2, 2 + len(done)))
    assert sum((await api.values(max(done, key=lambda one: one["release"]))).values()) == len(done)
