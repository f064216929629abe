"""Whether a listing can follow what was seen: forks are told from ordinary life."""

import json

from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.continuity import Remembered, contradiction, head_id, remembered_contradiction
from configsvc.core.model import Scope, entry_path, head_path
from configsvc.core.replica import Listed, Record, sort_listing

SCOPE = Scope("shop", "production")


def listing(revision: int, keys: dict[str, int], head: tuple[int, str] | None = None) -> Listed:
    records = [Record(key=entry_path(SCOPE, key), value=b'{"value":1}', mod_revision=mod) for key, mod in keys.items()]
    if head:
        text = json.dumps({"release": 1, "id": head[1]}).encode()
        records.append(Record(key=head_path(SCOPE), value=text, mod_revision=head[0]))
    return sort_listing(records, revision, "1")


operations = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=30)


def history(steps: list[tuple[str, bool]]) -> list[dict[str, int]]:
    """The live keys with their revisions after each step; revision n is after n - 1 steps."""
    states = [{}]
    for revision, (key, delete) in enumerate(steps, start=2):
        state = dict(states[-1])
        if delete:
            state.pop(key, None)
        else:
            state[key] = revision
        states.append(state)
    return states


@given(operations, st.data())
def test_a_later_state_of_the_same_history_is_never_a_contradiction(
    steps: list[tuple[str, bool]], data: st.DataObject
) -> None:
    states = history(steps)
    then = data.draw(st.integers(0, len(states) - 1))
    now = data.draw(st.integers(then, len(states) - 1))
    mirror = {entry_path(SCOPE, key): mod for key, mod in states[then].items()}
    assert contradiction(listing(now + 1, states[now]), then + 1, mirror) is None
    past = Remembered(
        proved=then + 1, newest=max(states[then].values(), default=0), count=0, revisions=states[then], head_id=None
    )
    assert remembered_contradiction(listing(now + 1, states[now]), {SCOPE: past}) is None


def test_a_key_that_was_not_there_or_was_another_is_a_contradiction() -> None:
    mirror = {entry_path(SCOPE, "a"): 5}
    assert contradiction(listing(20, {"a": 5, "b": 12}), 10, mirror) is None
    assert "was not there" in (contradiction(listing(20, {"b": 7}), 10, mirror) or "")
    assert "was at 5" in (contradiction(listing(20, {"a": 6}), 10, mirror) or "")


def test_files_remember_revisions_and_the_heads_id() -> None:
    past = {SCOPE: Remembered(proved=10, newest=8, count=2, revisions={"a": 5}, head_id="x")}
    assert remembered_contradiction(listing(20, {"a": 5}, (8, "x")), past) is None
    assert remembered_contradiction(listing(20, {"a": 15}, (12, "y")), past) is None
    assert remembered_contradiction(listing(20, {}), past) is None
    assert remembered_contradiction(sort_listing([], 20, "1"), past) is None
    assert "revision 9" in (remembered_contradiction(listing(9, {}), past) or "")
    assert "has revision 9" in (remembered_contradiction(listing(20, {"b": 9}), past) or "")
    assert "has revision 9" in (remembered_contradiction(listing(20, {}, (9, "x")), past) or "")
    assert "went back" in (remembered_contradiction(listing(20, {"a": 4}), past) or "")
    assert "head" in (remembered_contradiction(listing(20, {"a": 5}, (8, "y")), past) or "")


def test_an_unreadable_head_has_no_id() -> None:
    assert head_id(Record(key=b"", value=b"nonsense", mod_revision=1)) is None
