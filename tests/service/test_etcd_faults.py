"""What goes wrong between us and etcd, by a scripted gateway and a proxy: each symptom, and what follows from it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from configsvc.etcd.gateway import Gateway
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import (
    Ambiguous,
    Compacted,
    Corrupt,
    EtcdError,
    FutureRevision,
    Invalid,
    NoSpace,
    NotFound,
    Put,
    Range,
    Txn,
    Unavailable,
    Unreachable,
    WatchBatch,
)
from tests.support.etcd import get, put
from tests.support.proxy import TcpProxy
from tests.support.scripted import CREATED_LINE, HEADER, Answer, ScriptedGateway, answer, lines, text

RANGE, TXN, WATCH = "/v3/kv/range", "/v3/kv/txn", "/v3/watch"
OK = answer({"header": HEADER})
WRITE = Txn(success=(Put(key=b"k", value=b"v"),))
NO_LEADER = answer({"code": 14, "message": "etcdserver: no leader"}, 503)
TIMED_OUT = answer(
    {"error": "etcdserver: request timed out", "code": 14, "message": "etcdserver: request timed out"}, 503
)
Servers = Callable[[int], Awaitable[list[ScriptedGateway]]]


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:

        async def start(count: int) -> list[ScriptedGateway]:
            return [await stack.enter_async_context(ScriptedGateway()) for _ in range(count)]

        yield start


@pytest.fixture
async def scripted(servers: Servers) -> ScriptedGateway:
    return (await servers(1))[0]


@pytest.fixture
async def refused_url() -> str:
    async with TcpProxy("http://127.0.0.1:1") as proxy:
        return proxy.url


# ---- requests --------------------------------------------------------------------------------------------------------


async def test_what_every_request_carries(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url, config={"read_s": 2.0, "write_s": 4.0})
    scripted.play(RANGE, OK)
    scripted.play(TXN, OK)
    scripted.play(WATCH, lines(CREATED_LINE))
    await get(gateway, b"k")
    await gateway.txn(WRITE)
    async with gateway.watch(b"k", 7, member=gateway.members[0]):
        pass
    read, write, watch = scripted.requests
    assert read.headers["Grpc-Timeout"] == "1900m"
    assert write.headers["Grpc-Timeout"] == "3800m"
    assert "Grpc-Timeout" not in watch.headers
    for request in (read, write, watch):
        assert request.headers["Grpc-Metadata-hasleader"] == "true"
        assert "Authorization" not in request.headers
    assert watch.body == {
        "create_request": {
            "key": "aw==",
            "range_end": "bA==",
            "start_revision": "7",
            "progress_notify": True,
            "fragment": True,
        }
    }


ERRORS = [
    (400, {"code": 3, "message": "etcdserver: key is not provided"}, Invalid, Invalid),
    (404, {"code": 5, "message": "etcdserver: requested lease not found"}, NotFound, NotFound),
    (429, {"code": 8, "message": "etcdserver: mvcc: database space exceeded"}, NoSpace, NoSpace),
    (429, {"code": 8, "message": "grpc: received message larger than max (3 vs. 2)"}, Invalid, Invalid),
    (429, {"code": 8, "message": "etcdserver: too many requests"}, Unavailable, Unavailable),
    (400, {"code": 11, "message": "etcdserver: mvcc: required revision has been compacted"}, Compacted, Compacted),
    (
        400,
        {"code": 11, "message": "etcdserver: mvcc: required revision is a future revision"},
    )
    + (FutureRevision,) * 2,
    (503, {"code": 14, "message": "etcdserver: no leader"}, Unavailable, Unavailable),
    (503, {"code": 14, "message": "etcdserver: leader changed"}, Unavailable, Ambiguous),
    (504, {"code": 4, "message": "context deadline exceeded"}, Unavailable, Ambiguous),
    (500, {"code": 2, "message": "context deadline exceeded"}, Unavailable, Ambiguous),
    (408, {"code": 1, "message": "context canceled"}, Unavailable, Ambiguous),
    (500, {"code": 15, "message": "etcdserver: corrupt cluster"}, Corrupt, Ambiguous),
]


@pytest.mark.parametrize(("status", "body", "read", "write"), ERRORS)
@pytest.mark.parametrize("old", [True, False])
async def test_errors_of_the_table(
    scripted: ScriptedGateway,
    make_gateway: Any,
    status: int,
    body: dict[str, Any],
    read: type[EtcdError],
    write: type[EtcdError],
    old: bool,
) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    played = answer({"error": body["message"], **body} if old else body, status)
    scripted.play(RANGE, played)
    scripted.play(TXN, played)
    with pytest.raises(read) as raised:
        await gateway.range(Range(key=b"k"), member=gateway.members[0])
    assert type(raised.value) is read
    assert raised.value.detail == body["message"]
    assert raised.value.endpoint == scripted.url
    scripted.play("/v3/other", OK)
    gateway = await make_gateway(scripted.url)
    with pytest.raises(write) as raised:
        await gateway.txn(WRITE)
    assert type(raised.value) is write
    assert len(scripted.seen(TXN)) == 1


@pytest.mark.parametrize(
    ("played", "words"),
    [
        (text("404 page not found\n", 404), "is this a client URL of etcd, 3.4 or newer"),
        (answer({"code": 5, "message": "Not Found", "details": []}, 404), "is this a client URL of etcd"),
        (text("<html>It works!</html>", 200), "not an answer of etcd's"),
        (answer({"status": "ok"}), "not an answer of etcd's"),
        (text("Client sent an HTTP request to an HTTPS server.\n", 400), "HTTP request to an HTTPS server"),
        (Answer(302, (b"",), {"Location": "http://elsewhere.example/"}), "redirects to http://elsewhere.example/"),
        (text("upstream is gone", 502), "upstream is gone"),
    ],
)
async def test_not_etcd(scripted: ScriptedGateway, make_gateway: Any, played: Answer, words: str) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    scripted.play(RANGE, played)
    with pytest.raises(Unavailable, match=words):
        await gateway.range(Range(key=b"k"), member=gateway.members[0])


async def test_redirects_are_not_followed(servers: Servers, make_gateway: Any) -> None:
    here, there = await servers(2)
    here.play(RANGE, Answer(307, (b"",), {"Location": there.url + RANGE}))
    there.play(RANGE, OK)
    gateway: Gateway = await make_gateway(here.url)
    with pytest.raises(Unavailable, match="not followed"):
        await get(gateway, b"k")
    assert there.requests == []


async def test_proxies_of_the_environment_are_not_used(
    servers: Servers, make_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = await servers(2)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    server.play(RANGE, OK)
    await get(await make_gateway(server.url), b"k")
    assert proxy.requests == []


async def test_an_answer_over_the_bound(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url, config={"max_answer_bytes": 1000})
    scripted.play(RANGE, Answer(chunks=(b"x" * 600, b"x" * 600), hang=True))
    with pytest.raises(EtcdError, match="over 1000"):
        await get(gateway, b"k")


async def test_an_answer_that_says_it_is_over_the_bound(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url, config={"max_answer_bytes": 1000})
    scripted.play(RANGE, Answer(chunks=(b"x",), headers={"Content-Length": "2000"}, hang=True))
    with pytest.raises(EtcdError, match="2000 bytes, over 1000"):
        await get(gateway, b"k")
    # One key cannot be cut in pages.
    with pytest.raises(EtcdError, match="over 1000"):
        await gateway.list(b"k")
    assert [seen.body["limit"] for seen in scripted.seen(RANGE)[1:]] == ["32", "4", "1"]


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:99999", "http://no.such.host.invalid:2379"])
async def test_a_url_that_leads_nowhere(make_gateway: Any, url: str) -> None:
    gateway: Gateway = await make_gateway(url)
    with pytest.raises(Unreachable):
        await gateway.txn(WRITE)


async def test_one_endpoint_left_alone_costs_no_attempts(servers: Servers, make_gateway: Any) -> None:
    """While the other fails for a moment, all attempts go to it."""
    dead, shaky = await servers(2)
    dead.play(RANGE, TIMED_OUT)
    gateway: Gateway = await make_gateway(dead.url, shaky.url, config={"breaker_failures": 4})
    for _ in range(4):
        with pytest.raises(Unavailable):
            await gateway.range(Range(key=b"k"), member=gateway.members[0])
    assert gateway.members[0].breaker == "open"
    shaky.play(RANGE, TIMED_OUT, TIMED_OUT, TIMED_OUT, OK)
    assert (await get(gateway, b"k")).header.revision == 7
    assert len(dead.requests) == 4


# ---- reads go on, writes do not --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failing",
    [
        NO_LEADER,
        TIMED_OUT,
        Answer(hang=True),
        Answer(reset=True),
        Answer(chunks=(b'{"hea',), reset=True),
        text("", 502),
    ],
)
async def test_a_read_goes_on_to_the_next_endpoint(servers: Servers, make_gateway: Any, failing: Answer) -> None:
    bad, good = await servers(2)
    bad.play(RANGE, failing)
    good.play(RANGE, OK)
    gateway: Gateway = await make_gateway(bad.url, good.url, config={"read_s": 0.3})
    assert (await get(gateway, b"k")).header.revision == 7
    # And stays there.
    before = len(bad.requests)
    await get(gateway, b"k")
    assert (len(bad.requests), len(good.requests)) == (before, 2)
    assert gateway.next_member().url == good.url
    assert gateway.next_member(after=gateway.members[1]).url == bad.url


async def test_a_read_of_one_member_stays_there(servers: Servers, make_gateway: Any) -> None:
    bad, good = await servers(2)
    bad.play(RANGE, NO_LEADER)
    gateway: Gateway = await make_gateway(bad.url, good.url)
    with pytest.raises(Unavailable):
        await gateway.range(Range(key=b"k"), member=gateway.members[0])
    assert (len(bad.requests), good.requests) == (1, [])


async def test_a_read_does_not_go_on_where_it_cannot_help(servers: Servers, make_gateway: Any) -> None:
    one, two = await servers(2)
    one.play(RANGE, answer({"code": 11, "message": "etcdserver: mvcc: required revision has been compacted"}, 400))
    with pytest.raises(Compacted):
        await get(await make_gateway(one.url, two.url), b"k")
    assert two.requests == []


@pytest.mark.parametrize("failing", [TIMED_OUT, Answer(hang=True), Answer(reset=True), text("", 502)])
async def test_a_write_is_sent_once(servers: Servers, make_gateway: Any, failing: Answer) -> None:
    one, two = await servers(2)
    one.play(TXN, failing)
    two.play(TXN, OK)
    gateway: Gateway = await make_gateway(one.url, two.url, config={"write_s": 0.3})
    with pytest.raises(Ambiguous) as raised:
        await gateway.txn(WRITE)
    assert raised.value.endpoint == one.url
    assert (len(one.seen(TXN)), two.requests) == (1, [])


@pytest.mark.parametrize("failing", [TIMED_OUT, Answer(hang=True), Answer(reset=True), text("", 502)])
async def test_a_transaction_that_only_reads_is_a_read(servers: Servers, make_gateway: Any, failing: Answer) -> None:
    one, two = await servers(2)
    one.play(TXN, failing)
    two.play(TXN, OK)
    gateway: Gateway = await make_gateway(one.url, two.url, config={"read_s": 0.3})
    await gateway.txn(Txn(success=(Range(key=b"k"),)))
    assert len(two.seen(TXN)) == 1


async def test_a_write_goes_on_where_nothing_was_sent(
    scripted: ScriptedGateway, make_gateway: Any, refused_url: str
) -> None:
    scripted.play(TXN, OK)
    gateway: Gateway = await make_gateway(refused_url, scripted.url)
    await gateway.txn(WRITE)
    assert len(scripted.seen(TXN)) == 1
    with pytest.raises(Unreachable) as raised:
        await (await make_gateway(refused_url)).txn(WRITE)
    assert raised.value.endpoint == refused_url


async def test_no_leader_late_is_ambiguous_and_at_once_is_not(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    scripted.play(TXN, NO_LEADER)
    with pytest.raises(Unavailable) as raised:
        await gateway.txn(WRITE)
    assert not isinstance(raised.value, Ambiguous)
    scripted.play(TXN, Answer(503, NO_LEADER.chunks, delay_s=1.2))
    with pytest.raises(Ambiguous):
        await gateway.txn(WRITE)


async def test_a_pooled_connection_that_was_closed(any_etcd: LocalEtcd, make_gateway: Any, prefix: bytes) -> None:
    """As after a restart of etcd: the next read succeeds at the same endpoint, without waiting."""
    async with TcpProxy(any_etcd.url) as proxy:
        gateway: Gateway = await make_gateway(proxy.url, config={"read_rounds": 1})
        await put(gateway, prefix, b"1")
        for _ in range(5):
            proxy.cut()
            member = gateway.members[0]
            assert (await gateway.range(Range(key=prefix), member=member)).kvs[0].value == b"1"


async def test_a_server_that_hangs_up_on_the_first_request(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    scripted.play(RANGE, Answer(reset=True), OK)
    await gateway.range(Range(key=b"k"), member=gateway.members[0])
    assert len(scripted.seen(RANGE)) == 2
    scripted.play(TXN, Answer(reset=True), OK)
    with pytest.raises(Ambiguous):
        await gateway.txn(WRITE)
    assert len(scripted.seen(TXN)) == 1


async def test_a_frozen_member_costs_one_deadline(any_etcd: LocalEtcd, make_gateway: Any, prefix: bytes) -> None:
    async with TcpProxy(any_etcd.url) as frozen, TcpProxy(any_etcd.url) as fine:
        gateway: Gateway = await make_gateway(frozen.url, fine.url, config={"read_s": 0.4})
        await put(gateway, prefix, b"1")
        frozen.stall()
        assert (await get(gateway, prefix)).kvs[0].value == b"1"
        passed = frozen.accepted
        assert (await get(gateway, prefix)).kvs[0].value == b"1"
        assert frozen.accepted == passed
        frozen.resume()


async def test_list_starts_over_when_its_revision_is_compacted(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    kv = {"key": "azE=", "mod_revision": "3", "create_revision": "3", "version": "1"}
    page = answer({"header": HEADER, "kvs": [kv], "more": True, "count": "2"})
    compacted = answer({"code": 11, "message": "etcdserver: mvcc: required revision has been compacted"}, 400)
    last = answer({"header": HEADER, "kvs": [{**kv, "key": "azI="}], "count": "1"})
    scripted.play(RANGE, page, compacted, page, last)
    assert [kv.key for kv in (await gateway.list(b"k")).kvs] == [b"k1", b"k2"]
    assert [seen.body.get("revision") for seen in scripted.seen(RANGE)] == [None, "7", None, "7"]
    scripted.play(RANGE, compacted)
    with pytest.raises(Compacted):
        await gateway.list(b"k")


async def test_waiting_for_a_connection_of_the_pool_is_not_sent(scripted: ScriptedGateway, make_gateway: Any) -> None:
    """When our own connections are all in use, a write that got none is not ambiguous."""
    gateway: Gateway = await make_gateway(scripted.url, config={"pool_size": 1, "write_s": 0.3, "read_s": 5.0})
    scripted.play(RANGE, Answer(delay_s=2.0, chunks=OK.chunks))
    scripted.play(TXN, OK)
    reading = asyncio.ensure_future(get(gateway, b"k"))
    while not scripted.requests:
        await asyncio.sleep(0.01)
    with pytest.raises(Unreachable):
        await gateway.txn(WRITE)
    await reading
    assert scripted.seen(TXN) == []


# ---- breaker ---------------------------------------------------------------------------------------------------------


class Log:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.states: list[tuple[str, str]] = []

    def etcd_call(self, operation: str, outcome: str, seconds: float, endpoint: str) -> None:
        assert seconds >= 0
        self.calls.append((operation, outcome, endpoint))

    def etcd_breaker(self, endpoint: str, state: str) -> None:
        self.states.append((endpoint, state))


async def test_breaker_leaves_an_endpoint_alone_and_comes_back(scripted: ScriptedGateway, make_gateway: Any) -> None:
    now, log = [0.0], Log()
    config = {"breaker_failures": 2, "breaker_open_s": 5.0}
    gateway: Gateway = await make_gateway(scripted.url, config=config, clock=lambda: now[0], observer=log)
    member = gateway.members[0]
    request = Range(key=b"k")
    scripted.play(RANGE, TIMED_OUT)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await gateway.range(request, member=member)
    assert repr(member) == f"{scripted.url} (open)"
    for refused in (gateway.range(request, member=member), gateway.txn(WRITE)):
        with pytest.raises(Unreachable, match="circuit breaker"):
            await refused
    assert len(scripted.requests) == 2
    now[0] = 5.0
    assert member.breaker == "half-open"
    scripted.play(RANGE, Answer(delay_s=0.2, chunks=OK.chunks))
    outcomes = await asyncio.gather(*(gateway.range(request, member=member) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, Unreachable) for outcome in outcomes) == 4
    assert len(scripted.requests) == 3
    assert member.breaker == "closed"
    assert [state for _, state in log.states] == ["open", "half-open", "closed"]
    assert log.calls == [("range", "unavailable", scripted.url)] * 2 + [("range", "ok", scripted.url)]


async def test_a_probe_that_is_given_up_lets_the_next_one_try(scripted: ScriptedGateway, make_gateway: Any) -> None:
    now = [0.0]
    gateway: Gateway = await make_gateway(scripted.url, config={"breaker_failures": 1}, clock=lambda: now[0])
    scripted.play(RANGE, TIMED_OUT, Answer(hang=True), OK)
    with pytest.raises(Unavailable):
        await gateway.range(Range(key=b"k"), member=gateway.members[0])
    now[0] = 100.0
    probe = asyncio.ensure_future(get(gateway, b"k"))
    while len(scripted.requests) < 2:
        await asyncio.sleep(0.01)
    probe.cancel()
    await asyncio.wait([probe])
    assert (await get(gateway, b"k")).header.revision == 7


async def test_damaged_data_opens_the_breaker_at_once(servers: Servers, make_gateway: Any) -> None:
    bad, good = await servers(2)
    bad.play(RANGE, answer({"code": 15, "message": "etcdserver: corrupt cluster"}, 500))
    good.play(RANGE, OK)
    gateway: Gateway = await make_gateway(bad.url, good.url)
    await get(gateway, b"k")
    assert repr(gateway) == f"Gateway({bad.url} (open), {good.url} (closed))"


# ---- watches ---------------------------------------------------------------------------------------------------------

EVENT = {"kv": {"key": "azE=", "value": "djE=", "create_revision": "8", "mod_revision": "8", "version": "1"}}
EVENTS_LINE = {"result": {"header": HEADER, "events": [EVENT]}}
OLD_ERROR = {"error": {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader", "http_status": "x"}}
NEW_ERROR = {"error": {"code": 14, "message": "etcdserver: no leader"}}


async def played(gateway: Gateway, scripted: ScriptedGateway, script: Answer) -> list[WatchBatch]:
    scripted.play(WATCH, script)
    batches = []
    async with asyncio.timeout(20), gateway.watch(b"k", 1, member=gateway.members[0]) as watch:
        async for batch in watch:
            batches.append(batch)  # noqa: PERF401
    return batches


@pytest.mark.parametrize("error", [json.dumps(OLD_ERROR), json.dumps(NEW_ERROR) + "\n"])
async def test_the_error_line_with_and_without_newline(
    scripted: ScriptedGateway, make_gateway: Any, error: str
) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    head = [json.dumps(line).encode() + b"\n" for line in (CREATED_LINE, EVENTS_LINE)]
    with pytest.raises(Unavailable, match="no leader"):
        await played(gateway, scripted, Answer(chunks=(*head, error.encode())))


async def test_a_watch_refused_with_a_status(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    for error in (OLD_ERROR, NEW_ERROR):
        with pytest.raises(Unavailable, match="no leader"):
            await played(gateway, scripted, Answer(503, (json.dumps(error).encode(),)))


async def test_canceled_ends_the_iterator_though_the_stream_stays_open(
    scripted: ScriptedGateway, make_gateway: Any
) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    header = {key: value for key, value in HEADER.items() if key != "revision"}
    canceled = {"result": {"header": header, "canceled": True, "compact_revision": "24"}}
    batches = await played(gateway, scripted, lines(CREATED_LINE, EVENTS_LINE, canceled, hang=True))
    assert [(batch.kind, batch.compact_revision) for batch in batches] == [
        ("created", 0),
        ("events", 0),
        ("canceled", 24),
    ]


async def test_a_watch_that_is_not_confirmed(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url, config={"created_s": 0.2})
    for silent in (Answer(hang=True), Answer(chunks=(b" ",), hang=True)):
        with pytest.raises(Unavailable, match=r"not confirmed within 0\.2 s"):
            await played(gateway, scripted, silent)


@pytest.mark.parametrize("reset", [True, False])
async def test_the_stream_ends_without_a_word(scripted: ScriptedGateway, make_gateway: Any, reset: bool) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    seen = []
    scripted.play(WATCH, lines(CREATED_LINE, EVENTS_LINE, hang=False, reset=reset))
    with pytest.raises(Unavailable):
        async with gateway.watch(b"k", 1, member=gateway.members[0]) as watch:
            async for batch in watch:
                seen.append(batch.kind)  # noqa: PERF401
    assert seen in (["created", "events"], ["created"]) if reset else seen == ["created", "events"]


async def test_the_connection_breaks_between_fragments(scripted: ScriptedGateway, make_gateway: Any) -> None:
    """What is not whole is not shown."""
    gateway: Gateway = await make_gateway(scripted.url)
    fragment = {"result": {"header": HEADER, "fragment": True, "events": [EVENT]}}
    scripted.play(WATCH, lines(CREATED_LINE, fragment, hang=False))
    seen = []
    with pytest.raises(Unavailable):
        async with gateway.watch(b"k", 1, member=gateway.members[0]) as watch:
            async for batch in watch:
                seen.append(batch.kind)  # noqa: PERF401
    assert seen == ["created"]


async def test_a_line_that_is_none_of_etcds(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    for line in (b"<html>\n", b"{}\n", b'{"result":7}\n'):
        with pytest.raises(Unavailable, match="not etcd's"):
            await played(gateway, scripted, Answer(chunks=(json.dumps(CREATED_LINE).encode() + b"\n" + line,)))


async def test_a_watch_of_an_unknown_member(scripted: ScriptedGateway, make_gateway: Any) -> None:
    gateway: Gateway = await make_gateway(scripted.url)
    other: Gateway = await make_gateway("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="is not one of"):
        async with gateway.watch(b"k", 1, member=other.members[0]):
            pass
