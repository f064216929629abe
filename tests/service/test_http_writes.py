"""Every route that writes, over HTTP and a real etcd: what it does, and what readers see of it meanwhile."""

import asyncio
import json
from typing import Any

from structlog.testing import capture_logs

from configsvc.core.model import Scope, head_path
from configsvc.etcd.local import LocalEtcd
from tests.support.etcd import put
from tests.support.service import connect, until
from tests.support.writing import NOTHING, Api, Store, numbered, service

YAML = "application/yaml"


# ---- deploy, change, emergency, delete -------------------------------------------------------------------------------


async def test_a_deploy_says_what_it_did_and_is_read_on_another_replica(api: Api, other: Api) -> None:
    first = await api.deploy({"database": {"host": "db", "pool_size": 10}, "none": None}, version="v1", reason="start")
    assert (first["release"], first["version"], first["warnings"]) == (1, "v1", [])
    assert first.changes == [
        ("database.host", NOTHING, "db"),
        ("database.pool_size", NOTHING, 10),
        ("none", NOTHING, None),
    ]
    assert first.headers["X-Request-Id"]
    second = await api.deploy({"database.host": "db", "database.pool_size": 20}, version="v2")
    assert second["changes"] == [
        {"key": "database.pool_size", "op": "set", "old": 10, "new": 20},
        {"key": "none", "op": "delete", "old": None},
    ]
    assert await other.values(second) == {"database.host": "db", "database.pool_size": 20}
    read = await other.read(view="entries")
    assert (read["release"], read["version"]) == (2, "v2")
    entry = read["entries"]["database.pool_size"]
    assert entry["version"] == "v2"
    assert entry["metadata"]["created_by"] == "anonymous"
    assert read["entries"]["database.host"]["version"] == "v1"


async def test_yaml_json_nested_and_dotted_are_the_same_state(api: Api) -> None:
    await api.deploy({"a": {"b": 1, "c": [1, "no"]}, "d": {}})
    for body, media in (
        (b'{"a.b": 1, "a.c": [1, "no"], "d": {}}', "application/json"),
        (b"a:\n  b: 1\n  c: [1, no]\nd: {}\n", YAML),
        (b"a.b: 1\na.c:\n- 1\n- no\nd: {}\n", "text/yaml; charset=utf-8"),
    ):
        again = await api.deploy(body, media=media)
        assert (again["unchanged"], again["release"], again.changes) == (True, 1, [])
    assert await api.kinds() == ["deploy"]


async def test_several_keys_change_in_one_release(api: Api) -> None:
    await api.deploy({"a": 1, "b": 2, "c": 3})
    changed = await api.change({"a": 10, "d.e": {"x": 1}}, "b")
    assert changed["release"] == 2
    assert changed.changes == [("a", 1, 10), ("b", 2, NOTHING), ("d.e", NOTHING, {"x": 1})]
    assert await api.values(changed) == {"a": 10, "c": 3, "d.e": {"x": 1}}
    nothing = await api.change({"a": 10})
    assert (nothing["unchanged"], nothing["release"]) == (True, 2)


async def test_a_change_of_what_is_not_there_is_refused_as_a_whole(api: Api, store: Store) -> None:
    await api.deploy({"a": 1})
    before = await store.everything()
    for answer in (await api.change({"a": 2}, "nothing"), await api.delete("nothing")):
        assert (answer.status, answer.code, answer.json["keys"]) == (404, "key_not_found", ["nothing"])
    assert await store.everything() == before


async def test_an_emergency_is_one_key_at_once_and_pending_until_the_next_deploy(api: Api) -> None:
    await api.deploy({"flag": False, "limit": 1})
    done = await api.emergency("flag", True, reason="at night")
    assert (done["release"], done.changes) == (2, [("flag", False, True)])
    (pending,) = (await api.drift())["overrides"]
    assert (pending["key"], pending["release"], pending["value"], pending["returns"]) == ("flag", 2, True, False)
    assert (pending["by"], pending["reason"], pending["expires_at"]) == ("anonymous", "at night", None)
    refused = await api.deploy({"flag": False, "limit": 2})
    assert (refused.status, refused.code) == (409, "override_pending")
    assert [one["key"] for one in refused.json["overrides"]] == ["flag"]
    kept = await api.deploy({"flag": False, "limit": 2}, overrides="keep")
    assert kept.changes == [("limit", 1, 2)]
    assert await api.values(kept) == {"flag": True, "limit": 2}
    gone = await api.deploy({"flag": False, "limit": 2}, overrides="discard")
    assert gone.changes == [("flag", True, False)]
    assert (await api.drift())["overrides"] == []


