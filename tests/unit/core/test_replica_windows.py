"""Apply windows: a scope stands still from the opening to the close, however a replica came to be inside."""

import pytest

from configsvc.core import scope as scope_module
from configsvc.core.model import Scope, entry_path, epoch_path, head_path, schema_path
from configsvc.core.records import Record
from configsvc.core.replica import Relist, Replica
from tests.support.model_etcd import SCOPE, Pair, entry_bytes, head_bytes, schema_bytes, window

HEAD = head_path(SCOPE)


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.txn({entry_path(SCOPE, key): entry_bytes(1) for key in "ab"} | {HEAD: head_bytes(1)})
    return pair


def opened(pair: Pair, id: str = "w") -> int:
    [update] = pair.txn({HEAD: head_bytes(1, applying=window(id))})
    assert update.delta is None
    return pair.etcd.revision


def test_a_window_shows_nothing_until_its_close(pair: Pair) -> None:
    revision = opened(pair)
    hold = pair.replica.held(SCOPE)
    assert hold is not None
    assert (hold.release, hold.since, hold.frozen) == (2, "2026-01-01T00:00:00Z", revision - 1)
    assert pair.put("a", 2) == []
    assert (
        pair.txn({HEAD: head_bytes(1, applying=window("w", revision, "verified")), entry_path(SCOPE, "b"): None}) == []
    )
    assert pair.put("by-hand", 3) == []
    assert pair.txn({schema_path("shop"): schema_bytes(d=4)}) == []
    pair.replica.prove(50)
    assert pair.replica.proved(SCOPE) == revision - 1
    assert pair.values() == {"a": 1, "b": 1}
    pair.etcd.revision, pair.etcd.states = 50, pair.etcd.states + [pair.etcd.live] * (50 - pair.etcd.revision)
    [update] = pair.txn({HEAD: head_bytes(2)})
    assert update.delta is not None
    assert (update.delta.revision, update.delta.release) == (51, 2)
    assert sorted(update.delta.set) == ["a", "by-hand", "d"]
    assert update.delta.deleted == ["b"]
    assert pair.replica.held(SCOPE) is None
    assert pair.replica.proved(SCOPE) == 51


def test_a_window_that_closes_unchanged_makes_no_frame(pair: Pair) -> None:
    opened(pair)
    [update] = pair.txn({HEAD: head_bytes(1)})
    assert update.delta is None
    assert pair.replica.held(SCOPE) is None


@pytest.mark.parametrize("damage", [None, b"{", b'{"release":1,"applying":{}}'])
def test_a_head_deleted_or_garbled_inside_keeps_the_hold(pair: Pair, damage: bytes | None) -> None:
    revision = opened(pair)
    pair.put("a", 2)
    assert pair.txn({HEAD: damage}) == []
    assert pair.relist() == []
    assert pair.replica.proved(SCOPE) == revision - 1
    pair.txn({HEAD: head_bytes(1, applying=window("w", revision))})
    [update] = pair.txn({HEAD: head_bytes(2)})
    assert update.delta is not None
    assert list(update.delta.set) == ["a"]
    assert not update.tag


def test_a_scope_deleted_wholly_inside_is_gone(pair: Pair) -> None:
    opened(pair)
    [update] = pair.txn(dict.fromkeys(pair.etcd.live))
    assert not update.exists
    assert pair.values() == {}
    assert pair.replica.held(SCOPE) is None


def test_a_first_release_is_absence_until_its_window_closes() -> None:
    pair = Pair()
    pair.txn({schema_path("shop"): schema_bytes(d=1)})
    [update] = pair.txn({HEAD: head_bytes(0, applying=window("w"))})
    assert (update.baseline, update.exists) == (True, False)
    assert pair.values() == {"d": 1}
    assert pair.replica.want(SCOPE).snapshot is update.snapshot
    pair.put("a", 1)
    [update] = pair.txn({HEAD: head_bytes(1)})
    assert (update.exists, pair.values()) == (True, {"a": 1, "d": 1})


def test_an_opening_that_was_not_seen_or_another_window_asks_for_a_listing(pair: Pair) -> None:
    with pytest.raises(Relist):
        pair.txn({HEAD: head_bytes(1, applying=window("w", 2))})
    before = pair.replica.position
    pair.replica.prove(99)
    assert pair.replica.position == before
    with pytest.raises(Relist):
        pair.txn({entry_path(SCOPE, "a"): entry_bytes(2)})
    pair.relist()
    assert pair.put("b", 3) == []
    with pytest.raises(Relist):
        pair.txn({HEAD: head_bytes(1, applying=window("other"))})
    pair.relist()
    hold = pair.replica.held(SCOPE)
    assert hold is not None
    assert hold.id == "other"


