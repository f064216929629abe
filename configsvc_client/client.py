"""`ConfigClient`: the client for ordinary, threaded code. Owns the thread with the link's loop, and that of callbacks.

Reads never touch either: they look at the shared snapshot. Both threads are daemons and are told to end before the
interpreter does, so that a program which forgets `close` ends quietly and at once.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import queue
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from os import PathLike
from types import TracebackType
from typing import Any

from configsvc_client.callbacks import Callback, log_failure
from configsvc_client.link import Link
from configsvc_client.options import Options, Tuning, resolve
from configsvc_client.snapshot import Snapshot
from configsvc_client.state import ClientState
from configsvc_client.view import MISSING, ClientStatus

logger = logging.getLogger("configsvc_client")

_STOP_TIMEOUT_S = 2.0


class _Worker:
    """The threads of one client. Knows the state but not the client, so that a forgotten client can be collected."""

    def __init__(self, options: Options) -> None:
        self.first = threading.Event()
        # `stop` may run in a finalizer, at any allocation of any thread: what it uses has to be re-entrant.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.state = ClientState(options, lambda: self._wake.put(None))
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._link_thread = threading.Thread(target=self._run_link, name="configsvc-link", daemon=True)
        self._callback_thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the link; returns at once."""
        self._link_thread.start()
        _workers.add(self)

    def stop(self) -> None:
        """Tell both threads to end; idempotent, from any thread, and safe in a finalizer."""
        with self._lock:
            self.state.close()
            loop, stop = self._loop, self._stop
        self._wake.put(None)
        if loop is not None and stop is not None:
            # Closed already when the link had ended by itself.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)

    def join(self) -> None:
        """Wait for the link's thread, briefly."""
        if self._link_thread is not threading.current_thread():
            self._link_thread.join(_STOP_TIMEOUT_S)

    # ---- the link's thread --------------------------------------------------------------------------------------

    def _run_link(self) -> None:
        try:
            asyncio.run(self._link())
        except Exception as error:
            logger.exception("a defect ended the link")
            self.state.fail(error)
        finally:
            self.first.set()

    async def _link(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            if self.state.is_closed:
                return
            self._loop, self._stop = asyncio.get_running_loop(), stop
        link = asyncio.create_task(Link(self.state.options, self.state.session).run(self._take), name="configsvc-link")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({link, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        link.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await link

    def _take(self, snapshot: Snapshot) -> None:
        self.state.take(snapshot)
        self.first.set()

    # ---- the callbacks' thread ----------------------------------------------------------------------------------

    def need_callbacks(self) -> None:
        """Start the thread that calls callbacks, where it does not run yet."""
        with self._lock:
            if self._callback_thread is None and not self.state.is_closed:
                self._callback_thread = threading.Thread(
                    target=self._call_back, name="configsvc-callbacks", daemon=True
                )
                self._callback_thread.start()

    def _call_back(self) -> None:
        while True:
            self._wake.get()
            for callback, change in self.state.callbacks.take():
                if self.state.is_closed:
                    return
                try:
                    callback(change)
                except Exception:
                    log_failure(callback, change)
            if self.state.is_closed:
                return


_workers: "weakref.WeakSet[_Worker]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """At the interpreter's exit threads can still be joined here; later they would be cut off in the middle."""
    workers = list(_workers)
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.join()


class ConfigClient:
    """Live configuration of one scope, for code without an event loop. All methods may be called from any thread.

    The constructor returns at once and connects in the background. Once a first snapshot is there, `get` looks it up in
    a dictionary: no lock, no IO. It never raises a network error: while the service is away, values stay what they were
    and `status` says so. Scalars are returned as they are, containers as copies, so that what one caller does to a
    value no other caller sees.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        namespace: str | None = None,
        environment: str | None = None,
        token_file: str | PathLike[str] | None = None,
        start_timeout_s: float = 5.0,
        max_staleness_s: float | None = None,
        heartbeat_s: float | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        """Check the options and connect in the background. Raises `InvalidOption` (a `ValueError`)."""
        options = resolve(
            os.environ,
            url=url,
            namespace=namespace,
            environment=environment,
            token_file=token_file,
            start_timeout_s=start_timeout_s,
            max_staleness_s=max_staleness_s,
            heartbeat_s=heartbeat_s,
            tuning=tuning,
        )
        self._worker = _Worker(options)
        self._state = self._worker.state
        self._wait_until: float | None = None
        self._warned = False
        # For a client that is dropped without `close`; the exit of the interpreter is `_stop_all`'s.
        weakref.finalize(self, self._worker.stop).atexit = False
        self._worker.start()

    def __repr__(self) -> str:
        return f"<ConfigClient {self._state!r}>"

    # ---- reading ------------------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = MISSING) -> Any:
        """Return the value of a key: stored, else the schema's default, else `default`, else raise `ConfigKeyError`.

        The first read waits for a snapshot, `start_timeout_s` at most.
        """
        if self._state.snapshot is None:
            self._wait_first()
        return self._state.read(key, default)

    def get_all(self) -> dict[str, Any]:
        """Return all values that apply; an empty mapping where no snapshot came in time (`status` tells)."""
        if self._state.snapshot is None:
            self._wait_first()
        return self._state.read_all()

    def _wait_first(self) -> None:
        now = time.monotonic()
        if self._wait_until is None:
            self._wait_until = now + self._state.options.start_timeout_s
        if self._wait_until <= now or self._worker.first.is_set():
            return
        self._warn_in_loop()
        self._worker.first.wait(self._wait_until - now)

    def _warn_in_loop(self) -> None:
        if self._warned:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self._warned = True
        warnings.warn(
            "ConfigClient waits for its first snapshot inside a running event loop and blocks it; "
            "use AsyncConfigClient, or call wait_ready() before the loop starts",
            RuntimeWarning,
            stacklevel=4,
        )

    # ---- changes and status -------------------------------------------------------------------------------------

    def on_change(self, callback: Callback, key: str | None = None) -> Callable[[], None]:
        """Call `callback(change)` for each changed value, or for those of one key; the returned function ends it.

        Callbacks run on a thread of their own, one at a time, in the order of changes. They may read and close the
        client. An error in one is logged. The first snapshot is a change only where a read was answered without one
        before.
        """
        self._worker.need_callbacks()
        return self._state.callbacks.add(callback, key)

    @property
    def status(self) -> ClientStatus:
        """How fresh reads are, from where, and why."""
        return self._state.status

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until a service has sent a snapshot; raises `TimeoutError` after `timeout_s`, None waits for ever.

        Also raises `ClientClosed` and `LinkFailed`.
        """
        if not self._worker.first.wait(timeout_s):
            raise TimeoutError(f"after {timeout_s:g} s {self._state.why_nothing()}")
        self._state.check()

    # ---- lifetime -----------------------------------------------------------------------------------------------

    def __enter__(self) -> "ConfigClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the link; reads go on with the last state. Idempotent.

        Raises `LinkFailed` where a defect had ended it before. A callback that is running is not waited for; no further
        one is called.
        """
        self._worker.stop()
        self._worker.first.set()
        self._worker.join()
        if self._state.failure is not None:
            self._state.check()
