"""The loop that reads etcd: list once, then watch from there, for ever, and notice when something is wrong.

Owns the position's honesty: it moves only on complete events and on what etcd proved; a watch that fell silent is
replaced within two heartbeats; a history that is not the one we followed is told from a member that merely lags.
Decides nothing about scopes (`core/replica.py`) and knows no reader (`hub.py`). Errors of etcd are waited out with
jittered backoff; anything else is a bug and propagates.

The rules are those that etcd's behaviour asks for (docs/architecture.md): start a watch at the position and drop what
is not above it; resume on the next endpoint after any end; list again only after a compaction, a fork, or events that
cannot be applied.
"""

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic

import structlog

from configsvc.core.continuity import Remembered, contradiction, remembered_contradiction
from configsvc.core.model import Scope
from configsvc.core.replica import Listed, Relist, Sorting
from configsvc.epochs import Epochs
from configsvc.etcd.ops import (
    LIST_RESTARTS,
    Compacted,
    Etcd,
    EtcdError,
    Header,
    LeftAlone,
    Member,
    Oversized,
    Range,
    Refused,
    Unavailable,
)
from configsvc.etcd.versions import advice, too_old
from configsvc.history import (
    Fork,
    before_window,
    check_cluster,
    check_not_rolled_back,
    check_remembered,
    last_readable,
    newest_revision,
    record,
    release_of,
)
from configsvc.hub import Hub
from configsvc.store import History, Saved
from configsvc.watching import Habits, Watch

BACKOFF_S = (0.05, 5.0)
"""First and longest wait after a failure; doubled each time, drawn with full jitter, reset once a watch lived 10 s."""
STEADY_S = 10.0
MAX_COMPARED = 20
"""With so many scopes at most, those proved last, a restart asks etcd what they were when their files were written."""
ROTATE_EVERY_S = 30.0
"""Forks found within this time of the last rotation are only told apart by this replica's private salt."""
TELL_EVERY_S = 60.0
"""How often an outage that lasts is repeated in the log."""
LOOK_EVERY_S = 0.1
"""How often at most a service that may write looks for namespaces without an epoch key."""
REFUSALS = {
    "permission denied": "the etcd user may not read {prefix}: grant it a role that may read this prefix",
    "user name is empty": "authentication is on: set ETCD_USER and ETCD_PASSWORD_FILE",
    "authentication failed": "check ETCD_USER and the file of ETCD_PASSWORD_FILE",
}
"""What an operator can do where etcd refuses us, by etcd's words."""

log = structlog.get_logger()


