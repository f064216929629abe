"""A client's work from its start to its end, the same for both clients: the file first, then the link.

Owns the rule of which comes first to readers: a service is preferred, the last-known-good file is not long waited for.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from functools import partial

from configsvc_client.disk import Files
from configsvc_client.doubt import Proof
from configsvc_client.fork import Sockets
from configsvc_client.keeper import STOP_TIMEOUT_S, Keeper
from configsvc_client.link import Link
from configsvc_client.snapshot import Snapshot
from configsvc_client.state import LOAD_TIMEOUT_S, ClientState, first_wait_s
from configsvc_client.ticker import Ticker

logger = logging.getLogger("configsvc_client")


async def follow(
    state: ClientState, sockets: Sockets, *, take: Callable[[Snapshot], None], settle: Callable[[], None]
) -> None:
    """Follow the scope for ever, and keep its last-known-good file.

    `take` is called with each new state that a service has shown, `settle` once a first read has nothing to wait for.
    An exception out of here is a defect. Cancelled, it writes the last state, for which it takes 1.5 s at most.
    """
    ticker = Ticker(state.observe)
    ticker.look()
    cache = state.options.cache
    try:
        if cache is None:

            def look() -> None:
                if state.session.addresses.is_refused:
                    settle()
                ticker.look()

            await Link(state.options, state.session, sockets, on_progress=look).run(take)
        else:
            await _follow_beside(_Start(state, Keeper(Files(cache, state.options)), settle), ticker, sockets, take)
    finally:
        ticker.stop()


async def _follow_beside(start: "_Start", ticker: Ticker, sockets: Sockets, take: Callable[[Snapshot], None]) -> None:
    def look() -> None:
        start.look()
        ticker.look()

    try:
        await start.load()
        await Link(start.state.options, start.state.session, sockets, on_progress=look).run(take)
    finally:
        await start.end()


class _Start:
    """One run of the link with a file beside it."""

    def __init__(self, state: ClientState, keeper: Keeper, settle: Callable[[], None]) -> None:
        self.state = state
        self._keeper = keeper
        self._settle = settle
        self._loop = asyncio.get_running_loop()
        self._loaded = asyncio.Event()
        self._ended = asyncio.Event()
        self._is_released = False
        self._said = False
        self._has_adopted = False
        self._timer: asyncio.TimerHandle | None = None

    async def load(self) -> None:
        """Begin with what the file holds. A disk that takes longer is not waited for; it is taken when it comes."""
        ended = partial(self._from_thread, self._ended.set)
        session = self.state.session
        held = session.position
        try:
            if held is None:
                self._keeper.start(lambda kept: self._from_thread(partial(self._take_kept, kept)), ended)
            else:
                # In a forked child, or on another loop: what is held is no older than the file.
                self._keeper.begin(held, session.left)
                self._keeper.start(None, ended)
        except RuntimeError as error:
            logger.warning("no last-known-good file is read or kept: %s", error)
            self._ended.set()
            self._loaded.set()
        if held is not None or self._loaded.is_set():
            self._take_kept(None)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                await self._loaded.wait()

    def _from_thread(self, call: Callable[[], None]) -> None:
        # The loop may be closed before a disk answers.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    def _take_kept(self, kept: Proof | None) -> None:
        session = self.state.session
        if kept is not None and session.position is None:
            session.adopt(kept, time.monotonic())
            self._has_adopted = True
            self._keeper.begin(kept.position, kept.left)
        self._loaded.set()
        self.look()
        if not self._is_released and math.isfinite(wait_s := self._wait_s()):
            self._timer = self._loop.call_later(wait_s, self._release)

    def look(self) -> None:
        """After everything that moved the session: is there something to keep, has waiting become useless?"""
        session = self.state.session
        self._keeper.note(session.proof(time.monotonic()))
        if not self._is_released and self._loaded.is_set() and self._wait_s() <= 0:
            self._release()
        if self._said or session.position is not None or not self._keeper.files.is_unasked:
            return
        if session.addresses.is_nobody_there:
            self._said = True
            logger.warning(
                "no service answers, and without a service nobody knows the scope: with SERVICE_NAME and "
                "CONFIG_ENVIRONMENT set, or with a folder of this application's own in CONFIGSVC_CACHE_DIR, "
                "a start would go on from the last-known-good file"
            )

    def _wait_s(self) -> float:
        session = self.state.session
        return first_wait_s(
            self.state.options.start_timeout_s,
            has_file=session.position is not None,
            all_failed=session.addresses.all_failed,
            is_refused=session.addresses.is_refused,
        )

    def _release(self) -> None:
        self._is_released = True
        session = self.state.session
        if self._has_adopted and not session.is_proved:
            age_s = session.view(time.monotonic()).age_s or 0.0
            logger.warning(
                "starting from the last-known-good file %s, proved %.0f s ago, because no service has shown a newer "
                "state so far (%s)",
                self._keeper.files.path,
                age_s,
                session.last_error or f"no answer from {session.endpoint.url}",
            )
        self.state.release()
        self._settle()

    async def end(self) -> None:
        """Let the last state be written."""
        if self._timer is not None:
            self._timer.cancel()
        self._keeper.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._ended.wait()
