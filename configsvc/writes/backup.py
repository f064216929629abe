"""Backups of everything, or of one namespace, at one revision; and what becomes of the store when one is restored.

A restore is a release per scope, with the next number: values are the saved ones byte for byte, and so is the history,
where the scope had none here. Namespaces get new epochs, so that readers take the restored state for another history's.
Scopes that the backup does not have are left alone.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import msgspec
import structlog

from configsvc.core.backup import Contents, Head, Writing
from configsvc.core.commands import About, Command, Restore, View
from configsvc.core.model import (
    OVERRIDES,
    RELEASES,
    ROOT,
    Applying,
    Scope,
    Unreadable,
    content_prefix,
    decode_head,
    epoch_path,
    labels_prefix,
    locate,
    manifests_prefix,
    overrides_prefix,
    releases_prefix,
    schema_path,
)
from configsvc.core.model import Head as StoredHead
from configsvc.core.release import Override, decode_content, decode_manifest, decode_override, entries_of
from configsvc.errors import InvalidRequest
from configsvc.etcd.ops import Etcd, Put, Range, Txn
from configsvc.writes import txns
from configsvc.writes.telling import told
from configsvc.writes.writer import Outcome, Writer

log = structlog.get_logger()


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
            yield writing.add((kv.key, kv.value) for kv in page.kvs if not kv.lease)
    yield writing.end()


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """One scope of a backup: entries, records of releases by etcd key, and what was pending."""

    scope: Scope
    entries: dict[str, bytes]
    history: dict[bytes, bytes]
    overrides: dict[str, Override]
    version: str | None
    digest: str | None
    is_torn: bool
    """Saved while a release was being applied, and what was before cannot be told."""


def scopes_of(contents: Contents, namespace: str | None) -> list[Saved]:
    """The scopes of a backup, in order, of one namespace or all."""
    entries: dict[Scope, dict[str, bytes]] = {}
    heads: dict[Scope, bytes] = {}
    for key, value in contents.items.items():
        place = locate(key)
        if place.kind == "entry":
            entries.setdefault(place.scope, {})[place.name] = value
        elif place.kind == "head":
            heads[place.scope] = value
    return [
        _saved(scope, entries.get(scope, {}), heads.get(scope), contents.items)
        for scope in sorted(entries.keys() | heads.keys())
        if namespace in (None, scope.namespace)
    ]


def _saved(scope: Scope, entries: dict[str, bytes], stored_head: bytes | None, items: dict[bytes, bytes]) -> Saved:
    history = {key: value for key, value in items.items() if key.startswith(releases_prefix(scope))}
    overrides: dict[str, Override] = {}
    version = digest = None
    is_torn = False
    try:
        head = decode_head(stored_head) if stored_head else None
    except Unreadable:
        head = None
    if head is not None:
        version = head.shown_version
        if head.applying is not None:
            is_torn = not _undone(scope, head, head.applying, entries, history)
        manifest = history.get(txns.manifest_path(scope, head.release))
        if manifest is not None:
            digest = decode_manifest(manifest).digest
        prefix = overrides_prefix(scope)
        for key in head.overrides:
            if (stored := items.get(prefix + key.encode())) is not None:
                overrides[key] = decode_override(stored)
    return Saved(
        scope=scope,
        entries=entries,
        history=history,
        overrides=overrides,
        version=version if digest else None,
        digest=digest,
        is_torn=is_torn,
    )


def _undone(
    scope: Scope, head: StoredHead, applying: Applying, entries: dict[str, bytes], history: dict[bytes, bytes]
) -> bool:
    """Put entries and history back to before an apply window; whether that could be done."""
    path = txns.manifest_path(scope, head.next_release)
    try:
        manifest = decode_manifest(history[path])
        prefix = content_prefix(scope, manifest.content)
        chunks = [key for key in sorted(history) if key.startswith(prefix)]
        content = decode_content(b"".join(history[key] for key in chunks))
    except (KeyError, Unreadable):
        return False
    if manifest.id != applying.id or txns.digest(content) != applying.sha256:
        return False
    for name, old, _ in entries_of(content):
        if old is None:
            entries.pop(name, None)
        else:
            entries[name] = old
    for key in (path, *chunks):
        del history[key]
    return True


class Restoring:
    """Restores a backup into the store behind a writer."""

    def __init__(self, etcd: Etcd, writer: Writer) -> None:
        self._etcd = etcd
        self._writer = writer

    async def restore(
        self, contents: Contents, about: Callable[[], About], *, namespace: str | None, dry_run: bool
    ) -> list[Outcome]:
        """Make a release of each scope, one after the other; with `dry_run` only say what each would be.

        Raises as `Writer.write`: scopes before the one that failed are restored then, and the same call goes on.
        """
        saved = scopes_of(contents, namespace)
        if not saved:
            raise InvalidRequest(
                f"the backup has no scope{f' of {namespace}' if namespace else ''}", code="invalid_body"
            )
        for one in saved:
            if one.is_torn:
                raise InvalidRequest(
                    f"the backup was made while a release was being applied to {one.scope}, and the record of that "
                    "release is damaged: what was before cannot be told. Take another backup",
                    code="invalid_body",
                )
        if not dry_run:
            with told():
                for name in sorted({one.scope.namespace for one in saved}):
                    await self._restore_schema(name, contents.items.get(schema_path(name)))
        found = [await self._restore(one, contents.head, about(), dry_run=dry_run) for one in saved]
        if not dry_run:
            with told():
                for name in sorted({one.scope.namespace for one in saved}):
                    await self._renew_epoch(name)
        return found

    async def _restore(self, saved: Saved, head: Head, about: About, *, dry_run: bool) -> Outcome:
        if not dry_run:
            with told():
                await self._restore_history(saved)
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

    async def _restore_history(self, saved: Saved) -> None:
        """Put the records of releases back where the scope has none; contents before what names them.

        A restore that broke off left some of them, and no other release.
        """
        if not saved.history:
            return
        manifests = await self._etcd.list(manifests_prefix(saved.scope))
        if any(saved.history.get(kv.key) != kv.value for kv in manifests.kvs):
            return
        there = {kv.key for kv in (await self._etcd.list(releases_prefix(saved.scope))).kvs}
        missing = [item for item in saved.history.items() if item[0] not in there]
        last = (manifests_prefix(saved.scope), labels_prefix(saved.scope))
        for batch in _batches(sorted(missing, key=lambda item: item[0].startswith(last))):
            compare = tuple(txns.absent(key) for key, _ in batch)
            puts = tuple(Put(key=key, value=value) for key, value in batch)
            await self._etcd.txn(Txn(compare=compare, success=puts))

    async def _restore_schema(self, namespace: str, saved: bytes | None) -> None:
        path = schema_path(namespace)
        found = await self._etcd.range(Range(key=path))
        now = found.kvs[0] if found.kvs else None
        if saved is not None and (now is None or now.value != saved):
            compare = (txns.at(path, now.mod_revision if now else 0),)
            await self._etcd.txn(Txn(compare=compare, success=(Put(key=path, value=saved),)))

    async def _renew_epoch(self, namespace: str) -> None:
        path = epoch_path(namespace)
        found = await self._etcd.range(Range(key=path))
        compare = (txns.at(path, found.kvs[0].mod_revision if found.kvs else 0),)
        await self._etcd.txn(Txn(compare=compare, success=(Put(key=path, value=secrets.token_hex(16).encode()),)))


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
