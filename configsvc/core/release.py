"""The stored form of a release: its manifest, its content as a byte stream of (key, old bytes, new bytes), and what is
kept beside it: labels, pending overrides, answers to requests that may be repeated.

The content is cut into chunks of at most `CHUNK_BYTES` anywhere, also inside a record: `decode_content` takes the
joined bytes. A record is the key and the two values, each as a length (4 bytes, big-endian) and that many bytes; the
length `ABSENT` stands for "no value" and has no bytes. Values are raw, so that a value that is no UTF-8 comes back as
it was. A name that begins with `/` is a whole key of etcd, a record beside the values that changes with them: no
entry's key has a `/`. Pure.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeVar

import msgspec

from configsvc.core.model import FORMAT, Scope, Unreadable, is_key, overrides_prefix

CHUNK_BYTES = 512 * 1024
CHECKPOINT_EVERY = 50
CHECKPOINT_MIN_BYTES = 16 * 1024
"""Below, changes may outweigh the state: a checkpoint for each of them would be the larger waste."""
ABSENT = 0xFFFF_FFFF


Kind = Literal["deploy", "change", "emergency", "expiry", "delete", "rollback", "promote", "restore", "repair"]
DEPLOYING: frozenset[str] = frozenset({"deploy", "promote", "rollback", "restore"})
"""Kinds that say what the whole scope should be. What any other kind changes after one of them is an override."""
MAX_NAMES = 100
"""How many changed keys a manifest names; the content has all."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a release was: everything about it but the values. Unknown fields are ignored, as in all stored formats.

    `id` is the one in the head, `content` names the chunks with what it changed, and `checkpoint`, where there is one,
    those with all entries as they were after it. `digest` is that of the submitted state, for kinds that submit one.
    `base` is the release before it, `keys` the first of the `count` changed keys, and then of those that a hand had put
    and it took over. `source` says where it came from: `git_commit`, `approved_by`, `from` (an environment), `target`
    (the release that came back), `force`.
    """

    format: int = FORMAT
    number: int
    id: str
    content: str
    kind: str = ""
    version: str | None = None
    digest: str | None = None
    by: str = ""
    at: str = ""
    reason: str | None = None
    base: int = 0
    source: dict[str, str] = {}
    keys: list[str] = []
    count: int = 0
    checkpoint: str | None = None
    warnings: list[str] = []


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What a version label means: its newest release, and the digest of the state that was submitted under it."""

    format: int = FORMAT
    release: int
    digest: str


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """What comes back when an override ends: the bytes of the entry that was deployed, None for its absence.

    `release` is the one that set the override; a timer of an earlier one does nothing. `expires_at` is a time by RFC
    3339, None where only a deploy ends it.
    """

    format: int = FORMAT
    release: int
    returns: bytes | None = None
    expires_at: str | None = None
    by: str = ""
    reason: str | None = None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that carried an `Idempotency-Key`: what it asked for, and the release that it made.

    Where the request changed nothing, `release` is the scope's, and `revision` and `warnings` are what was told of it.
    Else the record's own `mod_revision` is the release's revision: it is put again when an apply window closes.
    """

    format: int = FORMAT
    request: str
    release: int | None
    id: str = ""
    unchanged: bool = False
    revision: int = 0
    warnings: list[str] = []


class Written(NamedTuple):
    """One key of a release: the bytes before and after it, None where the key was or is absent."""

    key: str
    old: bytes | None
    new: bytes | None


T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_manifest_decoder = msgspec.json.Decoder(Manifest)
_label_decoder = msgspec.json.Decoder(Label)
_override_decoder = msgspec.json.Decoder(Override)
_receipt_decoder = msgspec.json.Decoder(Receipt)


def manifest_name(number: int) -> bytes:
    """The last part of a manifest's etcd key; zero-padded, so that names sort as numbers count."""
    return b"%012d" % number


def encode_record(record: Manifest | Label | Override | Receipt) -> bytes:
    """The stored bytes of a record."""
    return _encoder.encode(record)


def _decode(decoder: msgspec.json.Decoder[T], stored: bytes, what: str) -> T:
    try:
        return decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no {what}: {error}") from None


def decode_manifest(stored: bytes) -> Manifest:
    """Decode a manifest; raises `Unreadable` for anything else."""
    return _decode(_manifest_decoder, stored, "manifest")


