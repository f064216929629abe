"""One scope as readers get it: its snapshot, a bounded log of frames, and the stored bytes of its answers.

Pure: `publish` is the only thing that changes a feed, so that "since revision N" and "everything" always agree. Knows
neither etcd nor subscribers; how fresh the state is, is the hub's to say.
"""

from collections import deque
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import takewhile

import msgspec

from configsvc.core.model import Scope
from configsvc_client import sse
from configsvc_client.protocol import CHANGE, SNAPSHOT, STATUS, Delta, Entry, EventId, Status, encode
from configsvc_client.snapshot import Snapshot

RETRY_MS = 2000
"""How long a stream's reader waits before it connects again, unless a draining service says otherwise."""

_encoder = msgspec.json.Encoder()


class Frame:
    """One event as bytes, encoded once however many subscribers it has."""

    __slots__ = ("_sse", "_ws", "data", "event", "id", "retry_ms")

    def __init__(self, event: str, data: bytes, *, id: EventId | None, retry_ms: int | None = None) -> None:
        self.event = event
        self.data = data
        self.id = id
        self.retry_ms = retry_ms
        self._sse: bytes | None = None
        self._ws: bytes | None = None

    @property
    def sse(self) -> bytes:
        """The event in the format of `text/event-stream`: `sse_head`, the data, and an empty line."""
        if self._sse is None:
            self._sse = b"%s%s\n\n" % (self.sse_head, self.data)
        return self._sse

    @property
    def sse_head(self) -> bytes:
        """What stands before the data, for senders of frames too large to be copied for each reader."""
        return sse.encode_head(self.event, str(self.id) if self.id else None, self.retry_ms)

    @property
    def ws(self) -> bytes:
        """The event as the UTF-8 of a WebSocket text message: `{"event","id","data"}`."""
        if self._ws is None:
            message = {"event": self.event, "id": str(self.id) if self.id else None, "data": msgspec.Raw(self.data)}
            self._ws = _encoder.encode(message)
        return self._ws

    def __len__(self) -> int:
        return len(self.data)


