"""What the two clients share: the state that reads are answered from (`reads.py` says how), and what is said about it.

Knows no tasks and no threads. The link's loop writes, any thread reads: the snapshot is immutable and swapped as one
reference, so readers need no lock.
"""

import logging
import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import get_args

from configsvc_client.callbacks import Callbacks
from configsvc_client.errors import ClientClosed, Kind, LinkFailed
from configsvc_client.lookup import NOTHING, Tally
from configsvc_client.metrics import Sample, samples
from configsvc_client.options import Options
from configsvc_client.reads import Reads
from configsvc_client.session import Session
from configsvc_client.snapshot import Snapshot
from configsvc_client.view import ClientStatus, Source, State, Transport

logger = logging.getLogger("configsvc_client")

FILE_AFTER_S = 1.0
"""How long a service is preferred to a last-known-good file that is at hand."""
LOAD_TIMEOUT_S = 1.0
"""How long a disk is waited for, by the link and by a first read that waits for nothing else."""


def first_wait_s(start_timeout_s: float, *, has_file: bool, all_failed: bool, is_refused: bool) -> float:
    """How long after the file was looked for a first read has something to wait for, apart from its own limit.

    With a file: a second for a service, nothing once all addresses were tried in vain. Without: as long as it likes,
    but nothing once whatever answers has refused for good.
    """
    if is_refused:
        return 0.0
    if has_file:
        return 0.0 if all_failed else min(start_timeout_s, FILE_AFTER_S)
    return start_timeout_s if start_timeout_s < LOAD_TIMEOUT_S else math.inf