def test_what_other_scopes_did_at_that_revision_is_published(pair: Pair) -> None:
    other = Scope("shop", "test")
    with pytest.raises(Relist) as caught:
        pair.txn(
            {
                HEAD: head_bytes(1, applying=window("w", 2)),
                entry_path(other, "x"): entry_bytes(1),
                epoch_path("shop"): b"new",
            }
        )
    assert [(update.scope, update.baseline) for update in caught.value.updates] == [(SCOPE, True), (other, True)]
    assert pair.replica.proved(other) < pair.etcd.revision


def test_an_overlay_beyond_its_budget_is_read_again_at_the_close(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope_module, "OVERLAY_BYTES", 1000)
    revision = opened(pair)
    for value in range(5):
        pair.put(f"k{value}", "x" * 300)
    hold = pair.replica.held(SCOPE)
    assert hold is not None
    assert hold.overflowed
    assert hold.overlay == {}
    with pytest.raises(Relist):
        pair.txn({HEAD: head_bytes(2)})
    assert pair.replica.proved(SCOPE) == revision - 1
    [update] = pair.relist()
    assert update.delta is not None
    assert len(update.delta.set) == 5


def test_the_overlay_keeps_the_newest_per_key_within_its_budget(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope_module, "OVERLAY_BYTES", 2000)
    opened(pair)
    for value in range(50):
        pair.put("a", value)
    pair.put("a", b"garbage")
    pair.put("a", b"more garbage")
    pair.put("b", None)
    pair.put("b", b"garbage")
    [update] = pair.txn({HEAD: head_bytes(2)})
    assert pair.values() == {"a": 49}
    assert update.tag
    assert sorted(pair.replica.scopes[SCOPE].unreadable) == ["a", "b"]


def test_a_rotation_is_not_held_back(pair: Pair) -> None:
    revision = opened(pair)
    before = pair.replica.scopes[SCOPE].snapshot
    assert before is not None
    [update] = pair.txn({epoch_path("shop"): b"x", entry_path(SCOPE, "a"): entry_bytes(2)})
    assert update.baseline
    assert update.snapshot.epoch != before.epoch
    assert update.snapshot.revision == before.revision
    assert pair.values() == {"a": 1, "b": 1}
    assert pair.replica.proved(SCOPE) == revision - 1
    pair.etcd.txn({epoch_path("shop"): b"y"})
    [update] = pair.relist()
    assert (update.baseline, update.snapshot.revision) == (True, before.revision)


def test_a_listing_inside_the_same_window_goes_on_holding(pair: Pair) -> None:
    revision = opened(pair)
    pair.put("a", 2)
    pair.etcd.txn({entry_path(SCOPE, "a"): b"garbage", entry_path(SCOPE, "b"): None})
    pair.etcd.txn({entry_path(SCOPE, "c"): entry_bytes(3)})
    pair.etcd.compacted = pair.etcd.revision - 1
    assert pair.relist() == []
    assert pair.replica.proved(SCOPE) == revision - 1
    [update] = pair.txn({HEAD: head_bytes(2)})
    assert update.delta is not None
    assert update.delta.deleted == ["b"]
    assert "c" in update.delta.set


def test_a_close_that_was_missed_is_the_difference(pair: Pair) -> None:
    opened(pair)
    pair.etcd.txn({entry_path(SCOPE, "a"): entry_bytes(2)})
    pair.etcd.txn({HEAD: head_bytes(2)})
    [update] = pair.relist()
    assert update.delta is not None
    assert (list(update.delta.set), update.delta.revision, update.tag) == (["a"], pair.etcd.revision, False)


# ---- cold ------------------------------------------------------------------------------------------------------------


