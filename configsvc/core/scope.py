"""One scope's state: what its readers see, and what each revision and each listing makes of it.

A scope is either *settled*, and then readers see etcd's state at the replica's position, or *held*: a release is being
applied to it, and readers see what was before the opening until the window closes. What happens meanwhile is kept as
an overlay. Pure; knows nothing of other scopes, and of its namespace only what is in `Namespace`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from configsvc.core.feed import Update
from configsvc.core.model import Applying, Head, Scope, Unreadable, locate
from configsvc.core.records import ListedScope, Problem, Record, opening, read_entry, read_head
from configsvc.core.schema import read_defaults
from configsvc_client.protocol import Delta, Entry
from configsvc_client.snapshot import Snapshot

OVERLAY_BYTES = 64 * 1024 * 1024
"""How much of an open window's content is kept in memory; beyond it the scope is read again at the close."""
_OVERHEAD_BYTES = 256
"""What a key costs beside its value, so that many deletions have a bound too."""

Steps = tuple[Record | None, ...]
"""What became of a key, newest last; None is a deletion. Never empty."""


class Relist(Exception):
    """The events cannot be applied to what is known: list again. The text says why.

    `updates` are those of the scopes to which they could be applied; they are true and have to be published.
    """

    def __init__(self, reason: str, updates: Sequence[Update] = ()) -> None:
        super().__init__(reason)
        self.updates = updates


@dataclass(slots=True)
class Namespace:
    """What the scopes of one namespace share: the id of its history, and the defaults of its schema."""

    epoch: str
    defaults: Mapping[str, Entry] = field(default_factory=dict)
    schema_revision: int = 0
    schema_problem: Problem | None = None


@dataclass(slots=True)
class Touch:
    """What one revision did to one scope. `head` None with `head_moved` is a deletion."""

    changes: dict[str, Record | None] = field(default_factory=dict)
    head_moved: bool = False
    head: Record | None = None
    schema_moved: bool = False


@dataclass(slots=True)
class Hold:
    """A scope that stands still because a release is being applied to it.

    `frozen` is the revision up to which its readers have seen everything: the one before the opening, or older where
    only memory or a file had it. `release` is the one that is being applied, `since` when its writer began.
    """

    id: str
    frozen: int
    release: int
    since: str
    overlay: dict[str, Steps] = field(default_factory=dict)
    overlay_bytes: int = 0

    @property
    def overflowed(self) -> bool:
        """Whether more happened than is kept; the overlay is empty then."""
        return self.overlay_bytes > OVERLAY_BYTES

    def add(self, changes: Mapping[str, Record | None]) -> None:
        """Keep the newest record per key and, where that one does not read, what was before it."""
        for key, record in changes.items():
            before = self.overlay.get(key)
            if before is None or record is None or _readable(record):
                self._put(key, (record,))
            else:
                self._put(key, (before[0], record))

    def rebuild(self, changes: Mapping[str, Steps]) -> None:
        """Start over with what a listing says has happened."""
        self.overlay, self.overlay_bytes = {}, 0
        for key, steps in changes.items():
            self._put(key, steps)

    def _put(self, key: str, steps: Steps) -> None:
        if not self.overflowed:
            self.overlay_bytes += _size(steps) - _size(self.overlay.get(key, ()))
            self.overlay[key] = steps
            if self.overlay_bytes > OVERLAY_BYTES:
                self.overlay = {}


def _size(steps: Steps) -> int:
    return sum(_OVERHEAD_BYTES + (len(record.value) if record else 0) for record in steps)


def _readable(record: Record) -> bool:
    try:
        read_entry(record)
    except Unreadable:
        return False
    return True


