"""What a write is planned on: a scope at one revision by linearizable reads, and its past states.

A past state is a checkpoint and the contents of the releases after it, replayed. What the head's release left is
remembered per scope, bounded in bytes, so that a series of writes does not read its history each time.
"""

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from configsvc.core.commands import Stored, View
from configsvc.core.model import (
    Head,
    Scope,
    Unreadable,
    content_prefix,
    decode_head,
    epoch_path,
    head_path,
    labels_prefix,
    locate,
    manifests_prefix,
    overrides_prefix,
    schema_path,
    scope_prefix,
)
from configsvc.core.release import (
    DEPLOYING,
    Label,
    Manifest,
    Written,
    chain,
    decode_content,
    decode_label,
    decode_manifest,
    decode_override,
    manifest_name,
    overrides_of,
    replay,
    size_of,
)
from configsvc.errors import NotFound
from configsvc.etcd.ops import Compacted, Etcd, Header, KeyValue, Range, RangeResult, Refused, Txn, prefix_end
from configsvc.writes.threads import off_loop, weight

REMEMBERED_BYTES = 64 * 1024 * 1024
"""How much of the scopes' deployed states is kept in memory."""
PAGE = 100
"""Manifests in one read."""
TRIES = 5
SMALL_KEYS, SMALL_BYTES = 500, 256 * 1024
"""Up to here a scope is small."""
MAX_SMALL = 10_000


class Past(NamedTuple):
    """A scope as a release left it, and what its history since the last checkpoint comes to.

    `since` and `changed_bytes` count the releases and the bytes of their contents after the checkpoint.
    """

    id: str
    number: int
    entries: dict[str, bytes]
    since: int = 0
    changed_bytes: int = 0


class Found(NamedTuple):
    """A manifest, the revision at which it was created, and the one from which readers see its release.

    A window puts it again when it closes: until then the second is that of the opening too.
    """

    manifest: Manifest
    created: int
    revision: int


