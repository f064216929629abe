"""A session that begins with a state of an earlier run: what it takes from it, and what it never claims."""

from typing import Any

from configsvc_client.doubt import Proof
from configsvc_client.protocol import Entry, EventId
from configsvc_client.snapshot import Snapshot
from tests.client.support import EPOCH, OTHER_EPOCH, SCOPE, change, snapshot, status
from tests.unit.client.test_session import Link


def kept(values: dict[str, Any], revision: int = 5, position: int = 8, *, age_s: float = 100.0, **scope: str) -> Proof:
    entries = {key: Entry(value=value) for key, value in values.items()}
    held = Snapshot(**{**SCOPE, **scope}, epoch=EPOCH, revision=revision, entries=entries)
    return Proof(held, EventId(EPOCH, position), age_s)


def started(urls: int = 1, **more: Any) -> Link:
    link = Link(urls, **more)
    link.session.adopt(kept({"a": 1}), link.now)
    return link


def test_it_is_resumed_from_and_as_old_as_it_was_and_not_proved() -> None:
    link = started()
    assert link.reconnect() == EventId(EPOCH, 8)
    assert link.state == "connecting"
    link.now += 5
    assert link.session.view(link.now).age_s == 105
    assert link.session.proof(link.now) is None
    assert not link.session.is_proved


def test_a_change_a_snapshot_or_a_live_status_proves_it_and_each_is_told_as_a_state() -> None:
    for event, values, position in [
        (change(9, {"b": 2}), {"a": 1, "b": 2}, 9),
        (snapshot({"c": 3}, 9, proved=10), {"c": 3}, 10),
        (status(8), {"a": 1}, 8),
        (snapshot({"c": 3}, 1, epoch=OTHER_EPOCH), {"c": 3}, 1),
    ]:
        link = started()
        assert link.event(event).snapshot is link.session.snapshot
        assert (link.state, link.values) == ("live", values)
        link.now += 2
        proof = link.session.proof(link.now)
        assert proof is not None
        assert (proof.snapshot, proof.position.revision, proof.age_s) == (link.session.snapshot, position, 2)
        # Once.
        assert link.event(status(position, epoch=proof.position.epoch)).snapshot is None


def test_a_status_that_is_not_live_proves_nothing() -> None:
    link = started()
    for state in ("starting", "stale", "behind"):
        assert link.event(status(8, state)).snapshot is None
    link.event(status(3))
    assert (link.state, link.session.is_proved) == ("connecting", False)


def test_an_older_snapshot_is_refused_as_after_any_state() -> None:
    link = started()
    assert link.refused(snapshot({"a": 0}, 7)).kind == "older"
    assert link.values == {"a": 1}
    link.lost("older")
    assert link.session.addresses.all_failed
    link.reconnect()
    link.now += 30
    outcome = link.event(snapshot({"a": 0}, 7))
    assert outcome.notice is not None
    assert link.values == {"a": 0}


def test_a_state_that_a_service_has_sent_is_not_replaced() -> None:
    link = Link()
    link.event(snapshot({"a": 2}, 3))
    link.session.adopt(kept({"a": 1}), link.now)
    assert (link.values, link.session.position) == ({"a": 2}, EventId(EPOCH, 3))


def test_the_scope_that_a_service_names_decides_what_is_resumed() -> None:
    for said, position in [(SCOPE, EventId(EPOCH, 8)), ({**SCOPE, "environment": "staging"}, None)]:
        link = Link()
        link.session.namespace = link.session.environment = None
        link.session.adopt(kept({"a": 1}), link.now)
        link.session.learn_scope(None, None)
        assert link.session.attempt().last_event_id == EventId(EPOCH, 8)
        link.session.learn_scope(said["namespace"], said["environment"])
        assert (link.session.namespace, link.session.environment) == tuple(said.values())
        assert link.session.attempt().last_event_id == position
        assert (link.session.snapshot is None) == (position is None)


def test_addresses_that_nobody_has_tried_are_tried_at_once() -> None:
    link = Link(urls=3)
    assert [link.lost("unreachable") == 0 for _ in range(3)] == [True, True, False]
    assert link.session.addresses.all_failed
    link = Link(urls=2)
    assert not link.session.addresses.all_failed
    link.event(snapshot({}, 1))
    assert link.lost("unreachable") > 0


def test_a_history_that_an_earlier_run_has_left_is_not_gone_back_to() -> None:
    link = Link()
    link.session.adopt(kept({"a": 1})._replace(left=(OTHER_EPOCH,)), link.now)
    assert link.refused(snapshot({"a": 0}, 99, epoch=OTHER_EPOCH)).kind == "older"
    link.event(change(9, {"a": 2}))
    proof = link.session.proof(link.now)
    assert proof is not None
    assert proof.left == link.session.left == (OTHER_EPOCH,)
    assert not proof.is_before(EventId(EPOCH, 9), ())
    assert proof.is_before(EventId(EPOCH, 10), ())
    assert not proof.is_before(EventId(OTHER_EPOCH, 99), ())
    assert proof.is_before(EventId(OTHER_EPOCH, 1), (EPOCH,))
