"""Questions to etcd's past: is it still the history that was followed, and what is missing beside a listing?

A store that was restored or made anew is told from a member that lags by revisions, and by the prefix's fingerprint at
a revision that we know. What a replica needs beside a listing (`core/replica.py`: a scope as it was before an apply
window opened, the last readable value of an entry that does not parse) is looked for in etcd's own history first, then
in the content of the release concerned; where neither has it the answer is that there is none, never a guess. Reads
only.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, NoReturn

import structlog

from configsvc.core.continuity import Remembered
from configsvc.core.model import (
    Scope,
    Unreadable,
    content_prefix,
    decode_head,
    entry_path,
    locate,
    manifests_prefix,
    schema_path,
    scope_prefix,
)
from configsvc.core.records import FINGERPRINT_KEYS, Fingerprint, fingerprint_of
from configsvc.core.release import Written, decode_content, decode_manifest, entries_of, manifest_name
from configsvc.core.replica import ListedScope, Lost, Record, Window, read_entry
from configsvc.etcd.ops import (
    Compacted,
    Etcd,
    EtcdError,
    FutureRevision,
    Invalid,
    KeyValue,
    Member,
    Range,
    RangeResult,
    Refused,
    Unavailable,
    fingerprint,
)

MAX_STEPS = 50
"""How many unreadable versions of one key are passed over before its release is asked."""

log = structlog.get_logger()


class Fork(Exception):
    """The store is not a later state of the history that was followed."""


class Unfit(Unavailable):
    """This member cannot be followed now: it lags, or its data is not the other members'."""


async def newest_revision(etcd: Etcd, prefix: bytes, position: int, cluster_id: str) -> int:
    """The store's revision by linearizable reads; every other member is asked before one below `position` counts.

    An endpoint of another cluster has no say; 0 where no endpoint is of this one any more.
    """
    ask = Range(key=prefix, limit=1, keys_only=True)
    headers = [(await etcd.range(ask)).header]
    for member in etcd.members if len(etcd.members) > 1 else ():
        if headers[-1].revision >= position and headers[-1].cluster_id == cluster_id:
            break
        with contextlib.suppress(EtcdError):
            headers.append((await etcd.range(ask, member=member)).header)
    return max((header.revision for header in headers if header.cluster_id == cluster_id), default=0)


async def check_cluster(etcd: Etcd, prefix: bytes, cluster_id: str) -> None:
    """Some endpoint is not of `cluster_id`. Raises `Unfit` where another one still is; then that endpoint is wrong."""
    ask = Range(key=prefix, limit=1, keys_only=True)
    for member in etcd.members:
        try:
            header = (await etcd.range(ask, member=member)).header
        except EtcdError:
            continue
        if header.cluster_id == cluster_id:
            raise Unfit("an endpoint belongs to another cluster than the others")


async def check_not_rolled_back(etcd: Etcd, prefix: bytes, member: Member, position: int, cluster_id: str) -> NoReturn:
    """`member` is behind `position`: it lags (raises `Unfit`), or history was rolled back (raises `Fork`)."""
    newest = await newest_revision(etcd, prefix, position, cluster_id)
    if newest < position:
        raise Fork(f"the store is at revision {newest}, below {position}")
    raise Unfit("this member lags behind", endpoint=member.url)


class Known(NamedTuple):
    """What we had of a prefix at a revision: its fingerprint, and a key whose value no other history has."""

    revision: int
    mirror: Fingerprint
    witness: tuple[bytes, bytes] | None
    cluster_id: str


async def check_history(etcd: Etcd, prefix: bytes, member: Member, known: Known) -> None:
    """Compare the prefix on `member` with what we had: its number of keys, those that changed last, and the witness.

    Raises `Fork` where the store's history is another, `Unfit` where only this member's is, `Compacted` where the
    revision is gone, `Unavailable` where it could not be asked.
    """
    try:
        why = await _difference(etcd, prefix, member, known, serializable=True)
    except FutureRevision:
        await check_not_rolled_back(etcd, prefix, member, known.revision, known.cluster_id)
    if why is None:
        return
    for other in etcd.members:
        if other is member:
            continue
        try:
            same = await _difference(etcd, prefix, other, known, serializable=False) is None
        except EtcdError:
            continue
        if same:
            raise Unfit("this member's data differs from the other members'", endpoint=member.url)
        break
    raise Fork(why)


async def _difference(etcd: Etcd, prefix: bytes, member: Member, known: Known, *, serializable: bool) -> str | None:
    """Say how a member's past is another than ours; None where it is the same. Raises `Unavailable` elsewhere."""
    ask = fingerprint(prefix, revision=known.revision, serializable=serializable, limit=FINGERPRINT_KEYS)
    seen = await etcd.range(ask, member=member)
    if not serializable and seen.header.cluster_id != known.cluster_id:
        raise Unavailable("belongs to another cluster", endpoint=member.url)
    if identity(seen) != known.mirror:
        return f"at revision {known.revision} the store has {identity(seen)}, not {known.mirror}, or other ones"
    if known.witness is not None:
        key, value = known.witness
        found = await etcd.range(Range(key=key, revision=known.revision, serializable=serializable), member=member)
        if [kv.value for kv in found.kvs] != [value]:
            return f"at revision {known.revision} the store has another epoch key"
    return None


