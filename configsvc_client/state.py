"""What the two clients share: the state that reads are answered from, and what is said about it.

Knows no tasks and no threads. The link's loop writes, any thread reads: the snapshot is immutable and swapped as one
reference, so readers need no lock.
"""

import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from configsvc_client import view
from configsvc_client.callbacks import Callbacks
from configsvc_client.errors import ClientClosed, ConfigKeyError, LinkFailed
from configsvc_client.options import Options
from configsvc_client.session import Session
from configsvc_client.snapshot import Snapshot
from configsvc_client.view import MISSING, ClientStatus, Source

FILE_AFTER_S = 1.0
"""How long a service is preferred to a last-known-good file that is at hand."""
LOAD_TIMEOUT_S = 1.0
"""How long a disk is waited for, by the link and by a first read that waits for nothing else."""


def first_wait_s(start_timeout_s: float, *, has_file: bool, all_failed: bool) -> float:
    """How long after the file was looked for a first read has something to wait for, apart from its own limit.

    With a file: a second for a service, nothing once all addresses were tried in vain. Without: as long as it likes.
    """
    if has_file:
        return 0.0 if all_failed else min(start_timeout_s, FILE_AFTER_S)
    return start_timeout_s if start_timeout_s < LOAD_TIMEOUT_S else math.inf


class ClientState:
    """One client's snapshot, session, callbacks and end."""

    def __init__(self, options: Options, wake: Callable[[], None]) -> None:
        self.options = options
        self._started = time.monotonic()
        self._started_at = datetime.now(UTC)
        self.session = Session(options, random.Random(), self._started)
        self._told: Snapshot | None = None
        self.callbacks = Callbacks(wake)
        self._hidden: Session | None = None
        self.failure: BaseException | None = None
        self._closed: float | None = None
        self._answered_without = False
        # What a read was answered from before a service had proved anything; and whether reads may be.
        self._answered_from: Snapshot | None = None
        self._is_released = False

    def __repr__(self) -> str:
        s = self.session
        scope = f"{s.namespace or '?'}/{s.environment or '?'}"
        return f"{scope} {self.status.state} at {s.position or 'nothing'} via {s.endpoint.url}"

    # ---- a new process or loop ----------------------------------------------------------------------------------

    def restart(self) -> None:
        """Go on with what is held, in a session that nobody has moved yet; for a new link, on another loop."""
        held = self._hidden or self.session
        session = Session(self.options, random.Random(), time.monotonic())
        session.inherit(held)
        self._hidden = None
        self.session = session
        if self.is_closed:
            session.stopped()
            return
        self.failure = None
        if session.is_proved and session.snapshot is not None and session.snapshot is not self._told:
            # The other link was interrupted before it told.
            self.take(session.snapshot)

    def hide(self) -> None:
        """Show nothing until `restart`: only a read that finds nothing looks any further, and all others cost less."""
        self._hidden = self._hidden or self.session
        self.session = Session(self.options, random.Random(), time.monotonic())

    # ---- the link's side ----------------------------------------------------------------------------------------

    def take(self, snapshot: Snapshot) -> None:
        """Tell of a state that a service has shown.

        The first one is a change only to an application that was answered without one, or from the last-known-good
        file: to the latter each value is one that differs from the file's.
        """
        old = self._told or self._answered_from
        if old is not None or self._answered_without:
            self.callbacks.push(old, snapshot)
        # Last, so that a process forked in between tells it again and not never.
        self._told = snapshot
        self._answered_from = None

    def release(self) -> None:
        """Let reads be answered from the file, if there is one: no service came in time."""
        self._is_released = True
        kept = self.snapshot
        if kept is not None and not self.session.is_proved and self._answered_without:
            self.callbacks.push(self._told, kept)
            self._told = kept

    def fail(self, error: BaseException) -> None:
        """Note the defect that ended the link."""
        self.failure = error
        self.session.last_error = f"a defect ended the link: {type(error).__name__}: {error}"

    def close(self) -> None:
        """Note the end; reads go on with what is there."""
        self._is_released = True
        if self._closed is None:
            self._closed = time.monotonic()

    # ---- the application's side ---------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot | None:
        """The state that reads are answered from now; that of the file only once no service is waited for any more.

        Whoever saw a revision that is `live` in `status` finds here a state at least as new.
        """
        session = self.session
        return session.snapshot if session.is_proved or self._is_released else None

    @property
    def first_read_s(self) -> float:
        """How long a first read waits at most."""
        options = self.options
        return options.start_timeout_s if options.cache is None else max(options.start_timeout_s, LOAD_TIMEOUT_S)

    def _answering(self) -> Snapshot | None:
        """The state that a read is answered from, so that `take` knows what the application has seen."""
        session = self.session
        # In this order: what is read after a proof is not older than what is proved.
        if session.is_proved:
            return session.snapshot
        while True:
            # The note first, then a second look: whichever of the link and this comes last sees the other.
            snapshot = self.snapshot
            if snapshot is None:
                self._answered_without = True
            else:
                self._answered_from = snapshot
            if self.snapshot is snapshot:
                return snapshot

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed is not None

    def read(self, key: str, default: Any) -> Any:
        """Answer from the state as it is now; raises `ConfigKeyError` only."""
        snapshot = self._answering()
        if snapshot is not None:
            return view.lookup(snapshot, key, default)
        if default is MISSING:
            raise ConfigKeyError(key, hint=self.why_nothing())
        return default

    def read_all(self) -> dict[str, Any]:
        """All values as they are now; nothing where there is no state."""
        snapshot = self._answering()
        return {} if snapshot is None else view.values(snapshot)

    def why_nothing(self) -> str:
        """A sentence for an error: why there is no state."""
        s = self.session
        scope = f" of {s.namespace}/{s.environment}" if s.namespace and s.environment else ""
        return f"no configuration{scope} was received; {s.last_error or f'no answer from {s.endpoint.url}'}"

    def check(self) -> None:
        """Raise where waiting is in vain."""
        if self.failure is not None:
            raise LinkFailed(self.session.last_error) from self.failure
        if not self.session.is_proved and self.is_closed:
            raise ClientClosed("the client is closed")

    @property
    def status(self) -> ClientStatus:
        """How fresh reads are at this moment."""
        now = time.monotonic()
        s = self.session
        seen = s.view(now)
        position, snapshot = s.position, s.snapshot
        closed = self._closed
        source: Source = "memory"
        if snapshot is None:
            source = "none"
        elif not s.is_proved:
            source = "disk"
        elif seen.state == "live" and closed is None:
            source = "live"
        since = seen.since if closed is None else closed
        return ClientStatus(
            state=seen.state if closed is None else "closed",
            source=source,
            revision=None if position is None else position.revision,
            since=self._started_at + timedelta(seconds=since - self._started),
            age_s=seen.age_s,
            last_error=s.last_error,
            url=s.endpoint.url,
            service_state=s.service_state,
        )
