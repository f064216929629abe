"""`for change in client.changes()`: changes as they come, at the pace of whoever reads them.

Each iterator has a backlog of its own, of the same bound and rules as that of callbacks. It ends with the client, or
when it is closed; what has come and was not read is dropped then.
"""

import queue
from collections.abc import Callable
from types import TracebackType

from configsvc_client.callbacks import Callbacks
from configsvc_client.shared_event import SharedEvent
from configsvc_client.state import ClientState
from configsvc_client.view import ConfigChange


class _Changes:
    """What both iterators are: a backlog that hears of a client's states."""

    def __init__(self, state: ClientState, key: str | None, wake: Callable[[], None]) -> None:
        self._state = state
        self._wake = wake
        self._is_closed = False
        self._backlog = Callbacks(wake)
        self._backlog.add(id, key)
        state.callbacks.listeners.add(self._backlog)

    def _next(self) -> ConfigChange | None:
        for _, told in self._backlog.take():
            if isinstance(told, ConfigChange):
                return told
        return None

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self._state.is_closed

    def close(self) -> None:
        """End it, also for a reader that waits."""
        self._is_closed = True
        self._state.callbacks.listeners.discard(self._backlog)
        self._wake()


class ChangeIterator(_Changes):
    """Changes of a `ConfigClient`. For one reading thread; `close` may be called from any."""

    def __init__(self, state: ClientState, key: str | None, begin: Callable[[], None]) -> None:
        # Not through `self`, so that a forgotten iterator goes at once.
        poke: queue.SimpleQueue[None] = queue.SimpleQueue()
        super().__init__(state, key, lambda: poke.put(None))
        self._poke = poke
        self._begin = begin

    def __iter__(self) -> "ChangeIterator":
        return self

    def __next__(self) -> ConfigChange:
        self._begin()
        while not self._is_over:
            change = self._next()
            if change is not None:
                return change
            self._poke.get()
        raise StopIteration

    def __enter__(self) -> "ChangeIterator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncChangeIterator(_Changes):
    """Changes of an `AsyncConfigClient`. For one reading task, on any loop."""

    def __init__(self, state: ClientState, key: str | None, begin: Callable[[], None]) -> None:
        self._poke = SharedEvent()
        super().__init__(state, key, lambda: self._poke.set())
        self._begin = begin

    def __aiter__(self) -> "AsyncChangeIterator":
        return self

    async def __anext__(self) -> ConfigChange:
        if not self._is_over:
            self._begin()
        while not self._is_over:
            self._poke = SharedEvent()
            change = self._next()
            if change is not None:
                return change
            await self._poke.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """The same as `close`, for `contextlib.aclosing`."""
        self.close()

    async def __aenter__(self) -> "AsyncChangeIterator":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
