"""The link's decisions: what is believed, what is refused, and where to go next."""

from random import Random
from typing import Any

import pytest

from configsvc_client.addresses import Decision, classify
from configsvc_client.backoff import Backoff
from configsvc_client.doubt import MAX_LEFT_EPOCHS
from configsvc_client.errors import Kind, LinkError
from configsvc_client.options import Options, Tuning, resolve
from configsvc_client.outcome import Outcome
from configsvc_client.protocol import EventId
from configsvc_client.session import Session
from configsvc_client.sse import Decoder, Event
from tests.client.support import EPOCH, OTHER_EPOCH, SCOPE, change, snapshot, status

TUNING = Tuning(backoff=Backoff(base_s=1, cap_s=8), slow_backoff=Backoff(base_s=100, cap_s=1000))


def options(urls: int = 1, **more: Any) -> Options:
    names = [f"http://{'abc'[n]}" for n in range(urls)]
    return resolve({}, url=names, tuning=TUNING, **SCOPE, **more)


class Link:
    """A session with its clock, fed with bytes as a link would."""

    def __init__(self, urls: int = 1, **more: Any) -> None:
        self.now = 100.0
        self.session = Session(options(urls, **more), Random(1), self.now)
        self.session.opened(self.now, staleness_s=0)

    def event(self, data: bytes | Event) -> Outcome:
        events = [data] if isinstance(data, Event) else Decoder().feed(data)
        outcome = Outcome()
        for event in events:
            outcome = self.session.receive(event, self.now)
        return outcome

    def refused(self, data: bytes | Event) -> LinkError:
        with pytest.raises(LinkError) as caught:
            self.event(data)
        return caught.value

    def lost(self, kind: Kind = "ended", **more: Any) -> float:
        return self.session.lost(LinkError(kind, kind, **more), self.now)

    def reconnect(self) -> EventId | None:
        """Open the next connection; returns from where it resumes."""
        resume = self.session.attempt().last_event_id
        self.session.opened(self.now, staleness_s=0)
        return resume

    @property
    def url(self) -> str:
        return self.session.endpoint.url

    @property
    def state(self) -> str:
        return self.session.view(self.now).state

    @property
    def values(self) -> dict[str, Any]:
        assert self.session.snapshot is not None
        return {key: entry.value for key, entry in self.session.snapshot.entries.items()}


# ---- classify --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("ended", None, "retry"),
        ("unreachable", None, "next"),
        ("timeout", None, "next"),
        ("stalled", None, "next"),
        ("draining", None, "next"),
        ("older", None, "next"),
        ("garbage", None, "next"),
        ("not_a_stream", None, "next"),
        ("unknown_scope", None, "slow"),
        ("token", None, "slow"),
        ("not_configsvc", None, "slow"),
        ("status", 500, "next"),
        ("status", 503, "next"),
        ("status", 429, "next"),
        ("status", 401, "slow"),
        ("status", 403, "slow"),
        ("status", 404, "slow"),
        ("status", 418, "slow"),
    ],
)
def test_classify(kind: Kind, status: int | None, expected: Decision) -> None:
    assert classify(LinkError(kind, "x", status=status)) == expected


# ---- events ----------------------------------------------------------------------------------------------------------


def test_a_snapshot_then_changes_then_heartbeats_move_state_and_position() -> None:
    link = Link()
    assert link.event(snapshot({"a": 1}, 5, proved=8)).snapshot is link.session.snapshot
    assert link.session.position == EventId(EPOCH, 8)
    assert link.event(change(9, {"b": 2})).snapshot is not None
    assert link.values == {"a": 1, "b": 2}
    assert link.event(status(12)).snapshot is None
    assert link.session.position == EventId(EPOCH, 12)
    assert link.session.snapshot is not None
    assert link.session.snapshot.revision == 9
    link.lost()
    assert link.reconnect() == EventId(EPOCH, 12)


def test_a_change_that_was_seen_changes_nothing() -> None:
    link = Link()
    link.event(snapshot({"a": 1}, 5))
    link.event(change(6, {"a": 2}))
    assert link.event(change(6, {"a": 3})) == Outcome()
    assert link.event(change(4, {"a": 3})) == Outcome()
    assert link.values == {"a": 2}
    assert link.session.position == EventId(EPOCH, 6)


