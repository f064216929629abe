"""SIGTERM and SIGINT in a process that is the service: from its first line to its last, each of them means an end in
good order, and none kills it while it is starting or about to leave.

So what handles them is changed in single steps. A loop's own handlers are no use: their removal, and the loop's end,
put the system's default back.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    # To import it takes a while, and `begin` comes first.
    import asyncio

NAMES = (signal.SIGTERM, signal.SIGINT)


def leave(number: int, frame: Any) -> NoReturn:
    """The handler of a service that has nothing to end yet.

    No exception: one that comes in the middle of an import or of a loop's own code may be caught there.
    """
    os._exit(0)


def begin() -> None:
    """Handle signals in a process that will be the service. To be called on the main thread, as all of these."""
    for one in NAMES:
        signal.signal(one, leave)


def end() -> None:
    """Ignore them in a process that was the service, and nowhere else."""
    for one in NAMES:
        if signal.getsignal(one) is leave:
            signal.signal(one, signal.SIG_IGN)


@contextlib.contextmanager
def heeded(
    ask: Callable[[str], None], loop: "asyncio.AbstractEventLoop", names: tuple[signal.Signals, ...] = NAMES
) -> Iterator[None]:
    """Call `ask` on the loop with the name of each that comes."""

    def tell(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(ask, signal.Signals(number).name)

    before = {one: signal.signal(one, tell) for one in names}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_IGN if handler is leave else handler or signal.SIG_DFL)