class ClientState(Reads):
    """One client's snapshot, session, callbacks and end."""

    def __init__(self, options: Options, wake: Callable[[], None]) -> None:
        super().__init__()
        self.options = options
        self._started = time.monotonic()
        self._started_at = datetime.now(UTC)
        self.session = self._session()
        self._told: Snapshot | None = None
        self.callbacks = Callbacks(wake)
        self._hidden: Session | None = None
        self.failure: BaseException | None = None
        self._failed: float | None = None
        self._closed: float | None = None
        self.changes = 0
        """States taken in which something was another than before."""
        self._observed: tuple[State, Source] = ("connecting", "none")
        self._losses = 0
        self._answered_without = False
        # What a read was answered from before a service had proved anything; and whether reads may be.
        self._answered_from: Snapshot | None = None
        self._is_released = False

    def __repr__(self) -> str:
        s = self.session
        scope = f"{s.namespace or '?'}/{s.environment or '?'}"
        return f"{scope} {self.status.state} at {s.position or 'nothing'} via {s.endpoint.url}"

    def _session(self) -> Session:
        return Session(self.options, random.Random(), time.monotonic(), self._show)

    def _show(self) -> None:
        self.lookup.show(lambda: self.session.snapshot)

    # ---- a new process or loop ----------------------------------------------------------------------------------

    def restart(self) -> None:
        """Go on with what is held, in a session that nobody has moved yet; for a new link, on another loop."""
        held = self._hidden or self.session
        session = self._session()
        session.inherit(held)
        self._hidden = None
        self.unserve()
        self.session = session
        self._serve()
        if self.is_closed:
            session.stopped()
            return
        self.failure = self._failed = None
        if session.is_proved and session.snapshot is not None and session.snapshot is not self._told:
            # The other link was interrupted before it told.
            self.take(session.snapshot)

    def hide(self) -> None:
        """Show nothing until `restart`: only a read that finds nothing looks any further, and all others cost less."""
        self._hidden = self._hidden or self.session
        self.unserve()
        self.session = self._session()

    def forget_counts(self) -> None:
        """Count from nothing: another process adds up for itself. To be called before `hide` and `restart`."""
        self.lookup.after_fork()
        self.forget_reads()
        self.changes = self.callbacks.errors = self._losses = 0
        self.session.forget_counts()

    # ---- the link's side ----------------------------------------------------------------------------------------

    def take(self, snapshot: Snapshot) -> None:
        """Tell of a state that a service has shown.

        The first one is a change only to an application that was answered without one, or from the last-known-good
        file: to the latter each value is one that differs from the file's.
        """
        self.observe()
        self.changes += 1
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
        self.observe()

    def observe(self) -> float | None:
        """Look at what state and source are now, and tell of another one than before.

        Returns after how many seconds they turn by time alone, if they may.
        """
        now = time.monotonic()
        before, self._observed = self._observed, self._seen(now)
        self._serve()
        if self._observed != before and not self.is_closed:
            self._log(before[0], now)
            self.callbacks.push_status(self.status)
        if self.session.freshness.is_live:
            self._losses = self.session.failures.total()
        return self.session.stale_in_s(now)

    def _serve(self) -> None:
        """Let reads be look-ups, once the state is proved."""
        if self.session.is_proved:
            self._show()
            self.serve(is_live=not self.is_closed and self._observed[1] == "live")

    def _log(self, before: State, now: float) -> None:
        """Of the state, where the link has not said it: a loss is one thing, that values may be old another."""
        s = self.session
        state = self._observed[0]
        if state == "stale" and before != "stale":
            age_s = s.view(now).age_s
            why = s.last_error or "nothing newer was proved since"
            if age_s is None:
                logger.warning("values are stale, and nobody knows since when; reads go on with them (%s)", why)
            else:
                logger.warning("values are stale, proved %.1f s ago; reads go on with them (%s)", age_s, why)
        elif (before, state) == ("stale", "live") and s.failures.total() == self._losses:
            logger.info("values are live again at %s", s.position)

    def fail(self, error: BaseException) -> None:
        """Note the defect that ended the link."""
        self.failure, self._failed = error, time.monotonic()
        self.session.last_error = f"a defect ended the link: {type(error).__name__}: {error}"
        self.observe()

    def close(self) -> None:
        """Note the end; reads go on with what is there."""
        self._is_released = True
        if self._closed is None:
            self._closed = time.monotonic()
            if self.each is not NOTHING:
                self.serve(is_live=False)
            self.callbacks.wake_listeners()

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
        if self.each is not NOTHING:
            return self.lookup.snapshot
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

    def _source(self) -> Tally:
        return self._proved if self.each is not NOTHING or self.session.is_proved else self._disk

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed is not None

    def why_nothing(self) -> str:
        """A sentence for an error: why there is no state."""
        s = self.session
        scope = f" of {s.namespace}/{s.environment}" if s.namespace and s.environment else ""
        return f"no configuration{scope} was received; {s.last_error or f'no answer from {s.endpoint.url}'}"

    def check(self) -> None:
        """Raise where waiting is in vain."""
        if self.failure is not None:
            raise LinkFailed(self.session.last_error) from self.failure
        if self.is_closed:
            raise ClientClosed("the client is closed")

    def _seen(self, now: float) -> tuple[State, Source]:
        s = self.session
        state: State = s.view(now).state
        if self.is_closed:
            state = "closed"
        elif self.failure is not None and s.is_proved:
            state = "stale"
        if s.snapshot is None:
            return state, "none"
        if not s.is_proved:
            return state, "disk"
        return state, "live" if state == "live" else "memory"

    @property
    def status(self) -> ClientStatus:
        """How fresh reads are at this moment."""
        now = time.monotonic()
        s = self.session
        seen, position = s.view(now), s.position
        state, source = self._seen(now)
        since = seen.since
        if state == "closed" and self._closed is not None:
            since = self._closed
        elif seen.state == "live" and state == "stale" and self._failed is not None:
            since = self._failed
        return ClientStatus(
            state=state,
            source=source,
            revision=None if position is None else position.revision,
            since=self._started_at + timedelta(seconds=since - self._started),
            age_s=seen.age_s,
            last_error=s.last_error,
            url=s.endpoint.url,
            service_state=s.service_state,
            transport=s.transport,
            reads=self.reads,
            invalid_values=self.invalid_values,
        )

    def metrics(self) -> list[Sample]:
        """The numbers of this client in this process, as they are now."""
        s, status = self.session, self.status
        proved_at = s.freshness.proved_at
        proved = 0.0 if proved_at is None else time.time() - (time.monotonic() - proved_at)
        return [
            *samples("reads_total", status.reads),
            *samples("invalid_values_total", status.invalid_values),
            *samples("changes_total", self.changes),
            *samples("callback_errors_total", self.callbacks.errors),
            *samples("connections_total", s.connections),
            *samples("failures_total", {kind: s.failures[kind] for kind in get_args(Kind)}),
            *samples("state", {state: status.state == state for state in get_args(State)}),
            *samples("transport", {way: status.transport == way for way in get_args(Transport)}),
            *samples("revision", status.revision or 0),
            *samples("proved_timestamp_seconds", proved),
        ]
