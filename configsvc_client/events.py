"""What an event of the stream says, checked against what it was asked for; or that it makes no sense.

Pure. Raises `LinkError` (`garbage`) for what no service would send to this reader. What follows from an event is
`session.py`'s.
"""

import msgspec

from configsvc_client.errors import LinkError
from configsvc_client.protocol import (
    Baseline,
    Delta,
    EventId,
    Status,
    decode_baseline,
    decode_delta,
    decode_status,
    parse_event_id,
)
from configsvc_client.sse import Event

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_snapshot(event: Event, scope: tuple[str | None, str | None]) -> tuple[Baseline, EventId]:
    """A state of the scope, and the position up to which it is proved."""
    try:
        baseline = decode_baseline(event.data)
    except _UNREADABLE as error:
        raise _garbage(event, error) from error
    if (baseline.namespace, baseline.environment) != scope:
        what = f"snapshot of {baseline.namespace}/{baseline.environment}, which was not asked for"
        raise LinkError("garbage", what)
    # An id of its own is optional; the epoch has to be one that an id can be made of.
    position = parse_event_id(event.id or f"{baseline.epoch}:{baseline.revision}")
    if position is None or position.epoch != baseline.epoch or position.revision < baseline.revision:
        raise LinkError("garbage", f"snapshot {baseline.epoch}:{baseline.revision} with id {event.id!r}")
    return baseline, position


def read_change(event: Event, held: EventId | None) -> tuple[Delta, EventId]:
    """A change of a state at `held`, and the position after it."""
    try:
        delta = decode_delta(event.data)
    except _UNREADABLE as error:
        raise _garbage(event, error) from error
    if held is None:
        raise LinkError("garbage", "change before any snapshot")
    id = parse_event_id(event.id or f"{held.epoch}:{delta.revision}")
    if id is None or id.epoch != held.epoch:
        raise LinkError("garbage", f"change with id {event.id!r} for a state at {held}")
    return delta, EventId(id.epoch, max(id.revision, delta.revision))


def read_status(event: Event, held: EventId | None) -> tuple[Status, EventId | None]:
    """A heartbeat; its position is None where it says nothing about the state at `held`."""
    try:
        status = decode_status(event.data)
    except _UNREADABLE as error:
        raise _garbage(event, error) from error
    id = parse_event_id(event.id)
    if id is None or held is None:
        return status, None
    if id.epoch != held.epoch:
        raise LinkError("garbage", f"status with id {id} for a state at {held}")
    return status, id


def _garbage(event: Event, error: Exception) -> LinkError:
    return LinkError("garbage", f"event {event.event!r} does not read: {error}")
