"""Structs out of dotted keys: `database.pool.size` is the field `size` of the field `pool` of `database`. Pure.

Owns how a type's fields find their values. What one stored value becomes is msgspec's strict conversion, the same as
for `get_json(type=…)`.

The rules:

- A field's name is the one that it has in JSON (`rename` counts). Its value is the one stored under the dotted key;
  else the member of an object that is stored above it; else the field's default; else it is missing.
- A field whose type is a struct or a dataclass is made of what lies below its key. Where nothing does, its default is
  taken; where it has none, it is made of its own fields' defaults, if they all have some.
- `dict[str, X]` collects all keys below its own. Where X is made of several keys itself, the next part of the key names
  the item; else all the rest does, dots included. `Mapping[str, X]` is the same.
- Any other type that is an object in JSON, such as a union of structs, is converted from the object that the keys below
  make. What is an array in JSON is one value.
- Keys that no field asks for belong to somebody else.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from functools import lru_cache
from inspect import get_annotations
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    NamedTuple,
    NewType,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec

from configsvc_client.errors import ConfigValueError
from configsvc_client.values import Unfit, as_type, shown, type_name
from configsvc_client.view import MISSING

T = TypeVar("T")

_DICTS: tuple[Any, ...] = (dict, Mapping, MutableMapping)


class Stored(NamedTuple):
    """What is stored at a dotted key (`MISSING`: nothing) and below it, by the rest of the key."""

    path: str
    here: Any
    below: Mapping[str, Any]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""
        return self.here is MISSING and not self.below

    def names(self) -> Iterator[str]:
        """What the next part of a key can be."""
        members = self.here if type(self.here) is dict else ()
        return iter(dict.fromkeys([*members, *(key.partition(".")[0] for key in self.below)]))

    def at(self, name: str) -> "Stored":
        """The same for a key below this one. What is stored under the key itself goes before an object's member."""
        here = self.below.get(name, MISSING)
        if here is MISSING and type(self.here) is dict:
            here = self.here.get(name, MISSING)
        start = name + "."
        below = {key[len(start) :]: value for key, value in self.below.items() if key.startswith(start)}
        return Stored(f"{self.path}.{name}" if self.path else name, here, below)


def stored_at(values: Mapping[str, Any], prefix: str) -> Stored:
    """What `values` holds at a prefix, with or without a dot at its end; an empty one stands for everything."""
    prefix = prefix.removesuffix(".")
    return Stored("", MISSING, values).at(prefix)._replace(path=prefix) if prefix else Stored("", MISSING, values)


def check(wanted: object, prefix: object) -> None:
    """Raise `TypeError` for what is no struct or dataclass, or no prefix."""
    # Of an instance only its type can be a key of the fields' cache.
    if not isinstance(get_origin(wanted) or wanted, type) or _fields(wanted) is None:
        raise TypeError(f"as_struct makes a msgspec.Struct or a dataclass: type is one, not {wanted!r}")
    if not isinstance(prefix, str):
        raise TypeError(f"a prefix is a string, not {prefix!r}")


def nothing_below(stored: Stored, values: Mapping[str, Any]) -> str:
    """Where a prefix has nothing, though the scope has values: that, and what looks like it; else an empty text."""
    if not values or not stored.path or not stored.is_empty:
        return ""
    parts = [key.split(".") for key in values]
    prefixes = {".".join(path[:n]) for path in parts for n in range(1, len(path))}
    near = get_close_matches(stored.path, sorted(prefixes), n=1)
    return f"nothing is stored at or below {stored.path!r}" + (f", though below {near[0]!r}" if near else "")


def as_struct(stored: Stored, wanted: type[T], hint: Callable[[], str] = str) -> T:
    """Make a struct or a dataclass; raises `ConfigValueError` with all that is missing or does not fit.

    `wanted` and the prefix have gone through `check`.
    """
    builder = _Builder()
    made = builder.build(stored, wanted)
    if builder.problems:
        raise ConfigValueError(builder.problems, hint())
    return made  # type: ignore[no-any-return]


