"""The stored form of a release: its manifest, and its content as a byte stream of (key, old bytes, new bytes).

The content is cut into chunks of at most `CHUNK_BYTES` anywhere, also inside a record: `decode_content` takes the
joined bytes. A record is the key and the two values, each as a length (4 bytes, big-endian) and that many bytes; the
length `ABSENT` stands for "no value" and has no bytes. Values are raw, so that a value that is no UTF-8 comes back as
it was. Pure.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from configsvc.core.model import FORMAT, Unreadable

CHUNK_BYTES = 512 * 1024
ABSENT = 0xFFFF_FFFF


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of a release to read its content. Unknown fields are ignored, as in all stored formats."""

    format: int = FORMAT
    number: int
    id: str
    content: str


class Written(NamedTuple):
    """One key of a release: the bytes before and after it, None where the key was or is absent."""

    key: str
    old: bytes | None
    new: bytes | None


_decoder = msgspec.json.Decoder(Manifest)


def manifest_name(number: int) -> bytes:
    """The last part of a manifest's etcd key; zero-padded, so that names sort as numbers count."""
    return b"%012d" % number


def decode_manifest(stored: bytes) -> Manifest:
    """Decode a manifest; raises `Unreadable` for anything else."""
    try:
        return _decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no manifest: {error}") from None


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