class Reading:
    """Reads scopes and their history. All methods raise `EtcdError` kinds."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._pasts: OrderedDict[Scope, tuple[int, Past]] = OrderedDict()
        self._small: dict[Scope, int] = {}

    # ---- now --------------------------------------------------------------------------------------------------------

    async def view(
        self, scope: Scope, *, label: str | None = None, max_recent: int = 0, since: str = "", records: bool = True
    ) -> View:
        """The scope now, at one revision. `since` is the time from which releases count as recent, by RFC 3339.

        Without `records` it is not for plans: pending overrides have theirs only where etcd lets us read them.
        """
        for left in reversed(range(TRIES)):
            try:
                return await self._view(scope, label, max_recent, since, records)
            except Compacted:
                if not left:
                    raise
        raise AssertionError("unreachable")

    async def _view(self, scope: Scope, label: str | None, max_recent: int, since: str, records: bool) -> View:
        manifests = manifests_prefix(scope)
        reads: tuple[Range, ...] = (
            Range(key=head_path(scope)),
            Range(key=schema_path(scope.namespace)),
            Range(key=epoch_path(scope.namespace)),
            Range(
                key=manifests,
                range_end=prefix_end(manifests),
                limit=max(1, max_recent),
                sort_order="DESCEND",
            ),
            Range(key=labels_prefix(scope) + (label or "").encode()),
            Range(key=manifests, range_end=prefix_end(manifests), limit=1, keys_only=True),
        )
        # A small scope comes in the same answer: each further question is a round trip more for its writer.
        small = self._small.get(scope, 0) if records else 0
        if small:
            reads += (_below(scope_prefix(scope), small), _below(overrides_prefix(scope), small))
        answer = await self._etcd.txn(Txn(success=reads))
        head_kv, schema_kv, epoch_kv, label_kv = (_first(_read(answer.responses[i])) for i in (0, 1, 2, 4))
        newest = _read(answer.responses[3]).kvs
        revision = answer.header.revision
        stored, pending = [_read(one) for one in answer.responses[len(reads) - 2 :]] if small else (None, None)
        if stored is None or stored.more:
            stored = await self._etcd.list(scope_prefix(scope), revision=revision)
        if pending is None or pending.more:
            pending = await self._pending(scope, revision, records)
        self._note_size(scope, stored.kvs)
        head = decoded(head_kv)
        past = await self._past(scope, head.release, head.id, revision) if head and head.release else None
        expected: Mapping[str, bytes] | None = {}
        if head and head.release:
            expected = past.entries if past else None
        view = View(
            scope=scope,
            revision=revision,
            cluster_id=answer.header.cluster_id,
            head=head,
            head_raw=head_kv.value if head_kv else None,
            head_mod=head_kv.mod_revision if head_kv else 0,
            oldest=max((_number(kv.key) for kv in _read(answer.responses[5]).kvs), default=0),
            newest=max((_number(kv.key) for kv in newest), default=0),
            entries=await off_loop(len(stored.kvs), _entries, stored.kvs),
            expected=expected,
            overrides=overrides_of(((kv.key, kv.value) for kv in pending.kvs), scope),
            schema=schema_kv.value if schema_kv else None,
            schema_mod=schema_kv.mod_revision if schema_kv else 0,
            epoch=epoch_kv.value if epoch_kv else None,
            label=_label(label_kv) if label else None,
            label_mod=label_kv.mod_revision if label and label_kv else 0,
            recent=sum(_is_since(kv, since) for kv in newest) if max_recent else 0,
        )
        # Without a head that reads nobody can say what the last release left.
        return msgspec.structs.replace(view, expected=None) if view.is_headless else view

    async def head(self, scope: Scope) -> KeyValue | None:
        """The scope's head as it is stored now."""
        return _first(await self._etcd.range(Range(key=head_path(scope))))

    async def _pending(self, scope: Scope, revision: int, records: bool) -> RangeResult:
        try:
            return await self._etcd.list(overrides_prefix(scope), revision=revision)
        except Refused:
            if records:
                raise
            return RangeResult(header=Header())

    def _note_size(self, scope: Scope, kvs: Sequence[KeyValue]) -> None:
        """How many keys to ask for at once next time; none where that could be much at once."""
        self._small.pop(scope, None)
        if len(kvs) <= SMALL_KEYS and sum(len(kv.value) for kv in kvs) <= SMALL_BYTES:
            self._small[scope] = SMALL_KEYS
            if len(self._small) > MAX_SMALL:
                del self._small[next(iter(self._small))]

    # ---- the past ---------------------------------------------------------------------------------------------------

    async def manifest(self, scope: Scope, number: int, *, revision: int = 0) -> Found | None:
        """The manifest of a release; None where there is none (any more), or none that reads."""
        kv = _first(
            await self._etcd.range(Range(key=manifests_prefix(scope) + manifest_name(number), revision=revision))
        )
        return _manifest(kv) if kv else None

    async def is_made(self, scope: Scope, head: Head, manifest: Manifest) -> bool:
        """Whether a release came to be: a window whose head was lost leaves a manifest that none after it stands on."""
        if manifest.number >= head.release:
            return manifest.id == head.id
        after = await self.manifest(scope, manifest.number + 1)
        return after is None or after.manifest.base == manifest.number

    async def made(self, scope: Scope, number: int) -> Manifest | None:
        """The manifest of a release that came to be; None where there is none (any more), or it is being applied."""
        found = await self.manifest(scope, number)
        head = decoded(await self.head(scope))
        # Without a head that reads nobody can say which of them did.
        if found is None or head is None or not head.release or await self.is_made(scope, head, found.manifest):
            return found.manifest if found else None
        return None

    async def labelled(self, scope: Scope, label: str) -> Label | None:
        """What a version label means; None where it was never used."""
        return _label(_first(await self._etcd.range(Range(key=labels_prefix(scope) + label.encode()))))

    async def manifests(self, scope: Scope, before: int, *, revision: int = 0) -> AsyncIterator[Found]:
        """The manifests of the releases below `before`, newest first."""
        prefix = manifests_prefix(scope)
        end = prefix + manifest_name(before)
        while True:
            page = await self._etcd.range(
                Range(key=prefix, range_end=end, revision=revision, limit=PAGE, sort_order="DESCEND")
            )
            for kv in page.kvs:
                if found := _manifest(kv):
                    yield found
            if not page.more or not page.kvs:
                return
            end = page.kvs[-1].key

    async def content(self, scope: Scope, content_id: str, *, revision: int = 0) -> list[Written] | None:
        """What a release wrote; None where its content is not there, or is cut short. Without an id it is nothing."""
        if not content_id:
            return []
        chunks = (await self._etcd.list(content_prefix(scope, content_id), revision=revision)).kvs
        try:
            stored = (kv.value for kv in chunks)
            return await off_loop(weight(stored), _joined, chunks) if chunks else None
        except Unreadable:
            return None

    async def state_at(self, scope: Scope, number: int) -> dict[str, bytes]:
        """The entries as release `number` left them. Raises `NotFound` where there is none, or it is not kept."""
        found = await self.made(scope, number)
        past = await self._past(scope, number, found.id, 0) if found else None
        if past is not None:
            return past.entries
        raise await self.missing(scope, number)

    async def deployed_at(self, scope: Scope, manifest: Manifest) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """The entries that a release deployed, and the keys of which it kept an override as it was.

        Those have what was to come back, the others are as the release left them. Raises as `state_at` does.
        """
        # By its id: a release that was being applied when it was found may be another one now.
        past = await self._past(scope, manifest.number, manifest.id, 0)
        if past is None:
            raise await self.missing(scope, manifest.number)
        state = past.entries
        if manifest.kind not in (*DEPLOYING, "repair"):
            return state, ()
        prefix = overrides_prefix(scope).decode()
        content = await self.content(scope, manifest.content) or ()
        state, kept = dict(state), []
        for key, _, new in content:
            if not key.startswith(prefix) or new is None:
                continue
            with contextlib.suppress(Unreadable):
                raw = decode_override(new).returns
                kept.append(name := key[len(prefix) :])
                state.pop(name, None)
                if raw is not None:
                    state[name] = raw
        return state, tuple(sorted(kept))

    async def missing(self, scope: Scope, number: int) -> NotFound:
        """Why a release cannot be had: it never was, or it is not kept any more."""
        head = decoded(await self.head(scope))
        newest = head.release if head and head.release else await self._last(scope, "DESCEND")
        oldest = await self._last(scope, "ASCEND")
        if newest is None or number > newest or number < 1:
            return NotFound(f"{scope} has no release {number}", code="release_not_found", newest=newest)
        return NotFound(f"release {number} of {scope} is not kept any more", code="release_pruned", oldest=oldest)

    async def _last(self, scope: Scope, order: Literal["ASCEND", "DESCEND"]) -> int | None:
        """The number of the release that comes first in an order."""
        prefix = manifests_prefix(scope)
        ask = Range(key=prefix, range_end=prefix_end(prefix), limit=1, keys_only=True, sort_order=order)
        kv = _first(await self._etcd.range(ask))
        return _number(kv.key) if kv else None

    def remember(self, scope: Scope, past: Past) -> None:
        """Note what a release that was just made left."""
        size = sum(len(key) + len(raw) for key, raw in past.entries.items())
        self._pasts.pop(scope, None)
        self._pasts[scope] = (size, past)
        while len(self._pasts) > 1 and sum(size for size, _ in self._pasts.values()) > REMEMBERED_BYTES:
            self._pasts.popitem(last=False)

    def remembered(self, scope: Scope, id: str) -> Past | None:
        """What is remembered of a scope, if it is the state that release `id` left."""
        found = self._pasts.get(scope)
        return found[1] if found and found[1].id == id else None

    async def _past(self, scope: Scope, number: int, id: str, revision: int) -> Past | None:
        if known := self.remembered(scope, id):
            self._pasts.move_to_end(scope)
            return known
        manifests: list[Manifest] = []
        found: list[Manifest] | None = None
        async for one in self.manifests(scope, number + 1, revision=revision):
            manifests.append(one.manifest)
            if one.manifest.checkpoint is not None and (found := chain(manifests, number, id)):
                break
        if not found:
            return None
        whole = await self.content(scope, found[-1].checkpoint or "", revision=revision)
        contents = [await self.content(scope, step.content, revision=revision) for step in reversed(found[:-1])]
        if whole is None:
            return None
        steps: list[Sequence[Written]] = []
        for content in contents:
            if content is None:
                return None
            steps.append(content)
        after = await off_loop(sum(map(len, (whole, *steps))), replay, {}, whole, *steps)
        past = Past(id, number, after, len(steps), sum(map(size_of, steps)))
        current = self._pasts.get(scope)
        if current is None or current[1].number < number:
            self.remember(scope, past)
        return past