def test_unknown_events_and_fields_do_nothing() -> None:
    link = Link()
    link.event(snapshot({"a": 1}, 5))
    assert link.event(b'event: advice\ndata: {"x":1}\n\n') == Outcome()
    assert link.event(b"event: advice\ndata: not json\n\n") == Outcome()
    assert link.event(f'id: {EPOCH}:6\nevent: change\ndata: {{"revision":6,"new_field":[],"set":{{}}}}\n\n'.encode())
    assert link.session.position == EventId(EPOCH, 6)


@pytest.mark.parametrize(
    "garbage",
    [
        b"event: snapshot\ndata: {\n\n",
        b"event: snapshot\ndata: \xff\n\n",
        b"event: snapshot\ndata: []\n\n",
        b'event: snapshot\ndata: {"namespace":"other"}\n\n',
        snapshot({}, 9).replace(b"payments", b"invoices"),
        snapshot({}, 9).replace(b"id: 0", b"id: 9"),
        snapshot({}, 9).replace(b":9\n", b":8\n"),
        snapshot({}, 9).replace(EPOCH.encode(), b"x\\ny"),
        b"event: change\ndata: " + b"[" * 20000 + b"\n\n",
        b'event: change\ndata: {"revision":"9"}\n\n',
        b'event: change\ndata: {"revision":9,"set":{"a":{"metadata":1}}}\n\n',
        change(9, {"a": 2}, epoch=OTHER_EPOCH),
        change(9, {"a": 2}).replace(b"id: 0", b"id: z"),
        status(9, epoch=OTHER_EPOCH),
        b"event: status\ndata: live\n\n",
    ],
)
def test_what_makes_no_sense_ends_the_connection_and_the_next_one_asks_for_a_snapshot(garbage: bytes) -> None:
    link = Link()
    link.event(snapshot({"a": 1}, 5))
    error = link.refused(garbage)
    assert error.kind == "garbage"
    link.session.lost(error, link.now)
    assert link.values == {"a": 1}
    assert link.session.last_error
    assert link.reconnect() is None
    assert link.session.position == EventId(EPOCH, 5)
    link.event(snapshot({"a": 2}, 5, proved=6))
    assert link.values == {"a": 2}
    link.lost()
    assert link.reconnect() == EventId(EPOCH, 6)


def test_a_change_before_any_snapshot_makes_no_sense() -> None:
    assert Link().refused(change(9, {"a": 2})).kind == "garbage"


def test_events_without_ids_take_the_revision_they_speak_of() -> None:
    link = Link()
    link.event(Event(event="snapshot", data=Decoder().feed(snapshot({"a": 1}, 5))[0].data))
    link.event(Event(event="change", data=Decoder().feed(change(7, {"a": 2}))[0].data))
    assert link.session.position == EventId(EPOCH, 7)


# ---- never back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["behind", "starting", "stale"])
def test_a_service_that_is_behind_is_heard_and_the_state_stays(said: str) -> None:
    link = Link()
    link.event(snapshot({"a": 1}, 5, proved=9))
    link.event(status(3, said, with_id=said == "stale"))
    assert link.values == {"a": 1}
    assert link.session.position == EventId(EPOCH, 9)
    # One that starts knows nothing against the state, which is as fresh as if nobody was there.
    assert link.state == ("live" if said == "starting" else "stale")
    assert link.session.service_state in (said, "behind")
    assert "service is" in (link.session.last_error or "")
    if said == "starting":
        link.now += 2 * link.session.heartbeat_s + 0.1
        assert link.state == "stale"
    link.event(status(9))
    assert link.state == "live"


def test_a_live_status_below_the_position_is_that_of_a_service_which_is_behind() -> None:
    link = Link()
    link.event(snapshot({"a": 1}, 5, proved=9))
    link.event(status(8))
    assert link.session.position == EventId(EPOCH, 9)
    assert (link.state, link.session.service_state) == ("stale", "behind")


def test_an_older_snapshot_is_refused_until_nobody_offered_better_for_long_enough() -> None:
    link = Link(urls=2)
    link.event(snapshot({"a": 1}, 9))
    for _ in range(5):
        error = link.refused(snapshot({"a": 0}, 8))
        assert error.kind == "older"
        before = link.url
        link.session.lost(error, link.now)
        assert link.url != before
        assert link.values == {"a": 1}
        assert link.reconnect() == EventId(EPOCH, 9)
        link.now += 5.9
    link.now += 0.6
    outcome = link.event(snapshot({"a": 0}, 8))
    assert "believed" in (outcome.notice or "")
    assert link.values == {"a": 0}
    assert link.session.position == EventId(EPOCH, 8)


