"""What the word of a service that is not live does to the age of what it shows, whichever of the two comes first."""

from typing import Any

import pytest

from configsvc_client.doubt import Proof
from configsvc_client.freshness import read_staleness
from configsvc_client.poll import Answer
from configsvc_client.protocol import Baseline, EventId
from tests.client.support import EPOCH, OTHER_EPOCH, SCOPE, change, snapshot, status
from tests.unit.client.test_session import Link

OLD_S = 420.0


class Stale(Link):
    """A link to a service whose head says how old its state is; None where it says nothing."""

    def __init__(self, staleness_s: float | None = OLD_S, urls: int = 1, **more: Any) -> None:
        super().__init__(urls, **more)
        self.open(staleness_s)

    def open(self, staleness_s: float | None) -> None:
        self.session.asked(self.now)
        self.session.opened(self.now, staleness_s)

    @property
    def age_s(self) -> float | None:
        return self.session.view(self.now).age_s

    @property
    def kept_age_s(self) -> float | None:
        """The age with which the state would be kept in the last-known-good file."""
        proof = self.session.proof(self.now)
        return None if proof is None else proof.age_s


@pytest.mark.parametrize("limit_s", [None, 60.0])
def test_a_snapshot_of_a_stale_service_is_as_old_as_the_service_says(limit_s: float | None) -> None:
    link = Stale(max_staleness_s=limit_s)
    assert link.event(snapshot({"a": 1}, 5)).snapshot is link.session.snapshot
    for _ in range(3):
        assert (link.state, link.age_s, link.kept_age_s) == ("stale", OLD_S, OLD_S)
        assert link.session.service_state == "stale"
        assert "the service is stale" in (link.session.last_error or "")
        link.event(status(5, "stale", staleness_s=OLD_S))
    link.now += 5
    link.event(status(5, "stale", staleness_s=OLD_S + 5))
    assert (link.state, link.age_s, link.kept_age_s) == ("stale", OLD_S + 5, OLD_S + 5)
    link.event(status(6))
    assert (link.state, link.age_s, link.kept_age_s) == ("live", 0, 0)
    assert link.session.last_error is None


def test_max_staleness_counts_from_the_services_own_proof() -> None:
    link = Stale(50, max_staleness_s=60)
    link.event(snapshot({}, 5))
    assert link.session.view(link.now) == ("live", 100, 50)
    assert link.session.stale_in_s(link.now) == 10
    link.now += 10.5
    assert link.session.view(link.now) == ("stale", 110, 60.5)


def test_changes_that_a_stale_service_replays_are_no_younger() -> None:
    link = Stale(None)
    link.event(snapshot({"a": 1}, 5) + status(5))
    link.now += 100
    link.lost()
    link.open(30)
    link.event(change(6, {"a": 2}))
    assert (link.values, link.state, link.age_s) == ({"a": 2}, "stale", 30)
    link.event(status(6, "stale", staleness_s=30))
    assert (link.state, link.age_s) == ("stale", 30)
    # With etcd back a change comes first, and at once the word for it.
    link.event(change(7, {"a": 3}))
    assert link.state == "stale"
    link.event(status(7))
    assert (link.state, link.age_s) == ("live", 0)
    link.event(change(8, {"a": 4}))
    assert (link.state, link.age_s) == ("live", 0)


def test_what_others_have_proved_stands() -> None:
    link = Link(urls=2)
    link.event(snapshot({"a": 1}, 5))
    link.now += 20
    link.lost("unreachable")
    link.session.opened(link.now, OLD_S)
    link.event(status(5, "stale", staleness_s=OLD_S))
    assert link.session.view(link.now) == ("stale", 120, 20)
    link.event(snapshot({"a": 1}, 5))
    assert link.session.view(link.now).age_s == 20


def test_but_not_for_another_history() -> None:
    link = Link(urls=2)
    link.event(snapshot({"a": 1}, 5))
    link.now += 20
    link.lost("unreachable")
    link.session.opened(link.now, OLD_S)
    link.event(snapshot({"a": 2}, 3, epoch=OTHER_EPOCH))
    assert (link.state, link.session.view(link.now).age_s) == ("stale", OLD_S)


def test_nor_what_a_poll_has_proved_of_another_history() -> None:
    link = Link()
    link.event(snapshot({"a": 1}, 5))
    link.now += 20
    link.session.opened(link.now, 0)
    held = link.session.ask()
    baseline = Baseline(**SCOPE, epoch=OTHER_EPOCH, revision=3, entries={})
    link.session.polled(held, Answer(EventId(OTHER_EPOCH, 3), "live", 0.0, baseline, None), link.now)
    assert link.session.view(link.now) == ("live", 120, 0)
    link.event(status(3, "stale", staleness_s=OLD_S, epoch=OTHER_EPOCH))
    assert (link.state, link.session.view(link.now).age_s) == ("stale", OLD_S)


def test_a_service_that_vouches_for_the_state_of_a_file_gives_it_its_own_age_if_that_is_less() -> None:
    for kept_s, expected in ((1000.0, OLD_S), (30.0, 30.0)):
        link = Link()
        link.event(snapshot({"a": 1}, 5))
        held = link.session.snapshot
        assert held is not None
        again = Stale()
        again.session.adopt(Proof(held, EventId(EPOCH, 5), kept_s), again.now)
        assert again.event(status(4, "stale", staleness_s=OLD_S)).snapshot is None
        assert (again.state, again.age_s) == ("connecting", kept_s)
        assert again.event(status(5, "stale", staleness_s=OLD_S)).snapshot is held
        assert (again.state, again.age_s) == ("stale", expected)


