"""`configsvc serve` with several workers: one port, a listening socket for each, and what they have in common.

The kernel spreads connections over the sockets (SO_REUSEPORT). The parent keeps them all open: those who connect while
a dead worker's successor starts are kept waiting in its queue for the moment that this takes, not refused. Which
other designs were measured is in docs/decisions/014-workers.md.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import msgspec
import structlog
from aiohttp import web

from configsvc import __version__, logs, signals
from configsvc.board import READY, Board
from configsvc.settings import Settings
from configsvc.settings_values import Address
from configsvc.supervisor import HURRY, STOP, Supervisor
from configsvc.totals import Totals
from configsvc.web import context, server
from configsvc.web.app import Lifetime, running
from configsvc.web.build import build, check_certificates
from configsvc.web.health import KEEPER

HOLD_S = 5.0
"""How long at most the connections of a worker that ended wait until its successor has data; then they are told."""

log = structlog.get_logger()

Run = Callable[[Coroutine[Any, Any, int]], int]


def serve(settings: Settings, run: Run) -> int:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT; returns the exit code, as `server.serve` does.

    Called where there is neither event loop nor thread; `run` runs a worker's coroutine in a loop of its own. Raises
    `SettingsError`.
    """
    logs.configure(settings.log_format, settings.log_level)
    for line in settings.warnings:
        log.warning(line)
    check_certificates(settings)
    try:
        socks = bind(settings.listen, settings.workers)
    except server.PortInUse as error:
        log.error(str(error), hint="set CONFIGSVC_LISTEN to another address")
        return server.EXIT_UNAVAILABLE
    board = Board(settings.workers)

    def drop(number: int | None) -> None:
        for at, sock in enumerate(socks, 1):
            if at != number:
                sock.close()

    def work(number: int, orders: int, again: bool) -> int:
        logs.configure(settings.log_format, settings.log_level, worker=number)
        return run(_work(settings, socks[number - 1], board, number, orders, again))

    url = f"http://{Address(*socks[0].getsockname()[:2])}"
    what = f"{server.served(settings)} at {url} with {settings.workers} workers"
    log.info(f"configsvc {__version__} serves {what}", address=url, mode=settings.mode, workers=settings.workers)
    try:
        code = Supervisor(board, work, drain_s=settings.drain_delay_s + settings.drain_s, drop=drop).run()
    finally:
        drop(None)
        board.close()
    log.info("stopped", code=code)
    return code


def bind(address: Address, count: int) -> list[socket.socket]:
    """Listening sockets that share an address. Raises `PortInUse`, also where it is shared by another service.

    The first is bound alone and opened to the others only then: with SO_REUSEPORT from the start, a second service of
    the same user would take half of the connections without a word.
    """
    socks = [server.bind(address)]
    try:
        socks[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared = Address(*socks[0].getsockname()[:2])
        socks += [server.bind(shared, shared=True) for _ in range(count - 1)]
    except BaseException:
        for sock in socks:
            sock.close()
        raise
    return socks


async def _work(settings: Settings, sock: socket.socket, board: Board, number: int, orders: int, again: bool) -> int:
    """Be one worker; returns its exit code."""
    if again:
        # The others serve; that this one has no data yet is no reason to give all of them up.
        settings = msgspec.structs.replace(settings, start_timeout_s=None)
    app = build(settings, keeps=number == KEEPER)
    app.cleanup_ctx.extend(_in_common(app, board, number))
    return await server.serve_app(app, sock, stopping=partial(_orders, orders), hold_s=HOLD_S if again else 0.0)


def _in_common(app: web.Application, board: Board, number: int) -> list[Lifetime]:
    metrics, hub = app[context.METRICS], app[context.HUB]
    metrics.restarts = lambda: board.restarts
    app[context.HEALTH].among(board, number)
    totals = Totals(metrics, board, number)
    metrics.of_all = totals.exposition

    async def state_told(app: web.Application) -> AsyncIterator[None]:
        async def tell() -> None:
            while not hub.ready:
                await hub.moved(server.LOOK_S)
            board.set_state(number, READY)
            await asyncio.Event().wait()

        async with running(app, tell(), "readiness"):
            yield

    async def totals_shared(app: web.Application) -> AsyncIterator[None]:
        async with totals.published(), running(app, totals.run(), "totals"):
            yield

    return [state_told, totals_shared]


@contextlib.contextmanager
def _orders(orders: int) -> Iterator[server.Stop]:
    """What the supervisor asks for through its pipe; SIGTERM, sent to this worker alone, asks for the same.

    A second SIGTERM asks for nothing more: a service manager may send one to each process, and so does the supervisor.
    """
    stop, loop = server.Stop(), asyncio.get_running_loop()

    def read() -> None:
        words = os.read(orders, 16)
        if not words:
            loop.remove_reader(orders)
            log.warning("the parent process is gone")
        if STOP in words or not words:
            ask("the supervisor")
        if HURRY in words or not words:
            stop.wanted.set()
            stop.hurried.set()

    def ask(who: str) -> None:
        if not stop.wanted.is_set():
            stop.ask(who)

    loop.add_reader(orders, read)
    try:
        with signals.heeded(ask, loop, (signal.SIGTERM,)):
            yield stop
    finally:
        loop.remove_reader(orders)
