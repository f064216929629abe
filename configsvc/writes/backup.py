"""Backups of everything, or of one namespace, at one revision; and what becomes of the store when one is restored.

A restore is a release per scope, with the next number: values are the saved ones byte for byte, and so is the history,
where the scope had none here. Namespaces get new epochs, so that readers take the restored state for another history's.
Scopes that the backup does not have are left alone.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Set
from typing import Any, TypeVar

import msgspec

from configsvc.core.backup import Contents, Head, Writing
from configsvc.core.commands import About, Command, Restore, View
from configsvc.core.documents import shown
from configsvc.core.draft import BY_HAND, names
from configsvc.core.model import (
    MAX_HEAD_BYTES,
    MAX_NUMBER,
    OVERRIDES,
    RELEASES,
    ROOT,
    Applying,
    Scope,
    Unreadable,
    content_prefix,
    decode_head,
    epoch_path,
    head_path,
    labels_prefix,
    locate,
    manifests_prefix,
    releases_prefix,
    schema_path,
)
from configsvc.core.model import Head as StoredHead
from configsvc.core.release import (
    Override,
    chain,
    decode_content,
    decode_manifest,
    overrides_of,
    pending,
    replay,
)
from configsvc.errors import ConfigSvcError, Conflict, InvalidRequest
from configsvc.etcd.ops import Etcd, Put, Range, Txn
from configsvc.writes import txns
from configsvc.writes.telling import told
from configsvc.writes.writer import Outcome, Writer

MAX_DIGITS = 12
"""Of the number of a release, in its key."""
MAX_NAMED_BYTES = MAX_HEAD_BYTES // 2
"""Of the names of overrides, where values that were put by hand are among them: a head must have room for the rest."""

K = TypeVar("K")
T = TypeVar("T")


def prefixes(namespace: str | None) -> tuple[bytes, ...]:
    """What a backup holds: values, releases, pending overrides."""
    return tuple(f"{root}{namespace}/".encode() if namespace else root.encode() for root in (ROOT, RELEASES, OVERRIDES))


async def file(etcd: Etcd, *, namespace: str | None, by: str, at: str) -> AsyncIterator[bytes]:
    """The file, piece by piece, all as of one revision. Raises `EtcdError` kinds; what was sent then has no end."""
    first = await etcd.range(Range(key=prefixes(namespace)[0], limit=1, keys_only=True))
    revision = first.header.revision
    writing = Writing(
        Head(created_at=at, cluster_id=first.header.cluster_id, revision=revision, namespace=namespace, by=by)
    )
    for prefix in prefixes(namespace):
        async for page in etcd.pages(prefix, revision=revision):
            # What is on a lease is a writer's sign of life, or our turn as a janitor: nobody's in another store.
            items = [(kv.key, kv.value) for kv in page.kvs if not kv.lease]
            yield await asyncio.to_thread(writing.add, items)
    yield await asyncio.to_thread(writing.end)


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """One scope of a backup: entries, records of releases by etcd key, what was pending, and its own keys' patterns.

    What was put by hand is pending too: it is not what the release or its label stands for.
    """

    scope: Scope
    entries: dict[str, bytes]
    history: dict[bytes, bytes]
    overrides: dict[str, Override]
    own: list[str]
    version: str | None
    digest: str | None
    is_torn: bool
    """Saved while a release was being applied, and what was before cannot be told."""


class _Records(msgspec.Struct):
    """What a backup has of one scope, by etcd key but for the entries."""

    entries: dict[str, bytes] = {}
    head: bytes | None = None
    history: dict[bytes, bytes] = {}
    pending: dict[bytes, bytes] = {}


def scopes_of(contents: Contents, namespace: str | None) -> list[Saved]:
    """The scopes of a backup, in order, of one namespace or all."""
    found: dict[Scope, _Records] = {}
    for key, value in contents.items.items():
        place = locate(key)
        if place.kind == "entry":
            found.setdefault(place.scope, _Records()).entries[place.name] = value
        elif place.kind == "head":
            found.setdefault(place.scope, _Records()).head = value
        elif (beside := _beside(key)) is not None:
            root, scope = beside
            records = found.setdefault(scope, _Records())
            (records.history if root == RELEASES else records.pending)[key] = value
    return [
        _saved(scope, records)
        for scope, records in sorted(found.items(), key=lambda item: item[0])
        if (records.entries or records.head is not None) and namespace in (None, scope.namespace)
    ]


def _beside(key: bytes) -> tuple[str, Scope] | None:
    """Which scope a record beside the values is of; None for what no store needs back."""
    for root in (RELEASES, OVERRIDES):
        if key.startswith(root.encode()):
            namespace, _, rest = key[len(root) :].partition(b"/")
            environment, _, name = rest.partition(b"/")
            if root == OVERRIDES or name.startswith((b"n/", b"c/", b"l/")):
                return root, Scope(namespace.decode(errors="replace"), environment.decode(errors="replace"))
    return None


def _saved(scope: Scope, records: _Records) -> Saved:
    version = digest = None
    is_torn = False
    # What does not read is put back as it is, like every record, and says nothing here.
    head = _readable(decode_head, records.head)
    if head is not None:
        version = head.shown_version
        if head.applying is not None:
            is_torn = not _undone(scope, head, head.applying, records)
        if manifest := _readable(decode_manifest, records.history.get(txns.manifest_path(scope, head.release))):
            digest = manifest.digest
    found = overrides_of(records.pending.items(), scope)
    # Without a head that reads, what is pending is known by its records alone.
    named = pending(head.overrides, found) if head is not None and head.release else found
    overrides = {key: found[key] for key in named if key in found}
    if head is not None and (left := _left(scope, head, records.history)) is not None:
        hands = {key for key in records.entries.keys() | left.keys() if records.entries.get(key) != left.get(key)}
        overrides, is_known = _with_hands(head, overrides, hands, left)
        # What is then taken for deployed is no longer the state that was submitted under the label.
        digest = digest if is_known else None
    return Saved(
        scope=scope,
        entries=records.entries,
        history=records.history,
        overrides=overrides,
        own=head.own if head is not None else [],
        version=version if digest else None,
        digest=digest,
        is_torn=is_torn,
    )


def _left(scope: Scope, head: StoredHead, history: Mapping[bytes, bytes]) -> dict[str, bytes] | None:
    """The entries as the head's release left them; None where the saved history cannot tell."""
    prefix = manifests_prefix(scope)
    newest_first = (
        _readable(decode_manifest, history[key]) for key in sorted(history, reverse=True) if key.startswith(prefix)
    )
    found = chain((one for one in newest_first if one is not None), head.release, head.id) if head.release else None
    if found is None:
        return None
    chunks: dict[bytes, list[bytes]] = {}
    for key in sorted(history):
        chunks.setdefault(key.rpartition(b"/")[0] + b"/", []).append(history[key])
    ids = [found[-1].checkpoint or "", *(one.content for one in reversed(found[:-1]))]
    try:
        # Without an id it is nothing.
        return replay({}, *(decode_content(b"".join(chunks[content_prefix(scope, id)])) for id in ids if id))
    except (KeyError, Unreadable):
        return None