class _Field(NamedTuple):
    name: str
    key: str
    type: Any
    is_required: bool


@lru_cache(maxsize=256)
def _fields(wanted: Any) -> tuple[_Field, ...] | None:
    """The fields of a type that is made of several keys; None for all others."""
    plain = get_origin(wanted) or wanted
    if not isinstance(plain, type):
        return None
    if issubclass(plain, msgspec.Struct):
        if plain.__struct_config__.array_like:
            return None
        return tuple(
            _Field(one.name, one.encode_name, one.type, one.required) for one in msgspec.structs.fields(wanted)
        )
    if not dataclasses.is_dataclass(plain):
        return None
    hints = _hints(wanted)
    nothing = dataclasses.MISSING
    return tuple(
        _Field(one.name, one.name, hints[one.name], one.default is nothing and one.default_factory is nothing)
        for one in dataclasses.fields(plain)
        if one.init
    )


def _hints(wanted: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, with what it was made of: `T` of `Box[int]` is int, also in a base class."""
    plain = get_origin(wanted) or wanted
    hints = get_type_hints(plain, include_extras=True)
    bases = _bases(wanted)
    for name, hint in hints.items():
        owner = next(one for one in plain.__mro__ if name in get_annotations(one))
        hints[name] = _with_arguments(hint, bases.get(owner, {}))
    return hints


def _bases(wanted: Any) -> dict[Any, dict[Any, Any]]:
    """For each class that one is made of what its type variables stand for."""
    plain = get_origin(wanted) or wanted
    arguments = dict(zip(getattr(plain, "__parameters__", ()), get_args(wanted), strict=False))
    found = {plain: arguments}
    for base in getattr(plain, "__orig_bases__", ()):
        if get_origin(base) not in (None, Generic):
            found |= _bases(_with_arguments(base, arguments))
    return found


def _with_arguments(hint: Any, arguments: Mapping[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return arguments.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if isinstance(hint, type) and not get_args(hint):
        return hint
    return hint[tuple(arguments.get(one, one) for one in parameters)] if parameters else hint


def _lengths(wanted: Any) -> tuple[msgspec.Meta, ...]:
    """What is asked of a type as a whole, not of its parts."""
    if get_origin(wanted) is Annotated:
        inner, *notes = get_args(wanted)
        return (*(one for one in notes if isinstance(one, msgspec.Meta)), *_lengths(inner))
    if get_origin(wanted) in (Union, UnionType):
        return tuple(meta for one in get_args(wanted) for meta in _lengths(one))
    return ()


def _without_null(wanted: Any) -> tuple[Any, bool]:
    """`X | None` as X and True, all else as it is."""
    while get_origin(wanted) is Annotated or isinstance(wanted, NewType):
        wanted = wanted.__supertype__ if isinstance(wanted, NewType) else get_args(wanted)[0]
    if get_origin(wanted) in (Union, UnionType):
        rest = [one for one in get_args(wanted) if one is not NoneType]
        if len(rest) == 1 and len(get_args(wanted)) == 2:
            return _without_null(rest[0])[0], True
    return wanted, False


def _item_type(wanted: Any) -> Any:
    """The X of `dict[str, X]`; `MISSING` for all else."""
    arguments = get_args(wanted)
    is_dict = get_origin(wanted) in _DICTS and len(arguments) == 2 and arguments[0] is str
    return arguments[1] if is_dict else MISSING


def _is_object(wanted: Any) -> bool:
    """Whether a type may be an object in JSON."""
    inner, _ = _without_null(wanted)
    if get_origin(inner) in (Union, UnionType):
        return any(map(_is_object, get_args(inner)))
    return inner in _DICTS or get_origin(inner) in _DICTS or is_typeddict(inner) or _fields(inner) is not None


def _is_composite(wanted: Any) -> bool:
    inner, _ = _without_null(wanted)
    return _item_type(inner) is not MISSING or _fields(inner) is not None


def _members(stored: Stored) -> dict[str, Any]:
    """What a dict of one value per key holds: members of an object, and keys below, by all the rest of the key."""
    return {**(stored.here if type(stored.here) is dict else {}), **stored.below}


def _object(stored: Stored) -> Any:
    """The object that keys make, part by part."""
    if not stored.below or (stored.here is not MISSING and type(stored.here) is not dict):
        return stored.here
    return {name: _object(stored.at(name)) for name in stored.names()}


class _Failed:
    """In place of a value that could not be made; why is noted."""


_FAILED = _Failed()


class _Builder:
    """One struct in the making."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self._making: list[Any] = []

    def _fail(self, path: str, problem: str) -> _Failed:
        self.problems.setdefault(path, problem)
        return _FAILED

    def build(self, stored: Stored, wanted: Any) -> Any:
        """Anything of one type, from something that is stored; `_FAILED` where that cannot be."""
        inner, may_be_null = _without_null(wanted)
        if stored.here is None and not stored.below and may_be_null:
            return None
        if _fields(inner) is None and _item_type(inner) is MISSING:
            if stored.below and _is_object(inner):
                is_dict = inner in _DICTS or get_origin(inner) in _DICTS
                stored = stored._replace(here=_members(stored) if is_dict else _object(stored))
            return self._leaf(stored, wanted)
        if type(stored.here) is not dict and stored.here is not MISSING and not stored.below:
            return self._fail(stored.path, f"stored is {shown(stored.here)}; wanted an object for {type_name(inner)}")
        if _fields(inner) is not None:
            return self._struct(stored, inner)
        return self._dict(stored, _item_type(inner), _lengths(wanted))

    def _leaf(self, stored: Stored, wanted: Any) -> Any:
        if stored.here is MISSING:
            return self._fail(stored.path, f"missing; wanted {type_name(wanted)}")
        try:
            return as_type(stored.here, wanted)
        except Unfit as unfit:
            return self._fail(stored.path, f"stored is {shown(stored.here)}; wanted {unfit.wanted}")

    def _struct(self, stored: Stored, wanted: Any) -> Any:
        if stored.is_empty and wanted in self._making:
            # A type that contains itself would go on for ever.
            return self._fail(stored.path, f"missing; wanted {type_name(wanted)}")
        self._making.append(wanted)
        made = {}
        for field in _fields(wanted) or ():
            found = stored.at(field.key)
            if not field.is_required and not self._is_stored(found, field.type):
                continue
            made[field.name] = self._required(found, field.type)
        self._making.pop()
        if any(value is _FAILED for value in made.values()):
            return _FAILED
        try:
            return wanted(**made)
        except (ValueError, TypeError) as error:
            return self._fail(stored.path or type_name(wanted), f"{type_name(wanted)}: {error}")

    def _required(self, found: Stored, wanted: Any) -> Any:
        inner, may_be_null = _without_null(wanted)
        is_unmade = may_be_null or _item_type(inner) is not MISSING
        if is_unmade and not self._is_stored(found, wanted):
            return self._fail(found.path, f"missing; wanted {type_name(wanted)}")
        return self.build(found, wanted)

    @staticmethod
    def _is_stored(found: Stored, wanted: Any) -> bool:
        """Whether there is something for a type: what lies below counts only for one that is made of it."""
        return found.here is not MISSING or (bool(found.below) and _is_object(wanted))

    def _dict(self, stored: Stored, item: Any, lengths: tuple[msgspec.Meta, ...]) -> Any:
        if _is_composite(item):
            made = {name: self.build(stored.at(name), item) for name in stored.names()}
        else:
            made = {
                name: self._leaf(Stored(f"{stored.path}.{name}" if stored.path else name, value, {}), item)
                for name, value in _members(stored).items()
            }
        for meta in lengths:
            try:
                msgspec.convert(dict.fromkeys(made), Annotated[dict[str, Any], meta])
            except msgspec.ValidationError as error:
                return self._fail(stored.path, f"{len(made)} are stored at or below it: {error}")
        return _FAILED if any(value is _FAILED for value in made.values()) else made