async def test_a_deploy_with_the_override_s_value_settles_it(api: Api) -> None:
    await api.deploy({"flag": False})
    await api.emergency("flag", True)
    settled = await api.deploy({"flag": True})
    assert settled.status == 200
    assert (await api.drift())["overrides"] == []
    assert (await api.deploy({"flag": False})).status == 200


async def test_an_emergency_with_a_time_ends_by_itself(api: Api) -> None:
    await api.deploy({"flag": False})
    await api.emergency("flag", True, ttl_s=1)
    (pending,) = (await api.drift())["overrides"]
    assert pending["expires_at"].endswith("Z")
    async with asyncio.timeout(30):
        while await api.values() != {"flag": False}:
            await asyncio.sleep(0.05)
    assert await api.kinds() == ["deploy", "emergency", "expiry"]
    assert (await api.drift())["overrides"] == []
    (last, *_) = (await api.ask("GET", "/v1/versions/{ns}/production"))["releases"]
    assert last["by"] == "janitor"


async def test_a_key_is_deleted_and_may_come_back_by_a_rollback(api: Api) -> None:
    await api.deploy({"a": 1, "b": None}, version="v1")
    gone = await api.delete("b", reason="not used")
    assert gone["changes"] == [{"key": "b", "op": "delete", "old": None}]
    refused = await api.rollback("v1")
    assert refused.code == "override_pending"
    back = await api.rollback("v1", overrides="discard", reason="it was used")
    assert (back["release"], back["version"], back.changes) == (3, "v1", [("b", NOTHING, None)])


async def test_an_emergency_change_of_several_keys(api: Api) -> None:
    await api.deploy({"a": 1, "b": 1})
    refused = await api.change({"a": 2}, emergency="true")
    assert (refused.code, refused.json["parameter"]) == ("invalid_query", "reason")
    await api.change({"a": 2, "b": 2}, emergency="true", reason="night", ttl_s=3600)
    assert await api.kinds() == ["deploy", "emergency"]
    assert [one["key"] for one in (await api.drift())["overrides"]] == ["a", "b"]


# ---- rollback, promotion, freeze, repair -----------------------------------------------------------------------------


async def test_a_rollback_is_a_new_release_with_the_bytes_of_the_old_one(api: Api, store: Store) -> None:
    await api.deploy({"a": 1, "b": [1.0, "x"]}, version="v1", git_commit="abc")
    before = await store.entries()
    await api.deploy({"a": 2}, version="v2")
    for name in ("v1", "1", "@1"):
        planned = await api.rollback(name, dry_run="true")
        assert planned.changes == [("a", 2, 1), ("b", NOTHING, [1.0, "x"])]
    done = await api.rollback("@1")
    assert (done["release"], done["version"]) == (3, "v1")
    assert await store.entries() == before
    assert (await api.rollback("v1"))["unchanged"]
    for name in ("v9", "@99", "99"):
        assert (await api.rollback(name)).code == "release_not_found"
    assert (await api.rollback("@x")).code == "invalid_path"


async def test_bare_digits_are_a_label_first(api: Api) -> None:
    await api.deploy({"a": 1}, version="2")
    await api.deploy({"a": 2}, version="other")
    assert (await api.rollback("2", dry_run="true")).changes == [("a", 2, 1)]
    assert (await api.rollback("@2", dry_run="true"))["unchanged"]


async def test_a_label_comes_again_only_with_the_same_state(api: Api) -> None:
    await api.deploy({"a": 1}, version="v1")
    await api.deploy({"a": 2}, version="v2")
    refused = await api.deploy({"a": 3}, version="v1")
    assert (refused.status, refused.code, refused.json["release"]) == (409, "version_exists", 1)
    assert (await api.deploy({"a": 1}, version="v1"))["release"] == 3


