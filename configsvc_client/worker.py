"""The threads of one threaded client: the link's loop, and the callbacks'. Owns their start, their end, and what a
forked child makes of them.

Both threads are daemons and are told to end before the interpreter does, so that a program which forgets `close` ends
quietly and at once. A child has neither: it gets its own, at once where somebody waits for changes, else when the
client is first used there. Knows nothing of how values are read.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import queue
import sys
import threading
import time
import warnings
import weakref

from configsvc_client import fork
from configsvc_client.callbacks import Call, Callbacks
from configsvc_client.options import Options
from configsvc_client.snapshot import Snapshot
from configsvc_client.start import follow
from configsvc_client.state import ClientState

logger = logging.getLogger("configsvc_client")

_STOP_TIMEOUT_S = 2.0


class Worker:
    """The threads of one client. Knows the state but not the client, so that a forgotten client can be collected."""

    def __init__(self, options: Options) -> None:
        self.state = ClientState(options, lambda: self._wake.put(None))
        self._renew()

    def _renew(self) -> None:
        """What one process has for itself: nothing of this outlives a fork."""
        self.first = threading.Event()
        """Set once a service has shown a state, or never will."""
        self.settled = threading.Event()
        """Set once a first read has nothing to wait for."""
        # `stop` may run in a finalizer, at any allocation of any thread: what it uses has to be re-entrant.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._is_asleep = False
        self._is_resting = False
        self._sockets = fork.Sockets()
        self._loop: fork.Loop | None = None
        self._stop: asyncio.Event | None = None
        self._link_thread: threading.Thread | None = None
        self._callback_thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the link; returns at once."""
        _workers.add(self)
        fork.register(self, Worker.after_fork)
        if _before_uwsgi_forks():
            self._is_asleep = True
        else:
            self._start_link()

    def _start_link(self) -> None:
        if _exiting:
            # A thread that is started now would be cut off in the middle.
            self.state.session.last_error = "the interpreter is ending"
            self.let_go()
            return
        _warn_of_uwsgi()
        with self._lock:
            self._loop = fork.Loop()
            self._link_thread = threading.Thread(target=self._run_link, name="configsvc-link", daemon=True)
            try:
                self._link_thread.start()
            except RuntimeError as error:
                # No more threads. In a child this is the first read, and reads raise nothing of the kind.
                logger.exception("the link cannot start")
                self._loop.loop.close()
                self._link_thread = None
                self.state.fail(error)
                self.let_go()

    def stop(self) -> None:
        """Tell both threads to end; idempotent, from any thread, and safe in a finalizer."""
        with self._lock:
            self.state.close()
            self.awake()
            loop, stop = self._loop, self._stop
        self._wake.put(None)
        if loop is not None and stop is not None:
            # Closed already when the link had ended by itself.
            with contextlib.suppress(RuntimeError):
                loop.loop.call_soon_threadsafe(stop.set)

    def join(self, until: float | None = None) -> None:
        """Wait for the link's thread until then, by default briefly."""
        if self._link_thread is not None and self._link_thread is not threading.current_thread():
            self._link_thread.join(_STOP_TIMEOUT_S if until is None else max(0.0, until - time.monotonic()))

    def is_loop(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a loop is that of the link."""
        return self._loop is not None and self._loop.loop is loop

    def let_go(self) -> None:
        """Wake everyone who waits: there is a state, or will be none."""
        self.first.set()
        self.settled.set()

    # ---- in a forked child --------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """Let go of what is the parent's; the state is kept."""
        in_callback = threading.current_thread() is self._callback_thread
        fork.keep(self._link_thread, self._callback_thread, self._stop)
        self._sockets.abandon()
        if self._loop is not None:
            self._loop.abandon()
        self._renew()
        self.state.callbacks.after_fork(in_callback=in_callback)
        self.state.forget_counts()
        if self.state.is_closed:
            self.state.restart()
            self.let_go()
            return
        self.state.hide()
        self._is_asleep = True
        if self.state.callbacks.is_used:
            self.awake()

    def awake(self) -> None:
        """In a child, at its first use: begin where the parent was. Else nothing."""
        fork.check()
        if self._is_asleep and not _before_uwsgi_forks():
            self._restart()

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Wait for `first` or `settled`."""
        if timeout_s is not None:
            # Nobody waits for as long as that.
            timeout_s = min(timeout_s, threading.TIMEOUT_MAX)
        if not _before_uwsgi_forks():
            return event.wait(timeout_s)
        # The link runs for this wait only: when uWSGI forks, no thread of ours may hold the interpreter's lock.
        self._restart()
        try:
            return event.wait(timeout_s)
        finally:
            self._rest()

    def _rest(self) -> None:
        """End the link until it is needed again; what it received is kept."""
        with self._lock:
            self._is_resting = True
            loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):
                loop.loop.call_soon_threadsafe(stop.set)
        self.join()
        if not self.state.session.is_proved:
            self.first.clear()
        self._loop = self._stop = self._link_thread = None
        self._is_asleep, self._is_resting = True, False

    def _restart(self) -> None:
        with self._lock:
            if not self._is_asleep:
                return
            self.state.restart()
            if self.state.session.is_proved:
                self.let_go()
            if not self.state.is_closed:
                self._start_link()
                if self.state.callbacks.is_used:
                    self._start_callbacks()
            self._is_asleep = False

    # ---- the link's thread --------------------------------------------------------------------------------------

    def _run_link(self) -> None:
        loop, first, settled = self._loop, self.first, self.settled
        assert loop is not None
        try:
            with asyncio.Runner(loop_factory=lambda: loop.loop) as runner:
                runner.run(self._link())
        except Exception as error:
            logger.exception("a defect ended the link")
            self.state.fail(error)
        finally:
            first.set()
            settled.set()

    async def _link(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            if self.state.is_closed or self._is_resting:
                return
            self._stop = stop
        following = follow(self.state, self._sockets, take=self._take, settle=self.settled.set)
        link = asyncio.create_task(following, name="configsvc-link")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({link, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        link.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await link

    def _take(self, snapshot: Snapshot) -> None:
        self.state.take(snapshot)
        self.let_go()

    # ---- the callbacks' thread ----------------------------------------------------------------------------------

    def need_callbacks(self) -> None:
        """Start the thread that calls callbacks, where it does not run yet."""
        with self._lock:
            self.awake()
            self._start_callbacks()

    def _start_callbacks(self) -> None:
        with self._lock:
            if _exiting or _before_uwsgi_forks():
                return
            if self._callback_thread is None and not self.state.is_closed:
                self._callback_thread = threading.Thread(
                    target=self._call_back, name="configsvc-callbacks", daemon=True
                )
                self._callback_thread.start()

    def _call_back(self) -> None:
        pid = os.getpid()
        wake = self._wake
        while True:
            for call in self.state.callbacks.take():
                if self.state.is_closed:
                    return
                status = _call(self.state.callbacks, call, pid)
                if os.getpid() != pid:
                    _end_child(status)
            if self.state.is_closed:
                return
            wake.get()


def _call(callbacks: Callbacks, call: Call, pid: int) -> int:
    """Call a callback; the status with which it would end a process that it has forked."""
    callback, told = call
    try:
        callback(told)
    except BaseException as error:
        # Here nothing else would be told of the end of a thread, and the others would hear nothing any more.
        if isinstance(error, SystemExit) and os.getpid() != pid:
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        callbacks.failed(callback, told)
        return 1
    return 0


def _end_child(status: int) -> None:
    """A callback forked, and the child has come back from it: nobody else is there who would end that process."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _before_uwsgi_forks() -> bool:
    """Whether this is uWSGI's master, loading the application that its workers will inherit.

    Its fork takes no care of threads: a worker that is forked while one of them runs hangs from its start.
    """
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is not None and uwsgi.worker_id() == 0 and uwsgi.masterpid() == os.getpid()


def _warn_of_uwsgi() -> None:
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or "enable-threads" in uwsgi.opt or "threads" in uwsgi.opt:
        return
    warnings.warn(
        "uWSGI runs Python threads only while it handles a request: set enable-threads = true, "
        "or values change late and callbacks are called late",
        RuntimeWarning,
        stacklevel=2,
    )


_exiting = False
_workers: "weakref.WeakSet[Worker]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """At the interpreter's exit threads can still be joined here; later they would be cut off in the middle."""
    global _exiting
    _exiting = True
    workers = list(_workers)
    for worker in workers:
        worker.stop()
    until = time.monotonic() + _STOP_TIMEOUT_S
    for worker in workers:
        worker.join(until)
