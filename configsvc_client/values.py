"""What a typed read accepts: each rule takes a stored value and returns it as the type, or raises `Unfit`. Pure.

Owns the rules, never a conversion of text: `"5"` is no number, and whoever stored it is told so. A bool is no number,
an integer is a float, and 5.0 is no integer, because the type of a value should not depend on how it was computed.
Which value is stored and what follows from an unfit one is not known here.
"""

import contextlib
from typing import Any, TypeVar

import msgspec

from configsvc_client.errors import InvalidOption, printable
from configsvc_client.view import copy_value

T = TypeVar("T")

_MAX_SHOWN = 60


class Unfit(Exception):
    """A value is not what a read wants; `wanted` says what that is."""

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted


def as_str(value: Any) -> str:
    """A string; nothing else is turned into one."""
    if type(value) is str:
        return value
    raise Unfit("a string")


def as_bool(value: Any) -> bool:
    """True or false; neither 0 and 1 nor words."""
    if value is True or value is False:
        return value
    raise Unfit("true or false")


def as_int(value: Any, min_val: float | None, max_val: float | None) -> int:
    """An integer within bounds, which belong to it."""
    if type(value) is int and (min_val is None or value >= min_val) and (max_val is None or value <= max_val):
        return value
    raise Unfit("an integer" + _bounds(min_val, max_val))


def as_float(value: Any, min_val: float | None, max_val: float | None) -> float:
    """A number within bounds, which belong to it; integers are numbers too, and come as floats."""
    kind = type(value)
    if (
        (kind is float or kind is int)
        and (min_val is None or value >= min_val)
        and (max_val is None or value <= max_val)
    ):
        if kind is float:
            return float(value)
        # Of an integer beyond all floats it is an error.
        with contextlib.suppress(OverflowError):
            return float(value)
    raise Unfit("a number" + _bounds(min_val, max_val))


def as_type(value: Any, wanted: type[T]) -> T:
    """What msgspec makes of a JSON value for a type, without guessing: `"5"` is no int. Shares nothing with `value`."""
    try:
        return msgspec.convert(copy_value(value), wanted, str_keys=True)
    except msgspec.ValidationError as error:
        raise Unfit(f"{type_name(wanted)} ({error})") from None


def check_bounds(min_val: Any, max_val: Any) -> None:
    """Raise `InvalidOption` for bounds that are no numbers, or that nothing lies within."""
    for name, bound in (("min_val", min_val), ("max_val", max_val)):
        if isinstance(bound, bool) or not isinstance(bound, int | float | None):
            raise InvalidOption(f"{name} must be a number, not {bound!r}")
    if min_val is not None and max_val is not None and min_val > max_val:
        raise InvalidOption(f"min_val {min_val!r} is above max_val {max_val!r}")
    # NaN is what does not equal itself.
    if min_val != min_val or max_val != max_val:
        raise InvalidOption("a bound must be a number")


def _bounds(min_val: float | None, max_val: float | None) -> str:
    if min_val is not None and max_val is not None:
        return f" from {min_val} to {max_val}"
    if min_val is not None:
        return f" of {min_val} or more"
    return f" of {max_val} or less" if max_val is not None else ""


_NAMES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def shown(value: Any) -> str:
    """A stored value for a log line or an error: its type and as much of its JSON as fits, on one line."""
    name = _NAMES.get(type(value), type(value).__name__)
    if value is None:
        return name
    if type(value) is str:
        # Escaping may make a character six, never none.
        value = value[:_MAX_SHOWN]
    text = printable(msgspec.json.encode(value).decode("utf-8", "replace"), _MAX_SHOWN + 1)
    return f"{name}, {text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + '…'}"


def type_name(wanted: Any) -> str:
    """A type as its user wrote it."""
    return wanted.__name__ if isinstance(wanted, type) and not hasattr(wanted, "__args__") else str(wanted)


def fingerprint(value: Any) -> int:
    """Told apart by this, as far as log lines go, are two values that a read did not accept."""
    return hash(msgspec.json.encode(value)) if type(value) in (dict, list) else hash((type(value), value))
