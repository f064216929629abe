"""Writes to scopes, as the rest of the service asks for them: a command goes in, a release and its number come out.

A write is planned on the scope as it is, applied under guards, and planned anew where something moved in between, a few
times. A request that carries an `Idempotency-Key` leaves a receipt with its release, in the same transaction, and is
answered from there when it comes again, to whichever replica.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from configsvc.core.commands import About, Change, Command, Deploy, Expire, Promote, Repair, View
from configsvc.core.guards import Guards
from configsvc.core.model import (
    MAX_HEAD_BYTES,
    RECEIPTS,
    Freeze,
    Head,
    Scope,
    Unreadable,
    encode_head,
    epoch_of,
    head_path,
)
from configsvc.core.plan import Plan, base_of, changes_of, differences, kind_of, plan
from configsvc.core.release import Manifest, Receipt, decode_receipt
from configsvc.errors import (
    ConfigSvcError,
    Conflict,
    InvalidRequest,
    NotFound,
    Unprocessable,
)
from configsvc.etcd.ops import (
    Ambiguous,
    Delete,
    Put,
    Range,
    Txn,
)
from configsvc.writes import txns
from configsvc.writes.applying import MAX_STEPS, Applier, LeaseLost, Moved, Ticket, WriterEtcd
from configsvc.writes.conditions import changed_since
from configsvc.writes.observed import Observer, Seen
from configsvc.writes.reading import Reading, decoded
from configsvc.writes.telling import told
from configsvc.writes.threads import off_loop, weight, weight_of
from configsvc.writes.window import CHUNK_RECORDS, Broken, Busy, Windows
from configsvc_client.protocol import EventId, format_time

TRIES = 8
"""How often a write is planned anew because others came first."""
BUSY_S = 15.0
"""How long a write waits for a release that another writer is applying: longer than a dead one keeps its lease."""
RETRY_S = 0.1
RECEIPT_S = 25 * 3600
"""How long receipts are kept, at least 24 h: those of an hour share a lease."""
LEASE_SHARED_S = 3600.0

log = structlog.get_logger()

Prepare = Callable[[View], Awaitable[Command]]
"""Makes the command for a scope as it is: a rollback has to know what its target was."""


class Version(Protocol):
    """How a release is named: by a label, by a number, or by either."""

    @property
    def label(self) -> str | None: ...

    @property
    def number(self) -> int | None: ...


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a write did, or would do. `plan` is None where the answer to an earlier request is repeated."""

    scope: Scope
    epoch: str
    release: int | None
    revision: int
    version: str | None
    changes: list[dict[str, Any]]
    warnings: list[str]
    unchanged: bool = False
    plan: Plan | None = None


class Key(NamedTuple):
    """An `Idempotency-Key`, and the digest of the request that carried it. Keys of two callers are two keys."""

    by: str
    key: str
    request: str

    @property
    def path(self) -> bytes:
        """Where its receipt is."""
        digest = hashlib.sha256(f"{len(self.by)}:{self.by}{self.key}".encode())
        return RECEIPTS.encode() + digest.hexdigest().encode()


