"""Last-known-good files on disk, so that an application starts while no service answers.

One file per scope, in a folder that many processes may share. A file is replaced as a whole or not at all, only by a
state that is no older, and believed only when nobody else could have written it and `lastgood.py` finds nothing wrong.
Nothing here is fatal: what cannot be read is refused with one line in the log, what cannot be written is a warning
once, and tried again. Everything here may block for as long as the disk does: `keeper.py` has a thread for it.
"""

import contextlib
import errno
import logging
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from configsvc_client.doubt import Proof
from configsvc_client.lastgood import (
    DAMAGED,
    HEAD_BYTES,
    HEAD_LINES,
    SUFFIX,
    Head,
    KnownScope,
    Refused,
    decode,
    decode_head,
    decode_known_scope,
    encode,
    encode_known_scope,
    head_of,
    known_scope_name,
    may_replace,
    state_name,
)
from configsvc_client.options import CacheFolder, Options

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("configsvc_client")

TEMPORARY = ".tmp"
LEFTOVER_S = 3600.0
"""Where a file system has no locks, temporary files older than this are those of a process that died."""

_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)

T = TypeVar("T")

_writing: set[int] = set()
"""Descriptors that a forked child would inherit from a thread which it has not."""


class Files:
    """The files of one client. No method raises for what it finds on disk.

    `problem` says in one line why the last write failed, None while all is well.
    """

    def __init__(
        self, cache: CacheFolder, options: Options, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.folder = cache.path
        # The working directory may change, and may be gone already.
        with contextlib.suppress(OSError):
            self.folder = os.path.abspath(cache.path)
        self.path: str | None = None
        self.problem: str | None = None
        self._below = cache.below
        self._now = now
        self._max_age_s = options.cache_max_age_s
        self._max_bytes = options.tuning.max_event_bytes + 64 * 1024
        self._asked = (options.namespace, options.environment)
        self._urls = tuple(endpoint.url for endpoint in options.endpoints)
        # A shared folder could hold what another project's service said at the same address.
        self._remembers = cache.named and None in self._asked
        self._known: KnownScope | None = None
        self._refused = False

    @property
    def is_unasked(self) -> bool:
        """Whether nothing can be looked for, because nobody said which scope it is."""
        return None in self._asked and not self._remembers

    def __repr__(self) -> str:
        return f"<Files {self.folder}{': ' + self.problem if self.problem else ''}>"

    # ---- reading ------------------------------------------------------------------------------------------------

    def load(self) -> Proof | None:
        """The state to start from, if there is one to believe; the log says why a file was refused.

        `path` is its file then.
        """
        scope = self._scope()
        if scope is None:
            return None
        namespace, environment = scope

        def read(content: bytes) -> Proof:
            return decode(
                content, namespace=namespace, environment=environment, now=self._now(), max_age_s=self._max_age_s
            )

        self.path = os.path.join(self.folder, state_name(namespace, environment))
        return self._load(state_name(namespace, environment), read)

    def _scope(self) -> tuple[str, str] | None:
        """The scope that was given, else the one that these addresses served when they were last asked."""
        namespace, environment = self._asked
        if namespace is not None and environment is not None:
            return namespace, environment
        if not self._remembers:
            return None
        name = known_scope_name(self._urls, self._asked)
        self._known = self._load(name, lambda content: decode_known_scope(content, self._urls, self._asked))
        return (self._known.namespace, self._known.environment) if self._known else None

    def _load(self, name: str, read: Callable[[bytes], T]) -> T | None:
        path = os.path.join(self.folder, name)
        try:
            return read(_read(path, self._max_bytes))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Refused as error:
            why = str(error)
        except OSError as error:
            why = f"it cannot be read ({_reason(error)}); see to it that this user can"
        self._refused = True
        logger.warning("last-known-good file %s refused: %s", path, why)
        return None

    # ---- writing ------------------------------------------------------------------------------------------------

    def save(self, proof: Proof, *, stepped_back: bool = False) -> bool:
        """Replace the scope's file where `may_replace` says so; whether the disk holds this state or a newer one now.

        Of processes that write at once the last one wins within the moment between looking and replacing; the file is
        whole either way, and the next one to write puts it right.
        """
        try:
            self._save(proof, anyway=stepped_back or self._refused)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            return self._outcome(_reason(error))
        self._refused = False
        return self._outcome(None)

    def _save(self, proof: Proof, *, anyway: bool) -> None:
        now, snapshot = self._now(), proof.snapshot
        path = os.path.join(self.folder, state_name(snapshot.namespace, snapshot.environment))
        mine = head_of(proof, now)

        def may() -> bool:
            return anyway or may_replace(_peek(path), mine)

        if may():
            content = encode(proof, now)
            if len(content) > self._max_bytes:
                raise ValueError(f"the state has {len(content)} bytes, and tuning.max_event_bytes bounds it")
            try:
                self._make_folder()
                _replace(path, content, may)
            except FileNotFoundError:
                # The folder was removed meanwhile.
                self._make_folder()
                _replace(path, content, may)
        if self._remembers:
            self._remember(snapshot.namespace, snapshot.environment)

    def _remember(self, namespace: str, environment: str) -> None:
        known = KnownScope(urls=self._urls, asked=self._asked, namespace=namespace, environment=environment)
        if known != self._known:
            path = os.path.join(self.folder, known_scope_name(self._urls, self._asked))
            _replace(path, encode_known_scope(known), lambda: True)
            self._known = known

    def _make_folder(self) -> None:
        if self._below is not None and not os.path.isdir(self._below):
            raise FileNotFoundError(errno.ENOENT, f"{self._below} does not exist")
        _make_folder(self.folder)

    def _outcome(self, problem: str | None) -> bool:
        """Remember how a write went; the log hears of it when that differs from before."""
        before, self.problem = self.problem, problem
        if problem and not before:
            logger.warning(
                "no last-known-good file can be kept in %s: %s; a start while no service answers would have defaults "
                "only. Set CONFIGSVC_CACHE_DIR to a folder that can be written, or to 'off'",
                self.folder,
                problem,
            )
        elif before and not problem:
            logger.info("a last-known-good file is kept in %s again", self.folder)
        return problem is None

    def sweep(self) -> None:
        """Remove what processes left behind that died while they wrote."""
        with contextlib.suppress(OSError), os.scandir(self.folder) as found:
            for entry in found:
                if entry.name.endswith(TEMPORARY) and SUFFIX in entry.name:
                    _remove_if_dead(entry.path)


# ---- one file --------------------------------------------------------------------------------------------------------


def _open(path: str) -> tuple[int, int]:
    """A descriptor of a file that only this user can have written, and its size; never waits, as a pipe would."""
    try:
        descriptor = os.open(path, _READ | _BINARY)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused(f"it is a symbolic link; remove it, {DAMAGED}") from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"it is no regular file; remove it, {DAMAGED}")
        if hasattr(os, "geteuid"):
            if found.st_uid != os.geteuid():
                raise Refused(
                    f"it belongs to the user {found.st_uid}, and this process runs as {os.geteuid()}; "
                    "remove it, or give each user a folder"
                )
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise Refused(
                    f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o}); "
                    "remove it, and see what changes modes in this folder"
                )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found.st_size


