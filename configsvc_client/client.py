"""`ConfigClient`: the client for ordinary, threaded code. Its threads are `worker.py`'s.

Reads never touch them: they look at the shared snapshot.
"""

import asyncio
import os
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from os import PathLike
from types import TracebackType
from typing import Any

from configsvc_client.callbacks import Callback
from configsvc_client.options import MAX_AGE_S, Tuning, resolve
from configsvc_client.view import MISSING, ClientStatus
from configsvc_client.worker import Worker


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
        cache_dir: str | PathLike[str] | None = None,
        cache_max_age_s: float = MAX_AGE_S,
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
            cache_dir=cache_dir,
            cache_max_age_s=cache_max_age_s,
            start_timeout_s=start_timeout_s,
            max_staleness_s=max_staleness_s,
            heartbeat_s=heartbeat_s,
            tuning=tuning,
        )
        self._worker = Worker(options)
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

        The first read waits for a snapshot, `start_timeout_s` at most; with a last-known-good file a second at most.
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
        self._worker.awake()
        now = time.monotonic()
        if self._wait_until is None:
            self._wait_until = now + self._state.first_read_s
        if self._wait_until <= now or self._worker.settled.is_set():
            return
        self._warn_in_loop()
        self._worker.settled.wait(self._wait_until - now)

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
        self._worker.awake()
        return self._state.status

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until a service has sent a snapshot; raises `TimeoutError` after `timeout_s`, None waits for ever.

        Also raises `ClientClosed` and `LinkFailed`.
        """
        self._worker.awake()
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
        self._worker.let_go()
        self._worker.join()
        if self._state.failure is not None:
            self._state.check()
