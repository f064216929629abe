"""What happens to every request, outermost first: log, errors, authenticate, authorize.

Four middlewares on the root application and no handler decorators: a route is subject to all of it, or it does not
exist. Authorization reads the route table; a handler that is not in it is refused.
"""

import asyncio
import logging
import secrets
from functools import partial
from time import perf_counter
from typing import Any

import structlog
from aiohttp import hdrs, web

from configsvc.core.policy import decide
from configsvc.errors import (
    ConfigSvcError,
    Forbidden,
    Internal,
    InvalidRequest,
    RequestTimeout,
    TooLarge,
    UnsupportedMediaType,
)
from configsvc.metrics import Metrics
from configsvc.web import bodies, context, problems, syntax
from configsvc.web.fanout import STREAM
from configsvc.web.route import Handler, Parameter, Route, Target

MAX_IGNORED_BODY = 64 * 1024
"""A body that nobody reads is passed over up to this size; the connection is not worth more."""
GONE = 499
"""In log and metrics, the status of an answer that nobody waited for."""
MAX_LOGGED_PATH = 300
METHODS = frozenset(hdrs.METH_ALL)
PROBES = frozenset({"/health", "/health/ready"})
"""Asked every few seconds: a 503 of theirs is news the first time only, which `Health` logs."""

log = structlog.get_logger("configsvc.http")


# ---- request id and log ----------------------------------------------------------------------------------------------


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, count it, and log it once it is answered."""
    metrics = request.app[context.METRICS]
    sent_id = syntax.sane_request_id(request.headers.get("X-Request-Id"))
    request[context.REQUEST_ID] = sent_id or secrets.token_hex(8)
    # What changes something can always be asked about afterwards.
    request[context.ECHO_ID] = sent_id is not None or request.method not in ("GET", "HEAD")
    started = perf_counter()
    metrics.in_progress += 1
    response = None
    try:
        response = await handler(request)
        return response
    finally:
        row = context.route(request)
        status = response.status if response else request.get(context.ANSWERED, GONE)
        method = request.method if request.method in METHODS else "other"
        level = _level(row, status)
        # Put together now: the request is not to live for as long as a stream.
        facts = _facts(request, row, status) if level else {}
        end = partial(_ended, metrics, method, row, status, started, level, facts)
        if (stream := request.get(STREAM)) is not None:
            stream.on_end = end
        else:
            end()


def _ended(
    metrics: Metrics, method: str, row: Route | None, status: int, started: float, level: str, facts: dict[str, Any]
) -> None:
    seconds = perf_counter() - started
    metrics.in_progress -= 1
    metrics.answered(method, row.path if row else "", status, None if row and row.lasting else seconds)
    if level:
        getattr(log, level)("request", **{**facts, "seconds": round(seconds, 6)})


async def finish_head(request: web.Request, response: web.StreamResponse) -> None:
    """Add to every answer's head what all of them have: the caller's own request id, where it sent one."""
    response.headers["Server"] = problems.SERVER
    if request.get(context.ECHO_ID):
        response.headers["X-Request-Id"] = request[context.REQUEST_ID]


def _level(row: Route | None, status: int) -> str:
    """At which level an answer is logged; empty where it is not."""
    if status >= 500 and status != 503:
        return "error"
    probe = status == 503 and row is not None and row.path in PROBES
    if (status >= 400 and not probe) or (row and row.lasting):
        return "info"
    # Reads come by the thousand, and a log of them would cost more than they do; the metrics have them.
    return "debug" if logging.getLogger().isEnabledFor(logging.DEBUG) else ""


def _facts(request: web.Request, row: Route | None, status: int) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.rel_url.raw_path[:MAX_LOGGED_PATH],
        "route": row.path if row else None,
        "status": status,
        "seconds": 0.0,
        "peer": request.remote,
        "identity": who.name if (who := request.get(context.IDENTITY)) else None,
        "request_id": request[context.REQUEST_ID],
        "trace_id": syntax.trace_id(request.headers.get("traceparent")),
    }


# ---- errors ----------------------------------------------------------------------------------------------------------


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem document. What is not one of ours is a defect: 500, and the log has it."""
    try:
        return await handler(request)
    except ConfigSvcError as error:
        failure = error
    except web.HTTPException as error:
        failure = (
            context.unrouted(request) if error.status == 404 else problems.of_http_exception(error, request.method)
        )
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("request failed", request_id=request[context.REQUEST_ID], method=request.method)
        failure = Internal("the service failed; its log has the reason under this request id")
    if request.writer.output_size > 0:
        # The head of another answer is out: all that can be told is that it broke off.
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer broke off")
    response = problems.response(failure, request[context.REQUEST_ID])
    if isinstance(failure, TooLarge | UnsupportedMediaType | RequestTimeout):
        response.force_close()
    return response


