"""The messages of the wire, shared by service and client: one definition, one encoder and one decoder each.

Owns the shapes of the stream's three events, of an entry and of an event id. Pure: knows no transport (how a message
becomes SSE bytes is `sse.py`), no state (`snapshot.py`) and no etcd. Decoders ignore unknown fields, so that a newer
service can talk to an older client.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

SNAPSHOT = "snapshot"
CHANGE = "change"
STATUS = "status"

MAX_NESTING = 100
"""Containers within one another in a value. A service takes no more, and nobody who goes through a value has to fear
the depth of it."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is stored under a key, as readers see it.

    `value` is a `msgspec.Raw` of canonical JSON in the service, which never looks into values on the way out, and the
    decoded value in a client. `source` is `stored` or `schema` (a default). `revision` is the entry's own
    `mod_revision`; for a default that of the schema.
    """

    value: Any
    version: str | None = None
    source: str = "stored"
    revision: int = 0
    metadata: Any = None


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """All of a scope at `revision`: the data of `event: snapshot`."""

    namespace: str
    environment: str
    epoch: str
    revision: int
    release: int | None = None
    version: str | None = None
    entries: dict[str, Entry]


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What changed at `revision`, all of it: the data of `event: change`. `set` and `deleted` never share a key."""

    revision: int
    release: int | None = None
    version: str | None = None
    set: dict[str, Entry] = {}
    deleted: list[str] = []


class Applying(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is being applied: readers see the one before it until it is complete."""

    release: int | None
    since: str


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How fresh the sender is: the data of `event: status`, which is also the heartbeat.

    `revision` is what the sender has proved; `state` one of `live`, `stale`, `starting`, `behind`, `draining`; `since`
    the RFC 3339 time at which that state began. `staleness_s` is how long ago `revision` was proved to be the newest,
    None while that is `live` or where nobody knows: a duration, because the reader's clock may be another one.
    """

    revision: int
    state: str
    since: str
    staleness_s: float | None = None
    applying: Applying | None = None


class EventId(NamedTuple):
    """A position in one history. Revisions compare only within one epoch."""

    epoch: str
    revision: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.revision}"


# 19 digits hold every int64, etcd's type for revisions.
_EVENT_ID = re.compile(r"([0-9a-f]{12}):(0|[1-9][0-9]{0,18})", re.ASCII)


def parse_event_id(text: str | None) -> EventId | None:
    """Read `epoch:revision`; None for anything else, because an id that makes no sense is answered by a snapshot."""
    match = _EVENT_ID.fullmatch(text) if text else None
    return EventId(match[1], int(match[2])) if match else None


_encoder = msgspec.json.Encoder()
_baseline_decoder = msgspec.json.Decoder(Baseline)
_delta_decoder = msgspec.json.Decoder(Delta)
_status_decoder = msgspec.json.Decoder(Status)


def encode(message: Baseline | Delta | Status) -> bytes:
    """Encode to one line of JSON (no newline in it: JSON strings escape theirs, raw values are canonical)."""
    return _encoder.encode(message)


def decode_baseline(data: bytes | str) -> Baseline:
    """Decode a `snapshot`; raises `msgspec.MsgspecError` for anything that is none."""
    baseline = _baseline_decoder.decode(data)
    check_nesting(baseline.entries)
    return baseline


def decode_delta(data: bytes | str) -> Delta:
    """Decode a `change`; raises `msgspec.MsgspecError` for anything that is none."""
    delta = _delta_decoder.decode(data)
    check_nesting(delta.set)
    return delta


def check_nesting(entries: Mapping[str, Entry]) -> None:
    """Raise `msgspec.ValidationError` where a value or metadata nests deeper than `MAX_NESTING`."""
    level = [
        x for entry in entries.values() for x in (entry.value, entry.metadata) if type(x) is dict or type(x) is list
    ]
    nesting = 0
    while level:
        nesting += 1
        if nesting > MAX_NESTING:
            raise msgspec.ValidationError(f"a value is nested deeper than {MAX_NESTING}")
        level = [
            x
            for one in level
            for x in (one.values() if type(one) is dict else one)
            if type(x) is dict or type(x) is list
        ]


def decode_status(data: bytes | str) -> Status:
    """Decode a `status`; raises `msgspec.MsgspecError` for anything that is none."""
    return _status_decoder.decode(data)


def format_time(at: datetime) -> str:
    """RFC 3339 in UTC with `Z`, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
