"""Look-ups beside the snapshot: they say what it says, in whole steps to every thread, and each is counted once."""

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc_client import ConfigKeyError, reads
from configsvc_client.lookup import MAX_NOT_FOUND, STATE, Lookup, Tally
from configsvc_client.protocol import Entry
from configsvc_client.snapshot import Snapshot
from configsvc_client.testing import StaticConfig

KEYS = [f"k{number:03}" for number in range(300)]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads that take turns as often as the interpreter lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def state(values: dict[str, Any], revision: int) -> Snapshot:
    entries = {key: Entry(value=value) for key, value in values.items()}
    return Snapshot(namespace="n", environment="e", revision=revision, entries=entries)


values = st.dictionaries(st.sampled_from(KEYS[:6]), st.sampled_from([None, 1, True, "x", [], {"a": 1}]))


@given(st.lists(values, max_size=6), st.booleans())
def test_it_has_the_plain_values_of_the_state_and_nothing_else(states: list[dict[str, Any]], large: bool) -> None:
    lookup = Lookup()
    many = dict.fromkeys(KEYS[6:], 0) if large else {}
    for revision, some in enumerate(states):
        shown = state(many | some, revision)
        lookup.show(lambda shown=shown: shown)
        plain = {key: None if type(value) in (list, dict) else value for key, value in (many | some).items()}
        assert lookup.values == {**plain, STATE: shown}
        assert [type(lookup.values[key]) for key in plain] == [type(value) for value in plain.values()]


def test_what_was_asked_for_in_vain_is_found_as_soon_as_it_is_there() -> None:
    config = StaticConfig({"there": 1})
    for key in KEYS[:3]:
        for _ in range(2):
            assert config.get(key, "no") == "no"
    config.update({KEYS[0]: 5, KEYS[1]: [5], KEYS[2]: None})
    assert [config.get(key, "no") for key in KEYS[:3]] == [5, [5], None]
    config.update({}, KEYS[:3])
    assert [config.get(key, "no") for key in KEYS[:3]] == ["no"] * 3
    assert config.status.reads == {"live": 3, "memory": 0, "disk": 0, "default": 9}


def test_only_so_many_are_remembered_as_asked_for_in_vain() -> None:
    lookup = Lookup()
    for number in range(MAX_NOT_FOUND + 10):
        lookup.not_found(f"{number}")
        lookup.not_found(number)
    assert len(lookup.values) == MAX_NOT_FOUND + 1


