"""Who wants to hear of changes, and what they have not heard yet.

Owns order and bound: states come in one after another, calls go out one at a time in that order. What is said of the
client's status is a row of its own, without an order between the two. Knows no tasks or threads: a shell empties the
backlog with `take` whenever `wake` was called. May be used from several threads.
"""

import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

from configsvc_client.snapshot import Snapshot
from configsvc_client.view import ClientStatus, ConfigChange, changes, own

logger = logging.getLogger("configsvc_client")

Callback = Callable[[ConfigChange], Any]
StatusCallback = Callable[[ClientStatus], Any]
_Step = tuple[int, Snapshot | None, Snapshot]
Call = tuple[Callable[[Any], Any], ConfigChange | ClientStatus]

_MAX_STATUSES = 64


def check_plain(callback: Callable[..., Any]) -> None:
    """Raise `TypeError` for a coroutine function, where nobody would await what it returns."""
    if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__):
        raise TypeError(
            f"{callback!r} is a coroutine function, which only AsyncConfigClient awaits; give ConfigClient a plain one"
        )


class _Registration:
    __slots__ = ("active", "callback", "key", "since")

    def __init__(self, callback: Callable[[Any], Any], key: str | None, since: int) -> None:
        self.callback = callback
        self.key = key
        self.since = since
        self.active = True


class Callbacks:
    """Registrations and a bounded backlog of states.

    While callbacks are so slow that more than `max_backlog` states wait, states in between are skipped: values that
    have been overwritten are then not told, the step to the newest state always is. Nobody hears of what was before
    its registration, so that each of those that come while states are skipped keeps one state more.
    """

    def __init__(self, wake: Callable[[], None], *, max_backlog: int = 256) -> None:
        self._wake = wake
        self._max_backlog = max_backlog
        self._lock = threading.Lock()
        self._registrations: list[_Registration] = []
        self._backlog: deque[_Step] = deque()
        self._pushed = 0
        # Calls of one step that are still to come, and the one that is out.
        self._due: deque[tuple[_Registration, ConfigChange | ClientStatus]] = deque()
        self._calling: tuple[_Registration, ConfigChange | ClientStatus] | None = None
        self._status_registrations: list[_Registration] = []
        # Of too many, the oldest are not told.
        self._statuses: deque[tuple[list[_Registration], ClientStatus]] = deque(maxlen=_MAX_STATUSES)
        self._due_statuses: deque[tuple[_Registration, ClientStatus]] = deque()
        self.listeners: WeakSet[Callbacks] = WeakSet()
        """Others that hear of the same states, each at its own pace."""
        self.errors = 0
        """Calls that raised."""

    @property
    def is_used(self) -> bool:
        """Whether anybody wants to hear of changes."""
        return bool(self._registrations or self._status_registrations or self.listeners)

    @property
    def is_due(self) -> bool:
        """Whether `take` has calls."""
        return bool(self._due or self._backlog or self._due_statuses or self._statuses)

    def after_fork(self, *, in_callback: bool) -> None:
        """In a child, where nobody calls any more: what was being called is due again, unless that is what forked."""
        self._lock = threading.Lock()
        if self._calling is not None and not in_callback:
            self._due.appendleft(self._calling)
        self._calling = None
        # What was said of the parent's link.
        self._statuses.clear()
        self._due_statuses.clear()
        for listener in list(self.listeners):
            listener.after_fork(in_callback=True)

    def add(self, callback: Callback, key: str | None) -> Callable[[], None]:
        """Register for changes from now on; the returned function ends it, at once and as often as it is called."""
        if not isinstance(key, str | None):
            raise TypeError(f"a key is a string, not {key!r}")
        return self._register(self._registrations, callback, key)

    def add_status(self, callback: StatusCallback) -> Callable[[], None]:
        """The same for the client's status."""
        return self._register(self._status_registrations, callback, None)

    def _register(
        self, registrations: list[_Registration], callback: Callable[[Any], Any], key: str | None
    ) -> Callable[[], None]:
        if not callable(callback):
            raise TypeError(f"a callback is a function of one argument, not {callback!r}")
        with self._lock:
            registration = _Registration(callback, key, self._pushed)
            registrations.append(registration)

        def remove() -> None:
            registration.active = False
            with self._lock:
                if registration in registrations:
                    registrations.remove(registration)

        return remove

    def push_status(self, status: ClientStatus) -> None:
        """Note that the client's status is another one."""
        with self._lock:
            if not self._status_registrations:
                return
            self._statuses.append((list(self._status_registrations), status))
        self._wake()

    def push(self, old: Snapshot | None, new: Snapshot) -> None:
        """Note the step from one state to the next."""
        for listener in list(self.listeners):
            listener.push(old, new)
        with self._lock:
            self._pushed += 1
            if not self._registrations:
                return
            is_awake = bool(self._backlog)
            if len(self._backlog) < self._max_backlog:
                self._backlog.append((self._pushed, old, new))
            else:
                # In one step, for a process that is forked here.
                self._backlog = self._skipped((self._pushed, old, new))
        if not is_awake:
            self._wake()

    def _skipped(self, step: _Step) -> "deque[_Step]":
        """The backlog with one step more, and as many left out as may be: not those at which somebody registered."""
        begun = {one.since for one in self._registrations}
        steps = [*self._backlog, step]
        for at in range(len(steps) - 1, self._max_backlog - 1, -1):
            before, after = steps[at - 1], steps[at]
            if not any(before[0] <= since < after[0] for since in begun):
                steps[at - 1 : at + 1] = [(after[0], before[1], after[2])]
        return deque(steps)

    def wake_listeners(self) -> None:
        """Let those who wait for a state look at what else has happened."""
        for listener in list(self.listeners):
            listener._wake()

    def take(self) -> Iterator[Call]:
        """The calls that are due, in order; stops when there are none. What each is told is its own."""
        while True:
            with self._lock:
                self._calling = None
                if self._statuses and not self._due_statuses:
                    heard, status = self._statuses.popleft()
                    self._due_statuses.extend((one, status) for one in heard)
                if self._due_statuses:
                    self._due.appendleft(self._due_statuses.popleft())
                if not self._due and self._backlog:
                    number, old, new = self._backlog[0]
                    heard = [one for one in self._registrations if one.since < number]
                    self._due.extend((one, c) for c in changes(old, new) for one in heard if one.key in (None, c.key))
                    # Last, so that a process forked in between hears it twice and not never.
                    self._backlog.popleft()
                    continue
                if not self._due:
                    return
                self._calling = call = self._due.popleft()
            registration, told = call
            if registration.active:
                yield registration.callback, own(told)

    def failed(self, callback: Callable[[Any], Any], told: ConfigChange | ClientStatus) -> None:
        """To be called in an `except` block: an error in one callback is logged and counted, and harms nothing else."""
        self.errors += 1
        what = told.key if isinstance(told, ConfigChange) else told.state
        logger.exception("callback %r failed for %r", callback, what)