class Writer:
    """Writes as the process `by`, within `guards`. Errors are those that a caller of the service may see.

    A release of more than `max_steps` changed keys goes through a window, in chunks of `chunk_records` at most.
    """

    def __init__(
        self,
        etcd: WriterEtcd,
        *,
        by: str,
        guards: Guards | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = monotonic,
        max_steps: int = MAX_STEPS,
        chunk_records: int = CHUNK_RECORDS,
        observer: Observer | None = None,
    ) -> None:
        self.reading = Reading(etcd)
        self.guards = guards or Guards()
        self.etcd = etcd
        self._now = now
        self._sleep = sleep
        self._clock = clock
        self._observer = observer
        self._applier = Applier(etcd, self.reading, sleep=sleep, clock=clock, max_steps=max_steps)
        self.windows = Windows(self._applier, by=by, now=self.now, chunk_records=chunk_records)
        self._lease: tuple[int, float] | None = None

    def now(self) -> str:
        """The time, as it is stored."""
        return format_time(self._now())

    # ---- one write --------------------------------------------------------------------------------------------------

    async def write(
        self,
        scope: Scope,
        prepare: Prepare,
        about: About,
        *,
        label: str | None = None,
        dry_run: bool = False,
        if_match: EventId | None = None,
        key: Key | None = None,
    ) -> Outcome:
        """Carry out a command, or show with `dry_run` what it would do. `label` is the command's version label.

        Raises `Conflict`, `PreconditionFailed`, `Unprocessable`, `NotFound`: nothing was changed. `Unavailable`:
        nothing was changed, and etcd is why. `OutcomeUnknown`: the write may have taken place.
        """
        seen = Seen(None if dry_run else self._observer, self._clock)
        # What sends the release itself says `OutcomeUnknown` itself: no answer to anything else has changed the scope.
        with seen, told(sent=False):
            for tries in itertools.count(1):
                if key and (known := await self._known(scope, key)):
                    seen.outcome = "repeated"
                    return known
                view = await self._settled_view(scope, label)
                # No two windows have one name, also where one write opens another.
                attempt = msgspec.structs.replace(about, id=about.id if tries == 1 else f"{about.id}.{tries}")
                try:
                    moved = await changed_since(self.etcd, view, if_match) if if_match else None
                    if moved and not dry_run:
                        raise moved
                    command = await prepare(view)
                    seen.kind = kind_of(command)
                    found = await self._plan(command, view, attempt)
                    # What the label means so far was read with the view.
                    assert found.manifest.version == label
                    if dry_run:
                        if moved:
                            found = msgspec.structs.replace(found, blocked=(moved, *found.blocked))
                        return await _outcome(found, view, view.revision, view.epoch)
                    if found.blocked:
                        raise await self._explained(found.blocked[0], view, about)
                except ConfigSvcError:
                    # What stands in the way may be what the same request has done since it was looked for.
                    if key and (known := await self._known(scope, key)):
                        seen.outcome = "repeated"
                        return known
                    raise
                seen.outcome = "unchanged" if found.unchanged else "released"
                try:
                    return await self._apply(found, view, key)
                except Moved as error:
                    if isinstance(error, LeaseLost):
                        self._lease = None
                    if tries == TRIES:
                        raise Conflict(
                            f"other writes came first, {TRIES} times in a row; nothing was changed, try again",
                            code="write_conflict",
                        ) from None
                    await self._sleep(RETRY_S)
        raise AssertionError("unreachable")

    async def _plan(self, command: Command, view: View, about: About) -> Plan:
        size = weight(stored.raw for stored in view.entries.values()) + weight(_named(command))
        return await off_loop(size, plan, command, view, about, self.guards)

    async def _apply(self, found: Plan, view: View, key: Key | None) -> Outcome:
        ticket = Ticket(key.path, key.request, await self._receipt_lease()) if key else None
        if found.unchanged:
            await self._applier.note(found, view, ticket)
            return await _outcome(found, view, view.revision, view.epoch)
        job = await off_loop(len(found.steps) + len(view.entries), self._applier.job, found, view)
        revision, warnings = await self._applier.apply(found, view, job, ticket), list(found.warnings)
        if revision is None:
            revision, warnings = await self.windows.apply(found, view, job, ticket)
        self.reading.remember(found.scope, job.after)
        outcome = await _outcome(found, view, revision, view.epoch or job.epoch)
        return msgspec.structs.replace(outcome, warnings=warnings)

    async def _settled_view(self, scope: Scope, label: str | None) -> View:
        """The scope now, with no window open: one that is left open is finished first."""
        deadline = self._clock() + BUSY_S
        since = format_time(self._now() - timedelta(minutes=1))
        while True:
            view = await self.reading.view(scope, label=label, max_recent=self.guards.max_releases_per_min, since=since)
            if view.head is None or view.head.applying is None:
                return view
            try:
                await self.windows.finish(scope)
                continue
            except (Busy, Ambiguous):
                # The other one's release; nothing of ours has been sent.
                pass
            except Broken as error:
                raise Conflict(
                    f"a release of {scope} was begun and cannot be finished: {error}. `configsvc repair` makes a "
                    "release of what is there",
                    code="write_conflict",
                ) from error
            if self._clock() >= deadline:
                raise Conflict(
                    f"release {view.head.applying.release or view.release + 1} of {scope} is being applied by another "
                    "writer; try again in a moment",
                    code="write_conflict",
                )
            await self._sleep(RETRY_S)

    async def _explained(self, error: ConfigSvcError, view: View, about: About) -> ConfigSvcError:
        """A conflict with what happened since the release that its sender knew."""
        base = about.base_release
        if base is None and about.digest is not None:
            base = base_of(about.digest)
        if error.code not in ("base_moved", "plan_changed") or base is None:
            return error
        try:
            before = await self.reading.state_at(view.scope, base) if base else {}
        except NotFound:
            return error
        now = {key: stored.raw for key, stored in view.entries.items()}
        error.fields["changes"] = await off_loop(
            weight(before.values()) + weight(now.values()), differences, before, now
        )
        return error

    # ---- the past ---------------------------------------------------------------------------------------------------

    async def find(self, scope: Scope, version: Version) -> Manifest:
        """The release that a caller names: by its label, the newest that has it, else by its number.

        Raises `NotFound` (`release_not_found`, `release_pruned`).
        """
        with told(sent=False):
            number = version.number
            label = await self.reading.labelled(scope, version.label) if version.label is not None else None
            if label is not None:
                number = label.release
            if number is None:
                raise NotFound(f"{scope} has no version {version.label}", code="release_not_found")
            found = await self.reading.made(scope, number)
            if found is None:
                raise await self.reading.missing(scope, number)
            return found

    async def newest(self, scope: Scope) -> Manifest:
        """The head's release. Raises `NotFound` where there is none."""
        with told(sent=False):
            head = decoded(await self.reading.head(scope))
            found = await self.reading.manifest(scope, head.release) if head and head.release else None
            if found is None:
                raise NotFound(f"{scope} has no release", code="release_not_found")
            return found.manifest

    async def state_at(self, scope: Scope, number: int) -> dict[str, bytes]:
        """The entries as a release left them. Raises `NotFound` (`release_not_found`, `release_pruned`)."""
        with told(sent=False):
            return await self.reading.state_at(scope, number)

    async def deployed_at(self, scope: Scope, manifest: Manifest) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """The entries that a release deployed, see `Reading.deployed_at`."""
        with told(sent=False):
            return await self.reading.deployed_at(scope, manifest)

    # ---- receipts ---------------------------------------------------------------------------------------------------

    async def _known(self, scope: Scope, key: Key) -> Outcome | None:
        """The answer to an earlier request with the same key."""
        found = await self.etcd.range(Range(key=key.path))
        if not found.kvs:
            return None
        try:
            receipt = decode_receipt(found.kvs[0].value)
        except Unreadable as error:
            raise Conflict(
                "the record of an earlier request with this Idempotency-Key cannot be read; look at the scope, and use "
                "a new key",
                code="write_conflict",
            ) from error
        if receipt.request != key.request:
            raise Unprocessable(
                "this Idempotency-Key came with another request before; use a new one for each request",
                code="idempotency_mismatch",
            )
        view = await self._settled_view(scope, None)
        # A window may have been finished just now, and the receipt put again, or taken away.
        found = await self.etcd.range(Range(key=key.path))
        return await self._repeated(view, receipt, found.kvs[0].mod_revision) if found.kvs else None

    async def _repeated(self, view: View, receipt: Receipt, revision: int) -> Outcome:
        epoch = epoch_of(view.cluster_id, view.epoch or b"", "")
        changes: list[dict[str, Any]] = []
        version, warnings = None, receipt.warnings
        found = await self.reading.manifest(view.scope, receipt.release) if receipt.release else None
        if found and not receipt.unchanged:
            head = view.head or Head()
            if found.manifest.id != receipt.id or not await self.reading.is_made(view.scope, head, found.manifest):
                raise Conflict(
                    f"release {receipt.release} of {view.scope} was begun for this request and given up: its head was "
                    "lost, or repaired. Look at the scope, and send the request with a new Idempotency-Key",
                    code="write_conflict",
                )
        if found:
            version = found.manifest.version
            if not receipt.unchanged:
                warnings = found.manifest.warnings
                content = await self.reading.content(view.scope, found.manifest.content) or []
                changes = await off_loop(weight_of(content), changes_of, content)
        return Outcome(
            scope=view.scope,
            epoch=epoch,
            release=receipt.release,
            revision=receipt.revision or revision,
            version=version,
            changes=changes,
            warnings=warnings,
            unchanged=receipt.unchanged,
        )

    async def _receipt_lease(self) -> int:
        if self._lease is None or self._clock() - self._lease[1] > LEASE_SHARED_S:
            self._lease = (await self.etcd.lease_grant(RECEIPT_S), self._clock())
        return self._lease[0]

    # ---- beside releases --------------------------------------------------------------------------------------------

    async def freeze(self, scope: Scope, freeze: Freeze | None) -> Head:
        """Refuse deploys until a time, or no longer. Makes no release; a deploy that was planned before fails."""
        return await self._set_head(scope, lambda head: msgspec.structs.replace(head, frozen=freeze))

    async def own_keys(self, scope: Scope, patterns: list[str]) -> Head:
        """Name the keys that a promotion leaves as they are. Makes no release."""
        return await self._set_head(scope, lambda head: msgspec.structs.replace(head, own=patterns))

    async def head(self, scope: Scope) -> Head:
        """The scope's head, an empty one where there is none."""
        with told(sent=False):
            return decoded(await self.reading.head(scope)) or Head()

    async def _set_head(self, scope: Scope, change: Callable[[Head], Head]) -> Head:
        with told():
            for _ in range(TRIES):
                view = await self._settled_view(scope, None)
                if view.head is None and view.is_headless:
                    raise Conflict(
                        f"the head of {scope} cannot be read, or is gone; `configsvc repair` makes a release "
                        "of what is there",
                        code="write_conflict",
                    )
                head = change(view.head or Head())
                put = Put(key=head_path(scope), value=encode_head(head, view.head_raw))
                if len(put.value) > max(MAX_HEAD_BYTES, len(view.head_raw or b"")):
                    raise InvalidRequest(
                        f"the head of {scope} would have {len(put.value)} bytes, at most {MAX_HEAD_BYTES} are allowed",
                        code="invalid_values",
                    )
                if await self._applier.persist(Txn(compare=(txns.at(put.key, view.head_mod),), success=(put,))):
                    return head
                stored = await self.reading.head(scope)
                if stored is not None and stored.value == put.value:
                    return head
            raise Conflict("other writes came first each time; try again", code="write_conflict")

    async def repair(self, scope: Scope, about: About) -> Outcome:
        """Make a release of what is there: for a scope whose open release or history cannot be used any more."""
        with told():
            try:
                await self.windows.finish(scope)
            except Busy:
                pass
            except Broken as error:
                log.warning("closing a release that cannot be finished", scope=str(scope), why=str(error))
                await self._abandon(scope)

        async def prepare(view: View) -> Command:
            return Repair()

        return await self.write(scope, prepare, about)

    async def _abandon(self, scope: Scope) -> None:
        """Close a window without its release, whose number is free again. What was applied of it stays."""
        stored = await self.reading.head(scope)
        head = decoded(stored)
        if stored is None or head is None or head.applying is None:
            return
        put = Put(key=head_path(scope), value=encode_head(msgspec.structs.replace(head, applying=None), stored.value))
        gone: tuple[Delete, ...] = ()
        found = await self.reading.manifest(scope, head.next_release)
        if found is not None and found.manifest.id == head.applying.id:
            gone = (Delete(key=txns.manifest_path(scope, head.next_release)),)
        await self._applier.persist(Txn(compare=(txns.at(put.key, stored.mod_revision),), success=(put, *gone)))


def _named(command: Command) -> Iterable[bytes]:
    """The values that a command brings."""
    match command:
        case Deploy() | Promote():
            return command.values.values()
        case Change():
            return command.set.values()
        case Expire() | Repair():
            return ()
        case _:
            return command.entries.values()


async def _outcome(found: Plan, view: View, revision: int, epoch: bytes | None) -> Outcome:
    return Outcome(
        scope=found.scope,
        epoch=epoch_of(view.cluster_id, epoch or b"", ""),
        release=(view.release or None) if found.unchanged else found.number,
        revision=revision,
        version=found.head.version,
        changes=await off_loop(weight_of(found.content()), found.changes),
        warnings=list(found.warnings),
        unchanged=found.unchanged,
        plan=found,
    )