async def check_remembered(etcd: Etcd, scope: Scope, past: Remembered) -> None:
    """Compare a scope with what a file knows of it, at the revision that the file was proved at.

    Raises `Fork` where it was another then; a revision that is compacted away says nothing.
    """
    try:
        seen = await etcd.range(fingerprint(scope_prefix(scope), revision=past.proved))
    except Compacted:
        return
    newest = seen.kvs[0].mod_revision if seen.kvs else 0
    if (newest, seen.count) != (past.newest, past.count):
        raise Fork(
            f"at revision {past.proved} {scope} has {seen.count} keys, the newest at {newest}; "
            f"it had {past.count}, the newest at {past.newest}"
        )


def identity(result: RangeResult) -> Fingerprint:
    """What a fingerprint's answer says."""
    return fingerprint_of(((kv.key, kv.mod_revision) for kv in result.kvs), result.count)


def record(kv: KeyValue) -> Record:
    """A key as the replica takes it."""
    return Record(key=kv.key, value=kv.value, mod_revision=kv.mod_revision, create_revision=kv.create_revision)


async def before_window(etcd: Etcd, window: Window, listed: ListedScope) -> Sequence[Record] | None:
    """All records of a scope as they were before its apply window opened, and its namespace's schema as it was then.

    None where that cannot be known. An entry that was unreadable then comes twice: also as it last was readable.
    Without the schema where the state had to be rebuilt from the release's content.
    """
    try:
        result = await etcd.list(scope_prefix(window.scope), revision=window.revision)
        schema = await etcd.range(Range(key=schema_path(window.scope.namespace), revision=window.revision))
        records = [record(kv) for kv in result.kvs]
        for damaged in [one for one in records if locate(one.key).kind == "entry" and not _readable(one)]:
            key, revision = locate(damaged.key).name, damaged.mod_revision
            need = Lost(scope=window.scope, key=key, path=damaged.key, revision=revision)
            if earlier := await last_readable(etcd, need, None):
                records.append(earlier)
        return [*records, *map(record, schema.kvs)]
    except Compacted:
        log.info("apply window opened before the last compaction", release=window.release, revision=window.revision)
    content: Sequence[Written] | None = ()
    if window.applying.state != "opened":
        content = await _content(etcd, window.scope, window.release, window.applying.id)
    # Else nothing is applied yet, and its content may be of a plan that is found to be outdated.
    return None if content is None else _undo(window, listed, content)


def _undo(window: Window, listed: ListedScope, content: Iterable[Written]) -> list[Record] | None:
    """The listing with every key of the release put back. A record that is already the old one is kept as it is.

    None where a hand has put another key since the opening: what that was before, nobody knows any more.
    """
    records = dict(listed.records)
    written = list(entries_of(content))
    others = records.keys() - {one.key for one in written}
    if any(records[key].mod_revision > window.revision for key in others):
        return None
    for key, old, _ in written:
        present = records.get(key)
        if old is None:
            records.pop(key, None)
        elif present is None or present.value != old:
            records[key] = Record(key=entry_path(window.scope, key), value=old, mod_revision=window.revision)
    return list(records.values())


async def last_readable(etcd: Etcd, lost: Lost, release: int | None) -> Record | None:
    """The newest readable record of a key below `lost.revision`; None where there is none left.

    What etcd has forgotten is looked up in `release`, the one that the scope's head names.
    """
    revision = lost.revision - 1
    try:
        for _ in range(MAX_STEPS):
            result = await etcd.range(Range(key=lost.path, revision=revision))
            if not result.kvs:
                return None
            found = record(result.kvs[0])
            if _readable(found):
                return found
            revision = found.mod_revision - 1
    except Compacted:
        pass
    if release is None:
        return None
    for key, old, new in await _content(etcd, lost.scope, release, None) or ():
        if key == lost.key:
            for value in (new, old):
                candidate = Record(key=lost.path, value=value or b"", mod_revision=lost.revision)
                if value is not None and _readable(candidate):
                    return candidate
    return None


def _readable(candidate: Record) -> bool:
    try:
        read_entry(candidate)
    except Unreadable:
        return False
    return True


async def _content(etcd: Etcd, scope: Scope, release: int, id: str | None) -> list[Written] | None:
    """What a release wrote; None where its record is gone, unreadable, another's, or not ours to read."""
    try:
        result = await etcd.range(Range(key=manifests_prefix(scope) + manifest_name(release)))
        if not result.kvs:
            return None
        manifest = decode_manifest(result.kvs[0].value)
        if id is not None and manifest.id != id:
            return None
        chunks = await etcd.list(content_prefix(scope, manifest.content))
        return decode_content(b"".join(kv.value for kv in chunks.kvs)) if chunks.kvs else None
    except (Unreadable, Refused, Invalid) as error:
        log.warning("the record of a release cannot be read", release=release, error=str(error))
        return None


def release_of(head: Record | None) -> int | None:
    """The release that a stored head names; None where there is none, or no readable head."""
    try:
        return decode_head(head.value).shown_release if head else None
    except Unreadable:
        return None
