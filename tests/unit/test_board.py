"""What workers share: publications survive whoever is killed while writing, and add up by the rule of each metric."""

import asyncio
import sys
from collections.abc import Iterator
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc import board as boards
from configsvc.board import GONE, READY, STARTING, Board
from configsvc.metrics import TABLE, Metrics
from configsvc.totals import Totals, collected, counted, decode, encode, together
from configsvc.web.health import Health
from tests.support.service import fill, make_hub, make_settings, stored

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a system that forks")


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board(2)
    yield board
    board.close()


def test_a_slot_has_what_was_published_last(board: Board) -> None:
    assert (board.read(1), board.published(1)) == (b"", 0)
    for times, data in enumerate((b"one", b"", b"three" * 1000), 1):
        assert board.write(1, data)
        assert (board.read(1), board.published(1)) == (data, times)
    assert (board.read(2), board.published(2)) == (b"", 0)


def test_what_was_broken_off_is_not_read(board: Board) -> None:
    """A kill may come between any two bytes: then what was published before counts."""
    assert board.write(1, b"first")
    assert board.write(1, b"second")
    kept = bytes(board._memory)
    assert board.write(1, b"third!")
    after = bytes(board._memory)
    changed = [at for at in range(len(kept)) if kept[at] != after[at]]
    # All that differs but the last byte written: the checksum, and anything before it.
    for missing in changed:
        board._memory[:] = after
        board._memory[missing] = kept[missing]
        assert (board.read(1), board.published(1)) == (b"second", 2)
    board._memory[:] = after
    assert board.read(1) == b"third!"


def test_what_does_not_fit_is_not_published(board: Board) -> None:
    assert board.write(1, b"x")
    assert not board.write(1, b"y" * boards.SLOT_BYTES)
    assert board.read(1) == b"x"


def test_it_has_begun_once_all_had_data_and_stays_so(board: Board) -> None:
    board.set_state(1, READY)
    board.set_state(2, STARTING)
    assert (board.ready, board.began) == (1, False)
    board.set_state(2, READY)
    assert (board.ready, board.began) == (2, True)
    board.set_state(1, GONE)
    assert (board.ready, board.began) == (1, True)


def test_at_the_start_none_is_ready_before_all_are(board: Board) -> None:
    hub = make_hub(make_settings())
    fill(hub, 1, stored("a", 1, 1))
    health = Health(hub)
    assert health.ready
    health.among(board, 2)
    board.set_state(2, READY)
    assert not health.ready, "a connection may come to the other one"
    assert health.finding("workers") == "1 of 2 have data; this is number 2"
    board.set_state(1, READY)
    assert health.ready
    board.set_state(1, GONE)
    assert health.ready, "connections wait for its successor"
    assert health.finding("cache") == "not in use"


async def test_who_does_not_answer_is_not_waited_for_long(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "ANSWER_S", 0.05)
    asked: list[int] = []
    first = board.bells(1, lambda: asked.append(1))
    second = board.bells(2, lambda: asked.append(2))
    for number in board.numbers:
        board.set_state(number, READY)
    with first:
        with second:
            await asyncio.wait_for(asyncio.gather(first.ask(), first.ask(), second.ask()), 20)
            assert sorted(asked) == [1, 2, 2]
        # The second is there and hears nothing, also not when its queue is full.
        for _ in range(40):
            await asyncio.wait_for(asyncio.gather(*(first.ask() for _ in range(5))), 20)
        board.set_state(2, GONE)
        before = monotonic()
        await first.ask()
        assert monotonic() - before < 20
    assert sorted(asked) == [1, 2, 2]


# ---- metrics -----------------------------------------------------------------------------------------------------


def metrics(requests: int, streams: int, seconds: float = 0.02) -> Metrics:
    made = Metrics(make_hub(make_settings()))
    for _ in range(requests):
        made.answered("GET", "/r", 200, seconds)
    made.streams["sse"] = streams
    return made


