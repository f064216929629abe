"""The schema of a namespace, as far as reading needs it: the defaults of its keys.

A schema is stored as JSON, `{"format": 1, "schema": {…}}`, in the spec's language: nested mappings whose leaves have a
`type`. Names nest with dots, as everywhere. Pure.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from configsvc.core.model import Unreadable, check_value, key_problem

TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object", "null"})

_encoder = msgspec.json.Encoder()


class _Stored(msgspec.Struct, frozen=True):
    schema: dict[str, Any]
    format: int = 1


_decoder = msgspec.json.Decoder(_Stored)


def decode_defaults(stored: bytes) -> dict[str, msgspec.Raw]:
    """The default of each key that has one, as canonical JSON; raises `Unreadable` for anything but a schema."""
    try:
        schema = _decoder.decode(stored).schema
        check_value(schema)
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except msgspec.ValidationError as error:
        raise Unreadable(f"wrong shape: {error}") from None
    except msgspec.DecodeError as error:
        raise Unreadable(f"not JSON: {error}") from None
    return {
        key: msgspec.Raw(_encoder.encode(rule["default"]))
        for key, rule in _leaves(schema, "")
        if "default" in rule and key_problem(key) is None
    }


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
