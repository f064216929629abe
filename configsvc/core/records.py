"""What etcd says, sorted by what it is about: records, events, and a listing by scope.

Pure. Reads entries and heads (`model.py`) and keeps what does not read as a `Problem`; what a state makes of either is
`scope.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter

import msgspec

from configsvc.core.model import Head, Place, Scope, Unreadable, decode_entry, decode_head, locate
from configsvc_client.protocol import Entry


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A key of etcd as it is now. The core's own type, so that it does not depend on etcd's client."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One key's change: `record` as it became, None for a deletion."""

    key: bytes
    record: Record | None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a stored key is not readable; `revision` is the key's `mod_revision`."""

    reason: str
    revision: int


def read_entry(record: Record) -> Entry:
    """An entry as readers see it; raises `Unreadable`."""
    stored = decode_entry(record.value)
    return Entry(value=stored.value, version=stored.version, revision=record.mod_revision, metadata=stored.metadata)


def read_head(record: Record | None) -> tuple[Head | None, Problem | None]:
    """A head, or why it does not read; neither where there is none."""
    if record is None:
        return None, None
    try:
        return decode_head(record.value), None
    except Unreadable as error:
        return None, Problem(reason=str(error), revision=record.mod_revision)


def opening(head: Record, opened_revision: int | None) -> int:
    """The revision at which the window in `head` was opened: its own where it does not say, and never a later one."""
    return min(opened_revision or head.mod_revision, head.mod_revision)


@dataclass(slots=True)
class ListedScope:
    """One scope as a listing has it. `entries` and `problems` are what its records read as, once `read` was called."""

    records: dict[str, Record] = field(default_factory=dict)
    head: Record | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)

    def read(self, memory: Mapping[str, Entry]) -> None:
        """Decode the records, once; an entry that `memory` has too is taken from there, to be in memory once."""
        if not self.entries and not self.problems:
            for key, record in self.records.items():
                self.read_one(key, record, memory)

    def read_one(self, key: str, record: Record, memory: Mapping[str, Entry]) -> None:
        """Decode one record."""
        try:
            entry, remembered = read_entry(record), memory.get(key)
            self.entries[key] = remembered if remembered == entry else entry
        except Unreadable as error:
            self.problems[key] = Problem(reason=str(error), revision=record.mod_revision)


@dataclass(slots=True)
class Listed:
    """A listing, sorted by what each key is for."""

    revision: int
    cluster_id: str
    mirror: dict[bytes, int] = field(default_factory=dict)
    scopes: dict[Scope, ListedScope] = field(default_factory=dict)
    epochs: dict[str, bytes] = field(default_factory=dict)
    schemas: dict[str, Record] = field(default_factory=dict)
    unaddressable: dict[bytes, int] = field(default_factory=dict)
    reserved: dict[bytes, int] = field(default_factory=dict)


FINGERPRINT_KEYS = 32
"""How many of the newest keys tell one history from another. One is not enough where every revision changes a key."""


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """What tells two states of a prefix apart: how many keys there are, and which ones changed last, and when.

    `keys` leaves out those of the oldest revision where it may have been cut by the limit.
    """

    count: int
    newest: int
    keys: frozenset[tuple[bytes, int]]

    def __str__(self) -> str:
        return f"{self.count} keys, the newest at {self.newest}"


def fingerprint_of(newest_keys: Iterable[tuple[bytes, int]], count: int) -> Fingerprint:
    """The fingerprint of a state with `count` keys, by (key, `mod_revision`) of its `FINGERPRINT_KEYS` newest."""
    pairs = list(newest_keys)
    revisions = [revision for _, revision in pairs]
    cut = min(revisions) if count > len(pairs) else 0
    return Fingerprint(
        count=count, newest=max(revisions, default=0), keys=frozenset(pair for pair in pairs if pair[1] > cut)
    )


_KEPT = 16 * FINGERPRINT_KEYS


class Newest:
    """Which keys of a mirror changed last, so that its fingerprint costs the same however many keys there are."""

    def __init__(self, mirror: Mapping[bytes, int]) -> None:
        self._mirror = mirror
        # As many of the newest as it has, oldest first.
        self._keys: dict[bytes, int] = {}

    def put(self, key: bytes, revision: int) -> None:
        """Note a change, no older than any before it."""
        self._keys.pop(key, None)
        self._keys[key] = revision
        if len(self._keys) > 2 * _KEPT:
            self._keys = dict(islice(self._keys.items(), _KEPT, None))

    def delete(self, key: bytes) -> None:
        """Note that a key is gone."""
        self._keys.pop(key, None)

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the mirror as it is. Looks at all keys where too many of the newest have gone."""
        if len(self._keys) < min(FINGERPRINT_KEYS, len(self._mirror)):
            self._keys = dict(sorted(self._mirror.items(), key=itemgetter(1))[-_KEPT:])
        return fingerprint_of(islice(reversed(self._keys.items()), FINGERPRINT_KEYS), len(self._mirror))


class Sorting:
    """A listing while it comes in: sorted by what each key is for and, with `memory`, decoded.

    With `environment`, scopes of others are mirrored but not kept. `memory` says which entries a scope is shown with.
    Shares nothing with anything, so that a thread can do it.
    """

    def __init__(
        self, environment: str | None = None, memory: Callable[[Scope], Mapping[str, Entry]] | None = None
    ) -> None:
        self._environment = environment
        self._memory = memory
        self._listed = Listed(0, "")
        # By plain tuples: a place makes a scope each time that it is asked for one.
        self._scopes: dict[tuple[str, str], tuple[ListedScope, Mapping[str, Entry] | None]] = {}

    def add(self, records: Iterable[Record]) -> None:
        """Take more records; no key comes twice."""
        listed, environment = self._listed, self._environment
        for record in records:
            listed.mirror[record.key] = record.mod_revision
            place = locate(record.key)
            match place.kind:
                case "entry" if environment is None or place.environment == environment:
                    self._add_entry(place, record)
                case "head" if environment is None or place.environment == environment:
                    listed.scopes.setdefault(place.scope, ListedScope()).head = record
                case "epoch":
                    listed.epochs[place.namespace] = record.value
                case "schema":
                    listed.schemas[place.namespace] = record
                case "unaddressable":
                    listed.unaddressable[record.key] = record.mod_revision
                case "reserved":
                    listed.reserved[record.key] = record.mod_revision

    def _add_entry(self, place: Place, record: Record) -> None:
        found = self._scopes.get((place.namespace, place.environment))
        if found is None:
            memory = None if self._memory is None else self._memory(place.scope)
            found = self._listed.scopes.setdefault(place.scope, ListedScope()), memory
            self._scopes[place.namespace, place.environment] = found
        scope, memory = found
        scope.records[place.name] = record
        if memory is not None:
            scope.read_one(place.name, record, memory)

    def listed(self, revision: int, cluster_id: str) -> Listed:
        """What has come in, now that it is all."""
        self._listed.revision, self._listed.cluster_id = revision, cluster_id
        return self._listed


def sort_listing(records: Iterable[Record], revision: int, cluster_id: str, environment: str | None = None) -> Listed:
    """Sort a whole listing, see `Sorting`."""
    sorting = Sorting(environment)
    sorting.add(records)
    return sorting.listed(revision, cluster_id)
