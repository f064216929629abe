"""A store like etcd in a dictionary, with all of its history, and what readers should see of it: the reference.

Not a stand-in for etcd: it says what a scope *is* at a revision, straight from the state at that revision, so that
replicas can be compared with it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from configsvc.core.feed import Update
from configsvc.core.model import (
    Scope,
    Unreadable,
    decode_head,
    entry_path,
    locate,
    schema_path,
    scope_prefix,
)
from configsvc.core.records import Event, Record, read_entry
from configsvc.core.replica import Listed, Lost, Replica, Window, sort_listing
from configsvc.core.schema import read_defaults
from configsvc_client.protocol import Entry

CLUSTER = "cluster"
SCOPE = Scope("shop", "prod")


def entry_bytes(value: Any, **more: Any) -> bytes:
    return json.dumps({"value": value, **more}).encode()


def head_bytes(release: int, *, id: str = "", applying: dict[str, Any] | None = None, **more: Any) -> bytes:
    head = {"format": 1, "release": release, "version": f"v{release}", "id": id or f"id-{release}", **more}
    return json.dumps(head | ({"applying": applying} if applying else {})).encode()


def window(id: str, opened_revision: int | None = None, state: str = "opened") -> dict[str, Any]:
    applying = {"id": id, "sha256": "", "kind": "deploy", "state": state, "since": "2026-01-01T00:00:00Z", "by": "w"}
    return applying | ({"opened_revision": opened_revision} if opened_revision else {})


def schema_bytes(**defaults: Any) -> bytes:
    rules = {key: {"type": "integer", "default": value} for key, value in defaults.items()}
    return json.dumps({"format": 1, "schema": rules}).encode()


class ModelEtcd:
    """Keys and values by revision; `txn` is the only way to change them."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.states: list[dict[bytes, Record]] = [{}, {}]
        """The whole state at each revision."""
        self.events: dict[int, list[Event]] = {}

    @property
    def live(self) -> dict[bytes, Record]:
        return self.states[-1]

    def txn(self, puts: Mapping[bytes, bytes | None]) -> int:
        """Put or, for None, delete; all at one revision. Deleting what is not there is nothing."""
        changes = {key: value for key, value in puts.items() if value is not None or key in self.live}
        if not changes:
            return self.revision
        self.revision += 1
        state = dict(self.live)
        events = []
        for key, value in changes.items():
            record = None
            if value is None:
                del state[key]
            else:
                created = state[key].create_revision if key in state else self.revision
                record = Record(key=key, value=value, mod_revision=self.revision, create_revision=created)
                state[key] = record
            events.append(Event(key=key, record=record))
        self.states.append(state)
        self.events[self.revision] = events
        return self.revision

    # ---- as the follower reads it -------------------------------------------------------------------------------

    def listing(self, environment: str | None = None, prefix: bytes = b"/config/") -> Listed:
        records = [record for key, record in sorted(self.live.items()) if key.startswith(prefix)]
        return sort_listing(records, self.revision, CLUSTER, environment)

    def before(self, need: Window) -> Sequence[Record] | None:
        if need.revision < self.compacted:
            return None
        prefixes = (scope_prefix(need.scope), schema_path(need.scope.namespace))
        records = [record for key, record in self.states[need.revision].items() if key.startswith(prefixes)]
        for damaged in [record for record in records if locate(record.key).kind == "entry" and not readable(record)]:
            lost = Lost(scope=need.scope, key="", path=damaged.key, revision=damaged.mod_revision)
            if earlier := self.last_readable(lost):
                records.append(earlier)
        return records

    def last_readable(self, need: Lost) -> Record | None:
        for revision in range(need.revision - 1, max(self.compacted, 1) - 1, -1):
            record = self.states[revision].get(need.path)
            if record is None:
                return None
            if readable(record):
                return record
        return None

    def relist(self, replica: Replica, *, new_history: bool = False) -> list[Update]:
        listed = self.listing(replica.environment)
        windows, lost = replica.needs(listed, new_history=new_history)
        found = {need.path: record for need in lost if (record := self.last_readable(need)) is not None}
        before = {need.scope: self.before(need) for need in windows}
        return replica.rebase(listed, windows=before, found=found, new_history=new_history)

    # ---- the reference ------------------------------------------------------------------------------------------

    def entries(self, scope: Scope, revision: int, defaults: Mapping[str, Entry]) -> dict[str, Entry]:
        """What readers see of `scope` at `revision`: last readable values, and defaults where there is none."""
        shown = {}
        for key, record in self.states[revision].items():
            place = locate(key)
            if place.kind == "entry" and place.scope == scope and (entry := self._last(record)) is not None:
                shown[place.name] = entry
        return {**defaults, **shown}

    def _last(self, record: Record) -> Entry | None:
        for revision in range(record.mod_revision, record.create_revision - 1, -1):
            past = self.states[revision][record.key]
            if readable(past):
                return read_entry(past)
        return None

    def heads(self, scope: Scope, revision: int) -> list[tuple[int | None, str | None]]:
        """The (release, version) that a replica may show: one, or any that was, where the head does not read."""
        path = scope_prefix(scope) + b"_meta/head"
        allowed: list[tuple[int | None, str | None]] = []
        for record in self._back(path, revision):
            try:
                head = decode_head(record.value) if record else None
            except Unreadable:
                continue
            allowed.append((head.shown_release, head.shown_version) if head else (None, None))
            if not allowed[1:] and record == self.states[revision].get(path):
                return allowed
        return [*allowed, (None, None)]

    def defaults(self, namespace: str, revision: int) -> list[dict[str, Entry]]:
        """The defaults that a replica may show: one set, or any that was, where the schema does not read."""
        path = schema_path(namespace)
        allowed: list[dict[str, Entry]] = []
        for record in self._back(path, revision):
            try:
                allowed.append(read_defaults(record.value, record.mod_revision) if record else {})
            except Unreadable:
                continue
            if not allowed[1:] and record == self.states[revision].get(path):
                return allowed
        return [*allowed, {}]

    def _back(self, path: bytes, revision: int) -> Iterable[Record | None]:
        return (self.states[at].get(path) for at in range(revision, 0, -1))

    def exists(self, scope: Scope, revision: int) -> bool:
        for key, record in self.states[revision].items():
            place = locate(key)
            if place.kind == "entry" and place.scope == scope:
                return True
            if place.kind == "head" and place.scope == scope:
                try:
                    if decode_head(record.value).release:
                        return True
                except Unreadable:
                    return True
        return False


class Pair:
    """A store and a replica that follows it."""

    def __init__(self, environment: str | None = None) -> None:
        self.etcd = ModelEtcd()
        self.replica = Replica(environment)
        self.relist()

    def relist(self, *, new_history: bool = False) -> list[Update]:
        return self.etcd.relist(self.replica, new_history=new_history)

    def txn(self, puts: dict[bytes, bytes | None]) -> list[Update]:
        revision = self.etcd.txn(puts)
        return self.replica.apply(revision, self.etcd.events[revision])

    def put(self, key: str, value: Any, scope: Scope = SCOPE) -> list[Update]:
        return self.txn(
            {entry_path(scope, key): value if value is None or type(value) is bytes else entry_bytes(value)}
        )

    def values(self, scope: Scope = SCOPE) -> dict[str, Any]:
        snapshot = self.replica.scopes[scope].snapshot
        assert snapshot is not None
        return {key: json.loads(bytes(entry.value)) for key, entry in snapshot.entries.items()}


def readable(record: Record) -> bool:
    try:
        read_entry(record)
    except Unreadable:
        return False
    return True
