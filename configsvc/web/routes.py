"""The table of contents: every route with its permission, what it reads, and all that it may answer.

Routing, authorization, the index and `/openapi.json` are made from `ROUTES`; to add a route is to add a row.
"""

from collections.abc import Callable
from typing import Any

from configsvc.errors import HeadersTooLarge, InvalidRequest, RequestTimeout, TooLarge, UnsupportedMediaType
from configsvc.web import messages, ops, read, stream, syntax
from configsvc.web.route import Answer, Parameter, Route

ANY_ROUTE = tuple(
    error.status for error in (InvalidRequest, RequestTimeout, TooLarge, UnsupportedMediaType, HeadersTooLarge)
)
"""Statuses of problems that every route may answer."""
READ_HEADERS = ("ETag", "Cache-Control", "Vary", "Configsvc-Revision", "Configsvc-Staleness", "Configsvc-Source")
JSON = "application/json"


def _query(name: str, description: str, read: Callable[[str], Any] = str, **schema: Any) -> Parameter:
    return Parameter(name=name, description=description, schema=schema, read=read)


def _choice(name: str, description: str, *words: str) -> Parameter:
    return _query(name, description, syntax.choice(*words), enum=words)


MIN_REVISION = _query(
    "min_revision",
    "Wait until this replica has reached this revision, given as a number or as epoch:revision.",
    syntax.awaited,
    type="string",
    pattern="^([0-9a-f]{12}:(0|[1-9][0-9]{0,18})|[0-9]{1,19})$",
)
WAIT = _query(
    "wait_s", "How many seconds to wait for it; cut to 30.", syntax.wait_s, type="number", minimum=0, default=5
)
VIEW = _choice("view", "Plain values, or entries with where each comes from.", "values", "entries")
RAW = _choice("raw", "Answer the bare value.", "false", "true")
LAST_EVENT_ID = _query("last_event_id", "Resume after this event; `Last-Event-ID` wins over it.", type="string")
IF_NONE_MATCH = Parameter(
    name="If-None-Match",
    description="Entity tags that the reader has; 304 when one is current.",
    schema={"type": "string"},
)
LAST_EVENT_ID_HEADER = Parameter(
    name="Last-Event-ID",
    description="Resume after this event; one that makes no sense means a snapshot.",
    schema={"type": "string"},
)
NOT_MODIFIED = Answer(status=304, description="The reader has the current state.", headers=READ_HEADERS)


def _ok(description: str, *types: Any, media: str = JSON, headers: tuple[str, ...] = ()) -> Answer:
    return Answer(status=200, description=description, content={media: types or None}, headers=headers)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/v1/config/{ns}/{env}",
        handler=read.read_scope,
        action="read",
        summary="All values of a scope",
        query=(VIEW, MIN_REVISION, WAIT),
        headers=(IF_NONE_MATCH,),
        answers=(
            _ok("The scope.", messages.ScopeValues, messages.ScopeEntries, headers=READ_HEADERS),
            NOT_MODIFIED,
        ),
        problems=(401, 403, 404, 409, 503),
    ),
    Route(
        method="GET",
        path="/v1/config/{ns}/{env}/{key}",
        handler=read.read_key,
        action="read",
        summary="One key",
        query=(RAW, MIN_REVISION, WAIT),
        headers=(IF_NONE_MATCH,),
        answers=(
            _ok("The entry, or with `raw=true` its value: any JSON.", messages.KeyEntry, Any, headers=READ_HEADERS),
            NOT_MODIFIED,
        ),
        problems=(401, 403, 404, 409, 503),
    ),
    Route(
        method="GET",
        path="/v1/watch/{ns}/{env}",
        handler=stream.watch,
        action="read",
        summary="A scope and its changes as Server-Sent Events",
        query=(LAST_EVENT_ID,),
        headers=(LAST_EVENT_ID_HEADER,),
        answers=(_ok("Events `snapshot`, `change` and `status`.", media="text/event-stream"),),
        problems=(401, 403, 503),
        lasting=True,
    ),
    Route(
        method="GET",
        path="/v1/ws/{ns}/{env}",
        handler=stream.websocket,
        action="read",
        summary="The same events over WebSocket",
        query=(LAST_EVENT_ID,),
        headers=(LAST_EVENT_ID_HEADER,),
        answers=(Answer(status=101, description="Text messages `{event, id, data}`."),),
        problems=(401, 403, 503),
        lasting=True,
    ),
    Route(
        method="GET",
        path="/v1/self",
        handler=ops.self,
        action="self",
        summary="Who the caller and this service are",
        answers=(_ok("Identity and scopes.", messages.Self),),
        problems=(401, 403),
    ),
    Route(
        method="GET",
        path="/health",
        handler=ops.health,
        action="open",
        summary="Every check, and the worst of them",
        answers=(
            _ok("Reads are served, perhaps from older data.", messages.HealthReport),
            Answer(status=503, description="Reads are not served.", content={JSON: (messages.HealthReport,)}),
        ),
    ),
    Route(
        method="GET",
        path="/health/live",
        handler=ops.live,
        action="open",
        summary="Whether the process works at all",
        answers=(_ok("It does.", messages.Alive),),
    ),
    Route(
        method="GET",
        path="/health/ready",
        handler=ops.ready,
        action="open",
        summary="Whether traffic should come here",
        answers=(
            _ok("It should.", messages.HealthReport),
            Answer(status=503, description="Not now.", content={JSON: (messages.HealthReport,)}),
        ),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=ops.metrics,
        action="open",
        summary="Metrics for Prometheus",
        answers=(_ok("Prometheus' text format.", media="text/plain"),),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=ops.openapi,
        action="open",
        summary="This description",
        answers=(_ok("OpenAPI 3.1.", dict[str, Any]),),
    ),
    Route(
        method="GET",
        path="/",
        handler=ops.index,
        action="open",
        summary="The routes",
        answers=(_ok("What there is to ask for.", messages.Index),),
    ),
)