def decoded(stored: KeyValue | None) -> Head | None:
    """The head that is stored; None where there is none that reads."""
    try:
        return decode_head(stored.value) if stored else None
    except Unreadable:
        return None


def _joined(chunks: Sequence[KeyValue]) -> list[Written]:
    return decode_content(b"".join(kv.value for kv in chunks))


def _below(prefix: bytes, limit: int) -> Range:
    return Range(key=prefix, range_end=prefix_end(prefix), limit=limit)


def _read(result: RangeResult | None) -> RangeResult:
    assert result is not None
    return result


def _first(result: RangeResult) -> KeyValue | None:
    return result.kvs[0] if result.kvs else None


def _number(path: bytes) -> int:
    """The number in a manifest's etcd key; 0 in one that was made up."""
    name = path.rpartition(b"/")[2]
    return int(name) if len(name) == len(manifest_name(0)) and name.isdigit() else 0


def _manifest(kv: KeyValue) -> Found | None:
    try:
        return Found(decode_manifest(kv.value), kv.create_revision, kv.mod_revision)
    except Unreadable:
        return None


def _is_since(kv: KeyValue, since: str) -> bool:
    found = _manifest(kv)
    return found is not None and found.manifest.at >= since


def _label(kv: KeyValue | None) -> Label | None:
    try:
        return decode_label(kv.value) if kv else None
    except Unreadable:
        return None


def _entries(kvs: Sequence[KeyValue]) -> dict[str, Stored]:
    places = ((locate(kv.key), kv) for kv in kvs)
    return {place.name: Stored(kv.value, kv.mod_revision) for place, kv in places if place.kind == "entry"}
