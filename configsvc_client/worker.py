"""The threads of one threaded client: the link's loop, and the callbacks'. Owns their start and their end.

Both threads are daemons and are told to end before the interpreter does, so that a program which forgets `close` ends
quietly and at once. Knows nothing of how values are read.
"""

import asyncio
import atexit
import contextlib
import logging
import queue
import threading
import weakref

from configsvc_client.callbacks import log_failure
from configsvc_client.link import Link
from configsvc_client.options import Options
from configsvc_client.snapshot import Snapshot
from configsvc_client.state import ClientState

logger = logging.getLogger("configsvc_client")

_STOP_TIMEOUT_S = 2.0


class Worker:
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


_workers: "weakref.WeakSet[Worker]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """At the interpreter's exit threads can still be joined here; later they would be cut off in the middle."""
    workers = list(_workers)
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.join()
