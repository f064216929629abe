"""The service's last-known-good snapshots on disk, so that a restart while etcd is away still serves.

One file per scope and one for a private history, in one directory per etcd cluster that several processes may share.
A file is replaced as a whole or not at all, and believed only when it is complete, of this format, of the scope that
its name says, and not too old. Nothing here is fatal: what cannot be read is refused with a line in the log, what
cannot be written is a warning once, shows in `Store.problem`, and is tried again with the next change.

`Store` is the synchronous part. `Saver` writes behind the hub, off the event loop.
"""

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, thread_time
from typing import TypeVar

import msgspec
import structlog

from configsvc.core.continuity import Remembered
from configsvc.core.feed import Update
from configsvc.core.model import Head, Scope
from configsvc.core.replica import Replica
from configsvc_client.entries import encoded
from configsvc_client.protocol import Entry
from configsvc_client.snapshot import Snapshot

FORMAT = 1
MAGIC = "configsvc-cache"
SUFFIX = ".cache"
WRITE_EVERY_S = 1.0
"""A scope that changes all the time is written at most so often."""
CPU_SHARE = 0.01
"""Of one core at most this is spent on writing: what took 0.2 s of it is followed by a pause of 20 s."""
REFRESH_EVERY_S = 60.0
REFRESH_FILES = 50
"""How many files of scopes that did not change are renewed at a time: the age of a file is that of its last proof."""
LEFTOVER_S = 3600.0
"""Temporary files older than this are those of a process that died while it wrote."""

_NEVER = datetime.min.replace(tzinfo=UTC)

T = TypeVar("T")

log = structlog.get_logger()


class SavedHead(msgspec.Struct, frozen=True, kw_only=True):
    """Which release the scope was at. `id` tells whether the store still has that very release."""

    release: int
    version: str | None
    id: str


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A scope as it was when all of it had been seen up to the revision `proved`, at the time `proved_at`.

    `snapshot` is the state as readers see it; `Replica.remember` takes it. `fingerprint` is that of the scope's prefix
    at `proved`: the newest `mod_revision`, and how many keys there were.
    """

    snapshot: Snapshot
    cluster_id: str
    tag: bool
    proved: int
    proved_at: datetime
    fingerprint: tuple[int, int]
    head: SavedHead | None

    @property
    def scope(self) -> Scope:
        return Scope(self.snapshot.namespace, self.snapshot.environment)

    def stored_head(self) -> Head | None:
        """The head as `Replica.remember` takes it."""
        head = self.head
        return Head(release=head.release, version=head.version, id=head.id) if head else None

    def past(self) -> Remembered:
        """What the first listing after a restart has to follow."""
        stored = {key: entry.revision for key, entry in self.snapshot.entries.items() if entry.source == "stored"}
        return Remembered(
            proved=self.proved,
            newest=self.fingerprint[0],
            count=self.fingerprint[1],
            revisions=stored,
            head_id=self.head.id if self.head else None,
        )


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's private history (`Replica.begin_history`), which a restart has to keep up."""

    cluster_id: str
    salt: str
    epochs: dict[str, bytes]


class Refused(ValueError):
    """A file that is not to be believed; the text says why."""


def saved_of(replica: Replica, scope: Scope, proved_at: datetime) -> Saved | None:
    """What to keep of a scope; None where it is not etcd's state at the position (held, pending, from a file, gone)."""
    state = replica.scopes.get(scope)
    if state is None or state.snapshot is None or state.hold or not state.exists or scope in replica.remembered:
        return None
    head = state.head
    return Saved(
        snapshot=state.snapshot,
        cluster_id=replica.cluster_id,
        tag=state.tag,
        proved=replica.position,
        proved_at=proved_at,
        fingerprint=replica.fingerprint(scope),
        head=SavedHead(release=head.release, version=head.version, id=head.id) if head else None,
    )


