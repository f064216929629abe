"""The defaults of a schema, and schemas that do not read."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.model import Unreadable
from configsvc.core.schema import decode_defaults, object_keys, read_defaults


def stored(schema: Any) -> bytes:
    return json.dumps({"format": 1, "schema": schema}).encode()


def defaults(schema: Any) -> dict[str, Any]:
    return {key: json.loads(bytes(value)) for key, value in decode_defaults(stored(schema)).items()}


def test_names_nest_with_dots() -> None:
    schema = {
        "database": {"pool_size": {"type": "integer", "min": 1, "default": 10}, "host": {"type": "string"}},
        "feature_flags": {"new_checkout": {"type": "boolean", "default": False, "rollout_strategy": "canary"}},
        "a.b": {"type": "null", "default": None},
    }
    assert defaults(schema) == {"database.pool_size": 10, "feature_flags.new_checkout": False, "a.b": None}


def test_a_group_may_hold_a_key_called_type() -> None:
    assert defaults({"job": {"type": {"type": "string", "default": "cron"}}}) == {"job.type": "cron"}


def test_defaults_of_keys_that_nobody_can_ask_for_are_left_out() -> None:
    assert defaults({"_x": {"type": "integer", "default": 1}, "a/b": {"type": "integer", "default": 1}}) == {}


def test_the_keys_whose_value_is_a_mapping() -> None:
    schema = {"a": {"type": "object"}, "b": {"type": "array"}, "c": {"d": {"type": "object", "default": {}}}}
    assert object_keys(stored(schema)) == {"a", "c.d"}


@pytest.mark.parametrize("content", [None, b"", b"{", stored({"a": 1}), stored({"a": {"type": "magic"}})])
def test_without_a_schema_that_reads_no_key_is_known_to_be_a_mapping(content: bytes | None) -> None:
    assert object_keys(content) == frozenset()


def test_defaults_are_entries_of_the_schema() -> None:
    entries = read_defaults(stored({"a": {"type": "array", "default": [1, {"b": 2}]}}), 7)
    assert entries["a"].source == "schema"
    assert entries["a"].revision == 7
    assert bytes(entries["a"].value) == b'[1,{"b":2}]'
    assert read_defaults(stored({}), 7) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema":[]}',
        b'{"schema":{"a":5}}',
        b'{"schema":{"a":{"b":"text"}}}',
        b'{"schema":{"a":{"type":"colour"}}}',
        b'{"schema":{"a":{"type":"integer","default":99999999999999999999}}}',
        b'{"schema":{"a":"\xff"}}',
        b'{"schema":' + b'{"a":' * 101 + b"{}" + b"}" * 102,
        b'{"schema":' + b'{"a":' * 100_000 + b"{}" + b"}" * 100_001,
    ],
)
def test_unreadable_schemas(content: bytes) -> None:
    with pytest.raises(Unreadable):
        decode_defaults(content)


@given(st.binary(max_size=60))
def test_nothing_but_unreadable_is_raised(content: bytes) -> None:
    for candidate in (content, b'{"schema":' + content + b"}", b'{"schema":{"a":' + content + b"}}"):
        with contextlib.suppress(Unreadable):
            decode_defaults(candidate)