class Follower:
    """Keeps a hub in step with one prefix of etcd. `run` is the loop; the attributes are for health and metrics."""

    def __init__(
        self,
        etcd: Etcd,
        hub: Hub,
        *,
        prefix: bytes,
        epochs: Epochs | None = None,
        keep: Callable[[History], object] = lambda history: None,
        clock: Callable[[], float] = monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.prefix = prefix
        self.relists: Counter[str] = Counter()
        self.reconnects: Counter[str] = Counter()
        self.forks = 0
        self.connected = False
        self.member: Member | None = None
        self.trouble: str | None = None
        """What keeps etcd from being read, in one line; None while a watch is open."""
        self.last_error: str | None = None
        self.versions: dict[str, str] = {}
        """etcd's version by endpoint."""
        self.habits = Habits()
        self._etcd = etcd
        self._hub = hub
        self._replica = hub.replica
        self._epochs = epochs
        self._keep = keep
        self._clock = clock
        self._rng = rng or random.Random()
        self._failures = 0
        self._rotated_at = self._told_at = float("-inf")
        self._remembered: dict[Scope, Remembered] = {}
        self._remembered_cluster = ""
        self._past: History | None = None

    def __repr__(self) -> str:
        return f"<Follower {self.prefix.decode()} at {self._replica.position} on {self.member}>"

    @property
    def progress_interval_s(self) -> float | None:
        """How often etcd proves that an idle watch is complete; None where it was not seen to."""
        return min(self.habits.intervals.values(), default=None)

    def recall(self, saved: Sequence[Saved], past: History | None) -> None:
        """Show what files have until etcd can be read; the first listing then has to follow it. Before `run`.

        `past` is the private history that this replica was in.
        """
        newest = max(saved, key=lambda one: one.proved_at, default=None)
        self._past = past
        self._remembered_cluster = newest.cluster_id if newest else ""
        for one in saved:
            update = self._replica.remember(one.snapshot, one.proved, one.stored_head(), tag=one.tag)
            self._hub.remember([(update, one.proved_at)])
            if one.cluster_id == self._remembered_cluster:
                self._remembered[one.scope] = one.past()

    @property
    def lag(self) -> int:
        """How many revisions the store was ahead of the position when it last said where it is."""
        return max(0, self.habits.store_revision - self._replica.position)

    async def run(self) -> None:
        """Follow etcd for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._settle_doubts())
            if self._epochs is not None:
                tasks.create_task(self._create_epochs(self._epochs))

    async def _follow(self) -> None:
        reason, fork = "start", False
        while True:
            self.relists[reason] += 1
            await self._relist(reason, fork)
            try:
                reason, fork = await self._watch_until_relist(), False
            except Fork as error:
                self.forks += 1
                log.error(
                    "etcd shows another history: a backup was restored, or the store was made anew", why=str(error)
                )
                reason, fork = "fork", True

    # ---- listing ------------------------------------------------------------------------------------------------

    async def _relist(self, reason: str, fork: bool) -> None:
        """List until it works."""
        while True:
            try:
                return await self._list(reason, fork)
            except Fork as error:
                self.forks += 1
                log.error("etcd shows another history than the one remembered", why=str(error))
                fork = True
            except EtcdError as error:
                self._failed("list", error)
                await self._back_off()

    async def _list(self, reason: str, fork: bool) -> None:
        listed = await self._read()
        cluster = self._replica.cluster_id or self._remembered_cluster
        moved = bool(cluster) and listed.cluster_id != cluster
        if self._past and self._past.cluster_id == listed.cluster_id:
            self._replica.begin_history(self._past.salt, self._past.epochs)
        self._past = None
        if moved:
            await check_cluster(self._etcd, self.prefix, cluster)
        elif not fork:
            await self._expect_later(listed)
        if fork and not moved:
            listed = await self._begin_history(listed)
        elif moved or not self._hub.listed:
            # Another cluster has another id, so its epochs are others already.
            listed = await self._complete(listed)
        new_history = fork or moved
        windows, lost = self._replica.needs(listed, new_history=new_history)
        before = {w.scope: await before_window(self._etcd, w, listed.scopes[w.scope]) for w in windows}
        found = {}
        for need in lost:
            if past := await last_readable(self._etcd, need, release_of(listed.scopes[need.scope].head)):
                found[need.path] = past
        self._hub.rebase(listed, windows=before, found=found, new_history=new_history)
        self._remembered = {}
        self.trouble = None
        self.habits.news.set()
        log.info("etcd listed", reason=reason, revision=listed.revision, keys=len(listed.mirror))

    async def _expect_later(self, listed: Listed) -> None:
        """Raise `Fork` where a listing does not follow what was seen, `Unavailable` where only this answer was old."""
        seen = max([self._replica.position, *(past.proved for past in self._remembered.values())])
        if listed.revision < seen and await newest_revision(self._etcd, self.prefix, seen, listed.cluster_id) >= seen:
            raise Unavailable("a listing was older than what was seen before")
        if listed.revision < seen:
            raise Fork(f"the store is at revision {listed.revision}, below {seen}")
        why = remembered_contradiction(listed, self._remembered)
        if self._replica.mirror:
            why = why or contradiction(listed, self._replica.position, self._replica.mirror)
        if why := why or self._replica.altered(listed):
            raise Fork(why)
        for scope in sorted(self._remembered, key=lambda one: self._remembered[one].proved)[-MAX_COMPARED:]:
            await check_remembered(self._etcd, scope, self._remembered[scope])

    async def _read(self) -> Listed:
        for left in reversed(range(LIST_RESTARTS)):
            try:
                return await self._read_pages()
            except Oversized:
                raise
            except Compacted:
                if not left:
                    raise
        raise AssertionError("unreachable")

    async def _read_pages(self) -> Listed:
        """Each page is sorted and decoded in a thread, while etcd makes the next one and this loop serves readers."""
        sorting = Sorting(self._replica.environment, self._replica.shown)
        header: Header | None = None
        working: asyncio.Future[None] | None = None
        try:
            async with contextlib.aclosing(self._etcd.pages(self.prefix)) as pages:
                async for page in pages:
                    header = header or page.header
                    if working is not None:
                        await working
                    working = asyncio.ensure_future(asyncio.to_thread(sorting.add, map(record, page.kvs)))
        finally:
            if working is not None:
                await asyncio.wait([working])
        assert header is not None
        assert working is not None
        working.result()
        return sorting.listed(header.revision, header.cluster_id)

    async def _complete(self, listed: Listed) -> Listed:
        """Before anybody reads: give namespaces their epoch keys, so that readers need not start anew soon after."""
        missing = {scope.namespace for scope in listed.scopes} - listed.epochs.keys()
        if self._epochs is None or not missing:
            return listed
        try:
            await self._epochs.create_epochs(missing)
        except EtcdError as error:
            log.info("epoch keys could not be written before the start", error=str(error))
            return listed
        return await self._read()

    async def _begin_history(self, listed: Listed) -> Listed:
        """Start a new epoch: in etcd where we may write, and by a private salt for whatever did not change there."""
        self._replica.begin_history(secrets.token_hex(8), listed.epochs)
        self._keep(History(cluster_id=listed.cluster_id, salt=self._replica.salt, epochs=dict(listed.epochs)))
        if self._epochs is None or self._clock() - self._rotated_at < ROTATE_EVERY_S:
            return listed
        self._rotated_at = self._clock()
        namespaces = {scope.namespace for scope in listed.scopes} | listed.epochs.keys()
        try:
            await self._epochs.rotate_epochs({name: listed.epochs.get(name, b"") for name in namespaces})
        except EtcdError as error:
            log.warning("the new epochs could not be written; this replica uses one of its own", error=str(error))
            return listed
        return await self._read()

    # ---- watching -----------------------------------------------------------------------------------------------

    async def _watch_until_relist(self) -> str:
        """Watch, from one endpoint to the next, until only a listing helps; returns why it does."""
        while True:
            self.member = self._etcd.next_member(self.member)
            started = self._clock()
            try:
                await self._watch(self.member)
                outcome = "renewed"
            except Relist as error:
                log.info("listing again", reason=str(error))
                # What is impossible after every listing must not keep etcd and readers busy.
                await self._back_off()
                return "impossible_event"
            except Compacted as error:
                log.info("listing again", reason=str(error))
                return "compacted"
            except EtcdError as error:
                outcome = "lost"
                self._failed("watch", error)
            finally:
                self.connected = False
            self.reconnects[outcome] += 1
            if outcome == "lost":
                self.versions.pop(self.member.url, None)
            if self._clock() - started >= STEADY_S:
                self._failures = 0
            if outcome == "lost":
                await self._back_off()

    async def _watch(self, member: Member) -> None:
        """One watch on one member, from the position; returns when it has had its time."""
        await self._identify(member)
        start, mirror = self._replica.position, self._replica.identity()
        async with self._etcd.watch(self.prefix, start, member=member) as batches:
            created = await anext(batches)
            cluster = self._replica.cluster_id
            if created.header.cluster_id != cluster:
                await check_cluster(self._etcd, self.prefix, cluster)
                raise Relist("the cluster is another one")
            if created.header.revision < start:
                await check_not_rolled_back(self._etcd, self.prefix, member, start, cluster)
            self.connected, self.trouble = True, None
            log.info("watching etcd", endpoint=member.url, revision=start)
            args = (self._etcd, self._hub, self.prefix, member, batches, self.habits)
            async with Watch(*args, clock=self._clock, rng=self._rng) as watch:
                await watch.run(start, mirror)

    async def _identify(self, member: Member) -> None:
        """Learn which etcd this is, and say what an operator should know. Raises `Unavailable` for a too old one."""
        if member.url not in self.versions:
            status = await self._etcd.status(member=member)
            self.versions[member.url] = status.version
            if line := advice(status.version):
                log.warning(line, endpoint=member.url)
        if too_old(self.versions[member.url]):
            version = self.versions.pop(member.url)
            raise Unavailable(advice(version) or version, endpoint=member.url)

    def _failed(self, what: str, error: EtcdError) -> None:
        """Note a failure. The first of a row is news, and then one now and then."""
        now = self._clock()
        if self.trouble is None or now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            log.warning(f"etcd {what} failed, trying on", error=self._explained(error), kind=type(error).__name__)
        if self.trouble is None or not isinstance(error, LeftAlone):
            # That an endpoint is left alone is a consequence; people need the cause.
            self.trouble = self.last_error = self._explained(error)

    def _explained(self, error: EtcdError) -> str:
        """etcd's words, and where it refused us what would help."""
        if isinstance(error, Refused):
            for words, help_ in REFUSALS.items():
                if words in error.detail:
                    return f"{error}; {help_.format(prefix=self.prefix.decode())}"
        return str(error)

    async def _back_off(self) -> None:
        first, longest = BACKOFF_S
        # Half a heartbeat: one endpoint after another may fail us, and readers are back within two all the same.
        ceiling = min(longest, first * 2 ** min(self._failures, 20), self._hub.heartbeat_s / 2)
        self._failures += 1
        await asyncio.sleep(self._rng.uniform(0, ceiling))

    # ---- beside the loop ----------------------------------------------------------------------------------------

    async def _settle_doubts(self) -> None:
        """When a reader claims more than this replica has seen, ask the store how far it is."""
        while True:
            await self._hub.doubt.wait()
            try:
                result = await self._etcd.range(Range(key=self.prefix, limit=1, keys_only=True))
                if result.header.cluster_id == self._replica.cluster_id:
                    self._hub.store_at(result.header.revision)
            except EtcdError as error:
                log.info("a reader is ahead of this replica and etcd cannot be asked", error=str(error))
            await asyncio.sleep(min(1.0, self._hub.heartbeat_s / 2))

    async def _create_epochs(self, epochs: Epochs) -> None:
        """Give namespaces an epoch key on first sight, and finish rotations that others began."""
        begun = True
        while True:
            await self.habits.news.wait()
            self.habits.news.clear()
            try:
                if begun:
                    await epochs.finish()
                    begun = False
                await epochs.create_epochs(self._without_epoch())
            except Refused as error:
                log.warning("etcd lets this service write no epoch keys; it goes on without", error=str(error))
                return
            except EtcdError as error:
                log.warning("epoch keys could not be written", error=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    def _without_epoch(self) -> set[str]:
        return {name for name in self._replica.namespaces if self._replica.epoch_value(name) is None}
