"""Apply windows: a release larger than one transaction, applied under a fence, by whoever is there to finish it.

The head says that a window is open, and its `mod_revision` is the fence that every write inside compares: whoever moves
the head has the window, and nothing of the writer before can land any more. All that the window has to write is staged
before it opens. A key next to it, on a lease, says that its writer lives. Rules: the release protocol, section 3.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import msgspec
import structlog

from configsvc.core.commands import View
from configsvc.core.model import (
    RECEIPTS,
    Applying,
    Head,
    Scope,
    Unreadable,
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
from configsvc.etcd.ops import Compare, Delete, EtcdError, KeyValue, NotFound, Put, Range, Txn, prefix_end
from configsvc.writes import txns
from configsvc.writes.applying import RETRY_S, Applier, Job, Moved, Ticket, beside

LEASE_S = 10
"""How long a window stays its writer's after that was last heard of."""
RENEW_S = 3.0
PAGE = 5000
CHUNK_RECORDS = 100
"""Records of one transaction inside a window, at most; they have to fit it too."""

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

    async def apply(self, plan: Plan, view: View, job: Job, ticket: Ticket | None) -> int:
        """Make a release through a window; returns its revision. Raises as `Applier.apply` does.

        `OutcomeUnknown` also where etcd went away in the middle: the window is then finished or undone by the next
        writer, and readers see the state before it until then.
        """
        scope = plan.scope
        receipt = (ticket.path, txns.receipt_for(plan, ticket.request)) if ticket else None
        content = txns.window_content(plan, view, receipt)
        manifest = msgspec.structs.replace(job.manifest, content=job.manifest.content or txns.new_id())
        job = job._replace(manifest=manifest)
        applying = Applying(
            id=manifest.id,
            release=plan.number,
            sha256=txns.digest(content),
            kind=plan.kind,
            state="opened",
            since=self._now(),
            by=self._by,
        )
        head = msgspec.structs.replace(view.head or Head(), applying=applying)
        put = Put(key=head_path(scope), value=encode_head(head, view.head_raw))
        staged = job.puts(scope, content)
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

    async def _unmoved(self, plan: Plan, view: View) -> bool:
        """Whether the keys are as they were planned on: no chunk is written yet, so they can still be compared."""
        now = await self._revisions(plan.scope)
        if plan.kind in DEPLOYING:
            return now == {key: stored.mod_revision for key, stored in view.entries.items()}
        return all(now.get(step.key, 0) == step.mod_revision for step in plan.steps)

    async def _outcome(self, scope: Scope, id: str, number: int) -> int:
        """What became of a window that somebody took over; waits for its end."""
        deadline = self._applier.clock() + self._applier.patience_s
        while self._applier.clock() < deadline:
            with contextlib.suppress(EtcdError):
                stored = await self._applier.head(scope)
                head = decoded(stored)
                # Without a head that reads the window has no end yet.
                if stored and head and (head.applying is None or head.applying.id != id):
                    found = await self._applier.reading.manifest(scope, number)
                    if found is None or found.manifest.id != id:
                        raise Moved
                    if head.id == id and head.applying is None:
                        return stored.mod_revision
                    if await self._applier.reading.is_made(scope, head, found.manifest):
                        return found.revision
                    break
            await self._applier.sleep(RETRY_S)
        raise _unknown(number, id)

    # ---- those of others --------------------------------------------------------------------------------------------

    async def finish(self, scope: Scope) -> bool:
        """Finish an open window whose writer is gone; whether there was one.

        Raises `Busy` where its writer is alive, `Broken` where it cannot be finished, `EtcdError` kinds.
        """
        stored = await self._applier.head(scope)
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
            except _TakenOver:
                raise Busy from None
        return True

    async def _staged(self, scope: Scope, head: Head, applying: Applying) -> tuple[Manifest, list[Written]]:
        number = head.next_release
        found = await self._applier.reading.manifest(scope, number)
        if found is None or found.manifest.id != applying.id:
            raise Broken(f"the manifest of release {number} of {scope} is gone")
        content = await self._applier.reading.content(scope, found.manifest.content)
        if content is None or txns.digest(content) != applying.sha256:
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
        left = [one for one in content if one.key.startswith("/") or _raw(now(one)) != one.new]
        mods = {one.key: _mod(now(one)) for one in entries_of(left)}
        by_hand = [one.key for one in entries_of(left) if one.old != one.new and _raw(now(one)) != one.old]
        await self._roll_forward(window, manifest, left, mods, by_hand)

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
            except EtcdError as error:
                if not txns.passes(error) or self._applier.clock() >= deadline:
                    raise
                await self._applier.sleep(RETRY_S)
            with contextlib.suppress(EtcdError):
                found = await self._applier.head(window.scope)
                if found is not None and found.value == put.value and found.mod_revision > window.fence:
                    return _moved(window, head, put.value, found.mod_revision)
                if _mod(found) != window.fence:
                    raise _TakenOver

    async def _roll_forward(
        self,
        window: _Open,
        manifest: Manifest,
        content: Sequence[Written],
        mods: dict[str, int],
        by_hand: Sequence[str] = (),
    ) -> int:
        """Write what is left, chunk by chunk, then close; returns the closing revision.

        `by_hand` are keys of which it is known that somebody has put them meanwhile.
        """
        overwritten = list(by_hand)
        for batch in txns.batches(window.scope, content, max_records=self._chunk_records):
            overwritten += await self._write(window, batch, mods)
        others: list[Put | Delete] = []
        if overwritten:
            text = f"put by hand while it was being applied, and overwritten: {', '.join(sorted(set(overwritten)))}"
            changed = msgspec.structs.replace(manifest, warnings=[*manifest.warnings, text])
            path = txns.manifest_path(window.scope, manifest.number)
            others.append(Put(key=path, value=encode_record(changed)))
        for record in content:
            if txns.closing(window.scope, record) and record.new is not None and record.key != window.path.decode():
                path = record.key.encode()
                found = await self._etcd.range(Range(key=path))
                # A receipt stays on its lease, and one that has expired stays away.
                if found.kvs or not record.key.startswith(RECEIPTS):
                    others.append(Put(key=path, value=record.new, lease=found.kvs[0].lease if found.kvs else 0))
        head = next(record.new for record in reversed(content) if record.key == window.path.decode())
        assert head is not None
        return (await self._fenced(window, decode_head(head), *others)).fence

    async def _write(self, window: _Open, records: list[Written], mods: dict[str, int]) -> list[str]:
        """Write one chunk. The release wins over what was put by hand meanwhile; returns those keys."""
        overwritten: set[str] = set()
        records = list(records)
        while records and not await self._applier.persist(_chunk(window, records, mods)):
            if _mod(await self._applier.head(window.scope)) != window.fence:
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
        return sorted(overwritten)

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
        """Every entry's `mod_revision`, at one revision."""
        prefix = entry_path(scope, "")
        start, revision = prefix, 0
        found: dict[str, int] = {}
        while True:
            ask = Range(key=start, range_end=prefix_end(prefix), revision=revision, limit=PAGE, keys_only=True)
            page = await self._etcd.range(ask)
            revision = revision or page.header.revision
            for kv in page.kvs:
                place = locate(kv.key)
                if place.kind == "entry":
                    found[place.name] = kv.mod_revision
            if not page.more or not page.kvs:
                return found
            start = page.kvs[-1].key + b"\0"


def _chunk(window: _Open, records: Sequence[Written], mods: dict[str, int]) -> Txn:
    compare: list[Compare] = [txns.at(window.path, window.fence)]
    compare += [txns.at(entry_path(window.scope, one.key), mods[one.key]) for one in entries_of(records)]
    return Txn(compare=tuple(compare), success=tuple(txns.write(window.scope, one) for one in records))


def _moved(window: _Open, head: Head, raw: bytes, fence: int) -> _Open:
    return window._replace(head=head, applying=head.applying or window.applying, raw=raw, fence=fence)


def decoded(stored: KeyValue | None) -> Head | None:
    """The head that is stored; None where there is none that reads."""
    try:
        return decode_head(stored.value) if stored else None
    except Unreadable:
        return None


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