def test_a_better_offer_ends_the_doubt() -> None:
    link = Link(urls=2)
    link.event(snapshot({"a": 1}, 9))
    link.session.lost(link.refused(snapshot({}, 8)), link.now)
    link.now += 29
    link.reconnect()
    link.event(status(9))
    link.lost()
    link.now += 29
    link.reconnect()
    assert link.refused(snapshot({}, 8)).kind == "older"


def test_while_in_doubt_the_next_attempt_is_not_after_the_end_of_the_doubt() -> None:
    link = Link()
    link.event(snapshot({"a": 1}, 9, retry=25000))
    link.session.lost(link.refused(snapshot({}, 8)), link.now)
    link.now += 29.5
    link.reconnect()
    assert link.session.lost(link.refused(snapshot({}, 8)), link.now) <= 0.5


def test_after_the_end_of_a_doubt_attempts_are_as_far_apart_as_ever() -> None:
    link = Link()
    link.event(snapshot({"a": 1}, 9))
    link.session.lost(link.refused(snapshot({}, 8)), link.now)
    link.now += 60
    assert max(link.lost("unreachable") for _ in range(20)) > 2


def test_a_new_epoch_is_taken_at_once_and_the_one_that_was_left_only_after_doubt() -> None:
    link = Link()
    link.event(snapshot({"a": 1}, 900))
    assert link.event(snapshot({"a": 2}, 3, epoch=OTHER_EPOCH)).notice is None
    assert (link.values, link.session.position) == ({"a": 2}, EventId(OTHER_EPOCH, 3))
    link.session.lost(link.refused(snapshot({"a": 1}, 950)), link.now)
    link.now += 31
    link.reconnect()
    assert "left" in (link.event(snapshot({"a": 1}, 950)).notice or "")
    assert link.session.position == EventId(EPOCH, 950)
    # And now the other one is the one that was left.
    assert link.refused(snapshot({"a": 2}, 9, epoch=OTHER_EPOCH)).kind == "older"


def test_epochs_that_were_left_are_remembered_within_bounds() -> None:
    link = Link()
    epochs = [f"{n:012x}" for n in range(MAX_LEFT_EPOCHS + 3)]
    for epoch in epochs:
        link.event(snapshot({}, 1, epoch=epoch))
    assert link.refused(snapshot({}, 1, epoch=epochs[-2])).kind == "older"
    assert link.event(snapshot({}, 1, epoch=epochs[0])).snapshot is not None


def test_a_snapshot_of_a_lower_revision_that_is_proved_further_heals_the_state() -> None:
    # A replica's snapshot revision is that of its own list or last change; the id alone is the order.
    link = Link()
    link.event(snapshot({"a": "damaged"}, 100, proved=120))
    link.event(snapshot({"a": "healed"}, 50, proved=130))
    assert link.values == {"a": "healed"}
    link.event(change(131, {"b": 1}))
    assert link.values == {"a": "healed", "b": 1}


# ---- where to go next ------------------------------------------------------------------------------------------------


def test_a_stream_that_worked_and_ended_is_tried_again_at_the_same_address_first() -> None:
    link = Link(urls=2)
    link.event(snapshot({}, 1))
    link.lost("ended")
    assert link.url == "http://a"
    link.reconnect()
    link.lost("ended")
    assert link.url == "http://b"


@pytest.mark.parametrize("kind", ["unreachable", "stalled", "timeout", "draining", "garbage", "older", "status"])
def test_other_failures_go_round_the_addresses(kind: Kind) -> None:
    link = Link(urls=3)
    link.event(snapshot({}, 1))
    seen = []
    for _ in range(4):
        link.lost(kind, status=500)
        seen.append(link.url[-1])
        link.reconnect()
    assert seen == ["b", "c", "a", "b"]


def test_delays_grow_by_rounds_up_to_the_cap_and_start_again_after_a_stream_that_held() -> None:
    link = Link(urls=2)
    delays = [link.lost("unreachable") for _ in range(40)]
    assert all(delay <= 1 for delay in delays[:2])
    assert all(delay <= 8 for delay in delays)
    assert max(delays) > 4
    link.reconnect()
    link.event(snapshot({}, 1))
    link.now += 5
    link.event(status(1))
    assert link.lost("unreachable") <= 1


def test_a_stream_that_breaks_at_once_again_and_again_is_not_tried_at_once_again_and_again() -> None:
    link = Link()
    delays = []
    for _ in range(30):
        link.event(snapshot({}, 1))
        delays.append(link.lost("ended"))
        link.reconnect()
    assert max(delays) > 2


