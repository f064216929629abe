"""The same frames over WebSocket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from configsvc.hub import Hub
from configsvc.metrics import Metrics
from tests.support.service import (
    ask_problem,
    change,
    connect,
    fill,
    head,
    lazy_socket,
    make_hub,
    make_settings,
    serving,
    stored,
    until,
)

PATH = "/v1/ws/payments/production"
HANDSHAKE = (
    f"GET {PATH} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


@asynccontextmanager
async def open_socket(url: str, path: str = PATH, **more: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with aiohttp.ClientSession() as session, session.ws_connect(url + path, **more) as ws:
        yield ws


async def receive(ws: aiohttp.ClientWebSocketResponse, *events: str) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = json.loads(await ws.receive_str(timeout=20))
        if message["event"] in events:
            return message


@pytest.fixture
def hub() -> Hub:
    hub = make_hub(make_settings(heartbeat_s=0.1))
    fill(hub, 10, stored("a", 1, 5), head(6, 1, "v1"))
    return hub


@pytest.fixture
async def url(hub: Hub) -> AsyncIterator[str]:
    async with serving(hub, make_settings(heartbeat_s=0.1)) as url:
        yield url


async def test_the_same_three_events(url: str, hub: Hub) -> None:
    epoch = hub.replica.epoch("payments")
    async with open_socket(url) as ws:
        snapshot = await receive(ws, "snapshot")
        assert snapshot["id"] == f"{epoch}:10"
        assert snapshot["data"]["entries"]["a"]["value"] == 1
        change(hub, stored("a", 2, 11))
        delta = await receive(ws, "change")
        assert (delta["id"], delta["data"]["set"]["a"]["value"]) == (f"{epoch}:11", 2)
        status = await receive(ws, "status")
        assert status["data"]["state"] == "live"
    await until(lambda: hub.subscribers == 0)


async def test_the_handshake_says_how_old_the_snapshot_is() -> None:
    at = [1000.0]
    hub = make_hub(make_settings(), clock=lambda: at[0])
    fill(hub, 10, stored("a", 1, 5))
    async with serving(hub) as url:
        for past_s, said in ((0.0, "0"), (60.5, "60.500")):
            at[0] += past_s
            async with open_socket(url) as ws:
                assert ws._response.headers["Configsvc-Staleness"] == said
                await receive(ws, "snapshot")
        async with open_socket(url) as ws:
            status = await receive(ws, "status")
            assert (status["data"]["state"], status["data"]["staleness_s"]) == ("stale", 60.5)


async def test_resuming(url: str, hub: Hub) -> None:
    epoch = hub.replica.epoch("payments")
    for revision in (11, 12):
        change(hub, stored("a", revision, revision))
    async with open_socket(url, f"{PATH}?last_event_id={epoch}:11") as ws:
        assert (await receive(ws, "change", "snapshot"))["id"] == f"{epoch}:12"
    async with open_socket(url, f"{PATH}?last_event_id=nonsense") as ws:
        assert (await receive(ws, "change", "snapshot"))["event"] == "snapshot"


async def test_draining_closes_with_going_away(url: str, hub: Hub) -> None:
    async with open_socket(url) as ws:
        await receive(ws, "snapshot")
        hub.drain()
        while (await receive(ws, "status"))["data"]["state"] != "draining":
            pass
        assert (await ws.receive(timeout=20)).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == aiohttp.WSCloseCode.GOING_AWAY


async def test_pings_are_answered_and_messages_ignored(url: str, hub: Hub) -> None:
    async with open_socket(url, autoping=False) as ws:
        await receive(ws, "snapshot")
        await ws.send_str("hello")
        await ws.send_bytes(b"\0\1")
        await ws.ping(b"are you there")
        async with asyncio.timeout(20):
            while (message := await ws.receive()).type is not aiohttp.WSMsgType.PONG:
                assert message.type is aiohttp.WSMsgType.TEXT
        assert message.data == b"are you there"


async def test_a_large_message_ends_it(url: str, hub: Hub) -> None:
    async with open_socket(url) as ws:
        await receive(ws, "snapshot")
        await ws.send_str("x" * 10_000)
        async with asyncio.timeout(20):
            while not ws.closed:
                await ws.receive()
        assert ws.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    await until(lambda: hub.subscribers == 0)


async def test_a_reader_that_vanishes_is_noticed(url: str, hub: Hub) -> None:
    async with connect(url) as connection:
        connection.send(HANDSHAKE)
        await asyncio.wait_for(connection.reader.readuntil(b"\r\n\r\n"), 20)
        await until(lambda: hub.subscribers == 1)
    await until(lambda: hub.subscribers == 0)


async def test_a_reader_that_takes_nothing_is_closed() -> None:
    settings = make_settings(heartbeat_s=0.1, slow_reader_s=0.5)
    hub = make_hub(settings)
    fill(hub, 10, *(stored(f"k{i}", "x" * 1_000_000, 5) for i in range(12)))
    metrics = Metrics(hub)
    async with serving(hub, settings, metrics=metrics) as url, lazy_socket(url, HANDSHAKE):
        await until(lambda: hub.subscribers == 1)
        await until(lambda: hub.subscribers == 0)
        assert b'configsvc_slow_streams_closed_total{transport="websocket"} 1.0' in metrics.exposition()


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Upgrade: websocket",),
        ("Upgrade: websocket", "Connection: Upgrade"),
        ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 12", "Sec-WebSocket-Key: x"),
        ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"),
        ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: \xe9"),
        ("Upgrade: h2c", "Connection: Upgrade"),
    ],
)
async def test_anything_but_a_handshake_is_refused(url: str, headers: tuple[str, ...]) -> None:
    problem = await ask_problem(url, PATH, *headers)
    assert problem["status"] == 400
    assert "WebSocket" in problem["detail"]


async def test_a_scope_of_others_is_refused_before_the_handshake(url: str) -> None:
    problem = await ask_problem(url, "/v1/ws/orders/production")
    assert (problem["status"], problem["code"]) == (403, "outside_sidecar")
