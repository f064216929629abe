"""When a client polls, when it stops, and how what polls bring meets what the stream brings."""

from random import Random
from typing import Any

import pytest

from configsvc_client.errors import Kind, LinkError
from configsvc_client.options import Tuning, resolve
from configsvc_client.outcome import Outcome
from configsvc_client.poll import Answer, Ask, read_answer
from configsvc_client.protocol import Baseline, Entry, EventId, encode
from configsvc_client.session import Session
from configsvc_client.sse import Decoder
from tests.client.support import EPOCH, NAMESPACE, OTHER_EPOCH, SCOPE, change, snapshot, status

PLACE = (NAMESPACE, "production")


class Link:
    """A session with its clock, driven as a link would; a stream is being opened."""

    def __init__(self, urls: int = 1, seed: int = 1, **more: Any) -> None:
        self.now = 100.0
        names = [f"http://{'abc'[n]}" for n in range(urls)]
        self.session = Session(resolve({}, url=names, **SCOPE, **more), Random(seed), self.now)
        self.session.asked(self.now)

    def open(self) -> None:
        self.session.asked(self.now)
        self.session.opened(self.now, staleness_s=0)

    def event(self, data: bytes) -> Outcome:
        outcome = Outcome()
        for event in Decoder().feed(data):
            outcome = self.session.receive(event, self.now)
        return outcome

    def ask(self) -> Ask:
        self.session.polls(self.now)
        return self.session.ask()

    def answer(
        self,
        values: dict[str, Any] | None,
        revision: int,
        *,
        ask: Ask | None = None,
        epoch: str = EPOCH,
        source: str = "live",
    ) -> Outcome:
        """A poll's answer arrives; None stands for a 304."""
        ask = ask or self.ask()
        status = 304
        body = b""
        if values is not None:
            status = 200
            entries = {key: Entry(value=value) for key, value in values.items()}
            body = encode(Baseline(**SCOPE, epoch=epoch, revision=revision, entries=entries))
        headers = {"Configsvc-Revision": str(revision), "Configsvc-Source": source, "Configsvc-Staleness": "40"}
        answer = read_answer(ask, status, "application/json", headers, body, scope=PLACE)
        assert answer is not None
        return self.session.polled(ask, answer, self.now)

    def stall(self, *, answered: bool = True) -> float | None:
        """The stream is silent until it is given up; polls are made when due."""
        while self.session.poll_at() < self.session.deadline():
            self.now = max(self.now, self.session.poll_at())
            ask = self.ask()
            if answered:
                self.answer({"a": 1}, 5, ask=ask)
            else:
                assert not self.session.poll_failed(LinkError("timeout", "x"), self.now)
        self.now = self.session.deadline()
        return self.session.stream_lost(self.session.overdue(), self.now)

    def poll_for_good(self) -> float:
        """Two silent streams; the delay before the third."""
        for _ in range(2):
            self.open()
            delay = self.stall()
            assert delay is not None
        assert self.session.transport == "polling"
        return delay

    @property
    def values(self) -> dict[str, Any]:
        assert self.session.snapshot is not None
        return {key: entry.value for key, entry in self.session.snapshot.entries.items()}


# ---- when ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start_timeout_s", "after_s"), [(5, 1), (60, 1), (1, 0.5), (0, 1)])
def test_before_the_first_state_a_poll_is_made_after_a_second_or_half_of_what_is_waited(
    start_timeout_s: float, after_s: float
) -> None:
    link = Link(start_timeout_s=start_timeout_s)
    assert link.session.poll_at() == link.now + after_s
    link.open()
    assert link.session.poll_at() == link.now + after_s


def test_a_stream_with_heartbeats_is_never_polled_beside() -> None:
    link = Link()
    link.open()
    link.event(snapshot({"a": 1}, 5))
    for _ in range(50):
        link.now += 5.9
        assert link.session.poll_at() > link.now
        link.event(status(5))


def test_silence_is_suspected_after_a_heartbeat_and_a_quarter_and_polled_once_per_heartbeat() -> None:
    link = Link()
    link.open()
    link.event(snapshot({"a": 1}, 5))
    assert 6.25 <= link.session.poll_at() - link.now <= 6.75
    link.now = link.session.poll_at()
    link.answer(None, 5)
    assert 5 <= link.session.poll_at() - link.now <= 5.5
    assert link.session.deadline() - link.now < 4


def test_a_head_that_does_not_come_is_suspected_in_time_to_know_more_when_it_is_given_up() -> None:
    link = Link(tuning=Tuning(connect_timeout_s=4))
    link.event(snapshot({"a": 1}, 5))
    link.session.asked(link.now)
    assert link.session.poll_at() == link.now + 2


def test_two_clients_do_not_poll_in_step() -> None:
    links = [Link(seed=seed) for seed in range(2)]
    for link in links:
        link.poll_for_good()
        link.now = link.session.poll_at()
        link.answer(None, 5)
    assert len({link.session.poll_at() - link.now for link in links}) == 2


