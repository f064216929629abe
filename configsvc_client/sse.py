"""Server-Sent Events as bytes: one encoder and one decoder, by the WHATWG rules for `text/event-stream`.

Owns framing and nothing else: what an event means is `protocol.py`'s, where the bytes come from is `link.py`'s. Pure.
Lines end at CR LF, LF or CR only and are split as bytes, because text may hold U+2028 and other characters that
`str.splitlines` would split at.
"""

import msgspec

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""A bound against a sender that never ends its event; far above any scope that an application would want to hold."""

_BOM = b"\xef\xbb\xbf"
_CR, _LF = 0x0D, 0x0A
_MAX_RETRY_DIGITS = 18


class EventTooLarge(ValueError):
    """An event passed the decoder's bound; the rest of the stream cannot be made sense of."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"an event of the stream is larger than {max_bytes} bytes")
        self.max_bytes = max_bytes


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One dispatched event.

    `id` and `retry` (milliseconds) are the fields of this very event, None where it had none; what a browser would call
    the last event id is `Decoder.last_event_id`. `data` stays bytes: JSON is decoded from bytes, strictly.
    """

    event: str = "message"
    data: bytes
    id: str | None = None
    retry: int | None = None


def encode(event: str, data: bytes, id: str | None = None, retry: int | None = None) -> bytes:
    """Encode one event; several lines of data become several `data` fields, whose line ends read back as LF.

    Raises `ValueError` where a name or an id would break the framing.
    """
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
    return b"%s%s\n\n" % (encode_head(event, id, retry), data)


def encode_head(event: str, id: str | None = None, retry: int | None = None) -> bytes:
    """What stands before an event's data; for who sends one line of data in pieces, and an empty line after it."""
    if any(char in event + (id or "") for char in "\r\n") or "\0" in (id or ""):
        raise ValueError("an event's name and id must not hold line ends, nor its id NUL")
    head = f"event: {event}\n" if id is None else f"id: {id}\nevent: {event}\n"
    if retry is not None:
        head += f"retry: {retry}\n"
    return head.encode() + b"data: "


class Decoder:
    """Turns the bytes of one stream into events; however the bytes are cut, the events are the same.

    One decoder per connection. An event that was not ended by an empty line when the stream ends is dropped, as the
    rules want it: it may be torn.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.last_event_id = ""
        self._max = max_event_bytes
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._at_start = True
        self._after_cr = False
        self._failed = False
        self._id: str | None = None
        self._reset()

    def _reset(self) -> None:
        self._event = ""
        self._data: list[bytes] = []
        self._block_bytes = 0
        self._own_id: str | None = None
        self._retry: int | None = None

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished event has arrived; comments do not count, since they carry nothing."""
        return self._block_bytes + self._line_bytes

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events that they complete, oldest first.

        Raises `EventTooLarge`; events that were complete before the oversized one are returned first, and then the next
        call raises. After that the decoder is of no further use.
        """
        events: list[Event] = []
        if self._failed:
            raise EventTooLarge(self._max)
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == _LF:
                chunk = chunk[1:]
        # bytes.splitlines knows CR, LF and CR LF, and no others.
        for piece in chunk.splitlines(keepends=True):
            if piece[-1] not in (_CR, _LF):
                self._hold(piece)
            else:
                event = self._end_line(piece.rstrip(b"\r\n"))
                if event is not None:
                    events.append(event)
            if self.pending_bytes > self._max:
                self._failed = True
                break
        else:
            self._after_cr = chunk.endswith(b"\r") if chunk else self._after_cr
        if self._failed and not events:
            raise EventTooLarge(self._max)
        return events

    def _hold(self, piece: bytes) -> None:
        # Of a comment its colon is enough.
        if not self._line and piece.startswith(b":"):
            self._line.append(b":")
        elif self._line[:1] != [b":"]:
            self._line.append(piece)
            self._line_bytes += len(piece)

    def _end_line(self, tail: bytes) -> Event | None:
        line = tail
        if self._line:
            line = b"".join([*self._line, tail])
            self._line.clear()
            self._line_bytes = 0
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if name:
            self._block_bytes += len(line)
        self._field(name, value.removeprefix(b" "))
        return None

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = self._own_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
            self._retry = int(value)

    def _dispatch(self) -> Event | None:
        if self._id is not None:
            self.last_event_id = self._id
        event = None
        if self._data:
            event = Event(
                event=self._event or "message", data=b"\n".join(self._data), id=self._own_id, retry=self._retry
            )
        self._reset()
        return event
