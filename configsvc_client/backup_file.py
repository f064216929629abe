"""A backup's file, checked from its first byte to its last as it comes: gzip of JSON lines, the last one a checksum.

Knows of the lines between only their bytes.
"""

import errno
import hashlib
import os
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import msgspec

from configsvc_client.admin_types import AdminError, Backup, BackupHead
from configsvc_client.options import is_name

BLOCK_BYTES = 256 * 1024
_MAX_LINE = 64 * 1024 * 1024
"""A line is one key of etcd, which takes requests of 1.5 MiB, unless it is told to take more."""


class _Tail(msgspec.Struct, frozen=True):
    count: int
    sha256: str


class Check:
    """Takes a file piece by piece, in any pieces, in bounded memory."""

    def __init__(self) -> None:
        self.size = 0
        self._inflate = zlib.decompressobj(31)
        self._digest = hashlib.sha256()
        self._lines = 0
        self._first = b""
        self._last = b""
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises `AdminError` (`invalid_backup`) as soon as something is wrong with them."""
        self.size += len(data)
        if self._inflate.eof and data:
            raise _wrong("something follows its end")
        try:
            while data and not self._inflate.eof:
                piece = self._inflate.decompress(data, BLOCK_BYTES)
                data = self._inflate.unconsumed_tail
                self._take(piece)
        except zlib.error:
            raise _wrong("it is no gzip file, or a damaged one") from None
        if self._inflate.unused_data:
            raise _wrong("something follows its end")

    def end(self, path: str) -> Backup:
        """What the file is, all of it having been fed; raises `AdminError` (`invalid_backup`)."""
        if not self._inflate.eof or self._rest:
            raise _wrong("it is cut short")
        try:
            tail = msgspec.json.decode(self._last, type=_Tail)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _wrong("it is cut short: its last line is missing") from None
        if tail.sha256 != self._digest.hexdigest() or tail.count != self._lines - 2:
            raise _wrong("its checksum does not fit: it was changed or damaged")
        try:
            head = msgspec.json.decode(self._first, type=BackupHead)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _wrong("it does not begin as one") from None
        return Backup(path=path, size=self.size, keys=tail.count, head=head)

    def _take(self, piece: bytes) -> None:
        self._rest += piece
        if len(self._rest) > _MAX_LINE:
            raise _wrong(f"a line of it has more than {_MAX_LINE} bytes")
        if b"\n" not in piece:
            return
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        for line in lines:
            # The last line is no part of what it sums up.
            if self._lines:
                self._digest.update(self._last + b"\n")
            else:
                self._first = line
            self._last = line
            self._lines += 1


class Saving:
    """A file that is checked as it is written, and gets its name when it is whole. Readable by its owner only.

    `path` is that name, or a folder for the service's own. A path that ends with a separator is a folder: it is made
    where it is not there, its parents are not, and is gone again where no file came to be. With a `namespace`, a backup
    without any key is none. Raises `FileExistsError`, `OSError`.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        overwrite: bool,
        on_progress: Callable[[int], None],
        namespace: str | None = None,
    ) -> None:
        self._path = Path(path)
        self._namespace = namespace
        self._is_folder = self._path.is_dir() or os.fspath(path).endswith((os.sep, os.altsep or os.sep))
        self._made: Path | None = None
        self._overwrite = overwrite
        self._on_progress = on_progress
        self._check = Check()
        self._file: BinaryIO | None = None
        folder = self._path if self._is_folder else self._path.parent
        self._partial = folder / f".{uuid.uuid4().hex}.part"
        if self._is_folder and self._path.exists() and not self._path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._path))
        self._look()

    def begin(self) -> None:
        """Begin anew: another address is asked."""
        self.close()
        self._check = Check()
        if self._is_folder and not self._path.is_dir():
            self._path.mkdir(exist_ok=True)
            self._made = self._path
        self._file = os.fdopen(os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises `AdminError` (`invalid_backup`)."""
        assert self._file is not None
        self._check.feed(data)
        self._file.write(data)
        self._on_progress(self._check.size)

    def finish(self, disposition: str) -> Backup:
        """Give the whole file its name; the header `Content-Disposition` has that of the service."""
        assert self._file is not None
        found = self._check.end(str(self._path))
        if self._namespace is not None and not found.keys:
            raise AdminError("scope_not_found", f"nothing is stored in namespace {self._namespace}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._path.is_dir():
            name = disposition.partition('filename="')[2].partition('"')[0]
            at = found.head.created_at.replace(":", "").replace(".", "")
            plain = f"{found.head.namespace or 'all'}-{at}.configsvc.gz"
            random = f"backup-{uuid.uuid4().hex}.configsvc.gz"
            # A name that is more than one is not believed, wherever it comes from.
            self._path /= next(one for one in (name, plain, random) if is_name(one))
            self._look()
        self._partial.replace(self._path)
        self._made = None
        return msgspec.structs.replace(found, path=str(self._path))

    def close(self) -> None:
        """Leave nothing behind but what is finished."""
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)
        if self._made is not None:
            with suppress(OSError):
                # Somebody else may have something in it by now.
                self._made.rmdir()
            self._made = None

    def _look(self) -> None:
        if self._path.exists() and not self._path.is_dir() and not self._overwrite:
            raise FileExistsError(f"{self._path} is there already")


def check(path: Path, on_progress: Callable[[int], None] = lambda size: None) -> Backup:
    """What a file is; raises `AdminError` (`invalid_backup`), `OSError`."""
    found = Check()
    for block in blocks(path):
        found.feed(block)
        on_progress(found.size)
    return found.end(str(path))


def blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, piece by piece."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _wrong(why: str) -> AdminError:
    return AdminError("invalid_backup", f"this is no backup that can be restored: {why}")
