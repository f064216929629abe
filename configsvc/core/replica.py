"""The service's copy of etcd: what a listing and the events after it mean for each scope.

Owns the position, the raw mirror (which key is at which revision), the namespaces' epochs and schemas, and the states
of all scopes. One call takes one listing or all events of one revision, and returns the updates for the feeds: a
revision is never split and never merged. What one scope makes of it is `scope.py`. Pure: what needs another look into
etcd is returned as a need (`Window`, `Lost`) or raised as `Relist`; the follower does it.

Rules: the release protocol (apply windows, unreadable entries, epochs) and the rules for a correct client of etcd.
"""

from collections.abc import Mapping, Sequence

import msgspec

from configsvc.core.feed import Update
from configsvc.core.model import (
    Applying,
    Head,
    Place,
    Scope,
    Unreadable,
    entry_path,
    epoch_of,
    epoch_path,
    head_path,
    locate,
    scope_prefix,
)
from configsvc.core.records import (
    Event,
    Fingerprint,
    Listed,
    ListedScope,
    Newest,
    Problem,
    Record,
    Sorting,
    opening,
    read_entry,
    read_head,
    sort_listing,
)
from configsvc.core.schema import read_defaults
from configsvc.core.scope import Hold, Namespace, Relist, ScopeState, Touch
from configsvc_client.protocol import Entry
from configsvc_client.snapshot import Snapshot

