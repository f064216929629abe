"""Whatever is asked, in whatever pieces, while whatever changes: with and without the memo the bytes are the same.

Two services get the same requests, cut at the same places, on hubs to which the same happens. Changes come between
requests, not while one is being answered: then an answer may show the state before or after, and both are right.
"""

import asyncio
import re
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.core.model import entry_path, head_path
from configsvc.core.policy import ANONYMOUS, Identity
from configsvc.core.replica import Event
from configsvc.errors import Unauthenticated
from configsvc.hub import Hub
from tests.support.service import SCOPE, change, fill, head, make_hub, make_settings, stored
from tests.support.wire import Side, request, side

PATH = "/v1/config/payments/production"
LINES = 2
"""Connections of each service."""
EACH_TIME_ANOTHER = re.compile(
    rb'(?<=\r\nDate: )[^\r]+|(?<=\r\nX-Request-Id: )[0-9a-f]{16}|(?<="request_id":")[0-9a-f]{16}'
)

HOT = [
    request(f"{PATH}/a"),
    request(f"{PATH}/a?raw=true"),
    request(PATH),
    request(PATH, "Accept-Encoding: gzip"),
    request(f"{PATH}?view=entries", "Connection: keep-alive"),
    request(f"{PATH}/a", "If-None-Match: *"),
    request(f"{PATH}/a", "Authorization: Bearer other"),
]
OTHER = [
    request(f"{PATH}/zz"),
    request(f"{PATH}/a", method="HEAD"),
    request(f"{PATH}/a", method="DELETE"),
    request(f"{PATH}/a?min_revision=12&wait_s=0"),
    request(f"{PATH}?view=no"),
    request("/v1/config/orders/production"),
    request(f"{PATH}/a", "X-Request-Id: mine"),
    request(f"{PATH}/a", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    request(f"{PATH}/a", "Expect: 100-continue"),
    request(f"{PATH}/a", "Connection: Upgrade", "Upgrade: h2c"),
    request(f"{PATH}/a", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    request(f"{PATH}/a", "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(HOT[0]), HOT[0]),
    request(f"{PATH}/a", "Content-Length: 4") + b"abcd",
    request(f"{PATH}/a", f"Content-Length: {len(HOT[0])}") + HOT[0],
    request(f"{PATH}/a", "Content-Length: 0"),
    b"\r\n",
    request(f"{PATH}/a").replace(b"\r\n", b"\n"),
    request(f"{PATH}/a").replace(b"1.1", b"1.0"),
]
LAST = [
    request(f"{PATH}/a", "Connection: close"),
    request(f"{PATH}/a", "Content-Length: 4", "Transfer-Encoding: chunked"),
    request(f"{PATH}/a", "Host: twice"),
    request(f"{PATH}/a", " folded"),
    b"GET /\x00 HTTP/1.1\r\n\r\n",
    b"nonsense\r\n\r\n",
]
"""After these the connection ends."""


class Tokens:
    """Everybody may read, but for one token while that is forbidden."""

    def __init__(self) -> None:
        self.generation = 0
        self.forbidden = False

    async def identify(self, authorization: str | None) -> Identity:
        if authorization and self.forbidden:
            raise Unauthenticated("send another token")
        return ANONYMOUS

    def holds(self, identity: Identity) -> bool:
        return True


class World:
    """One service, its hub, and what happens to it."""

    def __init__(self, where: Side, hub: Hub, tokens: Tokens, time: list[float]) -> None:
        self.where, self.hub, self.tokens, self.time = where, hub, tokens, time
        self.lines = [where.connect() for _ in range(LINES)]
        self.answers: list[bytes] = []
        self.revision = 10

    def send(self, number: int, segments: list[bytes]) -> None:
        if self.lines[number].pipe.closed:
            self.connect(number)
        self.lines[number].send(*segments)

    def connect(self, number: int) -> None:
        before = self.lines[number].pipe
        self.answers.append(before.sent + b"<closed>" * before.closed)
        before.close()
        self.lines[number] = self.where.connect()

    async def settle(self) -> None:
        for line in self.lines:
            await line.settle()

    def happen(self, what: str, how: Any) -> None:
        self.revision += 1
        match what:
            case "change":
                change(self.hub, stored("a", how, self.revision))
            case "delete":
                self.hub.apply(self.revision, [Event(key=entry_path(SCOPE, "a"), record=None)])
            case "prove":
                self.hub.prove(self.revision)
            case "age":
                self.revision -= 1
                self.time[0] += how
            case "window":
                window = {"applying": {"id": "x", "state": "opened", "since": "2026-01-01T00:00:00Z", "by": "test"}}
                record = head(self.revision, 1, **(window if how else {}))
                self.hub.apply(self.revision, [Event(key=head_path(SCOPE), record=record)])
            case "list":
                kept = [stored("a", 1, 5), stored("b", "y" * 3000, 6)][: int(how)]
                fill(self.hub, self.revision, *kept, head(7, 1))
            case "rights":
                self.tokens.forbidden = how
                self.tokens.generation += 1
            case "connect":
                self.revision -= 1
                self.connect(how)
            case "drain":
                self.hub.drain()


def cut(data: bytes, places: list[float]) -> list[bytes]:
    at = sorted({0, len(data), *(round(place * len(data)) for place in places)})
    return [data[start:end] for start, end in pairwise(at)]


requests = st.lists(st.sampled_from(HOT * 4 + OTHER * 2 + LAST), min_size=1, max_size=3)
numbers = st.integers(0, LINES - 1)
sending = st.tuples(
    st.just("send"),
    numbers,
    st.one_of(
        requests,
        st.builds(lambda whole, places: cut(b"".join(whole), places), requests, st.lists(st.floats(0, 1), max_size=3)),
    ),
)
happening = st.one_of(
    st.tuples(st.just("change"), st.integers(0, 3)),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("prove"), st.none()),
    st.tuples(st.just("age"), st.sampled_from([0.25, 1.0, 9.0, 11.0])),
    st.tuples(st.just("window"), st.booleans()),
    st.tuples(st.just("list"), st.integers(0, 2)),
    st.tuples(st.just("rights"), st.booleans()),
    st.tuples(st.just("connect"), numbers),
)


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Mostly a few requests again and again, one at a time as clients do, and between them everything else."""
    favourites = draw(st.lists(st.sampled_from(HOT), min_size=1, max_size=3))
    asking = st.tuples(st.just("ask"), numbers, st.sampled_from(favourites))
    step = st.one_of(asking, asking, asking, asking, sending, st.just(("settle",)), happening)
    warm = [("ask", number, one) for number in range(LINES) for one in favourites * 2]
    return warm + draw(st.lists(step, min_size=8, max_size=50))


async def run(script: list[tuple[Any, ...]], drains: bool, hot_reads: bool) -> tuple[list[bytes], int, set[str]]:
    """What each connection was answered, how often by the memo, and what was counted."""
    time = [1000.0]
    hub = make_hub(make_settings(), clock=lambda: time[0])
    fill(hub, 10, stored("a", 1, 5), stored("b", "y" * 3000, 6), head(7, 1))
    tokens = Tokens()
    async with side(hub, hot_reads=hot_reads, authenticator=tokens) as where:
        world = World(where, hub, tokens, time)
        await world.settle()
        for step in script + [("drain", None)] * drains + [("send", 0, [HOT[0]]), ("settle",)]:
            if step[0] == "send":
                world.send(step[1], step[2])
                continue
            await world.settle()
            if step[0] == "ask":
                world.send(step[1], [step[2]])
                await world.settle()
            elif step[0] != "settle":
                world.happen(*step)
        answers = world.answers + [line.pipe.sent + b"<closed>" * line.pipe.closed for line in world.lines]
        text = where.metrics.exposition().decode()
        return (
            [EACH_TIME_ANOTHER.sub(b"?", answer) for answer in answers],
            where.hits,
            set(
                re.findall(r"^(configsvc_(?:http_requests_total|refused_connections_total)\S* \S+)", text, re.MULTILINE)
            ),
        )


hits = 0


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts(), st.booleans())
def check(script: list[tuple[Any, ...]], drains: bool) -> None:
    global hits
    with_memo, by_memo, counted = asyncio.run(run(script, drains, hot_reads=True))
    without, none, counted_without = asyncio.run(run(script, drains, hot_reads=False))
    assert with_memo == without
    assert counted == counted_without
    assert none == 0
    hits += by_memo


def test_with_and_without_the_memo_the_same_bytes_are_answered() -> None:
    check()
    # Otherwise nothing was shown.
    assert hits > 100
