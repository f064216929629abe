"""All feeds of this service and those who follow them: the one owner of the replicated state.

The follower hands in what etcd says (`rebase`, `apply`, `prove`); readers take snapshots and stored bytes (`feed`),
follow a scope (`subscribe`) or wait for a revision (`reached`). Every method that changes state is synchronous, so a
reader never sees half a step. Publishing is a poke without payload: each reader pulls what it lacks since its own
position, which is why a slow one costs no queue and bursts go out in one write. Knows neither etcd nor HTTP.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Literal

import structlog

from configsvc.complaints import Complaints
from configsvc.core.feed import Feed, Update
from configsvc.core.freshness import Freshness, State
from configsvc.core.model import Scope
from configsvc.core.replica import Event, Listed, Record, Relist, Replica
from configsvc.errors import EpochChanged, Unavailable
from configsvc.readers import Reader, Shared
from configsvc_client.protocol import Applying, EventId, Status, format_time

Source = Literal["live", "memory", "disk"]

MAX_ABSENT = 1000
"""How many scopes that do not exist may be followed at a time; each costs a feed."""
DRAIN_RETRY_MS = (1000, 6000)
"""Readers of a draining service come back after a time drawn from this range, so that they do not come all at once."""

log = structlog.get_logger()


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Hub:
    """Feeds by scope, their readers, and how fresh all of it is.

    `live` means that etcd proved the state within two heartbeats; otherwise the state is `stale`, since the last proof.
    `clock` is monotonic, `now` the wall clock for people to read.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        heartbeat_s: float = 5.0,
        max_frames: int = 1000,
        max_bytes: int = 4 * 1024 * 1024,
        max_streams: int = 10_000,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
        on_publish: Callable[[Sequence[Update]], None] = lambda updates: None,
    ) -> None:
        self.replica = replica
        self.freshness = Freshness(heartbeat_s=heartbeat_s, clock=clock, now=now)
        self.feeds: dict[Scope, Feed] = {}
        self.readers: dict[Scope, set[Reader]] = {}
        self.beat = 0
        """Counts heartbeats: a reader owes a status for each that it has not sent yet."""
        self.moves = 0
        """Counts whatever may change an answer: publications, proofs, draining. Age alone does not move it."""
        self.listed = False
        """Whether etcd's own state has been read; until then what is shown, if anything, comes from disk."""
        self.doubt = asyncio.Event()
        """Set while a reader claims a revision that this replica has not seen: the follower asks etcd who is right."""
        self.ahead: set[Reader] = set()
        """Readers of whose position this replica has yet to hear."""
        self.frames_sent: dict[str, int] = {}
        self.on_publish = on_publish
        self._complaints = Complaints(replica)
        self._max_frames, self._max_bytes, self._max_streams = max_frames, max_bytes, max_streams
        self._rng = rng or random.Random()
        self._seen: State = "starting"
        self._disk: dict[Scope, datetime] = {}
        self._held_at: dict[Scope, float] = {}
        self._store: tuple[int, float] = (0, float("-inf"))
        self._waiters: set[asyncio.Future[None]] = set()
        self._shared: Shared = {}
        self._shared_at: tuple[int, int, State, int] = (0, 0, "starting", 0)

    def __repr__(self) -> str:
        return f"<Hub {self.state()} at {self.replica.position}: {len(self.feeds)} feeds, {self.subscribers} readers>"

    # ---- what etcd says -----------------------------------------------------------------------------------------

    def rebase(
        self,
        listed: Listed,
        *,
        windows: Mapping[Scope, Sequence[Record] | None],
        found: Mapping[bytes, Record],
        new_history: bool = False,
    ) -> None:
        """Take over a listing (`Replica.rebase`) and publish the difference. It proves the state as of its revision."""
        updates = self.replica.rebase(listed, windows=windows, found=found, new_history=new_history)
        first, self.listed = not self.listed, True
        self._disk.clear()
        self.confirm()
        self._publish(updates)
        self._complaints.look_at_all()
        if first or new_history:
            self._poke(self.readers)

    def apply(self, revision: int, events: Sequence[Event]) -> None:
        """Apply all events of one revision and publish them; raises `Relist` where a listing is needed first."""
        try:
            updates = self.replica.apply(revision, events)
        except Relist as error:
            self._publish(error.updates)
            raise
        self.confirm()
        self._publish(updates)

    def prove(self, revision: int) -> None:
        """Note that etcd proved: nothing else happened up to `revision`."""
        self.replica.prove(revision)
        self.confirm()
        self._wake_waiters()

    def confirm(self) -> None:
        """Note that etcd, with a quorum, has just confirmed the state as the current one."""
        self.moves += 1
        self.freshness.prove()
        self.look()
        waiting, self.ahead = self.ahead, set()
        for reader in waiting:
            reader.poke()

    def remember(self, updates: Iterable[tuple[Update, datetime]]) -> None:
        """Show scopes as a file has them, each with the time at which it was last proved; before the first `rebase`."""
        for update, proved_time in updates:
            self._disk[update.scope] = proved_time
            self._publish([update])
        self.look()

    def store_at(self, revision: int) -> None:
        """Note which revision the store has by a linearizable read: the answer to `doubt`."""
        self._store = (revision, self.clock())
        self.doubt.clear()
        self._poke(self.readers)

    def _publish(self, updates: Iterable[Update]) -> None:
        self.moves += 1
        updates = list(updates)
        for update in updates:
            feed = self.feeds.get(update.scope)
            if feed is None:
                feed = Feed(update.snapshot, max_frames=self._max_frames, max_bytes=self._max_bytes)
                self.feeds[update.scope] = feed
            feed.publish(update)
            if self.replica.held(update.scope) is None:
                self._held_at.pop(update.scope, None)
            else:
                self._held_at.setdefault(update.scope, self.clock())
            if not update.exists:
                self._release(update.scope)
        self._poke(update.scope for update in updates)
        self._wake_waiters()
        if updates:
            self._complaints.look(update.scope for update in updates)
            self.on_publish(updates)

    def _release(self, scope: Scope) -> None:
        """Forget the feed of a scope that does not exist once nobody follows it."""
        feed = self.feeds.get(scope)
        if feed is not None and not feed.exists and not self.readers.get(scope):
            del self.feeds[scope]
            self.replica.unwant(scope)

    # ---- questions ----------------------------------------------------------------------------------------------

    @property
    def subscribers(self) -> int:
        """How many readers follow a scope now."""
        return sum(map(len, self.readers.values()))

    @property
    def ready(self) -> bool:
        """Whether every followed scope can be read, from etcd or from disk."""
        return (self.listed or bool(self._disk)) and not self.pending()

    def pending(self) -> list[Scope]:
        """Scopes of which nothing may be shown yet: found inside an apply window, and what was before is not known."""
        return [scope for scope, state in self.replica.scopes.items() if state.snapshot is None]

    def feed(self, scope: Scope) -> Feed | None:
        """The feed of a scope that exists and may be shown; None while there is no such scope.

        Raises `Unavailable` (`starting`) while this replica cannot know yet whether there is one.
        """
        if not self.shows(scope):
            raise Unavailable(f"this replica has not read {scope} from etcd yet", code="starting", retry_after_s=1)
        feed = self.feeds.get(scope)
        return feed if feed is not None and feed.exists else None

    def shows(self, scope: Scope) -> bool:
        """Whether this replica can say anything about `scope`."""
        if not self.listed:
            return scope in self._disk
        state = self.replica.scopes.get(scope)
        return state is None or state.snapshot is not None

    def epoch(self, scope: Scope) -> str:
        """The id of the history that readers of `scope` see."""
        feed = self.feeds.get(scope)
        return feed.snapshot.epoch if feed else self.replica.epoch(scope.namespace)

    def proved(self, scope: Scope) -> int:
        """Up to which revision readers of `scope` have seen everything."""
        if not self.listed:
            return self.replica.remembered.get(scope, 0)
        return self.replica.proved(scope)

    @property
    def heartbeat_s(self) -> float:
        """How often readers are sent a sign of life."""
        return self.freshness.heartbeat_s

    @property
    def draining(self) -> bool:
        """Whether readers are being sent away."""
        return self.freshness.draining

    @property
    def proved_time(self) -> datetime | None:
        """When etcd last proved the state, None before it first did."""
        return self.freshness.proved_time

    def state(self) -> State:
        """How fresh this replica is as a whole; what comes from disk is stale."""
        state = self.freshness.state
        return "stale" if state == "starting" and self._disk else state

    def since(self) -> datetime:
        """When the present `state` began."""
        return self.freshness.since

    def source(self, scope: Scope) -> Source:
        """Where an answer about `scope` comes from."""
        if scope in self._disk:
            return "disk"
        return "live" if self.staleness_s(scope) == 0 else "memory"

    def staleness_s(self, scope: Scope | None = None) -> float:
        """How long ago etcd last proved the state, in seconds; 0 while that is within two heartbeats.

        A scope that stands still while a release is being applied ages from the opening of that window.
        """
        if scope in self._disk:
            return self.freshness.since_s(self._disk[scope])
        return self.freshness.staleness_s(self._held_at.get(scope) if scope else None)

    def live_until(self, scope: Scope) -> float:
        """Up to when, by `clock`, `scope` counts as live unless the hub moves before; -inf where it does not now."""
        if scope in self._disk:
            return float("-inf")
        return self.freshness.live_until(self._held_at.get(scope))

    def held_for(self) -> dict[Scope, float]:
        """For how many seconds each scope has stood still because a release is being applied to it."""
        now = self.clock()
        return {scope: now - at for scope, at in self._held_at.items()}

    def status(self, scope: Scope) -> Status:
        """The status of `scope` as its readers are told it."""
        state: str = self.state()
        if state != "draining" and not self.shows(scope):
            state = "starting"
        held = self.replica.held(scope)
        applying = Applying(release=held.release, since=held.since) if held else None
        return Status(
            revision=self.proved(scope) if self.shows(scope) else 0,
            state=state,
            since=format_time(self._disk.get(scope) or self.since()),
            staleness_s=self._told_staleness_s(scope, state),
            applying=applying,
        )

    def _told_staleness_s(self, scope: Scope, state: str) -> float | None:
        # A scope that stands still while a release is applied ages, but its readers have the newest that there is.
        if state in ("live", "starting") or not self.shows(scope):
            return None
        age = self.staleness_s(scope)
        return round(age, 3) if age or state == "stale" else None

    # ---- readers ------------------------------------------------------------------------------------------------

    def subscribe(self, scope: Scope, position: EventId | None) -> Reader:
        """Follow `scope` from `position` on, from a whole snapshot where that is None or of another history.

        A scope that does not exist can be followed too. Raises `Unavailable` (`too_many_streams`) at the limit.
        """
        if self.subscribers >= self._max_streams:
            raise Unavailable("this replica serves as many streams as it may", code="too_many_streams", retry_after_s=5)
        # Before the first listing nobody knows which scopes there are, and a reader costs no feed.
        absent = self.listed and (scope not in self.feeds or not self.feeds[scope].exists)
        if absent and scope not in self.readers and self._absent() >= MAX_ABSENT:
            raise Unavailable(
                "too many scopes that do not exist are followed", code="too_many_streams", retry_after_s=5
            )
        reader = Reader(self, scope, position)
        self.readers.setdefault(scope, set()).add(reader)
        self.ensure(scope)
        return reader

    def ensure(self, scope: Scope) -> None:
        """Make sure that a followed scope has a feed as soon as this replica can say what is in it."""
        if scope not in self.feeds and self.listed and self.shows(scope):
            self._publish([self.replica.want(scope)])

    def unsubscribe(self, reader: Reader) -> None:
        """End a reader; its scope's feed goes with the last one where the scope does not exist."""
        readers = self.readers.get(reader.scope)
        self.ahead.discard(reader)
        if readers is not None:
            readers.discard(reader)
            if not readers:
                del self.readers[reader.scope]
        self._release(reader.scope)

    def shared(self) -> Shared:
        """What readers have pulled since the hub last moved; for `Reader.pull` within this step of the event loop."""
        state = self.state()
        # A status that is not live tells an age, which is another one for a reader that comes later.
        at = (self.moves, self.beat, state, 0 if state == "live" else int(self.clock()))
        if at != self._shared_at:
            self._shared, self._shared_at = {}, at
        return self._shared

    def _absent(self) -> int:
        return sum(scope not in self.feeds or not self.feeds[scope].exists for scope in self.readers)

    async def reached(self, scope: Scope, revision: int, epoch: str | None, wait_s: float) -> None:
        """Wait until readers of `scope` see everything up to `revision`.

        Raises `EpochChanged` where `epoch` is given and is not the scope's, at once unless the first write of the
        namespace is not seen yet: it creates the epoch. Raises `Unavailable` (`revision_not_reached`) after `wait_s`.
        """
        deadline = self.clock() + wait_s
        while True:
            nameless = self.replica.epoch_value(scope.namespace) is None and self.proved(scope) < revision
            is_due = not nameless or self.draining or deadline <= self.clock()
            if self.shows(scope) and is_due and epoch not in (None, current := self.epoch(scope)):
                raise EpochChanged(
                    f"revision {revision} belongs to epoch {epoch}, this replica is at {current}; "
                    "read without min_revision",
                    epoch=current,
                )
            if self.shows(scope) and self.proved(scope) >= revision:
                return
            remaining = deadline - self.clock()
            if remaining <= 0 or self.draining:
                raise Unavailable(
                    f"this replica has not reached revision {revision} within {wait_s:g} s; it is at "
                    f"{self.proved(scope)}",
                    code="revision_not_reached",
                    retry_after_s=1,
                    revision=self.proved(scope),
                )
            await self.moved(remaining)

    async def moved(self, timeout_s: float) -> None:
        """Wait until something was published or proved, for `timeout_s` at most."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    def _wake_waiters(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _poke(self, scopes: Iterable[Scope]) -> None:
        for scope in list(scopes):
            if scope in self.readers:
                self.ensure(scope)
                for reader in self.readers.get(scope, ()):
                    reader.poke()

    # ---- time ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send heartbeats, and tell at once when the state turns stale, for ever."""
        beat_at = self.clock() + self.heartbeat_s
        while True:
            await asyncio.sleep(max(0.0, min(beat_at, self.freshness.stale_at) - self.clock()))
            if self.clock() >= beat_at:
                beat_at = self.clock() + self.heartbeat_s
                self.tick()
            self.look()

    def tick(self) -> None:
        """One heartbeat: every reader owes a status."""
        self.beat += 1
        self._poke(self.readers)

    def look(self) -> None:
        """Tell readers and the log where the state is another one than at the last look."""
        before, self._seen = self._seen, self.state()
        if self._seen == before:
            return
        self._poke(self.readers)
        if (before, self._seen) == ("live", "stale"):
            log.warning("stale: etcd has not proved the data for two heartbeats; serving it all the same")
        elif (before, self._seen) == ("stale", "live"):
            log.info("live again", revision=self.replica.position)

    def drain(self) -> None:
        """Tell every reader to go to another replica; each stream ends by itself after it said so."""
        if not self.draining:
            self.moves += 1
            self.freshness.drain()
            self._poke(self.readers)
            self._wake_waiters()

    def retry_ms(self) -> int:
        """When a reader of a draining service should come back, in milliseconds; jittered."""
        return self._rng.randint(*DRAIN_RETRY_MS)

    def in_doubt(self, position: EventId, since: float) -> bool:
        """Whether the store itself, asked after `since`, is behind `position`: then that is another history's."""
        revision, at = self._store
        if at <= since:
            self.doubt.set()
            return False
        return position.revision > revision

    def clock(self) -> float:
        """The monotonic clock."""
        return self.freshness.clock()
