"""What a service would send about one scope whose values a test sets: checked as a service checks them, then messages.

Knows neither who takes the messages nor how they travel; both are in `testing.py`.
"""

import math
import random
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from configsvc_client import protocol, sse
from configsvc_client.protocol import MAX_NESTING, Delta, Entry, EventId, Status
from configsvc_client.snapshot import Snapshot
from configsvc_client.view import copy_value

MAX_KEY_BYTES = 1024
"""What a service serves."""

_NO_KEY = re.compile(r"^_|[/\x00-\x1f\x7f-\x9f]")


def _entries(values: Mapping[str, Any]) -> dict[str, Entry]:
    """Values as a service would serve them; raises `TypeError` or `ValueError` for what it would pass over.

    That is less than it refuses to write: somebody else may have stored it.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"values are a mapping of keys to values, not {values!r}")
    for key, value in values.items():
        if not isinstance(key, str):
            raise TypeError(f"a key is a string, not {key!r}")
        _check_text("a key", key)
        if not key or len(key.encode()) > MAX_KEY_BYTES or key in (".", "..") or _NO_KEY.search(key):
            raise ValueError(
                f"{key!r} is no key: 1 to {MAX_KEY_BYTES} bytes without '/' and control characters, and no '_' at the "
                "start; dots are the usual separator, as in database.pool_size"
            )
        _check(key, value, 0)
    return {key: Entry(value=copy_value(value)) for key, value in values.items()}


def _check(where: str, value: Any, nesting: int) -> None:
    if type(value) is dict or type(value) is list:
        # Also what a list that holds itself comes to.
        if nesting == MAX_NESTING:
            raise ValueError(f"{where[:60]}…: nested deeper than {MAX_NESTING}")
        for name, item in value.items() if type(value) is dict else enumerate(value):
            if type(value) is list:
                _check(f"{where}[{name}]", item, nesting + 1)
                continue
            if type(name) is not str:
                raise TypeError(f"{where}: an object's keys are strings, not {name!r}")
            _check_text(where, name)
            _check(f"{where}.{name}", item, nesting + 1)
    elif type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where}: JSON has no {value!r}")
    elif type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"{where}: {value} has more than 64 bits")
    elif type(value) is str:
        _check_text(where, value)
    elif value is not None and type(value) is not bool:
        raise TypeError(
            f"{where}: {type(value).__name__} is no JSON value; use dict, list, str, int, float, bool or None"
        )


def _check_text(where: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where!r}: {text!r} holds half a surrogate pair, which is no UTF-8") from None


class SampleScope:
    """One scope, step by step; what it is at first is its revision 1."""

    def __init__(self, values: Mapping[str, Any], namespace: str, environment: str) -> None:
        epoch = f"{random.getrandbits(48):012x}"
        self.state = Snapshot(
            namespace=namespace, environment=environment, epoch=epoch, revision=1, entries=_entries(values)
        )

    @property
    def id(self) -> str:
        """Of what is sent now."""
        return str(EventId(self.state.epoch, self.state.revision))

    def change(self, values: Mapping[str, Any], deleted: Iterable[str] = ()) -> Delta:
        """One step; raises for a key to delete that is not there or is set as well, and changes nothing then."""
        gone = list(deleted)
        for key in gone:
            if key in values:
                raise ValueError(f"{key!r} is set and deleted in one step")
            if key not in self.state.entries:
                raise KeyError(key)
        delta = Delta(revision=self.state.revision + 1, set=_entries(values), deleted=gone)
        self.state = self.state.apply(delta)
        return delta

    def status(self, state: str = "live") -> Status:
        """How fresh it is said to be."""
        return Status(revision=self.state.revision, state=state, since=protocol.format_time(datetime.now(UTC)))

    def heartbeat(self, revision: int) -> bytes:
        """A sign of life for a reader that was sent everything up to a revision: it must hear of no later one."""
        status = msgspec.structs.replace(self.status(), revision=revision)
        return sse.encode(protocol.STATUS, protocol.encode(status), str(EventId(self.state.epoch, revision)))
