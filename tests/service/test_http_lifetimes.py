"""What the application starts and stops, and what happens when a part dies."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from configsvc.settings_values import Address
from configsvc.web.app import FAILURE, create_app, running
from configsvc.web.server import EXIT_SOFTWARE, PortInUse, bind, listening, serve_app
from tests.support.service import ask, fill, make_hub, make_settings, serving, stored


async def test_lifetimes_nest_in_their_order() -> None:
    steps: list[str] = []

    def lifetime(name: str):  # type: ignore[no-untyped-def]
        async def run(app: web.Application) -> AsyncIterator[None]:
            steps.append(f"+{name}")
            yield
            steps.append(f"-{name}")

        return run

    hub = make_hub(make_settings())
    app = create_app(make_settings(), hub, lifetimes=[lifetime("etcd"), lifetime("follower")])
    async with serving(hub, app=app) as url:
        assert (await ask(url, "/health/live"))[0] == 200
        assert steps == ["+etcd", "+follower"]
    assert steps == ["+etcd", "+follower", "-follower", "-etcd"]
    assert not app[FAILURE].happened.is_set()


async def test_a_task_that_dies_ends_the_service() -> None:
    async def dying() -> None:
        raise RuntimeError("a defect")

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        async with running(app, dying(), "dying"):
            yield

    hub = make_hub(make_settings())
    app = create_app(make_settings(), hub, lifetimes=[lifetime])
    assert await asyncio.wait_for(serve_app(app, bind(Address("127.0.0.1", 0))), 20) == EXIT_SOFTWARE
    assert app[FAILURE].happened.is_set()


async def test_a_start_that_fails_unwinds_what_was_started() -> None:
    steps: list[str] = []

    async def first(app: web.Application) -> AsyncIterator[None]:
        steps.append("up")
        yield
        steps.append("down")

    async def second(app: web.Application) -> AsyncIterator[None]:
        raise RuntimeError("a defect")
        yield

    hub = make_hub(make_settings())
    app = create_app(make_settings(), hub, lifetimes=[first, second])
    with pytest.raises(RuntimeError):
        async with serving(hub, app=app):
            pass
    assert steps == ["up", "down"]


async def test_ipv6_addresses_are_urls() -> None:
    try:
        sock = bind(Address("::1", 0))
    except PortInUse:
        pytest.skip("no IPv6 here")
    hub = make_hub(make_settings())
    async with listening(create_app(make_settings(), hub), sock) as url:
        assert url.startswith("http://[::1]:")
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health/live") as response:
            assert response.status == 200


async def test_leaving_ends_open_streams() -> None:
    settings = make_settings(heartbeat_s=3600)
    hub = make_hub(settings)
    fill(hub, 10, stored("a", 1, 5))
    async with serving(hub, settings) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /v1/watch/payments/production HTTP/1.1\r\nHost: test\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"event: snapshot"), 20)
    rest = await asyncio.wait_for(reader.read(), 20)
    assert b'"state":"draining"' in rest
    assert rest.endswith(b"0\r\n\r\n")
    assert hub.subscribers == 0
    writer.close()
