"""Server-Sent Events: what arrives, in which order, from where on, and how a stream ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from configsvc.core.policy import ANONYMOUS, Identity
from configsvc.hub import DRAIN_RETRY_MS, Hub
from configsvc.metrics import Metrics
from configsvc.web.app import create_app
from tests.support.service import (
    SCOPE,
    ask,
    ask_problem,
    change,
    connect,
    fill,
    head,
    lazy_socket,
    make_hub,
    make_settings,
    schema,
    serving,
    stored,
    until,
)

PATH = "/v1/watch/payments/production"


class Events:
    """The events of one stream, as they come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self._buffer = b""

    async def raw(self) -> dict[str, str]:
        """The next event's fields."""
        while b"\n\n" not in self._buffer:
            async with asyncio.timeout(20):
                chunk = await self.response.content.readany()
            if not chunk:
                raise EOFError
            self._buffer += chunk
        block, _, self._buffer = self._buffer.partition(b"\n\n")
        return dict(line.split(": ", 1) for line in block.decode().split("\n"))

    async def next(self, *events: str) -> tuple[str | None, dict[str, Any]]:
        """The id and the data of the next event among `events`."""
        while True:
            fields = await self.raw()
            if fields["event"] in events:
                return fields.get("id"), json.loads(fields["data"])


@asynccontextmanager
async def watching(url: str, path: str = PATH, **headers: str) -> AsyncIterator[Events]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url + path, headers=named) as response,
    ):
        assert response.status == 200
        yield Events(response)


@pytest.fixture
def hub() -> Hub:
    hub = make_hub(make_settings(heartbeat_s=0.1))
    fill(hub, 10, stored("a", 1, 5), head(6, 1, "v1"))
    return hub


@pytest.fixture
async def url(hub: Hub) -> AsyncIterator[str]:
    async with serving(hub, make_settings(heartbeat_s=0.1)) as url:
        yield url


def epoch(hub: Hub) -> str:
    return hub.replica.epoch("payments")


async def test_headers_keep_proxies_from_buffering(url: str) -> None:
    async with watching(url, Accept_Encoding="gzip", X_Request_Id="abc") as events:
        headers = events.response.headers
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert headers["Cache-Control"].startswith("no-cache")
        assert headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in headers
        assert headers["X-Request-Id"] == "abc"


async def test_a_snapshot_then_each_change(url: str, hub: Hub) -> None:
    async with watching(url) as events:
        fields = await events.raw()
        assert (fields["event"], fields["id"], fields["retry"]) == ("snapshot", f"{epoch(hub)}:10", "2000")
        data = json.loads(fields["data"])
        assert (data["revision"], data["release"], data["version"]) == (10, 1, "v1")
        assert data["entries"]["a"]["value"] == 1
        change(hub, stored("a", 2, 11), stored("b", 3, 11))
        change(hub, stored("a", 4, 12))
        first, delta = await events.next("change")
        assert first == f"{epoch(hub)}:11"
        assert {key: entry["value"] for key, entry in delta["set"].items()} == {"a": 2, "b": 3}
        second, delta = await events.next("change")
        assert (second, delta["set"]["a"]["value"]) == (f"{epoch(hub)}:12", 4)


async def test_heartbeats_carry_what_was_proved(url: str, hub: Hub) -> None:
    async with watching(url) as events:
        await events.next("snapshot")
        hub.prove(40)
        while True:
            id, status = await events.next("status")
            if status["revision"] == 40:
                break
        assert id == f"{epoch(hub)}:40"
        assert status["state"] == "live"


async def test_a_scope_that_does_not_exist_yet_has_an_empty_snapshot(url: str, hub: Hub) -> None:
    async with watching(url, "/v1/watch/payments/new") as events:
        _, data = await events.next("snapshot")
        assert (data["release"], data["entries"]) == (None, {})
        change(hub, stored("a", 1, 11, SCOPE._replace(environment="new")))
        _, delta = await events.next("change")
        assert delta["set"]["a"]["value"] == 1


async def test_defaults_of_the_schema_are_part_of_it(url: str, hub: Hub) -> None:
    async with watching(url) as events:
        await events.next("snapshot")
        change(hub, schema(11, {"limit": {"type": "integer", "default": 5}}))
        _, delta = await events.next("change")
        assert delta["set"]["limit"]["source"] == "schema"


