"""Apply windows: a release larger than one transaction, applied under a fence, by whoever is there to finish it.

The head says that a window is open, and its `mod_revision` is the fence that every write inside compares: whoever moves
the head has the window, and nothing of the writer before can land any more. All that the window has to write is staged
before it opens. A key next to it, on a lease, says that its writer lives. Rules: the release protocol, section 3.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import structlog

from configsvc.core.commands import View
from configsvc.core.draft import names
from configsvc.core.model import (
    RECEIPTS,
    Applying,
    Head,
    Scope,
    decode_head,
    encode_head,
    entry_path,
    epoch_path,
    head_path,
    locate,
)
from configsvc.core.plan import Plan
from configsvc.core.release import DEPLOYING, Manifest, Written, encode_record, entries_of
from configsvc.errors import OutcomeUnknown
from configsvc.etcd import limits
from configsvc.etcd.ops import (
    Compare,
    Delete,
    EtcdError,
    Invalid,
    KeyValue,
    NoSpace,
    NotFound,
    Put,
    Range,
    Txn,
    prefix_end,
)
from configsvc.writes import txns
from configsvc.writes.applying import RETRY_S, Applier, Job, Moved, Ticket, beside
from configsvc.writes.reading import decoded
from configsvc.writes.threads import off_loop, weight

LEASE_S = 10
"""How long a window stays its writer's after that was last heard of."""
RENEW_S = 3.0
PAGE = 5000
CHUNK_RECORDS = 100
"""Records of one transaction inside a window, at most; they have to fit it too."""
TRIES = 5
"""How often a chunk lets a hand come first."""
LOOKS = 3
"""How often it is looked, at the end, for what a hand has put over the chunks."""
NAMED = 20
"""How many of the keys that were overwritten are named."""

log = structlog.get_logger()


class Busy(Exception):
    """A window is open and its writer is alive."""


class Broken(Exception):
    """A window cannot be finished: what it was to write cannot be read any more."""


class _TakenOver(Exception):
    """The fence moved: another writer has the window now."""


class _Open(NamedTuple):
    """An open window: the head as it is, and its `mod_revision`, which every write compares."""

    scope: Scope
    head: Head
    applying: Applying
    raw: bytes
    fence: int

    @property
    def path(self) -> bytes:
        return head_path(self.scope)

    def put(self, head: Head) -> Put:
        return Put(key=self.path, value=encode_head(head, self.raw))


class Made(NamedTuple):
    """A release that came out of a window: the revision from which readers see it, and what is to be told of it."""

    revision: int
    warnings: list[str]


