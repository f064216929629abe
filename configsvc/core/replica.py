"""The service's copy of etcd: what a listing and the events after it mean for each scope.

Owns the raw mirror (which key is at which revision), each scope's published snapshot, open apply windows and
unreadable entries. One call takes one listing or all events of one revision, and returns the updates for the feeds: a
revision is never split and never merged, and a scope whose apply window is open stands still. Pure: what needs
another look into etcd is returned as a `Need` or raised as `Relist`; the follower does it.

Rules: the release protocol (apply windows, unreadable entries, epochs) and the rules for a correct client of etcd.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from configsvc.core.feed import Update
from configsvc.core.model import (
    Applying,
    Head,
    Place,
    Scope,
    Unreadable,
    decode_entry,
    decode_head,
    epoch_of,
    locate,
)
from configsvc.core.schema import decode_defaults
from configsvc_client.protocol import Delta, Entry
from configsvc_client.snapshot import Snapshot

OVERLAY_BYTES = 64 * 1024 * 1024
"""How much of an open window's content is kept in memory; beyond it the scope is read again at the close."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A key of etcd as it is now. The replica's own type, so that the core does not depend on etcd's client."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One key's change: `record` as it became, None for a deletion."""

    key: bytes
    record: Record | None


class Relist(Exception):
    """The events cannot be applied to what is known: list again. The text says why.

    `updates` are those of the scopes to which they could be applied; they are true and have to be published.
    """

    def __init__(self, reason: str, updates: Sequence[Update] = ()) -> None:
        super().__init__(reason)
        self.updates = updates


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a stored key is not readable; `revision` is the key's `mod_revision`."""

    reason: str
    revision: int


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A need: a scope was found inside an apply window that this replica does not hold; read it at `revision`."""

    scope: Scope
    revision: int
    applying: Applying
    release: int


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """A need: an unreadable entry without a last readable value in memory; look into its history below `revision`."""

    scope: Scope
    key: str
    path: bytes
    revision: int


@dataclass(slots=True)
class Hold:
    """A scope that stands still because a release is being applied to it.

    `frozen` is the revision that its readers see: the one before the opening, or older where only a file had it.
    """

    id: str
    frozen: int
    release: int
    since: str
    overlay: dict[str, Record | None] = field(default_factory=dict)
    overlay_bytes: int = 0

    @property
    def overflowed(self) -> bool:
        return self.overlay_bytes > OVERLAY_BYTES

    def add(self, changes: Mapping[str, Record | None]) -> None:
        for key, record in changes.items():
            old = self.overlay.get(key)
            self.overlay_bytes += (len(record.value) if record else 0) - (len(old.value) if old else 0)
            self.overlay[key] = record
        if self.overflowed:
            self.overlay = {}

    def rebuild(self, changes: Mapping[str, Record | None]) -> None:
        self.overlay, self.overlay_bytes = {}, 0
        self.add(changes)


@dataclass(slots=True)
class ListedScope:
    """One scope as a listing has it. `entries` and `problems` are what its records read as, once `read` was called."""

    records: dict[str, Record] = field(default_factory=dict)
    head: Record | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)

    def read(self, memory: Mapping[str, Entry]) -> None:
        """Decode the records; an entry that is in `memory` at the same revision is taken from there."""
        for key, record in self.records.items():
            remembered = memory.get(key)
            if remembered and remembered.source == "stored" and remembered.revision == record.mod_revision:
                self.entries[key] = remembered
                continue
            try:
                self.entries[key] = read_entry(record)
            except Unreadable as error:
                self.problems[key] = Problem(reason=str(error), revision=record.mod_revision)


class _Touch(msgspec.Struct, frozen=True):
    """What one revision did to one scope."""

    changes: Mapping[str, Record | None]
    head_moved: bool
    head: Record | None
    schema_moved: bool


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


@dataclass(slots=True)
class ScopeState:
    """What is known of one scope. `snapshot` is what readers see, None while nothing may be shown yet."""

    scope: Scope
    snapshot: Snapshot | None = None
    head: Head | None = None
    head_problem: Problem | None = None
    unreadable: dict[str, Problem] = field(default_factory=dict)
    hold: Hold | None = None
    rebuilt: bool = False
    wanted: bool = False
    stored: int = 0
    """How many keys etcd has for the scope, readable or not, head included."""

    @property
    def tag(self) -> bool:
        return bool(self.unreadable) or self.rebuilt


def sort_listing(records: Iterable[Record], revision: int, cluster_id: str, environment: str | None = None) -> Listed:
    """Sort a listing by what each key is for. With `environment`, scopes of others are mirrored but not kept."""
    listed = Listed(revision, cluster_id)
    for record in records:
        listed.mirror[record.key] = record.mod_revision
        place = locate(record.key)
        if place.kind in ("entry", "head"):
            if environment is None or place.environment == environment:
                scope = listed.scopes.setdefault(place.scope, ListedScope())
                if place.kind == "head":
                    scope.head = record
                else:
                    scope.records[place.name] = record
        elif place.kind == "epoch":
            listed.epochs[place.namespace] = record.value
        elif place.kind == "schema":
            listed.schemas[place.namespace] = record
        elif place.kind == "unaddressable":
            listed.unaddressable[record.key] = record.mod_revision
    return listed


def read_entry(record: Record) -> Entry:
    """An entry as readers see it; raises `Unreadable`."""
    stored = decode_entry(record.value)
    return Entry(value=stored.value, version=stored.version, revision=record.mod_revision, metadata=stored.metadata)


class Replica:
    """All scopes under one prefix as of `position`.

    `position` is the revision up to which every event was applied; `rebase` and `apply` move it, and `prove` where etcd
    proved that nothing else happened. All methods are synchronous and complete: after each, the state is that of
    `position`, for every scope but those that are held.
    """

    def __init__(self, environment: str | None = None) -> None:
        self.environment = environment
        self.position = 0
        self.cluster_id = ""
        self.mirror: dict[bytes, int] = {}
        self.scopes: dict[Scope, ScopeState] = {}
        self.unaddressable: dict[bytes, int] = {}
        self.schema_problems: dict[str, Problem] = {}
        self.salt = ""
        self.salted: dict[str, bytes] = {}
        """The epoch keys' values as the listing had them in which the fork was found: the salt counts until they change."""
        self.remembered: dict[Scope, int] = {}
        """Scopes known from a file only, with the revision that was proved when it was written."""
        self._epochs: dict[str, bytes] = {}
        self._defaults: dict[str, dict[str, Entry]] = {}

    def __repr__(self) -> str:
        held = sum(state.hold is not None for state in self.scopes.values())
        return f"<Replica at {self.position}: {len(self.mirror)} keys, {len(self.scopes)} scopes, {held} held>"

    # ---- questions ----------------------------------------------------------------------------------------------

    def epoch(self, namespace: str) -> str:
        """The id of the history that this replica shows for `namespace`."""
        value = self._epochs.get(namespace, b"")
        salted = value == self.salted.get(namespace, b"")
        return epoch_of(self.cluster_id, value, self.salt if salted else "")

    def epoch_value(self, namespace: str) -> bytes | None:
        """What the namespace's epoch key holds, None where there is none."""
        return self._epochs.get(namespace)

    @property
    def namespaces(self) -> set[str]:
        """Every namespace in which something is stored."""
        return {scope.namespace for scope, state in self.scopes.items() if state.stored}

    def newest(self) -> tuple[int, int]:
        """The fingerprint of the mirror: the newest `mod_revision` among its keys, and how many keys it has."""
        return max(self.mirror.values(), default=0), len(self.mirror)

    def proved(self, scope: Scope) -> int:
        """Up to which revision readers of `scope` have seen everything; below the opening while a window is open."""
        state = self.scopes.get(scope)
        return state.hold.frozen if state and state.hold else self.position

    def held(self, scope: Scope) -> Hold | None:
        """The hold of a scope to which a release is being applied: `release` and `since` of the open window."""
        state = self.scopes.get(scope)
        return state.hold if state else None

    # ---- scopes that somebody waits for -------------------------------------------------------------------------

    def want(self, scope: Scope) -> Update:
        """Keep `scope` also while nothing is stored for it, so that changes of schema and epoch reach it; idempotent.

        Returns what its readers see now, as a baseline.
        """
        state = self.scopes.setdefault(scope, ScopeState(scope))
        state.wanted = True
        if state.hold is None and state.snapshot is None:
            defaults = self._defaults.get(scope.namespace, {})
            state.snapshot = self._snapshot(state, dict(defaults), self.position)
        return self._baseline(state)

    def unwant(self, scope: Scope) -> None:
        """Take `want` back: a scope of which nothing is stored is forgotten."""
        if state := self.scopes.get(scope):
            state.wanted = False
            self._keep(state)

    # ---- a past ----------------------------------------------------------------------------------------------------

    def remember(self, snapshot: Snapshot, proved: int, head: Head | None) -> Update:
        """Show a scope as a file has it, until etcd can be read."""
        scope = Scope(snapshot.namespace, snapshot.environment)
        self.scopes[scope] = ScopeState(scope, snapshot=snapshot, head=head, stored=1)
        self.remembered[scope] = proved
        return self._update(self.scopes[scope], baseline=True)

    def begin_history(self, salt: str, epochs: Mapping[str, bytes]) -> None:
        """From the next `rebase` on, show another history: with `salt`, for every namespace until its epoch key moves.

        `epochs` are the keys' values in the listing in which the fork was found: a restored backup brings back a value
        that clients have left. `salt` and `salted` hold both, for a file, and a restart hands them in here again.
        """
        self.salt, self.salted = salt, dict(epochs)

    # ---- a listing ----------------------------------------------------------------------------------------------

    def needs(self, listed: Listed, *, new_history: bool = False) -> tuple[list[Window], list[Lost]]:
        """What has to be read from etcd before `rebase` can show this listing: cold windows, lost values."""
        windows: list[Window] = []
        lost: list[Lost] = []
        for scope, seen in listed.scopes.items():
            state = None if new_history else self.scopes.get(scope)
            head = _head_of(seen.head)[0]
            if head and head.applying and not _continues(state, head.applying):
                assert seen.head is not None
                opened = head.applying.opened_revision or seen.head.mod_revision
                windows.append(
                    Window(scope=scope, revision=opened - 1, applying=head.applying, release=head.release + 1)
                )
            else:
                shown = _shown(state)
                seen.read(shown)
                lost.extend(
                    Lost(scope=scope, key=key, path=seen.records[key].key, revision=problem.revision)
                    for key, problem in seen.problems.items()
                    if key not in shown or shown[key].source != "stored"
                )
        return windows, lost

    def rebase(
        self,
        listed: Listed,
        *,
        windows: Mapping[Scope, Sequence[Record] | None],
        found: Mapping[bytes, Record],
        new_history: bool = False,
    ) -> list[Update]:
        """Take over a listing: the difference as one change per scope, or baselines where there is no past.

        `windows` answers the needs of that kind (None: nothing could be read), `found` has the last readable record by
        path. With `new_history` nothing that is remembered counts, and every scope starts anew.
        """
        self.position, self.mirror, self.cluster_id = listed.revision, listed.mirror, listed.cluster_id
        self.unaddressable = listed.unaddressable
        self._epochs = dict(listed.epochs)
        self._defaults, self.schema_problems = {}, {}
        for namespace, record in listed.schemas.items():
            self._read_schema(namespace, record)
        updates: list[Update] = []
        for scope in sorted(listed.scopes.keys() | self.scopes.keys()):
            known = self.scopes.get(scope)
            state = known if known and not new_history else ScopeState(scope, wanted=bool(known and known.wanted))
            seen = listed.scopes.get(scope, ListedScope())
            state.stored = len(seen.records) + (seen.head is not None)
            if scope in windows:
                update = self._rebase_cold(state, seen, windows[scope], found)
            else:
                update = self._rebase_scope(state, seen, found)
            if state.snapshot is None:
                # Inside a window, and what was before it is not to be had: nothing may be shown until it closes.
                update = self._baseline(state)
            self._keep(state)
            if update:
                updates.append(update)
        return updates

    def _rebase_scope(self, state: ScopeState, seen: ListedScope, found: Mapping[bytes, Record]) -> Update | None:
        head, problem = _head_of(seen.head)
        if state.hold and (head is None or head.applying is not None):
            # The window that is held is still open (or its head was deleted or garbled by hand): stand still.
            state.hold.rebuild(self._since_opening(state, seen))
            state.head_problem = problem
            return self._update(state) if self._follow_epoch(state) else None
        state.hold, state.rebuilt = None, False
        self._set_head(state, head, problem, gone=seen.head is None)
        return self._replace(state, seen, found, self.position)

    def _rebase_cold(
        self,
        state: ScopeState,
        seen: ListedScope,
        before: Sequence[Record] | None,
        found: Mapping[bytes, Record],
    ) -> Update | None:
        """Start inside an open window: show the scope as it was before the opening, if that can still be known."""
        head, problem = _head_of(seen.head)
        assert head is not None and head.applying is not None and seen.head is not None
        opened = head.applying.opened_revision or seen.head.mod_revision
        frozen, state.hold = state.hold.frozen if state.hold else self.remembered.get(state.scope, 0), None
        update = None
        if before is not None:
            past = ListedScope({place.name: r for r in before if (place := locate(r.key)).kind == "entry"})
            past.read(_shown(state))
            state.rebuilt = True
            # The head inside the window still names the release before it.
            self._set_head(state, head, problem, gone=False)
            update = self._replace(state, past, found, opened - 1)
            frozen = opened - 1
        state.hold = Hold(head.applying.id, frozen, head.release + 1, head.applying.since)
        state.hold.rebuild(self._since_opening(state, seen))
        return update

    def _since_opening(self, state: ScopeState, seen: ListedScope) -> dict[str, Record | None]:
        """What the close will have to bring: every listed key that is not what readers see, and what is gone."""
        shown = state.snapshot.entries if state.snapshot else {}
        changes: dict[str, Record | None] = {
            key: record
            for key, record in seen.records.items()
            if key not in shown or shown[key].revision != record.mod_revision
        }
        changes.update((key, None) for key, e in shown.items() if e.source == "stored" and key not in seen.records)
        return changes

    def _replace(
        self, state: ScopeState, seen: ListedScope, found: Mapping[bytes, Record], revision: int
    ) -> Update | None:
        """Make the scope's state from all of its records; a delta where there was a state, else a baseline."""
        old, shown = state.snapshot, _shown(state)
        if not seen.entries and not seen.problems:
            seen.read(shown)
        entries = dict(seen.entries)
        state.unreadable = dict(seen.problems)
        for key in seen.problems:
            if key in shown and shown[key].source == "stored":
                entries[key] = shown[key]
            elif (path := seen.records[key].key) in found:
                entries[key] = read_entry(found[path])
        for key, default in self._defaults.get(state.scope.namespace, {}).items():
            entries.setdefault(key, default)
        if old is None or old.epoch != self.epoch(state.scope.namespace):
            state.snapshot = self._snapshot(state, entries, revision)
            return self._update(state, baseline=True)
        changed = {key: entry for key, entry in entries.items() if shown.get(key) != entry}
        return self._step(state, changed, [key for key in shown if key not in entries], revision)

    # ---- events -------------------------------------------------------------------------------------------------

    def apply(self, revision: int, events: Sequence[Event]) -> list[Update]:
        """Apply everything that happened at one revision above `position`; raises `Relist` where it cannot.

        After `Relist` the state is unusable for `apply` until `rebase` was called; what was published stays true.
        """
        if revision <= self.position:
            raise Relist(f"events at {revision}, which is not above {self.position}")
        scopes: dict[Scope, dict[str, Record | None]] = {}
        heads: dict[Scope, Record | None] = {}
        epochs: set[str] = set()
        schemas: set[str] = set()
        for event in events:
            place = self._mirror_event(event, revision)
            if place.kind in ("entry", "head"):
                if self.environment not in (None, place.environment):
                    continue
                changes = scopes.setdefault(place.scope, {})
                if place.kind == "head":
                    heads[place.scope] = event.record
                else:
                    changes[place.name] = event.record
            elif place.kind == "epoch":
                self._epochs.pop(place.namespace, None)
                if event.record:
                    self._epochs[place.namespace] = event.record.value
                epochs.add(place.namespace)
            elif place.kind == "schema":
                self._defaults.pop(place.namespace, None)
                self.schema_problems.pop(place.namespace, None)
                if event.record:
                    self._read_schema(place.namespace, event.record)
                schemas.add(place.namespace)
        self.position = revision
        updates: list[Update] = []
        failure: str | None = None
        for scope in sorted(scopes.keys() | {scope for scope in self.scopes if scope.namespace in schemas}):
            touch = _Touch(scopes.get(scope, {}), scope in heads, heads.get(scope), scope.namespace in schemas)
            try:
                update = self._apply_scope(scope, touch, revision)
            except Relist as error:
                failure = str(error)
            else:
                updates += [update] if update else []
        updates = self._rotate(epochs, updates) if epochs else updates
        if failure:
            raise Relist(failure, updates)
        return updates

    def prove(self, revision: int) -> None:
        """Move `position` to what etcd proved; never back."""
        self.position = max(self.position, revision)

    def _mirror_event(self, event: Event, revision: int) -> Place:
        place = locate(event.key)
        self.unaddressable.pop(event.key, None)
        if event.record is None:
            known = self.mirror.pop(event.key, None)
            step = -1 if known is not None else 0
        else:
            step = 0 if event.key in self.mirror else 1
            self.mirror[event.key] = revision
            if place.kind == "unaddressable":
                self.unaddressable[event.key] = revision
        if place.kind in ("entry", "head") and self.environment in (None, place.environment):
            self.scopes.setdefault(place.scope, ScopeState(place.scope)).stored += step
        return place

    def _apply_scope(self, scope: Scope, touch: _Touch, revision: int) -> Update | None:
        state = self.scopes.setdefault(scope, ScopeState(scope))
        head, problem = _head_of(touch.head)
        if state.hold:
            state.hold.add(touch.changes)
            if head is None:
                # Deleted or garbled by hand: keep the hold, the window's own writer or a later head ends it.
                state.head_problem = problem or state.head_problem
                return None
            return self._in_window(state, head, revision)
        if head and head.applying:
            if head.applying.opened_revision not in (None, revision):
                raise Relist(f"{scope} is in an apply window whose opening was not seen")
            state.hold = Hold(head.applying.id, revision - 1, head.release + 1, head.applying.since)
            state.hold.add(touch.changes)
            if state.snapshot is None:
                state.snapshot = self._snapshot(state, dict(self._defaults.get(scope.namespace, {})), revision - 1)
                return self._update(state, baseline=True)
            return self._update(state)
        if touch.head_moved:
            self._set_head(state, head, problem, gone=touch.head is None)
        return self._change(state, touch.changes, revision, force=touch.schema_moved)

    def _in_window(self, state: ScopeState, head: Head, revision: int) -> Update | None:
        assert state.hold is not None
        if head.applying and head.applying.id == state.hold.id:
            state.head_problem = None
            return None
        if head.applying:
            raise Relist(f"{state.scope} went from one apply window into another without a close")
        if state.hold.overflowed or state.snapshot is None:
            raise Relist(f"the apply window of {state.scope} held more than is kept in memory")
        changes, state.hold, state.rebuilt = state.hold.overlay, None, False
        self._set_head(state, head, None, gone=False)
        return self._change(state, changes, revision)

    def _change(
        self, state: ScopeState, changes: Mapping[str, Record | None], revision: int, *, force: bool = False
    ) -> Update | None:
        """Apply records by key to what is shown; a schema's defaults are looked at anew each time: there are few."""
        shown = _shown(state)
        defaults = self._defaults.get(state.scope.namespace, {})
        changed: dict[str, Entry] = {}
        gone: set[str] = set()
        for key, record in changes.items():
            state.unreadable.pop(key, None)
            if record is None:
                gone.add(key)
                continue
            try:
                changed[key] = read_entry(record)
            except Unreadable as error:
                state.unreadable[key] = Problem(reason=str(error), revision=record.mod_revision)
        for key, default in defaults.items():
            is_stored = key in changed or (key in shown and shown[key].source == "stored" and key not in gone)
            if not is_stored and shown.get(key) != default:
                changed[key] = default
        if force or any(entry.source == "schema" for entry in shown.values()):
            gone.update(key for key, entry in shown.items() if entry.source == "schema" and key not in defaults)
        deleted = sorted(key for key in gone if key in shown and key not in changed and key not in defaults)
        return self._step(state, changed, deleted, revision, force=force)

    def _rotate(self, namespaces: set[str], updates: list[Update]) -> list[Update]:
        """A new epoch is a new snapshot for every scope of the namespace, held ones included: never held back."""
        baselines = [
            self._update(state, baseline=True)
            for scope, state in sorted(self.scopes.items())
            if scope.namespace in namespaces and self._follow_epoch(state)
        ]
        anew = {update.scope for update in baselines}
        return [update for update in updates if update.scope not in anew] + baselines

    # ---- steps --------------------------------------------------------------------------------------------------

    def _step(
        self,
        state: ScopeState,
        changed: dict[str, Entry],
        deleted: list[str],
        revision: int,
        *,
        force: bool = False,
    ) -> Update:
        """Publish a change where readers can see one (a touched head alone is none), or where `force` says so."""
        release = state.head.shown_release if state.head else None
        version = state.head.version if state.head else None
        old = state.snapshot or self._empty(state.scope)
        delta = None
        if force or changed or deleted or (old.release, old.version) != (release, version):
            delta = Delta(revision=revision, release=release, version=version, set=changed, deleted=deleted)
            state.snapshot = old.apply(delta)
        elif state.snapshot is None:
            state.snapshot = old
        self._keep(state)
        return self._update(state, delta=delta)

    def _keep(self, state: ScopeState) -> None:
        if state.stored or state.hold or state.wanted:
            self.scopes[state.scope] = state
        else:
            self.scopes.pop(state.scope, None)

    def _update(self, state: ScopeState, *, delta: Delta | None = None, baseline: bool = False) -> Update:
        assert state.snapshot is not None
        return Update(
            scope=state.scope,
            snapshot=state.snapshot,
            delta=delta,
            baseline=baseline,
            exists=bool(state.stored),
            tag=state.tag,
        )

    def _baseline(self, state: ScopeState) -> Update:
        if state.snapshot is None:
            return Update(scope=state.scope, snapshot=self._empty(state.scope), baseline=True, pending=True)
        return self._update(state, baseline=True)

    def _follow_epoch(self, state: ScopeState) -> bool:
        epoch = self.epoch(state.scope.namespace)
        if state.snapshot is None or state.snapshot.epoch == epoch:
            return False
        state.snapshot = msgspec.structs.replace(state.snapshot, epoch=epoch)
        return True

    def _set_head(self, state: ScopeState, head: Head | None, problem: Problem | None, *, gone: bool) -> None:
        """A head that does not read keeps the last one that did, like any entry."""
        state.head_problem = problem
        if head is not None or gone:
            state.head = head

    def _empty(self, scope: Scope) -> Snapshot:
        return Snapshot(
            namespace=scope.namespace, environment=scope.environment, epoch=self.epoch(scope.namespace), revision=0
        )

    def _snapshot(self, state: ScopeState, entries: dict[str, Entry], revision: int) -> Snapshot:
        return Snapshot(
            namespace=state.scope.namespace,
            environment=state.scope.environment,
            epoch=self.epoch(state.scope.namespace),
            revision=revision,
            release=state.head.shown_release if state.head else None,
            version=state.head.version if state.head else None,
            entries=entries,
        )

    def _read_schema(self, namespace: str, record: Record) -> None:
        try:
            defaults = decode_defaults(record.value)
        except Unreadable as error:
            self.schema_problems[namespace] = Problem(reason=str(error), revision=record.mod_revision)
            return
        self._defaults[namespace] = {
            key: Entry(value=value, source="schema", revision=record.mod_revision) for key, value in defaults.items()
        }


def _head_of(record: Record | None) -> tuple[Head | None, Problem | None]:
    if record is None:
        return None, None
    try:
        return decode_head(record.value), None
    except Unreadable as error:
        return None, Problem(reason=str(error), revision=record.mod_revision)


def _continues(state: ScopeState | None, applying: Applying) -> bool:
    return state is not None and state.hold is not None and state.hold.id == applying.id and state.snapshot is not None


def _shown(state: ScopeState | None) -> Mapping[str, Entry]:
    return state.snapshot.entries if state and state.snapshot else {}
