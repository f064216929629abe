"""The one state of the system: a scope as it was at one revision, and how a message makes the next one.

Pure. Service and client apply the same messages with the same code, which is why they cannot disagree. Knows neither
where messages come from nor who reads the state.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from configsvc_client.entries import differing, immutable, with_changes
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
    """A scope at one revision, complete and immutable: what a reader holds never changes under it.

    `entries` may be made of any mapping that nobody changes any more. Many are held as `Entries`, so that the step to
    the next state costs what has changed and not what there is.
    """

    namespace: str
    environment: str
    epoch: str = ""
    revision: int = 0
    release: int | None = None
    version: str | None = None
    entries: Mapping[str, Entry] = _NO_ENTRIES

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "entries", immutable(self.entries))

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
        entries = with_changes(self.entries, delta.set, delta.deleted)
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
        return about and next(self._differences(other), None) is None

    def diff(self, newer: "Snapshot") -> list[Change]:
        """Each key whose entry differs between this snapshot and a newer one, sorted, deletions last."""
        return sorted(self._differences(newer), key=lambda change: (change.new is None, change.key))

    def _differences(self, newer: "Snapshot") -> Iterator[Change]:
        for before, after in differing(self.entries, newer.entries):
            for key, entry in after.items():
                old = before.get(key)
                if old is not entry and (old is None or old != entry or not same_value(old.value, entry.value)):
                    yield Change(key=key, old=old, new=entry)
            for key in before.keys() - after.keys():
                yield Change(key=key, old=before[key], new=None)
