"""An immutable mapping of entries, of which a change copies a few dozen keys, however many there are.

Pure. A dict has to be copied whole for a state that never changes under its readers, and compared whole to find what
is another: for 100,000 keys that is milliseconds per change. So above `PLAIN` keys a scope is rows of small dicts, in
the order of keys: a change copies one of them and the row it is in, and shares all others, by which a comparison skips
them. Small scopes stay dicts. docs/decisions/013-large-scopes.md has the measurements and the designs not taken.
"""

from bisect import bisect_right
from collections.abc import ItemsView as AbstractItems
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from math import isqrt
from typing import Any, NamedTuple

import msgspec

from configsvc_client.protocol import Entry

PLAIN = 128
"""Up to so many keys a dict is copied and compared as quickly."""
PART = 32
"""Keys in a small dict when it is made; one that grew to more than twice as many is cut."""
LONG = 4
"""A row that grew to so many times as many small dicts as there are rows has everything laid out anew."""


_encoder = msgspec.json.Encoder()


class _Row(NamedTuple):
    """Neighbouring small dicts, each with the first key that belongs into it. Every key in them is in order."""

    starts: tuple[str, ...]
    parts: tuple[dict[str, Entry], ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def part(self, key: str) -> dict[str, Entry]:
        return self.parts[bisect_right(self.starts, key) - 1]

    def whole(self) -> dict[str, Entry]:
        return {key: entry for part in self.parts for key, entry in part.items()}

    def with_changes(self, changed: Mapping[str, Entry], deleted: Iterable[str]) -> "_Row":
        starts, parts = self.starts, list(self.parts)
        grown: set[int] = set()
        for key, entry in changed.items():
            at = bisect_right(starts, key) - 1
            if parts[at] is self.parts[at]:
                parts[at] = parts[at].copy()
            if key not in parts[at]:
                grown.add(at)
            parts[at][key] = entry
        for key in deleted:
            at = bisect_right(starts, key) - 1
            if key in parts[at]:
                if parts[at] is self.parts[at]:
                    parts[at] = parts[at].copy()
                del parts[at][key]
        if not grown:
            return _Row(starts, tuple(parts))
        pieces: list[tuple[str, dict[str, Entry]]] = []
        for at, part in enumerate(parts):
            pieces += _cut(starts[at], part) if at in grown else [(starts[at], part)]
        return _Row(*zip(*pieces, strict=True))


def _cut(start: str, part: dict[str, Entry]) -> list[tuple[str, dict[str, Entry]]]:
    """A small dict that grew, in order again, and in pieces where it grew too much."""
    keys = sorted(part)
    size = PART if len(keys) > 2 * PART else max(1, len(keys))
    pieces = [keys[at : at + size] for at in range(0, len(keys), size)]
    made = [(piece[0], {key: part[key] for key in piece}) for piece in pieces]
    return [(start, made[0][1]), *made[1:]] if made else [(start, {})]


class Entries(Mapping[str, Entry]):
    """Entries in the order of their keys. Most of it is shared with the mappings it was made from; nothing changes."""

    __slots__ = ("_len", "_rows", "_starts")

    _starts: tuple[str, ...]
    _rows: tuple[_Row, ...]
    _len: int

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        keys = sorted(entries)
        # Whatever sorts before the first key belongs to it.
        starts = ["", *keys[PART::PART]]
        parts = [{key: entries[key] for key in keys[at : at + PART]} for at in range(0, len(keys), PART)] or [{}]
        side = 1 + isqrt(len(parts))
        places = range(0, len(parts), side)
        self._rows = tuple(_Row(tuple(starts[at : at + side]), tuple(parts[at : at + side])) for at in places)
        self._starts = tuple(row.starts[0] for row in self._rows)
        self._len = len(keys)

    def with_changes(self, changed: Mapping[str, Entry], deleted: Iterable[str]) -> "Entries":
        """The same with some entries set and others gone; keys that are not there may be deleted too."""
        touched: dict[int, tuple[dict[str, Entry], list[str]]] = {}
        for key, entry in changed.items():
            touched.setdefault(self._row(key), ({}, []))[0][key] = entry
        for key in deleted:
            touched.setdefault(self._row(key), ({}, []))[1].append(key)
        rows = list(self._rows)
        made = Entries.__new__(Entries)
        made._starts, made._len = self._starts, self._len
        for at, (mine, gone) in touched.items():
            rows[at] = rows[at].with_changes(mine, gone)
            made._len += len(rows[at]) - len(self._rows[at])
        made._rows = tuple(rows)
        is_long = any(len(rows[at].parts) > LONG * (1 + len(rows)) for at in touched)
        return Entries(dict(made.items())) if is_long else made

    def _row(self, key: str) -> int:
        return bisect_right(self._starts, key) - 1

    def __getitem__(self, key: str) -> Entry:
        return self._rows[self._row(key)].part(key)[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The entry of a key, else `default`."""
        try:
            row = self._rows[bisect_right(self._starts, key) - 1]
            return row.parts[bisect_right(row.starts, key) - 1].get(key, default)
        except TypeError:
            # What has no order among strings is no key; what cannot be hashed is refused, as by any mapping.
            hash(key)
            return default

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._rows[self._row(key)].part(key)

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.parts())

    def items(self) -> AbstractItems[str, Entry]:
        """Keys with their entries."""
        return _Items(self)

    def parts(self) -> Iterator[dict[str, Entry]]:
        """The small dicts, for those who go through everything in portions. Not to be changed."""
        return chain.from_iterable(row.parts for row in self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in differing(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Entries of {len(self)} keys>"


class _Items(AbstractItems[str, Entry]):
    """Without a look-up per key."""

    __slots__ = ("_of",)

    def __init__(self, of: Entries) -> None:
        super().__init__(of)
        self._of = of

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return chain.from_iterable(map(dict.items, self._of.parts()))


def immutable(entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
    """A mapping as a snapshot holds it: itself where it is small, and then nobody may change it any more."""
    return entries if len(entries) <= PLAIN or isinstance(entries, Entries) else Entries(entries)


def with_changes(
    entries: Mapping[str, Entry], changed: Mapping[str, Entry], deleted: Iterable[str]
) -> Mapping[str, Entry]:
    """Another mapping, `entries` with some set and others gone."""
    if isinstance(entries, Entries):
        return entries.with_changes(changed, deleted)
    copy = {**entries, **changed}
    for key in deleted:
        copy.pop(key, None)
    return immutable(copy)


def encoded(entries: Mapping[str, Entry]) -> Iterator[bytes]:
    """The JSON object of all entries, in pieces none of which keeps other threads waiting for long."""
    parts = entries.parts() if isinstance(entries, Entries) else [entries]
    separator = b"{"
    for part in parts:
        if part:
            yield separator
            yield _encoder.encode(part)[1:-1]
            separator = b","
    yield b"{}" if separator == b"{" else b"}"


def differing(
    old: Mapping[str, Entry], new: Mapping[str, Entry]
) -> Iterator[tuple[Mapping[str, Entry], Mapping[str, Entry]]]:
    """Pairs of dicts with the same part of all keys, in which all differences between `old` and `new` are."""
    if not (isinstance(old, Entries) and isinstance(new, Entries) and old._starts == new._starts):
        yield dict(old.items()), dict(new.items())
        return
    for row, other in zip(old._rows, new._rows, strict=True):
        if row is other:
            continue
        if row.starts != other.starts:
            yield row.whole(), other.whole()
            continue
        for one, another in zip(row.parts, other.parts, strict=True):
            if one is not another:
                yield one, another
