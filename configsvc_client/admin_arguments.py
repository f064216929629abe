"""What the arguments of management calls are on the wire: JSON, releases, queries.

Each raises `InvalidOption` for what cannot be right, so that nothing of it is sent. Pure.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from configsvc_client.errors import InvalidOption


def encoded(value: Any, key: str = "") -> bytes:
    """The value of a key, if any, as JSON; `msgspec.Raw` is that already. Raises `InvalidOption` for what it isn't."""
    try:
        if isinstance(value, msgspec.Raw):
            msgspec.json.decode(value)
            return bytes(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        what = f"the value of {key!a}" if key else "this"
        raise InvalidOption(f"{what} cannot be sent as JSON: {error}") from None

    for name in _names(value):
        if not isinstance(name, str):
            raise InvalidOption(f"{f'a name in the value of {key!a}' if key else 'a name'} must be text, not {name!r}")
    return text


def _names(value: Any) -> Iterator[Any]:
    """Those of all mappings in a value: JSON makes texts of numbers, and who wrote 1 did not mean "1"."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as found:
                yield from found
                waiting += found.values()
            case list() | tuple() as found:
                waiting += found


def check_text(what: str, text: Any) -> None:
    """Raise `InvalidOption` for what is no text."""
    if not isinstance(text, str):
        raise InvalidOption(f"{what} must be text, not {text!r}")


def as_list(what: str, texts: Any) -> bytes:
    """Texts, or the one, as JSON's list; `what` is a word for one of them."""
    found = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str | bytes) else [texts]
    for one in found:
        check_text(what, one)
    return encoded(found)


def as_object(values: Any) -> bytes:
    """Keys and their values as JSON's object."""
    if not isinstance(values, Mapping):
        raise InvalidOption(f"set must be a mapping of keys to values, not {type(values).__name__}")
    for key in values:
        check_text("a key", key)
    return b"{%b}" % b",".join(encoded(key) + b":" + encoded(value, key) for key, value in values.items())


def as_text(values: Any) -> bytes:
    """A desired state as it is sent: a mapping, or the text of a file as it is."""
    if isinstance(values, str):
        try:
            return values.encode()
        except UnicodeEncodeError as error:
            raise InvalidOption(f"the values are no text that can be sent: {error}") from None
    if isinstance(values, Mapping):
        return as_object(values)
    if isinstance(values, bytes):
        return values
    raise InvalidOption(f"values must be a mapping or the text of a file, not {type(values).__name__}")


def as_release(version: int | str) -> str:
    """A release as the API names it: digits alone may be a label."""
    if isinstance(version, bool) or not isinstance(version, int | str):
        raise InvalidOption(f"a release must be a number or a label, not {version!r}")
    return f"@{version}" if isinstance(version, int) else version


def with_query(path: str, query: Mapping[str, Any]) -> str:
    """A path with what of a query is named."""
    named = {name: _plain(value) for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(named, quote_via=quote)}" if named else path


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)
