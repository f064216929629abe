"""Hot reads: what the memo may answer, and every reason for which it may not. One section for each reason."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from aiohttp import web

from configsvc.core.model import Scope, head_path
from configsvc.core.policy import ANONYMOUS, Identity
from configsvc.core.replica import Event
from configsvc.errors import Unauthenticated
from configsvc.hub import Hub
from configsvc.web import context, memo, protocol, read
from configsvc.web.app import create_app
from tests.support.service import SCOPE, change, connect, fill, head, make_hub, make_settings, serving, stored, until
from tests.support.wire import Side, request, side

PATH = "/v1/config/payments/production"
KEY = f"{PATH}/a"
GET = request(KEY)
DATE = re.compile(rb"\r\nDate: [^\r]+")


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock) -> Hub:
    hub = make_hub(make_settings(), clock=clock)
    fill(hub, 10, stored("a", 1, 5), stored("b", "%s 100%", 6), stored("big", "x" * 40_000, 7))
    return hub


@pytest.fixture
async def hot(hub: Hub) -> AsyncIterator[Side]:
    async with side(hub) as one:
        yield one


def undated(answer: bytes) -> bytes:
    assert DATE.search(answer), answer
    return DATE.sub(b"", answer)


def header(answer: bytes, name: str) -> str:
    found = re.search(rf"\r\n{name}: ([^\r]*)\r\n".encode(), answer)
    assert found is not None
    return found[1].decode()


# ---- what it answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        request(PATH),
        request(f"{PATH}?view=entries"),
        request(PATH, "Accept-Encoding: gzip"),
        request(KEY),
        request(f"{PATH}/b"),
        request(f"{KEY}?raw=true"),
        request(f"{PATH}/big?raw=true"),
        request(f"{PATH}/big", "Accept-Encoding: gzip, br"),
        request(KEY, "If-None-Match: *"),
        request(KEY, 'If-None-Match: "x"', "Connection: keep-alive", "User-Agent: any thing/1.0 (é)"),
    ],
)
async def test_the_third_of_equal_reads_has_the_bytes_of_the_first(hot: Side, asked: bytes) -> None:
    line = hot.connect()
    answers = [undated(await line.ask(asked)) for _ in range(4)]
    assert answers == answers[:1] * 4
    assert hot.hits == 2
    assert len(hot.memo) == 1


async def test_a_current_entity_tag_is_a_304_from_the_memo(hot: Side) -> None:
    tag = header(await hot.connect().ask(GET), "ETag")
    asked = request(KEY, f"If-None-Match: {tag}")
    line = await hot.warm(asked)
    assert (await line.ask(asked)).startswith(b"HTTP/1.1 304 ")
    assert hot.hits == 1


async def test_over_a_real_socket(hub: Hub) -> None:
    app = create_app(make_settings(), hub)
    async with serving(hub, app=app) as url, connect(url) as connection:
        for asked in [GET, request(f"{PATH}/big")] * 5:
            connection.send(asked)
            status, headers, body = await connection.response()
            assert (status, len(body)) == (200, int(headers["content-length"]))
    app[context.METRICS].flush()
    assert app[context.METRICS].memo_hits == 6


def test_over_a_real_socket_on_uvloop(hub: Hub) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_over_a_real_socket(hub))


@pytest.mark.parametrize(
    "asked",
    [
        request(f"{PATH}/zz"),
        request("/v1/config/payments/qa"),
        request(f"{PATH}?view=none"),
        request("/health/live"),
        request("/v1/self"),
        request("/metrics"),
        request(KEY, method="HEAD"),
        request(KEY, method="DELETE"),
        request(f"{KEY}?min_revision=5"),
        request(f"{KEY}?min_revision=99999&wait_s=0"),
    ],
)
async def test_nothing_but_reads_that_wait_for_nothing_is_kept(hot: Side, asked: bytes) -> None:
    await hot.warm(asked)
    assert len(hot.memo) == 0


# ---- whose answer it is ----------------------------------------------------------------------------------------------


class Certificate:
    """A TLS connection whose client has shown this certificate."""

    def __init__(self, der: bytes) -> None:
        self._der = der

    def getpeercert(self, binary_form: bool) -> bytes:
        assert binary_form
        return self._der


async def test_a_certificate_answers_for_no_other(hot: Side) -> None:
    one, other, none = (
        hot.connect(ssl_object=Certificate(b"one")),
        hot.connect(ssl_object=Certificate(b"other")),
        hot.connect(),
    )
    for _ in range(3):
        await one.ask(GET)
    assert hot.hits == 1
    for line in (other, none):
        await line.ask(GET)
        await line.ask(GET)
    assert hot.hits == 1


async def test_a_listener_answers_for_no_other(hot: Side) -> None:
    one, other = hot.connect("a"), hot.connect("b")
    for _ in range(3):
        await one.ask(GET)
    for _ in range(2):
        await other.ask(GET)
    assert hot.hits == 1


class Tokens:
    """An authenticator whose tokens come, go and end."""

    def __init__(self) -> None:
        self.generation = 0
        self.tokens = {"Bearer good": ANONYMOUS}
        self.ended: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def identify(self, authorization: str | None) -> Identity:
        found = self.tokens.get(authorization or "")
        await self.gate.wait()
        if found is None:
            raise Unauthenticated("send a token: Authorization: Bearer ...")
        return found

    def holds(self, identity: Identity) -> bool:
        return identity.name not in self.ended


GOOD = request(KEY, "Authorization: Bearer good")


async def test_a_token_answers_for_no_other(hub: Hub) -> None:
    async with side(hub, authenticator=Tokens()) as one:
        line = await one.warm(GOOD)
        assert (await line.ask(GOOD)).startswith(b"HTTP/1.1 200 ")
        assert one.hits == 1
        for bad in (GET, request(KEY, "Authorization: Bearer bad"), request(KEY, "Authorization: Bearer goo")):
            assert (await line.ask(bad)).startswith(b"HTTP/1.1 401 ")


async def test_a_change_of_rights_counts_at_once(hub: Hub) -> None:
    tokens = Tokens()
    async with side(hub, authenticator=tokens) as one:
        line = await one.warm(GOOD)
        del tokens.tokens["Bearer good"]
        tokens.generation += 1
        assert (await line.ask(GOOD)).startswith(b"HTTP/1.1 401 ")
        assert len(one.memo) == 0


async def test_an_answer_that_was_decided_before_a_change_of_rights_is_not_kept(hub: Hub) -> None:
    tokens = Tokens()
    async with side(hub, authenticator=tokens) as one:
        line = one.connect()
        await line.ask(GOOD)
        tokens.gate.clear()
        line.send(GOOD)
        await line.settle()
        del tokens.tokens["Bearer good"]
        tokens.generation += 1
        tokens.gate.set()
        await line.settle()
        assert (await line.ask(GOOD)).startswith(b"HTTP/1.1 401 ")
        assert one.hits == 0


async def test_an_identity_that_does_not_hold_any_more_is_noticed_by_itself(hub: Hub, clock: Clock) -> None:
    tokens = Tokens()
    async with side(hub, authenticator=tokens) as one:
        line = await one.warm(GOOD)
        await line.ask(GOOD)
        tokens.ended.add("anonymous")
        clock.at += 1
        await line.ask(GOOD)
        assert one.hits == 1


async def test_an_answer_never_outlives_its_token(hub: Hub, clock: Clock) -> None:
    wall = [5_000_000.25]
    tokens = Tokens()
    tokens.tokens = {"Bearer good": Identity(name="a", permissions=("read:*",), expires_at=wall[0] + 0.5)}
    async with side(hub, authenticator=tokens) as one:
        one.memo._wall = lambda: wall[0]
        line = await one.warm(GOOD)
        await line.ask(GOOD)
        clock.at += 0.499
        await line.ask(GOOD)
        assert one.hits == 2
        # The wall clock is set back; the token ends all the same.
        wall[0] -= 3600
        clock.at += 0.001
        await line.ask(GOOD)
        assert one.hits == 2
        assert len(one.memo) == 1


# ---- which requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Content-Length: 0",
        "content-length: 5",
        "Transfer-Encoding: chunked",
        "TRANSFER-ENCODING: identity",
        "Upgrade: websocket",
        "Expect: 100-continue",
        "Connection: close",
        "Connection: Upgrade",
        "connection: keep-alive, close",
        "Proxy-Connection: keep-alive",
        "Bad Name: x",
        "NoColon",
        " folded: x",
        "X: a\nContent-Length: 5",
        "X: a\rb",
        "X: a\0b",
        "X-Name : x",
    ],
)
def test_such_a_header_is_never_for_the_memo(line: str) -> None:
    assert not memo.is_head(request(KEY, line))
    assert not memo.is_head(request(KEY, "X: y", line, "Z: z"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        GET[:-1],
        GET[:-2],
        GET + b"\r\n",
        GET + b"x",
        b"\r\n" + GET,
        GET + GET,
        request(KEY, method="HEAD"),
        request(KEY, method="POST"),
        request(KEY, method="get"),
        GET.replace(b"1.1", b"1.0"),
        GET.replace(b"1.1", b"1.2"),
        GET.replace(b"\r\n", b"\n"),
        GET.replace(b"GET ", b"GET  "),
        GET.replace(b" HTTP", b"\tHTTP"),
        b"GET / HTTP/1.1\r\n\r\n",
        request("/é"),
        request("/a b"),
    ],
)
def test_what_is_not_one_whole_head_is_never_for_the_memo(data: bytes) -> None:
    assert not memo.is_head(data)


def test_long_heads_are_judged_in_one_pass() -> None:
    for piece in (b"X:" + b" " * 50_000, b"a" * 50_000, b"a:b\r\n" * 20_000, b"Connection:" + b"\t " * 30_000):
        assert not memo.is_head(b"GET / HTTP/1.1\r\n" + piece)


@pytest.mark.parametrize("name", ["traceparent", "X-Request-Id", "Baggage", "x-b3-traceid", "X-Amzn-Trace-Id"])
async def test_requests_that_differ_each_time_are_not_even_counted(hot: Side, name: str) -> None:
    asked = request(KEY, f"{name}: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    await hot.warm(asked)
    assert (len(hot.memo), len(hot.memo._sighted)) == (0, 0)


async def test_a_request_id_is_echoed_to_its_own_request_only(hot: Side) -> None:
    line = await hot.warm(GET)
    assert header(await line.ask(request(KEY, "X-Request-Id: one")), "X-Request-Id") == "one"
    assert b"X-Request-Id" not in await line.ask(GET)


async def test_a_request_is_kept_at_its_second_sight(hot: Side) -> None:
    line = hot.connect()
    await line.ask(GET)
    assert len(hot.memo) == 0
    await line.ask(GET)
    assert len(hot.memo) == 1


async def test_the_first_request_of_a_connection_goes_the_ordinary_way(hot: Side) -> None:
    await hot.warm(GET)
    line = hot.connect()
    await line.ask(GET)
    assert hot.hits == 0
    await line.ask(GET)
    assert hot.hits == 1


# ---- which segments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 20, len(GET) - 4, len(GET) - 2, len(GET) - 1])
async def test_a_split_head_is_never_taken_for_another(hot: Side, at: int) -> None:
    line = await hot.warm(GET, request(PATH))
    before = hot.hits
    assert undated(await line.ask(GET[:at], GET[at:])) == undated(await hot.connect().ask(GET))
    # From now on the parser alone knows where a request begins.
    assert undated(await line.ask(GET)) == undated(await hot.connect().ask(GET))
    assert hot.hits == before


async def test_half_a_head_and_a_hot_request_are_one_request(hot: Side) -> None:
    line = await hot.warm(GET)
    half = b"GET /v1/config/payments/production/b HTTP/1.1\r\nX-Junk: "
    answer = await line.ask(half, GET)
    assert header(answer, "Content-Length") == header(await hot.connect().ask(request(f"{PATH}/b")), "Content-Length")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert hot.hits == 0


@pytest.mark.parametrize("length", ["Content-Length: {}", "content-length:{}"])
async def test_a_body_that_looks_like_a_hot_request_is_a_body(hot: Side, length: str) -> None:
    line = await hot.warm(GET)
    answer = await line.ask(request(PATH, length.format(len(GET))), GET)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert hot.hits == 0


async def test_chunks_that_look_like_a_hot_request_are_a_body(hot: Side) -> None:
    line = await hot.warm(GET)
    answer = await line.ask(request(PATH, "Transfer-Encoding: chunked"), GET)
    assert b'"key":"a"' not in answer
    assert hot.hits == 0


async def test_after_an_upgrade_that_was_asked_for_the_memo_is_silent(hot: Side) -> None:
    line = await hot.warm(GET)
    await line.ask(request(PATH, "Connection: Upgrade", "Upgrade: h2c"))
    await line.ask(GET)
    assert hot.hits == 0


async def test_pipelined_requests_are_answered_in_order(hot: Side) -> None:
    other = request(f"{PATH}/b")
    line = await hot.warm(GET, other)
    expected = [undated(await line.ask(one)) for one in (GET, other)]
    before = hot.hits
    assert undated(await line.ask(GET + other)) == b"".join(expected)
    assert hot.hits == before


async def test_a_hot_request_waits_for_the_one_before_it(hot: Side, hub: Hub) -> None:
    line = await hot.warm(GET)
    assert await line.ask(request(f"{PATH}/b?min_revision=11&wait_s=20"), GET) == b""
    hub.prove(11)
    await line.settle()
    first, second = re.findall(rb'"key":"(\w)"', line.pipe.sent)[-2:]
    assert (first, second) == (b"b", b"a")
    assert hot.hits == 0
    await line.ask(GET)
    assert hot.hits == 1


async def test_an_answer_is_kept_for_its_own_request_only(hub: Hub) -> None:
    tokens = Tokens()
    async with side(hub, authenticator=tokens) as one:
        other = request(f"{PATH}/b", "Authorization: Bearer good")
        line = one.connect()
        for asked in (GOOD, other):
            await line.ask(asked)
        tokens.gate.clear()
        line.send(GOOD, other)
        await line.settle()
        tokens.gate.set()
        for _ in range(3):
            assert b'"key":"a"' in await line.ask(GOOD)
            assert b'"key":"b"' in await line.ask(other)
        assert one.hits > 0


async def test_where_the_parser_sees_more_than_one_head_it_is_right(hot: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "is_head", lambda data: True)
    line = hot.connect()
    for _ in range(3):
        await line.ask(GET + GET)
    assert (len(hot.memo), hot.hits) == (0, 0)


async def test_an_answer_that_ends_the_connection_is_not_kept(hot: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = read._answer

    def last(*given: Any) -> web.Response:
        response = answer(*given)
        response.force_close()
        return response

    monkeypatch.setattr(read, "_answer", last)
    for _ in range(3):
        line = hot.connect()
        await line.ask(GET)
        assert line.pipe.closed
    assert len(hot.memo) == 0


async def test_connection_close_closes(hot: Side) -> None:
    line = await hot.warm(GET)
    await line.ask(request(KEY, "Connection: close"))
    assert line.pipe.closed


# ---- as long as nothing changes --------------------------------------------------------------------------------------


async def test_a_change_of_its_scope_ends_an_answer_and_the_next_one_is_kept_at_once(hot: Side, hub: Hub) -> None:
    line = await hot.warm(GET)
    change(hub, stored("b", 2, 11))
    assert header(await line.ask(GET), "ETag").endswith(':11"')
    assert hot.hits == 0
    await line.ask(GET)
    assert hot.hits == 1


async def test_a_change_of_another_scope_ends_none(hot: Side, hub: Hub) -> None:
    line = await hot.warm(GET)
    change(hub, stored("b", 2, 11, Scope("payments", "staging")))
    answer = await line.ask(GET)
    assert (header(answer, "Configsvc-Revision"), hot.hits) == ("11", 1)


async def test_an_answer_made_before_a_change_and_sent_after_it_is_not_given_again(hot: Side, hub: Hub) -> None:
    line = hot.connect()
    await line.ask(GET)
    line.protocol.pause_writing()
    line.send(GET)
    await line.settle()
    change(hub, stored("a", 2, 11))
    line.protocol.resume_writing()
    await line.settle()
    assert b'"value":2' in await line.ask(GET)


async def test_the_proved_revision_is_that_of_now(hot: Side, hub: Hub) -> None:
    line = await hot.warm(GET)
    for revision in (11, 12, 99):
        hub.prove(revision)
        assert header(await line.ask(GET), "Configsvc-Revision") == str(revision)
    assert hot.hits == 3


async def test_staleness_and_source_are_those_of_now(hot: Side, hub: Hub, clock: Clock) -> None:
    line = await hot.warm(GET)
    said = []
    for step in (9.5, 0.5, 0.001, 5, 0):
        clock.at += step
        answer = await line.ask(GET)
        said.append((header(answer, "Configsvc-Source"), header(answer, "Configsvc-Staleness")))
    assert said == [("live", "0")] * 2 + [("memory", "10.001"), ("memory", "15.001"), ("memory", "15.001")]
    hub.prove(11)
    assert header(await line.ask(GET), "Configsvc-Staleness") == "0"
    assert hot.hits == 6


async def test_a_scope_that_stands_still_grows_stale_by_itself(hot: Side, hub: Hub, clock: Clock) -> None:
    window = {"applying": {"id": "x", "state": "opened", "since": "2026-01-01T00:00:00Z", "by": "test"}}
    hub.apply(11, [Event(key=head_path(SCOPE), record=head(11, 1, **window))])
    line = await hot.warm(GET)
    clock.at += 9
    hub.prove(12)
    assert header(await line.ask(GET), "Configsvc-Source") == "live"
    clock.at += 1.5
    assert header(await line.ask(GET), "Configsvc-Source") == "memory"


async def test_the_date_is_that_of_now(hot: Side, clock: Clock) -> None:
    wall = [1_700_000_000.9]
    hot.memo._wall = lambda: wall[0]
    line = await hot.warm(GET)
    said = []
    for step in (0, 0.099, 0.001, 3):
        wall[0] += step
        clock.at += step
        said.append(header(await line.ask(GET), "Date")[-6:-4])
    assert said == ["20", "20", "21", "24"]
    assert hot.hits == 4


async def test_a_draining_service_answers_the_ordinary_way(hot: Side, hub: Hub) -> None:
    line = await hot.warm(GET)
    hub.drain()
    assert (await line.ask(GET)).startswith(b"HTTP/1.1 200 ")
    assert hot.hits == 0


async def test_a_connection_that_is_being_closed_answers_nothing(hot: Side) -> None:
    line = await hot.warm(GET)
    line.protocol.close()
    assert await line.ask(GET) == b""


async def test_a_scope_that_is_gone_is_a_404(hot: Side, hub: Hub) -> None:
    line = await hot.warm(GET)
    fill(hub, 20)
    assert (await line.ask(GET)).startswith(b"HTTP/1.1 404 ")


async def test_an_answer_from_disk_is_not_given_for_one_from_etcd() -> None:
    hub, source = make_hub(make_settings()), make_hub(make_settings())
    fill(source, 10, stored("a", 1, 5))
    update = hub.replica.remember(source.feeds[SCOPE].snapshot, 10, None)
    hub.remember([(update, hub.freshness.now())])
    async with side(hub) as one:
        line = await one.warm(GET)
        assert header(await line.ask(GET), "Configsvc-Source") == "disk"
        assert one.hits == 1
        fill(hub, 10, stored("a", 1, 5))
        assert header(await line.ask(GET), "Configsvc-Source") == "live"


# ---- bounds ----------------------------------------------------------------------------------------------------------


async def test_a_reader_that_is_slow_gets_the_ordinary_way(hot: Side) -> None:
    line = await hot.warm(GET)
    line.protocol.pause_writing()
    await line.ask(GET)
    assert hot.hits == 0
    line.protocol.resume_writing()
    await line.settle()
    await line.ask(GET)
    assert hot.hits == 1


async def test_a_reader_that_takes_nothing_costs_a_bounded_buffer(hub: Hub) -> None:
    app = create_app(make_settings(), hub)
    big = request(f"{PATH}/big")
    async with serving(hub, app=app) as url, connect(url) as connection:
        for _ in range(2):
            connection.send(big)
            await connection.response()
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(2000):
            connection.send(big)
            await asyncio.sleep(0)
        metrics = app[context.METRICS]
        # The ordinary way stands and waits for the reader.
        await until(lambda: metrics.in_progress == 1)
        metrics.flush()
        # 40 kB each: what the kernel takes and one high-water mark, not two thousand answers.
        assert metrics.memo_hits < 500


# ---- as the ordinary way does ----------------------------------------------------------------------------------------


def counted(side: Side) -> set[str]:
    text = side.metrics.exposition().decode()
    wanted = r"^(configsvc_(?:http_requests_total|http_request_duration_seconds_count|read_cache_total)\S* \S+)"
    return set(re.findall(wanted, text, re.MULTILINE))


async def test_the_same_is_counted(hub: Hub) -> None:
    twin = make_hub(make_settings())
    fill(twin, 10, stored("a", 1, 5))
    async with side(hub) as one, side(twin, hot_reads=False) as other:
        for where in (one, other):
            line = where.connect()
            for asked in [GET, request(KEY, "If-None-Match: *"), request(PATH), request(f"{PATH}/zz")] * 5:
                await line.ask(asked)
        assert one.hits == 9
        assert counted(one) == counted(other)
        text = one.metrics.exposition().decode()
        assert "configsvc_memo_hits_total 9.0" in text
        assert "configsvc_memo_entries 3.0" in text
        assert f"configsvc_memo_bytes {float(one.memo.bytes)}" in text
        route = 'route="/v1/config/{ns}/{env}/{key}",status="200"'
        assert f'configsvc_http_request_duration_seconds_bucket{{le="+Inf",{route}}} 5.0' in text
        assert [where.server.requests_count for where in (one, other)] == [20, 20]


@pytest.fixture
def debug() -> Iterator[list[str]]:
    """At level debug; the log lines of requests."""
    said: list[str] = []

    def note(logger: Any, method: str, event: Any) -> Any:
        if event["event"] == "request":
            said.append(event["path"])
        raise structlog.DropEvent

    root, before = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.DEBUG)
    structlog.configure(processors=[note], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    yield said
    root.setLevel(before)
    structlog.reset_defaults()


async def test_at_level_debug_each_request_has_its_line(hot: Side, debug: list[str]) -> None:
    line = await hot.warm(GET)
    await line.ask(GET)
    assert debug == [KEY] * 3


async def test_an_idle_connection_ends_after_its_last_answer_and_not_before(hot: Side) -> None:
    line = await hot.warm(GET)
    line.protocol._next_keepalive_close_time = 0
    await line.ask(GET)
    line.protocol._process_keepalive()
    await line.settle()
    assert not line.pipe.closed
    line.protocol._next_keepalive_close_time = 0
    line.protocol._process_keepalive()
    await line.settle()
    assert line.pipe.closed
    assert hot.hits == 1


async def test_half_a_head_after_hot_answers_has_a_deadline(hot: Side) -> None:
    line = await hot.warm(GET)
    await line.ask(GET)
    assert line.protocol._deadline is None
    line.send(GET[:20])
    assert line.protocol._deadline is not None


# ---- switches --------------------------------------------------------------------------------------------------------


async def test_a_setting_turns_it_off(hub: Hub) -> None:
    async with side(hub, hot_reads=False) as one:
        await one.warm(GET)
        assert context.MEMO not in one.app
    assert make_settings({"SERVICE_NAME": "payments", "CONFIGSVC_HOT_READS": "false"}).hot_reads is False
    assert make_settings().hot_reads is True


def test_it_was_tested_with_this_aiohttp() -> None:
    assert memo.supported()


async def test_with_another_aiohttp_it_is_off_and_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with structlog.testing.capture_logs() as lines:
        assert not memo.supported("9.9.9")
    assert [(line["log_level"], line["aiohttp"]) for line in lines] == [("warning", "9.9.9")]
    monkeypatch.setattr(memo, "supported", lambda: False)
    assert context.MEMO not in create_app(make_settings(), hub)