def test_a_cold_replica_shows_what_was_before_the_opening(pair: Pair) -> None:
    pair.txn({schema_path("shop"): schema_bytes(d=1), entry_path(SCOPE, "a"): b"garbage"})
    revision = opened(pair)
    pair.txn({entry_path(SCOPE, "b"): entry_bytes(2), entry_path(SCOPE, "a"): entry_bytes(3)})
    pair.txn({schema_path("shop"): schema_bytes(d=2)})
    pair.txn({HEAD: head_bytes(1, applying=window("w", revision, "verified"))})
    cold = Pair()
    cold.etcd = pair.etcd
    [update] = cold.relist()
    assert (update.snapshot.revision, update.tag, update.exists, update.pending) == (revision - 1, True, True, False)
    assert cold.values() == {"a": 1, "b": 1, "d": 1}
    assert cold.replica.proved(SCOPE) == revision - 1
    assert cold.relist() == []
    [update] = cold.txn({HEAD: head_bytes(2)})
    assert not update.tag
    assert cold.values() == {"a": 3, "b": 2, "d": 2}


def test_a_state_rebuilt_from_the_releases_content_is_replaced_at_the_close(pair: Pair) -> None:
    revision = opened(pair)
    pair.txn({entry_path(SCOPE, "a"): entry_bytes(2)})
    replica = Replica()
    listed = pair.etcd.listing()
    [need], _ = replica.needs(listed)
    assert (need.revision, need.release, need.applying.id) == (revision - 1, 2, "w")
    rebuilt = [
        Record(key=entry_path(SCOPE, "a"), value=entry_bytes(1), mod_revision=need.revision),
        listed.scopes[SCOPE].records["b"],
    ]
    [update] = replica.rebase(listed, windows={SCOPE: rebuilt}, found={})
    assert (update.tag, sorted(update.snapshot.entries)) == (True, ["a", "b"])
    pair.etcd.txn({HEAD: head_bytes(2)})
    [update] = replica.apply(pair.etcd.revision, pair.etcd.events[pair.etcd.revision])
    assert update.delta is not None
    assert list(update.delta.set) == ["a"]


def test_where_nothing_can_be_known_nothing_is_shown_until_the_close(pair: Pair) -> None:
    opened(pair)
    pair.etcd.compacted = pair.etcd.revision
    cold = Pair()
    cold.etcd = pair.etcd
    [update] = cold.relist()
    assert update.pending
    assert cold.replica.scopes[SCOPE].snapshot is None
    assert cold.replica.want(SCOPE).pending
    assert cold.relist()[0].pending
    assert cold.txn({epoch_path("shop"): b"x"}) == []
    with pytest.raises(Relist):
        cold.txn({HEAD: head_bytes(2)})
    [update] = cold.relist()
    assert (update.baseline, update.pending, cold.values()) == (True, False, {"a": 1, "b": 1})


def test_a_file_is_shown_where_nothing_else_is_known(pair: Pair) -> None:
    state = pair.replica.scopes[SCOPE]
    assert state.snapshot is not None
    cold = Pair()
    cold.replica = Replica()
    cold.replica.remember(state.snapshot, pair.replica.position, state.head)
    proved = pair.replica.position
    pair.etcd.txn({entry_path(SCOPE, "a"): entry_bytes(2)})
    opened_at = pair.etcd.txn({HEAD: head_bytes(1, applying=window("w"))})
    pair.etcd.compacted = pair.etcd.revision
    cold.etcd = pair.etcd
    updates = cold.relist()
    assert [update.pending for update in updates] == [False]
    assert cold.values() == {"a": 1, "b": 1}
    assert cold.replica.proved(SCOPE) == proved < opened_at
    cold.txn({HEAD: head_bytes(2)})
    assert cold.values() == {"a": 2, "b": 1}


def test_a_missed_close_and_another_window_start_as_if_cold(pair: Pair) -> None:
    opened(pair, "one")
    pair.etcd.txn({entry_path(SCOPE, "a"): entry_bytes(2)})
    pair.etcd.txn({HEAD: head_bytes(2)})
    pair.etcd.txn({HEAD: head_bytes(2, applying=window("two"))})
    pair.etcd.txn({entry_path(SCOPE, "a"): entry_bytes(3)})
    [update] = pair.relist()
    assert update.delta is not None
    assert pair.values() == {"a": 2, "b": 1}
    assert update.snapshot.release == 2


def test_a_replica_that_had_seen_beyond_the_opening_never_goes_back(pair: Pair) -> None:
    revision = opened(pair)
    pair.txn({HEAD: head_bytes(1)})
    pair.put("a", 5)
    proved = pair.replica.proved(SCOPE)
    pair.etcd.txn({HEAD: head_bytes(1, applying=window("w", revision))})
    pair.relist()
    assert pair.values() == {"a": 5, "b": 1}
    assert pair.replica.proved(SCOPE) == proved
