"""An immutable mapping of entries, of which a change copies a few hundred bytes, whatever its size.

Pure. A dict has to be copied whole for a state that never changes under its readers, and compared whole to find what
is another: for 100,000 keys that is milliseconds per change. So from `PLAIN` keys on a scope is a square of small
dicts, chosen by the key's hash: a change copies one of them, its row and the square's spine, and shares all others, by
which a comparison skips them. Small scopes stay plain dicts, which are simpler and as quick.
docs/decisions/013-large-scopes.md has the measurements and the design that was not taken.
"""

from collections.abc import ItemsView as AbstractItems
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from configsvc_client.protocol import Entry

PLAIN = 128
"""Up to so many keys a dict is copied and compared as quickly."""
LEAF = 128
"""How many keys a small dict holds on average at most; beyond it the square is made anew with four times as many."""

_DOWN, _ACROSS = 16, 24
"""From which bit of a hash on row and column are chosen: the lowest ones choose the slot within a small dict."""

Rows = tuple[tuple[dict[str, Entry], ...], ...]


class Entries(Mapping[str, Entry]):
    """Entries by key, in no order. All of it is shared with the mappings it was made from, and none of it changes."""

    __slots__ = ("_len", "_rows")

    _rows: Rows
    _len: int

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        side = 1
        while side * side * LEAF < len(entries):
            side *= 2
        square: list[list[dict[str, Entry]]] = [[{} for _ in range(side)] for _ in range(side)]
        mask = side - 1
        for key, entry in entries.items():
            place = hash(key)
            square[place >> _DOWN & mask][place >> _ACROSS & mask][key] = entry
        self._rows = tuple(map(tuple, square))
        self._len = len(entries)

    def with_changes(self, changed: Mapping[str, Entry], deleted: Iterable[str]) -> "Entries":
        """The same with some entries set and others gone; keys that are not there may be deleted too."""
        rows = self._rows
        mask = len(rows) - 1
        copied: dict[int, list[dict[str, Entry]]] = {}

        def part(key: str) -> dict[str, Entry]:
            place = hash(key)
            down, across = place >> _DOWN & mask, place >> _ACROSS & mask
            row = copied.get(down)
            if row is None:
                row = copied[down] = list(rows[down])
            if row[across] is rows[down][across]:
                row[across] = row[across].copy()
            return row[across]

        size = self._len
        for key, entry in changed.items():
            mine = part(key)
            size += key not in mine
            mine[key] = entry
        for key in deleted:
            size -= part(key).pop(key, None) is not None
        spine = list(rows)
        for down, row in copied.items():
            spine[down] = tuple(row)
        made = Entries.__new__(Entries)
        made._rows, made._len = tuple(spine), size
        return made if size <= len(rows) ** 2 * LEAF else Entries(made)

    def _part(self, key: object) -> dict[str, Entry]:
        rows, place = self._rows, hash(key)
        mask = len(rows) - 1
        return rows[place >> _DOWN & mask][place >> _ACROSS & mask]

    def __getitem__(self, key: str) -> Entry:
        return self._part(key)[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The entry of a key, else `default`."""
        return self._part(key).get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._part(key)

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(chain.from_iterable(self._rows))

    def items(self) -> AbstractItems[str, Entry]:
        """Keys with their entries."""
        return _Items(self)

    def parts(self) -> Iterator[dict[str, Entry]]:
        """The small dicts, for those who go through everything in portions. Not to be changed."""
        return chain.from_iterable(self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        if len(self) != len(other):
            return False
        pairs = differing(self, other)
        return all(there.get(key) == entry for here, there in pairs for key, entry in here.items())

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type["Entries"], tuple[dict[str, Entry]]]:
        # Hashes, and with them the places, are another process's own.
        return Entries, (dict(self.items()),)

    def __repr__(self) -> str:
        return f"<Entries of {len(self)} keys>"


class _Items(AbstractItems[str, Entry]):
    """Without a look-up per key."""

    __slots__ = ("_of",)

    def __init__(self, of: Entries) -> None:
        super().__init__(of)
        self._of = of

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return chain.from_iterable(part.items() for part in self._of.parts())


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


def differing(old: Mapping[str, Entry], new: Mapping[str, Entry]) -> Iterator[tuple[Mapping[str, Entry], ...]]:
    """Pairs of mappings with the same part of all keys, in which all differences between `old` and `new` are."""
    if not (isinstance(old, Entries) and isinstance(new, Entries) and len(old._rows) == len(new._rows)):
        yield old, new
        return
    for row, other in zip(old._rows, new._rows, strict=True):
        if row is not other:
            for pair in zip(row, other, strict=True):
                if pair[0] is not pair[1]:
                    yield pair
