"""The state: what a message makes of it, and what differs between two of them."""

from typing import Any

import pytest

from configsvc_client.protocol import Baseline, Delta, Entry, decode_baseline, encode, parse_event_id
from configsvc_client.snapshot import Snapshot, same_value

EMPTY = Snapshot(namespace="n", environment="e")


def baseline(revision: int, epoch: str = "a" * 12, **values: Any) -> Baseline:
    entries = {key: Entry(value=value) for key, value in values.items()}
    return Baseline(namespace="n", environment="e", epoch=epoch, revision=revision, entries=entries)


def values(snapshot: Snapshot) -> dict[str, Any]:
    return {key: entry.value for key, entry in snapshot.entries.items()}


def test_a_delta_sets_and_deletes_and_leaves_the_state_before_it_alone() -> None:
    before = EMPTY.apply(baseline(5, a=1, b=2))
    after = before.apply(Delta(revision=7, release=2, version="v2", set={"c": Entry(value=3)}, deleted=["a", "gone"]))
    assert values(after) == {"b": 2, "c": 3}
    assert (after.revision, after.release, after.version) == (7, 2, "v2")
    assert values(before) == {"a": 1, "b": 2}


def test_what_is_older_or_the_same_changes_nothing() -> None:
    state = EMPTY.apply(baseline(5, a=1))
    assert state.apply(Delta(revision=5, set={"a": Entry(value=2)})) is state
    assert state.apply(Delta(revision=4, deleted=["a"])) is state
    assert state.apply(baseline(4, a=2)) is state


def test_a_baseline_of_another_epoch_replaces_everything() -> None:
    state = EMPTY.apply(baseline(5, a=1)).apply(baseline(2, epoch="b" * 12, c=1))
    assert (state.epoch, state.revision, values(state)) == ("b" * 12, 2, {"c": 1})


def test_a_baseline_reads_back_as_the_state_that_made_it() -> None:
    state = EMPTY.apply(baseline(5, a=[1, {"x": None}], b=2**64 - 1, c=-(2**63), d=1.0))
    again = EMPTY.apply(decode_baseline(encode(state.baseline())))
    assert again == state
    assert type(again.entries["d"].value) is float


def test_diff_names_what_came_changed_and_went() -> None:
    old = EMPTY.apply(baseline(5, a=1, b=2, c=3))
    new = EMPTY.apply(baseline(6, a=1, b=3, d=4))
    seen = [(c.key, c.old and c.old.value, c.new and c.new.value) for c in old.diff(new)]
    assert seen == [("b", 2, 3), ("d", None, 4), ("c", 3, None)]


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), (1, 1.0), ([1], [True]), ({"a": 1}, {"a": 1.0}), (None, False), ("", None)],
)
def test_values_that_python_takes_for_equal_are_told_apart(one: Any, other: Any) -> None:
    assert not same_value(one, other)
    assert same_value(one, one)
    assert len(list(EMPTY.apply(baseline(1, a=one)).diff(EMPTY.apply(baseline(2, a=other))))) == 1


def test_objects_are_the_same_whatever_the_order_of_their_members() -> None:
    assert same_value({"a": [1, 2], "b": None}, {"b": None, "a": [1, 2]})
    assert not same_value([1, 2], [2, 1])
    assert not same_value({"a": 1}, {"a": 1, "b": 2})
    assert not same_value([1], [1, 1])


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "x",
        "0123456789ab",
        "0123456789ab:",
        "0123456789AB:1",
        "0123456789ab:01",
        "0123456789ab:-1",
        "0123456789ab:1 ",
        "0123456789ab:1\n",
        "0123456789ab:" + "1" * 20,
        "0123456789ab:١",
    ],
)
def test_an_id_that_makes_no_sense_is_none(text: str | None) -> None:
    assert parse_event_id(text) is None