def test_what_a_poll_is_told_to_wait_is_waited() -> None:
    link = Link()
    link.ask()
    assert link.session.poll_failed(LinkError("status", "x", status=429, retry_after_s=30), link.now) is False
    assert link.session.poll_at() == link.now + 30


# ---- what follows ----------------------------------------------------------------------------------------------------


def test_a_service_that_answers_nothing_is_left_as_ever() -> None:
    link = Link(urls=2)
    link.open()
    link.event(snapshot({"a": 1}, 5))
    start = link.now
    assert link.stall(answered=False) is None
    assert link.now - start == 10
    assert link.session.transport == "stream"


def test_the_first_silent_stream_is_replaced_and_the_second_one_means_polling() -> None:
    link = Link()
    link.open()
    link.event(snapshot({"a": 1}, 5))
    delay = link.stall()
    assert delay is not None
    assert delay <= 0.5
    assert link.session.transport == "stream"
    # Until the new stream says something polls go on, so that nothing grows stale.
    link.open()
    assert link.session.poll_at() - link.now < 5.5
    delay = link.stall()
    assert delay is not None
    assert 24 <= delay <= 30
    assert link.session.transport == "polling"
    assert link.session.view(link.now).state == "live"
    assert link.session.heartbeat_s == 5


def test_streams_are_tried_more_and_more_seldom_and_more_and_more_patiently() -> None:
    link = Link()
    delays = [link.poll_for_good()]
    patience = []
    for _ in range(8):
        link.now += delays[-1]
        link.open()
        patience.append(link.session.deadline() - link.now)
        delay = link.stall()
        assert delay is not None
        delays.append(delay)
    assert all(48 <= delay <= 60 for delay in delays[1:2])
    assert all(480 <= delay <= 600 for delay in delays[5:])
    assert patience[:4] == [20, 40, 80, 120]
    assert patience[-1] == 120


def test_an_end_in_polling_is_a_trial_that_failed_but_draining_is_not() -> None:
    link = Link()
    link.poll_for_good()
    kinds: list[Kind] = ["ended", "unreachable", "status", "older", "garbage", "not_a_stream"]
    for kind in kinds:
        link.open()
        assert link.session.stream_lost(LinkError(kind, "x", status=504), link.now) is not None
    link.open()
    assert link.session.stream_lost(LinkError("draining", "x"), link.now) is None


@pytest.mark.parametrize("kind", ["ended", "unreachable", "older", "garbage", "not_live"])
def test_a_stream_that_is_not_silent_is_lost_whatever_polls_say(kind: Kind) -> None:
    link = Link()
    link.open()
    link.answer({"a": 1}, 5)
    link.now += 1
    assert link.session.stream_lost(LinkError(kind, "x"), link.now) is None


def test_three_heartbeats_in_time_end_polling_bunches_do_not() -> None:
    link = Link()
    link.poll_for_good()
    link.open()
    link.event(status(5))
    for _ in range(5):
        link.now += 5
        for _ in range(3):
            link.event(status(5))
        assert link.session.transport == "polling"
    link.now += 5
    link.open()
    for _ in range(3):
        assert link.session.transport == "polling"
        link.now += link.session.heartbeat_s
        link.event(status(6))
    assert link.session.transport == "stream"
    assert link.session.view(link.now).state == "live"
    assert link.session.poll_at() > link.now + link.session.heartbeat_s


def test_what_a_stream_on_trial_says_of_freshness_does_not_count() -> None:
    link = Link()
    link.poll_for_good()
    link.open()
    link.event(status(3, "behind", with_id=False))
    assert link.session.view(link.now).state == "live"
    link.session.lost(LinkError("timeout", "poll"), link.now)
    link.now += 11
    link.open()
    link.event(status(5))
    assert link.session.view(link.now).state == "stale"
    link.answer(None, 5)
    assert link.session.view(link.now).state == "live"


def test_a_poll_that_fails_ends_polling_at_this_address_and_the_address_is_remembered() -> None:
    link = Link(urls=2)
    link.poll_for_good()
    link.ask()
    asked_at = link.now
    assert link.session.poll_failed(LinkError("status", "x", status=503), link.now)
    link.session.lost(LinkError("status", "x", status=503), link.now)
    assert (link.session.endpoint.url, link.session.transport) == ("http://b", "stream")
    link.session.lost(LinkError("unreachable", "x"), link.now)
    assert (link.session.endpoint.url, link.session.transport) == ("http://a", "polling")
    assert 5 <= link.session.poll_at() - asked_at <= 5.5
    assert link.session.stream_at() == 0


def test_a_child_knows_what_its_parent_found_out() -> None:
    link, child = Link(), Link()
    link.poll_for_good()
    child.session.inherit(link.session)
    assert child.session.transport == "polling"
    assert child.session.poll_at() == 0


# ---- never back ----------------------------------------------------------------------------------------------------


def test_a_snapshot_that_a_poll_has_overtaken_is_ignored_and_its_stream_goes_on() -> None:
    link = Link()
    link.open()
    assert link.answer({"a": 2}, 7).snapshot is not None
    assert link.event(snapshot({"a": 1}, 5)) == Outcome()
    assert link.event(change(6, {"a": 9})) == Outcome()
    link.event(status(6))
    assert (link.values, link.session.position) == ({"a": 2}, EventId(EPOCH, 7))
    assert (link.session.view(link.now).state, link.session.service_state) == ("live", "live")
    assert link.event(change(8, {"a": 3})).snapshot is not None
    assert link.values == {"a": 3}


