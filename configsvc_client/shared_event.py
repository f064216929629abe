"""`asyncio.Event` for tasks of any loop, because more than one may read from a client."""

import asyncio
import contextlib


class SharedEvent:
    """Is set once and for all, from any thread; tasks of any loop wait for that."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] = []

    def set(self) -> None:
        """Wake all who wait."""
        self._is_set = True
        for waiter in list(self._waiters):
            # A loop that is closed by now waits no more.
            with contextlib.suppress(RuntimeError):
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    async def wait(self) -> None:
        """Return once it is set."""
        waiter = asyncio.get_running_loop().create_future()
        # In this order: whichever of the two comes last sees the other, so that no lock is needed.
        self._waiters.append(waiter)
        try:
            if not self._is_set:
                await waiter
        finally:
            self._waiters.remove(waiter)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
