"""Calls that may block for as long as they like, without delaying a loop or the end of a program.

A loop's own pool of threads is joined by the interpreter before it exits, so one name server or one disk that does not
answer would hold the application for as long as the system's time-out. Here each call has a daemon thread.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def in_thread(call: Callable[[], T], name: str) -> "asyncio.Future[T]":
    """What the call returns or raises. It ends by itself, also where nobody waits for it any more.

    Raises `OSError` where there can be no more threads.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    # Where nobody waits, an error is no news.
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def run() -> None:
        try:
            told = partial(_tell, future, future.set_result, call())
        except Exception as error:
            told = partial(_tell, future, future.set_exception, error)
        # The loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(told)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return future


def _tell(future: "asyncio.Future[Any]", tell: Callable[[Any], None], told: Any) -> None:
    if not future.done():
        tell(told)