def _with_hands(
    head: StoredHead, overrides: dict[str, Override], hands: Set[str], left: Mapping[str, bytes]
) -> tuple[dict[str, Override], bool]:
    """What is pending, with what was put by hand since the head's release, and whether that is all of it.

    A hand's value over an override has no timer: that was another value's. Before the first deploy it overrides
    nothing. Where there are more of them than a head could well name, those that override nothing else are left out.
    """
    found = {key: one for key, one in overrides.items() if key not in hands}
    if not head.deployed:
        return found, True
    by_hand = {"by": "somebody", "reason": BY_HAND, "expires_at": None}
    found |= {key: msgspec.structs.replace(overrides[key], **by_hand) for key in hands & overrides.keys()}
    others = hands - overrides.keys()
    # The number will be the restore's.
    if others and len(msgspec.json.encode(dict.fromkeys(found.keys() | others, MAX_NUMBER))) > MAX_NAMED_BYTES:
        return found, False
    for key in others:
        found[key] = Override(release=head.release, returns=left.get(key), by="somebody", reason=BY_HAND)
    return found, True


def _readable(decode: Callable[[bytes], T], stored: bytes | None) -> T | None:
    try:
        return decode(stored) if stored is not None else None
    except Unreadable:
        return None


def _undone(scope: Scope, head: StoredHead, applying: Applying, records: _Records) -> bool:
    """Put what a backup has of a scope back to before an apply window; whether that could be done."""
    path = txns.manifest_path(scope, head.next_release)
    try:
        manifest = decode_manifest(records.history[path])
        prefix = content_prefix(scope, manifest.content)
        chunks = [key for key in sorted(records.history) if key.startswith(prefix)]
        content = decode_content(b"".join(records.history[key] for key in chunks))
    except (KeyError, Unreadable):
        return False
    if manifest.id != applying.id or txns.digest(content) != applying.sha256:
        return False
    for name, old, _ in content:
        if not name.startswith("/"):
            _put_back(records.entries, name, old)
        elif name.startswith(OVERRIDES):
            _put_back(records.pending, name.encode(), old)
    for key in (path, *chunks):
        del records.history[key]
    return True