def decode_label(stored: bytes) -> Label:
    """Decode what a label means; raises `Unreadable` for anything else."""
    return _decode(_label_decoder, stored, "label")


def decode_override(stored: bytes) -> Override:
    """Decode a pending override; raises `Unreadable` for anything else."""
    return _decode(_override_decoder, stored, "override")


def decode_receipt(stored: bytes) -> Receipt:
    """Decode a receipt; raises `Unreadable` for anything else."""
    return _decode(_receipt_decoder, stored, "receipt")


def encode_content(records: Iterable[Written]) -> Iterator[bytes]:
    """The chunks of a release's content, each of `CHUNK_BYTES` but the last."""
    pending = bytearray()
    for record in records:
        for part in (record.key.encode(), record.old, record.new):
            pending += (ABSENT if part is None else len(part)).to_bytes(4, "big")
            pending += part or b""
        while len(pending) >= CHUNK_BYTES:
            yield bytes(pending[:CHUNK_BYTES])
            del pending[:CHUNK_BYTES]
    if pending:
        yield bytes(pending)


def decode_content(content: bytes) -> list[Written]:
    """The records of the joined chunks; raises `Unreadable` where they are cut short or no content."""
    records: list[Written] = []
    at = 0
    while at < len(content):
        parts: list[bytes | None] = []
        for _ in range(3):
            length = int.from_bytes(content[at : at + 4], "big")
            if at + 4 > len(content) or (length != ABSENT and at + 4 + length > len(content)):
                raise Unreadable(f"the content is cut short at byte {len(content)}")
            at += 4
            if length == ABSENT:
                parts.append(None)
            else:
                parts.append(content[at : at + length])
                at += length
        key, old, new = parts
        try:
            records.append(Written((key or b"").decode(), old, new))
        except UnicodeDecodeError:
            raise Unreadable(f"the content has a key that is not UTF-8 before byte {at}") from None
    return records


def entries_of(content: Iterable[Written]) -> Iterator[Written]:
    """The records about entries, without those about keys beside them."""
    return (record for record in content if not record.key.startswith("/"))


def overrides_of(records: Iterable[tuple[bytes, bytes]], scope: Scope) -> dict[str, Override]:
    """The overrides of a scope by key, of their records in etcd. What does not read is none."""
    prefix = len(overrides_prefix(scope))
    found: dict[str, Override] = {}
    for path, raw in records:
        with contextlib.suppress(Unreadable, UnicodeDecodeError):
            key = path[prefix:].decode()
            if is_key(key):
                found[key] = decode_override(raw)
    return found


def pending(known: Mapping[str, int], records: Mapping[str, Override]) -> dict[str, int]:
    """The overrides of a scope, each with the release that set it: those its head knows, and those that have a timer.

    Before the first deploy a head knows none, for nothing is overridden; a timer ends all the same.
    """
    return {key: one.release for key, one in records.items() if one.expires_at is not None} | dict(known)


def size_of(content: Iterable[Written]) -> int:
    """The bytes of keys and values, before and after."""
    return sum(len(record.key) + len(record.old or b"") + len(record.new or b"") for record in content)


def is_checkpoint_due(releases: int, changed_bytes: int, state_bytes: int) -> bool:
    """Whether a release keeps all entries: `releases` without one and their `changed_bytes`, this one included."""
    return releases >= CHECKPOINT_EVERY or changed_bytes > max(state_bytes, CHECKPOINT_MIN_BYTES)


def chain(manifests: Iterable[Manifest], number: int, id: str) -> list[Manifest] | None:
    """What a release stands on, newest first: itself, and those before it down to the first with a checkpoint.

    `manifests` come newest first. None where one of them is missing, or the release is another one.
    """
    found: list[Manifest] = []
    for one in manifests:
        if one.number > (found[-1].base if found else number):
            # Given up: the one after it does not stand on it.
            continue
        if found and one.number < found[-1].base:
            break
        found.append(one)
        if one.checkpoint is not None:
            break
    is_whole = found and (found[0].number, found[0].id) == (number, id) and found[-1].checkpoint is not None
    return found if is_whole else None


def replay(entries: Mapping[str, bytes], *contents: Iterable[Written]) -> dict[str, bytes]:
    """The entries after releases, oldest first, were applied to those before them."""
    state = dict(entries)
    for content in contents:
        for key, _, new in entries_of(content):
            if new is None:
                state.pop(key, None)
            else:
                state[key] = new
    return state
