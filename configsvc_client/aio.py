"""`AsyncConfigClient`: the client for asyncio. Owns the link's task and the one that calls callbacks.

Everything that decides lies below (`session.py`, `state.py`, `callbacks.py`); `client.py` is the same for threads.
"""

import asyncio
import contextlib
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from configsvc_client import fork, values
from configsvc_client.callbacks import Call, Callback, StatusCallback
from configsvc_client.errors import ClientClosed
from configsvc_client.iterators import AsyncChangeIterator
from configsvc_client.metrics import Sample
from configsvc_client.options import MAX_AGE_S, Tuning, resolve
from configsvc_client.shared_event import SharedEvent
from configsvc_client.snapshot import Snapshot
from configsvc_client.start import follow
from configsvc_client.state import ClientState
from configsvc_client.view import MISSING, ClientStatus

logger = logging.getLogger("configsvc_client")

T = TypeVar("T")
D = TypeVar("D")

_STOP_TIMEOUT_S = 2.0


class _Run:
    """A start of a client: what belongs to one loop in one process."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_running: Callable[[], bool] = lambda: False
        self.wake = asyncio.Event()
        self.first = SharedEvent()
        """Set once a service has shown a state, or never will."""
        self.settled = SharedEvent()
        """Set once a first read has nothing to wait for."""
        self.sockets = fork.Sockets()
        self.link: asyncio.Task[None] | None = None
        self.callbacks: asyncio.Task[None] | None = None

    @property
    def tasks(self) -> "list[asyncio.Task[None]]":
        """Those that a close ends: the callbacks' ends by itself where it is one of them that closes."""
        tasks = (self.link, self.callbacks if calling(self) is None else None)
        return [task for task in tasks if task is not None]

    def leave(self) -> None:
        """End the tasks of a loop that does not run, as soon as it runs again, if it ever does."""
        for task in self.tasks:
            with contextlib.suppress(RuntimeError):
                task.get_loop().call_soon_threadsafe(task.cancel)


