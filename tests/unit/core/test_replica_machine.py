"""Replicas against the reference, under everything that can happen to a store and to a watch, in random order.

After every step, for every scope: what a replica shows is what the store had at the revision that it calls proved;
the feed's frames lead from any earlier state to this one; equal ETags mean equal bodies, on whichever replica.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.json import encode

from configsvc.core.feed import Feed, Update
from configsvc.core.model import Scope, entry_path, epoch_path, head_path, schema_path
from configsvc.core.replica import Relist, Replica
from configsvc_client.protocol import EventId, decode_delta
from configsvc_client.snapshot import Snapshot
from tests.support.model_etcd import ModelEtcd, entry_bytes, head_bytes, schema_bytes, window

SCOPES = (Scope("a", "prod"), Scope("a", "test"), Scope("b", "prod"))
KEYS = ("x", "y", "z", "default")
WANTED = Scope("a", "absent")

scopes = st.sampled_from(SCOPES)
keys = st.sampled_from(KEYS)
values = st.one_of(st.integers(0, 3).map(entry_bytes), st.none(), st.sampled_from([b"", b"{}", b"\xff", b'{"value":']))
writes = st.lists(st.tuples(scopes, keys, values), min_size=1, max_size=4)


class Copy:
    """A replica with its feeds, as a hub would have them, and the states that its readers had."""

    def __init__(self, etcd: ModelEtcd, *, cold: bool = True) -> None:
        self.etcd = etcd
        self.replica = Replica()
        self.feeds: dict[Scope, Feed] = {}
        self.past: dict[Scope, list[tuple[EventId, Snapshot]]] = {}
        if cold:
            self.relist()

    def take(self, updates: list[Update]) -> None:
        for update in updates:
            if update.pending:
                self.feeds.pop(update.scope, None)
                continue
            feed = self.feeds.setdefault(update.scope, Feed(update.snapshot, max_frames=5))
            before = feed.snapshot
            feed.publish(update)
            if update.delta and not update.baseline and before.revision < update.snapshot.revision:
                assert before.apply(update.delta) == update.snapshot

    def relist(self) -> None:
        self.take(self.etcd.relist(self.replica))

    def deliver(self, most: int) -> None:
        """Take up to `most` revisions of the watch; list where the replica asks for it, or the store has forgotten."""
        if self.replica.position < self.etcd.compacted:
            return self.relist()
        for revision in range(self.replica.position + 1, self.etcd.revision + 1)[:most]:
            try:
                self.take(self.replica.apply(revision, self.etcd.events[revision]))
            except Relist as error:
                self.take(error.updates)  # type: ignore[arg-type]
                self.replica.prove(self.etcd.revision)
                assert self.replica.position < revision
                self.relist()
                break
        return None


class Machine(RuleBasedStateMachine):
    compaction = True

    def __init__(self) -> None:
        super().__init__()
        self.etcd = ModelEtcd()
        self.open: dict[Scope, tuple[str, int, int]] = {}
        self.release = dict.fromkeys(SCOPES, 0)
        self.serial = 0
        self.copies = [Copy(self.etcd)]
        self.copies[0].take([self.copies[0].replica.want(WANTED)])
        self.proved: dict[tuple[int, Scope, str], int] = {}
        self.bodies: dict[tuple[Scope, str], bytes] = {}

    # ---- the store ----------------------------------------------------------------------------------------------

    @rule(writes=writes)
    def write(self, writes: list[tuple[Scope, str, bytes | None]]) -> None:
        self.etcd.txn({entry_path(scope, key): value for scope, key, value in writes})

    @rule(scope=scopes, key=keys, value=values)
    def small_release(self, scope: Scope, key: str, value: bytes | None) -> None:
        if scope not in self.open:
            self.release[scope] += 1
            self.etcd.txn({entry_path(scope, key): value, head_path(scope): head_bytes(self.release[scope])})

    @rule(scope=scopes, value=values)
    def open_window(self, scope: Scope, value: bytes | None) -> None:
        if scope not in self.open:
            self.serial += 1
            id = f"w{self.serial}"
            # Where a hand deleted the head there is no release to name.
            release = self.release[scope] if head_path(scope) in self.etcd.live else 0
            head = head_bytes(release, applying=window(id))
            self.open[scope] = (id, self.etcd.txn({head_path(scope): head}), release)

    @rule(scope=scopes)
    def touch_head(self, scope: Scope) -> None:
        if scope in self.open:
            id, opened, release = self.open[scope]
            head = head_bytes(release, applying=window(id, opened, "verified"))
        else:
            head = head_bytes(self.release[scope])
        self.etcd.txn({head_path(scope): head})

    @rule(scope=scopes, forward=st.booleans())
    def close_window(self, scope: Scope, forward: bool) -> None:
        if self.open.pop(scope, None):
            self.release[scope] += forward
            self.etcd.txn({head_path(scope): head_bytes(self.release[scope])})

    @rule(scope=scopes, head=st.sampled_from([None, b"{", b'{"release":-1}', head_bytes(0)]))
    def damage_head(self, scope: Scope, head: bytes | None) -> None:
        self.etcd.txn({head_path(scope): head})

    @rule(scope=scopes)
    def delete_scope(self, scope: Scope) -> None:
        keys = {key: None for key in self.etcd.live if key.startswith(f"/config/{scope}/".encode())}
        self.etcd.txn(keys)
        self.open.pop(scope, None)

    @rule(
        namespace=st.sampled_from("ab"),
        schema=st.sampled_from([schema_bytes(default=1), schema_bytes(default=2, x=3), schema_bytes(), None, b"?"]),
        also=st.one_of(st.none(), writes),
    )
    def schema(self, namespace: str, schema: bytes | None, also: list[Any] | None) -> None:
        puts = {entry_path(scope, key): value for scope, key, value in also or ()}
        self.etcd.txn({**puts, schema_path(namespace): schema})

    @rule(namespace=st.sampled_from("ab"), also=st.one_of(st.none(), writes))
    def rotate_epoch(self, namespace: str, also: list[Any] | None) -> None:
        self.serial += 1
        puts = {entry_path(scope, key): value for scope, key, value in also or ()}
        self.etcd.txn({**puts, epoch_path(namespace): b"%d" % self.serial})

    @rule(key=st.sampled_from([b"/config/a/prod/_x", b"/config/a/prod/b/c", b"/config/\xff", b"/config/_system/x"]))
    def odd_key(self, key: bytes) -> None:
        self.etcd.txn({key: None if key in self.etcd.live else b"odd"})

    @precondition(lambda self: self.compaction)
    @rule(back=st.integers(0, 8))
    def compact(self, back: int) -> None:
        self.etcd.compacted = max(self.etcd.compacted, self.etcd.revision - back)

    # ---- the replicas -------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 2), most=st.integers(1, 6))
    def deliver(self, which: int, most: int) -> None:
        self.copies[which % len(self.copies)].deliver(most)

    @rule(which=st.integers(0, 2))
    def relist(self, which: int) -> None:
        self.copies[which % len(self.copies)].relist()

    @rule(which=st.integers(0, 2))
    def prove(self, which: int) -> None:
        replica = self.copies[which % len(self.copies)].replica
        if replica.position == self.etcd.revision:
            replica.prove(self.etcd.revision)

    @rule()
    def start_cold(self) -> None:
        fresh = Copy(self.etcd)
        if len(self.copies) < 3:
            self.copies.append(fresh)
        else:
            self.check(3, fresh)
            self.proved = {place: at for place, at in self.proved.items() if place[0] != 3}

    @rule(which=st.integers(0, 2))
    def restart(self, which: int) -> None:
        """A new process that only has files of what the old one showed."""
        which %= len(self.copies)
        old, copy = self.copies[which].replica, Copy(self.etcd, cold=False)
        new = copy.replica
        for scope, state in old.scopes.items():
            if state.exists and state.snapshot and not state.hold:
                update = new.remember(state.snapshot, old.position, state.head, tag=state.tag)
                assert new.epoch(scope.namespace) == state.snapshot.epoch
                assert update.snapshot == state.snapshot
                copy.take([update])
        copy.relist()
        self.copies[which] = copy
        self.proved = {place: at for place, at in self.proved.items() if place[0] != which}

    # ---- what has to hold ---------------------------------------------------------------------------------------

    @invariant()
    def replicas_are_true(self) -> None:
        for index, copy in enumerate(self.copies):
            self.check(index, copy)

    def check(self, index: int, copy: Copy) -> None:
        replica = copy.replica
        if replica.position == self.etcd.revision:
            assert replica.mirror == {key: record.mod_revision for key, record in self.etcd.live.items()}
        assert replica.mirror == {k: r.mod_revision for k, r in self.etcd.states[replica.position].items()}
        for scope in {*SCOPES, *replica.scopes}:
            state = replica.scopes.get(scope)
            if state is None:
                assert not self.etcd.exists(scope, replica.position)
                continue
            proved = replica.proved(scope)
            place = (index, scope, replica.epoch(scope.namespace))
            assert proved >= self.proved.get(place, 0)
            self.proved[place] = proved
            if state.snapshot is None:
                assert state.hold
                continue
            assert state.snapshot.revision <= proved
            assert state.snapshot.epoch == replica.epoch(scope.namespace)
            self.check_shown(scope, replica, proved)
            self.check_feed(scope, copy, proved)

    def check_shown(self, scope: Scope, replica: Replica, proved: int) -> None:
        state = replica.scopes[scope]
        snapshot = state.snapshot
        assert snapshot is not None
        assert (snapshot.release, snapshot.version) in self.etcd.heads(scope, proved)
        allowed = self.etcd.defaults(scope.namespace, proved)
        shown = {key: entry for key, entry in snapshot.entries.items() if key not in state.unreadable}
        # After a compaction a last readable value may be an older one, or none.
        expected = [
            {k: e for k, e in self.etcd.entries(scope, proved, d).items() if k not in state.unreadable} for d in allowed
        ]
        assert shown in expected
        if not self.compaction:
            assert dict(snapshot.entries) in [self.etcd.entries(scope, proved, d) for d in allowed]
        if not state.hold:
            assert state.exists == self.etcd.exists(scope, proved)
            below = [
                r.mod_revision
                for k, r in self.etcd.states[proved].items()
                if k.startswith(f"/config/{scope}/".encode())
            ]
            assert replica.fingerprint(scope) == (max(below, default=0), len(below))

    def check_feed(self, scope: Scope, copy: Copy, proved: int) -> None:
        feed, state = copy.feeds[scope], copy.replica.scopes[scope]
        assert feed.snapshot == state.snapshot
        assert feed.exists == state.exists
        body = feed.body("entries")
        assert self.bodies.setdefault((scope, feed.etag), body) == body
        past = copy.past.setdefault(scope, [])
        for position, snapshot in past:
            frames = feed.since(position)
            if frames is not None:
                for frame in frames:
                    snapshot = snapshot.apply(decode_delta(frame.data))
                assert _plain(snapshot) == _plain(feed.snapshot)
        position = EventId(feed.snapshot.epoch, proved)
        if not past or past[-1][0] != position:
            past.append((position, feed.snapshot))


def _plain(snapshot: Snapshot) -> tuple[Any, ...]:
    """A state whose values are comparable, whether they came over the wire or not."""
    entries = {key: (encode(entry.value), entry.revision, entry.source) for key, entry in snapshot.entries.items()}
    return snapshot.epoch, snapshot.release, snapshot.version, entries


class Uncompacted(Machine):
    compaction = False


TestReplicas = Machine.TestCase
TestReplicas.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, report_multiple_bugs=False)
TestReplicasWithHistory = Uncompacted.TestCase
TestReplicasWithHistory.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, report_multiple_bugs=False
)