# ---- files -----------------------------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    value: msgspec.Raw
    version: str | None = None
    source: str = "stored"
    revision: int = 0
    metadata: msgspec.Raw = msgspec.Raw(b"null")


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of a scope's file, but for its entries, which come last."""

    namespace: str
    environment: str
    cluster_id: str
    epoch: str
    revision: int
    release: int | None
    version: str | None
    tag: bool
    proved: int
    proved_at: datetime
    fingerprint: tuple[int, int]
    head: SavedHead | None


class _WholeFile(_File, frozen=True, kw_only=True):
    entries: dict[str, _Entry]


_saved_decoder = msgspec.json.Decoder(_WholeFile)
_history_decoder = msgspec.json.Decoder(History)


def _encode(saved: Saved) -> Iterator[bytes]:
    """The payload in pieces, so that a thread that makes them leaves the interpreter to others in between."""
    kept, about = saved.snapshot, msgspec.structs.asdict(saved)
    names = ("namespace", "environment", "epoch", "revision", "release", "version")
    about |= {name: getattr(kept, name) for name in names}
    del about["snapshot"]
    yield msgspec.json.encode(_File(**about))[:-1] + b',"entries":'
    yield from encoded(kept.entries)
    yield b"}"


def _decode(payload: bytes) -> Saved:
    file = _saved_decoder.decode(payload)
    return Saved(
        snapshot=Snapshot(
            namespace=file.namespace,
            environment=file.environment,
            epoch=file.epoch,
            revision=file.revision,
            release=file.release,
            version=file.version,
            entries={key: _entry(entry) for key, entry in file.entries.items()},
        ),
        cluster_id=file.cluster_id,
        tag=file.tag,
        proved=file.proved,
        proved_at=file.proved_at,
        fingerprint=file.fingerprint,
        head=file.head,
    )


def _entry(stored: _Entry) -> Entry:
    # Copied, because a raw value keeps the whole file in memory.
    metadata = None if bytes(stored.metadata) == b"null" else stored.metadata.copy()
    return Entry(
        value=stored.value.copy(),
        version=stored.version,
        source=stored.source,
        revision=stored.revision,
        metadata=metadata,
    )


def _seal(what: str, payload: Iterable[bytes]) -> list[bytes]:
    """A first line that says what the file is, how long and with which hash; then the payload."""
    digest, pieces = hashlib.sha256(what.encode() + b"\n"), list[bytes]()
    for piece in payload:
        digest.update(piece)
        pieces.append(piece)
    return [f"{MAGIC} {FORMAT} {what} {sum(map(len, pieces))} {digest.hexdigest()}\n".encode(), *pieces]


def _unseal(content: bytes) -> tuple[str, bytes]:
    """What the file is, and its payload; raises `Refused` unless every byte is as it was written."""
    line, newline, payload = content.partition(b"\n")
    words = line.decode("ascii", "replace").split(" ")
    if not newline or words[0] != MAGIC or len(words) < 2:
        raise Refused("is cut short, or no file of ours")
    if words[1] != str(FORMAT):
        raise Refused(f"has format {ascii(words[1])[:20]}, this service reads {FORMAT}")
    what = " ".join(words[2:-2])
    if len(words) < 5 or words[-2] != str(len(payload)):
        raise Refused("is cut short")
    digest = hashlib.sha256(what.encode() + b"\n")
    digest.update(payload)
    if digest.hexdigest() != words[-1]:
        raise Refused("is damaged: its checksum is wrong")
    return what, payload


def _file_name(what: str) -> str:
    # Hashed, because names may differ by case alone and be longer than a file system takes.
    return hashlib.sha256(what.encode()).hexdigest()[:32] + SUFFIX


def _scope_word(scope: Scope) -> str:
    return f"scope {scope.namespace} {scope.environment}"