def _put_back(records: dict[K, bytes], key: K, old: bytes | None) -> None:
    if old is None:
        records.pop(key, None)
    else:
        records[key] = old


class Restoring:
    """Restores a backup into the store behind a writer."""

    def __init__(self, etcd: Etcd, writer: Writer) -> None:
        self._etcd = etcd
        self._writer = writer

    async def restore(
        self, contents: Contents, about: Callable[[], About], *, namespace: str | None, dry_run: bool
    ) -> list[Outcome]:
        """Make a release of each scope, one after the other; with `dry_run` only say what each would be.

        What stands in the way of one is said before any is restored. Raises as `Writer.write`, and for the first of
        those; where etcd fails in between, the scopes before are restored, and the same call goes on.
        """
        saved = await asyncio.to_thread(scopes_of, contents, namespace)
        if not saved:
            raise InvalidRequest(
                f"the backup has no scope{f' of {namespace}' if namespace else ''}", code="invalid_body"
            )
        namespaces = sorted({one.scope.namespace for one in saved})
        schemas = {name: contents.items.get(schema_path(name)) for name in namespaces}
        _check(saved, schemas)
        planned = [await self._planned(one, contents.head, about()) for one in saved]
        if dry_run:
            return planned
        for plan in (outcome.plan for outcome in planned):
            if plan and plan.blocked:
                raise plan.blocked[0]
        with told():
            for name, schema in schemas.items():
                await self._restore_schema(name, schema)
        found: list[Outcome] = []
        for one in saved:
            try:
                with told():
                    await self._restore_history(one)
                found.append(await self._restore(one, contents.head, about(), dry_run=False))
                # Without them the next promotion would overwrite what differs on purpose.
                if one.own and not (await self._writer.head(one.scope)).own:
                    await self._writer.own_keys(one.scope, one.own)
            except ConfigSvcError as error:
                if done := [str(other.scope) for other in found]:
                    error.detail = f"{one.scope}: {error.detail}. Restored before it: {names(done)}; send it again"
                    error.fields["restored"] = done
                raise
        with told():
            for name in schemas:
                await self._renew_epoch(name)
        return found

    async def _planned(self, saved: Saved, head: Head, about: About) -> Outcome:
        found = await self._restore(saved, head, about, dry_run=True)
        assert found.plan is not None
        for record in found.plan.content():
            if record.old != record.new:
                _check_size(txns.path_of(saved.scope, record), record.new or b"", head_path(saved.scope))
        with told():
            returns = await self._returns(saved)
        if found.unchanged or not returns:
            return found
        # The restored history comes first, and has numbers of its own.
        names = (key.rpartition(b"/")[2] for key in saved.history if key.startswith(manifests_prefix(saved.scope)))
        newest = max((int(name) for name in names if name.isdigit() and len(name) <= MAX_DIGITS), default=0)
        return msgspec.structs.replace(found, release=max(found.release or 0, newest + 1))

    async def _restore(self, saved: Saved, head: Head, about: About, *, dry_run: bool) -> Outcome:
        now = self._writer.now()
        over = {key: one for key, one in saved.overrides.items() if one.expires_at and one.expires_at <= now}
        entries = dict(saved.entries)
        for key, one in over.items():
            entries.pop(key, None)
            if one.returns is not None:
                entries[key] = one.returns
        command = Restore(
            entries=entries,
            version=saved.version,
            digest=saved.digest,
            source=f"backup of {head.created_at} at revision {head.revision}",
            overrides={key: one for key, one in saved.overrides.items() if key not in over},
            ended=tuple(sorted(over)),
        )

        async def prepare(view: View) -> Command:
            return command

        return await self._writer.write(saved.scope, prepare, about, label=command.version, dry_run=dry_run)

    async def _returns(self, saved: Saved) -> bool:
        """Whether the history comes back: where the scope has none, or what a restore that broke off left of it."""
        manifests = await self._etcd.list(manifests_prefix(saved.scope))
        return bool(saved.history) and all(saved.history.get(kv.key) == kv.value for kv in manifests.kvs)

    async def _restore_history(self, saved: Saved) -> None:
        """Put the records of releases back where they come back at all; contents before what names them."""
        if not await self._returns(saved):
            return
        there = {kv.key for kv in (await self._etcd.list(releases_prefix(saved.scope))).kvs}
        missing = [item for item in saved.history.items() if item[0] not in there]
        last = (manifests_prefix(saved.scope), labels_prefix(saved.scope))
        for batch in _batches(sorted(missing, key=lambda item: item[0].startswith(last))):
            compare = tuple(txns.absent(key) for key, _ in batch)
            puts = tuple(Put(key=key, value=value) for key, value in batch)
            if not (await self._etcd.txn(Txn(compare=compare, success=puts))).succeeded:
                raise _moved(f"releases of {saved.scope}")

    async def _restore_schema(self, namespace: str, saved: bytes | None) -> None:
        path = schema_path(namespace)
        found = await self._etcd.range(Range(key=path))
        now = found.kvs[0] if found.kvs else None
        if saved is not None and (now is None or now.value != saved):
            compare = (txns.at(path, now.mod_revision if now else 0),)
            if not (await self._etcd.txn(Txn(compare=compare, success=(Put(key=path, value=saved),)))).succeeded:
                raise _moved(f"the schema of {namespace}")

    async def _renew_epoch(self, namespace: str) -> None:
        path = epoch_path(namespace)
        found = await self._etcd.range(Range(key=path))
        compare = (txns.at(path, found.kvs[0].mod_revision if found.kvs else 0),)
        # Where somebody else has renewed it meanwhile, it is a new one too.
        await self._etcd.txn(Txn(compare=compare, success=(Put(key=path, value=secrets.token_hex(16).encode()),)))


