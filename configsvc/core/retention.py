"""Which releases are kept. Pure.

A release is kept while it is among the newest `count` and not older than `age_s`. The head's release always is, and so
are those that a pending override goes back to; and since a past state is a checkpoint with all releases after it, what
is removed ends right before a checkpoint.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from configsvc.core.model import Head
from configsvc.core.release import Manifest


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How much history is kept; 0 is no limit."""

    count: int = 1000
    age_s: float = 365 * 86_400.0


def first_kept(manifests: Sequence[Manifest], head: Head, retention: Retention, now: datetime) -> int:
    """The oldest release that stays, of `manifests` in the order of their numbers; 0 where all of them do."""
    wanted = _first_wanted(manifests, retention, now)
    needed = min([head.release, head.deployed or head.release, *head.overrides.values()])
    limit = min(wanted, needed)
    kept = [one.number for one in manifests if one.number <= limit and one.checkpoint is not None]
    return max(kept, default=0)


def _first_wanted(manifests: Sequence[Manifest], retention: Retention, now: datetime) -> int:
    numbers = [one.number for one in manifests]
    first = numbers[0] if numbers else 0
    if retention.count and len(numbers) > retention.count:
        first = numbers[-retention.count]
    if retention.age_s:
        oldest = now - timedelta(seconds=retention.age_s)
        young = [one.number for one in manifests if _at(one, now) >= oldest]
        first = max(first, min(young, default=numbers[-1] if numbers else 0))
    return first


def _at(manifest: Manifest, now: datetime) -> datetime:
    """When a release was made; one that does not say is taken for new."""
    try:
        at = datetime.fromisoformat(manifest.at)
    except ValueError:
        return now
    return at if at.tzinfo else now
