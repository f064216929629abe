"""One open watch on one member of etcd: its batches become changes of the hub, and its silence is noticed.

Owns nothing that outlives the watch, except what it learns of the member (`Habits`). The position is the hub's: it
moves on complete events above it and on progress; never by `created`, nor by the header of an event response.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from time import monotonic

import structlog

from configsvc.core.records import FINGERPRINT_KEYS, Event, Fingerprint
from configsvc.etcd.ops import (
    CANCELED,
    EVENTS,
    PROGRESS,
    Compacted,
    Etcd,
    EtcdError,
    Member,
    Unavailable,
    WatchBatch,
    WatchEvent,
    fingerprint,
)
from configsvc.history import Known, Unfit, check_history, check_not_rolled_back, identity, record
from configsvc.hub import Hub

MAX_WATCH_S = (300.0, 600.0)
"""A watch is replaced after a time drawn from this range, however well it seems."""
RECHECK_S = (300.0, 900.0)
"""How often the prefix's fingerprint is compared on a healthy watch."""
GRACE_S = 1.0
"""How long events that a probe has seen in etcd may be on their way before the watch is taken for dead."""
PROBE_S = 2.0
PROBES_UNTIL_WARNING = 4
"""The first is at the opening, and the first notice may take two intervals; three silent heartbeats are enough."""

MIN_INTERVAL_S = 0.05
"""Notices closer to each other than this, half of etcd's shortest interval, were waiting for us."""
LATE_S = 0.1
"""A wait that ends later than asked for by this much means that this process stood still."""

log = structlog.get_logger()


class Habits:
    """What was observed of the members: how often each sends progress, and how far the store was."""

    def __init__(self) -> None:
        self.intervals: dict[str, float] = {}
        """The interval of progress notices by endpoint."""
        self.store_revision = 0
        """The store's revision when it last said so."""
        self.news = asyncio.Event()
        """Set by every batch with events, for those who look after what is new."""
        self._gaps: dict[str, deque[float]] = {}
        self._warned = False

    def heard_progress(self, member: Member, gap_s: float, *, idle: bool) -> None:
        """Learn from the time between a notice and the word before it; `idle` where that was a notice too."""
        gaps = self._gaps.setdefault(member.url, deque(maxlen=3))
        # After anything but a notice the next one takes up to two intervals: better than nothing to go by, at first.
        if gap_s >= MIN_INTERVAL_S and (idle or not gaps):
            gaps.append(gap_s)
            # The longest of a few: when we are late for one notice, the next one seems early.
            self.intervals[member.url] = max(gaps)

    def forget(self, member: Member) -> None:
        """Expect no notices: the member may have come back with other flags."""
        self._gaps.pop(member.url, None)
        self.intervals.pop(member.url, None)

    def warn_once(self) -> None:
        """Say once that etcd sends no progress notices."""
        if not self._warned:
            self._warned = True
            log.warning(
                "etcd sends no progress notices; probing instead. Set its watch progress notify interval to 1 to 5 s",
                see="docs/howto/run-against-etcd.md",
            )