def test_addresses_that_refuse_are_tried_slowly_only_when_all_of_them_do() -> None:
    link = Link(urls=2)
    assert link.lost("status", status=403) <= 1
    slow = [link.lost("status", status=403) for _ in range(20)]
    assert max(slow) > 50
    assert link.lost("unreachable") <= 8
    assert link.lost("status", status=401) <= 8


def test_the_services_retry_counts_at_its_own_address() -> None:
    link = Link()
    link.event(snapshot({}, 1, retry=6000))
    assert 6 <= link.lost("ended") <= 9
    several = Link(urls=2)
    several.event(snapshot({}, 1, retry=6000))
    assert several.lost("unreachable") <= 1


def test_draining_sends_the_herd_elsewhere_spread_out_and_for_one_time() -> None:
    link = Link(urls=2)
    link.event(snapshot({"a": 1}, 1, retry=2000))
    error = link.refused(status(1, "draining", retry=5000))
    assert error.kind == "draining"
    assert 5 <= link.session.lost(error, link.now) <= 7.5
    assert link.url == "http://b"
    assert link.state == "live"
    link.reconnect()
    link.event(status(1))
    assert 2 <= link.lost("ended") <= 4


# ---- silence ---------------------------------------------------------------------------------------------------------


def test_two_missed_heartbeats_end_a_connection() -> None:
    link = Link(heartbeat_s=3)
    assert link.session.deadline() == link.now + 6
    link.event(snapshot({}, 1))
    link.now += 4
    link.event(status(1))
    assert link.session.deadline() >= link.now + 6
    link.now += 2
    link.session.active(link.now, 100_000)
    assert link.session.deadline() >= link.now + 6
    assert link.session.overdue().kind == "stalled"


def test_an_event_that_arrives_drop_by_drop_is_silence_and_a_large_one_is_not() -> None:
    drips, flows = Link(heartbeat_s=3), Link(heartbeat_s=3)
    for link, bytes_per_s in ((drips, 100), (flows, 2000)):
        link.event(snapshot({}, 1))
        start = link.now
        while link.session.deadline() > link.now and link.now < start + 1000:
            link.now += 1
            link.session.active(link.now, int(bytes_per_s * (link.now - start)))
    assert drips.now < 110
    assert "only other bytes" in drips.session.overdue().detail
    assert flows.now >= 1000


@pytest.mark.parametrize(
    "empty",
    [
        b"event: ping\ndata: {}\n\n",
        status(9, with_id=False),
        status(9).replace(b"id: 0", b"id: z"),
        change(4, {"a": 1}),
    ],
    ids=["unknown", "live without id", "live with a bad id", "a change of long ago"],
)
@pytest.mark.parametrize("urls", [1, 2])
def test_events_that_tell_nothing_are_silence(empty: bytes, urls: int) -> None:
    link = Link(urls, heartbeat_s=3)
    link.event(snapshot({}, 9))
    start = link.now
    while link.session.deadline() > link.now:
        link.now += 0.5
        link.event(empty)
        assert link.now < start + 10
    assert link.session.poll_at() < start + 6
    error = link.session.overdue()
    assert (error.kind, error.detail) == ("stalled", "nothing of a state, only other bytes, arrived for 6.0 s")
    assert link.session.heartbeat_s >= 3


@pytest.mark.parametrize("state", ["starting", "stale", "behind", "live"])
def test_whatever_a_service_says_of_itself_is_no_silence(state: str) -> None:
    link = Link(heartbeat_s=3)
    link.event(snapshot({}, 9))
    for _ in range(20):
        link.now += 3
        # A service that is behind, or applies a release, has an id that stands; one that starts has none.
        link.event(status(9 if state == "live" else 8, state, with_id=state != "starting"))
    assert link.session.deadline() > link.now


def test_the_interval_is_learned_and_one_early_status_does_not_shrink_it_much() -> None:
    link = Link()
    link.event(snapshot({}, 1))
    for _ in range(30):
        link.event(status(1))
        link.now += 2
    assert 2 <= link.session.heartbeat_s < 2.1
    link.now -= 1.9
    link.event(status(1))
    assert link.session.heartbeat_s > 1.4
    link.now += 20
    link.event(status(1))
    assert link.session.heartbeat_s == 20
    for _ in range(100):
        link.event(status(1))
    assert link.session.heartbeat_s == 1


def test_a_service_that_is_slower_than_expected_shows_in_the_end() -> None:
    link = Link(heartbeat_s=1)
    link.event(snapshot({}, 1))
    for _ in range(10):
        limit = link.session.deadline() - link.now
        if limit > 15:
            break
        link.now += limit
        link.session.lost(link.session.overdue(), link.now)
        link.session.opened(link.now, staleness_s=0)
    else:
        pytest.fail("gave up too early each time")
    assert link.session.heartbeat_s <= 60