# ---- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["header", "query", "both"])
async def test_resuming_replays_what_was_missed(url: str, hub: Hub, how: str) -> None:
    for revision in (11, 12, 13):
        change(hub, stored("a", revision, revision))
    known, older = f"{epoch(hub)}:11", f"{epoch(hub)}:10"
    query = {"header": "", "query": f"?last_event_id={known}", "both": f"?last_event_id={older}"}[how]
    headers = {} if how == "query" else {"Last_Event_ID": known}
    async with watching(url, PATH + query, **headers) as events:
        seen = [await events.next("change", "snapshot") for _ in range(2)]
    assert [id for id, _ in seen] == [f"{epoch(hub)}:12", f"{epoch(hub)}:13"]
    assert [data["set"]["a"]["value"] for _, data in seen] == [12, 13]


@pytest.mark.parametrize(
    "position",
    [
        "nonsense",
        "",
        "12",
        "000000000000:11",
        "{epoch}:-1",
        "{epoch}:1e3",
        "{epoch}:99999999999999999999",
        "{epoch}:3",
        "x" * 5000,
        "\xff",
    ],
)
async def test_an_id_that_makes_no_sense_means_a_snapshot(url: str, hub: Hub, position: str) -> None:
    position = position.format(epoch=epoch(hub))
    async with connect(url) as connection:
        request = f"GET {PATH} HTTP/1.1\r\nHost: test\r\nLast-Event-ID: {position}\r\n\r\n"
        connection.send(request.encode("latin-1"))
        answer = await asyncio.wait_for(connection.reader.readuntil(b"event: snapshot"), 20)
        assert answer.startswith(b"HTTP/1.1 200")


async def test_a_reader_that_is_ahead_waits_until_this_replica_has_caught_up(url: str, hub: Hub) -> None:
    async with watching(url, Last_Event_ID=f"{epoch(hub)}:20") as events:
        fields = await events.raw()
        assert fields["event"] == "status"
        assert "id" not in fields
        assert json.loads(fields["data"])["state"] == "behind"
        change(hub, stored("a", 21, 21))
        id, delta = await events.next("change", "snapshot")
        assert id == f"{epoch(hub)}:21"
        assert delta["set"]["a"]["value"] == 21


# ---- ends ------------------------------------------------------------------------------------------------------------


async def test_before_the_first_listing_only_status_is_sent() -> None:
    settings = make_settings(heartbeat_s=0.1)
    hub = make_hub(settings)
    async with serving(hub, settings) as url, watching(url) as events:
        fields = await events.raw()
        assert (fields["event"], json.loads(fields["data"])["state"]) == ("status", "starting")
        assert "id" not in fields
        fill(hub, 10, stored("a", 1, 5))
        _, data = await events.next("snapshot")
        assert data["entries"]["a"]["value"] == 1


async def test_the_head_says_how_old_the_snapshot_is() -> None:
    at = [1000.0]
    hub = make_hub(make_settings(), clock=lambda: at[0])
    async with serving(hub) as url:
        # Nobody knows the age of what is not read yet.
        async with watching(url) as events:
            assert "Configsvc-Staleness" not in events.response.headers
        fill(hub, 10, stored("a", 1, 5))
        async with watching(url) as events:
            assert events.response.headers["Configsvc-Staleness"] == "0"
        at[0] += 420.8
        async with watching(url) as events:
            assert events.response.headers["Configsvc-Staleness"] == "420.800"
            assert (await events.raw())["event"] == "snapshot"
            _, status = await events.next("status")
            assert (status["state"], status["staleness_s"]) == ("stale", 420.8)


async def test_a_state_from_a_file_is_never_live_however_the_clock_was_set(hub: Hub) -> None:
    from_disk, held = make_hub(make_settings()), hub.feeds[SCOPE].snapshot
    ahead = from_disk.freshness.now() + timedelta(hours=1)
    from_disk.remember([(from_disk.replica.remember(held, 12, None), ahead)])
    async with serving(from_disk) as url, watching(url) as events:
        assert events.response.headers["Configsvc-Staleness"] == "0.001"
        _, status = await events.next("status")
        assert (status["state"], status["staleness_s"]) == ("stale", 0)


async def test_a_draining_service_says_so_and_ends(url: str, hub: Hub) -> None:
    async with watching(url) as events:
        await events.next("snapshot")
        hub.drain()
        while (fields := await events.raw())["event"] != "status" or "retry" not in fields:
            pass
        assert json.loads(fields["data"])["state"] == "draining"
        assert DRAIN_RETRY_MS[0] <= int(fields["retry"]) <= DRAIN_RETRY_MS[1]
        assert "id" not in fields
        with pytest.raises(EOFError):
            await events.raw()
    async with watching(url) as late:
        assert json.loads((await late.raw())["data"])["state"] == "draining"


