"""The mapping of large scopes: a dict to whoever reads it, and no change ever shows in one that was made before."""

import copy
import pickle
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from configsvc_client.entries import LONG, PART, PLAIN, Entries, differing, encoded, immutable, with_changes
from configsvc_client.protocol import Entry

LARGE = 600
KEYS = [f"key.{number}" for number in range(LARGE + 200)]


def made(count: int) -> dict[str, Entry]:
    return {key: Entry(value=key) for key in KEYS[:count]}


def found(old: Any, new: Any) -> dict[str, tuple[Entry | None, Entry | None]]:
    """The differences, by what `differing` yields."""
    seen: dict[str, tuple[Entry | None, Entry | None]] = {}
    for before, after in differing(old, new):
        for key in before.keys() | after.keys():
            if before.get(key) != after.get(key):
                assert key not in seen
                seen[key] = before.get(key), after.get(key)
    return seen


def check(entries: Any, model: dict[str, Entry]) -> None:
    assert len(entries) == len(model)
    assert msgspec.json.decode(b"".join(encoded(entries)), type=dict[str, Entry]) == model
    assert entries == model
    assert model == entries
    assert dict(entries) == dict(entries.items()) == model
    assert sorted(entries) == sorted(entries.keys()) == sorted(model)
    if isinstance(entries, Entries):
        assert list(entries) == sorted(entries)
        assert all(len(part) <= 2 * PART for part in entries.parts())
    for key in ("absent", *KEYS[::37]):
        assert (key in entries) == (key in model)
        assert entries.get(key) is model.get(key)


class Model(RuleBasedStateMachine):
    """Any changes one after another, with a dict beside; every state is kept and looked at again."""

    @initialize(count=st.sampled_from([0, 1, PLAIN - 1, PLAIN, PLAIN + 1, 4 * PART, LARGE]))
    def begin(self, count: int) -> None:
        model = made(count)
        self.states = [(immutable(dict(model)), model)]

    @rule(
        changed=st.lists(st.sampled_from(KEYS), max_size=60),
        deleted=st.lists(st.sampled_from(KEYS), max_size=60),
        value=st.integers(),
    )
    def change(self, changed: list[str], deleted: list[str], value: int) -> None:
        before, model = self.states[-1]
        fresh = {key: Entry(value=value) for key in changed}
        after = with_changes(before, fresh, deleted)
        expected = {key: entry for key, entry in {**model, **fresh}.items() if key not in deleted}
        keys = {key for key in (*changed, *deleted) if model.get(key) != expected.get(key)}
        assert found(before, after) == {key: (model.get(key), expected.get(key)) for key in keys}
        self.states.append((after, expected))

    @rule(first=st.integers(0, 400), count=st.integers(0, 400))
    def grow(self, first: int, count: int) -> None:
        self.change(KEYS[first : first + count], [], first)

    @rule(first=st.integers(0, 600))
    def shrink(self, first: int) -> None:
        self.change([], KEYS[first:], 0)

    @invariant()
    def nothing_has_changed(self) -> None:
        for entries, model in [*self.states[-3:], self.states[0]]:
            check(entries, model)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


@given(st.dictionaries(st.text(max_size=5), st.integers()), st.dictionaries(st.text(max_size=5), st.integers()))
def test_any_two_are_told_apart_as_dicts_are(one: dict[str, int], other: dict[str, int]) -> None:
    old = {key: Entry(value=value) for key, value in one.items()}
    new = {key: Entry(value=value) for key, value in other.items()}
    expected = {key: (old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    for before in (old, Entries(old)):
        for after in (new, Entries(new)):
            assert found(before, after) == expected
            assert (before == after) == (old == new)


def test_small_ones_stay_dicts() -> None:
    assert type(immutable(made(PLAIN))) is dict
    assert type(immutable(made(PLAIN + 1))) is Entries
    assert type(with_changes(made(PLAIN), {"one more": Entry(value=1)}, [])) is Entries


def test_keys_that_always_come_last_lay_everything_out_anew_now_and_then() -> None:
    entries, model = Entries({}), {}
    for number in range(3000):
        fresh = {f"{number:06d}": Entry(value=number)}
        entries, model = entries.with_changes(fresh, []), {**model, **fresh}
    check(entries, model)
    assert max(len(row.parts) for row in entries._rows) <= LONG * (1 + len(entries._rows))


def test_a_change_shares_all_but_one_small_dict() -> None:
    before = Entries(made(LARGE))
    after = before.with_changes({KEYS[7]: Entry(value="another")}, [])
    shared = {id(part) for part in before.parts()} & {id(part) for part in after.parts()}
    assert len(shared) == len(list(before.parts())) - 1
    assert [set(new) - {KEYS[7]} <= set(old) for old, new in differing(before, after)] == [True]


def test_a_copy_is_the_same() -> None:
    entries = Entries(made(LARGE))
    assert copy.deepcopy(entries) == entries
    assert pickle.loads(pickle.dumps(entries)) == entries


def test_it_says_what_it_is_and_refuses_what_dicts_refuse() -> None:
    entries = Entries(made(LARGE))
    assert repr(entries) == f"<Entries of {LARGE} keys>"
    assert entries != 5
    assert 5 not in entries
    assert entries.get(5, 1) == 1  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        entries["absent"]
    with pytest.raises(TypeError):
        hash(entries)
    with pytest.raises(TypeError):
        entries.get([])  # type: ignore[arg-type]