class Watch:
    """Takes the batches of one watch until it ends. `run` raises what ends it; a context manager ends what it began."""

    def __init__(
        self,
        etcd: Etcd,
        hub: Hub,
        prefix: bytes,
        member: Member,
        batches: AsyncIterator[WatchBatch],
        habits: Habits,
        *,
        clock: Callable[[], float] = monotonic,
        rng: random.Random,
    ) -> None:
        self._etcd, self._hub, self._prefix, self._member = etcd, hub, prefix, member
        self._batches, self._habits = batches, habits
        self._clock, self._rng = clock, rng
        self._heard = self._asked = clock()
        self._idle = False
        """Whether the last word was a progress notice."""
        self._forgiven = False
        """Whether the present silence was counted anew already, because we stood still ourselves."""
        self._probes = 0
        self._proof = 0
        """The revision that the last probe proved, where the watch has said nothing since."""
        self._next: asyncio.Task[WatchBatch] | None = None
        self._check: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[int | None] | None = None

    async def __aenter__(self) -> "Watch":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        tasks = [task for task in (self._next, self._check, self._probe) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self, start: int, mirror: Fingerprint) -> None:
        """Take batches; returns once the watch has had its time. `mirror` is the fingerprint that we have at `start`.

        Raises `Relist` and `Compacted` where a listing is needed, `Fork` where history is another, `Unavailable` where
        the watch has to go on elsewhere.
        """
        ends = self._clock() + self._rng.uniform(*MAX_WATCH_S)
        recheck = self._clock() + self._rng.uniform(*RECHECK_S)
        # Nothing that this watch says counts before it is known to be of our history.
        self._check = asyncio.create_task(self._check_history(start, mirror))
        await asyncio.wait({self._check})
        check, self._check = self._check, None
        self._judge(check)
        self._heard = self._clock()
        self._probe = asyncio.create_task(self._greet())
        while (now := self._clock()) < ends:
            if self._check is None and now >= recheck:
                recheck = now + self._rng.uniform(*RECHECK_S)
                self._check = asyncio.create_task(self._recheck())
            if self._next is None:
                self._next = asyncio.create_task(self._read())
            await self._wait(min(ends, recheck if self._check is None else ends) - now)
            if self._check is not None and self._check.done():
                check, self._check = self._check, None
                self._judge(check)
            if self._next.done():
                read, self._next = self._next, None
                self.take(read.result())
            if self._probe is not None and self._probe.done():
                probe, self._probe = self._probe, None
                self._believe(probe.result())
            if self._probe is None and self._silent_for() >= self._limit_s():
                self._silence()

    async def _wait(self, timeout_s: float) -> None:
        tasks = [task for task in (self._next, self._check, self._probe) if task is not None]
        if self._probe is None:
            timeout_s = min(timeout_s, self._limit_s() - self._silent_for())
        due = self._clock() + max(0.0, timeout_s)
        await asyncio.wait(tasks, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED)
        if not self._forgiven and self._clock() - due > LATE_S:
            # What was sent meanwhile is yet to be read.
            self._forgiven, self._asked = True, self._clock()

    async def _read(self) -> WatchBatch:
        try:
            return await anext(self._batches)
        except StopAsyncIteration:
            raise Unavailable("the watch ended", endpoint=self._member.url) from None

    def take(self, batch: WatchBatch) -> None:
        """Apply one batch; raises `Relist`, `Compacted` or `Unavailable` where it ends the watch."""
        position = self._hub.replica.position
        if batch.kind == PROGRESS:
            self._habits.heard_progress(self._member, self._clock() - self._heard, idle=self._idle)
            # A member that lags says so at its own, older revision: true, but no news.
            if batch.header.revision >= position:
                self._hub.prove(batch.header.revision)
        elif batch.kind == EVENTS:
            for revision, events in by_revision(batch.events):
                if revision > position:
                    self._hub.apply(revision, events)
            self._habits.news.set()
        elif batch.kind == CANCELED:
            if batch.compact_revision > position:
                raise Compacted(f"compacted at {batch.compact_revision}")
            raise Unavailable(batch.reason or "the start of the watch was compacted", endpoint=self._member.url)
        self._heard = self._clock()
        self._idle, self._forgiven = batch.kind == PROGRESS, False
        self._proof = 0
        self._habits.store_revision = max(batch.header.revision, self._hub.replica.position)

    # ---- history ------------------------------------------------------------------------------------------------

    def _judge(self, check: asyncio.Task[None]) -> None:
        """A check that could not be made is no reason to leave a watch; one that was made counts."""
        try:
            check.result()
        except (Compacted, Unfit):
            raise
        except EtcdError as error:
            log.info("the history could not be checked", error=str(error))

    async def _recheck(self) -> None:
        replica = self._hub.replica
        for _ in range(3):
            with contextlib.suppress(Compacted):
                revision, mirror = replica.position, replica.identity()
                await self._check_history(revision, mirror)
                return

    async def _check_history(self, revision: int, mirror: Fingerprint) -> None:
        replica = self._hub.replica
        known = Known(revision, mirror, replica.witness(), replica.cluster_id)
        await check_history(self._etcd, self._prefix, self._member, known)

    # ---- silence ------------------------------------------------------------------------------------------------

    def _silent_for(self) -> float:
        return self._clock() - max(self._heard, self._asked)

    def _progress_s(self) -> float | None:
        """The interval of this member's progress notices, where they come often enough to judge silence by."""
        interval = self._habits.intervals.get(self._member.url)
        return interval if interval is not None and interval * 1.25 < 1.5 * self._hub.heartbeat_s else None

    def _limit_s(self) -> float:
        """After how long without a word this watch is given up or, where etcd may stay silent, probed."""
        interval = self._progress_s()
        if interval is None:
            return self._hub.heartbeat_s
        return min(max(3 * interval, 0.5), 1.5 * self._hub.heartbeat_s)

    def _silence(self) -> None:
        if self._progress_s() is not None:
            self._habits.forget(self._member)
            raise Unavailable("the watch fell silent", endpoint=self._member.url)
        self._probe = asyncio.create_task(self._ask())

    async def _greet(self) -> int | None:
        """A first probe, so that a state that is right need not wait for the first notice to be called so."""
        try:
            return await self._ask()
        except EtcdError as error:
            # No reason to leave: the watch may be busy with a backlog, or an election under way.
            log.debug("nothing is proved yet", error=str(error))
            return None

    async def _ask(self) -> int:
        """Ask the watched member whether we have everything; returns the revision for which that holds, else 0.

        A linearizable fingerprint: it proves the cluster, not just the member. Raises `EtcdError` or `Fork`.
        """
        replica = self._hub.replica
        deadline_s = min(PROBE_S, self._hub.heartbeat_s / 2)
        seen = await self._etcd.range(
            fingerprint(self._prefix, limit=FINGERPRINT_KEYS), member=self._member, timeout_s=deadline_s
        )
        if seen.header.revision < replica.position:
            await check_not_rolled_back(self._etcd, self._prefix, self._member, replica.position, replica.cluster_id)
        deadline = self._clock() + GRACE_S
        while identity(seen) != replica.identity():
            if replica.position > seen.header.revision:
                # What came meanwhile is newer than what was asked for: the watch delivers.
                return 0
            if self._clock() >= deadline:
                raise Unavailable("the watch does not deliver what etcd has", endpoint=self._member.url)
            await asyncio.sleep(GRACE_S / 20)
        self._hub.confirm()
        return seen.header.revision

    def _believe(self, revision: int | None) -> None:
        if revision is None:
            # No answer is no word: silence goes on from where it began.
            return
        self._asked = self._clock()
        self._probes += 1
        if self._probes == PROBES_UNTIL_WARNING and self._member.url not in self._habits.intervals:
            self._habits.warn_once()
        if self._proof and revision:
            # Proved one probe ago: whatever the watch had to deliver up to there has had a heartbeat to arrive.
            self._hub.prove(self._proof)
        self._proof = revision


def by_revision(events: Iterable[WatchEvent]) -> Iterable[tuple[int, list[Event]]]:
    """Group a batch by revision, oldest first, each in etcd's order."""
    groups: dict[int, list[Event]] = {}
    for event in events:
        taken = Event(key=event.key, record=record(event.kv) if event.kv else None)
        groups.setdefault(event.mod_revision, []).append(taken)
    return sorted(groups.items())