class Calling:
    """A call of a callback, as a context: entered by what the callback does, also in tasks that it makes."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.is_over = False
        self.turn = asyncio.Lock()
        """Held by who calls callbacks within this call."""

    def __enter__(self) -> None:
        self._before = _calling.set(self)

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        _calling.reset(self._before)


_calling: ContextVar[Calling | None] = ContextVar("configsvc_client.calling", default=None)


def calling(run: _Run) -> Calling | None:
    """The call of a callback of this client that the code is running in, until that is over."""
    call = _calling.get()
    return call if call is not None and call.run is run and not call.is_over else None


class AsyncConfigClient:
    """Live configuration of one scope. Enter it with `async with`, or let the first `await` start it.

    Once a first snapshot is there, `get` looks it up in a dictionary and awaits nothing. It never raises a network
    error: while the service is away, values stay what they were and `status` says so. Scalars are returned as they are,
    containers as copies, so that what one caller does to a value no other caller sees.
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
        """Check the options; nothing is connected yet. Raises `InvalidOption` (a `ValueError`)."""
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
        self._state = ClientState(options, lambda: self._run.wake.set())
        self._wait_until: float | None = None
        self._renew()
        fork.register(self, AsyncConfigClient._after_fork)

    def _renew(self) -> None:
        self._run = _Run()
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        return f"<AsyncConfigClient {self._state!r}>"

    # ---- reading ------------------------------------------------------------------------------------------------

    async def get(self, key: str, default: Any = MISSING) -> Any:
        """Return the value of a key: stored, else the schema's default, else `default`, else raise `ConfigKeyError`.

        The first read waits for a snapshot, `start_timeout_s` at most; with a last-known-good file a second at most.
        """
        # The quick way of `ConfigClient.get`, while there is a loop that keeps the state up to date.
        if self._run.is_running():
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
        await self._ready()
        return self._state.read(key, default)

    @overload
    async def get_str(self, key: str) -> str: ...

    @overload
    async def get_str(self, key: str, default: D) -> str | D: ...

    async def get_str(self, key: str, default: Any = MISSING) -> Any:
        """Return a string. A stored value of another type gives `default`, else raises `ConfigValueError`.

        So do all typed reads; what is passed as `default` is returned as it is. Where a default stands in for a value,
        that is logged once per value and counted in `status`.
        """
        await self._ready()
        return self._state.read_as(key, default, values.as_str)

    @overload
    async def get_int(self, key: str, *, min_val: int | None = None, max_val: int | None = None) -> int: ...

    @overload
    async def get_int(
        self, key: str, default: D, *, min_val: int | None = None, max_val: int | None = None
    ) -> int | D: ...

    async def get_int(
        self, key: str, default: Any = MISSING, *, min_val: int | None = None, max_val: int | None = None
    ) -> Any:
        """Return an integer within bounds, which belong to it; `true` and 5.0 are none. See `get_str`."""
        if min_val is not None or max_val is not None:
            values.check_bounds(min_val, max_val)
        await self._ready()
        return self._state.read_as(key, default, values.as_int, min_val, max_val)

    @overload
    async def get_float(self, key: str, *, min_val: float | None = None, max_val: float | None = None) -> float: ...

    @overload
    async def get_float(
        self, key: str, default: D, *, min_val: float | None = None, max_val: float | None = None
    ) -> float | D: ...

    async def get_float(
        self, key: str, default: Any = MISSING, *, min_val: float | None = None, max_val: float | None = None
    ) -> Any:
        """Return a number within bounds, which belong to it, as a float; integers are numbers too. See `get_str`."""
        if min_val is not None or max_val is not None:
            values.check_bounds(min_val, max_val)
        await self._ready()
        return self._state.read_as(key, default, values.as_float, min_val, max_val)

    @overload
    async def get_bool(self, key: str) -> bool: ...

    @overload
    async def get_bool(self, key: str, default: D) -> bool | D: ...

    async def get_bool(self, key: str, default: Any = MISSING) -> Any:
        """Return True or False; 1 and `"yes"` are neither. See `get_str`."""
        await self._ready()
        return self._state.read_as(key, default, values.as_bool)

    @overload
    async def get_json(self, key: str, *, type: type[T]) -> T: ...

    @overload
    async def get_json(self, key: str, default: D, *, type: type[T]) -> T | D: ...

    @overload
    async def get_json(self, key: str, default: Any = MISSING, *, type: Any = Any) -> Any: ...

    async def get_json(self, key: str, default: Any = MISSING, *, type: Any = Any) -> Any:
        """Return any value, made into `type` by msgspec where one is given, without guessing. See `get_str`."""
        await self._ready()
        return self._state.read_as(key, default, values.as_type, type)

    async def as_struct(self, type: type[T], prefix: str = "") -> T:
        """Return a `msgspec.Struct` or dataclass made of the keys below a prefix, all of one state.

        Its fields are found by dotted keys: `database.pool.size` is `database`, then `pool`, then `size`. Raises
        `ConfigValueError` with everything that is missing or does not fit.
        """
        await self._ready()
        return self._state.read_struct(type, prefix)

    async def get_all(self) -> dict[str, Any]:
        """Return all values that apply; an empty mapping where no snapshot came in time (`status` tells)."""
        await self._ready()
        return self._state.read_all()

    async def _ready(self) -> None:
        """Wait where a first read has to."""
        if self._state.snapshot is None or self._run.loop is not asyncio._get_running_loop():
            await self._wait_first()

    async def _wait_first(self) -> None:
        if self._state.is_closed or self._state.failure is not None:
            return
        self._start()
        if self._state.snapshot is not None:
            return
        now = time.monotonic()
        if self._wait_until is None:
            self._wait_until = now + self._state.first_read_s
        if self._wait_until > now:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait_until - now):
                    await self._run.settled.wait()

    # ---- changes and status -------------------------------------------------------------------------------------

    def on_change(self, callback: Callback, key: str | None = None) -> Callable[[], None]:
        """Call `callback(change)` for each changed value, or for those of one key; the returned function ends it.

        Callbacks run on this loop, one at a time, in the order of changes; coroutine functions are awaited. They may
        read and close the client. An error in one is logged. The first snapshot is a change only where a read was
        answered without one before.
        """
        return self._state.callbacks.add(callback, key)

    def on_status(self, callback: StatusCallback) -> Callable[[], None]:
        """Call `callback(status)` at each step of `status.state` or `status.source`; the returned function ends it.

        Also at the step to `stale`, which time alone makes; not for `closed`. Called in order, as `on_change` calls.
        """
        return self._state.callbacks.add_status(callback)

    def changes(self, key: str | None = None) -> AsyncChangeIterator:
        """Iterate over changes from now on, of all keys or one, until the client or the iterator is closed.

        What is a change, and what happens to a reader that is too slow, is the same as for `on_change`.
        """
        return AsyncChangeIterator(self._state, key, self._begin)

    def metrics(self) -> list[Sample]:
        """The numbers of this client in this process; `configsvc_client.prometheus` hands them on."""
        return self._state.metrics()

    def _begin(self) -> None:
        self._start()

    @property
    def status(self) -> ClientStatus:
        """How fresh reads are, from where, and why."""
        return self._state.status

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until a service has sent a snapshot; raises `TimeoutError` after `timeout_s`, None waits for ever.

        Also raises `ClientClosed` and `LinkFailed`.
        """
        self._state.check()
        self._start()
        if self._state.session.is_proved:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._run.first.wait()
        except TimeoutError:
            raise TimeoutError(f"after {timeout_s:g} s {self._state.why_nothing()}") from None
        self._state.check()

    # ---- lifetime -----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _start(self) -> None:
        if self._state.is_closed:
            raise ClientClosed("the client is closed")
        loop = asyncio._get_running_loop()
        # None: a child that was forked inside a coroutine and goes on in it, which no loop can serve.
        if loop is None or loop is self._run.loop:
            return
        with self._starting:
            before = self._run
            if before.loop is not None:
                if before.loop.is_running():
                    return
                # Another `asyncio.run` of the same program.
                before.leave()
                self._run = _Run()
                self._state.restart()
            self._run.loop, self._run.is_running = loop, loop.is_running
            self._start_on(loop, self._run)

    def _start_on(self, loop: asyncio.AbstractEventLoop, run: _Run) -> None:
        def take(snapshot: Snapshot) -> None:
            # The link of a loop that was left may come to this before it comes to its end.
            if run is self._run:
                self._state.take(snapshot)
            run.first.set()
            run.settled.set()

        following = follow(self._state, run.sockets, take=take, settle=run.settled.set)
        run.link = loop.create_task(following, name="configsvc-link")
        run.link.add_done_callback(partial(self._link_ended, run))
        self._start_callbacks(run)
        if self._state.callbacks.is_due:
            run.wake.set()

    def _start_callbacks(self, run: _Run) -> None:
        run.callbacks = asyncio.get_running_loop().create_task(self._call_back(run), name="configsvc-callbacks")

    def _after_fork(self) -> None:
        """In a forked child: let go of what is the parent's. The state is kept; the first `await` starts anew."""
        fork.keep(self._run, self._run.loop, self._run.link, self._run.callbacks)
        self._run.sockets.abandon()
        self._renew()
        self._state.callbacks.after_fork(in_callback=True)
        self._state.forget_counts()
        self._state.restart()

    def _link_ended(self, run: _Run, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("a defect ended the link", exc_info=error)
            if run is self._run:
                self._state.fail(error)
        run.first.set()
        run.settled.set()

    async def _call_back(self, run: _Run) -> None:
        while True:
            await run.wake.wait()
            run.wake.clear()
            for call in self._state.callbacks.take():
                try:
                    await self._call(run, call)
                except (KeyboardInterrupt, SystemExit):
                    # They end the loop, as those of any task do. It may be run again.
                    run.wake.set()
                    self._start_callbacks(run)
                    raise
                # A long row of callbacks must leave the loop to others in between.
                await asyncio.sleep(0)
                if self._state.is_closed or run is not self._run:
                    return

    async def _call(self, run: _Run, call: Call) -> None:
        callback, told = call
        try:
            with Calling(run):
                result = callback(told)
                if inspect.isawaitable(result):
                    await result
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                raise
            self._state.callbacks.failed(callback, told)

    async def close(self) -> None:
        """End the link; reads go on with the last state. Idempotent.

        May be called from any loop; one that is blocked is waited for for two seconds, one that does not run not at
        all. Raises `LinkFailed` where a defect had ended the link before.
        """
        self._state.close()
        run = self._run
        run.first.set()
        run.settled.set()
        if run.loop is asyncio.get_running_loop():
            await self._end(run)
        elif run.loop is not None and run.loop.is_running():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._end(run), run.loop))
        else:
            run.leave()
        if self._state.failure is not None:
            self._state.check()

    async def _end(self, run: _Run) -> None:
        tasks = run.tasks
        for task in tasks:
            task.cancel()
        run.wake.set()
        await asyncio.gather(*tasks, return_exceptions=True)
