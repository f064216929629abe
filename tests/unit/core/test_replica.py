"""What single revisions and listings mean: epochs, schemas, unreadable entries, absent scopes, other histories."""

from typing import Any

import msgspec
import pytest

from configsvc.core.model import Scope, entry_path, epoch_path, head_path, schema_path
from configsvc.core.records import sort_listing
from configsvc.core.replica import Event, Record, Relist, Replica
from tests.support.model_etcd import SCOPE, Pair, entry_bytes, head_bytes, schema_bytes

OTHER = Scope("shop", "test")


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.txn({entry_path(SCOPE, "a"): entry_bytes(1), head_path(SCOPE): head_bytes(1)})
    return pair


def test_a_revision_is_one_change(pair: Pair) -> None:
    [update] = pair.txn(
        {entry_path(SCOPE, "a"): None, entry_path(SCOPE, "b"): entry_bytes(2), head_path(SCOPE): head_bytes(2)}
    )
    assert update.delta is not None
    assert (update.delta.release, update.delta.version, list(update.delta.set), update.delta.deleted) == (
        2, "v2", ["b"], ["a"],
    )  # fmt: skip
    assert update.snapshot.revision == pair.etcd.revision == pair.replica.position


def test_a_touched_head_makes_no_frame_and_moves_no_revision(pair: Pair) -> None:
    before = pair.replica.scopes[SCOPE].snapshot
    [update] = pair.txn({head_path(SCOPE): head_bytes(1)})
    assert update.delta is None
    assert update.snapshot is before


def test_release_zero_is_absence(pair: Pair) -> None:
    [update] = pair.txn({head_path(OTHER): head_bytes(0)})
    assert not update.exists
    assert (update.snapshot.release, update.snapshot.version) == (None, None)


def test_nothing_is_applied_twice_or_out_of_order(pair: Pair) -> None:
    with pytest.raises(Relist):
        pair.replica.apply(pair.replica.position, [])


def test_proofs_never_go_back(pair: Pair) -> None:
    pair.replica.prove(10)
    pair.replica.prove(5)
    assert pair.replica.position == pair.replica.proved(SCOPE) == pair.replica.proved(Scope("none", "none")) == 10
    assert "at 10: 2 keys, 1 scopes, 0 held" in repr(pair.replica)


def test_an_older_listing_is_refused_within_one_history(pair: Pair) -> None:
    pair.replica.prove(10)
    with pytest.raises(Relist):
        pair.relist()
    assert pair.relist(new_history=True)[0].baseline
    assert pair.replica.position == pair.etcd.revision


def test_a_listing_publishes_the_difference_and_nothing_where_there_is_none(pair: Pair) -> None:
    assert pair.relist() == []
    pair.etcd.txn({entry_path(SCOPE, "a"): None, entry_path(SCOPE, "b"): entry_bytes(2)})
    pair.etcd.txn({entry_path(OTHER, "x"): entry_bytes(1)})
    first, second = pair.relist()
    assert first.delta is not None
    assert (list(first.delta.set), first.delta.deleted) == (["b"], ["a"])
    assert first.delta.revision == pair.etcd.revision
    assert second.baseline


def test_a_key_deleted_while_nobody_looked_ends_a_scope(pair: Pair) -> None:
    pair.etcd.txn(dict.fromkeys(pair.etcd.live))
    [update] = pair.relist()
    assert not update.exists
    assert update.delta is not None
    assert update.delta.deleted == ["a"]
    assert pair.replica.namespaces == set()
    pair.replica.unwant(SCOPE)
    assert pair.replica.scopes == {}


# ---- absent scopes ---------------------------------------------------------------------------------------------------


def test_a_wanted_scope_hears_of_schemas_and_epochs(pair: Pair) -> None:
    absent = Scope("shop", "absent")
    update = pair.replica.want(absent)
    assert (update.exists, update.baseline, update.snapshot.revision) == (False, True, pair.replica.position)
    assert pair.replica.want(absent).snapshot is update.snapshot
    updates = pair.txn({schema_path("shop"): schema_bytes(d=1)})
    assert [u.scope for u in updates] == [absent, SCOPE]
    assert pair.values(absent) == {"d": 1}
    updates = pair.txn({epoch_path("shop"): b"x"})
    assert [(u.scope, u.baseline) for u in updates] == [(absent, True), (SCOPE, True)]
    [update] = pair.put("k", 1, absent)
    assert (update.exists, update.delta is not None) == (True, True)
    pair.replica.unwant(absent)
    assert absent in pair.replica.scopes
    [update] = pair.put("k", None, absent)
    assert not update.exists
    assert pair.values(absent) == {"d": 1}
    pair.replica.unwant(absent)
    pair.replica.unwant(absent)
    assert absent not in pair.replica.scopes


def test_wanted_namespaces_do_not_count_as_there(pair: Pair) -> None:
    pair.replica.want(Scope("typo", "prod"))
    assert pair.replica.namespaces == {"shop"}


# ---- schemas ---------------------------------------------------------------------------------------------------------