def _read(path: str, max_bytes: int) -> bytes:
    descriptor, size = _open(path)
    with open(descriptor, "rb", buffering=0) as file:
        if size > max_bytes:
            raise Refused(f"it has {size} bytes, and {max_bytes} are allowed (tuning.max_event_bytes); {DAMAGED}")
        content = bytearray()
        while len(content) <= max_bytes and (chunk := file.read(max_bytes + 1 - len(content))):
            content += chunk
    return bytes(content)


def _peek(path: str) -> Head | None:
    """What the file there says of itself; None where there is none to believe."""
    try:
        descriptor, _ = _open(path)
        try:
            content = bytearray()
            # A release's version may be of any length.
            while content.count(b"\n") < HEAD_LINES and (chunk := os.read(descriptor, HEAD_BYTES)):
                content += chunk
            return decode_head(bytes(content))
        finally:
            os.close(descriptor)
    except (OSError, Refused):
        return None


def _replace(path: str, content: bytes, may: Callable[[], bool]) -> None:
    """Put `content` at `path`, so that a reader, or a machine that lost power, finds the old or the new, whole.

    `may` is asked last, when all that is left to do is to rename.
    """
    descriptor, temporary = _make_temporary(path)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
            # Before it is closed: as long as it is locked nobody takes it for a dead process's.
            if os.name != "nt" and may():
                os.replace(temporary, path)
        finally:
            _writing.discard(descriptor)
            os.close(descriptor)
        if os.name == "nt" and may():
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    _sync_folder(os.path.dirname(path))


def _make_temporary(path: str) -> tuple[int, str]:
    """A new file in the same folder, 0600 whatever the umask, locked, and still there after that."""
    for _ in range(10):
        temporary = f"{path}.{os.getpid()}.{secrets.token_hex(8)}{TEMPORARY}"
        descriptor = os.open(temporary, _WRITE | _BINARY, 0o600)
        _writing.add(descriptor)
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)
            if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
                return descriptor, temporary
        except BaseException:
            _give_up(descriptor, temporary)
            raise
        _give_up(descriptor, temporary)
    raise BlockingIOError(errno.EAGAIN, "others remove files in this folder")


def _give_up(descriptor: int, temporary: str) -> None:
    _writing.discard(descriptor)
    os.close(descriptor)
    with contextlib.suppress(OSError):
        os.unlink(temporary)


def _lock(descriptor: int) -> bool | None:
    """Lock a file until its last descriptor is closed, so also when its process is killed; None where that cannot be.

    The ids of processes would not do: containers that share a volume do not share them.
    """
    if sys.platform == "win32":
        # A file that somebody writes cannot be removed there anyway.
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_if_dead(path: str) -> None:
    with contextlib.suppress(OSError, Refused):
        descriptor, _ = _open(path)
        try:
            locked = _lock(descriptor)
            is_old = time.time() - os.fstat(descriptor).st_mtime > LEFTOVER_S
            if locked or (locked is None and is_old):
                os.unlink(path)
        finally:
            os.close(descriptor)


def _make_folder(path: str) -> None:
    """Like `os.makedirs`, but every folder that is made is the user's own."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        _make_folder(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)


def _sync_folder(path: str) -> None:
    """Make a rename last. Some file systems cannot, and the file is whole without."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}" if isinstance(error, msgspec.MsgspecError) else str(error)


def _forget_descriptors() -> None:
    """In a forked child: what another thread was writing is the parent's."""
    while _writing:
        with contextlib.suppress(OSError):
            os.close(_writing.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_descriptors)