@pytest.mark.parametrize("large", [False, True])
def test_between_any_two_operations_of_a_step_all_values_are_those_of_the_state_beside_them(large: bool) -> None:
    """What another thread could see, wherever it comes in between."""
    lookup = Lookup()
    many = dict.fromkeys(KEYS[9:], 0) if large else {}
    before = {"kept": 1, "set": 1, "gone": 1, "to object": 1, "from object": {"a": 1}, **many}
    after = {"kept": 1, "set": 2, "to object": {"a": 1}, "from object": 2, "new": 2, **many, KEYS[20]: 2}
    lookup.show(lambda: state(before, 1))
    looks = 0

    def look(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal looks
        looks += 1
        frame.f_trace_opcodes = True
        entries = lookup.values[STATE].entries
        plain = {key: value for key, value in lookup.values.items() if key != STATE and value is not None}
        assert all(entries[key].value is value for key, value in plain.items())
        return look

    tracing = sys.gettrace()
    sys.settrace(look)
    try:
        lookup._step(lookup.snapshot, state(after, 2))
    finally:
        sys.settrace(tracing)
    assert looks > 20
    assert lookup.snapshot.revision == 2


def test_of_two_writers_none_goes_back() -> None:
    lookup = Lookup()
    lookup.show(lambda: state({"a": 1}, 1))
    lookup.show(lambda: None)
    assert lookup.values["a"] == 1


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("size", [2, 300])
@pytest.mark.usefixtures("hasty")
def test_no_thread_sees_a_value_of_a_later_state_and_then_one_of_an_earlier(
    monkeypatch: pytest.MonkeyPatch, size: int, atomic: bool
) -> None:
    """Plain values, containers and absences of one number: whoever has read a number reads no smaller one after it."""
    monkeypatch.setattr(reads, "IS_ATOMIC", atomic)
    config = StaticConfig(dict.fromkeys(KEYS[:size], 0))
    first, last = KEYS[0], KEYS[size - 1]
    wrong: list[tuple[int, int]] = []
    done = threading.Event()

    def number(key: str, least: int) -> int:
        value = config.get(key, least)
        return int(value[0]) if isinstance(value, list) else int(value)

    def read(one: str, other: str) -> None:
        while not done.is_set():
            seen = number(one, 0)
            then = number(other, seen)
            if then < seen:
                wrong.append((seen, then))

    readers = [threading.Thread(target=read, args=keys) for keys in ((first, last), (last, first))]
    for reader in readers:
        reader.start()
    for revision in range(1, 300):
        # As many keys between the two as there are, in one order and in the other, so that half a step lasts.
        order = KEYS[:size] if revision % 8 < 4 else KEYS[size - 1 :: -1]
        fresh: dict[str, Any] = dict.fromkeys(order, revision)
        kind = revision % 7
        if kind == 4:
            fresh[last] = [revision]
        absent = {5: [first], 6: [last]}.get(kind, [])
        config.update({key: value for key, value in fresh.items() if key not in absent}, absent)
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


@pytest.mark.usefixtures("hasty")
def test_every_read_is_counted_once_and_where_it_was_answered() -> None:
    config = StaticConfig({"plain": 1, "object": {"a": 1}, "text": "x"})

    def read() -> None:
        for _ in range(500):
            config.get("plain")
            config.get("object")
            config.get_int("plain", min_val=0)
            config.get_int("text", 5)
            config.get("none", 5)
            for key in ("none", []):
                with pytest.raises((ConfigKeyError, TypeError)):
                    config.get(key)  # type: ignore[arg-type]

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert config.status.reads == {"live": 6000, "memory": 0, "disk": 0, "default": 4000}
    config.go_stale()
    config.get("plain")
    config.get("object")
    config.close()
    config.get("plain")
    assert config.status.reads == {"live": 6000, "memory": 3, "disk": 0, "default": 4000}


def test_without_a_global_lock_reads_are_answered_from_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "IS_ATOMIC", False)
    config = StaticConfig({"a": 1, "b": [1]})
    assert (config.get("a"), config.get_int("a"), config.get("b"), config.get("c", 2)) == (1, 1, [1], 2)
    config.update({"a": 2}, ["b"])
    assert (config.get("a"), config.get("b", None)) == (2, None)
    assert config.status.reads == {"live": 4, "memory": 0, "disk": 0, "default": 2}
    config.go_stale()
    config.get("a")
    assert config.status.reads["memory"] == 1


def test_a_tally_counts_what_it_hands_out() -> None:
    tally = Tally({"a": 1})
    for _ in range(5):
        for values in tally.each:
            assert values["a"] == 1
            break
    tally.n -= 1
    assert tally.total == 4


def test_large_scopes_read_like_small_ones() -> None:
    expected = {key: index for index, key in enumerate(KEYS)}
    config = StaticConfig(expected)
    seen: list[tuple[str, Any, Any]] = []
    config.on_change(lambda change: seen.append((change.key, change.old, change.new)))
    config.update({KEYS[7]: "x", "new": [1], "a": None}, [KEYS[5], KEYS[9]])
    del expected[KEYS[5]], expected[KEYS[9]]
    expected |= {KEYS[7]: "x", "new": [1], "a": None}
    assert config.get_all() == expected
    assert {key: config.get(key) for key in expected} == expected
    assert [key for key, _, _ in seen] == ["a", KEYS[7], "new", KEYS[5], KEYS[9]]
    with pytest.raises(ConfigKeyError, match=f"near: {KEYS[50]}"):
        config.get("k050x")
