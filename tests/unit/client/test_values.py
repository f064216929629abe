"""Typed reads: any JSON value through each of them."""

import logging
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc_client.errors import ConfigKeyError, ConfigValueError, InvalidOption
from configsvc_client.protocol import Entry
from configsvc_client.reads import Reads
from configsvc_client.snapshot import Snapshot, same_value
from configsvc_client.values import as_bool, as_float, as_int, as_str, as_type, check_bounds, shown
from configsvc_client.view import MISSING

INTEGERS = st.integers(-(2**63), 2**64 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
BOUND = st.none() | st.integers(-5, 5) | st.floats(-5, 5)


class Answers(Reads):
    """Reads of values that are given."""

    def __init__(self, **stored: Any) -> None:
        super().__init__()
        entries = {key: Entry(value=value) for key, value in stored.items()}
        self._snapshot = Snapshot(namespace="n", environment="e", entries=entries)

    def _answering(self) -> Snapshot:
        return self._snapshot

    def why_nothing(self) -> str:
        return "nothing"


@given(JSON)
def test_each_value_is_of_one_type_but_an_integer_is_also_a_number(value: Any) -> None:
    rules = {str: as_str, bool: as_bool, int: lambda v: as_int(v, None, None), float: lambda v: as_float(v, None, None)}
    for kind, rule in rules.items():
        answers = Answers(k=value)
        if type(value) is kind or (kind is float and type(value) is int):
            answer = answers.read_as("k", MISSING, rule)
            assert type(answer) is kind
            assert answer == (float(value) if kind is float else value)
        else:
            marker = object()
            assert answers.read_as("k", marker, rule) is marker
            assert (answers.invalid_values, answers.reads["default"]) == (1, 1)
            with pytest.raises(ConfigValueError) as caught:
                answers.read_as("k", MISSING, rule)
            assert caught.value.key == "k"
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 200


@given(INTEGERS | FLOATS, BOUND, BOUND)
def test_bounds_belong_to_what_is_allowed(value: float, low: float | None, high: float | None) -> None:
    fits = (low is None or value >= low) and (high is None or value <= high)
    answer = Answers(k=value).read_as("k", None, as_float, low, high)
    assert (answer is not None) is fits
    answer = Answers(k=value).read_as("k", None, as_int, low, high)
    assert (answer is not None) is (fits and type(value) is int)


@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["above", "below"])
def test_an_integer_beyond_all_floats_is_no_number_that_a_float_can_be(value: int) -> None:
    answers = Answers(k=value)
    assert answers.read_as("k", 1.5, as_float, None, None) == 1.5
    assert answers.read_as("k", 1.5, as_type, float) == 1.5
    assert answers.read_as("k", MISSING, as_int, None, None) == value
    for rule, more in ((as_float, (None, None)), (as_type, (float,)), (as_str, ())):
        with pytest.raises(ConfigValueError) as caught:
            answers.read_as("k", MISSING, rule, *more)
        assert len(str(caught.value)) < 200


def test_an_objects_keys_may_be_numbers_in_a_type() -> None:
    assert as_type({"1": "a"}, dict[int, str]) == {1: "a"}


@pytest.mark.parametrize(("low", "high"), [(2, 1), (0.1, 0), (float("nan"), None), (None, float("nan"))])
def test_bounds_that_nothing_lies_within_are_a_mistake_of_the_reader(low: Any, high: Any) -> None:
    with pytest.raises(InvalidOption):
        check_bounds(low, high)
    check_bounds(1, 1)


@given(JSON)
def test_any_value_is_its_own_and_shares_nothing(value: Any) -> None:
    answer = as_type(value, Any)  # type: ignore[arg-type]
    assert same_value(answer, value)
    if isinstance(value, dict | list):
        assert answer is not value


class Pool(msgspec.Struct, rename="camel"):
    max_size: int
    tags: list[str] = []


def test_a_type_is_what_msgspec_makes_of_it_without_guessing() -> None:
    assert as_type({"maxSize": 5}, Pool) == Pool(max_size=5)
    answers = Answers(k=[1, "2"])
    with pytest.raises(ConfigValueError) as caught:
        answers.read_as("k", MISSING, as_type, list[int])
    assert (
        str(caught.value)
        == "'k': stored is an array, [1,\"2\"]; wanted list[int] (Expected `int`, got `str` - at `$[1]`)"
    )


def test_a_stored_null_is_a_value_of_no_type() -> None:
    answers = Answers(k=None)
    assert answers.read_as("k", 5, as_int, None, None) == 5
    with pytest.raises(ConfigValueError, match=r"^'k': stored is null; wanted an integer from 1 to 9$"):
        answers.read_as("k", MISSING, as_int, 1, 9)
    with pytest.raises(ConfigKeyError):
        answers.read_as("other", MISSING, as_int, None, None)
    assert answers.read_as("other", None, as_int, None, None) is None


def test_what_is_shown_is_one_short_line() -> None:
    assert shown("a\nb") == 'a string, "a\\nb"'
    assert shown("x" * 10**6) == 'a string, "' + "x" * 59 + "…"
    assert shown({"a": [1] * 1000}).startswith('an object, {"a":[1,1,')
    assert shown(True) == "a boolean, true"


def test_an_unfit_value_is_logged_once_and_a_new_one_again(caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers(k="x")
    with caplog.at_level(logging.WARNING, "configsvc_client"):
        for value in ("x", "x", "y", "x", ["x"], ["x"], True, 1):
            answers._snapshot = Answers(k=value)._snapshot
            answers.read_as("k", 0, as_int, None, None)
            answers.read_as("k", 0, as_int, None, 0)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)) == 9
    assert said[0] == "'k' does not fit, its reader's default is used: stored is a string, \"x\"; wanted an integer"
    assert answers.invalid_values == 15


def test_what_was_logged_is_remembered_within_bounds() -> None:
    answers = Answers()
    for n in range(1500):
        answers._snapshot = Answers(k=str(n))._snapshot
        answers.read_as("k", 0, as_int, None, None)
    assert len(answers._said) == 1024


def test_reads_are_counted_by_where_the_answer_came_from() -> None:
    answers = Answers(k=1, s="x")
    answers.read("k", MISSING)
    answers.read("none", None)
    answers.read_as("s", 1, as_int, None, None)
    answers.read_all()
    with pytest.raises(ConfigKeyError):
        answers.read("none", MISSING)
    assert answers.reads == {"live": 0, "memory": 0, "disk": 2, "default": 2}