def test_a_stream_below_what_it_resumed_from_is_behind_also_after_a_poll() -> None:
    link = Link()
    link.open()
    link.event(snapshot({"a": 1}, 5, proved=9))
    link.now += 7
    link.answer(None, 11)
    link.event(status(8))
    assert (link.session.view(link.now).state, link.session.service_state) == ("stale", "behind")


def test_an_answer_that_the_stream_has_overtaken_is_ignored() -> None:
    link = Link()
    link.open()
    ask = link.ask()
    link.event(snapshot({"a": 2}, 7))
    assert link.answer({"a": 1}, 5, ask=ask) == Outcome()
    ask = link.ask()
    link.event(change(8, {"a": 3}))
    assert link.answer(None, 7, ask=ask) == Outcome()
    ask = link.ask()
    link.event(snapshot({"a": 4}, 2, epoch=OTHER_EPOCH))
    assert link.answer({"a": 3}, 9, ask=ask) == Outcome()
    assert (link.values, link.session.position) == ({"a": 4}, EventId(OTHER_EPOCH, 2))
    assert link.session.view(link.now).state == "live"


def test_of_two_histories_the_one_is_taken_that_the_later_question_was_answered_with() -> None:
    link = Link()
    link.open()
    link.answer({"a": 2}, 3, epoch=OTHER_EPOCH)
    with pytest.raises(LinkError) as caught:
        link.event(snapshot({"a": 1}, 900))
    assert caught.value.kind == "older"
    assert link.values == {"a": 2}
    # Asked for again, it is news.
    link.session.lost(caught.value, link.now)
    link.open()
    assert link.event(snapshot({"a": 1}, 900)).snapshot is not None


def test_an_answer_from_a_replica_that_lags_is_no_proof_and_no_alarm_and_believed_after_long() -> None:
    link = Link()
    link.open()
    link.answer({"a": 2}, 7)
    link.now += 5
    assert link.answer({"a": 1}, 5) == Outcome()
    assert link.values == {"a": 2}
    assert link.session.view(link.now) == ("live", 100.0, 5.0)
    link.now += 6
    assert link.session.view(link.now).state == "stale"
    link.now += 30
    outcome = link.answer({"a": 1}, 5)
    assert "believed" in (outcome.notice or "")
    assert link.values == {"a": 1}


def test_an_answer_from_memory_that_is_older_is_never_believed() -> None:
    link = Link()
    link.open()
    link.answer({"a": 2}, 7)
    for _ in range(10):
        link.now += 20
        assert link.answer({"a": 1}, 5, source="disk") == Outcome()
    assert link.values == {"a": 2}


def test_the_same_state_from_another_replica_is_no_new_one() -> None:
    link = Link()
    link.open()
    first = link.answer({"a": 1}, 5).snapshot
    assert link.answer({"a": 1}, 6) == Outcome()
    assert link.session.snapshot is first
    assert link.session.position == EventId(EPOCH, 6)
    assert link.answer({"a": True}, 6).snapshot is not None


def test_a_304_that_was_not_asked_for_makes_no_sense() -> None:
    link = Link()
    with pytest.raises(LinkError, match="304 without"):
        link.answer(None, 5)


def test_after_garbage_the_whole_state_is_asked_for() -> None:
    link = Link()
    link.open()
    link.event(snapshot({"a": 1}, 5))
    assert link.ask().etag == f'"{EPOCH}:5"'
    link.session.lost(LinkError("garbage", "x"), link.now)
    assert link.ask().etag is None
    link.answer({"a": 2}, 5)
    assert link.ask().etag == f'"{EPOCH}:5"'


def test_an_answer_says_what_it_is() -> None:
    link = Link()
    headers = {"Configsvc-Revision": "9", "Configsvc-Source": "disk", "Configsvc-Staleness": "nan", "ETag": 'W/"x"'}
    body = encode(Baseline(**SCOPE, epoch=EPOCH, revision=5, entries={}))
    answer = read_answer(link.ask(), 200, "application/json", headers, body, scope=PLACE)
    assert isinstance(answer, Answer)
    assert (answer.position, answer.source, answer.staleness_s, answer.etag) == (
        EventId(EPOCH, 9),
        "disk",
        None,
        'W/"x"',
    )
    for revision in ("", "-1", "09", "١", "4", "1" * 30):
        with pytest.raises(LinkError, match="Configsvc-Revision"):
            read_answer(link.ask(), 200, "application/json", {"Configsvc-Revision": revision}, body, scope=PLACE)
    with pytest.raises(LinkError, match="not asked for"):
        read_answer(link.ask(), 200, "application/json", headers, body, scope=("other", "production"))
    with pytest.raises(LinkError, match="text/html"):
        read_answer(link.ask(), 200, "text/html", headers, body, scope=PLACE)
