"""The application: puts the parts together, and starts and stops what has a lifetime, in one visible order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from time import monotonic
from typing import Any

import structlog
from aiohttp import web

from configsvc import auth
from configsvc.etcd.ops import Etcd
from configsvc.follower import Follower
from configsvc.hub import Hub
from configsvc.metrics import Metrics
from configsvc.settings import Settings
from configsvc.store import Store
from configsvc.web import bodies, context, memo, openapi, read
from configsvc.web.fanout import FANOUT, Fanout
from configsvc.web.health import Health
from configsvc.web.middleware import MIDDLEWARES, finish_head
from configsvc.web.route import Route
from configsvc.web.routes import ANY_ROUTE, ROUTES
from configsvc.writes.writer import Writer

Lifetime = Callable[[web.Application], AsyncIterator[None]]
log = structlog.get_logger()
LEAVE_S = 1.0
"""How long streams may take to end after the last word to them is out."""
LOOK_S = 1.0
"""How often health is looked at without being asked, and how late that was is the event loop's lag."""
_ROUTER_PATTERNS = {
    "{ns}": "{ns:[^/]*}",
    "{env}": "{env:[^/]*}",
    "{key}": "{key:(?s:.*)}",
    "{version}": "{version:[^/]*}",
}
"""What the router lets through is wider than what is right: `middleware.py` says what is wrong with a name."""


def create_app(
    settings: Settings,
    hub: Hub,
    *,
    metrics: Metrics | None = None,
    authenticator: auth.Authenticator | None = None,
    follower: Follower | None = None,
    etcd: Etcd | None = None,
    store: Store | None = None,
    writer: Writer | None = None,
    lifetimes: Sequence[Lifetime] = (),
) -> web.Application:
    """The application over a hub. Whoever feeds the hub is among `lifetimes`, which begin before everything else here.

    `follower`, `etcd` and `store` are looked at by health and metrics, where the hub is fed by them.
    """
    app = web.Application(middlewares=MIDDLEWARES)
    app[FAILURE] = Failure()
    app[context.SETTINGS] = settings
    app[context.HUB] = hub
    app[context.METRICS] = metrics = metrics or Metrics(hub)
    app[context.AUTHENTICATOR] = authenticator or auth.authenticator(settings)
    app[FANOUT] = Fanout(hub, metrics, settings.slow_reader_s, app[context.AUTHENTICATOR].holds)
    app[context.HEALTH] = Health(
        hub, follower=follower, etcd=etcd, store=store, ready_from_disk=settings.ready_from_disk
    )
    app[bodies.ROOM] = bodies.Room(bodies.BODIES_AT_ONCE * settings.max_body_bytes)
    if writer is not None:
        app[context.WRITER] = writer
    metrics.follow(follower, etcd)
    if settings.hot_reads and memo.supported():
        app[context.MEMO] = hot = memo.Memo(hub, metrics, app[context.AUTHENTICATOR], read.freshness)
        metrics.flush = hot.flush
    _add_routes(app, ROUTES)
    app.cleanup_ctx.extend([*lifetimes, _heartbeats, _self_observation])
    app.on_response_prepare.append(finish_head)
    app.on_shutdown.append(_drain)
    return app


def _add_routes(app: web.Application, routes: tuple[Route, ...]) -> None:
    """Register the table; refuses one that would leave a handler's permission open to doubt."""
    by_handler: dict[object, Route] = {}
    for row in routes:
        known = by_handler.setdefault(row.handler, row)
        if known.action != row.action or known.path != row.path:
            raise ValueError(f"{row.method} {row.path}: its handler serves another route already")
        path = row.path
        for name, pattern in _ROUTER_PATTERNS.items():
            path = path.replace(name, pattern)
        for method in row.methods:
            app.router.add_route(method, path, row.handler, expect_handler=_expect_nothing)
    app[context.ROUTES] = routes
    app[context.ROUTE_OF] = by_handler
    app[context.OPENAPI] = openapi.document(routes, ANY_ROUTE)


async def _expect_nothing(request: web.Request) -> None:
    """Invite no body yet: the final answer may come at once, and `bodies.read` invites those that it reads."""


class Failure:
    """A background task that ended although it never should: a defect, and the end of the process."""

    def __init__(self) -> None:
        self.happened = asyncio.Event()

    def note(self, task: "asyncio.Task[None]") -> None:
        """Take notice of a task that is done."""
        if task.cancelled():
            return
        log.critical("a background task ended", task=task.get_name(), exc_info=task.exception())
        self.happened.set()


@contextlib.asynccontextmanager
async def running(app: web.Application, work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Run `work`, which never ends by itself, while the block does. Its end is the application's `Failure`."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(app[FAILURE].note)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


FAILURE = web.AppKey("failure", Failure)


async def _drain(app: web.Application) -> None:
    app[context.HUB].drain()
    await app[FANOUT].close(LEAVE_S)


async def _heartbeats(app: web.Application) -> AsyncIterator[None]:
    async with running(app, app[context.HUB].run(), "heartbeats"):
        yield


async def _self_observation(app: web.Application) -> AsyncIterator[None]:
    async with running(app, _observe(app[context.HEALTH], app[context.METRICS]), "self-observation"):
        yield


async def _observe(health: Health, metrics: Metrics) -> None:
    while True:
        health.observe()
        metrics.flush()
        started = monotonic()
        await asyncio.sleep(LOOK_S)
        metrics.loop_lag_s = max(0.0, monotonic() - started - LOOK_S)
