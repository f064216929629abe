"""What an application sees: values, changes and the client's status. Pure.

Owns the rule that nobody can change the shared state through a value that was read: scalars are handed out as they are,
containers (dict, list) as a copy of their own.
"""

from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal

import msgspec

from configsvc_client.snapshot import Snapshot, same_value


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    __str__ = __repr__

    def __bool__(self) -> Literal[False]:
        return False


MISSING: Final = _Missing.MISSING
"""Absence, told apart from `None`, which is what a stored JSON null reads as."""


State = Literal["connecting", "live", "stale", "closed"]
Source = Literal["live", "memory", "disk", "none"]
Transport = Literal["stream", "polling"]


class ConfigChange(msgspec.Struct, frozen=True, kw_only=True):
    """A key whose value is another one than before, came (`old` is `MISSING`) or went (`new` is `MISSING`).

    `revision` is that of the state in which it is so. `metadata` is what was stored beside the new value (who wrote it,
    when), None where there is none.
    """

    key: str
    old: Any
    new: Any
    revision: int
    metadata: Any = None


class ClientStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How fresh what `get` answers is, and why.

    `state`: `connecting` (nothing from a service yet), `live` (proved up to date by the service within
    `max_staleness_s`, unset: within two heartbeats), `stale` (older, or the service says so itself), `closed`.
    `source`: where values come from. `revision`: up to which everything is known; it steps back only with a new
    history. `since`: when this state began. `age_s`: seconds since the state was last proved to be the newest, 0.0
    while the link is live, None without any, and where no service has said it. `last_error`: why the link is not live,
    and where; while `transport` is `polling` why the stream is not used; None while all is well. `url`: the service
    that is being asked; `service_state`: what it last said of itself on this connection. `transport`: whether a stream
    brings changes there, or polls, because something holds streams back. `reads`: how many reads of this process were
    answered from where (`default`: with the caller's own). `invalid_values`: how many of the latter because the stored
    value was of another type or out of bounds.
    """

    state: State
    source: Source
    revision: int | None
    since: datetime
    age_s: float | None
    last_error: str | None
    url: str
    service_state: str | None
    transport: Transport
    reads: dict[str, int]
    invalid_values: int


def copy_value(value: Any) -> Any:
    """A JSON value that its receiver may change."""
    if type(value) is dict:
        return {key: copy_value(item) for key, item in value.items()}
    if type(value) is list:
        return [copy_value(item) for item in value]
    return value


def values(snapshot: Snapshot) -> dict[str, Any]:
    """All values that apply, by key, schema defaults included."""
    return {key: copy_value(entry.value) for key, entry in snapshot.entries.items()}


def own(told: ConfigChange | ClientStatus) -> ConfigChange | ClientStatus:
    """The same for one receiver, who may change what it holds."""
    if isinstance(told, ClientStatus):
        return msgspec.structs.replace(told, reads=dict(told.reads))
    if any(type(one) in (dict, list) for one in (told.old, told.new, told.metadata)):
        old, new, metadata = copy_value(told.old), copy_value(told.new), copy_value(told.metadata)
        return msgspec.structs.replace(told, old=old, new=new, metadata=metadata)
    return told


def changes(old: Snapshot | None, new: Snapshot) -> list[ConfigChange]:
    """Each key whose *value* differs; an entry that moved to another version with its value kept is no change.

    They hold the states' own values: `own` makes one that may be handed out.
    """
    before = old or Snapshot(namespace=new.namespace, environment=new.environment)
    return [
        ConfigChange(
            key=change.key,
            old=MISSING if change.old is None else change.old.value,
            new=MISSING if change.new is None else change.new.value,
            revision=new.revision,
            metadata=None if change.new is None else change.new.metadata,
        )
        for change in before.diff(new)
        if change.old is None or change.new is None or not same_value(change.old.value, change.new.value)
    ]
