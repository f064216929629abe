"""The dictionary in which reads look up values, and how a look-up is counted.

This is the one place where speed has made the client's code less plain; docs/decisions/015-client-reads.md has the
figures. A snapshot answers any read, but takes three steps to a value. So beside it lie the plain values by key, in one
dictionary that lives as long as its client, and two rules make it as good as the snapshot:

- Readers never see half a step from one state to the next. All of it, the next snapshot included, comes in by one
  `dict.update`, which no other thread can look into while there is a global interpreter lock.
- Only values that nobody can change are there. Of everything else (arrays, objects, null, and keys that are not there
  at all) the dictionary says None, or nothing; then the snapshot is asked, which lies in the same dictionary.

Any thread reads, without a lock. Whoever moves a session writes; that is one thread, but for the loops of an asyncio
client that was left by one and taken up by another.
"""

import secrets
import sys
import threading
from collections.abc import Callable
from itertools import repeat
from operator import length_hint
from typing import Any

from configsvc_client.entries import differing
from configsvc_client.snapshot import Snapshot

STATE = f"/{secrets.token_hex(8)}"
"""Under this lies the snapshot that all values here are from. It is a text, because a dictionary of nothing else is
quicker; no key, because of its slash; and not to be guessed, so that nobody reads it by mistake."""

IS_ATOMIC: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether `dict.update` is one step to other threads. Without, reads are answered from the snapshot."""

MAX_NOT_FOUND = 1000
"""So many keys at most are remembered as asked for in vain."""

_CONTAINERS = (dict, list)


class Lookup:
    """The plain values of one state after another."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {STATE: Snapshot(namespace="", environment="")}
        self._writing = threading.Lock()
        self._not_found = 0

    def after_fork(self) -> None:
        """In a child, to which no thread has come that could have been writing."""
        self._writing = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """The state that is shown."""
        shown: Snapshot = self.values[STATE]
        return shown

    def show(self, newest: Callable[[], Snapshot | None]) -> None:
        """Go to the newest state, in one step to all readers; costs what has changed."""
        with self._writing:
            # Asked in here, so that of two writers none goes back.
            snapshot, shown = newest(), self.snapshot
            if snapshot is not None and snapshot is not shown:
                self._step(shown, snapshot)

    def _step(self, shown: Snapshot, snapshot: Snapshot) -> None:
        fresh: dict[str, Any] = {STATE: snapshot}
        gone: list[str] = []
        for old, new in differing(shown.entries, snapshot.entries):
            for key, entry in new.items():
                if old.get(key) is not entry:
                    fresh[key] = None if type(entry.value) in _CONTAINERS else entry.value
            gone += old.keys() - new.keys()
        fresh.update(dict.fromkeys(gone))
        self.values.update(fresh)
        for key in gone:
            # Nobody's any more, so that keys which come and go leave nothing behind.
            if self.values.get(key) is None:
                self.values.pop(key, None)

    def not_found(self, key: object) -> None:
        """Remember that a key was asked for in vain: that costs less the next time, if it is still not there."""
        if self._not_found < MAX_NOT_FOUND and type(key) is str:
            self._not_found += 1
            self.values.setdefault(key, None)


NOTHING: "repeat[dict[str, Any]]" = repeat({})
"""What is looked through while every read has to ask first; counts nothing."""


class Tally:
    """How many reads one source has answered.

    `for values in tally.each` hands out the dictionary and counts, at half the price of `n += 1`: an iterator that
    repeats it knows how often it may still do so. `n` is what is counted otherwise, and what was counted for nothing.
    """

    __slots__ = ("each", "n")

    def __init__(self, values: dict[str, Any]) -> None:
        self.each = repeat(values, sys.maxsize)
        self.n = 0

    @property
    def total(self) -> int:
        """The number of reads."""
        return sys.maxsize - length_hint(self.each) + self.n