async def test_a_reader_that_goes_away_is_noticed_at_once(hub: Hub) -> None:
    settings = make_settings(heartbeat_s=3600)
    async with serving(hub, settings) as url:
        async with watching(url) as events:
            await events.next("snapshot")
            assert hub.subscribers == 1
        await until(lambda: hub.subscribers == 0)


async def test_streams_are_limited() -> None:
    settings = make_settings(max_streams=2)
    hub = make_hub(settings)
    fill(hub, 10, stored("a", 1, 5))
    async with serving(hub, settings) as url:
        async with watching(url) as one, watching(url) as two:
            await one.next("snapshot")
            await two.next("snapshot")
            problem = await ask_problem(url, PATH)
            assert (problem["status"], problem["code"]) == (503, "too_many_streams")
        await until(lambda: hub.subscribers == 0)
        async with watching(url) as again:
            await again.next("snapshot")


async def test_head_and_http_1_0(url: str) -> None:
    status, headers, _ = await ask(url, PATH, method="HEAD")
    assert (status, headers["allow"]) == (405, "GET")
    async with connect(url) as connection:
        connection.send(f"GET {PATH} HTTP/1.0\r\n\r\n".encode())
        answer = await asyncio.wait_for(connection.reader.readuntil(b"event: snapshot"), 20)
        assert b"chunked" not in answer


class Revocable:
    """An authenticator whose identities can be taken back."""

    generation = 0

    def __init__(self) -> None:
        self.good = True

    async def identify(self, authorization: str | None) -> Identity:
        return ANONYMOUS

    def holds(self, identity: Identity) -> bool:
        return self.good


async def test_a_stream_ends_when_its_identity_does(hub: Hub) -> None:
    settings, authenticator = make_settings(heartbeat_s=0.1), Revocable()
    app = create_app(settings, hub, authenticator=authenticator)
    async with serving(hub, settings, app) as url, watching(url) as events:
        await events.next("snapshot")
        authenticator.good = False
        change(hub, stored("secret", 1, 11))
        with pytest.raises(EOFError):
            while True:
                assert (await events.raw())["event"] == "status"
        assert hub.subscribers == 0


# ---- slow readers, large frames --------------------------------------------------------------------------------------


async def test_a_reader_that_takes_nothing_is_closed() -> None:
    settings = make_settings(heartbeat_s=0.1, slow_reader_s=0.5)
    hub = make_hub(settings)
    fill(hub, 10, *(stored(f"k{i}", "x" * 1_000_000, 5) for i in range(12)))
    metrics = Metrics(hub)
    async with serving(hub, settings, metrics=metrics) as url:
        request = f"GET {PATH} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
        async with lazy_socket(url, request) as sock:
            await until(lambda: hub.subscribers == 1)
            await until(lambda: hub.subscribers == 0)
            # Not closed with the rest still to be sent: the kernel would keep that for as long as nobody takes it.
            with pytest.raises(ConnectionResetError):
                while await asyncio.get_running_loop().sock_recv(sock, 2**20):
                    pass
        assert b'configsvc_slow_streams_closed_total{transport="sse"} 1.0' in metrics.exposition()


async def test_a_reader_that_is_slow_but_reads_gets_it_all() -> None:
    settings = make_settings(heartbeat_s=0.1, slow_reader_s=1.0)
    hub = make_hub(settings)
    fill(hub, 10, *(stored(f"k{i}", "x" * 1_000_000, 5) for i in range(6)))
    async with serving(hub, settings) as url:
        request = f"GET {PATH} HTTP/1.0\r\n\r\n".encode()
        async with lazy_socket(url, request, 65536) as sock:
            loop, received = asyncio.get_running_loop(), 0
            started = loop.time()
            while received < 6_000_000:
                received += len(await loop.sock_recv(sock, 65536))
                await asyncio.sleep(0.02)
            assert loop.time() - started > settings.slow_reader_s
            assert hub.subscribers == 1


async def test_a_large_frame_arrives_whole(url: str, hub: Hub) -> None:
    value = "ä" * 400_000
    change(hub, stored("big", value, 11))
    async with watching(url) as events:
        _, data = await events.next("snapshot")
        assert data["entries"]["big"]["value"] == value
        change(hub, stored("big", value[::-1] + "!", 12), stored("small", 1, 12))
        _, delta = await events.next("change")
        assert delta["set"]["big"]["value"] == value[::-1] + "!"
        change(hub, stored("small", 2, 13))
        _, delta = await events.next("change")
        assert delta["set"]["small"]["value"] == 2
