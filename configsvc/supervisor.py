"""The parent of several workers: starts them, starts them again, and passes on when they are to stop.

It forks before there is any event loop or thread, so that a worker begins with everything imported and shares that
memory, and a new one is there in a few milliseconds. It does nothing but wait for signals: it serves no request, and
nothing of what it does can be slow. Each worker has a pipe from it: a byte says what to do, and its end says that the
parent is gone, however it went, so that no worker outlives it. Knows nothing of what a worker does.
"""

import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from time import monotonic

import structlog

from configsvc import signals
from configsvc.board import GONE, READY, STARTING, Board

EXIT_OK = 0
EXIT_UNAVAILABLE = 69
EXIT_SOFTWARE = 70
EXIT_CONFIG = 78
FINAL = (EXIT_UNAVAILABLE, EXIT_CONFIG)
"""What would be the same again: a worker that ends so before any had data ends the service."""
STOP, HURRY = b"s", b"h"
"""What a worker is told through its pipe."""
STEADY_S = 10.0
"""A worker that lived so long is replaced at once; others after a pause."""
BACKOFF_S = (0.1, 5.0)
"""The first and the longest pause; doubled each time."""
MAX_FAILURES = 5
"""So many ends in a row, each soon after the start and before there was data, and the service gives up."""
STUCK_S = 30.0
"""A worker that shows no sign of life for so long is killed: its event loop stands still."""
LOOK_S = 5.0
GRACE_S = 5.0
"""What a stopping worker gets beyond the time for draining, before it is killed."""
_SIGNALS = {signal.SIGTERM, signal.SIGINT} | ({signal.SIGCHLD} if hasattr(signal, "SIGCHLD") else set())

log = structlog.get_logger()


