"""Bad input of every kind: the answer is a 4xx problem that says what, where and what would be right. Never a 500."""

import asyncio
import functools
import gzip
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from configsvc.hub import Hub
from configsvc.metrics import Metrics
from configsvc.web.protocol import Protocol
from tests.support.service import (
    ask,
    ask_problem,
    central,
    connect,
    fill,
    lazy_socket,
    make_hub,
    make_settings,
    serving,
    stored,
    until,
)

SCOPE = "/v1/config/payments/production"


@pytest.fixture
def hub() -> Hub:
    hub = make_hub(central())
    fill(hub, 10, stored("key", "value", 5))
    return hub


@pytest.fixture
async def url(hub: Hub) -> AsyncIterator[str]:
    async with serving(hub, central(head_timeout_s=0.3)) as url:
        yield url


# ---- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "parameter", "words"),
    [
        ("//production", "namespace", "is empty"),
        ("/payments/", "environment", "is empty"),
        ("/payments//key", "environment", "is empty"),
        ("/_system/production", "namespace", "reserved"),
        ("/payments/_meta", "environment", "reserved"),
        ("/payments/_meta/head", "environment", "reserved"),
        ("/../production", "namespace", "letters"),
        ("/payments/..", "environment", "letters"),
        ("/payments/../secret", "environment", "letters"),
        ("/%2e%2e/production", "namespace", "letters"),
        ("/payments/%2E%2e/key", "environment", "letters"),
        ("/./production", "namespace", "letters"),
        ("/pay%2Fments/production", "namespace", "letters"),
        ("/pay%00ments/production", "namespace", "letters"),
        ("/pay%0Aments/production", "namespace", "letters"),
        ("/pay%20ments/production", "namespace", "letters"),
        ("/caf%C3%A9/production", "namespace", "letters"),
        ("/" + "a" * 129 + "/production", "namespace", "at most 128"),
        ("/payments/" + "a" * 129, "environment", "at most 128"),
        ("/pay%ff/production", "namespace", "not UTF-8"),
        ("/pay%/production", "namespace", "%25"),
        ("/pay%zz/production", "namespace", "%25"),
        ("/pay%E2%82/production", "namespace", "not UTF-8"),
        ("/pay%ED%A0%80/production", "namespace", "not UTF-8"),
    ],
)
@pytest.mark.parametrize("prefix", ["/v1/config", "/v1/watch", "/v1/ws"])
async def test_scopes(url: str, prefix: str, path: str, parameter: str, words: str) -> None:
    if prefix != "/v1/config" and path.count("/") > 2:
        problem = await ask_problem(url, prefix + path)
        assert (problem["status"], problem["code"]) == (404, "route_not_found")
        return
    problem = await ask_problem(url, prefix + path)
    assert (problem["status"], problem["code"], problem["parameter"]) == (400, "invalid_scope", parameter)
    assert words in problem["detail"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "is empty"),
        ("a/b", "may not hold '/'"),
        ("a//b", "may not hold '/'"),
        ("key/", "may not hold '/'"),
        ("/key", "may not hold '/'"),
        ("a%2Fb", "may not hold '/'"),
        ("a%2fb", "may not hold '/'"),
        ("%2F", "may not hold '/'"),
        ("..", "'..'"),
        (".", "'.'"),
        ("%2e%2e", "'..'"),
        ("../../other/production/key", "may not hold '/'"),
        ("_meta", "reserved"),
        ("%5Fmeta", "reserved"),
        ("_meta%2Fhead", "reserved"),
        ("a%00b", "control character (U+0000)"),
        ("a%0Ab", "control character (U+000A)"),
        ("a%7Fb", "control character (U+007F)"),
        ("a%C2%85b", "control character (U+0085)"),
        ("%ff", "not UTF-8"),
        ("%C3%28", "not UTF-8"),
        ("%", "%25"),
        ("100%", "%25"),
        ("%4", "%25"),
        ("%u1234", "%25"),
        ("x" * 1025, "at most 1024"),
        ("%C3%A9" * 513, "at most 1024"),
    ],
)
async def test_keys(url: str, key: str, words: str) -> None:
    problem = await ask_problem(url, f"{SCOPE}/{key}")
    assert (problem["status"], problem["code"], problem["parameter"]) == (400, "invalid_key", "key")
    assert words in problem["detail"]
    assert len(problem["detail"]) < 400


