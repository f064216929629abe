"""The link against a service with faults of every kind: it resumes, moves on, and never lets a bad answer through."""

import asyncio
import json
import logging
import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from configsvc_client import AsyncConfigClient, Backoff, ConfigKeyError, Tuning, options
from tests.client.support import (
    CUT,
    EPOCH,
    FAST,
    HOLD,
    OTHER_EPOCH,
    PATIENT,
    SCOPE,
    Beat,
    Script,
    Service,
    Wait,
    answer,
    change,
    eventually,
    snapshot,
    state,
    status,
)


@asynccontextmanager
async def client_of(*services: Service | str, **more: Any) -> AsyncIterator[AsyncConfigClient]:
    urls = [one if isinstance(one, str) else one.url for one in services]
    arguments: dict[str, Any] = {"tuning": FAST, **PATIENT, **SCOPE, **more}
    async with AsyncConfigClient(urls, **arguments) as client:
        yield client


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What the client has logged so far, details included: why it was not live, once it is."""
    caplog.set_level(logging.DEBUG, "configsvc_client")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


# ---- resuming --------------------------------------------------------------------------------------------------------


async def test_a_cut_stream_is_resumed_from_the_last_id_that_arrived() -> None:
    torn = change(9, {"a": "torn"})
    scripts: list[Script] = [
        [snapshot({"a": 1}, 5, proved=6), change(7, {"a": 2}), status(8), torn[: len(torn) // 2], CUT],
        [change(9, {"a": 3}), status(9), HOLD],
    ]
    async with Service(*scripts).run() as service, client_of(service) as client:
        await eventually(lambda: client.status.revision == 9)
        assert service.last_ids == [None, f"{EPOCH}:8"]
        assert await client.get("a") == 3


async def test_the_first_request_is_what_the_interface_says() -> None:
    async with Service([snapshot({}, 1), HOLD]).run() as service, client_of(service) as client:
        await client.wait_ready(10)
        ((path, headers),) = service.record
        assert path == "/v1/watch/payments/production"
        assert headers["Accept"] == "text/event-stream"
        assert "Authorization" not in headers
        assert "Cookie" not in headers


async def test_a_garbage_event_means_a_new_snapshot_and_is_told(said: Callable[[], str]) -> None:
    scripts: list[Script] = [
        [snapshot({"a": 1}, 5), b"event: change\ndata: {oops\n\n", HOLD],
        [snapshot({"a": 2}, 6), HOLD],
    ]
    async with Service(*scripts).run() as service, client_of(service) as client:
        await eventually(lambda: client.status.revision == 6)
        assert service.last_ids == [None, None]
        assert "does not read" in said()
        assert (await client.get("a"), client.status.state) == (2, "live")


async def test_an_event_without_end_is_garbage_and_bounded(said: Callable[[], str]) -> None:
    endless = Beat(b"x" * 20_000, every_s=0)
    scripts: list[Script] = [[snapshot({"a": 1}, 5), b"data: ", endless], [snapshot({"a": 2}, 6), HOLD]]
    tuning = Tuning(backoff=FAST.backoff, max_event_bytes=100_000)
    async with Service(*scripts).run() as service, client_of(service, tuning=tuning) as client:
        await eventually(lambda: client.status.revision == 6)
        assert "larger than 100000 bytes" in said()


async def test_a_large_snapshot_in_small_pieces_arrives_whole() -> None:
    values = {f"key{n}": "\u2028é" * 2000 for n in range(200)}
    data = snapshot(values, 5)
    pieces: list[Any] = [data[start : start + 50_001] for start in range(0, len(data), 50_001)]
    async with Service([*pieces, HOLD]).run() as service, client_of(service) as client:
        assert await client.get_all() == values


# ---- silence ---------------------------------------------------------------------------------------------------------


async def test_a_stream_that_went_silent_is_replaced(said: Callable[[], str]) -> None:
    scripts: list[Script] = [[snapshot({"a": 1}, 5), HOLD], [change(6, {"a": 2}), Beat(status(6))]]
    async with Service(*scripts).run() as service, client_of(service, heartbeat_s=0.1) as client:
        await eventually(lambda: client.status.revision == 6)
        assert service.last_ids == [None, f"{EPOCH}:5"]
        assert "nothing arrived" in said()


async def test_comments_are_no_sign_of_life() -> None:
    scripts: list[Script] = [[snapshot({}, 5), Beat(b": keep-alive\n\n", 0.02)], [Beat(status(6))]]
    async with Service(*scripts).run() as service, client_of(service, heartbeat_s=0.1) as client:
        await eventually(lambda: client.status.revision == 6)


@pytest.mark.parametrize(
    "empty",
    [
        Beat(b"x", 0.02),
        Beat(b"event: ping\ndata: {}\n\n", 0.02),
        Beat(b"event: ping\ndata: " + b"x" * 4096 + b"\n\n", 0.0),
        Beat(status(5, with_id=False), 0.02),
    ],
    ids=["an event that drips", "unknown events", "unknown events without a pause", "live without id"],
)
async def test_bytes_that_tell_nothing_are_no_sign_of_life(empty: Beat) -> None:
    first, second = Service([snapshot({}, 5), empty]), Service([snapshot({}, 6), Beat(status(6))])
    async with first.run(), second.run(), client_of(first, second, heartbeat_s=0.2) as client:
        await eventually(lambda: client.status.revision == 6)
        assert len(first.watches) == 1


async def test_a_stream_that_tells_nothing_is_polled_beside() -> None:
    service = Service([snapshot({"a": 1}, 5), Beat(b"event: ping\ndata: {}\n\n", 0.02)])
    service.state = state({"a": 2}, 6)
    async with service.run(), client_of(service, heartbeat_s=0.2) as client:
        await eventually(lambda: client.status.revision == 6)
        await eventually(lambda: client.status.transport == "polling")
        assert client.status.state == "live"


async def test_a_slow_snapshot_is_no_silence() -> None:
    data = snapshot({"a": "x" * 8000}, 5)
    steps: list[Any] = []
    for start in range(0, len(data), 400):
        steps += [data[start : start + 400], 0.06]
    async with Service([*steps, Beat(status(5))]).run() as service, client_of(service, heartbeat_s=0.7) as client:
        await client.wait_ready(20)
        assert len(service.watches) == 1


async def test_a_head_that_does_not_come_is_given_up(said: Callable[[], str]) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with Service(never, [snapshot({"a": 1}, 1), HOLD]).run() as service:
        tuning = Tuning(backoff=FAST.backoff, connect_timeout_s=0.1)
        async with client_of(service, tuning=tuning) as client:
            assert await client.get("a") == 1
            assert "no answer" in said()


# ---- bad answers -----------------------------------------------------------------------------------------------------


async def other_type(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>", content_type="text/html")


async def cut_head(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 200 O")
    request.transport.abort()
    return web.Response()


async def no_http(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"SSH-2.0-x\r\n\r\n")
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (answer(500), "HTTP 500"),
        (answer(404, body={"detail": "no such route"}), "HTTP 404: no such route"),
        (answer(401, body={"detail": ["odd"]}), "HTTP 401"),
        (answer(503, headers={"Retry-After": "0"}), "HTTP 503"),
        (answer(204), "HTTP 204"),
        (answer(307, headers={"Location": "/elsewhere"}), "redirect"),
        (other_type, "text/html"),
        (cut_head, ""),
        (no_http, ""),
        ([], "stream ended"),
        ([CUT], "cut"),
        ([snapshot({}, 1)[:-1]], "stream ended"),
        ([b"\xff\x00\r\n" * 1000], "stream ended"),
        ([snapshot({}, 1, epoch="nonsense")], "snapshot nonsense"),
    ],
)
async def test_a_bad_answer_is_told_and_the_next_attempt_works(bad: Script, told: str, said: Callable[[], str]) -> None:
    # Twice, because aiohttp itself tries once more where a connection broke before the answer.
    async with Service(bad, bad, [snapshot({"a": 1}, 1), HOLD]).run() as service, client_of(service) as client:
        assert await client.get("a") == 1
        assert re.search(f"link to .* failed: .*{told}", said())
        assert client.status.last_error is None
        assert all(path.startswith("/v1/watch/") for path, _ in service.record)


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def plain(status: int, body: bytes) -> Any:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type="application/json")

    return handle


async def test_an_error_that_nests_without_end_is_one_like_others() -> None:
    bad = plain(503, b'{"x":' + nested(5000) + b"}")
    async with Service(bad, [snapshot({"a": 1}, 1), HOLD]).run() as service, client_of(service) as client:
        await client.wait_ready(20)
        assert await client.get("a") == 1


async def test_nor_does_such_an_answer_to_who_it_is_end_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_NAME", "CONFIG_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    service = Service([snapshot({"a": 1}, 1), HOLD])
    answers = [b'{"x":' + nested(5000) + b"}", json.dumps(service.about).encode()]

    async def about(request: web.Request) -> web.StreamResponse:
        return await plain(200, answers.pop(0) if len(answers) > 1 else answers[0])(request)  # type: ignore[no-any-return]

    service._self = about  # type: ignore[method-assign, assignment]
    async with service.run(), client_of(service, namespace=None, environment=None) as client:
        await client.wait_ready(20)
        assert await client.get("a") == 1


@pytest.mark.parametrize("levels", [101, 900, 5000])
async def test_a_value_that_nests_deeper_than_a_service_takes_is_garbage(levels: int, said: Callable[[], str]) -> None:
    deep = [data.replace(b'"deep"', nested(levels)) for data in (snapshot({"a": "deep"}, 5), change(6, {"a": "deep"}))]
    scripts: list[Script] = [[deep[0], HOLD], [snapshot({"a": 1}, 5), deep[1], HOLD], [snapshot({"a": 2}, 7), HOLD]]
    async with Service(*scripts).run() as service, client_of(service) as client:
        await eventually(lambda: client.status.revision == 7)
        assert await client.get("a") == 2
        assert "does not read" in said()


async def test_a_value_that_nests_as_deep_as_a_service_takes_is_one() -> None:
    data = snapshot({"a": "deep"}, 5).replace(b'"deep"', nested(100))
    async with Service([data, HOLD]).run() as service, client_of(service) as client:
        assert json.dumps(await client.get("a")).encode() == nested(100)


async def test_a_service_that_comes_late_is_found() -> None:
    port = free_port()
    async with client_of(f"http://127.0.0.1:{port}", start_timeout_s=0) as client:
        await eventually(lambda: client.status.last_error)
        assert client.status.state == "connecting"
        assert await client.get("a", default=7) == 7
        async with Service([snapshot({"a": 1}, 1), HOLD]).run(port):
            await client.wait_ready(20)
            assert await client.get("a", default=7) == 1


async def test_a_name_is_looked_up_and_all_its_addresses_are_tried() -> None:
    service = Service([snapshot({"a": 1}, 1), HOLD])
    async with service.run(), client_of(service.url.replace("127.0.0.1", "localhost")) as client:
        assert await client.get("a") == 1


async def test_an_unknown_host_is_no_more_than_an_address_that_does_not_answer() -> None:
    service = Service([snapshot({"a": 1}, 1), HOLD])
    async with service.run(), client_of("http://does-not-exist.invalid:1", service) as client:
        assert await client.get("a") == 1


# ---- several services ------------------------------------------------------------------------------------------------


async def test_the_next_address_takes_over_where_the_first_one_stopped() -> None:
    first = Service([snapshot({"a": 1}, 5), status(8), CUT], answer(500))
    second = Service([change(9, {"a": 2}), HOLD])
    async with first.run(), second.run(), client_of(first, second) as client:
        await eventually(lambda: client.status.revision == 9)
        assert second.last_ids == [f"{EPOCH}:8"]
        assert client.status.url == second.url


async def test_a_draining_service_is_left_for_the_next_one() -> None:
    first = Service([snapshot({"a": 1}, 5), status(5, "draining", retry=10), HOLD])
    second = Service([Beat(status(6))])
    async with first.run(), second.run(), client_of(first, second) as client:
        await eventually(lambda: client.status.revision == 6)
        assert len(first.watches) == 1


@pytest.mark.parametrize("old", [snapshot({"a": 0}, 4), snapshot({"a": 0}, 9, epoch=OTHER_EPOCH)])
async def test_an_older_state_is_refused_for_a_better_one(old: bytes, said: Callable[[], str]) -> None:
    tuning = Tuning(backoff=FAST.backoff, believe_after_s=1000)
    steps: list[Any] = [snapshot({"a": 0}, 9, epoch=OTHER_EPOCH), snapshot({"a": 1}, 5)]
    first = Service([*steps, CUT], answer(500), [old, HOLD])
    second = Service(answer(500), [old, HOLD], answer(500), [change(6, {"a": 2}), HOLD])
    async with first.run(), second.run(), client_of(first, second, tuning=tuning) as client:
        seen: list[Any] = []
        await client.wait_ready(10)
        client.on_change(lambda change: seen.append(change.new))
        await eventually(lambda: client.status.revision == 6)
        await eventually(lambda: seen)
        assert seen == [2]
        assert "refused" in said()


async def test_an_older_state_is_believed_with_a_warning_when_there_is_nothing_better(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripts: list[Script] = [[snapshot({"a": 1}, 5), CUT], [snapshot({"a": 0}, 4), HOLD]]
    async with Service(*scripts).run() as service, client_of(service) as client:
        with caplog.at_level(logging.WARNING, "configsvc_client"):
            await eventually(lambda: client.status.revision == 4)
        assert await client.get("a") == 0
        assert any("believed" in record.message for record in caplog.records)
        assert len(service.watches) > 2


async def test_a_service_that_is_behind_is_waited_for() -> None:
    caught_up = Wait()
    scripts: list[Script] = [
        [snapshot({"a": 1}, 5), CUT],
        [status(3, "behind", with_id=False), caught_up, change(6, {"a": 2}), status(6), HOLD],
    ]
    async with Service(*scripts).run() as service, client_of(service) as client:
        await eventually(lambda: client.status.service_state == "behind")
        seen = client.status
        assert (seen.state, seen.source, seen.revision) == ("stale", "memory", 5)
        assert "behind" in (seen.last_error or "")
        assert await client.get("a") == 1
        caught_up.go()
        await eventually(lambda: client.status.revision == 6)
        assert (client.status.state, client.status.source) == ("live", "live")


async def test_a_starting_service_is_left_for_one_that_has_data() -> None:
    first = Service([Beat(status(0, "starting", with_id=False))])
    second = Service([snapshot({"a": 1}, 1), HOLD])
    async with first.run(), second.run(), client_of(first, second, heartbeat_s=0.1) as client:
        await client.wait_ready(20)
        assert client.status.url == second.url


# ---- scope, token and trust ------------------------------------------------------------------------------------------


async def test_scope_comes_from_the_service_where_nobody_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_NAME", "CONFIG_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    service = Service([snapshot({"a": 1}, 1), HOLD])
    async with service.run(), client_of(service, namespace=None, environment=None) as client:
        assert await client.get("a") == 1
        assert [path for path, _ in service.record] == ["/v1/self", "/v1/watch/payments/production"]


async def test_a_service_without_a_default_scope_is_told_and_asked_again() -> None:
    service = Service(
        [snapshot({"a": 1}, 1), HOLD], about={"service": "configsvc", "namespace": None, "environment": None}
    )
    async with service.run(), client_of(service, environment=None) as client:
        await eventually(lambda: client.status.last_error)
        assert "CONFIG_ENVIRONMENT" in (client.status.last_error or "")
        service.about = {"service": "configsvc", **SCOPE}
        assert await client.get("a") == 1


async def test_the_token_is_read_anew_for_each_connection(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    ready = Wait()
    scripts: list[Script] = [[snapshot({}, 1), ready, CUT], [snapshot({}, 2), HOLD]]
    async with Service(*scripts).run() as service, client_of(service, token_file=token) as client:
        await client.wait_ready(10)
        token.write_text("two")
        ready.go()
        await eventually(lambda: client.status.revision == 2)
        assert [headers["Authorization"] for headers in service.watches] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("content", [None, b"", b"a b", b"a\nb", "ключ".encode(), b"x" * 70_000])
async def test_without_a_proper_token_nothing_is_sent(tmp_path: Path, content: bytes | None) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    async with Service([snapshot({"a": 1}, 1), HOLD]).run() as service, client_of(service, token_file=token) as client:
        await eventually(lambda: client.status.last_error)
        assert "token" in (client.status.last_error or "")
        assert service.record == []
        token.write_text("good")
        assert await client.get("a") == 1


@pytest.fixture
def at_default_place(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a service's address the place where clients look without any setting."""
    for name in ("CONFIGSVC_URL", "SERVICE_NAME", "CONFIG_ENVIRONMENT", "CONFIG_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)

    def place(*urls: str) -> None:
        monkeypatch.setattr(options, "DEFAULT_URLS", urls)

    return place


async def test_a_sidecar_on_loopback_gets_the_token_once_it_said_what_it_is(
    at_default_place: Any, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    async with Service([snapshot({"a": 1}, 1), HOLD]).run() as service:
        at_default_place(f"http://127.0.0.1:{free_port()}", service.url)
        async with AsyncConfigClient(token_file=token, tuning=FAST, **PATIENT) as client:
            assert await client.get("a") == 1
        asked = [(path, headers.get("Authorization")) for path, headers in service.record]
        assert asked[0] == ("/v1/self", None)
        assert asked[-1] == ("/v1/watch/payments/production", "Bearer secret")


async def test_a_token_file_that_hangs_delays_no_loop_and_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configsvc_client.token_file.READ_TIMEOUT_S", 0.05)
    os.mkfifo(tmp_path / "token")
    service = Service([snapshot({"a": 1}, 1), HOLD])
    async with service.run(), client_of(service, token_file=tmp_path / "token", start_timeout_s=0.2) as client:
        assert await client.get("a", 5) == 5
        for _ in range(3):
            client_failures = client._state.session.failures.total()
            await eventually(lambda before=client_failures: client._state.session.failures.total() > before)
        assert "nothing could be read within" in (client.status.last_error or "")
        assert service.record == []
        assert len([one for one in threading.enumerate() if one.name == "configsvc-token"]) == 1
        # What hangs is let go; whoever reads again finds a file.
        (tmp_path / "pipe").hardlink_to(tmp_path / "token")
        (tmp_path / "file").write_text("secret")
        (tmp_path / "file").replace(tmp_path / "token")
        await asyncio.to_thread((tmp_path / "pipe").write_text, "secret")
        await client.wait_ready(20)
        assert service.watches[-1]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "about", [{"service": "other"}, {}, [1], {"service": "configsvc", "namespace": "../x"}, "x" * 100_000]
)
async def test_something_else_at_the_default_place_gets_neither_token_nor_trust(
    at_default_place: Any, tmp_path: Path, about: Any
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    other = Service([snapshot({"a": "evil"}, 1), HOLD], about=about)
    async with other.run():
        at_default_place(other.url)
        async with AsyncConfigClient(token_file=token, tuning=FAST, start_timeout_s=0) as client:
            await eventually(lambda: client.status.last_error)
            with pytest.raises(ConfigKeyError):
                await client.get("a")
        assert all("Authorization" not in headers for _, headers in other.record)
        assert other.watches == []


async def test_a_sidecar_that_refuses_without_token_is_known_by_its_refusal(
    at_default_place: Any, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")

    async def about(request: web.Request) -> web.Response:
        service.record.append((request.raw_path, dict(request.headers)))
        known = request.headers.get("Authorization") == "Bearer secret"
        body = {"service": "configsvc", **(SCOPE if known else {})}
        return web.Response(text=json.dumps(body), status=200 if known else 401, content_type="application/json")

    service = Service([snapshot({"a": 1}, 1), HOLD])
    service._self = about  # type: ignore[method-assign, assignment]
    async with service.run():
        at_default_place(service.url)
        async with AsyncConfigClient(token_file=token, tuning=FAST, **PATIENT) as client:
            assert await client.get("a") == 1


async def test_the_token_does_not_go_to_a_default_address_beyond_loopback(
    at_default_place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    async with Service([snapshot({"a": 1}, 1), HOLD]).run() as service:
        at_default_place(service.url)
        monkeypatch.setattr(options.Endpoint, "is_loopback", property(lambda _: False))
        async with AsyncConfigClient(token_file=token, tuning=FAST, **PATIENT) as client:
            assert await client.get("a") == 1
        assert all("Authorization" not in headers for _, headers in service.record)


async def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    async with Service([snapshot({"a": 1}, 1), HOLD]).run() as service, client_of(service) as client:
        assert await client.get("a") == 1


async def test_a_refusal_that_does_not_pass_is_not_hammered(caplog: pytest.LogCaptureFixture) -> None:
    tuning = Tuning(backoff=Backoff(base_s=0.001, cap_s=0.001), slow_backoff=Backoff(base_s=1e6, cap_s=1e6))
    service = Service(answer(403, body={"detail": "not yours"}))
    caplog.set_level(logging.WARNING, "configsvc_client")
    async with service.run(), client_of(service, tuning=tuning) as client:
        with pytest.raises(TimeoutError, match="not yours"):
            await client.wait_ready(0.3)
        assert len(service.watches) == 1
        assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_scope_with_nothing_in_it_is_said_once_and_named_by_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "configsvc_client"):
        async with (
            Service([snapshot({}, 1), CUT], [snapshot({}, 2), HOLD]).run() as service,
            client_of(service) as client,
        ):
            await eventually(lambda: client.status.revision == 2)
            with pytest.raises(ConfigKeyError, match="is empty"):
                await client.get("debug")
            assert await client.get("debug", default=1) == 1
    assert len([record for record in caplog.records if "is the name right?" in record.getMessage()]) == 1
