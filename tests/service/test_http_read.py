"""Reads over HTTP: bodies, entity tags, conditions, compression, freshness, and waiting for a revision."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import pytest

from configsvc.core.model import Scope
from configsvc.core.replica import Record
from configsvc.hub import Hub
from configsvc.web import messages
from tests.support.service import (
    SCOPE,
    ask,
    ask_problem,
    central,
    change,
    fill,
    head,
    make_hub,
    make_settings,
    schema,
    serving,
    stored,
)

PATH = "/v1/config/payments/production"


@pytest.fixture
def hub() -> Hub:
    hub = make_hub(make_settings())
    fill(
        hub,
        10,
        stored("database.pool_size", 20, 5, version="v1", metadata={"created_by": "ops"}),
        stored("name", "café", 6),
        stored("nothing", None, 7),
        schema(8, {"limit": {"type": "integer", "default": 5}}),
        head(9, 3, "v1.2.3"),
    )
    return hub


@pytest.fixture
async def url(hub: Hub) -> AsyncIterator[str]:
    async with serving(hub) as url:
        yield url


def epoch(hub: Hub) -> str:
    return hub.replica.epoch("payments")


async def test_a_scope_is_its_values_with_defaults(url: str, hub: Hub) -> None:
    status, headers, body = await ask(url, PATH)
    found = msgspec.json.decode(body, type=messages.ScopeValues)
    assert status == 200
    assert found == messages.ScopeValues(
        namespace="payments",
        environment="production",
        epoch=epoch(hub),
        revision=10,
        release=3,
        version="v1.2.3",
        values={"database.pool_size": 20, "name": "café", "nothing": None, "limit": 5},
    )
    assert headers["content-type"] == "application/json"
    assert headers["etag"] == f'"{epoch(hub)}:10"'
    assert headers["cache-control"] == "private, no-cache"
    assert headers["vary"] == "Accept-Encoding"
    assert headers["configsvc-revision"] == "10"
    assert headers["configsvc-staleness"] == "0"
    assert headers["configsvc-source"] == "live"
    assert "x-request-id" not in headers


async def test_entries_tell_where_each_value_comes_from(url: str) -> None:
    _, _, body = await ask(url, f"{PATH}?view=entries")
    entries = msgspec.json.decode(body, type=messages.ScopeEntries).entries
    assert entries["database.pool_size"] == messages.ScopeEntry(
        value=20, version="v1", source="stored", revision=5, metadata={"created_by": "ops"}
    )
    assert entries["limit"].source == "schema"
    assert entries["limit"].revision == 8


async def test_a_key_is_its_entry(url: str, hub: Hub) -> None:
    status, headers, body = await ask(url, f"{PATH}/name")
    assert status == 200
    assert msgspec.json.decode(body, type=messages.KeyEntry) == messages.KeyEntry(
        key="name", value="café", version=None, source="stored", revision=6, metadata=None
    )
    assert headers["etag"] == f'"{epoch(hub)}:10"'


@pytest.mark.parametrize(
    ("key", "raw"), [("name", '"café"'), ("nothing", "null"), ("limit", "5"), ("database.pool_size", "20")]
)
async def test_raw_is_the_bare_value(url: str, key: str, raw: str) -> None:
    status, headers, body = await ask(url, f"{PATH}/{key}?raw=true")
    assert (status, body.decode(), headers["content-type"]) == (200, raw, "application/json")


async def test_a_key_is_percent_decoded_exactly_once(hub: Hub, url: str) -> None:
    change(hub, stored("a%41 b+c", 1, 11), stored("ключ", 2, 11))
    for target, value in (("a%2541%20b+c", b"1"), ("%D0%BA%D0%BB%D1%8E%D1%87", b"2")):
        status, _, body = await ask(url, f"{PATH}/{target}?raw=true")
        assert (status, body) == (200, value), target


@pytest.mark.parametrize("target", ["", "/name", "/name?raw=true", "?view=entries"])
async def test_head_says_what_get_would(url: str, target: str) -> None:
    status, headers, body = await ask(url, PATH + target)
    head_status, head_headers, nothing = await ask(url, PATH + target, method="HEAD")
    assert (head_status, nothing) == (status, b"")
    assert int(head_headers["content-length"]) == len(body)
    assert {k: v for k, v in head_headers.items() if k != "date"} == {k: v for k, v in headers.items() if k != "date"}


# ---- conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"{etag}"', 304),
        ('W/"{etag}"', 304),
        ('"a", W/"{etag}"', 304),
        ('"a","{etag}","b"', 304),
        ("*", 304),
        ('"{etag}x"', 200),
        ('"other"', 200),
        ("{etag}", 200),
        ('"unclosed', 200),
        ("", 200),
    ],
)
@pytest.mark.parametrize("target", ["", "/name", "?view=entries"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_if_none_match(url: str, hub: Hub, condition: str, status: int, target: str, method: str) -> None:
    header = f"If-None-Match: {condition.format(etag=f'{epoch(hub)}:10')}"
    got, headers, body = await ask(url, PATH + target, header, method=method)
    assert got == status
    assert headers["etag"] == f'"{epoch(hub)}:10"'
    assert headers["configsvc-revision"] == "10"
    if status == 304:
        assert body == b""
        assert headers["vary"] == "Accept-Encoding"
        assert headers["cache-control"] == "private, no-cache"


async def test_a_list_may_come_in_several_headers(url: str, hub: Hub) -> None:
    status, _, _ = await ask(url, PATH, 'If-None-Match: "x"', f'If-None-Match: "{epoch(hub)}:10"')
    assert status == 304


async def test_the_tag_moves_with_the_scope_and_not_with_etcd(url: str, hub: Hub) -> None:
    hub.prove(15)
    _, headers, _ = await ask(url, PATH)
    assert headers["etag"] == f'"{epoch(hub)}:10"'
    assert headers["configsvc-revision"] == "15"
    change(hub, stored("name", "tea", 16))
    _, headers, body = await ask(url, PATH)
    assert headers["etag"] == f'"{epoch(hub)}:16"'
    assert json.loads(body)["revision"] == 16


async def test_an_unreadable_entry_keeps_its_value_and_marks_the_tag(url: str, hub: Hub) -> None:
    broken = msgspec.structs.replace(stored("name", 1, 11), value=b"not json")
    change(hub, broken)
    _, headers, body = await ask(url, PATH)
    assert json.loads(body)["values"]["name"] == "café"
    plain, _, digest = headers["etag"].strip('"').rpartition("-")
    assert plain.startswith(epoch(hub))
    assert len(digest) == 8
    status, _, _ = await ask(url, PATH, f"If-None-Match: {headers['etag']}")
    assert status == 304


# ---- compression -----------------------------------------------------------------------------------------------------


async def test_a_large_body_is_compressed_for_those_who_take_it(url: str, hub: Hub) -> None:
    change(hub, stored("text", "lorem ipsum " * 500, 11))
    _, headers, plain = await ask(url, PATH)
    assert "content-encoding" not in headers
    _, headers, packed = await ask(url, PATH, "Accept-Encoding: br, gzip;q=0.5")
    assert headers["content-encoding"] == "gzip"
    assert headers["etag"] == f'W/"{epoch(hub)}:11"'
    assert len(packed) < len(plain) // 5
    assert gzip.decompress(packed) == plain
    _, again, stored_bytes = await ask(url, PATH, "Accept-Encoding: *")
    assert (again["content-encoding"], stored_bytes) == ("gzip", packed)
    status, headers, _ = await ask(url, PATH, "Accept-Encoding: gzip", f'If-None-Match: W/"{epoch(hub)}:11"')
    assert (status, headers["etag"]) == (304, f'W/"{epoch(hub)}:11"')


@pytest.mark.parametrize("accept", ["gzip;q=0", "identity", "", "br", "*;q=0", "gzip;q=0, *"])
async def test_it_is_not_for_those_who_do_not(url: str, hub: Hub, accept: str) -> None:
    change(hub, stored("text", "lorem ipsum " * 500, 11))
    _, headers, _ = await ask(url, PATH, f"Accept-Encoding: {accept}")
    assert "content-encoding" not in headers
    assert headers["etag"] == f'"{epoch(hub)}:11"'


async def test_a_small_body_is_never_compressed(url: str) -> None:
    _, headers, _ = await ask(url, f"{PATH}/name", "Accept-Encoding: gzip")
    assert "content-encoding" not in headers


async def test_a_body_that_grows_by_compression_is_sent_plain(url: str, hub: Hub) -> None:
    noise = "".join(chr(0x4E00 + (i * 7919 + i * i * 104729) % 20000) for i in range(700))
    change(hub, stored("noise", noise, 11))
    _, headers, body = await ask(url, f"{PATH}/noise?raw=true", "Accept-Encoding: gzip")
    if "content-encoding" in headers:
        assert len(body) < len(noise.encode())
    else:
        assert json.loads(body) == noise


# ---- waiting for a revision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["10", "0", "{epoch}:10"])
async def test_a_revision_that_was_reached_is_answered_at_once(url: str, hub: Hub, form: str) -> None:
    status, _, _ = await ask(url, f"{PATH}?min_revision={form.format(epoch=epoch(hub))}&wait_s=0")
    assert status == 200


async def test_a_read_waits_for_the_revision(url: str, hub: Hub) -> None:
    reading = asyncio.create_task(ask(url, f"{PATH}/name?min_revision=11&wait_s=20&raw=true"))
    await asyncio.sleep(0.05)
    assert not reading.done()
    change(hub, stored("name", "tea", 11))
    status, headers, body = await reading
    assert (status, body, headers["configsvc-revision"]) == (200, b'"tea"', "11")


async def test_a_revision_that_does_not_come_is_a_503(url: str) -> None:
    problem = await ask_problem(url, f"{PATH}?min_revision=99999999999999999999&wait_s=0".replace("9" * 20, "9" * 19))
    assert (problem["status"], problem["code"], problem["revision"]) == (503, "revision_not_reached", 10)
    status, headers, _ = await ask(url, f"{PATH}?min_revision=11&wait_s=0.01")
    assert (status, headers["retry-after"]) == (503, "1")


async def test_a_revision_of_another_epoch_is_a_409(url: str, hub: Hub) -> None:
    problem = await ask_problem(url, f"{PATH}?min_revision=000000000000:5&wait_s=20")
    assert (problem["status"], problem["code"], problem["epoch"]) == (409, "epoch_changed", epoch(hub))


# ---- what is not there -----------------------------------------------------------------------------------------------


async def test_a_scope_that_is_not_there_names_near_ones(url: str) -> None:
    problem = await ask_problem(url, "/v1/config/payments/prodution")
    assert (problem["status"], problem["code"]) == (404, "scope_not_found")
    assert problem["near"] == ["payments/production"]
    assert "payments/production" in problem["detail"]


async def test_a_scope_that_is_not_there_says_what_its_stream_would_begin_with() -> None:
    settings = make_settings()
    hub = make_hub(settings)
    fill(hub, 10, stored("a", 1, 5), schema(6, {"pool": {"type": "integer", "default": 5}}))
    async with serving(hub, settings) as url:
        problem = await ask_problem(url, "/v1/config/payments/qa")
        with hub.subscribe(Scope("payments", "qa"), None) as reader:
            streamed = json.loads(reader.pull()[0].data)
    assert (problem["epoch"], problem["entries"]) == (streamed["epoch"], streamed["entries"])
    assert problem["entries"]["pool"]["value"] == 5


async def test_a_key_that_is_not_there_names_near_ones(url: str) -> None:
    problem = await ask_problem(url, f"{PATH}/database.poolsize")
    assert (problem["status"], problem["code"]) == (404, "key_not_found")
    assert problem["near"] == ["database.pool_size"]
    far = await ask_problem(url, f"{PATH}/zzzzzzzz")
    assert far["near"] == []


async def test_a_scope_like_no_other_names_the_few_that_there_are(url: str) -> None:
    problem = await ask_problem(url, "/v1/config/payments/qa")
    assert (problem["status"], problem["near"]) == (404, [])
    assert "there is payments/production" in problem["detail"]


async def test_a_key_that_was_never_readable_is_told_from_one_that_is_not_stored() -> None:
    settings = make_settings()
    hub = make_hub(settings)
    garbage = Record(
        key=b"/config/payments/production/new.key", value=b"secret garbage", mod_revision=6, create_revision=6
    )
    fill(hub, 10, stored("a", 1, 5), garbage)
    async with serving(hub, settings) as url:
        problem = await ask_problem(url, f"{PATH}/new.key")
    assert (problem["status"], problem["code"]) == (404, "key_not_found")
    assert "cannot be read: not JSON" in problem["detail"]
    assert "secret" not in str(problem)


async def test_a_sidecar_answers_for_its_own_namespace_only(url: str) -> None:
    for target in ("/v1/config/orders/production", "/v1/config/orders/production/key", "/v1/watch/orders/production"):
        problem = await ask_problem(url, target)
        assert (problem["status"], problem["code"]) == (403, "outside_sidecar")


async def test_a_sidecar_of_one_environment_answers_for_that_only() -> None:
    settings = make_settings(environment="production")
    hub = make_hub(settings)
    fill(hub, 10, stored("a", 1, 5), stored("a", 2, 6, Scope("payments", "staging")))
    async with serving(hub, settings) as url:
        status, _, _ = await ask(url, PATH)
        assert status == 200
        problem = await ask_problem(url, "/v1/config/payments/staging")
        assert problem["code"] == "outside_sidecar"


async def test_a_central_service_answers_for_all() -> None:
    settings = central()
    hub = make_hub(settings)
    fill(hub, 10, stored("a", 1, 5), stored("a", 2, 6, Scope("orders", "staging")))
    async with serving(hub, settings) as url:
        for scope in ("payments/production", "orders/staging"):
            status, _, _ = await ask(url, f"/v1/config/{scope}")
            assert status == 200
        problem = await ask_problem(url, "/v1/config/order/staging")
        assert problem["near"] == ["orders/staging"]


# ---- freshness -------------------------------------------------------------------------------------------------------


async def test_before_the_first_listing_nothing_is_said() -> None:
    hub = make_hub(make_settings())
    async with serving(hub) as url:
        status, headers, body = await ask(url, PATH)
        assert (status, json.loads(body)["code"], headers["retry-after"]) == (503, "starting", "1")
        reading = asyncio.create_task(ask(url, f"{PATH}?min_revision=1&wait_s=20"))
        await asyncio.sleep(0.05)
        fill(hub, 10, stored("a", 1, 5))
        assert (await reading)[0] == 200


async def test_old_data_says_how_old_it_is() -> None:
    at = [1000.0]
    hub = make_hub(make_settings(), clock=lambda: at[0])
    fill(hub, 10, stored("a", 1, 5))
    async with serving(hub) as url:
        at[0] += 60
        status, headers, _ = await ask(url, PATH)
        assert (status, headers["configsvc-source"]) == (200, "memory")
        assert float(headers["configsvc-staleness"]) == pytest.approx(60)


async def test_data_from_disk_says_so() -> None:
    hub = make_hub(make_settings())
    other = make_hub(make_settings())
    fill(other, 10, stored("a", 1, 5))
    written = datetime.now(UTC) - timedelta(hours=1)
    update = hub.replica.remember(other.feeds[SCOPE].snapshot, 10, None)
    hub.remember([(update, written)])
    async with serving(hub) as url:
        status, headers, _ = await ask(url, PATH)
        assert (status, headers["configsvc-source"], headers["configsvc-revision"]) == (200, "disk", "10")
        assert 3590 < float(headers["configsvc-staleness"]) < 3700


# ---- request ids -----------------------------------------------------------------------------------------------------


async def test_request_ids(url: str) -> None:
    _, headers, _ = await ask(url, PATH, "X-Request-Id: abc-123")
    assert headers["x-request-id"] == "abc-123"
    problem = await ask_problem(url, f"{PATH}/zz", "X-Request-Id: abc-123")
    assert problem["request_id"] == "abc-123"
    for insane in ("a b", "x" * 129, "é", '"'):
        _, headers, _ = await ask(url, PATH, f"X-Request-Id: {insane}")
        assert "x-request-id" not in headers
        problem = await ask_problem(url, f"{PATH}/zz", f"X-Request-Id: {insane}")
        assert problem["request_id"] != insane


async def test_every_read_in_flight_shows_one_state(hub: Hub, url: str) -> None:
    """No torn read: whatever the timing, a body is as some revision left it."""
    revision = 10

    async def write() -> None:
        nonlocal revision
        for _ in range(50):
            revision += 1
            change(hub, *(stored(f"k{i}", revision, revision) for i in range(20)))
            await asyncio.sleep(0)

    async def read(session: aiohttp.ClientSession) -> None:
        for _ in range(30):
            async with session.get(url + PATH) as response:
                body: dict[str, Any] = await response.json()
            seen = {body["values"][f"k{i}"] for i in range(20) if f"k{i}" in body["values"]}
            assert seen in ({body["revision"]}, set())

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(write(), *(read(session) for _ in range(4)))
