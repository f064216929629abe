"""What an application sees: precedence, copies, changes and the order of callbacks."""

from typing import Any

import pytest

from configsvc_client.callbacks import Callbacks
from configsvc_client.errors import ConfigKeyError
from configsvc_client.protocol import Entry
from configsvc_client.reads import Reads
from configsvc_client.snapshot import Snapshot
from configsvc_client.view import MISSING, ConfigChange, changes, own, values


def state(revision: int = 1, **entries: Any) -> Snapshot:
    made = {key: one if isinstance(one, Entry) else Entry(value=one) for key, one in entries.items()}
    return Snapshot(namespace="n", environment="e", revision=revision, entries=made)


class Answers(Reads):
    """Reads of one state."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self._snapshot = snapshot

    def _answering(self) -> Snapshot:
        return self._snapshot

    def why_nothing(self) -> str:
        return "nothing"


def lookup(snapshot: Snapshot, key: str, default: Any) -> Any:
    return Answers(snapshot).read(key, default)


def test_a_stored_value_wins_over_the_callers_default_and_so_does_the_schemas() -> None:
    snapshot = state(a=None, b=Entry(value=5, source="schema"))
    assert lookup(snapshot, "a", 1) is None
    assert lookup(snapshot, "b", 1) == 5
    assert lookup(snapshot, "c", None) is None
    with pytest.raises(ConfigKeyError):
        lookup(snapshot, "c", MISSING)


def test_nobody_can_change_the_shared_state_through_a_value() -> None:
    snapshot = state(a={"x": [1, {"y": 2}]}, b=[[]])
    for read in (lambda: lookup(snapshot, "a", None), lambda: values(snapshot)["a"]):
        read()["x"][1]["y"] = 3
        read()["x"].append(4)
        assert read() == {"x": [1, {"y": 2}]}
    own(changes(None, snapshot)[0]).new.clear()
    assert lookup(snapshot, "a", None) == {"x": [1, {"y": 2}]}


def test_missing_is_false_and_says_what_it_is() -> None:
    assert not MISSING
    assert repr(MISSING) == "MISSING"


def test_a_change_is_a_change_of_value_not_of_its_version() -> None:
    old = state(1, a=Entry(value=1, version="v1"), b=1, c=1)
    new = state(2, a=Entry(value=1, version="v2"), b=True, d=None)
    assert changes(old, new) == [
        ConfigChange(key="b", old=1, new=True, revision=2),
        ConfigChange(key="d", old=MISSING, new=None, revision=2),
        ConfigChange(key="c", old=1, new=MISSING, revision=2),
    ]


def made(callbacks: Callbacks) -> list[tuple[str, Any, Any]]:
    return [(change.key, change.old, change.new) for _, change in callbacks.take()]


def test_changes_are_told_in_order_to_those_who_asked_before_them() -> None:
    woken: list[None] = []
    callbacks = Callbacks(lambda: woken.append(None))
    states = [state(n, a=n) for n in range(4)]
    callbacks.push(states[0], states[1])
    assert not woken
    callbacks.add(print, None)
    callbacks.push(states[1], states[2])
    callbacks.push(states[2], states[3])
    assert len(woken) == 1
    assert made(callbacks) == [("a", 1, 2), ("a", 2, 3)]
    assert made(callbacks) == []
    callbacks.push(states[3], states[0])
    assert len(woken) == 2


def test_one_key_can_be_asked_for_and_removing_works_at_once_and_twice() -> None:
    callbacks = Callbacks(lambda: None)
    remove = callbacks.add(print, "b")
    callbacks.push(state(1, a=1, b=1), state(2, a=2, b=2))
    callbacks.push(state(2, a=2, b=2), state(3, a=3, b=3))
    seen = []
    for _, change in callbacks.take():
        seen.append(change.new)
        remove()
        remove()
    assert seen == [2]


def test_a_backlog_is_bounded_and_ends_at_the_newest_state() -> None:
    callbacks = Callbacks(lambda: None, max_backlog=3)
    callbacks.add(print, None)
    for n in range(1, 11):
        callbacks.push(state(n - 1, a=n - 1), state(n, a=n))
    assert made(callbacks) == [("a", 0, 1), ("a", 1, 2), ("a", 2, 10)]