async def test_a_frozen_scope_takes_what_is_urgent_and_no_deploy(api: Api) -> None:
    await api.deploy({"a": 1}, version="v1")
    await api.deploy({"a": 1, "b": 1}, env="staging")
    frozen = await api.ask("PUT", "/v1/freeze/{ns}/production", reason="v2 was bad", ttl_s=600)
    assert frozen["frozen"]["reason"] == "v2 was bad"
    assert (await api.drift())["frozen"] == frozen["frozen"]
    for refused in (await api.deploy({"a": 2}), await api.promote("staging")):
        assert (refused.status, refused.code, refused.json["reason"]) == (409, "scope_frozen", "v2 was bad")
    planned = await api.deploy({"a": 2}, dry_run="true")
    assert [one["code"] for one in planned["blocked"]] == ["scope_frozen"]
    assert (await api.deploy({"a": 2}, force="because")).code == "scope_frozen"
    assert (await api.emergency("a", 5)).status == 200
    assert (await api.rollback("v1", overrides="discard")).status == 200
    assert (await api.deploy({"a": 1, "b": 1}, env="other")).status == 200
    assert (await api.ask("DELETE", "/v1/freeze/{ns}/production"))["frozen"] is None
    assert (await api.deploy({"a": 2})).status == 200


async def test_a_freeze_ends_by_itself_and_needs_a_reason_and_an_end(api: Api) -> None:
    await api.deploy({"a": 1})
    for query, missing in (({"ttl_s": 5}, "reason"), ({"reason": "x"}, "ttl_s")):
        refused = await api.ask("PUT", "/v1/freeze/{ns}/production", **query)
        assert (refused.code, refused.json["parameter"]) == ("invalid_query", missing)
    await api.ask("PUT", "/v1/freeze/{ns}/production", reason="x", ttl_s=1)
    async with asyncio.timeout(20):
        while (await api.deploy({"a": 2})).status == 409:
            await asyncio.sleep(0.05)


async def test_repair_makes_a_release_of_what_is_there(api: Api, store: Store) -> None:
    await api.deploy({"a": 1})
    await store.hand("a", 2)
    assert [one["key"] for one in (await api.drift())["hand"]] == ["a"]
    done = await api.ask("POST", "/v1/repair/{ns}/production", reason="by hand")
    assert (done["release"], done["changes"]) == (2, [])
    assert (await api.drift())["hand"] == []
    assert await api.values(done) == {"a": 2}


async def test_repair_of_a_head_that_was_garbled(api: Api, store: Store) -> None:
    await api.deploy({"a": 1})
    await put(store.gateway, head_path(Scope(store.namespace, "production")), b"garbage")
    done = await api.ask("POST", "/v1/repair/{ns}/production")
    assert done["release"] == 2
    assert (await api.deploy({"a": 2}))["release"] == 3


async def test_what_was_deployed_is_promoted_and_own_keys_stay(api: Api, store: Store) -> None:
    await api.deploy({"url": "staging.local", "db.host": "s", "size": 5}, env="staging", version="v7")
    await api.deploy({"url": "live.local", "db.host": "p"})
    own = await api.ask("PUT", "/v1/own-keys/{ns}/production", ["url", "db.*", "url"])
    assert own["patterns"] == ["url", "db.*"]
    assert (await api.ask("GET", "/v1/own-keys/{ns}/production"))["patterns"] == ["url", "db.*"]
    done = await api.promote("staging", version="v7", approved_by="ann")
    assert done.changes == [("size", NOTHING, 5)]
    assert await api.values(done) == {"url": "live.local", "db.host": "p", "size": 5}
    shown = await api.ask("GET", "/v1/versions/{ns}/production/v7")
    assert (shown["kind"], shown["source"]) == ("promote", {"from": "staging", "release": "1", "approved_by": "ann"})


