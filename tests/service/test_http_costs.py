"""What a request may cost those who read meanwhile, and what is passed over in silence: nothing."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from configsvc.core import backup as file_format
from configsvc.core import documents
from configsvc.core.model import Scope, head_path, overrides_prefix, releases_prefix
from configsvc.errors import Unavailable
from configsvc.etcd.local import LocalEtcd
from configsvc.web import bodies
from configsvc.web.app import create_app
from configsvc.writes import promotion
from configsvc.writes.writer import Writer
from tests.service.test_http_bad_writes import Tokens, head
from tests.support.etcd import get, put, wipe
from tests.support.service import central, connect, make_hub, serving
from tests.support.writing import SHARED, Api, Store, numbered, service

GZIP, YAML = "application/gzip", "application/yaml"
LARGE = {name: f"value of {name}" for name in numbered(1000)}


class Held:
    """A function that stands still in its thread, as one that computes for long; its other callers go on."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.running = 0
        self.most = 0
        self._work = work
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread(), "on the loop"
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.begun.set()
        assert self.go_on.wait(60)
        with self._lock:
            self.running -= 1
        return self._work(*args, **kwargs)


async def reads_go_on(api: Api, held: Held, asked: Any) -> Any:
    """The answer to a request; while it is held, others are answered."""
    task = asyncio.ensure_future(asked)
    try:
        await asyncio.to_thread(held.begun.wait, 60)
        assert (await api.ask("GET", "/health/live")).status == 200
        assert not task.done()
    finally:
        held.go_on.set()
    return await task


# ---- off the loop ----------------------------------------------------------------------------------------------------


async def chunked(data: bytes) -> Any:
    """A body whose length nobody knows before its end."""
    for at in range(0, len(data), 10_000):
        yield data[at : at + 10_000]


@pytest.mark.parametrize("name", ["parse_json", "flatten"])
async def test_large_bodies_are_read_in_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data = json.dumps(LARGE).encode()
    for sent in (data, chunked(data)):
        held = Held(getattr(documents, name))
        with monkeypatch.context() as patch:
            patch.setattr(documents, name, held)
            url = f"{api.url}/v1/deploy/{api.namespace}/production?dry_run=true"
            headers = {"Content-Type": "application/json"}
            answer = await reads_go_on(api, held, api.session.post(url, data=sent, headers=headers))
        assert answer.status == 200, await answer.text()


async def test_yaml_of_any_size_is_read_in_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(documents.flatten)
    monkeypatch.setattr(documents, "flatten", held)
    answer = await reads_go_on(api, held, api.deploy(b"a: 1\n", media=YAML))
    assert answer.status == 200