def test_what_a_service_has_shown_was_no_newer_than_it_then_says() -> None:
    # A reader that was slow is sent a change, and at once the word for it; `live` too may be two heartbeats old.
    link = Link(max_staleness_s=60)
    link.event(snapshot({"a": 1}, 5))
    link.now += 30
    link.event(status(6))
    link.event(change(7, {"a": 2}))
    assert link.session.view(link.now).age_s == 0
    link.event(status(7, "stale", staleness_s=25))
    assert link.session.view(link.now) == ("live", 100, 25)
    link.now += 5
    link.event(status(7, "stale", staleness_s=30))
    assert link.session.view(link.now) == ("live", 100, 30)
    # But an age without reason takes nothing from what was known before this stream.
    link.lost()
    link.session.opened(link.now, 0)
    link.event(status(8))
    link.event(status(8, "stale", staleness_s=1e8))
    assert link.session.view(link.now).age_s == 30


# ---- services that do not say how old their state is -----------------------------------------------------------------


def test_a_service_that_says_nothing_is_believed_until_it_does_and_not_kept_before() -> None:
    link = Stale(None)
    link.event(snapshot({"a": 1}, 5))
    assert (link.state, link.age_s, link.kept_age_s) == ("live", 0, None)
    link.event(status(5))
    assert (link.state, link.age_s, link.kept_age_s) == ("live", 0, 0)


@pytest.mark.parametrize("limit_s", [None, 60.0])
@pytest.mark.parametrize("staleness_s", [None, -1.0, 1e300])
def test_one_that_then_says_stale_and_not_for_how_long_is_of_unknown_age(
    limit_s: float | None, staleness_s: float | None
) -> None:
    link = Stale(None, max_staleness_s=limit_s)
    link.event(snapshot({"a": 1}, 5))
    link.event(status(5, "stale", staleness_s=staleness_s))
    for _ in range(2):
        assert (link.values, link.session.is_proved) == ({"a": 1}, True)
        assert link.session.view(link.now) == ("stale", 100, None)
        assert (link.kept_age_s, link.session.stale_in_s(link.now)) == (None, None)
        link.event(change(6, {"a": 1}))
    link.event(status(6))
    assert (link.state, link.age_s, link.kept_age_s) == ("live", 0, 0)
    # Once it was live, that is known.
    link.now += 3
    link.event(status(6, "stale"))
    assert (link.age_s, link.kept_age_s) == (3, 3)


def test_one_that_then_says_for_how_long_is_believed_too() -> None:
    link = Stale(None)
    link.event(snapshot({"a": 1}, 5))
    link.event(status(5, "stale", staleness_s=OLD_S))
    assert (link.state, link.age_s, link.kept_age_s) == ("stale", OLD_S, OLD_S)


@pytest.mark.parametrize("first", ["starting", "behind"])
@pytest.mark.parametrize(
    ("then", "state", "age_s"),
    [
        (status(5), "live", 0.0),
        (status(5, "stale", staleness_s=OLD_S), "stale", OLD_S),
        (status(5, "stale"), "stale", None),
        # Its proved revision stands still, below that of what it shows, while a release is being applied.
        (status(4, with_id=False), "live", 0.0),
        (status(4, "stale", with_id=False, staleness_s=OLD_S), "stale", OLD_S),
    ],
)
def test_what_follows_starting_and_behind_is_told_of_with_its_age(
    first: str, then: bytes, state: str, age_s: float | None
) -> None:
    link = Stale(None)
    link.event(status(0, first, with_id=False))
    assert link.event(snapshot({"a": 1}, 5)).snapshot is None
    assert (link.state, link.session.is_proved) == ("connecting", False)
    assert link.event(then).snapshot is link.session.snapshot
    assert (link.state, link.age_s) == (state, age_s)


def test_a_loss_before_any_word_leaves_what_was_shown() -> None:
    link = Stale(None)
    link.event(snapshot({"a": 1}, 5))
    link.now += 1
    link.lost()
    link.open(None)
    link.event(status(5, "stale"))
    assert (link.state, link.age_s) == ("stale", 1)


# ---- odd words -------------------------------------------------------------------------------------------------------


def test_an_age_without_sense_is_none() -> None:
    for staleness_s in (-5.0, 1e300):
        link = Stale(staleness_s)
        link.event(snapshot({"a": 1}, 5))
        assert (link.state, link.age_s, link.kept_age_s) == ("connecting", None, None)
        link.event(status(5, "stale", staleness_s=staleness_s))
        assert (link.state, link.age_s, link.kept_age_s) == ("stale", None, None)
        link.event(status(5))
        assert (link.state, link.age_s, link.kept_age_s) == ("live", 0, 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("420.812", 420.812),
        ("1e9", 1e9),
        (None, None),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e10", None),
        ("soon", None),
        ("4" * 400, None),
    ],
)
def test_the_header_says_seconds_or_nothing(text: str | None, seconds: float | None) -> None:
    assert read_staleness(text) == seconds
