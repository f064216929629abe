"""The verdict itself: what the checks let pass, and what they must not."""

import pytest

from tests.cluster.history import History, Seen, check_changes, check_no_torn_pair, check_states


@pytest.fixture
def history() -> History:
    history = History(5, {})
    history.add(6, {"x.a": (1, 6), "x.b": (1, 6)})
    history.add(8, {"x.a": (2, 8), "x.b": (2, 8), "y": (1, 8)})
    history.add(9, {"y": None})
    return history


def seen(*states: tuple[int, dict[str, tuple[int, int]]], changes: tuple[int, ...] = ()) -> Seen:
    return Seen("r", "e", list(states), [(revision, frozenset()) for revision in changes], [5])


FIRST = {"x.a": (1, 6), "x.b": (1, 6)}
SECOND = {"x.a": (2, 8), "x.b": (2, 8), "y": (1, 8)}
THIRD = {"x.a": (2, 8), "x.b": (2, 8)}


def test_what_is_right_passes(history: History) -> None:
    right = seen((5, {}), (6, FIRST), (7, FIRST), (8, SECOND), (9, THIRD), (20, THIRD), changes=(6, 8, 9))
    check_states(right, history)
    check_changes(right, history, complete=True)
    check_changes(seen(changes=(6, 9)), history, complete=False)


@pytest.mark.parametrize(
    "states",
    [
        [(7, SECOND)],
        [(8, FIRST)],
        [(9, SECOND)],
        [(8, SECOND), (7, FIRST)],
        [(4, {})],
        [(8, {**SECOND, "x.a": (1, 6)})],
        [(8, {key: (value, 6) for key, (value, _) in SECOND.items()})],
    ],
    ids=["early", "late", "not deleted", "back", "before the beginning", "torn", "another revision"],
)
def test_what_is_wrong_does_not(history: History, states: list[tuple[int, dict[str, tuple[int, int]]]]) -> None:
    with pytest.raises(AssertionError):
        check_states(seen(*states), history)


@pytest.mark.parametrize("changes", [(6, 6), (8, 6), (6, 9), (8,), (6, 7, 8)])
def test_changes_that_repeat_go_back_are_missing_or_never_were(history: History, changes: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError):
        check_changes(seen(changes=changes), history, complete=True)


def test_a_pair_is_both_or_neither() -> None:
    check_no_torn_pair("r", {"x.a": 1, "x.b": 1, "y": 2})
    for torn in ({"x.a": 1}, {"x.b": 1}, {"x.a": 1, "x.b": 2}):
        with pytest.raises(AssertionError):
            check_no_torn_pair("r", torn)
