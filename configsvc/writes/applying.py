"""A plan becomes a release: in one transaction where it fits, else through an apply window (`window.py`).

The transaction compares all that its plan was made from. After an ambiguous end the head tells: ours is there, or the
head is moved so that a late copy of the write can never land, or nobody knows and the caller is told so. Rules: the
release protocol, section 2.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import NamedTuple, Protocol

import msgspec

from configsvc.core.commands import View
from configsvc.core.model import Head, Scope, encode_head, entry_path, epoch_path, head_path
from configsvc.core.plan import Plan
from configsvc.core.release import Manifest, Receipt, Written, encode_record, is_checkpoint_due, replay, size_of
from configsvc.errors import OutcomeUnknown, Unavailable
from configsvc.etcd.ops import (
    Ambiguous,
    Delete,
    Etcd,
    EtcdError,
    NoSpace,
    NotFound,
    Put,
    Txn,
    TxnResult,
)
from configsvc.writes import txns
from configsvc.writes.reading import Past, Reading
from configsvc.writes.threads import off_loop, weight

MAX_STEPS = 100
"""Changed keys of one transaction."""
PATIENCE_S = 20.0
"""How long a write that may be sent twice is tried again while etcd does not answer."""
RETRY_S = 0.2


class WriterEtcd(Etcd, Protocol):
    """What a writer asks of etcd beside transactions: leases."""

    async def lease_grant(self, ttl_s: int) -> int: ...

    async def lease_keepalive(self, lease: int) -> int: ...

    async def lease_revoke(self, lease: int) -> None: ...


class Ticket(NamedTuple):
    """Where the receipt of a request goes, what it says of the request, and the lease that ends it."""

    path: bytes
    request: str
    lease: int


class Moved(Exception):
    """Something that the plan was made from is not as it was: nothing was applied, and nothing will be."""


class LeaseLost(Moved):
    """A lease that something was to be put on is gone: its writer stood still for too long, or the store is another."""


class Job(NamedTuple):
    """A plan's release as it is stored: its manifest, the content's ids in it, and all entries if they are kept."""

    manifest: Manifest
    state: tuple[Written, ...]
    after: Past
    epoch: bytes | None
    """The value of the namespace's epoch key, where the release creates it."""

    def puts(self, scope: Scope, content: Sequence[Written]) -> tuple[Put, ...]:
        """The chunks of content and checkpoint."""
        staged = txns.content_puts(scope, self.manifest.content, content)
        if self.manifest.checkpoint:
            staged += txns.content_puts(scope, self.manifest.checkpoint, self.state)
        return tuple(staged)

    def weight(self, plan: Plan) -> int:
        """How much work it is to encode all that the release stores, as `off_loop` counts it."""
        changed = (raw for step in plan.steps for raw in (step.old, step.new))
        return weight(changed) + weight(one.new for one in self.state)