@dataclass(slots=True)
class ScopeState:
    """What is known of one scope. `snapshot` is what readers see, None while nothing may be shown yet.

    `exists` tells whether that is a scope at all (a key, or a release); `keys` and `has_head` what etcd has now,
    readable or not. An unreadable entry shows its last readable value. `rebuilt` marks a snapshot that is not what
    every replica has at its revision.
    """

    scope: Scope
    space: Namespace
    snapshot: Snapshot | None = None
    exists: bool = False
    head: Head | None = None
    head_problem: Problem | None = None
    unreadable: dict[str, Problem] = field(default_factory=dict)
    hold: Hold | None = None
    rebuilt: bool = False
    keys: int = 0
    has_head: bool = False
    newest: int | None = 0
    """The newest revision of a key or the head that etcd has now; None while that has to be looked for."""

    @property
    def stored(self) -> bool:
        """Whether etcd has anything of the scope."""
        return self.keys > 0 or self.has_head

    @property
    def shown(self) -> Mapping[str, Entry]:
        """The entries that readers see."""
        return self.snapshot.entries if self.snapshot else {}

    @property
    def tag(self) -> bool:
        """Whether another replica, with another memory, may show another body at the same revision."""
        problems = self.unreadable or self.head_problem or self.space.schema_problem
        return bool(problems) or self.rebuilt

    def continues(self, window: Applying) -> bool:
        """Whether `window` is the one during which this scope already stands still."""
        return self.snapshot is not None and self.hold is not None and self.hold.id == window.id

    # ---- what readers get ---------------------------------------------------------------------------------------

    def update(self, *, delta: Delta | None = None, baseline: bool = False) -> Update:
        """The state as the feed gets it; a baseline that is `pending` while nothing may be shown."""
        if self.snapshot is None:
            empty = Snapshot(namespace=self.scope.namespace, environment=self.scope.environment, epoch=self.space.epoch)
            return Update(scope=self.scope, snapshot=empty, baseline=True, pending=True)
        return Update(
            scope=self.scope,
            snapshot=self.snapshot,
            delta=delta,
            baseline=baseline,
            exists=self.exists,
            tag=self.tag,
        )

    def begin(self, entries: Mapping[str, Entry], revision: int) -> Update:
        """Show `entries` as another story than what was shown before, if anything was."""
        self.snapshot = Snapshot(
            namespace=self.scope.namespace,
            environment=self.scope.environment,
            epoch=self.space.epoch,
            revision=revision,
            release=self.head.shown_release if self.head else None,
            version=self.head.shown_version if self.head else None,
            entries=entries,
        )
        return self.update(baseline=True)

    def follow_epoch(self) -> bool:
        """Move the same state into the namespace's present epoch; whether that was another."""
        if self.snapshot is None or self.snapshot.epoch == self.space.epoch:
            return False
        self.snapshot = msgspec.structs.replace(self.snapshot, epoch=self.space.epoch)
        return True

    def _step(self, changed: dict[str, Entry], deleted: list[str], revision: int, *, force: bool = False) -> Update:
        """Publish a change where readers can see one (a touched head alone is none), or where `force` says so."""
        old = self.snapshot
        assert old is not None
        release = self.head.shown_release if self.head else None
        version = self.head.shown_version if self.head else None
        same = not (force or changed or deleted or (old.release, old.version) != (release, version))
        # Nothing can be told anew of a revision that readers have, not even a value found only now.
        if same or revision <= old.revision:
            return self.update()
        delta = Delta(revision=revision, release=release, version=version, set=changed, deleted=deleted)
        self.snapshot = old.apply(delta)
        return self.update(delta=delta)

    def _set_head(self, head: Head | None, problem: Problem | None) -> None:
        """A head that does not read keeps the last one that did, like any entry."""
        self.head_problem = problem
        if problem is None:
            self.head = head

    def _settle(self) -> None:
        """Note what the scope is, now that it does not stand still. Release 0 is a head that was only touched."""
        released = self.head_problem is not None or (self.head is not None and self.head.release > 0)
        self.exists = self.keys > 0 or (self.has_head and released)

    # ---- events -------------------------------------------------------------------------------------------------

    def take(self, touch: Touch, revision: int) -> Update | None:
        """Apply all that one revision did; None where readers see nothing of it. Raises `Relist`."""
        head, problem = read_head(touch.head)
        if self.hold:
            self.hold.add(touch.changes)
            return self._take_held(self.hold, touch, head, problem, revision)
        if head and head.applying:
            return self._open(head, head.applying, touch, revision)
        if touch.head_moved:
            self._set_head(head, problem)
        self._settle()
        changes = {key: (record,) for key, record in touch.changes.items()}
        return self._change(changes, revision, anew=touch.schema_moved, force=touch.schema_moved)

    def _take_held(
        self, hold: Hold, touch: Touch, head: Head | None, problem: Problem | None, revision: int
    ) -> Update | None:
        if head is None and self.stored:
            # Deleted or garbled by hand, or not touched at all: only a head can end the window.
            if touch.head_moved:
                self.head_problem = problem
            return None
        if head and head.applying:
            if head.applying.id != hold.id:
                raise Relist(f"{self.scope} went from one apply window into another without a close")
            self.head_problem = None
            return None
        if hold.overflowed or self.snapshot is None:
            raise Relist(f"the apply window of {self.scope} held more than is kept in memory")
        self.hold, self.rebuilt = None, False
        self._set_head(head, None)
        self._settle()
        return self._change(hold.overlay, revision, anew=True)

    def _open(self, head: Head, window: Applying, touch: Touch, revision: int) -> Update:
        if window.opened_revision not in (None, revision):
            raise Relist(f"{self.scope} is in an apply window whose opening was not seen")
        self.hold = Hold(window.id, revision - 1, head.next_release, window.since)
        self.hold.add(touch.changes)
        if self.snapshot is None:
            return self.begin(dict(self.space.defaults), revision - 1)
        return self.update()

    def _change(
        self, changes: Mapping[str, Steps], revision: int, *, anew: bool = False, force: bool = False
    ) -> Update:
        """Apply what became of each key; with `anew` every default is looked at, not only those of these keys."""
        changed: dict[str, Entry] = {}
        gone: set[str] = set()
        for key, steps in changes.items():
            self._change_key(key, steps, changed, gone)
        if self.snapshot is None:
            return self.begin({**self.space.defaults, **changed}, revision)
        shown, defaults = self.shown, self.space.defaults
        for key in defaults if anew else gone & defaults.keys():
            stored = key in changed or (key in shown and shown[key].source == "stored" and key not in gone)
            if not stored and shown.get(key) != defaults[key]:
                changed[key] = defaults[key]
        if anew:
            gone.update(key for key, entry in shown.items() if entry.source == "schema")
        deleted = sorted(key for key in gone if key in shown and key not in changed and key not in defaults)
        return self._step(changed, deleted, revision, force=force)

    def _change_key(self, key: str, steps: Steps, changed: dict[str, Entry], gone: set[str]) -> None:
        """Find the newest step that reads. A key with none keeps what is shown."""
        self.unreadable.pop(key, None)
        for record in reversed(steps):
            if record is None:
                gone.add(key)
                return
            try:
                entry = read_entry(record)
            except Unreadable as error:
                problem = Problem(reason=str(error), revision=record.mod_revision)
                self.unreadable.setdefault(key, problem)
                continue
            if self.shown.get(key) != entry:
                changed[key] = entry
            return

    # ---- listings -----------------------------------------------------------------------------------------------

    def lost(self, seen: ListedScope) -> list[str]:
        """The unreadable keys of a listing whose last readable value may be newer than what memory has."""
        seen.read(self.shown)
        return [
            key
            for key, problem in seen.problems.items()
            if seen.records[key].create_revision != problem.revision
            and not (_stored(self.shown.get(key)) and self.unreadable.get(key) == problem)
        ]

    def rebase(
        self,
        seen: ListedScope,
        before: Sequence[Record] | None,
        found: Mapping[bytes, Record],
        *,
        revision: int,
        proved: int,
    ) -> Update | None:
        """Take over what a listing at `revision` has; None where nothing is different for readers.

        `proved` is up to where readers of the settled scope have seen everything. `before` is the scope as it was
        before the opening of a window that is not held yet, None where that is not known; a key that comes twice is as
        its newer record has it, and was last readable as in the older.
        """
        was = (self.tag, self.exists, self.hold is None)
        self.keys, self.has_head = len(seen.records), seen.head is not None
        listed = [*seen.records.values(), *([seen.head] if seen.head else [])]
        self.newest = max((record.mod_revision for record in listed), default=0)
        head, problem = read_head(seen.head)
        if head and head.applying and not self.continues(head.applying):
            update = self._start_held(head, head.applying, seen, before, found, proved)
        elif self.hold and self.stored and (head is None or head.applying):
            self.hold.rebuild(self._since_opening(seen, found))
            self.head_problem = problem
            update = self.update(baseline=self.follow_epoch())
        else:
            self.hold, self.rebuilt = None, False
            self._set_head(head, problem)
            self._settle()
            update = self._replace(seen, found, revision, self.space.defaults)
        same = was == (self.tag, self.exists, self.hold is None)
        return None if same and update.delta is None and not update.baseline else update

    def _start_held(
        self,
        head: Head,
        window: Applying,
        seen: ListedScope,
        before: Sequence[Record] | None,
        found: Mapping[bytes, Record],
        proved: int,
    ) -> Update:
        """Start inside an open window: show the scope as it was before the opening, as far as that can be known."""
        assert seen.head is not None
        frozen = opening(seen.head, window.opened_revision) - 1
        known = self.hold.frozen if self.hold else proved
        update = None
        same_history = self.snapshot is not None and self.snapshot.epoch == self.space.epoch
        if before is None or (same_history and known >= frozen):
            frozen = known
        else:
            past, earlier = _past(before)
            self.rebuilt = True
            # The head inside the window names the release before it too.
            before_head, damaged = read_head(past.head)
            self._set_head(before_head or head, None)
            self.exists = bool(past.records or damaged) or (before_head or head).release > 0
            update = self._replace(past, earlier, frozen, self._defaults_at(before, frozen))
        self.hold = Hold(window.id, frozen, head.next_release, window.since)
        self.hold.rebuild(self._since_opening(seen, found))
        return update or self.update(baseline=self.follow_epoch())

    def _defaults_at(self, before: Sequence[Record], revision: int) -> Mapping[str, Entry]:
        """The schema's defaults at a past revision: from its record, else today's if that is older, else none."""
        for record in before:
            if locate(record.key).kind == "schema":
                try:
                    return read_defaults(record.value, record.mod_revision)
                except Unreadable:
                    break
        return self.space.defaults if self.space.schema_revision <= revision else {}

    def _since_opening(self, seen: ListedScope, found: Mapping[bytes, Record]) -> dict[str, Steps]:
        """What the close will have to bring: every listed key that is not what readers see, and what is gone."""
        shown = self.shown
        seen.read(shown)
        changes: dict[str, Steps] = {}
        for key, record in seen.records.items():
            problem = seen.problems.get(key)
            if problem is None:
                if shown.get(key) != seen.entries[key]:
                    changes[key] = (record,)
            elif self.unreadable.get(key) != problem:
                earlier = found.get(record.key)
                if earlier is None and _stored(shown.get(key)) and shown[key].revision < record.create_revision:
                    changes[key] = (None, record)
                else:
                    changes[key] = (earlier, record) if earlier else (record,)
        known = self.unreadable.keys() | {key for key, entry in shown.items() if entry.source == "stored"}
        changes.update((key, (None,)) for key in known - seen.records.keys())
        return changes

    def _replace(
        self, seen: ListedScope, found: Mapping[bytes, Record], revision: int, defaults: Mapping[str, Entry]
    ) -> Update:
        """Make the scope's state from all of its records; a delta where there was a state, else a baseline."""
        shown = self.shown
        seen.read(shown)
        entries = dict(seen.entries)
        self.unreadable = dict(seen.problems)
        for key in seen.problems:
            if last := _last_readable(shown.get(key), seen.records[key], found, revision):
                entries[key] = last
        for key, default in defaults.items():
            entries.setdefault(key, default)
        if self.snapshot is None or self.snapshot.epoch != self.space.epoch:
            return self.begin(entries, revision)
        changed = {key: entry for key, entry in entries.items() if shown.get(key) != entry}
        return self._step(changed, sorted(shown.keys() - entries.keys()), revision)


def _past(before: Sequence[Record]) -> tuple[ListedScope, dict[bytes, Record]]:
    """A scope as it was, and an older record by path where a key comes twice."""
    past, earlier = ListedScope(), {}
    for record in sorted(before, key=lambda record: record.mod_revision):
        place = locate(record.key)
        if place.kind == "head":
            past.head = record
        elif place.kind == "entry":
            if place.name in past.records:
                earlier[record.key] = past.records[place.name]
            past.records[place.name] = record
    return past, earlier


def _stored(entry: Entry | None) -> bool:
    return entry is not None and entry.source == "stored"


def _last_readable(
    remembered: Entry | None, record: Record, found: Mapping[bytes, Record], revision: int
) -> Entry | None:
    """What an unreadable record last was: found in history, else in memory, but nothing from before it was created."""
    earlier = found.get(record.key)
    if earlier is not None and record.create_revision <= earlier.mod_revision <= revision and _readable(earlier):
        return read_entry(earlier)
    if remembered is not None and remembered.source == "stored" and record.create_revision <= remembered.revision:
        return remembered
    return None
