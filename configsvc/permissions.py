"""What a service may have to do in etcd, and how that compares with what its user may. Pure.

etcd grants ranges of keys, `[key, range_end)`; several grants add up.
"""

from collections.abc import Iterable
from typing import NamedTuple

from configsvc.core.model import OVERRIDES, RECEIPTS, RELEASES, ROOT
from configsvc.etcd.facts import Permission
from configsvc.etcd.ops import prefix_end

_EVERYTHING = "/configsvc/"
_FORKS = "/configsvc/forks/"
"""Where a service that may write notes that it changes an epoch; see `epochs.py`."""


class Need(NamedTuple):
    """A prefix that is read; `writes`: what is granted may include writing, which the service then uses."""

    prefix: str
    writes: bool

    def __str__(self) -> str:
        return f"{'readwrite' if self.writes else 'read'} {self.prefix}"


class _Keys(NamedTuple):
    """A range of keys; `end` None is: no end."""

    start: bytes
    end: bytes | None

    def holds(self, other: "_Keys") -> bool:
        ends = self.end is None or (other.end is not None and other.end <= self.end)
        return self.start <= other.start and ends


def needed(namespace: str | None, *, writes: bool) -> tuple[Need, Need, *tuple[Need, ...]]:
    """Of a sidecar for its namespace, or of a central service for all: values, releases, and what writing adds."""
    if namespace is None:
        return Need(ROOT, writes), Need(_EVERYTHING, writes)
    # What only writing needs: an override's record, receipts (their keys are hashes, so of all), changes of an epoch.
    more = (f"{OVERRIDES}{namespace}/", RECEIPTS, _FORKS) if writes else ()
    values, releases = Need(f"{ROOT}{namespace}/", writes), Need(f"{RELEASES}{namespace}/", writes)
    return values, releases, *(Need(prefix, writes) for prefix in more)


def lacks_writing(permissions: Iterable[Permission], need: Need) -> bool:
    """Whether writing is needed below a prefix and not granted for all of it."""
    granted = _merged(_keys(permission) for permission in permissions if permission.kind != "READ")
    return need.writes and not any(keys.holds(_below(need.prefix)) for keys in granted)


def excess(permissions: Iterable[Permission], need: Iterable[Need]) -> list[str]:
    """Grants beyond what is needed, in words."""
    needs = list(need)
    return sorted(
        {
            _words(permission) + _slash(permission, needs)
            for permission in permissions
            if not _is_needed(permission, needs)
        }
    )


def _slash(permission: Permission, needs: list[Need]) -> str:
    """What is to be said where a prefix is the needed one but for its last character."""
    key, end = permission.key, permission.range_end
    alike = any(need.prefix.encode() == key + b"/" for need in needs)
    return " (the '/' at its end is missing, so names that only begin alike are open too)" * (
        alike and end == prefix_end(key)
    )


def _is_needed(permission: Permission, needs: list[Need]) -> bool:
    keys = _keys(permission)
    return any(_below(need.prefix).holds(keys) and (need.writes or permission.kind == "READ") for need in needs)


def _keys(permission: Permission) -> _Keys:
    key, end = permission.key, permission.range_end
    if not end:
        return _Keys(key, key + b"\0")
    return _Keys(key if key != b"\0" else b"", None if end == b"\0" else end)


def _below(prefix: str) -> _Keys:
    return _Keys(prefix.encode(), prefix_end(prefix.encode()))


def _merged(ranges: Iterable[_Keys]) -> list[_Keys]:
    """The same keys as ranges that do not touch."""
    merged: list[_Keys] = []
    for keys in sorted(ranges, key=lambda keys: keys.start):
        last = merged[-1] if merged else None
        if last is None or (last.end is not None and keys.start > last.end):
            merged.append(keys)
        elif last.end is not None and (keys.end is None or keys.end > last.end):
            merged[-1] = _Keys(last.start, keys.end)
    return merged


def _words(permission: Permission) -> str:
    verb = permission.kind.lower()
    key = permission.key.decode("utf-8", "backslashreplace")
    keys = _keys(permission)
    if not permission.range_end:
        return f"{verb} the key {key}"
    if not keys.start and keys.end is None:
        return f"{verb} every key"
    if permission.range_end == prefix_end(permission.key):
        return f"{verb} everything that begins with {key}"
    to = "on" if keys.end is None else f"to {permission.range_end.decode('utf-8', 'backslashreplace')}"
    return f"{verb} the keys from {key} {to}"
