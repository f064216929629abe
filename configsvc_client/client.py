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
from typing import Any, Self, TypeVar, overload

from configsvc_client import values
from configsvc_client.callbacks import Callback, StatusCallback, check_plain
from configsvc_client.iterators import ChangeIterator
from configsvc_client.lookup import NOTHING
from configsvc_client.metrics import Sample
from configsvc_client.options import MAX_AGE_S, Tuning, resolve
from configsvc_client.view import MISSING, ClientStatus
from configsvc_client.worker import Worker

T = TypeVar("T")
D = TypeVar("D")


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
        # What reads are measured by: a look-up without a call in it. `lookup.py` says what this loop is.
        each = self._state.each
        try:
            for values in each:
                value = values[key]
                if value is not None:
                    return value
                break
        except (KeyError, TypeError):
            self._state.lookup.not_found(key)
        self._state.missed(each)
        if each is NOTHING:
            self._ready()
        return self._state.read(key, default)

    @overload
    def get_str(self, key: str) -> str: ...

    @overload
    def get_str(self, key: str, default: D) -> str | D: ...

    def get_str(self, key: str, default: Any = MISSING) -> Any:
        """Return a string. A stored value of another type gives `default`, else raises `ConfigValueError`.

        So do all typed reads; what is passed as `default` is returned as it is. Where a default stands in for a value,
        that is logged once per value and counted in `status`.
        """
        if self._state.each is NOTHING:
            self._ready()
        return self._state.read_as(key, default, values.as_str)

    @overload
    def get_int(self, key: str, *, min_val: int | None = None, max_val: int | None = None) -> int: ...

    @overload
    def get_int(self, key: str, default: D, *, min_val: int | None = None, max_val: int | None = None) -> int | D: ...

    def get_int(
        self, key: str, default: Any = MISSING, *, min_val: int | None = None, max_val: int | None = None
    ) -> Any:
        """Return an integer within bounds, which belong to it; `true` and 5.0 are none. See `get_str`."""
        # The quick way of `get`. What is within both bounds shows that they are some.
        each = self._state.each
        try:
            for found in each:
                value = found[key]
                if (
                    type(value) is int
                    and (min_val is None or min_val <= value)
                    and (max_val is None or value <= max_val)
                ):
                    return value
                break
        except (KeyError, TypeError):
            self._state.lookup.not_found(key)
        self._state.missed(each)
        if min_val is not None or max_val is not None:
            values.check_bounds(min_val, max_val)
        if self._state.each is NOTHING:
            self._ready()
        return self._state.read_as(key, default, values.as_int, min_val, max_val)

    @overload
    def get_float(self, key: str, *, min_val: float | None = None, max_val: float | None = None) -> float: ...

    @overload
    def get_float(
        self, key: str, default: D, *, min_val: float | None = None, max_val: float | None = None
    ) -> float | D: ...

    def get_float(
        self, key: str, default: Any = MISSING, *, min_val: float | None = None, max_val: float | None = None
    ) -> Any:
        """Return a number within bounds, which belong to it, as a float; integers are numbers too. See `get_str`."""
        if min_val is not None or max_val is not None:
            values.check_bounds(min_val, max_val)
        if self._state.each is NOTHING:
            self._ready()
        return self._state.read_as(key, default, values.as_float, min_val, max_val)

    @overload
    def get_bool(self, key: str) -> bool: ...

    @overload
    def get_bool(self, key: str, default: D) -> bool | D: ...

    def get_bool(self, key: str, default: Any = MISSING) -> Any:
        """Return True or False; 1 and `"yes"` are neither. See `get_str`."""
        if self._state.each is NOTHING:
            self._ready()
        return self._state.read_as(key, default, values.as_bool)

    @overload
    def get_json(self, key: str, *, type: type[T]) -> T: ...

    @overload
    def get_json(self, key: str, default: D, *, type: type[T]) -> T | D: ...

    @overload
    def get_json(self, key: str, default: Any = MISSING, *, type: Any = Any) -> Any: ...

    def get_json(self, key: str, default: Any = MISSING, *, type: Any = Any) -> Any:
        """Return any value, made into `type` by msgspec where one is given, without guessing. See `get_str`."""
        if self._state.each is NOTHING:
            self._ready()
        return self._state.read_as(key, default, values.as_type, type)

    def as_struct(self, type: type[T], prefix: str = "") -> T:
        """Return a `msgspec.Struct` or dataclass made of the keys below a prefix, all of one state.

        Its fields are found by dotted keys: `database.pool.size` is `database`, then `pool`, then `size`. Raises
        `ConfigValueError` with everything that is missing or does not fit.
        """
        self._ready()
        return self._state.read_struct(type, prefix)

    def get_all(self) -> dict[str, Any]:
        """Return all values that apply; an empty mapping where no snapshot came in time (`status` tells)."""
        self._ready()
        return self._state.read_all()

    def _ready(self) -> None:
        """Wait where a first read has to."""
        if self._state.each is NOTHING and self._state.snapshot is None:
            self._wait_first()

    def _wait_first(self) -> None:
        self._worker.awake()
        now = time.monotonic()
        if self._wait_until is None:
            self._wait_until = now + self._state.first_read_s
        if self._wait_until <= now or self._worker.settled.is_set():
            return
        self._warn_in_loop()
        self._worker.wait(self._worker.settled, self._wait_until - now)

    def _warn_in_loop(self) -> None:
        if self._warned:
            return
        running = asyncio._get_running_loop()
        # Under gevent the link's own loop runs in this thread too, and goes on while this read waits.
        if running is None or self._worker.is_loop(running):
            return
        self._warned = True
        warnings.warn(
            "ConfigClient waits for its first snapshot inside a running event loop and blocks it; "
            "use AsyncConfigClient, or call wait_ready() before the loop starts",
            RuntimeWarning,
            stacklevel=5,
        )

    # ---- changes and status -------------------------------------------------------------------------------------

    def on_change(self, callback: Callback, key: str | None = None) -> Callable[[], None]:
        """Call `callback(change)` for each changed value, or for those of one key; the returned function ends it.

        Callbacks run on a thread of their own, one at a time, in the order of changes. They may read and close the
        client. An error in one is logged. The first snapshot is a change only where a read was answered without one
        before.
        """
        check_plain(callback)
        stop = self._state.callbacks.add(callback, key)
        self._worker.need_callbacks()
        return stop

    def on_status(self, callback: StatusCallback) -> Callable[[], None]:
        """Call `callback(status)` at each step of `status.state` or `status.source`; the returned function ends it.

        Also at the step to `stale`, which time alone makes; not for `closed`. Called in order, as `on_change` calls.
        """
        check_plain(callback)
        stop = self._state.callbacks.add_status(callback)
        self._worker.need_callbacks()
        return stop

    def changes(self, key: str | None = None) -> ChangeIterator:
        """Iterate over changes from now on, of all keys or one, until the client or the iterator is closed.

        What is a change, and what happens to a reader that is too slow, is the same as for `on_change`.
        """
        return ChangeIterator(self._state, key, self._begin)

    def metrics(self) -> list[Sample]:
        """The numbers of this client in this process; `configsvc_client.prometheus` hands them on."""
        return self._state.metrics()

    def _begin(self) -> None:
        self._worker.awake()

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
        if not self._worker.wait(self._worker.first, timeout_s):
            raise TimeoutError(f"after {timeout_s:g} s {self._state.why_nothing()}")
        self._state.check()

    # ---- lifetime -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
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
