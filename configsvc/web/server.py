"""The process: listens, serves until told to stop, and leaves in good order with an exit code that says why.

Stopping is: not ready any more, and after `drain_delay_s` streams are told to go elsewhere and requests in flight are
finished, all within `drain_s`; a second signal ends the waiting. `listening` is the part that tests share.
"""

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from time import monotonic

import structlog
from aiohttp import web

from configsvc import __version__, logs, signals
from configsvc.settings import Settings
from configsvc.settings_values import Address
from configsvc.web import context
from configsvc.web.app import FAILURE
from configsvc.web.build import build
from configsvc.web.protocol import Protocol

EXIT_OK = 0
EXIT_UNAVAILABLE = 69
EXIT_SOFTWARE = 70
BACKLOG = 1024
POLL_S = 0.05
LOOK_S = 1.0
CANCEL_S = 1.0
"""What is left of a handler after draining is cancelled, and gets this long to end."""

log = structlog.get_logger()


class PortInUse(Exception):
    """The address cannot be listened on; the text says why."""


class Site(web.BaseSite):
    """Listens on sockets that are bound already, with our protocol for each connection."""

    def __init__(self, runner: web.AppRunner, sock: socket.socket, protocol: Callable[[], Protocol]) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._sock = sock
        self._protocol = protocol

    @property
    def name(self) -> str:
        host, port = self._sock.getsockname()[:2]
        return f"http://{Address(host, port)}"

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=self._sock, backlog=BACKLOG)


def bind(address: Address, *, shared: bool = False) -> socket.socket:
    """A listening socket on `address`, alone or `shared` with sockets that allow it; raises `PortInUse`."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, sockaddr = found[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise PortInUse(f"cannot listen on {address}: {error.strerror or error}") from None
    try:
        if hasattr(socket, "AF_INET6") and family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise PortInUse(f"cannot listen on {address}: {error.strerror or error}") from None
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, sock: socket.socket, hold: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[str]:
    """Serve `app` on a bound socket while the block runs; yields the URL. Leaving drains first.

    The application runs before connections are taken; `hold` puts that off further.
    """
    settings, metrics = app[context.SETTINGS], app[context.METRICS]
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=CANCEL_S)
    try:
        await runner.setup()
        if hold is not None:
            await hold()
        server = runner.server
        assert server is not None
        protocol = functools.partial(
            Protocol,
            server,
            loop=asyncio.get_running_loop(),
            head_timeout_s=settings.head_timeout_s,
            # Streams have a closer look of their own, which comes first.
            stalled_s=2 * settings.slow_reader_s,
            metrics=metrics,
            memo=app.get(context.MEMO),
        )
        site = Site(runner, sock, protocol)
        await site.start()
        yield site.name
    finally:
        await runner.cleanup()
        sock.close()


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code: 0, 69 port in use or no data in time, 70 a defect.

    Raises `SettingsError` for what only shows when the settings are used.
    """
    logs.configure(settings.log_format, settings.log_level)
    for line in settings.warnings:
        log.warning(line)
    app = build(settings)
    try:
        sock = bind(settings.listen)
    except PortInUse as error:
        log.error(str(error), hint="set CONFIGSVC_LISTEN to another address")
        return EXIT_UNAVAILABLE
    return await serve_app(app, sock)


async def serve_app(
    app: web.Application,
    sock: socket.socket,
    *,
    stopping: "Callable[[], AbstractContextManager[Stop]] | None" = None,
    hold_s: float = 0.0,
) -> int:
    """Serve an application on a bound socket, as `serve` does; returns the exit code.

    `stopping` says who asks it to stop, in place of signals. For up to `hold_s`, connections wait for the first data.
    """
    settings = app[context.SETTINGS]
    with (stopping or _signals)() as stop:
        async with listening(app, sock, functools.partial(_held, app, stop, hold_s)) as url:
            log.info(f"configsvc {__version__} serves {served(settings)} at {url}", address=url, mode=settings.mode)
            code = await _until_stopped(app, stop)
            if code == EXIT_OK and settings.drain_delay_s:
                await _unready(app, settings.drain_delay_s, stop)
            await _drained(app, settings.drain_s, stop)
    log.info("stopped", code=code)
    return code


async def _held(app: web.Application, stop: "Stop", hold_s: float) -> None:
    """Return as soon as there is data from etcd or a wish to stop, after `hold_s` at the latest."""
    hub, until = app[context.HUB], monotonic() + hold_s
    while not (hub.listed and hub.ready) and not stop.wanted.is_set() and monotonic() < until:
        await hub.moved(POLL_S)


def served(settings: Settings) -> str:
    """What these settings serve, in words."""
    return "every namespace" if settings.mode == "central" else f"{settings.service_name}/{settings.environment or '*'}"


class Stop:
    """What signals have asked for: `wanted` after the first, `hurried` after the second."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.hurried = asyncio.Event()

    def ask(self, name: str) -> None:
        """A signal came."""
        if self.wanted.is_set():
            log.info("stopping at once", signal=name)
            self.hurried.set()
        else:
            log.info("stopping", signal=name)
            self.wanted.set()


@contextlib.contextmanager
def _signals() -> Iterator[Stop]:
    stop = Stop()
    with signals.heeded(stop.ask, asyncio.get_running_loop()):
        yield stop


async def _until_stopped(app: web.Application, stop: Stop) -> int:
    """Wait for the first of: a signal, a start that takes too long, the end of a task that never ends."""
    starting = asyncio.create_task(_start_overdue(app))
    waits = {
        asyncio.create_task(stop.wanted.wait()): EXIT_OK,
        asyncio.create_task(app[FAILURE].happened.wait()): EXIT_SOFTWARE,
        starting: EXIT_UNAVAILABLE,
    }
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
    return max(waits[task] for task in done)


async def _start_overdue(app: web.Application) -> None:
    """Return when the first data did not come in time; never, where it did or there is no limit."""
    hub, timeout_s = app[context.HUB], app[context.SETTINGS].start_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            while not hub.ready:
                await hub.moved(LOOK_S)
    except TimeoutError:
        why = app[context.HEALTH].finding("etcd")
        log.error(f"nothing could be read from etcd within {timeout_s:g} s; giving up", why=why)
        return
    if hub.listed:
        log.info("ready", revision=hub.replica.position, scopes=len(hub.feeds))
    else:
        log.info("ready with last-known-good snapshots from disk, until etcd can be read", scopes=len(hub.feeds))
    await asyncio.Event().wait()


async def _unready(app: web.Application, delay_s: float, stop: Stop) -> None:
    """Serve on, but for saying that traffic should go elsewhere, until whoever is in front has seen that."""
    app[context.HEALTH].leaving = True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            await stop.hurried.wait()


async def _drained(app: web.Application, drain_s: float, stop: Stop) -> None:
    """Send streams away and wait until nothing is being answered, for `drain_s` at most."""
    app[context.HUB].drain()
    hurried = asyncio.create_task(stop.hurried.wait())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            while app[context.METRICS].in_progress and not stop.hurried.is_set():
                await asyncio.wait({hurried}, timeout=POLL_S)
    hurried.cancel()
    if left := app[context.METRICS].in_progress:
        log.warning("requests are broken off", count=left)