async def test_a_source_that_was_changed_since_is_doubted(api: Api, store: Store) -> None:
    await api.deploy({"a": 1}, env="staging")
    await api.deploy({"a": 0})
    await api.emergency("a", 2, env="staging")
    refused = await api.promote("staging")
    assert (refused.status, refused.code) == (422, "source_unfit")
    assert "changed since" in refused.json["problems"][0]
    done = await api.promote("staging", force="looked at it")
    assert done.changes == [("a", 0, 1)], "the override stays where it is"
    for query, status, code in (
        ({"from_": "production"}, 400, "invalid_query"),
        ({"from_": "nowhere"}, 404, "release_not_found"),
        ({"from_": "_x"}, 400, "invalid_query"),
        ({}, 400, "invalid_query"),
    ):
        answer = await api.ask("POST", "/v1/promote/{ns}/production", **query)
        assert (answer.status, answer.code) == (status, code)


async def test_an_own_key_that_the_target_lacks_stands_in_the_way(api: Api) -> None:
    await api.deploy({"url": "staging.local"}, env="staging")
    await api.deploy({"x": 1})
    await api.ask("PUT", "/v1/own-keys/{ns}/production", ["url"])
    refused = await api.promote("staging", force="still")
    assert (refused.code, refused.json["problems"]) == (
        "source_unfit",
        [f"url differs by environment and is not set in {api.namespace}/production; set it first"],
    )


async def test_a_source_has_to_be_live_for_a_set_time(any_etcd: LocalEtcd, namespace: str) -> None:
    async with service(any_etcd, namespace, promote_min_age_s=3600.0) as api:
        await api.deploy({"a": 1}, env="staging")
        refused = await api.promote("staging")
        assert (refused.code, "3600 are asked for" in refused.json["problems"][0]) == ("source_unfit", True)
        assert (await api.promote("staging", force="urgent")).status == 200


async def test_a_label_means_what_was_deployed_under_it(api: Api) -> None:
    """Deployed again in an incident, with its values kept: who goes back to that later does not want these."""
    await api.deploy({"a": 1, "b": 1}, version="v1")
    await api.emergency("a", 9, ttl_s=3600)
    await api.emergency("new", 9)
    kept = await api.deploy({"a": 1, "b": 2}, version="v2", overrides="keep")
    assert (await api.read(release="v2"))["values"] == {"a": 9, "b": 2, "new": 9}
    await api.deploy({"a": 1, "b": 3}, overrides="keep")
    back = await api.rollback("v2", overrides="discard")
    assert back.changes == [("a", 9, 1), ("b", 3, 2), ("new", 9, NOTHING)]
    assert any("what was deployed under them comes back: a, new" in text for text in back["warnings"])
    assert await api.values(back) == {"a": 1, "b": 2}
    assert (await api.drift())["overrides"] == []
    assert kept["release"] == 4


async def test_a_label_stays_where_nothing_changes(api: Api) -> None:
    await api.deploy({"a": 1}, version="v1")
    await api.emergency("t", 1)
    assert (await api.rollback("v1", overrides="keep"))["unchanged"] is True
    assert (await api.ask("GET", "/v1/versions/{ns}/production/v1"))["release"] == 1
    await api.deploy({"a": 1, "t": 1}, version="v2")
    await api.emergency("u", 1)
    await api.delete("u")
    again = await api.deploy({"a": 1, "t": 1}, version="v2")
    assert (again["release"], again["unchanged"]) == (5, True)
    assert (await api.ask("GET", "/v1/versions/{ns}/production/v2"))["release"] == 3


# ---- by hand in between ----------------------------------------------------------------------------------------------


async def test_what_was_put_by_hand_is_pending_like_an_emergency(api: Api, store: Store) -> None:
    await api.deploy({"a": 1, "b": 1})
    await store.hand("a", 9)
    await store.hand("b")
    drift = await api.drift()
    assert [(one["key"], one["op"]) for one in drift["hand"]] == [("a", "set"), ("b", "delete")]
    refused = await api.deploy({"a": 2, "b": 1})
    assert [one["key"] for one in refused.json["overrides"]] == ["a", "b"]
    kept = await api.deploy({"a": 2, "b": 1, "c": 1}, overrides="keep")
    assert await api.values(kept) == {"a": 9, "c": 1}
    done = await api.deploy({"a": 2, "b": 1, "c": 1}, overrides="discard")
    assert await api.values(done) == {"a": 2, "b": 1, "c": 1}


# ---- large releases --------------------------------------------------------------------------------------------------