async def test_the_longest_key_is_no_bad_request(url: str) -> None:
    problem = await ask_problem(url, f"{SCOPE}/{'%C3%A9' * 512}")
    assert problem["code"] == "key_not_found"


async def test_a_path_with_a_fragment_is_refused(url: str) -> None:
    problem = await ask_problem(url, f"{SCOPE}/key#x")
    assert (problem["status"], problem["code"]) == (400, "invalid_path")


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/", "/v1/config", "/v1/config/", "/v1/config/payments", "/health/", "//", "/%00"]
)
async def test_unknown_paths(url: str, path: str) -> None:
    problem = await ask_problem(url, path)
    assert (problem["status"], problem["code"]) == (404, "route_not_found")
    assert "/openapi.json" in problem["detail"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
async def test_other_methods(url: str, method: str) -> None:
    problem = await ask_problem(url, SCOPE, method=method)
    assert (problem["status"], problem["code"]) == (405, "method_not_allowed")
    assert problem["allowed"] == ["GET", "HEAD", "PATCH"]
    _, headers, _ = await ask(url, "/v1/watch/a/b", method=method)
    assert headers["allow"] == "GET"


@pytest.mark.parametrize("line", [b"CONNECT test:80 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET http://x/nothing HTTP/1.1"])
async def test_odd_targets(url: str, line: bytes) -> None:
    async with connect(url) as connection:
        connection.send(line + b"\r\nHost: test\r\n\r\n")
        assert (await connection.problem())["status"] in (400, 404, 405)


async def test_an_absolute_target_is_the_same_resource(url: str) -> None:
    status, _, _ = await ask(url, f"http://elsewhere{SCOPE}/key")
    assert status == 200


# ---- query strings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("view=values&view=entries", "view"),
        ("view=", "view"),
        ("view", "view"),
        ("view=VALUES", "view"),
        ("min_revision=", "min_revision"),
        ("min_revision=-1", "min_revision"),
        ("min_revision=+1", "min_revision"),
        ("min_revision=1.5", "min_revision"),
        ("min_revision=0x10", "min_revision"),
        ("min_revision=%D9%A1", "min_revision"),
        ("min_revision=xyz:5", "min_revision"),
        ("min_revision=00000000000g:5", "min_revision"),
        ("min_revision=5&wait_s=-1", "wait_s"),
        ("wait_s=-1", "wait_s"),
        ("wait_s=nan", "wait_s"),
        ("wait_s=inf", "wait_s"),
        ("wait_s=5s", "wait_s"),
        ("wait_s=%D9%A1", "wait_s"),
        ("wait_s=1_0", "wait_s"),
        ("wait_s=5&wait_s=5", "wait_s"),
        ("min_revison=5", "min_revison"),
        ("minRevision=5", "minRevision"),
        ("min-revision=5", "min-revision"),
        ("wait=5", "wait"),
        ("views=entries", "views"),
    ],
)
async def test_queries(url: str, query: str, parameter: str) -> None:
    problem = await ask_problem(url, f"{SCOPE}?{query}")
    assert (problem["status"], problem["code"], problem["parameter"]) == (400, "invalid_query", parameter)


async def test_a_misspelling_is_told_what_was_meant(url: str) -> None:
    problem = await ask_problem(url, f"{SCOPE}?min_revison=5")
    assert problem["near"] == ["min_revision"]
    assert "did you mean min_revision?" in problem["detail"]


@pytest.mark.parametrize("query", ["raw=1", "raw=yes", "raw=", "raw=true&raw=true", "Raw=true", "raws=true"])
async def test_queries_of_a_key(url: str, query: str) -> None:
    problem = await ask_problem(url, f"{SCOPE}/key?{query}")
    assert (problem["status"], problem["code"]) == (400, "invalid_query")


@pytest.mark.parametrize("query", ["%ff=1", "view=%ff", "view=%", "min_revision=%C3%28"])
async def test_queries_that_are_no_text(url: str, query: str) -> None:
    problem = await ask_problem(url, f"{SCOPE}?{query}")
    assert (problem["status"], problem["code"]) == (400, "invalid_query")


@pytest.mark.parametrize("query", ["", "&&", "utm_source=x", "utm_source=x&utm_source=y", "_=1", "a=%20", "=", "?"])
async def test_what_nobody_knows_is_passed_over(url: str, query: str) -> None:
    status, _, _ = await ask(url, f"{SCOPE}?{query}")
    assert status == 200