__all__ = [
    "Event",
    "Hold",
    "Listed",
    "ListedScope",
    "Lost",
    "Problem",
    "Record",
    "Relist",
    "Replica",
    "ScopeState",
    "Sorting",
    "Window",
    "read_entry",
    "sort_listing",
]


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A need: a scope was found inside an apply window that this replica does not hold; read it at `revision`."""

    scope: Scope
    revision: int
    applying: Applying
    release: int


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """A need: an unreadable entry whose last readable value is not known; look into its history below `revision`."""

    scope: Scope
    key: str
    path: bytes
    revision: int


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
        self._newest = Newest(self.mirror)
        self.scopes: dict[Scope, ScopeState] = {}
        """Every scope of which etcd has something, and those that are wanted all the same."""
        self.unaddressable: dict[bytes, int] = {}
        self.oddities = 0
        """Counts what may have changed `unaddressable`, so that nobody compares it after every event."""
        self.schema_problems: dict[str, Problem] = {}
        """Why the schema of a namespace does not read. Its last readable one applies, as far as memory has it."""
        self.salt = ""
        self.salted: dict[str, bytes] = {}
        """The epoch keys' values in the listing in which a fork was found: the salt counts while they are the same."""
        self.remembered: dict[Scope, int] = {}
        """Scopes known from a file only, with the revision that was proved when it was written."""
        self._reserved: dict[bytes, int] = {}
        self._epochs: dict[str, bytes] = {}
        self._namespaces: dict[str, Namespace] = {}
        self.broken = False
        """Whether `apply` raised `Relist` and the listing is still to come: `mirror` is then ahead of `position`."""

    def __repr__(self) -> str:
        held = sum(state.hold is not None for state in self.scopes.values())
        return f"<Replica at {self.position}: {len(self.mirror)} keys, {len(self.scopes)} scopes, {held} held>"

    # ---- questions ----------------------------------------------------------------------------------------------

    def epoch(self, namespace: str) -> str:
        """The id of the history that this replica shows for `namespace`; before the first listing that of a file."""
        if not self.cluster_id:
            for scope in self.remembered:
                snapshot = self.scopes[scope].snapshot
                if scope.namespace == namespace and snapshot is not None:
                    return snapshot.epoch
        value = self._epochs.get(namespace, b"")
        salted = value == self.salted.get(namespace, b"")
        return epoch_of(self.cluster_id, value, self.salt if salted else "")

    def defaults(self, namespace: str) -> dict[str, Entry]:
        """What applies in every scope of `namespace`, also in one that does not exist."""
        space = self._namespaces.get(namespace)
        return dict(space.defaults) if space else {}

    def shown(self, scope: Scope) -> Mapping[str, Entry]:
        """The entries that readers of a scope see; of one that is not known, none."""
        state = self.scopes.get(scope)
        return state.shown if state else {}

    def epoch_value(self, namespace: str) -> bytes | None:
        """What the namespace's epoch key holds, None where there is none."""
        return self._epochs.get(namespace)

    @property
    def namespaces(self) -> set[str]:
        """Every namespace that has a scope in etcd."""
        return {scope.namespace for scope, state in self.scopes.items() if state.stored}

    def identity(self) -> Fingerprint:
        """The fingerprint of the mirror, by which its history is told from others."""
        return self._newest.fingerprint()

    def witness(self) -> tuple[bytes, bytes] | None:
        """A key whose value is random, and so in no other history: an epoch key. None where there is none."""
        return next(((epoch_path(name), value) for name, value in self._epochs.items()), None)

    def altered(self, listed: Listed) -> str | None:
        """Say which entry has another value than ours at the same revision, as only another history can; else None."""
        for scope, seen in listed.scopes.items():
            state = self.scopes.get(scope)
            if state is None or state.rebuilt:
                continue
            seen.read(state.shown)
            for key, entry in seen.entries.items():
                had = state.shown.get(key)
                if had is not None and had.source == "stored" and had.revision == entry.revision and had != entry:
                    return f"{key} of {scope} has another value at revision {entry.revision} than it had"
        return None

    def fingerprint(self, scope: Scope) -> tuple[int, int]:
        """The fingerprint of a settled scope's prefix at `position`, everything below it included."""
        prefix, state = scope_prefix(scope), self.scopes.get(scope)
        others = [*self.unaddressable.items(), *self._reserved.items()]
        revisions = [revision for path, revision in others if path.startswith(prefix)]
        if state is None:
            return max(revisions, default=0), len(revisions)
        if state.newest is None:
            names = {*state.unreadable, *(key for key, entry in state.shown.items() if entry.source == "stored")}
            paths = [head_path(scope), *(entry_path(scope, name) for name in names)]
            state.newest = max((self.mirror[path] for path in paths if path in self.mirror), default=0)
        return max([state.newest, *revisions]), state.keys + state.has_head + len(revisions)

    def proved(self, scope: Scope) -> int:
        """Up to which revision readers of `scope` have seen everything; below the opening while a window is open."""
        if scope in self.remembered:
            return self.remembered[scope]
        state = self.scopes.get(scope)
        return state.hold.frozen if state and state.hold else self.position

    def held(self, scope: Scope) -> Hold | None:
        """The hold of a scope to which a release is being applied: `release` and `since` of the open window."""
        state = self.scopes.get(scope)
        return state.hold if state else None

    # ---- scopes that somebody waits for -------------------------------------------------------------------------

    def want(self, scope: Scope) -> Update:
        """Keep `scope` also while nothing is stored for it, so that changes of schema and epoch reach it; idempotent.

        Returns what its readers see now, as a baseline. A scope that ceases to exist is kept as a wanted one.
        """
        state = self._state(scope)
        if state.hold is None and state.snapshot is None:
            return state.begin(dict(state.space.defaults), self.position)
        return state.update(baseline=True)

    def unwant(self, scope: Scope) -> None:
        """Forget `scope` if etcd has nothing of it."""
        state = self.scopes.get(scope)
        if state and not state.stored and scope not in self.remembered:
            del self.scopes[scope]

    # ---- a past -------------------------------------------------------------------------------------------------

    def remember(self, snapshot: Snapshot, proved: int, head: Head | None, *, tag: bool = False) -> Update:
        """Show a scope as a file has it, until etcd can be read. `tag` as its `Update` had it when it was written."""
        scope = Scope(snapshot.namespace, snapshot.environment)
        space = self._namespaces.setdefault(scope.namespace, Namespace(snapshot.epoch))
        state = self.scopes[scope] = ScopeState(scope, space, snapshot, exists=True, head=head, rebuilt=tag)
        self.remembered[scope] = proved
        return state.update(baseline=True)

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
            state = state or ScopeState(scope, Namespace(""))
            head = read_head(seen.head)[0]
            if seen.head and head and head.applying and not state.continues(head.applying):
                opened = opening(seen.head, head.applying.opened_revision)
                need = Window(scope=scope, revision=opened - 1, applying=head.applying, release=head.next_release)
                windows.append(need)
            for key in state.lost(seen):
                record = seen.records[key]
                lost.append(Lost(scope=scope, key=key, path=record.key, revision=record.mod_revision))
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

        `windows` answers the needs of that kind with the scope's records (an unreadable one may come with an older one
        that reads) and the namespace's schema; None where nothing could be read. `found` has the last readable record
        by path. With `new_history` nothing that is remembered counts, and every scope starts anew; without, an older
        listing is refused (`Relist`).
        """
        if listed.revision < self.position and not new_history:
            raise Relist(f"a listing at {listed.revision}, which is below {self.position}")
        before = self.position
        self.position, self.mirror, self.cluster_id = listed.revision, listed.mirror, listed.cluster_id
        self._newest = Newest(self.mirror)
        self.unaddressable, self._reserved = listed.unaddressable, listed.reserved
        self.oddities += 1
        self._epochs = dict(listed.epochs)
        if new_history:
            self._namespaces, self.remembered, self.schema_problems = {}, {}, {}
        for name in self._namespaces.keys() | listed.schemas.keys():
            self._read_schema(name, listed.schemas.get(name))
        self._name_epochs(self._namespaces)
        updates: list[Update] = []
        for scope in sorted(listed.scopes.keys() | self.scopes.keys()):
            if new_history:
                self.scopes.pop(scope, None)
            update = self._state(scope).rebase(
                listed.scopes.get(scope, ListedScope()),
                windows.get(scope),
                found,
                revision=listed.revision,
                proved=self.remembered.get(scope, before),
            )
            updates += [update] if update else []
        self.remembered = {}
        self.broken = False
        return updates

    # ---- events -------------------------------------------------------------------------------------------------

    def apply(self, revision: int, events: Sequence[Event]) -> list[Update]:
        """Apply everything that happened at one revision above `position`; raises `Relist` where it cannot.

        After `Relist` only `rebase` goes on, and `position` stays: what was published is true, nothing more is proved.
        """
        if self.broken or revision <= self.position:
            raise Relist(f"events at {revision}, and everything is known up to {self.position} only")
        touches: dict[Scope, Touch] = {}
        rotated: set[str] = set()
        schemas: dict[str, Record | None] = {}
        for event in events:
            place = self._mirror_event(event, revision)
            if place is None:
                continue
            if place.kind in ("entry", "head"):
                self._touch(touches, place, event.record)
            elif place.kind == "epoch":
                self._epochs.pop(place.namespace, None)
                if event.record:
                    self._epochs[place.namespace] = event.record.value
                rotated.add(place.namespace)
            elif place.kind == "schema":
                schemas[place.namespace] = event.record
        for name, record in schemas.items():
            self._read_schema(name, record)
        for scope in [scope for scope in self.scopes if scope.namespace in schemas] if schemas else ():
            touches.setdefault(scope, Touch()).schema_moved = True
        self._name_epochs(rotated)
        return self._take(touches, rotated, revision)

    def _take(self, touches: Mapping[Scope, Touch], rotated: set[str], revision: int) -> list[Update]:
        updates: dict[Scope, Update] = {}
        failures: list[str] = []
        for scope in sorted(touches):
            try:
                update = self.scopes[scope].take(touches[scope], revision)
            except Relist as error:
                failures.append(str(error))
            else:
                updates |= {scope: update} if update else {}
        # A new epoch is a new snapshot for every scope of the namespace, held ones included: never held back.
        for scope, state in self.scopes.items() if rotated else ():
            if scope.namespace in rotated and state.follow_epoch():
                updates[scope] = state.update(baseline=True)
        ordered = [updates[scope] for scope in sorted(updates)]
        if failures:
            self.broken = True
            raise Relist("; ".join(failures), ordered)
        self.position = revision
        return ordered

    def prove(self, revision: int) -> None:
        """Move `position` to what etcd proved; never back, and not while a listing is due."""
        if not self.broken:
            self.position = max(self.position, revision)

    def _mirror_event(self, event: Event, revision: int) -> Place | None:
        """Note which key is where; None for the deletion of a key that is not there."""
        place = locate(event.key)
        odd = {"unaddressable": self.unaddressable, "reserved": self._reserved}.get(place.kind, {})
        odd.pop(event.key, None)
        self.oddities += place.kind == "unaddressable"
        had = self.mirror.get(event.key)
        if event.record is None:
            self._newest.delete(event.key)
            self.mirror.pop(event.key, None)
            return None if had is None else self._count(place, -1, had)
        self.mirror[event.key] = odd[event.key] = revision
        self._newest.put(event.key, revision)
        return self._count(place, 1 if had is None else 0, revision)

    def _count(self, place: Place, step: int, revision: int) -> Place:
        if place.kind in ("entry", "head") and self.environment in (None, place.environment):
            state = self._state(place.scope)
            if step >= 0:
                state.newest = revision
            elif state.newest == revision:
                state.newest = None
            if place.kind == "entry":
                state.keys += step
            elif step:
                state.has_head = step > 0
        return place

    def _touch(self, touches: dict[Scope, Touch], place: Place, record: Record | None) -> None:
        if self.environment not in (None, place.environment):
            return
        touch = touches.setdefault(place.scope, Touch())
        if place.kind == "head":
            touch.head_moved, touch.head = True, record
        else:
            touch.changes[place.name] = record

    # ---- namespaces ---------------------------------------------------------------------------------------------

    def _state(self, scope: Scope) -> ScopeState:
        state = self.scopes.get(scope)
        if state is None:
            state = self.scopes[scope] = ScopeState(scope, self._namespace(scope.namespace))
        return state

    def _namespace(self, name: str) -> Namespace:
        space = self._namespaces.get(name)
        if space is None:
            space = self._namespaces[name] = Namespace(self.epoch(name))
        return space

    def _name_epochs(self, names: Mapping[str, Namespace] | set[str]) -> None:
        for name in names:
            self._namespace(name).epoch = self.epoch(name)

    def _read_schema(self, name: str, record: Record | None) -> None:
        """Take over a schema; one that does not read leaves the defaults as they were, like any entry."""
        space = self._namespace(name)
        revision = record.mod_revision if record else 0
        if record is not None and revision == space.schema_revision:
            return
        space.schema_revision, space.schema_problem = revision, None
        self.schema_problems.pop(name, None)
        try:
            space.defaults = read_defaults(record.value, revision) if record else {}
        except Unreadable as error:
            space.schema_problem = self.schema_problems[name] = Problem(reason=str(error), revision=revision)