def lines(text: bytes) -> dict[str, float]:
    found = (line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in found}


def test_every_metric_has_a_rule_that_fits_its_kind() -> None:
    for name, declared in TABLE.items():
        assert declared.across in ("sum", "max", "min")
        if declared.kind == "histogram":
            assert declared.across == "sum", name


async def test_one_worker_alone_says_what_it_would_say_without_others() -> None:
    board = Board(1)
    made = metrics(3, 2)
    board.set_state(1, READY)
    shared, alone = lines(await Totals(made, board, 1).exposition()), lines(made.exposition())
    age = "configsvc_staleness_seconds"
    assert shared.pop(age) <= alone.pop(age), "it was asked first"
    assert shared == alone
    board.close()


async def test_workers_add_up_and_the_dead_are_remembered(board: Board) -> None:
    requests = 'configsvc_http_requests_total{method="GET",route="/r",status="200"}'
    bucket = 'configsvc_http_request_duration_seconds_bucket{le="0.025",route="/r",status="200"}'
    streams = 'configsvc_subscribers{transport="sse"}'
    for number in board.numbers:
        board.set_state(number, READY)
    first, second = Totals(metrics(3, 2), board, 1), Totals(metrics(4, 5), board, 2)
    second.publish()
    for answer in (lines(await first.exposition()), lines(await second.exposition())):
        assert (answer[requests], answer[bucket], answer[streams], answer["configsvc_workers"]) == (7, 7, 7, 2)

    board.set_state(2, GONE)
    answer = lines(await first.exposition())
    assert (answer[requests], answer[bucket], answer[streams], answer["configsvc_workers"]) == (7, 7, 2, 1)

    for times in (1, 2, 3):
        board.set_state(2, STARTING)
        board.count_restart()
        made = metrics(1, 0)
        made.restarts = lambda: board.restarts
        second = Totals(made, board, 2)
        second.publish()
        answer = lines(await first.exposition())
        assert (answer[requests], answer[bucket], answer[streams]) == (7 + times, 7 + times, 2)
        assert (answer["configsvc_workers"], answer["configsvc_worker_restarts_total"]) == (2, times)


def test_a_worker_is_judged_by_its_worst() -> None:
    one = {"configsvc_revision": {("configsvc_revision", ()): 5.0}, "configsvc_ready": {("configsvc_ready", ()): 1.0}}
    two = {"configsvc_revision": {("configsvc_revision", ()): 7.0}, "configsvc_ready": {("configsvc_ready", ()): 0.0}}
    total = together([one, two])
    assert total["configsvc_revision"] == {("configsvc_revision", ()): 5.0}
    assert total["configsvc_ready"] == {("configsvc_ready", ()): 0.0}
    assert counted(total) == {}


FAMILIES = st.sampled_from([name.removesuffix("_total") for name in TABLE])
SAMPLES = st.dictionaries(
    FAMILIES,
    st.dictionaries(
        st.tuples(st.text(max_size=5), st.just((("label", "x"),))), st.floats(0, 2**40).map(float), max_size=3
    ),
    max_size=4,
)


@given(SAMPLES, SAMPLES, SAMPLES)
def test_the_order_of_workers_does_not_matter(one, two, three) -> None:  # type: ignore[no-untyped-def]
    total = together([one, two, three])
    again = together([three, one, two])
    assert total.keys() == again.keys()
    for family, values in total.items():
        assert values == pytest.approx(again[family])
    assert decode(encode(one)) == one
    assert decode(b"") == {}


def test_what_a_registry_has_comes_through() -> None:
    made = metrics(2, 1)
    samples = collected(made.registry.collect())
    assert decode(encode(samples)) == samples
    assert {family for family in samples if family.startswith("configsvc_http")} == {
        "configsvc_http_requests",
        "configsvc_http_request_duration_seconds",
        "configsvc_http_requests_in_progress",
    }
