"""Streams on real connections after they left aiohttp: what they cost, and what still happens at their end."""

import asyncio
import gc
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from configsvc.hub import Hub
from configsvc.metrics import Metrics
from configsvc.web.protocol import Protocol
from tests.support.service import (
    SCOPE,
    Connection,
    ask,
    change,
    connect,
    fill,
    lazy_socket,
    make_hub,
    make_settings,
    serving,
    stored,
    until,
)

PATH = "/v1/watch/payments/production"
REQUEST = f"GET {PATH} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


@pytest.fixture
def hub() -> Hub:
    hub = make_hub(make_settings(heartbeat_s=3600))
    fill(hub, 10, stored("a", 1, 5))
    return hub


@pytest.fixture
def metrics(hub: Hub) -> Metrics:
    return Metrics(hub)


async def event(connection: Connection) -> dict[str, Any]:
    """The data of the next event, whatever its chunk."""
    while True:
        line = await asyncio.wait_for(connection.reader.readuntil(b"\n"), 20)
        if line.startswith(b"data: "):
            data: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            return data


async def test_the_head_says_that_nothing_follows_on_this_connection(hub: Hub) -> None:
    async with serving(hub) as url, connect(url) as connection:
        connection.send(REQUEST + b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n")
        head = await asyncio.wait_for(connection.reader.readuntil(b"\r\n\r\n"), 20)
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert b"\r\nConnection: close\r\n" in head
        await event(connection)
        connection.send(b"what is this\r\n\r\n" * 1000)
        change(hub, stored("a", 2, 11))
        assert (await event(connection))["revision"] == 11
        hub.drain()
        rest = await connection.rest()
        assert b"HTTP/1.1" not in rest
        assert rest.endswith(b"\r\n0\r\n\r\n")


async def test_a_stream_keeps_neither_task_nor_request(hub: Hub, metrics: Metrics) -> None:
    async with serving(hub, metrics=metrics) as url, AsyncExitStack() as stack:
        assert (await ask(url, "/health/live"))[0] == 200
        before = asyncio.all_tasks()
        for _ in range(5):
            connection = await stack.enter_async_context(connect(url))
            connection.send(REQUEST)
            await event(connection)
        await until(lambda: asyncio.all_tasks() <= before)
        gc.collect()
        assert not [found for found in gc.get_objects() if type(found) is Protocol and found.connected]
        assert (metrics.streams["sse"], metrics.in_progress) == (5, 5)
    assert (metrics.streams["sse"], metrics.in_progress, hub.subscribers) == (0, 0, 0)


async def test_its_end_is_logged_and_counted_when_it_comes(hub: Hub, metrics: Metrics) -> None:
    with capture_logs() as logs:
        async with serving(hub, metrics=metrics) as url:
            async with connect(url) as connection:
                connection.send(REQUEST.replace(b"\r\n\r\n", b"\r\nX-Request-Id: abc\r\n\r\n"))
                await event(connection)
                assert metrics.in_progress == 1
                assert not [line for line in logs if line["event"] == "request"]
            await until(lambda: metrics.in_progress == 0)
    [line] = [line for line in logs if line["event"] == "request"]
    assert {name: line[name] for name in ("method", "path", "route", "status", "identity", "request_id", "peer")} == {
        "method": "GET",
        "path": PATH,
        "route": "/v1/watch/{ns}/{env}",
        "status": 200,
        "identity": "anonymous",
        "request_id": "abc",
        "peer": "127.0.0.1",
    }
    assert line["seconds"] > 0
    counted = b'configsvc_http_requests_total{method="GET",route="/v1/watch/{ns}/{env}",status="200"} 1.0'
    assert counted in metrics.exposition()


async def test_a_reader_that_closes_its_half_is_gone(hub: Hub) -> None:
    async with serving(hub) as url, connect(url) as connection:
        connection.send(REQUEST)
        await event(connection)
        connection.writer.write_eof()
        await until(lambda: hub.subscribers == 0)
        await connection.rest()


async def test_leaving_breaks_off_a_stream_that_nobody_reads(hub: Hub, metrics: Metrics) -> None:
    change(hub, *(stored(f"k{i}", "x" * 1_000_000, 11) for i in range(12)))
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(hub, metrics=metrics))
        async with lazy_socket(url, REQUEST) as sock:
            await until(lambda: metrics.streams["sse"] == 1)
            await asyncio.wait_for(stack.aclose(), 20)
            assert (metrics.streams["sse"], metrics.in_progress, hub.subscribers) == (0, 0, 0)
            with pytest.raises(ConnectionResetError):
                while await asyncio.get_running_loop().sock_recv(sock, 2**20):
                    pass


async def test_everybody_gets_every_change_in_order_while_others_come_stand_still_and_go(hub: Hub) -> None:
    last, begun = 40, 0

    async def follow(url: str, leave_at: int | None) -> list[int]:
        nonlocal begun
        async with connect(url) as connection:
            connection.send(REQUEST)
            seen = [(await event(connection))["revision"]]
            begun += 1
            while seen[-1] < last and seen[-1] != leave_at:
                seen.append((await event(connection))["revision"])
            return seen

    async with serving(hub) as url, AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(lazy_socket(url, REQUEST))
        readers = [asyncio.create_task(follow(url, at)) for at in [None, 15, None, 25] * 20]
        # Whoever has yet to get its first snapshot would begin at a later one.
        await until(lambda: hub.subscribers == len(readers) + 5 and begun == len(readers))
        for revision in range(11, last + 1):
            value = "x" * 300_000 if revision % 10 == 0 else revision
            change(hub, stored("a", value, revision))
            if revision % 3 == 0:
                await asyncio.sleep(0)
            if revision == 30:
                await until(lambda: hub.subscribers <= len(readers) // 2 + 5)
        for seen, leave_at in zip(await asyncio.gather(*readers), [None, 15, None, 25] * 20, strict=True):
            assert seen == list(range(seen[0], (leave_at or last) + 1))


async def test_one_that_is_slow_in_the_middle_of_a_large_frame_goes_on_where_it_stood(hub: Hub) -> None:
    async with serving(hub) as url:
        change(hub, stored("big", "x" * 4_000_000, 11))
        async with lazy_socket(url, REQUEST, 65536) as sock, connect(url) as quick:
            quick.send(REQUEST)
            assert (await event(quick))["revision"] == 11
            for revision in range(12, 20):
                change(hub, stored("a", revision, revision))
                assert (await event(quick))["revision"] == revision
            received, loop = b"", asyncio.get_running_loop()
            while not received.endswith(b"\n\n\r\n") or b"event: change" not in received[-5000:]:
                received += await asyncio.wait_for(loop.sock_recv(sock, 2**20), 20)
            ids = [line for line in received.split(b"\n") if line.startswith(b"id: ")]
            epoch = hub.epoch(SCOPE)
            assert ids == [f"id: {epoch}:{revision}".encode() for revision in range(11, 20)]