def test_defaults_give_way_to_stored_values_and_come_back(pair: Pair) -> None:
    [update] = pair.txn({schema_path("shop"): schema_bytes(a=5, d=6)})
    assert pair.values() == {"a": 1, "d": 6}
    assert update.snapshot.entries["d"].source == "schema"
    assert update.snapshot.entries["d"].revision == pair.etcd.revision
    pair.put("a", None)
    assert pair.values() == {"a": 5, "d": 6}
    pair.put("d", 7)
    [update] = pair.txn({schema_path("shop"): None})
    assert pair.values() == {"d": 7}
    assert update.delta is not None
    assert update.delta.deleted == ["a"]


def test_a_schema_is_a_change_of_every_scope_of_its_namespace_also_without_defaults(pair: Pair) -> None:
    pair.put("x", 1, Scope("other", "prod"))
    [update] = pair.txn({schema_path("shop"): schema_bytes()})
    assert update.delta is not None
    assert update.snapshot.revision == pair.etcd.revision


def test_a_schema_that_does_not_read_leaves_the_defaults_and_is_reported(pair: Pair) -> None:
    pair.txn({schema_path("shop"): schema_bytes(d=6)})
    [update] = pair.txn({schema_path("shop"): b"?"})
    assert pair.values() == {"a": 1, "d": 6}
    assert update.tag
    assert list(pair.replica.schema_problems) == ["shop"]
    assert pair.relist() == []
    cold = Replica()
    [update] = pair.etcd.relist(cold)
    assert update.tag
    assert list(update.snapshot.entries) == ["a"]
    [update] = pair.txn({schema_path("shop"): schema_bytes(d=7)})
    assert not update.tag
    assert pair.replica.schema_problems == {}


# ---- what does not read ----------------------------------------------------------------------------------------------


def test_an_unreadable_entry_shows_its_last_readable_value(pair: Pair) -> None:
    [update] = pair.put("a", b"garbage")
    assert (update.delta, update.tag) == (None, True)
    assert pair.values() == {"a": 1}
    assert pair.replica.scopes[SCOPE].unreadable["a"].revision == pair.etcd.revision
    cold = Replica()
    pair.etcd.relist(cold)
    assert cold.scopes[SCOPE].shown == pair.replica.scopes[SCOPE].shown
    [update] = pair.put("a", 2)
    assert not update.tag
    assert pair.values() == {"a": 2}


def test_history_is_newer_than_memory_after_a_gap(pair: Pair) -> None:
    for value in (2, b"garbage", b"more"):
        pair.etcd.txn({entry_path(SCOPE, "a"): value if type(value) is bytes else entry_bytes(value)})
    pair.relist()
    assert pair.values() == {"a": 2}


def test_a_value_from_before_a_deletion_is_not_shown_again(pair: Pair) -> None:
    pair.etcd.txn({entry_path(SCOPE, "a"): None})
    pair.etcd.txn({entry_path(SCOPE, "a"): b"garbage"})
    pair.relist()
    assert pair.values() == {}


def test_without_history_memory_counts_and_else_the_key_is_absent(pair: Pair) -> None:
    pair.etcd.txn({entry_path(SCOPE, "a"): b"garbage"})
    pair.etcd.compacted = pair.etcd.revision
    pair.relist()
    assert pair.values() == {"a": 1}
    cold = Replica()
    [update] = pair.etcd.relist(cold)
    assert (update.snapshot.entries, update.tag) == ({}, True)


def test_what_was_found_may_itself_not_read() -> None:
    record = Record(key=entry_path(SCOPE, "a"), value=b"?", mod_revision=5)
    listed = sort_listing([record], 6, "c")
    replica = Replica()
    [update] = replica.rebase(listed, windows={}, found={record.key: record})
    assert update.snapshot.entries == {}


def test_an_unreadable_head_keeps_the_last_one(pair: Pair) -> None:
    [update] = pair.txn({head_path(SCOPE): b"{"})
    assert (update.delta, update.tag, update.exists) == (None, True, True)
    assert update.snapshot.release == 1
    assert pair.replica.scopes[SCOPE].head_problem
    [update] = pair.txn({head_path(SCOPE): None})
    assert (update.snapshot.release, update.tag) == (None, False)


def test_odd_keys_are_mirrored_and_reported(pair: Pair) -> None:
    odd = b"/config/shop/prod/a/b"
    assert pair.txn({odd: b"x", b"/config/shop/prod/_x": b"", b"/config/_system/x": b""}) == []
    assert list(pair.replica.unaddressable) == [odd]
    identity = pair.replica.identity()
    assert (identity.newest, identity.count) == (pair.etcd.revision, 5)
    assert pair.replica.fingerprint(SCOPE) == (pair.etcd.revision, 4)
    pair.txn({odd: None})
    assert pair.replica.unaddressable == {}
    assert pair.replica.fingerprint(Scope("no", "no")) == (0, 0)


def test_the_deletion_of_a_key_that_is_not_there_is_nothing(pair: Pair) -> None:
    revision = pair.replica.position + 1
    assert pair.replica.apply(revision, [Event(key=b"/config/new/prod/x", record=None)]) == []
    assert Scope("new", "prod") not in pair.replica.scopes