async def test_large_bodies_are_read_one_at_a_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where their senders went away meanwhile: the thread goes on."""
    held = Held(documents.parse_json)
    monkeypatch.setattr(documents, "parse_json", held)
    gone = [asyncio.ensure_future(api.deploy(LARGE, env=f"gone{n}")) for n in range(4)]
    await asyncio.to_thread(held.begun.wait, 60)
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    staying = [asyncio.ensure_future(api.deploy(LARGE, env=f"stays{n}")) for n in range(3)]
    held.go_on.set()
    assert [(await task).status for task in staying] == [200, 200, 200]
    assert held.most == 1


async def test_backups_are_read_in_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.deploy({"a": 1})
    file = (await api.ask("POST", "/v1/backup", namespace=api.namespace)).body
    held = Held(file_format.read)
    monkeypatch.setattr(file_format, "read", held)
    answer = await reads_go_on(api, held, api.ask("POST", "/v1/restore", file, media=GZIP, dry_run="true"))
    assert answer.status == 200


async def test_many_patterns_are_matched_in_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.deploy(dict.fromkeys(numbered(20), 1), env="staging")
    await api.ask("PUT", "/v1/own-keys/{ns}/production", [f"*a*{n}" for n in range(100)])
    held = Held(promotion.promote)
    monkeypatch.setattr(promotion, "promote", held)
    assert (await reads_go_on(api, held, api.promote("staging"))).status == 200


async def test_differences_of_much_are_found_in_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from configsvc.web import history

    await api.deploy(LARGE)
    await api.deploy(dict.fromkeys(LARGE, 1))
    asked: dict[str, Any] = {
        "differences": lambda: api.ask("GET", "/v1/diff/{ns}/production", from_="@1"),
        "_values": lambda: api.read(release="@1"),
    }
    for name, ask in asked.items():
        held = Held(getattr(history, name))
        with monkeypatch.context() as patch:
            patch.setattr(history, name, held)
            assert (await reads_go_on(api, held, ask())).status == 200


# ---- who may cost what -----------------------------------------------------------------------------------------------


@SHARED
async def test_yaml_has_a_limit_of_its_own(deployed: Api) -> None:
    refused = await deployed.deploy(b"#" * (bodies.MAX_YAML_BYTES + 1), media=YAML)
    assert (refused.status, refused.json["limit"]) == (413, bodies.MAX_YAML_BYTES)
    assert "JSON may be larger" in refused.json["detail"]


async def test_a_large_body_of_somebody_who_may_not_send_it_is_not_read() -> None:
    settings = central()
    hub = make_hub(settings)
    async with serving(hub, settings, create_app(settings, hub, authenticator=Tokens())) as url:
        async with connect(url) as connection, aiohttp.ClientSession() as session:
            api = Api(session, url, "payments")
            length, token = "Content-Length: 10000000", "Authorization: Bearer reader"
            connection.send(head(api, length, token, "Expect: 100-continue"))
            assert (await connection.problem())["code"] == "forbidden"
        async with connect(url) as connection:
            connection.send(head(api, "Transfer-Encoding: chunked", token))
            assert (await connection.problem())["code"] == "forbidden"


async def test_more_bodies_at_once_than_there_is_room_for(any_etcd: LocalEtcd, namespace: str) -> None:
    async with service(any_etcd, namespace, max_body_bytes=100_000) as api, contextlib.AsyncExitStack() as stack:
        answers = []
        for _ in range(bodies.BODIES_AT_ONCE + 1):
            connection = await stack.enter_async_context(connect(api.url))
            connection.send(head(api, "Content-Length: 100000") + b"[" * 90_000)
            answers.append(asyncio.create_task(connection.problem()))
        done, waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert {(task.result()["status"], task.result()["code"]) for task in done} == {(503, "too_many_bodies")}
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await stack.aclose()
        async with asyncio.timeout(20):
            while (await api.deploy({"a": "x" * 90_000})).status != 200:
                await asyncio.sleep(0.05)


# ---- nothing is passed over ------------------------------------------------------------------------------------------


@SHARED
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Idempotency-Key", ("one", "two")),
        ("Idempotency-Key", ("same", "same")),
        ("If-Match", ('"0f9a3c52d1be:1042"', "*")),
        ("Content-Encoding", ("identity", "gzip")),
    ],
)
async def test_headers_that_are_given_twice(deployed: Api, name: str, values: tuple[str, str]) -> None:
    async with connect(deployed.url) as connection:
        connection.send(head(deployed, "Content-Length: 2", *(f"{name}: {value}" for value in values)) + b"{}")
        problem = await connection.problem()
        assert problem["code"] == ("unsupported_media_type" if name == "Content-Encoding" else "invalid_header")


@SHARED
async def test_a_backup_of_a_misspelt_namespace_is_not_one_of_everything(deployed: Api) -> None:
    queries: list[dict[str, Any]] = [{"ns": "x"}, {"namespce": "x"}]
    for query in queries:
        refused = await deployed.ask("POST", "/v1/backup", **query)
        assert (refused.status, refused.code) == (400, "invalid_query")


# ---- restores --------------------------------------------------------------------------------------------------------


async def save(api: Api) -> bytes:
    return (await api.ask("POST", "/v1/backup", namespace=api.namespace)).body


async def restore(api: Api, file: bytes, **query: Any) -> Any:
    return await api.ask("POST", "/v1/restore", file, media=GZIP, **query)


def packed(file: bytes, changes: dict[bytes, bytes]) -> bytes:
    """A backup with other records in it, and the checksum of those."""
    found = file_format.read(file, 10**8)
    writing = file_format.Writing(found.head)
    return writing.add((found.items | changes).items()) + writing.end()


async def emptied(api: Api, store: Store) -> None:
    for prefix in ("/config", "/configsvc/releases", "/configsvc/overrides"):
        await wipe(store.gateway, f"{prefix}/{api.namespace}/".encode())


async def test_records_that_do_not_read_come_back_as_they_are(api: Api, store: Store) -> None:
    scope = Scope(api.namespace, "production")
    await api.deploy({"a": 1}, version="v1")
    await api.emergency("a", 2)
    garbled = [overrides_prefix(scope) + b"a", *(releases_prefix(scope) + b"n/00000000000%d" % n for n in (1, 2))]
    for path in garbled:
        await put(store.gateway, path, b"{ garbage")
    file = await save(api)
    await emptied(api, store)
    planned = await restore(api, file, dry_run="true")
    done = await restore(api, file)
    assert (planned.status, done.status) == (200, 200)
    assert (await store.entries())["a"]
    assert (await get(store.gateway, garbled[1])).kvs[0].value == b"{ garbage"


async def test_a_dry_run_says_the_number_that_a_restore_gets(api: Api, store: Store) -> None:
    for number in range(3):
        await api.deploy({"a": number})
    file = await save(api)
    for before in ("as it was", "with a release more", "emptied"):
        if before == "emptied":
            await emptied(api, store)
        elif before != "as it was":
            await api.deploy({"a": 9})
        planned, done = await restore(api, file, dry_run="true"), await restore(api, file)
        assert planned["scopes"] == done["scopes"]


async def test_one_scope_that_is_in_the_way_and_none_is_restored(api: Api, store: Store) -> None:
    await api.deploy({"a": 1}, env="first")
    await api.deploy(dict.fromkeys(numbered(2), 1), env="second")
    file = await save(api)
    await api.deploy({"a": 2}, env="first")
    await api.deploy(dict.fromkeys(numbered(50), 1), env="second", force="x")
    before = await store.everything()
    refused = await restore(api, file)
    assert (refused.status, refused.code) == (422, "blast_radius")
    assert await store.everything() == before


async def test_a_value_that_etcd_would_not_take_and_none_is_restored(api: Api, store: Store) -> None:
    await api.deploy({"a": 1}, env="first")
    await api.deploy({"a": 1}, env="second")
    file = await save(api)
    await api.deploy({"a": 2}, env="first")
    large = packed(file, {store.path("large", "second"): b'{"value": "' + b"x" * 3_000_000 + b'"}'})
    before = await store.everything()
    for dry_run in ("true", "false"):
        refused = await restore(api, large, force="x", dry_run=dry_run)
        assert (refused.status, refused.code) == (400, "invalid_body")
        assert "/second/large" in refused.json["detail"]
    assert await store.everything() == before


async def test_a_restore_that_breaks_off_says_what_was_restored(
    api: Api, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for env in ("first", "second", "third"):
        await api.deploy({"a": 1}, env=env)
    file = await save(api)
    for env in ("first", "second", "third"):
        await api.deploy({"a": 2}, env=env)
    write = Writer.write

    async def breaks(self: Writer, scope: Scope, *args: Any, **more: Any) -> Any:
        if scope.environment == "third" and not more["dry_run"]:
            raise Unavailable("etcd does not answer; nothing was changed", code="store_unavailable")
        return await write(self, scope, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", breaks)
        refused = await restore(api, file)
    restored = [f"{api.namespace}/{env}" for env in ("first", "second")]
    assert (refused.status, refused.json["restored"]) == (503, restored)
    assert f"Restored before it: {', '.join(restored)}; send it again" in refused.json["detail"]
    done = await restore(api, file)
    assert [one["unchanged"] for one in done["scopes"]] == [True, True, False]


async def test_a_backup_that_somebody_has_made(api: Api, store: Store) -> None:
    """With a checksum that fits. Nothing is written but records of its scopes."""
    scope = Scope(api.namespace, "production")
    await api.deploy({"a": 1})
    file = await save(api)
    await api.deploy({"a": 2})
    before = await store.everything()
    large = packed(file, {releases_prefix(scope) + b"n/000000000009": b"x" * 3_000_000})
    refused = await restore(api, large)
    assert (refused.status, refused.code) == (400, "invalid_body")
    assert "n/000000000009" in refused.json["detail"]
    assert await store.everything() == before
    await emptied(api, store)
    odd = {
        b"/config/../x/production/a": b'{"value": 1}',
        f"/config/{api.namespace}/production/..".encode(): b'{"value": 1}',
        f"/config/{api.namespace}/production/_meta/more".encode(): b"1",
        releases_prefix(scope) + b"w/somebody": b"alive for ever",
        releases_prefix(scope) + b"janitor": b"1",
        b"/configsvc/janitor": b"1",
        b"/configsvc/idempotency/x": b"1",
        head_path(scope): b"\xff",
    }
    assert (await restore(api, packed(file, odd))).status == 200
    for key in odd.keys() - {head_path(scope)}:
        assert not (await get(store.gateway, key)).kvs or key == b"/configsvc/janitor"
    assert await api.values(await api.change({"b": 1})) == {"a": 1, "b": 1}


# ---- the log ---------------------------------------------------------------------------------------------------------


async def test_every_write_has_a_line(any_etcd: LocalEtcd, namespace: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with service(any_etcd, namespace) as api:
        await api.deploy({"a": "a value"})
        file = await save(api)
        await api.ask("PUT", "/v1/freeze/{ns}/production", reason="why", ttl_s=5)
        await api.ask("DELETE", "/v1/freeze/{ns}/production")
        await api.ask("PUT", "/v1/own-keys/{ns}/production", ["a"])
        await api.ask("POST", "/v1/repair/{ns}/production")
        await restore(api, file)
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if " write " in line and namespace in line]
    kinds = ["deploy", "freeze", "unfreeze", "own-keys", "repair", "restore"]
    assert [next(kind for kind in kinds if f"kind={kind} " in line) for line in lines] == kinds
    assert "a value" not in said.out + said.err
