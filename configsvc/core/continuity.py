"""Whether a listing can be a later state of the history that was followed. Pure.

etcd's `cluster_id` survives a restore from a backup and a store that was made anew, and revisions then repeat. What
cannot repeat is a key: at or below the revision that was proved, every key that is still there has to be as it was.
"""

from collections.abc import Mapping

import msgspec

from configsvc.core.model import Scope, Unreadable, decode_head
from configsvc.core.replica import Listed, Record


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What a file knows of one scope: up to where it was proved, each key's revision there, and the head's id.

    `newest` is the newest revision among all keys of the scope at that time, readable or not, head included, and
    `count` their number.
    """

    proved: int
    newest: int
    count: int
    revisions: Mapping[str, int]
    head_id: str | None


def contradiction(listed: Listed, position: int, mirror: Mapping[bytes, int]) -> str | None:
    """Say why `listed` cannot follow a state that had `mirror` at `position`; None where it can.

    A key that is gone says nothing: it may have been deleted since.
    """
    for key, revision in listed.mirror.items():
        if revision <= position and mirror.get(key) != revision:
            had = mirror.get(key)
            return (
                f"a key that was last changed at revision {revision} was "
                f"{'not there' if had is None else f'at {had}'} when revision {position} had been proved"
            )
    return None


def remembered_contradiction(listed: Listed, remembered: Mapping[Scope, Remembered]) -> str | None:
    """The same for scopes known from files, which hold entries and head but no mirror."""
    for scope, past in remembered.items():
        if listed.revision < past.proved:
            return f"the store is at revision {listed.revision}, but {past.proved} had been proved for {scope}"
        now = listed.scopes.get(scope)
        if now is None:
            continue
        everything = [*now.records.values(), *([now.head] if now.head else [])]
        for record in everything:
            if past.newest < record.mod_revision <= past.proved:
                newest = f"{past.newest} was the newest when {past.proved} was proved"
                return f"a key of {scope} has revision {record.mod_revision}, but {newest}"
        for key, record in now.records.items():
            # An entry that was unreadable then is in no file, or in it as it last was.
            if record.mod_revision < past.revisions.get(key, 0):
                return f"a key of {scope} went back from revision {past.revisions[key]} to {record.mod_revision}"
        if past.head_id and now.head and now.head.mod_revision <= past.proved and head_id(now.head) != past.head_id:
            return f"the head of {scope} is not the one that was there at revision {past.proved}"
    return None


def head_id(record: Record) -> str | None:
    """The random id in a head; None where it cannot be read."""
    try:
        return decode_head(record.value).id
    except Unreadable:
        return None
