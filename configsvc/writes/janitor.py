"""What happens to releases without being asked: overrides end, windows of dead writers are finished, old history goes.

One janitor works at a time, by a lease in etcd, among all services that may write; the others wait for their turn. Each
of its steps is safe beside writers and beside a second janitor that does not know yet that it is none: releases are
made under the same guards as any, and what is removed is removed under a compare of the janitor's own key.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable, Set
from datetime import UTC, datetime
from time import monotonic

import structlog

from configsvc.core.commands import About, Command, Expire, View
from configsvc.core.model import (
    OVERRIDES,
    RELEASES,
    Head,
    Scope,
    Unreadable,
    content_prefix,
    head_path,
    is_key,
    manifests_prefix,
    parse_scope,
    releases_prefix,
)
from configsvc.core.release import Manifest, decode_manifest, decode_override
from configsvc.core.retention import Retention, first_kept
from configsvc.errors import ConfigSvcError, InvalidRequest
from configsvc.etcd.ops import Compare, Delete, EtcdError, NotFound, Put, Range, Txn, prefix_end
from configsvc.writes import txns
from configsvc.writes.applying import WriterEtcd
from configsvc.writes.reading import decoded
from configsvc.writes.window import Broken, Busy
from configsvc.writes.writer import Writer

LEASE_S = 10
TURN_S = 3.0
"""How often the lease is renewed, and how often another janitor looks whether it is its turn."""
LOOK_S = 1.0
"""How often windows and overrides are looked at."""
SWEEP_S = 600.0
"""How often history is looked at."""
ORPHAN_S = 3600.0
"""Content that no release names is removed after this time: until then its writer may still be at it."""
BY = "janitor"

log = structlog.get_logger()


class Janitor:
    """Works for the scopes of `namespace`, or of all where that is None. `open_scopes` tells which have a window."""

    def __init__(
        self,
        etcd: WriterEtcd,
        writer: Writer,
        *,
        namespace: str | None,
        open_scopes: Callable[[], Iterable[Scope]],
        retention: Retention,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._etcd = etcd
        self._writer = writer
        self._namespace = namespace
        self._open_scopes = open_scopes
        self._retention = retention
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._key = f"{RELEASES}{namespace}/janitor".encode() if namespace else b"/configsvc/janitor"
        self._held = 0
        """The `mod_revision` of our key while it is our turn, else 0."""
        self._orphans: dict[bytes, float] = {}
        self.pruned = 0
        """How many releases were removed."""
        self._swept_at = float("-inf")
        self._told: set[str] = set()
        self._due: tuple[int, dict[Scope, dict[str, str]]] = (-1, {})

    @property
    def is_working(self) -> bool:
        """Whether it is this janitor's turn."""
        return self._held > 0

    async def run(self) -> None:
        """Work whenever it is our turn, for ever."""
        while True:
            lease = await self._take_turn()
            if lease is not None:
                renewing = asyncio.create_task(self._renew(lease), name="janitor lease")
                try:
                    while not renewing.done():
                        await self.work()
                        await self._sleep(LOOK_S)
                finally:
                    self._held = 0
                    renewing.cancel()
                    await asyncio.wait({renewing})
                    with contextlib.suppress(EtcdError):
                        await self._etcd.lease_revoke(lease)
            await self._sleep(self._rng.uniform(0.5, 1.5) * TURN_S)

    async def _take_turn(self) -> int | None:
        """A lease with our key on it, where nobody else has one."""
        lease = None
        with contextlib.suppress(EtcdError):
            if (await self._etcd.range(Range(key=self._key, keys_only=True))).kvs:
                return None
            lease = await self._etcd.lease_grant(LEASE_S)
            put = Put(key=self._key, value=secrets.token_hex(8).encode(), lease=lease)
            taken = await self._etcd.txn(Txn(compare=(txns.absent(self._key),), success=(put,)))
            if taken.succeeded:
                self._held = taken.header.revision
                return lease
        if lease is not None:
            with contextlib.suppress(EtcdError):
                await self._etcd.lease_revoke(lease)
        return None

    async def _renew(self, lease: int) -> None:
        """Keep the lease; returns once it is lost."""
        renewed = self._clock()
        while self._clock() - renewed < LEASE_S:
            await self._sleep(TURN_S)
            try:
                await self._etcd.lease_keepalive(lease)
                renewed = self._clock()
            except NotFound:
                return
            except EtcdError:
                continue

    # ---- work -------------------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """One look at everything. What fails is left for the next one."""
        for scope in sorted(self._open_scopes()):
            await self._try("a release cannot be finished", scope, self._finish(scope))
        await self._try("overrides cannot be read", None, self._expire())
        if self._clock() - self._swept_at >= SWEEP_S:
            self._swept_at = self._clock()
            await self._try("history cannot be looked at", None, self.sweep())

    async def _try(self, what: str, scope: Scope | None, step: Awaitable[None]) -> None:
        about = f"{what} {scope or ''}"
        try:
            await step
        except Exception as error:
            # Whatever it is: who reads here is not to suffer from what somebody has put among the records.
            expected = isinstance(error, EtcdError | ConfigSvcError | Broken)
            if about not in self._told:
                self._told.add(about)
                tell = log.warning if expected else log.exception
                tell(what, scope=str(scope) if scope else None, error=str(error))
        else:
            self._told.discard(about)

    async def _finish(self, scope: Scope) -> None:
        with contextlib.suppress(Busy):
            await self._writer.windows.finish(scope)

    # ---- overrides --------------------------------------------------------------------------------------------------

    async def _expire(self) -> None:
        now = self._writer.now()
        for scope, keys in (await self._timers()).items():
            if any(expires_at <= now for expires_at in keys.values()):
                await self._try("an override cannot be ended", scope, self._end(scope, now))

    async def _end(self, scope: Scope, now: str) -> None:
        async def prepare(view: View) -> Command:
            # Looked for once more: what was seen may have been a part of what a window was still writing.
            found = view.overrides.items()
            return Expire(keys={key: one.release for key, one in found if one.expires_at and one.expires_at <= now})

        about = About(by=BY, at=self._writer.now(), id=txns.new_id(), reason="its time is over")
        found = await self._writer.write(scope, prepare, about)
        if not found.unchanged:
            ended = [change["key"] for change in found.changes]
            log.info("overrides ended", scope=str(scope), keys=ended, release=found.release)

    async def _timers(self) -> dict[Scope, dict[str, str]]:
        """The overrides that end by themselves, and when. Read again only where one changed."""
        prefix = f"{OVERRIDES}{self._namespace}/".encode() if self._namespace else OVERRIDES.encode()
        newest = await self._etcd.range(
            Range(
                key=prefix,
                range_end=prefix_end(prefix),
                limit=1,
                keys_only=True,
                sort_target="MOD",
                sort_order="DESCEND",
            )
        )
        mark = hash((newest.kvs[0].mod_revision if newest.kvs else 0, newest.count))
        if mark == self._due[0]:
            return self._due[1]
        found: dict[Scope, dict[str, str]] = {}
        for kv in (await self._etcd.list(prefix)).kvs:
            try:
                namespace, environment, key = kv.key[len(OVERRIDES) :].decode().split("/", 2)
                scope, record = parse_scope(namespace, environment), decode_override(kv.value)
            except (ValueError, UnicodeDecodeError, Unreadable, InvalidRequest):
                continue
            if record.expires_at is not None and is_key(key):
                found.setdefault(scope, {})[key] = record.expires_at
        self._due = (mark, found)
        return found

    # ---- history ----------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Remove the releases that are not kept any more, and content that no release names."""
        for scope in await self._scopes():
            await self._try("old releases cannot be removed", scope, self._sweep(scope))

    async def _scopes(self) -> list[Scope]:
        """The scopes that have releases, found key by key: nothing of their content is read."""
        prefix = f"{RELEASES}{self._namespace}/".encode() if self._namespace else RELEASES.encode()
        key = prefix
        found: list[Scope] = []
        while True:
            page = await self._etcd.range(Range(key=key, range_end=prefix_end(prefix), limit=1, keys_only=True))
            if not page.kvs:
                return found
            parts = page.kvs[0].key[len(RELEASES) :].split(b"/")
            key = page.kvs[0].key + b"\0"
            if len(parts) > 2:
                with contextlib.suppress(InvalidRequest, UnicodeDecodeError):
                    found.append(scope := parse_scope(parts[0].decode(), parts[1].decode()))
                    key = prefix_end(releases_prefix(scope))

    async def _sweep(self, scope: Scope) -> None:
        contents = await self._contents(scope)
        # The head before the manifests: while it stays as it is, there is no release that they do not tell of.
        stored = await self._etcd.range(Range(key=head_path(scope)))
        head = decoded(stored.kvs[0]) if stored.kvs else None
        compare = (*self._fence(), txns.at(head_path(scope), stored.kvs[0].mod_revision if stored.kvs else 0))
        listed = await self._etcd.list(manifests_prefix(scope))
        manifests = [found for kv in listed.kvs if (found := _manifest(kv.value)) is not None]
        if head is not None and head.applying is None and head.release:
            removed = await self._prune(scope, manifests, head, compare)
            manifests = [one for one in manifests if one.number not in removed]
        named = {id for one in manifests for id in (one.content, one.checkpoint) if id}
        orphans = {prefix for prefix in contents if prefix.split(b"/")[-2].decode(errors="replace") not in named}
        await self._remove_orphans(scope, orphans, compare)

    async def _prune(
        self, scope: Scope, manifests: list[Manifest], head: Head, compare: tuple[Compare, ...]
    ) -> set[int]:
        first = first_kept(manifests, head, self._retention, datetime.now(UTC))
        old = [one for one in manifests if one.number < first]
        for one in old:
            gone = [Delete(key=txns.manifest_path(scope, one.number))]
            for content in filter(None, (one.content, one.checkpoint)):
                prefix = content_prefix(scope, content)
                gone.append(Delete(key=prefix, range_end=prefix_end(prefix)))
            if not (await self._etcd.txn(Txn(compare=compare, success=tuple(gone)))).succeeded:
                return set()
            self.pruned += 1
        if old:
            log.info("old releases removed", scope=str(scope), count=len(old), oldest_kept=first)
        return {one.number for one in old}

    async def _remove_orphans(self, scope: Scope, there: Set[bytes], compare: tuple[Compare, ...]) -> None:
        """Remove content that no release names, and has not for an hour. A window's is named by its manifest."""
        now = self._clock()
        for prefix in there:
            if now - self._orphans.setdefault(prefix, now) < ORPHAN_S:
                continue
            gone = Delete(key=prefix, range_end=prefix_end(prefix))
            if (await self._etcd.txn(Txn(compare=compare, success=(gone,)))).succeeded:
                log.info("content of a release that was never made removed", scope=str(scope))
        mine = releases_prefix(scope)
        self._orphans = {
            prefix: at for prefix, at in self._orphans.items() if prefix in there or not prefix.startswith(mine)
        }

    async def _contents(self, scope: Scope) -> list[bytes]:
        """The prefixes of all contents of a scope."""
        prefix = releases_prefix(scope) + b"c/"
        key = prefix
        found: list[bytes] = []
        while True:
            page = await self._etcd.range(Range(key=key, range_end=prefix_end(prefix), limit=1, keys_only=True))
            if not page.kvs:
                return found
            name, slash, _ = page.kvs[0].key[len(prefix) :].partition(b"/")
            if slash:
                found.append(prefix + name + slash)
            # What somebody put beside the contents is none, and stays.
            key = prefix_end(prefix + name + slash) if slash else page.kvs[0].key + b"\0"

    def _fence(self) -> tuple[Compare, ...]:
        """Holds while it is our turn."""
        return (txns.at(self._key, self._held),)


def _manifest(stored: bytes) -> Manifest | None:
    try:
        return decode_manifest(stored)
    except Unreadable:
        return None
