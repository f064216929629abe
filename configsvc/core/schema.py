"""The schema of a namespace, as far as reading needs it: the defaults of its keys.

A schema is stored as JSON, `{"format": 1, "schema": {…}}`, in the spec's language: nested mappings whose leaves have a
`type`. Names nest with dots, as everywhere. Pure.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from configsvc.core.model import Unreadable, check_value, decode, key_problem
from configsvc_client.protocol import Entry

TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object", "null"})

_encoder = msgspec.json.Encoder()


class _Stored(msgspec.Struct, frozen=True):
    schema: dict[str, Any]
    format: int = 1


_decoder = msgspec.json.Decoder(_Stored)


def decode_defaults(stored: bytes) -> dict[str, msgspec.Raw]:
    """The default of each key that has one, as canonical JSON; raises `Unreadable` for anything but a schema."""
    schema = decode(_decoder, stored).schema
    check_value(schema)
    return {
        key: msgspec.Raw(_encoder.encode(rule["default"]))
        for key, rule in _leaves(schema, "")
        if "default" in rule and key_problem(key) is None
    }


def read_defaults(stored: bytes, revision: int) -> dict[str, Entry]:
    """The defaults as entries of the schema that lies at `revision`; raises `Unreadable`."""
    defaults = decode_defaults(stored)
    return {key: Entry(value=value, source="schema", revision=revision) for key, value in defaults.items()}


def object_keys(stored: bytes | None) -> frozenset[str]:
    """The keys whose value is a mapping by the schema; none where there is no schema, or none that reads."""
    if stored is None:
        return frozenset()
    try:
        rules = list(_leaves(decode(_decoder, stored).schema, ""))
    except Unreadable:
        return frozenset()
    return frozenset(key for key, rule in rules if rule["type"] == "object")


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, below in node.items():
        if not isinstance(below, dict):
            raise Unreadable(f"{prefix}{name} is neither a rule nor a group of rules")
        # A group may itself hold a key called "type", which is then a mapping.
        if isinstance(below.get("type"), str):
            if below["type"] not in TYPES:
                raise Unreadable(f"{prefix}{name} has an unknown type")
            yield prefix + name, below
        else:
            yield from _leaves(below, f"{prefix}{name}.")
