"""A backup as a file: gzip of JSON lines, the first what it is, then a line per etcd key, the last a checksum of all.

A file that was cut short has no last line, and one that was changed another checksum: both are refused as a whole. Keys
and values are base64 of the bytes that etcd had, so that whatever was stored comes back as it was. Pure.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from configsvc.errors import InvalidRequest

FORMAT = 1
SUFFIX = ".configsvc.gz"
BLOCK_BYTES = 64 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024
"""A line is one key of etcd, which takes requests of 1.5 MiB, unless it is told to take more."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of: the revision of etcd, its cluster, when, and of which namespace (None: all)."""

    configsvc_backup: int = FORMAT
    created_at: str
    cluster_id: str
    revision: int
    namespace: str | None = None
    by: str = ""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One key of etcd with its value."""

    k: bytes
    v: bytes


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """The end: how many keys there are, and the SHA-256 of every line before this one."""

    count: int
    sha256: str


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was read and is whole."""

    head: Head
    items: dict[bytes, bytes]


_encoder = msgspec.json.Encoder()


class Writing:
    """Makes the file piece by piece; the pieces in order are the file."""

    def __init__(self, head: Head) -> None:
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._digest = hashlib.sha256()
        self._count = 0
        self._pending = bytearray()
        self._line(head)

    def add(self, items: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The next bytes of the file, with these keys in it."""
        for key, value in items:
            self._line(Item(k=key, v=value))
            self._count += 1
        return self._take(zlib.Z_NO_FLUSH)

    def end(self) -> bytes:
        """The last bytes of the file."""
        self._line(Tail(count=self._count, sha256=self._digest.hexdigest()), counts=False)
        return self._take(zlib.Z_FINISH)

    def _line(self, record: Head | Item | Tail, *, counts: bool = True) -> None:
        line = _encoder.encode(record) + b"\n"
        if counts:
            self._digest.update(line)
        self._pending += line

    def _take(self, mode: int) -> bytes:
        found = self._deflate.compress(bytes(self._pending))
        self._pending.clear()
        return found + self._deflate.flush(mode) if mode != zlib.Z_NO_FLUSH else found


def read(file: bytes, max_bytes: int) -> Contents:
    """Read a whole backup; `max_bytes` bounds what it may unpack to.

    Raises `InvalidRequest` (`invalid_body`) for what is no backup, is cut short, was changed, or has a later format.
    """
    digest = hashlib.sha256()
    head: Head | None = None
    tail: Tail | None = None
    items: dict[bytes, bytes] = {}
    for line in _lines(file, max_bytes):
        if tail is not None:
            raise _wrong("something follows its last line")
        try:
            if head is None:
                head = _head(line)
            elif line.startswith(b'{"count"'):
                tail = msgspec.json.decode(line, type=Tail)
                continue
            else:
                item = msgspec.json.decode(line, type=Item)
                items[item.k] = item.v
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _wrong(f"line {len(items) + 2} cannot be read ({error})") from None
        digest.update(line + b"\n")
    if head is None or tail is None:
        raise _wrong("it is cut short: its last line is missing")
    if tail.sha256 != digest.hexdigest() or tail.count != len(items):
        raise _wrong("its checksum does not fit: it was changed or damaged")
    return Contents(head=head, items=items)


def _head(line: bytes) -> Head:
    try:
        head = msgspec.json.decode(line, type=Head)
    except msgspec.MsgspecError:
        raise _wrong("it does not begin as one") from None
    if head.configsvc_backup > FORMAT:
        raise _wrong(f"it has format {head.configsvc_backup}, and this service reads up to {FORMAT}; use a newer one")
    return head


def _lines(file: bytes, max_bytes: int) -> Iterator[bytes]:
    inflate = zlib.decompressobj(31)
    pending = bytearray()
    total = 0
    try:
        for piece in _pieces(file, inflate):
            total += len(piece)
            if total > max_bytes:
                raise _wrong(f"it unpacks to more than {max_bytes} bytes")
            pending += piece
            if len(pending) > MAX_LINE_BYTES:
                raise _wrong(f"a line of it has more than {MAX_LINE_BYTES} bytes")
            if b"\n" in piece:
                *lines, rest = bytes(pending).split(b"\n")
                pending = bytearray(rest)
                yield from lines
    except zlib.error:
        raise _wrong("it is no gzip file, or a damaged one") from None
    if pending or not inflate.eof:
        raise _wrong("it is cut short")


def _pieces(file: bytes, inflate: Any) -> Iterator[bytes]:
    """What a file unpacks to; in blocks both ways, because what is left of one is copied each time."""
    for start in range(0, len(file), BLOCK_BYTES):
        data = file[start : start + BLOCK_BYTES]
        if inflate.eof or inflate.unused_data:
            raise _wrong("something follows its end")
        while data and not inflate.eof:
            yield inflate.decompress(data, BLOCK_BYTES)
            data = inflate.unconsumed_tail
    if inflate.unused_data:
        raise _wrong("something follows its end")


def _wrong(why: str) -> InvalidRequest:
    return InvalidRequest(f"this is no backup that can be restored: {why}", code="invalid_body")
