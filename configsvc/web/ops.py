"""What the service says of itself: identity, health, metrics, and the description of its own API."""

import msgspec
from aiohttp import web

from configsvc import __version__
from configsvc.metrics import CONTENT_TYPE
from configsvc.web import context

MAX_SCOPES = 100


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )


async def index(request: web.Request) -> web.StreamResponse:
    """`GET /`: what there is to ask for."""
    routes = [f"{row.method} {row.path}" for row in request.app[context.ROUTES]]
    return _json({"service": "configsvc", "version": __version__, "routes": routes})


async def self(request: web.Request) -> web.StreamResponse:
    """`GET /v1/self`."""
    settings, hub = request.app[context.SETTINGS], request.app[context.HUB]
    who, scopes = context.identity(request), sorted(context.readable_scopes(request))
    return _json(
        {
            "service": "configsvc",
            "version": __version__,
            "mode": settings.mode,
            "namespace": settings.service_name,
            "environment": settings.default_environment,
            "revision": hub.replica.position,
            "scopes": [
                {
                    "namespace": scope.namespace,
                    "environment": scope.environment,
                    "release": hub.feeds[scope].snapshot.release,
                    "revision": hub.feeds[scope].snapshot.revision,
                }
                for scope in scopes[:MAX_SCOPES]
            ],
            "scopes_total": len(scopes),
            "identity": who.name if who.name != "anonymous" else None,
        }
    )


async def health(request: web.Request) -> web.StreamResponse:
    """`GET /health`: 200 while reads are served, however old; 503 otherwise."""
    report = request.app[context.HEALTH].report()
    return _json(report, 503 if report["status"] == "unavailable" else 200)


async def live(request: web.Request) -> web.StreamResponse:
    """`GET /health/live`: 200 while the event loop turns, which answering shows."""
    return _json({"status": "ok"})


async def ready(request: web.Request) -> web.StreamResponse:
    """`GET /health/ready`: 200 when traffic should come here."""
    checks = request.app[context.HEALTH]
    report = checks.report()
    return _json(report, 200 if checks.ready else 503)


async def metrics(request: web.Request) -> web.StreamResponse:
    """`GET /metrics`, in Prometheus' text format; for all workers, whichever is asked."""
    counted = request.app[context.METRICS]
    body = await counted.of_all() if counted.of_all else counted.exposition()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})


async def openapi(request: web.Request) -> web.StreamResponse:
    """`GET /openapi.json`, made from the route table at start."""
    headers = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
    return web.Response(body=request.app[context.OPENAPI], headers=headers)