async def test_a_large_release_is_never_seen_in_part(api: Api, other: Api) -> None:
    """5,000 keys and some of 1 MB: more than one transaction. Readers check that all keys are of one release."""
    names = list(numbered(5000))

    def state(number: int) -> dict[str, Any]:
        return dict.fromkeys(names, number) | {f"big{n}": f"{number}" + "x" * 1_000_000 for n in range(5)}

    await api.deploy(state(1))
    seen: set[int] = set()
    finished = asyncio.Event()

    async def reader(one: Api) -> None:
        while not finished.is_set():
            values = (await one.read())["values"]
            found = {value if isinstance(value, int) else int(value[0]) for value in values.values()}
            assert len(found) == 1, "a mixture"
            assert len(values) == 5005
            seen.update(found)

    readers = [asyncio.create_task(reader(one)) for one in (api, other)]
    done = await api.deploy(state(2), version="big")
    assert (done["release"], len(done["changes"])) == (2, 5005)
    await other.read(min_revision=f"{done['epoch']}:{done['revision']}")
    await until(lambda: 2 in seen)
    finished.set()
    await asyncio.gather(*readers)
    back = await api.rollback("@1")
    assert len(back["changes"]) == 5005
    assert (await api.drift())["hand"] == []


async def test_a_write_goes_on_when_its_sender_is_gone(api: Api, store: Store) -> None:
    await api.deploy(dict.fromkeys(numbered(2000), 1))
    before = await store.everything()
    body = json.dumps(dict.fromkeys(numbered(2000), 2)).encode()
    async with connect(api.url) as connection:
        head = f"POST /v1/deploy/{api.namespace}/production HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.send(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await connection.writer.drain()
        # Only what has begun goes on: something of the release is in etcd.
        async with asyncio.timeout(30):
            while await store.everything() == before:
                await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while set((await api.values()).values()) != {2}:
            await asyncio.sleep(0.05)
    assert await api.kinds() == ["deploy", "deploy"]


# ---- what is told of them --------------------------------------------------------------------------------------------


def count(text: str, kind: str, outcome: str) -> float:
    """Of the writes' counter."""
    line = f'configsvc_writes_total{{kind="{kind}",outcome="{outcome}"}} '
    return float(text.split(line)[1].split()[0]) if line in text else 0


async def test_writes_are_counted_and_logged(api: Api) -> None:
    key = {"Idempotency-Key": f"counted/{api.namespace}"}
    with capture_logs() as logs:
        sent = {"X-Request-Id": "mine"}
        await api.deploy({"a": "secret", "b": 1}, version="v1", headers=key | sent)
        await api.deploy({"a": "secret", "b": 1}, version="v1", headers=key)
        await api.deploy({"a": "secret", "b": 1}, dry_run="true")
        await api.deploy({"a": "secret", "b": 1})
        await api.emergency("a", 2, force="because")
        assert (await api.deploy({"a": "other"})).status == 409
        await api.ask("POST", "/v1/repair/{ns}/production")
    lines = [line for line in logs if line["event"] == "write"]
    assert [(line["kind"], line["release"], line["outcome"], line["changed"]) for line in lines] == [
        ("deploy", 1, "released", 2),
        (None, 1, "repeated", 2),
        ("deploy", 1, "unchanged", 0),
        ("emergency", 2, "released", 1),
        ("repair", 2, "unchanged", 0),
    ]
    assert (lines[0]["request_id"], lines[0]["by"], lines[0]["version"]) == ("mine", "anonymous", "v1")
    assert lines[0]["scope"] == f"{api.namespace}/production"
    assert [line["forced"] for line in lines] == [False, False, False, True, False]
    assert "secret" not in str(logs)
    text = (await api.ask("GET", "/metrics")).body.decode()
    assert count(text, "deploy", "released") == 1
    assert count(text, "none", "repeated") == 1
    assert count(text, "deploy", "unchanged") == 1
    assert count(text, "deploy", "refused") == 1
    assert count(text, "emergency", "released") == 1
    assert 'configsvc_write_seconds_count{kind="deploy"} 3.0' in text
    assert "configsvc_releases_pruned_total 0.0" in text