def test_a_silence_makes_the_next_one_longer_and_the_state_no_fresher() -> None:
    link = Link(heartbeat_s=2, urls=2)
    link.event(snapshot({}, 1))
    link.now = link.session.deadline()
    link.session.lost(link.session.overdue(), link.now)
    assert link.session.heartbeat_s == 4
    # The next address has a moment to show that it is well.
    assert link.state == "live"
    link.now += 1.01
    assert link.state == "stale"
    link.session.opened(link.now, staleness_s=0)
    link.event(status(1))
    link.lost()
    link.now += 7
    assert link.state == "live"


def test_a_link_that_nobody_looked_after_is_not_live() -> None:
    link = Link(heartbeat_s=2)
    link.event(snapshot({}, 1))
    link.now += 5
    assert link.state == "live"
    link.now += 0.1
    assert link.session.view(link.now) == ("stale", 104.0, pytest.approx(5.1))
    link.event(status(1))
    assert link.state == "live"


def test_a_service_that_is_not_live_is_left_for_another_one_if_there_is_one_but_not_hectically() -> None:
    alone, several = Link(), Link(urls=2)
    for link in (alone, several):
        link.event(snapshot({}, 9))
        link.event(status(9, "stale"))
        for _ in range(3):
            link.now += 2.5
            link.event(status(9, "stale"))
    assert alone.session.deadline() > alone.now + 5
    assert several.session.deadline() < several.now + 5
    waits = []
    for _ in range(4):
        error = several.session.overdue()
        assert error.kind == "not_live"
        several.session.lost(error, several.now)
        several.reconnect()
        several.event(status(9, "stale"))
        start = several.now
        while several.session.deadline() > several.now + 1:
            several.now += 1
            several.event(status(9, "stale"))
        waits.append(several.now - start)
        several.now = several.session.deadline()
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


# ---- what the application is told ------------------------------------------------------------------------------------


def test_from_connecting_over_live_to_stale_and_back() -> None:
    link = Link()
    assert link.session.view(link.now) == ("connecting", 100.0, None)
    link.now += 1
    link.event(status(0, "starting", with_id=False))
    assert link.state == "connecting"
    link.now += 1
    link.lost()
    link.reconnect()
    link.event(snapshot({}, 1))
    assert link.session.view(link.now) == ("live", 102.0, 0.0)
    link.now += 1
    link.lost()
    # For two heartbeats what was proved counts as live, as in the service.
    assert link.session.view(link.now) == ("live", 102.0, 1.0)
    link.now += 9
    assert link.session.view(link.now) == ("live", 102.0, 10.0)
    link.now += 5
    assert link.session.view(link.now) == ("stale", 112.0, 15.0)
    link.reconnect()
    link.event(status(1))
    assert link.session.view(link.now) == ("live", 117.0, 0.0)


def test_a_short_loss_is_no_new_state() -> None:
    link = Link()
    link.event(snapshot({}, 1))
    link.lost()
    link.now += 1
    link.reconnect()
    link.event(status(1))
    assert link.session.view(link.now) == ("live", 100.0, 0.0)


def test_max_staleness_says_when_it_is_stale() -> None:
    link = Link(max_staleness_s=60)
    link.event(snapshot({}, 1))
    link.event(status(1, "stale"))
    link.now += 60
    assert link.session.view(link.now) == ("live", 100.0, 60.0)
    link.now += 1
    assert link.session.view(link.now) == ("stale", 160.0, 61.0)
    impatient = Link(max_staleness_s=0.5)
    impatient.event(snapshot({}, 1))
    impatient.now += 4
    assert impatient.state == "live"
    impatient.lost()
    assert impatient.state == "stale"


def test_the_session_says_in_its_repr_where_it_is() -> None:
    link = Link()
    link.event(snapshot({}, 1))
    assert repr(link.session) == f"<Session payments/production {EPOCH}:1 live via http://a>"


def test_what_a_service_says_cannot_break_a_log_line() -> None:
    link = Link()
    link.event(snapshot({}, 1))
    link.event(status(1, "odd\n\x1b[31m" + "x" * 10_000))
    assert link.state == "stale"
    for text in (link.session.last_error, link.session.service_state, LinkError("status", "a\r\nb\0").detail):
        assert text
        assert text.isprintable()
        assert len(text) <= 300 + len("http://a: ")