@pytest.mark.parametrize("wait", ["0", "0.5", "1e-3", "99999", "1e300", "9" * 100])
async def test_a_wait_beyond_the_maximum_is_cut_to_it(url: str, wait: str) -> None:
    status, _, _ = await ask(url, f"{SCOPE}?min_revision=10&wait_s={wait}")
    assert status == 200


# ---- order -----------------------------------------------------------------------------------------------------------


async def test_shape_comes_before_permission_and_permission_before_absence(hub: Hub) -> None:
    async with serving(hub, make_settings(service_name="orders")) as url:
        assert (await ask_problem(url, "/v1/config/payments/_x"))["status"] == 400
        for query in ("view=x", "min_revision=x", "wait_s=x", "min_revison=1", "view=values&view=values"):
            assert (await ask_problem(url, f"{SCOPE}?{query}"))["code"] == "invalid_query"
        assert (await ask_problem(url, f"{SCOPE}/nothing?raw=x"))["code"] == "invalid_query"
        assert (await ask_problem(url, f"{SCOPE}?min_revision={'0' * 12}:1"))["status"] == 403
        assert (await ask_problem(url, f"{SCOPE}/nothing"))["status"] == 403


# ---- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/self HTTP/9.9\r\n\r\n",
        b"GET /v1/self HTTP/1.1\r\n\r\n",
        b"GET /v1/self FTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/self HTTP/1.1\r\nHost: test\r\nno colon\r\n\r\n",
        b"GET /v1/self HTTP/1.1\r\nHost: test\r\nbad name: x\r\n\r\n",
        b"GET /v1/self HTTP/1.1\r\nHost: test\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/self HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/self HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /v1/self HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/self HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /v1/caf\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"GET v1/self HTTP/1.1\r\n\r\n",
        b"GET /v1/ self HTTP/1.1\r\n\r\n",
    ],
)
async def test_malformed_heads(url: str, head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with connect(url) as connection:
        connection.send(head)
        problem = await connection.problem()
        assert problem["status"] == 400
        assert problem["code"] in ("bad_request", "invalid_header", "invalid_path")
        assert await connection.rest() == b""
    assert "Traceback" not in caplog.text
    assert "Error handling request" not in caplog.text


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/self HTTP/1.1\r\nX-Big: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/self?" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/self HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(500)) + b"\r\n",
        b"GET /v1/self HTTP/1.1\r\n" + b"x" * 100_000 + b": y\r\n\r\n",
    ],
)
async def test_huge_heads(url: str, head: bytes) -> None:
    async with connect(url) as connection:
        connection.send(head)
        problem = await connection.problem()
        assert (problem["status"], problem["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize("start", [b"G", b"GET /v1/self HTTP/1.1\r\n", b"GET /v1/self HTTP/1.1\r\nX: y"])
async def test_a_head_that_does_not_come_is_given_up(url: str, start: bytes) -> None:
    async with connect(url) as connection:
        connection.send(start)
        problem = await connection.problem()
        assert (problem["status"], problem["code"]) == (408, "request_timeout")
        assert await connection.rest() == b""


async def test_a_head_that_trickles_in_is_given_up_too(url: str) -> None:
    async with connect(url) as connection:

        async def trickle() -> None:
            for byte in b"GET /v1/self HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
                connection.send(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        try:
            assert (await connection.problem())["code"] == "request_timeout"
        finally:
            trickling.cancel()
            await asyncio.wait({trickling})


async def test_the_second_head_of_a_connection_has_a_deadline_too(url: str) -> None:
    async with connect(url) as connection:
        connection.send(b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await connection.response())[0] == 200
        connection.send(b"GET /health")
        assert (await connection.problem())["code"] == "request_timeout"


async def test_half_a_head_right_behind_a_request_has_a_deadline_once_that_is_answered(url: str) -> None:
    whole = b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"
    slow = f"GET {SCOPE}?min_revision=99&wait_s=0.7 HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    for first, status in ((whole, 200), (slow, 503)):
        async with connect(url) as connection:
            connection.send(first + whole[:20])
            assert (await connection.response())[0] == status
            assert (await connection.problem())["code"] == "request_timeout"
        async with connect(url) as connection:
            connection.send(first + whole[:20])
            assert (await connection.response())[0] == status
            connection.send(whole[20:])
            assert (await connection.response())[0] == 200


async def test_half_a_head_that_comes_with_the_connection_has_a_deadline(hub: Hub) -> None:
    """A loop may hand over what has arrived before it runs the task that waits for it."""

    class Early(Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.data_received(b"GET /v1/self HTTP/1.1\r\n")

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")

    loop, manager = asyncio.get_running_loop(), web.Server(answer)
    bounds = {"head_timeout_s": 0.3, "stalled_s": 30, "silent_s": 30}
    made = functools.partial(Early, manager, loop=loop, metrics=Metrics(hub), **bounds)
    server = await loop.create_server(made, "127.0.0.1", 0)
    try:
        async with connect(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as connection:
            assert (await connection.problem())["code"] == "request_timeout"
    finally:
        server.close()
        await manager.shutdown()


async def test_an_idle_connection_is_not_a_slow_head(url: str) -> None:
    async with connect(url) as connection:
        for _ in range(2):
            await asyncio.sleep(0.5)
            connection.send(b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n")
            assert (await connection.response())[0] == 200


async def test_a_connection_that_never_says_anything_is_closed(hub: Hub) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")

    loop = asyncio.get_running_loop()
    bounds = {"head_timeout_s": 30, "stalled_s": 30, "silent_s": 0.3}
    manager = web.Server(answer)
    made = functools.partial(Protocol, manager, loop=loop, metrics=Metrics(hub), **bounds)
    server = await loop.create_server(made, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        silent, _ = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(20):
            assert await silent.read() == b""
        # The one that did say something is an ordinary connection.
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert b"hello" in await reader.read()
        writer.close()
    finally:
        server.close()
        await manager.shutdown()


async def test_requests_that_come_together_are_answered_in_order(url: str) -> None:
    async with connect(url) as connection:
        targets = (f"{SCOPE}/key?raw=true", "/health/live", f"{SCOPE}/zz")
        connection.send("".join(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n" for target in targets).encode())
        assert (await connection.response())[2] == b'"value"'
        assert (await connection.response())[2] == b'{"status":"ok"}'
        assert (await connection.problem())["code"] == "key_not_found"


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    settings = central(slow_reader_s=0.2)
    hub = make_hub(settings)
    fill(hub, 10, *(stored(f"k{i}", "x" * 1_000_000, 5) for i in range(12)))
    metrics = Metrics(hub)
    request = f"GET {SCOPE} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    async with serving(hub, settings, metrics=metrics) as url, lazy_socket(url, request):
        await until(lambda: metrics.in_progress == 1)
        await until(lambda: metrics.in_progress == 0)


@pytest.mark.parametrize("path", [SCOPE, "/nothing", "/health"])
async def test_unknown_expectations(url: str, path: str) -> None:
    status, _, _ = await ask(url, path, "Expect: miracles")
    assert status in (200, 400)


# ---- bodies ----------------------------------------------------------------------------------------------------------

ROUTES = [
    SCOPE,
    f"{SCOPE}/key",
    "/v1/watch/payments/production",
    "/v1/self",
    "/health",
    "/metrics",
    "/openapi.json",
    "/",
]


@pytest.mark.parametrize("path", ROUTES)
async def test_a_compressed_body_is_never_unpacked(url: str, path: str) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    async with connect(url) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: test\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
        connection.send(head.encode() + bomb)
        problem = await connection.problem()
        assert (problem["status"], problem["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nor_where_the_method_is_wrong(url: str, method: str) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    async with connect(url) as connection:
        head = (
            f"{method} {SCOPE} HTTP/1.1\r\nHost: test\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
        )
        connection.send(head.encode() + bomb)
        assert (await connection.problem())["status"] == 405


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100000000\r\n\r\nxxxx", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
)
async def test_a_large_body_is_refused_before_it_comes(url: str, framing: bytes) -> None:
    async with connect(url) as connection:
        connection.send(f"GET {SCOPE} HTTP/1.1\r\nHost: test\r\n".encode() + framing)
        problem = await connection.problem()
        assert (problem["status"], problem["code"]) == (413, "body_too_large")


async def test_a_small_body_is_passed_over(url: str) -> None:
    async with connect(url) as connection:
        request = f"GET {SCOPE}/key?raw=true HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello".encode()
        for _ in range(2):
            connection.send(request)
            status, _, body = await connection.response()
            assert (status, body) == (200, b'"value"')