class Windows:
    """Opens apply windows, and finishes those of others, as the writer `by`."""

    def __init__(
        self, applier: Applier, *, by: str, now: Callable[[], str], chunk_records: int = CHUNK_RECORDS
    ) -> None:
        self._applier = applier
        self._chunk_records = chunk_records
        self._etcd = applier.etcd
        self._by = by
        self._now = now

    # ---- our own ----------------------------------------------------------------------------------------------------

    async def apply(self, plan: Plan, view: View, job: Job, ticket: Ticket | None) -> Made:
        """Make a release through a window; says how it came out. Raises as `Applier.apply` does.

        `OutcomeUnknown` also where etcd went away in the middle: the window is then finished or undone by the next
        writer, and readers see the state before it until then.
        """
        scope = plan.scope
        work = (plan, view, job, ticket, self._chunk_records)
        job, content, sha256, staged = await off_loop(job.weight(plan), _prepared, *work)
        await self._check_space(2 * sum(len(put.value) for put in staged))
        manifest = job.manifest
        applying = Applying(
            id=manifest.id,
            release=plan.number,
            sha256=sha256,
            kind=plan.kind,
            state="opened",
            since=self._now(),
            by=self._by,
        )
        head = msgspec.structs.replace(view.head or Head(), applying=applying)
        put = Put(key=head_path(scope), value=encode_head(head, view.head_raw))
        await self._applier.stage(staged)
        async with self._alive(scope, applying.id) as alive:
            others = [*beside(plan, job, ticket), alive]
            created = (txns.absent(one.key) for one in others if one.key != epoch_path(scope.namespace))
            compare = (*txns.guards(plan, view), *created, *txns.staged(staged))
            txn = Txn(compare=compare, success=(*others, put))
            opened = await self._applier.commit(txn, view, applying.id, plan.number)
            window = _Open(scope, head, msgspec.structs.replace(applying, opened_revision=opened), put.value, opened)
            try:
                if not await self._unmoved(plan, view):
                    await self._undo(window, manifest, content)
                    raise Moved
                window = await self._verified(window)
                mods = {step.key: step.mod_revision for step in plan.steps}
                return await self._roll_forward(window, manifest, content, mods)
            except _TakenOver:
                return await self._outcome(scope, applying.id, plan.number)
            except EtcdError as error:
                raise _unknown(plan.number, applying.id) from error

    async def _check_space(self, wanted: int) -> None:
        """A large release is not begun where etcd would refuse the rest of it, as far as it says how much it takes."""
        status = await self._etcd.status()
        if any("NOSPACE" in error for error in status.errors):
            raise NoSpace("alarm NOSPACE")
        if status.quota and status.db_used + wanted > status.quota:
            raise NoSpace(f"{wanted} bytes are wanted, and {status.db_used} of {status.quota} are used")

    async def _unmoved(self, plan: Plan, view: View) -> bool:
        """Whether the keys are as they were planned on: no chunk is written yet, so they can still be compared."""
        now = await self._revisions(plan.scope)
        if plan.kind in DEPLOYING:
            return now == {key: stored.mod_revision for key, stored in view.entries.items()}
        return all(now.get(step.key, 0) == step.mod_revision for step in plan.steps)

    async def _outcome(self, scope: Scope, id: str, number: int) -> Made:
        """What became of a window that somebody took over; waits for its end."""
        deadline = self._applier.clock() + self._applier.patience_s
        while self._applier.clock() < deadline:
            with contextlib.suppress(EtcdError):
                head = decoded(await self._applier.reading.head(scope))
                # Without a head that reads the window has no end yet.
                if head and (head.applying is None or head.applying.id != id):
                    found = await self._applier.reading.manifest(scope, number)
                    if found is None or found.manifest.id != id:
                        raise Moved
                    if await self._applier.reading.is_made(scope, head, found.manifest):
                        return Made(found.revision, found.manifest.warnings)
                    break
            await self._applier.sleep(RETRY_S)
        raise _unknown(number, id)

    # ---- those of others --------------------------------------------------------------------------------------------

    async def finish(self, scope: Scope) -> bool:
        """Finish an open window whose writer is gone; whether there was one.

        Raises `Busy` where its writer is alive, `Broken` where it cannot be finished, `EtcdError` kinds.
        """
        stored = await self._applier.reading.head(scope)
        head = decoded(stored)
        if stored is None or head is None or head.applying is None:
            return False
        alive = txns.alive_path(scope, head.applying.id)
        if (await self._etcd.range(Range(key=alive, keys_only=True))).kvs:
            raise Busy
        manifest, content = await self._staged(scope, head, head.applying)
        opened = head.applying.opened_revision or stored.mod_revision
        applying = msgspec.structs.replace(head.applying, by=self._by, opened_revision=opened)
        head = msgspec.structs.replace(head, applying=applying)
        put = Put(key=head_path(scope), value=encode_head(head, stored.value))
        async with self._alive(scope, applying.id) as sign:
            compare = (txns.at(put.key, stored.mod_revision), txns.absent(alive))
            try:
                taken = await self._etcd.txn(Txn(compare=compare, success=(put, sign)))
            except NotFound:
                raise Busy from None
            if not taken.succeeded:
                raise Busy
            log.info("finishing a release whose writer is gone", scope=str(scope), release=manifest.number)
            try:
                window = _Open(scope, head, applying, put.value, taken.header.revision)
                await self._resume(window, manifest, content)
            except (_TakenOver, NotFound):
                raise Busy from None
            except Invalid as error:
                raise Broken(f"etcd cannot take what is left of release {manifest.number}: {error.detail}") from error
        return True

    async def _staged(self, scope: Scope, head: Head, applying: Applying) -> tuple[Manifest, list[Written]]:
        number = head.next_release
        found = await self._applier.reading.manifest(scope, number)
        if found is None or found.manifest.id != applying.id:
            raise Broken(f"the manifest of release {number} of {scope} is gone")
        content = await self._applier.reading.content(scope, found.manifest.content)
        size = weight(raw for record in content or () for raw in (record.old, record.new))
        if content is None or await off_loop(size, txns.digest, content) != applying.sha256:
            raise Broken(f"the content of release {number} of {scope} is gone or damaged")
        return found.manifest, content

    async def _resume(self, window: _Open, manifest: Manifest, content: list[Written]) -> None:
        """Go on with a window: look again whether it may be applied, or go on applying."""
        listed = await self._etcd.list(entry_path(window.scope, ""))
        current = {kv.key: kv for kv in listed.kvs}

        def now(record: Written) -> KeyValue | None:
            return current.get(txns.path_of(window.scope, record))

        if window.applying.state == "opened":
            if any(_raw(now(record)) != record.old for record in entries_of(content)):
                await self._undo(window, manifest, content)
                return
            window = await self._verified(window)
        # What is there already was written by the writer before.
        there = frozenset(one.key for one in entries_of(content) if _raw(now(one)) == one.new)
        mods = {one.key: _mod(now(one)) for one in entries_of(content)}
        left = [one for one in entries_of(content) if one.key not in there and one.old != one.new]
        by_hand = [one.key for one in left if _raw(now(one)) != one.old]
        await self._roll_forward(window, manifest, content, mods, there, by_hand)

    # ---- inside -----------------------------------------------------------------------------------------------------

    async def _verified(self, window: _Open) -> _Open:
        applying = msgspec.structs.replace(window.applying, state="verified")
        return await self._fenced(window, msgspec.structs.replace(window.head, applying=applying))

    async def _fenced(self, window: _Open, head: Head, *others: Put | Delete) -> _Open:
        """Put the head under the fence. After an ambiguous end it is looked for, and put again if it is not there."""
        put = window.put(head)
        txn = Txn(compare=(txns.at(put.key, window.fence),), success=(put, *others))
        deadline = self._applier.clock() + self._applier.patience_s
        while True:
            try:
                result = await self._etcd.txn(txn)
                if result.succeeded:
                    return _moved(window, head, put.value, result.header.revision)
                found = await self._applier.reading.head(window.scope)
            except EtcdError as error:
                if not txns.passes(error) or self._applier.clock() >= deadline:
                    raise
                await self._applier.sleep(RETRY_S)
                continue
            if found is not None and found.value == put.value and found.mod_revision > window.fence:
                # An earlier try landed after all.
                return _moved(window, head, put.value, found.mod_revision)
            raise _TakenOver

    async def _roll_forward(
        self,
        window: _Open,
        manifest: Manifest,
        content: Sequence[Written],
        mods: dict[str, int],
        there: frozenset[str] = frozenset(),
        by_hand: Iterable[str] = (),
    ) -> Made:
        """Write what is not `there` yet, chunk by chunk, then close.

        `mods` are the keys' revisions as far as they are known, and `by_hand` those of which it is known that somebody
        has put them meanwhile. Who does so after their chunk is overwritten as well, a few times.
        """
        overwritten = set(by_hand)
        left: Sequence[Written] = [one for one in content if one.key not in there]
        for _ in range(LOOKS):
            for batch in txns.batches(window.scope, left, max_records=self._chunk_records):
                overwritten |= await self._write(window, batch, mods)
            now = await self._revisions(window.scope)
            left = [one for one in entries_of(content) if one.old != one.new and now.get(one.key, 0) != mods[one.key]]
            if not left:
                break
        if overwritten:
            text = f"put by hand while it was being applied, and overwritten: {names(overwritten, NAMED)}"
            manifest = msgspec.structs.replace(manifest, warnings=[*manifest.warnings, text])
        # Put again in any case: its revision is then the one from which readers see the release.
        path = txns.manifest_path(window.scope, manifest.number)
        others: list[Put | Delete] = [Put(key=path, value=encode_record(manifest))]
        for record in content:
            if txns.closing(window.scope, record) and record.new is not None and record.key != window.path.decode():
                path = record.key.encode()
                found = await self._etcd.range(Range(key=path))
                # A receipt stays on its lease, and one that has expired stays away.
                if found.kvs or not record.key.startswith(RECEIPTS):
                    others.append(Put(key=path, value=record.new, lease=found.kvs[0].lease if found.kvs else 0))
        head = next(record.new for record in reversed(content) if record.key == window.path.decode())
        assert head is not None
        closed = await self._fenced(window, decode_head(head), *others)
        return Made(closed.fence, manifest.warnings)

    async def _write(self, window: _Open, records: list[Written], mods: dict[str, int]) -> set[str]:
        """Write one chunk, and note the revisions of its keys.

        The release wins over what was put by hand meanwhile; returns those keys.
        """
        overwritten: set[str] = set()
        records = list(records)
        tries = 0
        while records:
            tries += 1
            # A hand that never rests would come first each time: in the end the fence alone is compared.
            revision = await self._applier.persist(_chunk(window, records, mods if tries < TRIES else None))
            if revision:
                mods.update((one.key, 0 if one.new is None else revision) for one in entries_of(records))
                break
            if _mod(await self._applier.reading.head(window.scope)) != window.fence:
                raise _TakenOver
            for record in list(entries_of(records)):
                path = entry_path(window.scope, record.key)
                kvs = (await self._etcd.range(Range(key=path))).kvs
                kv = kvs[0] if kvs else None
                if _mod(kv) == mods[record.key]:
                    continue
                mods[record.key] = _mod(kv)
                if _raw(kv) == record.new:
                    # An earlier try of this chunk landed after all.
                    records.remove(record)
                else:
                    overwritten.add(record.key)
        return overwritten

    async def _undo(self, window: _Open, manifest: Manifest, content: Sequence[Written]) -> None:
        """Close a window in which nothing was applied: the head as it was, no manifest, no receipt."""
        gone = [Delete(key=txns.manifest_path(window.scope, manifest.number))]
        gone += [Delete(key=one.key.encode()) for one in content if one.key.startswith(RECEIPTS)]
        await self._fenced(window, msgspec.structs.replace(window.head, applying=None), *gone)

    @contextlib.asynccontextmanager
    async def _alive(self, scope: Scope, id: str) -> AsyncIterator[Put]:
        """Yields the put of our sign of life, whose lease is renewed while the block runs."""
        lease = await self._etcd.lease_grant(LEASE_S)
        renewing = asyncio.create_task(self._renew(lease), name="window lease")
        try:
            yield Put(key=txns.alive_path(scope, id), value=self._by.encode(), lease=lease)
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})
            with contextlib.suppress(EtcdError):
                await self._etcd.lease_revoke(lease)

    async def _renew(self, lease: int) -> None:
        while True:
            await self._applier.sleep(RENEW_S)
            try:
                await self._etcd.lease_keepalive(lease)
            except NotFound:
                return
            except EtcdError:
                continue

    async def _revisions(self, scope: Scope) -> dict[str, int]:
        """Every entry's `mod_revision`, each as of now or later: nothing is asked that a compaction could refuse."""
        prefix = start = entry_path(scope, "")
        found: dict[str, int] = {}
        while True:
            page = await self._etcd.range(Range(key=start, range_end=prefix_end(prefix), limit=PAGE, keys_only=True))
            for kv in page.kvs:
                place = locate(kv.key)
                if place.kind == "entry":
                    found[place.name] = kv.mod_revision
            if not page.more or not page.kvs:
                return found
            start = page.kvs[-1].key + b"\0"


