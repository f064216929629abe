"""The client where streams do not get through: it asks, goes on asking, and goes back to the stream when that works."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from configsvc_client import AsyncConfigClient, Backoff, Tuning
from tests.client.support import (
    CUT,
    EPOCH,
    HOLD,
    OTHER_EPOCH,
    PATIENT,
    SCOPE,
    Beat,
    Handler,
    Script,
    Service,
    Wait,
    answer,
    change,
    eventually,
    never,
    snapshot,
    state,
    status,
)

BEAT_S = 0.2
QUICK = Backoff(base_s=0.01, cap_s=0.05)
TUNING = Tuning(
    backoff=QUICK,
    slow_backoff=QUICK,
    connect_timeout_s=2 * BEAT_S,
    believe_after_s=1000,
    first_poll_after_s=0.05,
    stream_retry=Backoff(base_s=0.5, cap_s=0.5),
)


@asynccontextmanager
async def client_of(*services: Service, **more: Any) -> AsyncIterator[AsyncConfigClient]:
    arguments: dict[str, Any] = {"tuning": TUNING, "heartbeat_s": BEAT_S, **PATIENT, **SCOPE, **more}
    async with AsyncConfigClient([one.url for one in services], **arguments) as client:
        yield client


def transport(client: AsyncConfigClient) -> str:
    return client._state.session.transport


async def gathered(_: web.Request) -> web.StreamResponse:
    """What a proxy makes of a stream that it gathers for a while and then gives up."""
    await asyncio.sleep(10 * BEAT_S)
    return web.Response(status=504)


# ---- streams that do not get through ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [never, gathered, [HOLD], [b": open\n\n", HOLD]])
async def test_first_values_and_changes_arrive_by_polls(stream: Script) -> None:
    service = Service(stream)
    service.state = state({"a": 1}, 5, proved=8)
    async with service.run(), client_of(service) as client:
        assert await client.get("a") == 1
        assert (client.status.state, client.status.source, client.status.revision) == ("live", "live", 8)
        seen: list[Any] = []
        client.on_change(lambda one: seen.append((one.key, one.new)))
        await eventually(lambda: transport(client) == "polling")
        service.state = state({"a": 2, "b": 3}, 9)
        await eventually(lambda: client.status.revision == 9)
        await eventually(lambda: len(seen) == 2)
        polls = len(service.polls)
        await eventually(lambda: len(service.polls) > polls + 2)
        assert sorted(seen) == [("a", 2), ("b", 3)]
        assert await client.get_all() == {"a": 2, "b": 3}
        assert client.status.state == "live"


async def test_a_large_snapshot_that_gets_through_alone_is_no_stream() -> None:
    service = Service([snapshot({"a": 1}, 5), HOLD])
    service.state = state({"a": 1}, 5)
    async with service.run(), client_of(service) as client:
        await eventually(lambda: transport(client) == "polling")
        # The third stream brings the same, and is none either.
        await eventually(lambda: len(service.watches) > 3)
        assert transport(client) == "polling"
        assert service.last_ids[:2] == [None, f"{EPOCH}:5"]


async def test_bunches_of_late_heartbeats_are_no_stream() -> None:
    bunches = Beat(status(5) * 4, 1.5 * BEAT_S)
    service = Service([HOLD], [HOLD], [snapshot({"a": 1}, 5), bunches])
    service.state = state({"a": 1}, 5)
    tuning = Tuning(backoff=QUICK, first_poll_after_s=0.05, stream_retry=Backoff(base_s=0.2, cap_s=0.2))
    async with service.run(), client_of(service, tuning=tuning) as client:
        await eventually(lambda: len(service.watches) >= 3)
        polls = len(service.polls)
        await eventually(lambda: len(service.polls) > polls + 6)
        assert transport(client) == "polling"


async def test_the_stream_is_taken_back_after_heartbeats_in_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "configsvc_client")
    service = Service([HOLD], [HOLD], [change(6, {"a": 2}), Beat(status(7), BEAT_S)])
    service.state = state({"a": 1}, 5)
    async with service.run(), client_of(service) as client:
        await eventually(lambda: transport(client) == "polling")
        seen: list[Any] = []
        client.on_change(lambda one: seen.append(one.new))
        service.state = state({"a": 2}, 6, proved=7)
        await eventually(lambda: transport(client) == "stream")
        await eventually(lambda: seen)
        assert seen == [2]
        assert client.status.state == "live"
    said = [(one.levelname, one.getMessage()) for one in caplog.records if "get through" in one.getMessage()]
    assert [level for level, _ in said] == ["WARNING", "INFO"]
    assert "proxy_buffering off" in said[0][1]


async def test_one_dead_connection_is_replaced_by_a_stream_not_by_polls() -> None:
    service = Service([snapshot({"a": 1}, 5), HOLD], [change(6, {"a": 2}), Beat(status(6), BEAT_S / 2)])
    service.state = state({"a": 1}, 5)
    async with service.run(), client_of(service) as client:
        await eventually(lambda: client.status.revision == 6)
        assert transport(client) == "stream"
        assert service.last_ids == [None, f"{EPOCH}:5"]


async def test_polls_are_no_more_often_than_heartbeats_and_say_what_is_held() -> None:
    service = Service(never)
    service.state = state({"a": 1}, 5)
    async with service.run(), client_of(service) as client:
        await eventually(lambda: transport(client) == "polling")
        await eventually(lambda: len(service.polls) >= 8)
        # Each may have been held up on its way; all of them together are not.
        assert service.polled_at[7] - service.polled_at[0] >= 6.5 * BEAT_S
        assert [one.get("If-None-Match") for one in service.polls] == [
            None,
            *[f'"{EPOCH}:5"'] * (len(service.polls) - 1),
        ]
        assert client.status.state == "live"


async def test_an_unreadable_entry_adds_to_the_tag_which_is_sent_back_as_it_is() -> None:
    async def tagged(request: web.Request) -> web.StreamResponse:
        response = await state({"a": 1}, 5)(request)
        response.headers["ETag"] = f'"{EPOCH}:5-0a0b0c0d"'
        return response

    service = Service(never)
    service.state = tagged
    async with service.run(), client_of(service):
        await eventually(lambda: len(service.polls) >= 2)
        assert service.polls[1]["If-None-Match"] == f'"{EPOCH}:5-0a0b0c0d"'


# ---- services that do not answer either ------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ['"a\x01b"', "no quotes", '"\u00e9"', '"' + "x" * 4000 + '"'])
async def test_a_tag_that_is_none_is_not_sent_back(tag: str) -> None:
    tagged = state({"a": 1}, 5)

    async def odd(request: web.Request) -> web.StreamResponse:
        response = await tagged(request)
        if response.status == 200:
            # Under aiohttp's own check of what it sends.
            response.headers["ETag"] = "TAG"
            body = response.body  # type: ignore[attr-defined]
            head = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
            text = f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            assert request.transport is not None
            request.transport.write(text.replace("TAG", tag).encode() + body)
            request.transport.close()
        return response

    service = Service(never)
    service.state = odd
    async with service.run(), client_of(service) as client:
        assert await client.get("a") == 1
        await eventually(lambda: len(service.polls) >= 3)
        assert client.status.state == "live"
        assert {headers.get("If-None-Match") for headers in service.polls[1:]} == {f'"{EPOCH}:5"'}


async def test_a_frozen_service_is_left_for_the_next_one() -> None:
    frozen = Service([snapshot({"a": 1}, 5), HOLD], never)
    frozen.state = never
    other = Service([change(6, {"a": 2}), Beat(status(6), BEAT_S / 2)])
    async with frozen.run(), other.run(), client_of(frozen, other) as client:
        await eventually(lambda: client.status.revision == 6)
        assert (client.status.url, transport(client)) == (other.url, "stream")
        assert len(frozen.watches) == 1


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (answer(503), "HTTP 503"),
        (answer(403, body={"detail": "not yours"}), "HTTP 403: not yours"),
        (answer(404), "HTTP 404"),
        (answer(429, headers={"Retry-After": "0"}), "HTTP 429"),
        (answer(302, headers={"Location": "/elsewhere"}), "redirect"),
        (answer(200, body={}), "not application/json"),
        (never, "no answer"),
        (state({"a": 0}, 4), "behind"),
    ],
)
async def test_polls_that_fail_send_the_client_on(bad: Handler, told: str) -> None:
    first, second = Service(never), Service(never)
    first.state = second.state = state({"a": 1}, 5)
    async with first.run(), second.run(), client_of(first, second) as client:
        await eventually(lambda: transport(client) == "polling" and client.status.url == first.url)
        first.state = bad
        await eventually(lambda: told in (client.status.last_error or "") or client.status.url == second.url)
        await eventually(lambda: client.status.url == second.url)
        second.state = state({"a": 2}, 6)
        await eventually(lambda: client.status.revision == 6)
        assert await client.get("a") == 2


async def test_a_service_that_comes_back_is_polled_again_without_waiting_for_a_stream() -> None:
    service = Service(never)
    service.state = state({"a": 1}, 5)
    async with service.run(), client_of(service) as client:
        await eventually(lambda: transport(client) == "polling")
        service.state = answer(502)
        await eventually(lambda: "502" in (client.status.last_error or ""))
        service.state = state({"a": 2}, 6)
        await eventually(lambda: client.status.revision == 6)
        assert transport(client) == "polling"


# ---- what is believed ------------------------------------------------------------------------------------------------


def absent(**more: Any) -> Handler:
    body = {"code": "scope_not_found", "detail": "nothing", "epoch": EPOCH, **more}
    return answer(404, headers={"Configsvc-Revision": "7", "Configsvc-Source": "live"}, body=body)


async def test_a_scope_that_does_not_exist_is_empty() -> None:
    service = Service(never)
    service.state = absent()
    async with service.run(), client_of(service) as client:
        assert await client.get("a", default=3) == 3
        assert (client.status.state, client.status.revision) == ("live", 7)
        service.state = absent(entries={"a": {"value": 4, "source": "schema"}})
        await eventually(lambda: transport(client) == "polling")
        await eventually(lambda: client._state.read("a", None) == 4)


@pytest.mark.parametrize(
    "bad",
    [
        absent(code="route_not_found"),
        absent(epoch="x"),
        absent(epoch=None),
        answer(404, body={"code": "scope_not_found", "epoch": EPOCH}),
        state({"a": 0}, 5, epoch="x"),
        state({"a": 0}, 5, proved=4),
    ],
)
async def test_what_is_no_state_is_not_taken(bad: Handler) -> None:
    service = Service(never)
    service.state = bad
    async with service.run(), client_of(service) as client:
        await eventually(lambda: len(service.polls) >= 2)
        assert (client.status.revision, client.status.state) == (None, "connecting")
        service.state = state({"a": 1}, 5)
        assert await client.get("a") == 1


async def test_an_answer_from_memory_is_a_state_and_no_proof() -> None:
    service = Service(never)
    service.state = state({"a": 1}, 5, source="memory", staleness="30.5")
    async with service.run(), client_of(service) as client:
        assert await client.get("a") == 1
        seen = client.status
        assert (seen.state, seen.source, seen.service_state) == ("stale", "memory", "stale")
        assert seen.age_s is not None
        assert seen.age_s >= 30.5


async def test_a_service_that_is_stale_is_left_for_one_that_is_live() -> None:
    stale, live = Service(never), Service(never)
    stale.state, live.state = state({"a": 1}, 5), state({"a": 2}, 6)
    async with stale.run(), live.run(), client_of(stale, live) as client:
        await eventually(lambda: transport(client) == "polling")
        stale.state = state({"a": 1}, 5, source="memory", staleness="3")
        await eventually(lambda: client.status.revision == 6)
        assert client.status.url == live.url


async def test_a_new_history_is_taken_and_one_that_was_left_is_not() -> None:
    service = Service(never)
    service.state = state({"a": 1}, 500)
    async with service.run(), client_of(service) as client:
        assert await client.get("a") == 1
        service.state = state({"a": 2}, 3, epoch=OTHER_EPOCH)
        await eventually(lambda: client.status.revision == 3)
        service.state = state({"a": 1}, 501)
        await eventually(lambda: "left" in (client.status.last_error or ""))
        assert await client.get("a") == 2


async def test_a_stream_that_comes_after_its_poll_does_not_step_back() -> None:
    late = Wait()
    service = Service([late, snapshot({"a": 1}, 5), change(8, {"a": 3}), Beat(status(8), BEAT_S / 2)])
    service.state = state({"a": 2}, 7)
    async with service.run(), client_of(service, heartbeat_s=5) as client:
        assert await client.get("a") == 2
        seen: list[Any] = []
        client.on_change(lambda one: seen.append((one.old, one.new)))
        late.go()
        await eventually(lambda: client.status.revision == 8)
        await eventually(lambda: seen)
        assert seen == [(2, 3)]
        assert len(service.watches) == 1
        assert client.status.last_error is None


# ---- what goes over the wire -----------------------------------------------------------------------------------------


async def test_a_packed_answer_is_read() -> None:
    service = Service(never)
    values = {f"key{n}": "x" * 100 for n in range(100)}
    service.state = state(values, 5, packed=True)
    async with service.run(), client_of(service) as client:
        assert await client.get_all() == values
        await eventually(lambda: len(service.polls) >= 2)
        assert service.polls[1]["If-None-Match"] == f'W/"{EPOCH}:5"'


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"x" * 200_000, ""),
        (gzip.compress(b"x" * 200_000, mtime=0), "gzip"),
        (gzip.compress(b"{}" * 1000, mtime=0)[:-9], "gzip"),
        (b"not packed", "gzip"),
        (b"{}", "br"),
    ],
    ids=["large", "bomb", "cut", "garbage", "other"],
)
async def test_an_answer_that_is_too_large_or_does_not_unpack_is_refused(body: bytes, encoding: str) -> None:
    async def large(_: web.Request) -> web.StreamResponse:
        more = {"Content-Encoding": encoding} if encoding else {}
        headers = {"Configsvc-Revision": "5", "Configsvc-Source": "live", **more}
        return web.Response(body=body, headers=headers, content_type="application/json")

    service = Service(never)
    service.state = large
    tuning = Tuning(backoff=QUICK, first_poll_after_s=0.05, max_event_bytes=100_000)
    async with service.run(), client_of(service, tuning=tuning) as client:
        await eventually(lambda: len(service.polls) >= 2)
        assert client.status.revision is None
        service.state = state({"a": 1}, 5)
        assert await client.get("a") == 1


async def test_a_poll_learns_the_scope_and_carries_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SERVICE_NAME", "CONFIG_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / "token"
    token.write_text("one")
    service = Service(never)
    service.state = state({"a": 1}, 5)
    more = {"namespace": None, "environment": None, "token_file": token}
    async with service.run(), client_of(service, **more) as client:
        assert await client.get("a") == 1
        token.write_text("two")
        await eventually(lambda: len(service.polls) >= 3)
        assert service.polls[0]["Authorization"] == "Bearer one"
        assert service.polls[-1]["Authorization"] == "Bearer two"


async def test_a_stream_that_is_cut_beside_a_poll_is_an_ordinary_loss() -> None:
    service = Service([snapshot({"a": 1}, 5), CUT], [Beat(status(6), BEAT_S / 2)])
    service.state = state({"a": 1}, 5)
    async with service.run(), client_of(service) as client:
        await eventually(lambda: client.status.revision == 6)
        assert service.polls == []
        assert transport(client) == "stream"
