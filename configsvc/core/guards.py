"""Blast-radius guards: what makes a desired state look like an accident. Pure.

Each has a floor, so that small scopes can be changed freely; `force` with a reason lifts them all. A command that
somebody needs in a hurry (an emergency, an expiry, a rollback) is never stopped by the rate.
"""

from collections.abc import Mapping

import msgspec

from configsvc.core.release import Kind

_UNHURRIED: frozenset[str] = frozenset({"deploy", "promote", "change", "delete", "restore"})


class Guards(msgspec.Struct, frozen=True, kw_only=True):
    """The limits. A factor or share of 0 turns its guard off, and so does a budget or rate of 0."""

    max_deleted: float = 0.5
    """The share of a scope's keys that one write may delete."""
    min_deleted: int = 2
    """Up to so many keys may be deleted whatever share that is, but never all."""
    max_growth: float = 10.0
    """By which factor the number of keys, or their size, may grow."""
    min_growth_keys: int = 100
    min_growth_bytes: int = 256 * 1024
    """A scope that stays below may grow by any factor."""
    max_scope_bytes: int = 32 * 1024 * 1024
    """The budget of one scope: keys and stored values. One that is over it may shrink."""
    max_releases_per_min: int = 60

    def problems(self, before: Mapping[str, bytes], after: Mapping[str, bytes], kind: Kind, recent: int) -> list[str]:
        """Everything about the step from one state to the other that a person should look at first."""
        found: list[str] = []
        deleted = len(before.keys() - after.keys())
        if before and not after:
            keys = f"all {len(before)} keys" if len(before) > 1 else "its only key"
            found.append(f"the scope would be empty: {keys} would be deleted")
        elif self.max_deleted and deleted > self.min_deleted and deleted > self.max_deleted * len(before):
            found.append(f"{deleted} of {len(before)} keys would be deleted, more than {self.max_deleted:.0%}")
        size_before, size_after = _size(before), _size(after)
        if before and self.max_growth:
            if len(after) > self.min_growth_keys and len(after) > self.max_growth * len(before):
                found.append(f"the number of keys would grow from {len(before)} to {len(after)}")
            if size_after > self.min_growth_bytes and size_after > self.max_growth * size_before:
                found.append(f"the scope would grow from {size_before} to {size_after} bytes")
        if self.max_scope_bytes and size_after > max(self.max_scope_bytes, size_before):
            found.append(f"the scope would have {size_after} bytes, its budget is {self.max_scope_bytes}")
        if self.max_releases_per_min and kind in _UNHURRIED and recent >= self.max_releases_per_min:
            found.append(f"{recent} releases of this scope in the last minute; {self.max_releases_per_min} are allowed")
        return found


def _size(state: Mapping[str, bytes]) -> int:
    return sum(len(key.encode()) + len(raw) for key, raw in state.items())