# ---- who, what, may they ---------------------------------------------------------------------------------------------


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who is calling. Open routes ask nobody."""
    row = context.route(request)
    if row is None or row.action != "open":
        backend = request.app[context.AUTHENTICATOR]
        request[context.IDENTITY] = await backend.identify(request.headers.get("Authorization"))
    return await handler(request)


@web.middleware
async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check the request's shape, then whether its sender may do what the route does."""
    if request.match_info.http_exception is not None:
        raise request.match_info.http_exception
    row = context.route(request)
    if row is None:
        raise Forbidden("this route is in no table, so nobody may use it")
    settings = request.app[context.SETTINGS]
    target = _target(request, row)
    if row.body is None:
        _refuse_body(request)
        _check_may(request, row, target)
    else:
        if bodies.is_dear(request):
            # What a body has is said first, but not at any price to whoever may not send it.
            _check_may(request, row, target)
        body = await bodies.read(request, row.body, settings.max_body_bytes, settings.head_timeout_s)
        target = target._replace(body=body)
        _check_may(request, row, target)
    request[context.TARGET] = target
    return await handler(request)


def _check_may(request: web.Request, row: Route, target: Target) -> None:
    """Raise `Forbidden` where this service does not do what is asked, or not for its sender."""
    settings = request.app[context.SETTINGS]
    if target.scope is not None:
        context.check_followed(settings, target.scope)
    if row.writes and not settings.writes:
        raise Forbidden(
            "this service answers no writes; ask a central service, or set CONFIGSVC_WRITES=true", code="read_only"
        )
    action = row.action_for(target.query) if row.action_for else row.action
    decision = decide(request.get(context.IDENTITY), action, target.scope)
    if not decision.allowed:
        raise Forbidden(decision.reason)


def _target(request: web.Request, row: Route) -> Target:
    """What the request is about, from its path and query as they were sent."""
    if "#" in request.raw_path:
        raise InvalidRequest("the path has a '#'; write %23 for it", code="invalid_path")
    scope = key = version = None
    if "{ns}" in row.path:
        # Not from the router, which decodes and would take some spellings for others.
        parts = request.rel_url.raw_path.split("/", 5)
        scope = syntax.path_scope(parts[3], parts[4])
        if "{key}" in row.path:
            key = syntax.path_key(parts[5])
        elif "{version}" in row.path:
            version = syntax.path_version(parts[5])
    query = syntax.parse_query(request.rel_url.raw_query_string, row.query_readers, strict=row.method != "GET")
    for one in row.query:
        if one.required and one.name not in query:
            raise syntax.query_error(one.name, f"is missing: {one.description[0].lower()}{one.description[1:]}")
    headers = {one.name: _header(request, row, one) for one in row.headers if one.name in request.headers}
    target = Target(scope, key, query, headers, version=version)
    if row.check:
        row.check(target)
    return target


def _header(request: web.Request, row: Route, one: Parameter) -> Any:
    found = request.headers.getall(one.name)
    if row.writes and len(found) > 1:
        # Whichever was meant, the other one would be passed over without a word.
        raise InvalidRequest(f"{one.name} is given {len(found)} times; give it once", code="invalid_header")
    return one.read(found[0])


def _refuse_body(request: web.Request) -> None:
    """A body that nobody asked for: a small one is passed over, unread; nothing is ever unpacked."""
    if not request.body_exists:
        return
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("this route takes no body, and none with a Content-Encoding")
    if request.content_length is None or request.content_length > MAX_IGNORED_BODY:
        raise TooLarge("this route takes no body", limit=MAX_IGNORED_BODY)


MIDDLEWARES = (log_requests, answer_errors, authenticate, authorize)
