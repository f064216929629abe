"""What an application is told where no service shows a state: the best reason, and no more waiting than helps.

With the two default addresses, of which one has nobody, as in most installations.
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from configsvc_client import AsyncConfigClient, ConfigClient, ConfigKeyError, options
from configsvc_client.testing import ConfigServer
from tests.client.support import DEADLINE_S, FAST, HOLD, SCOPE, Service, answer, eventually, eventually_sync, snapshot

NOBODY = "http://127.0.0.1:9"
OTHERS = {"namespace": "dmo", "environment": "development"}


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.DEBUG, "configsvc_client")

    def lines(*words: str, least: int = logging.WARNING) -> list[str]:
        told = [one.getMessage() for one in caplog.records if one.levelno >= least]
        return [text for text in told if all(word in text for word in words)]

    return lines


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make addresses those where clients look without any setting."""
    for name in ("CONFIGSVC_URL", "SERVICE_NAME", "CONFIG_ENVIRONMENT", "CONFIG_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return lambda *urls: monkeypatch.setattr(options, "DEFAULT_URLS", urls)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_sidecar_of_another_scope_is_named_and_not_waited_for(place: Any, said: Any, is_first: bool) -> None:
    with ConfigServer({"a": 1}, namespace="demo", environment="development") as server:
        place(*([server.url, NOBODY] if is_first else [NOBODY, server.url]))
        started = time.monotonic()
        with ConfigClient(**OTHERS, cache_dir="off", start_timeout_s=1000) as client:
            with pytest.raises(ConfigKeyError) as caught:
                client.get("greeting")
            # Not within a thousand seconds: it has given up, which is no matter of speed.
            assert time.monotonic() - started < 500
            told = f"{server.url}: HTTP 403: this server has another scope only"
            assert str(caught.value) == (
                "no value for 'greeting' and no default given "
                f"(no configuration of dmo/development was received; {told})"
            )
            assert client.status.last_error == told
            assert client.status.state == "connecting"
    assert not said("no service answers, and without a service")


async def test_the_asyncio_client_gives_up_alike_and_comes_in_later(tmp_path: Path) -> None:
    service = Service(
        answer(401, body={"code": "unauthenticated", "detail": "who is it?"}), [snapshot({"a": 1}, 1), HOLD]
    )
    for cache in ("off", tmp_path):
        async with (
            service.run(),
            AsyncConfigClient(service.url, **SCOPE, cache_dir=cache, tuning=FAST, start_timeout_s=1000) as client,
        ):
            assert await client.get("a", default=7) == 7
            await client.wait_ready(DEADLINE_S)
            assert await client.get("a", default=7) == 1
        service.record.clear()


async def test_an_answer_that_is_not_the_services_is_waited_out(said: Any) -> None:
    service = Service(answer(404), answer(404), [snapshot({"a": 1}, 1), HOLD])
    async with (
        service.run(),
        AsyncConfigClient(service.url, **SCOPE, cache_dir="off", tuning=FAST, start_timeout_s=DEADLINE_S) as client,
    ):
        assert await client.get("a") == 1
    assert said(f"link to {service.url} failed: HTTP 404: it answers, but not as configsvc does")


async def not_found(_: web.Request) -> web.Response:
    return web.Response(status=404, text="404 page not found\n")


async def test_another_program_at_the_address_is_told_from_a_service(place: Any) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", not_found)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        for given in (None, url):
            place(url, NOBODY)
            async with AsyncConfigClient(given, **SCOPE, cache_dir="off", tuning=FAST) as client:
                await eventually(lambda: client.status.last_error)
                assert client.status.last_error == (
                    f"{url}: HTTP 404: it answers, but not as configsvc does; another program, or a proxy, is there"
                )
    finally:
        await runner.cleanup()


def test_a_token_that_is_missing_is_the_reason_and_nobody_is_said_to_be_away(place: Any, said: Any) -> None:
    with ConfigServer({"a": 1}) as server:
        place(server.url, NOBODY)
        with ConfigClient(token_file="nowhere", start_timeout_s=0.1, tuning=FAST) as client:
            eventually_sync(lambda: said("link to every address failed"))
            assert client.status.last_error == (f"{server.url}: token file nowhere: No such file or directory")
    assert not said("no service answers, and without a service")


def test_nobody_at_all_is_told_by_address_and_once(place: Any, said: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CONFIGSVC_CACHE_DIR", raising=False)
    place(NOBODY, "http://127.0.0.1:7")
    told = f"{NOBODY}: cannot connect: connection refused; http://127.0.0.1:7: cannot connect: connection refused"
    with ConfigClient(start_timeout_s=0, tuning=FAST) as client:
        eventually_sync(lambda: said("no service answers, and without a service"))
        eventually_sync(lambda: sum(client.status.url == NOBODY for _ in range(3)))
        assert client.status.last_error == told
    assert len(said("link to")) == 1
    assert said(f"link to every address failed: {told} (next attempt in ") or said(told, "(next attempt at once)")


def test_an_address_without_a_service_is_no_warning_where_the_next_one_has_one(place: Any, said: Any) -> None:
    with ConfigServer({"a": 1}) as server:
        place(NOBODY, server.url)
        with ConfigClient(cache_dir="off", start_timeout_s=DEADLINE_S) as client:
            assert client.get("a") == 1
            assert client.status.last_error is None
            assert said("link to http://127.0.0.1:9 failed", "(next attempt at once)", least=logging.DEBUG)
            assert not said("link to")
            server.stop()
            eventually_sync(lambda: said(f"link to {server.url} lost"))
            eventually_sync(lambda: client.status.last_error)
            server.start()
            eventually_sync(lambda: client.status.last_error is None)
            assert client.status.state == "live"


async def test_a_start_from_the_file_is_said_with_path_and_age(tmp_path: Path, said: Any) -> None:
    with ConfigServer({"a": 1}, **SCOPE) as server:
        async with AsyncConfigClient(server.url, **SCOPE, cache_dir=tmp_path) as client:
            await client.wait_ready(DEADLINE_S)
        assert not said("last-known-good")
    (file,) = tmp_path.glob("scope-*")
    async with AsyncConfigClient(server.url, **SCOPE, cache_dir=tmp_path, tuning=FAST) as client:
        assert await client.get("a") == 1
        (line,) = said("last-known-good")
        assert line.startswith(f"starting from the last-known-good file {file}, proved 0 s ago, because no service ")
        assert line.endswith(f"({server.url}: cannot connect: connection refused)")
        await asyncio.sleep(0)
    assert len(said("last-known-good")) == 1