class _Place:
    """One worker's number, the process that has it, and how that went so far."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.pipe = -1
        self.starts = 0
        self.started_at = 0.0
        self.due_at: float | None = 0.0
        """When to start one; None while it runs."""
        self.quick = 0
        """Ends in a row that came soon after the start."""
        self.failures = 0
        """Those of them that came before there was data."""
        self.alive = (0, 0.0)
        """The last sign of life, and when it was seen."""


class Supervisor:
    """Runs `work(number, orders, again)` in `board.count` processes until a signal.

    `orders` is the descriptor of the pipe's end that the worker reads; `again` says that all others had data when this
    one was started in place of one that ended. What `work` returns is the process's exit code. `drop` closes in a new
    worker what belongs to the others, and in the parent, with no number, what a stopping service gives up at once.
    """

    def __init__(
        self,
        board: Board,
        work: Callable[[int, int, bool], int],
        *,
        drain_s: float,
        drop: Callable[[int | None], None] = lambda number: None,
    ) -> None:
        self._board = board
        self._work = work
        self._drain_s = drain_s
        self._drop = drop
        self._places = [_Place(number) for number in board.numbers]
        self._code: int | None = None
        """What the service ends with, once it is to end."""
        self._deadline = float("inf")

    def run(self) -> int:
        """Run until SIGTERM or SIGINT (a second one hurries); returns the exit code.

        0 after a signal, 69 and 78 where a worker ended so before there was data, 70 where workers fail again and again
        at their start, or did not stop in time.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        # What was imported stays in pages that no worker has to copy.
        gc.collect()
        gc.freeze()
        try:
            while self._code is None or self._running():
                if self._code is None:
                    self._start_due(before)
                self._heed(signal.sigtimedwait(_SIGNALS, self._patience_s()))
                self._reap()
                self._look()
        finally:
            gc.unfreeze()
            for place in self._places:
                self._forget(place)
            # Another one may be waiting by now.
            signals.end()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._code

    def _running(self) -> list[_Place]:
        return [place for place in self._places if place.pid]

    def _patience_s(self) -> float:
        due = [place.due_at for place in self._places if place.due_at is not None and self._code is None]
        return max(0.0, min([*due, self._deadline, monotonic() + LOOK_S]) - monotonic())

    # ---- starting ----------------------------------------------------------------------------------------------------

    def _start_due(self, mask: set[signal.Signals | int]) -> None:
        for place in self._places:
            if place.due_at is not None and place.due_at <= monotonic():
                self._start(place, mask)

    def _start(self, place: _Place, mask: set[signal.Signals | int]) -> None:
        again = self._board.began
        orders, pipe = os.pipe()
        self._board.set_state(place.number, STARTING)
        try:
            pid = os.fork()
        except OSError as error:
            os.close(orders)
            os.close(pipe)
            log.error("a worker cannot be started", number=place.number, why=error.strerror or str(error))
            self._board.set_state(place.number, GONE)
            place.started_at = monotonic()
            self._ended(place)
            return
        if pid == 0:
            os.close(pipe)
            self._become(place.number, orders, again, mask)
        os.close(orders)
        place.pid, place.pipe, place.started_at, place.due_at = pid, pipe, monotonic(), None
        place.alive = (self._board.published(place.number), monotonic())
        place.starts += 1
        if place.starts > 1:
            self._board.count_restart()

    def _become(self, number: int, orders: int, again: bool, mask: set[signal.Signals | int]) -> None:
        """Be a worker; never returns: what the parent's callers would do at its end is not for a worker."""
        code = EXIT_SOFTWARE
        try:
            # Those of the others: an end that is held here would keep them from seeing the parent's.
            for place in self._places:
                if place.pipe >= 0:
                    os.close(place.pipe)
            self._drop(number)
            # A terminal sends it to all; what it means is the parent's to say.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = self._work(number, orders, again)
        except BaseException:
            log.critical("a worker failed", number=number, exc_info=True)
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    # ---- ends --------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            # As the first process of a container it is also the parent of orphans.
            if place := next((place for place in self._places if place.pid == pid), None):
                had_data = self._board.state(place.number) == READY
                self._board.set_state(place.number, GONE)
                self._forget(place)
                self._judge(place, os.waitstatus_to_exitcode(status), had_data)

    def _forget(self, place: _Place) -> None:
        if place.pipe >= 0:
            os.close(place.pipe)
        place.pid, place.pipe = 0, -1

    def _judge(self, place: _Place, code: int, had_data: bool) -> None:
        """Decide what the end of a worker means."""
        how = _how(code)
        if self._code is not None:
            # One that had not come to reading its orders ends by the signal itself.
            if code not in (EXIT_OK, self._code, -signal.SIGTERM):
                log.error("a worker did not stop in good order", number=place.number, how=how)
                self._code = self._code or EXIT_SOFTWARE
        elif code in FINAL and not self._board.began:
            self._end(code)
        else:
            self._ended(place, had_data=had_data, how=how)

    def _ended(self, place: _Place, *, had_data: bool = False, how: str = "not started") -> None:
        """Plan the next one, sooner or later, or give up."""
        quick = monotonic() - place.started_at < STEADY_S
        place.quick = place.quick + 1 if quick else 0
        place.failures = place.failures + 1 if quick and not had_data else 0
        if place.failures >= MAX_FAILURES:
            log.critical("a worker fails again and again at its start; giving up", number=place.number, how=how)
            self._end(EXIT_SOFTWARE)
            return
        first, longest = BACKOFF_S
        pause_s = min(longest, first * 2 ** (place.quick - 1)) if place.quick else 0.0
        place.due_at = monotonic() + pause_s
        # Somebody's kill by SIGTERM ends in good order.
        tell = log.warning if how == _how(EXIT_OK) else log.error
        tell("a worker ended; another takes its place", number=place.number, how=how, pause_s=pause_s)

    # ---- stopping ----------------------------------------------------------------------------------------------------

    def _heed(self, got: "signal.struct_siginfo | None") -> None:
        if got is None or got.si_signo not in (signal.SIGTERM, signal.SIGINT):
            return
        name = signal.Signals(got.si_signo).name
        if self._code is None:
            log.info("stopping", signal=name)
            self._end(EXIT_OK)
        else:
            log.info("stopping at once", signal=name)
            self._tell(HURRY)

    def _end(self, code: int) -> None:
        self._code = code
        self._deadline = monotonic() + self._drain_s + GRACE_S
        self._tell(STOP)
        # Those that the workers leave are refused by the system, not kept waiting for nobody.
        self._drop(None)

    def _tell(self, order: bytes) -> None:
        for place in self._running():
            try:
                os.write(place.pipe, order)
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise

    def _look(self) -> None:
        """Kill those that do not stop in time, or show no sign of life."""
        now = monotonic()
        if late := now >= self._deadline:
            self._deadline = float("inf")
        for place in self._running():
            seen = self._board.published(place.number)
            if seen != place.alive[0]:
                place.alive = (seen, now)
            stuck = now - place.alive[1] >= STUCK_S
            if late or stuck:
                log.error("a worker is killed", number=place.number, why="not stopped in time" if late else "stuck")
                os.kill(place.pid, signal.SIGKILL)
                place.alive = (seen, now)


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