def _check(saved: Iterable[Saved], schemas: Mapping[str, bytes | None]) -> None:
    """Raise `InvalidRequest` for a backup that could not be restored as a whole."""
    for one in saved:
        if one.is_torn:
            raise InvalidRequest(
                f"the backup was made while a release was being applied to {one.scope}, and the record of that "
                "release is damaged: what was before cannot be told. Take another backup",
                code="invalid_body",
            )
        for key, value in one.history.items():
            _check_size(key, value)
    for name, schema in schemas.items():
        _check_size(schema_path(name), schema or b"")


def _check_size(key: bytes, value: bytes, *fence: bytes) -> None:
    compare = tuple(txns.absent(path) for path in (key, *fence))
    if not txns.fits(Txn(compare=compare, success=(Put(key=key, value=value),))):
        name = key.decode(errors="replace")
        raise InvalidRequest(
            f"the backup has {len(value)} bytes under {shown(name)}, more than etcd takes in one request",
            code="invalid_body",
        )


def _moved(what: str) -> Conflict:
    return Conflict(f"{what} came from somebody else during the restore; send it again", code="write_conflict")


def _batches(items: Iterable[tuple[bytes, bytes]]) -> Iterable[list[tuple[bytes, bytes]]]:
    """Records in transactions of bounded size, in their order."""
    batch: list[tuple[bytes, bytes]] = []
    size = 0
    for item in items:
        cost = len(item[0]) * 2 + len(item[1]) + 128
        if batch and (len(batch) == 50 or size + cost > 1_000_000):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += cost
    if batch:
        yield batch


def answer_of(found: Outcome) -> dict[str, Any]:
    """One scope of a restore, as the answer tells it."""
    return {
        "namespace": found.scope.namespace,
        "environment": found.scope.environment,
        "release": None if found.plan and found.unchanged else found.release,
        "changed": len(found.changes),
        "unchanged": found.unchanged,
        "warnings": found.warnings,
        "blocked": [error.detail for error in found.plan.blocked] if found.plan else [],
    }