def _prepared(
    plan: Plan, view: View, job: Job, ticket: Ticket | None, chunk_records: int
) -> tuple[Job, list[Written], str, tuple[Put, ...]]:
    """All that a window will write, its hash, and the puts that stage it. Raises `Invalid` where a chunk cannot be."""
    receipt = (ticket.path, txns.receipt_for(plan, ticket.request)) if ticket else None
    content = txns.window_content(plan, view, receipt)
    for batch in txns.batches(plan.scope, content, max_records=chunk_records):
        limits.check_txn(_chunk_of(plan.scope, 0, batch, {one.key: 0 for one in batch}))
    manifest = msgspec.structs.replace(job.manifest, content=job.manifest.content or txns.new_id())
    job = job._replace(manifest=manifest)
    return job, content, txns.digest(content), job.puts(plan.scope, content)


def _chunk(window: _Open, records: Sequence[Written], mods: Mapping[str, int] | None) -> Txn:
    return _chunk_of(window.scope, window.fence, records, mods)


def _chunk_of(scope: Scope, fence: int, records: Sequence[Written], mods: Mapping[str, int] | None) -> Txn:
    """One chunk under the fence and, with `mods`, under the revisions of its entries."""
    compare: list[Compare] = [txns.at(head_path(scope), fence)]
    if mods is not None:
        compare += [txns.at(entry_path(scope, one.key), mods[one.key]) for one in entries_of(records)]
    return Txn(compare=tuple(compare), success=tuple(txns.write(scope, one) for one in records))


def _moved(window: _Open, head: Head, raw: bytes, fence: int) -> _Open:
    return window._replace(head=head, applying=head.applying or window.applying, raw=raw, fence=fence)


def _raw(kv: KeyValue | None) -> bytes | None:
    return kv.value if kv else None


def _mod(kv: KeyValue | None) -> int:
    return kv.mod_revision if kv else 0


def _unknown(number: int, id: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"etcd went away while release {number} was being applied: the next writer finishes it or undoes it, and "
        "readers see the state before it until then. The same request with its Idempotency-Key tells the outcome",
        id=id,
    )
