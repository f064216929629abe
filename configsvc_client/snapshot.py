"""The one state of the system: a scope as it was at one revision, and how a message makes the next one.

Pure. Service and client apply the same messages with the same code, which is why they cannot disagree. Knows neither
where messages come from nor who reads the state.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from configsvc_client.protocol import Baseline, Delta, Entry

_NO_ENTRIES: Mapping[str, Entry] = MappingProxyType({})


def same_value(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; Python alone takes `true`, `1` and `1.0` for equal."""
    if type(one) is not type(other):
        return False
    if type(one) is dict:
        return one.keys() == other.keys() and all(same_value(item, other[key]) for key, item in one.items())
    if type(one) is list:
        return len(one) == len(other) and all(map(same_value, one, other))
    return bool(one == other)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One key's step from one snapshot to another; None where the key is absent."""

    key: str
    old: Entry | None
    new: Entry | None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A scope at one revision, complete and immutable: what a reader holds never changes under it."""

    namespace: str
    environment: str
    epoch: str = ""
    revision: int = 0
    release: int | None = None
    version: str | None = None
    entries: Mapping[str, Entry] = _NO_ENTRIES

    def apply(self, message: Baseline | Delta) -> "Snapshot":
        """Return the state after `message`; self where the message is older than the state.

        A message is older when its revision is not above the state's within the same epoch, so applying a stream twice,
        or two overlapping streams, changes nothing. A baseline of another epoch replaces everything.
        """
        if isinstance(message, Delta):
            return self._with(message) if message.revision > self.revision else self
        if message.epoch == self.epoch and message.revision < self.revision:
            return self
        return Snapshot(
            namespace=message.namespace,
            environment=message.environment,
            epoch=message.epoch,
            revision=message.revision,
            release=message.release,
            version=message.version,
            entries=message.entries,
        )

    def _with(self, delta: Delta) -> "Snapshot":
        entries = dict(self.entries)
        entries.update(delta.set)
        for key in delta.deleted:
            entries.pop(key, None)
        return msgspec.structs.replace(
            self, revision=delta.revision, release=delta.release, version=delta.version, entries=entries
        )

    def baseline(self) -> Baseline:
        """The message that makes this state out of nothing."""
        return Baseline(
            namespace=self.namespace,
            environment=self.environment,
            epoch=self.epoch,
            revision=self.revision,
            release=self.release,
            version=self.version,
            entries=dict(self.entries),
        )

    def is_same(self, other: "Snapshot") -> bool:
        """Whether both hold the same of one history, whatever revisions they were taken at."""
        about = (self.epoch, self.release, self.version) == (other.epoch, other.release, other.version)
        return about and next(self.diff(other), None) is None

    def diff(self, newer: "Snapshot") -> Iterator[Change]:
        """Yield each key whose entry differs between this snapshot and a newer one, deletions last."""
        for key, entry in newer.entries.items():
            old = self.entries.get(key)
            if old is not entry and (old != entry or not same_value(old.value, entry.value)):
                yield Change(key=key, old=old, new=entry)
        for key, entry in self.entries.items():
            if key not in newer.entries:
                yield Change(key=key, old=entry, new=None)
