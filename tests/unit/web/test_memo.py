"""The memo by itself: admission, bounds, and what an answer costs. No socket and no server."""

from collections.abc import Callable

import pytest

from configsvc.auth import NoAuthentication
from configsvc.core.policy import ANONYMOUS
from configsvc.hub import Hub
from configsvc.metrics import LATENCY_BUCKETS_S, Metrics
from configsvc.web.memo import MAX_REQUEST_BYTES, MAX_SIGHTED, Ground, Memo, Ticket
from tests.support.service import SCOPE, change, fill, make_hub, make_settings, stored

HEADERS = [("Configsvc-Revision", "1"), ("X-Rate", "100%"), ("Date", "then")]
Make = Callable[..., Memo]


@pytest.fixture
def hub() -> Hub:
    hub = make_hub(make_settings())
    fill(hub, 10, stored("a", 1, 5))
    return hub


@pytest.fixture
def metrics(hub: Hub) -> Metrics:
    return Metrics(hub)


@pytest.fixture
def make(hub: Hub, metrics: Metrics) -> Make:
    def make(**more: int) -> Memo:
        return Memo(hub, metrics, NoAuthentication(), lambda hub, scope: {"Configsvc-Revision": "7"}, **more)

    return make


def admit(memo: Memo, hub: Hub, key: bytes, body: bytes = b"{}", generation: int | None = None) -> None:
    feed = hub.feeds[SCOPE]
    ground = Ground(feed, feed.generation if generation is None else generation, ANONYMOUS)
    memo.admit(Ticket(key, 0), ground, route="/r", status=200, reason="OK", headers=HEADERS, body=body)


def test_an_answer_is_the_one_before_with_the_headers_of_now(make: Make, hub: Hub) -> None:
    memo = make()
    admit(memo, hub, b"k", b"50% %s %(Date)b")
    answer = memo.get(b"k")
    assert answer is not None
    first, revision, rate, date, *rest = answer.data.split(b"\r\n")
    assert (first, revision, rate) == (b"HTTP/1.1 200 OK", b"Configsvc-Revision: 7", b"X-Rate: 100%")
    assert date.endswith(b" GMT")
    assert rest == [b"", b"50% %s %(Date)b"]


def test_an_answer_of_an_older_state_is_never_given(make: Make, hub: Hub) -> None:
    memo = make()
    before = hub.feeds[SCOPE].generation
    change(hub, stored("a", 2, 11))
    admit(memo, hub, b"k", generation=before)
    assert memo.get(b"k") is None
    assert (len(memo), memo.bytes) == (0, 0)


def test_answers_are_bounded_in_number_and_those_in_use_stay(make: Make, hub: Hub) -> None:
    memo = make(max_entries=10)
    for number in range(10):
        admit(memo, hub, b"%d" % number)
    assert memo.get(b"0")
    assert memo.get(b"3")
    for number in range(10, 18):
        admit(memo, hub, b"%d" % number)
        assert len(memo) == 10
    assert [n for n in range(18) if memo.get(b"%d" % n)] == [0, 3, *range(10, 18)]


def test_when_all_are_in_use_the_oldest_goes(make: Make, hub: Hub) -> None:
    memo = make(max_entries=3)
    for number in range(3):
        admit(memo, hub, b"%d" % number)
        assert memo.get(b"%d" % number)
    admit(memo, hub, b"3")
    assert [n for n in range(4) if memo.get(b"%d" % n)] != []
    assert len(memo) == 3


def test_answers_are_bounded_in_bytes(make: Make, hub: Hub) -> None:
    memo = make(max_bytes=1_000_000)
    for number in range(100):
        admit(memo, hub, b"%d" % number, b"x" * 50_000)
        assert memo.bytes <= 1_000_000
    assert len(memo) == 9
    admit(memo, hub, b"huge", b"x" * 130_000)
    assert memo.get(b"huge") is None
    assert len(memo) == 9
    for number in range(1000):
        admit(memo, hub, b"%d" % number, b"x" * number)
        assert memo.bytes <= 1_000_000
    fill(hub, 30)
    for key in list(memo._answers):
        assert memo.get(key) is None
    assert (len(memo), memo.bytes) == (0, 0)


def test_sights_are_bounded_in_number_and_hold_no_request(make: Make) -> None:
    memo = make()
    for number in range(MAX_SIGHTED * 2 + 10):
        assert memo.ticket(b"%d" % number) is None
        assert len(memo._sighted) <= MAX_SIGHTED
    assert memo.ticket(b"%d" % (MAX_SIGHTED * 2 + 9)) == Ticket(b"%d" % (MAX_SIGHTED * 2 + 9), 0)
    for _ in range(2):
        assert memo.ticket(b"x" * (MAX_REQUEST_BYTES + 1)) is None


def test_what_a_sender_chooses_hashes_to_what_it_cannot_know(make: Make) -> None:
    one, other = make(), make()
    assert one.caller("a", b"") != other.caller("a", b"")
    # Nothing can be moved from one part of the key to the next.
    assert len({one.caller(*parts) for parts in (("a", b""), ("", b"a"), ("aa", b""), ("a", b"a"), ("", b"aa"))}) == 5
    assert len(one.caller("a" * 1000, b"b" * 5000)) == len(one.caller("", b"")) == 16


def test_requests_of_equal_hash_have_answers_of_their_own(make: Make, hub: Hub) -> None:
    class Collides(bytes):
        def __hash__(self) -> int:
            return 1

    memo = make()
    keys = [Collides(b"%d" % number) for number in range(20)]
    assert memo.ticket(keys[0]) is None
    # To be taken for seen before does no harm: it is kept one sight too early.
    assert memo.ticket(keys[1]) is not None
    for key in keys:
        admit(memo, hub, key, b"body of " + key)
    for key in keys:
        answer = memo.get(key)
        assert answer is not None
        assert answer.data.endswith(b"\r\n\r\nbody of " + key)


def test_a_slow_moment_is_counted_as_such(make: Make, hub: Hub, metrics: Metrics) -> None:
    memo = make()
    admit(memo, hub, b"k")
    times = iter([0.0, 0.0001, 1.0, 1.0001, 2.0, 2.02])
    memo._clock = lambda: next(times)
    for _ in range(3):
        assert memo.get(b"k")
    memo.flush()
    text = metrics.exposition().decode()
    for bound, count in zip((*LATENCY_BUCKETS_S, "+Inf"), [2, 2, 2, 2, 2] + [3] * 11, strict=True):
        row = f'configsvc_http_request_duration_seconds_bucket{{le="{bound}",route="/r",status="200"}} {count}.0'
        assert row in text
    assert 'configsvc_http_request_duration_seconds_sum{route="/r",status="200"} 0.0202' in text