class Applier:
    """Applies plans that fit one transaction, and what every release needs before and after that."""

    def __init__(
        self,
        etcd: WriterEtcd,
        reading: Reading,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = monotonic,
        patience_s: float = PATIENCE_S,
        max_steps: int = MAX_STEPS,
    ) -> None:
        self.etcd = etcd
        self.reading = reading
        self.sleep = sleep
        self.clock = clock
        self.patience_s = patience_s
        self.max_steps = max_steps

    async def apply(self, plan: Plan, view: View, job: Job, ticket: Ticket | None) -> int | None:
        """Make the release in one transaction; returns its revision, or None where it does not fit.

        Raises `Moved`; `Unavailable` where it was not applied because of etcd, and never will be; `OutcomeUnknown`
        where that could not be found out; `EtcdError` kinds where nothing was sent.
        """
        if len(plan.steps) > self.max_steps:
            return None
        found = await off_loop(job.weight(plan), _fitting, plan, view, job, ticket)
        if found is None:
            return None
        txn, staged = found
        await self.stage(staged)
        return await self.commit(txn, view, plan.manifest.id, plan.number)

    async def note(self, plan: Plan, view: View, ticket: Ticket | None) -> None:
        """Keep what a plan that changes nothing leaves: the meaning of its label, and the receipt. Raises `Moved`."""
        puts = list(txns.label_put(plan))
        compare = txns.guards(plan, view)
        if ticket:
            receipt = Receipt(
                request=ticket.request,
                release=view.release or None,
                unchanged=True,
                revision=view.revision,
                warnings=list(plan.warnings),
            )
            puts.append(Put(key=ticket.path, value=encode_record(receipt), lease=ticket.lease))
            compare += (txns.absent(ticket.path),)
        if puts and not (await self._sent(Txn(compare=compare, success=tuple(puts)))).succeeded:
            raise Moved

    def job(self, plan: Plan, view: View) -> Job:
        """What is stored of a plan. The first release keeps all entries, and so do some of the later ones."""
        content = plan.content()
        first = view.expected is None or not view.release
        current = {key: stored.raw for key, stored in view.entries.items()}
        after = replay(current if first or view.expected is None else view.expected, content)
        known = self.reading.remembered(view.scope, view.head.id) if view.head else None
        releases = known.since + 1 if known else 1
        changed = size_of(content) + (known.changed_bytes if known else 0)
        state = tuple(Written(key, None, raw) for key, raw in sorted(after.items()))
        due = first or is_checkpoint_due(releases, changed, size_of(state))
        manifest = msgspec.structs.replace(
            plan.manifest,
            content=txns.new_id() if content else "",
            checkpoint=(txns.new_id() if state else "") if due else None,
        )
        past = Past(manifest.id, manifest.number, after, 0 if due else releases, 0 if due else changed)
        # From the first release on, histories of the namespace can be told apart.
        return Job(manifest, state, past, None if view.epoch else secrets.token_hex(16).encode())

    async def stage(self, puts: Sequence[Put]) -> None:
        """Store content under ids that nobody else has. What is there already was put by an earlier try."""
        for put in puts:
            await self.persist(Txn(compare=(txns.absent(put.key),), success=(put,)))

    async def persist(self, txn: Txn) -> int:
        """Send a transaction that may be sent twice until etcd answers; its revision, or 0 where a compare failed."""
        deadline = self.clock() + self.patience_s
        while True:
            try:
                result = await self.etcd.txn(txn)
                return result.header.revision if result.succeeded else 0
            except EtcdError as error:
                if not txns.passes(error) or self.clock() >= deadline:
                    raise
            await self.sleep(RETRY_S)

    async def commit(self, txn: Txn, view: View, id: str, number: int) -> int:
        """Send the transaction that makes a release, or opens its window; returns its revision.

        Raises as `apply` does.
        """
        try:
            result = await self._sent(txn)
        except Ambiguous as error:
            return await self._settle(view, id, number, error)
        except NoSpace:
            # etcd says so also of a transaction that it has carried out, if that was the one to reach the quota.
            made = await self.reading.manifest(view.scope, number)
            if made is None or made.manifest.id != id:
                raise
            return made.created
        if not result.succeeded:
            raise Moved
        return result.header.revision

    async def _sent(self, txn: Txn) -> TxnResult:
        try:
            return await self.etcd.txn(txn)
        except NotFound as error:
            raise LeaseLost from error

    async def _settle(self, view: View, id: str, number: int, error: EtcdError) -> int:
        """After an ambiguous end: ours is there, or it is kept from landing, or nobody knows."""
        try:
            head = await self.reading.head(view.scope)
            if (head.mod_revision if head else 0) == view.head_mod and await self._touch(view):
                raise Unavailable(
                    "etcd did not answer in time; the write was not applied, and will not be",
                    code="store_unavailable",
                ) from error
            # The head has moved, and not by us: our write can't land any more, if it has not.
            found = await self.reading.manifest(view.scope, number)
        except EtcdError as failure:
            raise OutcomeUnknown(
                "etcd does not answer, and whether the write took place is not known: send it again with the same "
                "Idempotency-Key, or look at the versions",
                id=id,
            ) from failure
        if found is None or found.manifest.id != id:
            raise Moved from error
        return found.created

    async def _touch(self, view: View) -> bool:
        """Put the head again as it is, so that a late write that compares it fails; whether it was still there."""
        value = view.head_raw if view.head_raw is not None else encode_head(Head(), None)
        put = Put(key=head_path(view.scope), value=value)
        return (await self.etcd.txn(Txn(compare=(txns.at(put.key, view.head_mod),), success=(put,)))).succeeded


def beside(plan: Plan, job: Job, ticket: Ticket | None) -> list[Put | Delete]:
    """What a release puts beside entries and head, whichever way it takes, under `absent` of each."""
    puts: list[Put | Delete] = [Put(key=txns.manifest_path(plan.scope, plan.number), value=encode_record(job.manifest))]
    if job.epoch:
        puts.append(Put(key=epoch_path(plan.scope.namespace), value=job.epoch))
    if ticket:
        puts.append(Put(key=ticket.path, value=txns.receipt_for(plan, ticket.request), lease=ticket.lease))
    return puts


def _fitting(plan: Plan, view: View, job: Job, ticket: Ticket | None) -> tuple[Txn, tuple[Put, ...]] | None:
    """The one transaction of a release, with its content in it or staged before; None where neither fits."""
    writes = [txns.write(plan.scope, record) for record in plan.content() if record.old != record.new]
    others = beside(plan, job, ticket)
    created = tuple(txns.absent(put.key) for put in others if put.key != epoch_path(plan.scope.namespace))
    touched = tuple(txns.at(entry_path(plan.scope, step.key), step.mod_revision) for step in plan.steps)
    head = Put(key=head_path(plan.scope), value=encode_head(plan.head, view.head_raw))
    content = job.puts(plan.scope, plan.content())
    for inline, staged in ((content, ()), ((), content)):
        txn = Txn(
            compare=(*txns.guards(plan, view), *created, *touched, *txns.staged(staged)),
            success=(*others, head, *writes, *txns.label_put(plan), *inline),
        )
        if txns.fits(txn):
            return txn, staged
    return None