class Store:
    """The files of one directory. No method raises for what it finds on disk.

    `owner` is the namespace that this process follows, empty for all: private histories of different owners are kept
    apart. `problem` says in one line why the last write failed, None while all is well.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_age_s: float,
        owner: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.directory = directory
        self.problem: str | None = None
        self._max_age_s = max_age_s
        self._history_word = f"history {owner or '*'}"
        self._now = now

    def __repr__(self) -> str:
        return f"<Store {self.directory}{': ' + self.problem if self.problem else ''}>"

    def try_out(self) -> bool:
        """Find out whether files can be kept, before there is one to keep."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.directory).close()
        except OSError as error:
            return self._outcome(error)
        return self._outcome(None)

    def load(self, wanted: Callable[[Scope], bool]) -> list[Saved]:
        """Every scope that is `wanted` and whose file can be believed, sorted; the log says why others were refused."""
        found = [saved for path in self._files() if (saved := self._load(path, wanted)) is not None]
        return sorted(found, key=lambda saved: saved.scope)

    def _load(self, path: Path, wanted: Callable[[Scope], bool]) -> Saved | None:
        try:
            what, payload = _unseal(path.read_bytes())
            if not what.startswith("scope "):
                return None
            if path.name != _file_name(what):
                raise Refused("has the name of another scope's file")
            _, namespace, environment = what.split(" ")
            if not wanted(Scope(namespace, environment)):
                return None
            saved = _decode(payload)
            if saved.scope != (namespace, environment):
                raise Refused("holds another scope than it says")
            age_s = (self._now() - saved.proved_at).total_seconds()
            if age_s > self._max_age_s:
                raise Refused(f"is too old: last proved {age_s:.0f} s ago, at most {self._max_age_s:.0f} s are allowed")
        except (Refused, ValueError, TypeError, OSError) as error:
            log.warning("cached snapshot refused", file=str(path), why=_why(error))
            return None
        return saved

    def load_history(self) -> History | None:
        """The private history that was kept, if there is one that can be believed."""
        path = self.directory / _file_name(self._history_word)
        try:
            what, payload = _unseal(path.read_bytes())
            if what != self._history_word:
                raise Refused("is not the file that its name says")
            return _history_decoder.decode(payload)
        except FileNotFoundError:
            return None
        except (Refused, ValueError, OSError) as error:
            log.warning("cached history refused", file=str(path), why=_why(error))
            return None

    def save(self, saved: Saved) -> bool:
        """Replace the scope's file; whether that worked."""
        return self._write(_scope_word(saved.scope), _encode(saved))

    def save_history(self, history: History) -> bool:
        """Replace the file of the private history; whether that worked."""
        return self._write(self._history_word, [msgspec.json.encode(history)])

    def forget(self, scope: Scope) -> bool:
        """Remove the file of a scope that is no more; whether there is none now."""
        try:
            with contextlib.suppress(FileNotFoundError):
                (self.directory / _file_name(_scope_word(scope))).unlink()
        except OSError as error:
            return self._outcome(error)
        return True

    def _write(self, what: str, payload: Iterable[bytes]) -> bool:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self.directory / _file_name(what), _seal(what, payload))
        except OSError as error:
            return self._outcome(error)
        return self._outcome(None)

    def _outcome(self, error: OSError | None) -> bool:
        """Remember how a write went; the log hears of it when that differs from before."""
        before, self.problem = self.problem, None if error is None else f"{self.directory}: {_why(error)}"
        if self.problem and not before:
            log.warning("snapshots cannot be kept; a restart without etcd would have none", why=self.problem)
        elif before and not self.problem:
            log.info("snapshots can be kept again", directory=str(self.directory))
        return error is None

    def _files(self) -> Iterator[Path]:
        try:
            paths = sorted(self.directory.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("cached snapshots cannot be read", directory=str(self.directory), why=_why(error))
            return
        for path in paths:
            if path.suffix == SUFFIX and path.is_file():
                yield path
            elif path.suffix == ".tmp":
                self._sweep(path)

    def _sweep(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            if self._now().timestamp() - path.stat().st_mtime > LEFTOVER_S:
                path.unlink()


def _replace(path: Path, content: Sequence[bytes]) -> None:
    """Put `content` at `path` so that a reader, or a machine that lost power, finds the old or the new, whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem + ".", suffix=".tmp")  # mode 0600
    try:
        with open(handle, "wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


# ---- behind the hub --------------------------------------------------------------------------------------------------


class Saver:
    """Keeps the files in step with a replica: the newest state of each scope, at most once per `WRITE_EVERY_S`, and
    less often where that would take more than `CPU_SHARE` of a core.

    `note` may be called as often as there are updates; what is written is the state at the time of writing. A held
    scope keeps the file from before its window. `proved_at` is when etcd last proved the state (None: not yet).
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        *,
        proved_at: Callable[[], datetime | None],
        clock: Callable[[], float] = monotonic,
        cpu: Callable[[], float] = thread_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.store = store
        self._replica = replica
        self._proved_at = proved_at
        self._clock, self._cpu, self._sleep = clock, cpu, sleep
        self._spent_s = 0.0
        self._dirty: set[Scope] = set()
        self._written: dict[Scope, datetime] = {}
        """For each scope with a file of ours: the time of the proof in it."""
        self._noted = asyncio.Event()
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Saver {self.store!r}: {len(self._dirty)} to write, {len(self._written)} written>"

    def note(self, updates: Iterable[Update]) -> None:
        """Remember that these scopes changed. Cheap; `Hub.on_publish` calls it."""
        self._dirty.update(update.scope for update in updates)
        if self._dirty:
            self._noted.set()

    async def run(self) -> None:
        """Write behind, for ever; renew some of the quiet scopes' files now and then."""
        renew_at = self._clock() + REFRESH_EVERY_S
        while True:
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it forgets a cancellation that comes with the event.
                async with asyncio.timeout(max(0.0, renew_at - self._clock())):
                    await self._noted.wait()
            if self._clock() >= renew_at:
                renew_at = self._clock() + REFRESH_EVERY_S
                self.renew()
            self._spent_s = 0.0
            await self.flush()
            await self._sleep(max(WRITE_EVERY_S, self._spent_s / CPU_SHARE))

    def renew(self) -> None:
        """Note the scopes whose file has the oldest proof, or that have none, if there has been another since."""
        proved_at = self._proved_at()
        if proved_at is not None:
            settled = (scope for scope, state in self._replica.scopes.items() if state.exists and not state.hold)
            ages = ((self._written.get(scope, _NEVER), scope) for scope in settled)
            self._dirty.update(scope for at, scope in sorted(ages)[:REFRESH_FILES] if at < proved_at)

    async def flush(self) -> None:
        """Write everything that was noted. What fails stays noted; `Store.problem` tells."""
        async with self._lock:
            self._noted.clear()
            scopes, self._dirty = self._dirty, set()
            try:
                for scope in sorted(scopes):
                    if await self._write(scope):
                        scopes.discard(scope)
            finally:
                self._dirty |= scopes

    async def _write(self, scope: Scope) -> bool:
        state, proved_at = self._replica.scopes.get(scope), self._proved_at()
        if state is None or not (state.exists or state.hold or state.stored):
            self._written.pop(scope, None)
            return await self._in_thread(self.store.forget, scope)
        if proved_at is None or self._replica.broken:
            return False
        saved = saved_of(self._replica, scope, proved_at)
        if saved is None:
            return True
        if done := await self._in_thread(self.store.save, saved):
            self._written[scope] = saved.proved_at
        return done

    async def _in_thread(self, write: Callable[[T], bool], what: T) -> bool:
        """Run a write off the loop. Cancelled, it is waited for: it must not land after a later one."""

        def timed() -> bool:
            started = self._cpu()
            try:
                return write(what)
            finally:
                self._spent_s += self._cpu() - started

        running = asyncio.ensure_future(asyncio.to_thread(timed))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise
