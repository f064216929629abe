"""What handlers and middlewares share: the application's collaborators and the request's facts, by typed keys.

Set in one place each: application keys in `app.create_app`, request keys by the middleware that finds the fact out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from configsvc.auth import Authenticator
from configsvc.core.model import Scope
from configsvc.core.policy import Identity, decide
from configsvc.errors import Forbidden, NotFound, Unavailable
from configsvc.hub import Hub
from configsvc.metrics import Metrics
from configsvc.settings import Settings
from configsvc.web import syntax
from configsvc.web.health import Health
from configsvc.web.memo import Ground, Memo
from configsvc.web.route import Route, Target
from configsvc.writes.writer import Writer

SETTINGS = web.AppKey("settings", Settings)
HUB = web.AppKey("hub", Hub)
METRICS = web.AppKey("metrics", Metrics)
WRITER = web.AppKey("writer", Writer)
HEALTH = web.AppKey("health", Health)
MEMO = web.AppKey("memo", Memo)
"""Not set where hot reads are off."""
AUTHENTICATOR = web.AppKey("authenticator", Authenticator)
ROUTES = web.AppKey("routes", tuple[Route, ...])
ROUTE_OF = web.AppKey("route_of", Mapping[object, Route])
OPENAPI = web.AppKey("openapi", bytes)

REQUEST_ID = web.RequestKey("request_id", str)
ECHO_ID = web.RequestKey("echo_id", bool)
IDENTITY = web.RequestKey("identity", Identity)
TARGET = web.RequestKey("target", Target)
GROUND = web.RequestKey("ground", Ground)
"""Set where the answer may be given again, for what it rests on, to the same request."""
ANSWERED = web.RequestKey("answered", int)
"""The status of an answer that was begun and goes on; for the log, should it break off."""


def route(request: web.Request) -> Route | None:
    """The row that a request was routed to; None for an unknown path or method."""
    return request.app[ROUTE_OF].get(request.match_info.handler)


def identity(request: web.Request) -> Identity:
    """Who sent the request."""
    return request[IDENTITY]


def scope(request: web.Request) -> Scope:
    """The scope that the request is about, which its sender may read."""
    found = request[TARGET].scope
    assert found is not None
    return found


def key(request: web.Request) -> str:
    """The key that the request is about."""
    found = request[TARGET].key
    assert found is not None
    return found


def query(request: web.Request) -> Mapping[str, Any]:
    """The query parameters that the route knows and the request has, read."""
    return request[TARGET].query


def header(request: web.Request, name: str) -> Any:
    """A header that the route knows, read; None where the request has none."""
    return request[TARGET].headers.get(name)


def body(request: web.Request) -> Any:
    """The request's body, as its route reads it."""
    return request[TARGET].body


def version(request: web.Request) -> syntax.Version:
    """The release that the path names."""
    found = request[TARGET].version
    assert found is not None
    return found


def writer(request: web.Request) -> Writer:
    """Who writes, and knows the past; raises `Unavailable` where this service has no etcd to ask."""
    found = request.app.get(WRITER)
    if found is None:
        raise Unavailable("this service is not connected to etcd", code="store_unavailable")
    return found


def follows(settings: Settings, asked: Scope) -> bool:
    """Whether this service follows `asked` at all: a sidecar has one namespace, perhaps one environment of it."""
    if settings.service_name not in (None, asked.namespace):
        return False
    return settings.environment in (None, asked.environment)


def check_followed(settings: Settings, asked: Scope) -> None:
    """Raise `Forbidden` (`outside_sidecar`) where this service does not follow a scope."""
    if not follows(settings, asked):
        following = f"{settings.service_name}/{settings.environment or '*'}"
        raise Forbidden(f"this sidecar follows {following}, not {asked}", code="outside_sidecar", follows=following)


def check(request: web.Request, action: str, asked: Scope) -> None:
    """Raise `Forbidden` where the sender may not do `action` to `asked`, or this service does not follow it."""
    check_followed(request.app[SETTINGS], asked)
    decision = decide(request.get(IDENTITY), action, asked)
    if not decision.allowed:
        raise Forbidden(decision.reason)


def readable_scopes(request: web.Request) -> Iterator[Scope]:
    """The scopes that exist here and that the sender of the request may read, in no order."""
    who = identity(request)
    feeds = request.app[HUB].feeds
    return (s for s, feed in feeds.items() if feed.exists and decide(who, "read", s).allowed)


def unrouted(request: web.Request) -> NotFound:
    """The answer to a path that no route has, with those that look like it."""
    routes = list(dict.fromkeys(r.path for r in request.app[ROUTES]))
    head = "/".join(request.path.split("/")[:3])
    alike = [path for path in routes if path.startswith(head)] if len(head) > 3 else []
    hint = ", ".join(alike or routes[:3])
    return NotFound(f"no route has this path; there is {hint} (all: /openapi.json)", code="route_not_found", near=alike)
