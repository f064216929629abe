"""Who wants to hear of changes, and what they have not heard yet.

Owns order and bound: states come in one after another, calls go out one at a time in that order. Knows no tasks or
threads: a shell empties the backlog with `take` whenever `wake` was called. May be used from several threads.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from configsvc_client.snapshot import Snapshot
from configsvc_client.view import ConfigChange, changes

logger = logging.getLogger("configsvc_client")

Callback = Callable[[ConfigChange], Any]


class _Registration:
    __slots__ = ("active", "callback", "key", "since")

    def __init__(self, callback: Callback, key: str | None, since: int) -> None:
        self.callback = callback
        self.key = key
        self.since = since
        self.active = True


class Callbacks:
    """Registrations and a bounded backlog of states.

    While callbacks are so slow that more than `max_backlog` states wait, states in between are skipped: values that
    have been overwritten are then not told, the step to the newest state always is.
    """

    def __init__(self, wake: Callable[[], None], *, max_backlog: int = 256) -> None:
        self._wake = wake
        self._max_backlog = max_backlog
        self._lock = threading.Lock()
        self._registrations: list[_Registration] = []
        self._backlog: deque[tuple[int, Snapshot | None, Snapshot]] = deque()
        self._pushed = 0

    def add(self, callback: Callback, key: str | None) -> Callable[[], None]:
        """Register for changes from now on; the returned function ends it, at once and as often as it is called."""
        with self._lock:
            registration = _Registration(callback, key, self._pushed)
            self._registrations.append(registration)

        def remove() -> None:
            registration.active = False
            with self._lock:
                if registration in self._registrations:
                    self._registrations.remove(registration)

        return remove

    def push(self, old: Snapshot | None, new: Snapshot) -> None:
        """Note the step from one state to the next."""
        with self._lock:
            self._pushed += 1
            if not self._registrations:
                return
            is_awake = bool(self._backlog)
            if len(self._backlog) >= self._max_backlog:
                old = self._backlog.pop()[1]
            self._backlog.append((self._pushed, old, new))
        if not is_awake:
            self._wake()

    def take(self) -> Iterator[tuple[Callback, ConfigChange]]:
        """The calls that are due, in order; stops when the backlog is empty."""
        while True:
            with self._lock:
                if not self._backlog:
                    return
                number, old, new = self._backlog.popleft()
                registrations = [one for one in self._registrations if one.since < number]
            for change in changes(old, new):
                for one in registrations:
                    if one.active and one.key in (None, change.key):
                        yield one.callback, change


def log_failure(callback: Callback, change: ConfigChange) -> None:
    """To be called in an `except` block: an error in one callback is logged and harms nothing else."""
    logger.exception("callback %r failed for %r", callback, change.key)