def test_one_environment_mirrors_all_keys_and_keeps_its_own_scope() -> None:
    pair = Pair("prod")
    pair.txn({entry_path(SCOPE, "a"): entry_bytes(1), entry_path(OTHER, "a"): entry_bytes(1), head_path(OTHER): b"{}"})
    assert list(pair.replica.scopes) == [SCOPE]
    assert len(pair.replica.mirror) == 3
    pair.relist()
    assert list(pair.replica.scopes) == [SCOPE]
    assert len(pair.replica.mirror) == 3


# ---- histories -------------------------------------------------------------------------------------------------------


def test_a_rotation_is_a_new_snapshot_at_once_also_with_a_change(pair: Pair) -> None:
    old = pair.replica.epoch("shop")
    [update] = pair.txn({epoch_path("shop"): b"x"})
    assert update.baseline
    assert update.snapshot.epoch == pair.replica.epoch("shop") != old
    [update] = pair.txn({epoch_path("shop"): b"y", entry_path(SCOPE, "a"): entry_bytes(2)})
    assert (update.baseline, pair.values()) == (True, {"a": 2})
    assert pair.replica.epoch_value("shop") == b"y"
    [update] = pair.txn({epoch_path("shop"): None})
    assert update.snapshot.epoch == old
    assert pair.replica.epoch_value("shop") is None


def test_a_rotation_while_nobody_looked(pair: Pair) -> None:
    pair.etcd.txn({epoch_path("shop"): b"x"})
    [update] = pair.relist()
    assert (update.baseline, update.snapshot.revision) == (True, pair.etcd.revision)


def test_a_private_salt_counts_until_the_key_moves(pair: Pair) -> None:
    pair.txn({epoch_path("shop"): b"x"})
    clients_left = pair.replica.epoch("shop")
    pair.txn({epoch_path("shop"): b"y"})
    # A backup comes back in which the key has the value that clients have left.
    pair.etcd.txn({epoch_path("shop"): b"x"})
    pair.replica.begin_history("salt", pair.etcd.listing().epochs)
    [update] = pair.relist(new_history=True)
    assert update.baseline
    assert update.snapshot.epoch == pair.replica.epoch("shop") != clients_left
    assert pair.replica.epoch("never-seen") != Replica().epoch("never-seen")
    [update] = pair.txn({epoch_path("shop"): b"z"})
    unsalted = Replica()
    pair.etcd.relist(unsalted)
    assert unsalted.epoch("shop") == update.snapshot.epoch


def test_another_value_at_the_same_revision_is_another_history(pair: Pair) -> None:
    def altered(value: Any) -> str | None:
        path = entry_path(SCOPE, "a")
        record = msgspec.structs.replace(pair.etcd.live[path], value=entry_bytes(value))
        rest = [other for key, other in pair.etcd.live.items() if key != path]
        return pair.replica.altered(sort_listing([record, *rest], pair.etcd.revision, "1", None))

    assert altered(1) is None
    assert "a of shop/prod has another value at revision 2" in (altered(2) or "")
    pair.put("a", b"garbage")
    assert altered(3) is None, "what was last readable is from another revision"


def test_an_epoch_key_is_what_a_history_is_known_by(pair: Pair) -> None:
    assert pair.replica.witness() is None
    pair.txn({epoch_path("shop"): b"random"})
    assert pair.replica.witness() == (epoch_path("shop"), b"random")
    assert pair.replica.epoch_value("shop") == b"random"
    assert pair.replica.epoch_value("other") is None


def test_what_applies_where_nothing_is_stored(pair: Pair) -> None:
    pair.txn({schema_path("shop"): schema_bytes(limit=5)})
    assert [*pair.replica.defaults("shop")] == ["limit"]
    assert pair.replica.defaults("other") == {}
    assert set(pair.replica.shown(SCOPE)) == {"a", "limit"}
    assert pair.replica.shown(OTHER) == {}


def test_in_a_new_history_nothing_remembered_counts(pair: Pair) -> None:
    pair.put("a", b"garbage")
    pair.etcd.compacted = pair.etcd.revision
    pair.replica.begin_history("salt", {})
    [update] = pair.relist(new_history=True)
    assert update.baseline
    assert update.snapshot.entries == {}


def test_remembered_scopes_are_shown_until_the_listing(pair: Pair) -> None:
    state = pair.replica.scopes[SCOPE]
    assert state.snapshot is not None
    replica = Replica()
    replica.remember(state.snapshot, pair.replica.position, state.head)
    replica.unwant(SCOPE)
    assert replica.proved(SCOPE) == pair.replica.position
    assert replica.epoch("shop") == state.snapshot.epoch
    replica.remember(state.snapshot, 2, state.head, tag=True)
    pair.etcd.txn(dict.fromkeys(pair.etcd.live))
    [update] = pair.etcd.relist(replica)
    assert (update.exists, update.tag) == (False, False)
    assert replica.remembered == {}