def status_frame(status: Status, id: EventId | None, retry_ms: int | None = None) -> Frame:
    """A heartbeat. Without an id it moves no reader's position: the service cannot say where it is."""
    return Frame(STATUS, encode(status), id=id, retry_ms=retry_ms)


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica tells the feed of one scope.

    `snapshot` is the state now and `delta`, where there is one, the step to it. A `baseline` is another story than what
    the feed had before: its log ends. `tag` marks a body that is not a function of the revision alone (an unreadable
    entry, or a state rebuilt from a release's content). `exists` is false once a scope has neither key nor head; while
    `pending` nothing of it may be shown.
    """

    scope: Scope
    snapshot: Snapshot
    delta: Delta | None = None
    baseline: bool = False
    exists: bool = True
    pending: bool = False
    tag: bool = False


class Feed:
    """A scope's state and its recent past.

    The log holds every change after `floor`, oldest first, bounded in count and bytes; the newest frame stays whatever
    its size, so that those who are up to date always get the change itself.
    """

    def __init__(self, snapshot: Snapshot, *, max_frames: int = 1000, max_bytes: int = 4 * 1024 * 1024) -> None:
        self.snapshot = snapshot
        self.scope = Scope(snapshot.namespace, snapshot.environment)
        self.exists = False
        self.generation = 0
        """Counts states: an answer that was made from one of them is good for no other."""
        self.floor = snapshot.revision
        self.memo: dict[str, bytes] = {}
        """Bytes made from this state, emptied when it changes; whoever stores here prefixes the name."""
        self._whole: Frame | None = None
        """The last frame with all of the state, for the many readers that come back at once."""
        self._tag = False
        self._log: deque[tuple[int, Frame]] = deque()
        self._log_bytes = 0
        self._max_frames = max_frames
        self._max_bytes = max_bytes

    def __repr__(self) -> str:
        s = self.snapshot
        return f"<Feed {self.scope} {s.epoch}:{s.revision} {len(s.entries)} keys, {len(self._log)} frames>"

    def publish(self, update: Update) -> None:
        """Take over a new state, and its frame where it is a step from the one before."""
        self.generation += 1
        self.exists = update.exists
        if update.baseline or update.snapshot.epoch != self.snapshot.epoch:
            self._log.clear()
            self._log_bytes = 0
            self.floor = update.snapshot.revision
        elif update.delta is not None and update.delta.revision > self.snapshot.revision:
            id = EventId(update.snapshot.epoch, update.delta.revision)
            self._append(Frame(CHANGE, encode(update.delta), id=id))
        self._tag = update.tag
        self.snapshot = update.snapshot
        self.memo.clear()
        self._whole = None

    def _append(self, frame: Frame) -> None:
        assert frame.id is not None
        self._log.append((frame.id.revision, frame))
        self._log_bytes += len(frame)
        while len(self._log) > 1 and (len(self._log) > self._max_frames or self._log_bytes > self._max_bytes):
            revision, dropped = self._log.popleft()
            self._log_bytes -= len(dropped)
            self.floor = revision

    # ---- the stream ---------------------------------------------------------------------------------------------

    def since(self, position: EventId) -> list[Frame] | None:
        """The changes after `position`, oldest first; None where only a snapshot can bring a reader up to date."""
        if position.epoch != self.snapshot.epoch or position.revision < self.floor:
            return None
        if position.revision >= self.snapshot.revision:
            return []
        # From the newest on: who asks lacks little nearly always, and the log is long.
        missed = [frame for _, frame in takewhile(lambda item: item[0] > position.revision, reversed(self._log))]
        missed.reverse()
        return missed

    def snapshot_frame(self, proved: int) -> Frame:
        """The whole state as one event. Its id is `proved`, from where its reader goes on."""
        id = EventId(self.snapshot.epoch, max(proved, self.snapshot.revision))
        if self._whole is None or self._whole.id != id:
            data = self._memoised("snapshot", self._encode_baseline)
            self._whole = Frame(SNAPSHOT, data, id=id, retry_ms=RETRY_MS)
        return self._whole

    def _encode_baseline(self) -> bytes:
        baseline = self.snapshot.baseline()
        return encode(msgspec.structs.replace(baseline, entries=dict(self._sorted())))

    # ---- stored bodies ------------------------------------------------------------------------------------------

    @property
    def etag(self) -> str:
        """`epoch:revision`, with a hash of the body where that alone would not tell two bodies apart."""
        plain = f"{self.snapshot.epoch}:{self.snapshot.revision}"
        return f"{plain}-{self._body_hash()}" if self._tag else plain

    def _body_hash(self) -> str:
        def digest() -> bytes:
            return sha256(self.body("entries")).hexdigest()[:8].encode()

        return self._memoised("hash", digest).decode()

    def body(self, view: str) -> bytes:
        """The body of a scope's answer as `values` or `entries`: a function of the state, made once."""
        return self._memoised(f"body:{view}", lambda: self._encode_scope(view))

    def _encode_scope(self, view: str) -> bytes:
        s = self.snapshot
        head = {
            "namespace": s.namespace,
            "environment": s.environment,
            "epoch": s.epoch,
            "revision": s.revision,
            "release": s.release,
            "version": s.version,
        }
        if view == "entries":
            return _encoder.encode({**head, "entries": dict(self._sorted())})
        return _encoder.encode({**head, "values": {key: entry.value for key, entry in self._sorted()}})

    def _sorted(self) -> list[tuple[str, Entry]]:
        """The entries by key: replicas that came to the same state by other ways send the same bytes."""
        return sorted(self.snapshot.entries.items())

    def entry_body(self, key: str) -> bytes | None:
        """The body of one key's answer, or None where nothing applies."""
        entry = self.snapshot.entries.get(key)
        if entry is None:
            return None
        return self._memoised(f"key:{key}", lambda: _encode_entry(key, entry))

    def raw_body(self, key: str) -> bytes | None:
        """The bare value of a key as canonical JSON, or None where nothing applies."""
        entry = self.snapshot.entries.get(key)
        return None if entry is None else bytes(_encoder.encode(entry.value))

    def _memoised(self, name: str, make: Callable[[], bytes]) -> bytes:
        stored = self.memo.get(name)
        if stored is None:
            stored = self.memo[name] = make()
        return stored

    def keys(self) -> Iterator[str]:
        """The keys that apply, defaults included."""
        return iter(self.snapshot.entries)


def _encode_entry(key: str, entry: Entry) -> bytes:
    return _encoder.encode(
        {
            "key": key,
            "value": entry.value,
            "version": entry.version,
            "source": entry.source,
            "revision": entry.revision,
            "metadata": entry.metadata,
        }
    )
