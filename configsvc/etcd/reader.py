"""The bytes of a watch to batches: lines, fragments, errors.

Pure: no socket and no clock. Own line splitting, because a value of 1 MiB makes a line that ready-made readers refuse.
"""

import msgspec

from configsvc.etcd.classify import classify
from configsvc.etcd.ops import (
    CANCELED,
    CREATED,
    EVENTS,
    PROGRESS,
    EtcdError,
    Header,
    KeyValue,
    Oversized,
    Unavailable,
    WatchBatch,
    WatchEvent,
)
from configsvc.etcd.wire import StreamError, shown, stream_error

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A fragment ends near 2 MiB of protobuf; as JSON that is 1.4 times as much, and more for many tiny values."""
MAX_JOINED_BYTES = 64 * 1024 * 1024
NO_WATCH = -1
"""The `watch_id` of what belongs to no watch."""


class _Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    kv: KeyValue
    type: str = "PUT"


class _WatchResponse(msgspec.Struct, frozen=True, kw_only=True):
    header: Header = Header()
    watch_id: int = 0
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    fragment: bool = False
    events: list[_Event] = []


class _WatchLine(msgspec.Struct, frozen=True, kw_only=True):
    result: _WatchResponse | None = None
    error: StreamError | None = None


_LINE = msgspec.json.Decoder(_WatchLine, strict=False)


class WatchReader:
    """The bytes of one watch to batches, for any chunking of them.

    `feed` returns the batches that became complete. An `EtcdError` in the list is the stream's end and the last item:
    etcd's own error line, a line that is none of etcd's, or `Oversized`. Fragments are held until the last is there,
    because a revision may straddle them.
    """

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES, max_joined_bytes: int = MAX_JOINED_BYTES) -> None:
        self._max_line = max_line_bytes
        self._max_joined = max_joined_bytes
        self._buffer = bytearray()
        self._scanned = 0
        """Bytes of the buffer that hold no newline, so that a line in many chunks is not searched again each time."""
        self._held: list[WatchEvent] = []
        self._held_bytes = 0
        self._ended = False

    def feed(self, data: bytes) -> list[WatchBatch | EtcdError]:
        """Take what the socket gave."""
        self._buffer += data
        items: list[WatchBatch | EtcdError] = []
        start = 0
        while not self._ended and (at := self._buffer.find(b"\n", max(start, self._scanned))) >= 0:
            self._take(bytes(self._buffer[start:at]), items)
            start = at + 1
        if start:
            del self._buffer[:start]
        self._scanned = len(self._buffer)
        if not self._ended and self._scanned > self._max_line:
            self._end(items, Oversized(f"a line of the watch is over {self._max_line} bytes"))
        return items

    def end(self) -> list[WatchBatch | EtcdError]:
        """The stream has ended: what was left without a newline is a line too (3.5 sends its errors so)."""
        items: list[WatchBatch | EtcdError] = []
        rest, self._buffer = bytes(self._buffer), bytearray()
        if rest.strip() and not self._ended:
            self._take(rest, items)
        return items

    def _take(self, line: bytes, items: list[WatchBatch | EtcdError]) -> None:
        if not line.strip():
            return
        if len(line) > self._max_line:
            self._end(items, Oversized(f"a line of the watch is over {self._max_line} bytes"))
            return
        try:
            decoded = _LINE.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._end(items, Unavailable(f"a line of the watch is not etcd's ({error}): {shown(line)}"))
            return
        if decoded.error is not None:
            code, message = stream_error(decoded.error)
            kind = classify(is_write=False, status=decoded.error.http_code, code=code, message=message)
            self._end(items, kind(message, code=code))
        elif decoded.result is None:
            self._end(items, Unavailable(f"a line of the watch is not etcd's: {shown(line)}"))
        else:
            self._join(decoded.result, len(line), items)

    def _join(self, response: _WatchResponse, size: int, items: list[WatchBatch | EtcdError]) -> None:
        events = [
            WatchEvent(key=e.kv.key, mod_revision=e.kv.mod_revision, kv=None if e.type == "DELETE" else e.kv)
            for e in response.events
        ]
        if response.fragment or self._held:
            self._held += events
            self._held_bytes += size
            if self._held_bytes > self._max_joined:
                self._end(items, Oversized(f"the fragments of one response are over {self._max_joined} bytes"))
                return
            if response.fragment:
                return
            events, self._held, self._held_bytes = self._held, [], 0
        if (batch := _batch(response, events)) is not None:
            items.append(batch)

    def _end(self, items: list[WatchBatch | EtcdError], error: EtcdError) -> None:
        items.append(error)
        self._ended = True
        self._held = []


def _batch(response: _WatchResponse, events: list[WatchEvent]) -> WatchBatch | None:
    header = response.header
    if response.canceled:
        return WatchBatch(
            kind=CANCELED,
            header=header,
            compact_revision=response.compact_revision,
            reason=response.cancel_reason,
        )
    if response.created:
        return WatchBatch(kind=CREATED, header=header)
    if events:
        return WatchBatch(kind=EVENTS, header=header, events=events)
    # One that belongs to no watch proves nothing about ours.
    return None if response.watch_id == NO_WATCH else WatchBatch(kind=PROGRESS, header=header)
