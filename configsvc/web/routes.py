"""The table of contents: every route with its permission, what it reads, and all that it may answer.

Routing, authorization, the index and `/openapi.json` are made from `ROUTES`; to add a route is to add a row.
"""

from collections.abc import Callable, Mapping
from typing import Any

from configsvc.errors import HeadersTooLarge, InvalidRequest, RequestTimeout, TooLarge, UnsupportedMediaType
from configsvc.web import backup, bodies, history, manage, messages, ops, read, stream, syntax
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
AS_OF = _query(
    "release", "The values as this release left them: a number, @number or a label.", syntax.version, type="string"
)
LIMIT = _query("limit", "How many, cut to 500.", syntax.count(500), type="integer", minimum=1, default=50)
AFTER = _query("after", "The `next` of the page before.", syntax.number, type="integer", minimum=0)
FROM = _query("from", "The release to compare with.", syntax.version, type="string")
TO = _query("to", "The release that is compared; the head's without it.", syntax.version, type="string")
FROM_ENVIRONMENT = _query("from", "The environment to promote from.", syntax.environment, type="string")
NAMESPACE = _query("namespace", "Only this namespace.", syntax.environment, type="string")
YES = ("false", "true")
DRY_RUN = _choice("dry_run", "Only say what would happen.", *YES)
DIGEST = _query("digest", "Apply this plan and no other: the digest that a dry run answered.", syntax.text(100))
REASON = _query("reason", "Why; kept in the history.", syntax.text(1000), type="string", maxLength=1000)
FORCE = _query("force", "Why the guards do not apply this time.", syntax.text(1000), type="string", maxLength=1000)
BASE = _query("base_release", "Refuse unless the scope is at this release.", syntax.number, type="integer", minimum=0)
TTL = _query("ttl_s", "After so many seconds it ends by itself.", syntax.duration(1, 366 * 86_400), type="number")
OVERRIDES = _choice("overrides", "What becomes of pending overrides.", "refuse", "keep", "discard")
VERSION = _query("version", "The release's label, such as a tag or a commit.", syntax.label, type="string")
APPROVED_BY = _query("approved_by", "Who approved it; kept with the values.", syntax.text(200), type="string")
GIT_COMMIT = _query("git_commit", "The commit that it comes from.", syntax.text(200), type="string")
EMERGENCY = _choice("emergency", "An emergency: needs a reason, and that permission.", *YES)
ABOUT = (DRY_RUN, DIGEST, REASON, FORCE, BASE)
IF_MATCH = Parameter(
    name="If-Match",
    description="The ETag of a read: refuse if the scope has changed since.",
    schema={"type": "string"},
)
IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    description="Names the request: sent again within 24 h, it is answered as the first time.",
    schema={"type": "string", "maxLength": 255},
)
WRITE_HEADERS = (IF_MATCH, IDEMPOTENCY_KEY)
PAST_PROBLEMS = (401, 403, 404, 503)
WRITE_PROBLEMS = (401, 403, 404, 409, 412, 422, 503, 504)
NOT_MODIFIED = Answer(status=304, description="The reader has the current state.", headers=READ_HEADERS)


def _ok(description: str, *types: Any, media: str = JSON, headers: tuple[str, ...] = ()) -> Answer:
    return Answer(status=200, description=description, content={media: types or None}, headers=headers)


def _emergency(query: Mapping[str, Any]) -> str:
    return "emergency" if query.get("emergency") == "true" else "deploy"


WRITTEN = (_ok("What was written, or with `dry_run=true` would be.", messages.Written, messages.Planned),)
OWN_KEYS = (_ok("Patterns of keys.", messages.OwnKeys),)
FROZEN = (_ok("Until when deploys are refused.", messages.Frozen),)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/v1/config/{ns}/{env}",
        handler=read.read_scope,
        action="read",
        summary="All values of a scope",
        query=(VIEW, MIN_REVISION, WAIT, AS_OF),
        headers=(IF_NONE_MATCH,),
        answers=(
            _ok(
                "The scope; with `release=` its stored values as that release left them.",
                messages.ScopeValues,
                messages.ScopeEntries,
                messages.PastValues,
                headers=READ_HEADERS,
            ),
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
        method="POST",
        path="/v1/deploy/{ns}/{env}",
        handler=manage.deploy,
        action="deploy",
        summary="Make a scope what the body says",
        query=(VERSION, OVERRIDES, GIT_COMMIT, APPROVED_BY, *ABOUT),
        headers=WRITE_HEADERS,
        body=bodies.STATE,
        answers=WRITTEN,
        problems=WRITE_PROBLEMS,
        writes=True,
    ),
    Route(
        method="PATCH",
        path="/v1/config/{ns}/{env}",
        handler=manage.change,
        action="deploy",
        action_for=_emergency,
        summary="Set and delete some keys in one release",
        query=(EMERGENCY, TTL, *ABOUT),
        headers=WRITE_HEADERS,
        body=bodies.PATCH,
        answers=WRITTEN,
        problems=WRITE_PROBLEMS,
        writes=True,
    ),
    Route(
        method="PUT",
        path="/v1/emergency/{ns}/{env}/{key}",
        handler=manage.emergency,
        action="emergency",
        summary="Set one key at once, past review",
        query=(TTL, *ABOUT),
        headers=WRITE_HEADERS,
        body=bodies.VALUE,
        answers=WRITTEN,
        problems=WRITE_PROBLEMS,
        writes=True,
    ),
    Route(
        method="DELETE",
        path="/v1/config/{ns}/{env}/{key}",
        handler=manage.delete,
        action="deploy",
        summary="Delete one key",
        query=ABOUT,
        headers=WRITE_HEADERS,
        answers=WRITTEN,
        problems=WRITE_PROBLEMS,
        writes=True,
    ),
    Route(
        method="POST",
        path="/v1/rollback/{ns}/{env}/{version}",
        handler=manage.rollback,
        action="deploy",
        summary="Make a scope what it was, as a new release",
        query=(OVERRIDES, *ABOUT),
        headers=WRITE_HEADERS,
        answers=WRITTEN,
        problems=WRITE_PROBLEMS,
        writes=True,
    ),
    Route(
        method="POST",
        path="/v1/promote/{ns}/{env}",
        handler=manage.promote,
        action="deploy",
        summary="Make a scope what was deployed to another environment",
        query=(FROM_ENVIRONMENT, VERSION, OVERRIDES, APPROVED_BY, *ABOUT),
        headers=WRITE_HEADERS,
        answers=WRITTEN,
        problems=WRITE_PROBLEMS,
        writes=True,
    ),
    Route(
        method="GET",
        path="/v1/own-keys/{ns}/{env}",
        handler=manage.own_keys,
        action="read",
        summary="The keys that a promotion leaves as they are",
        answers=OWN_KEYS,
        problems=PAST_PROBLEMS,
    ),
    Route(
        method="PUT",
        path="/v1/own-keys/{ns}/{env}",
        handler=manage.set_own_keys,
        action="deploy",
        summary="Name the keys that differ by environment on purpose",
        body=bodies.PATTERNS,
        answers=OWN_KEYS,
        problems=(401, 403, 409, 503, 504),
        writes=True,
    ),
    Route(
        method="GET",
        path="/v1/versions/{ns}/{env}",
        handler=history.versions,
        action="read",
        summary="Releases, newest first",
        query=(LIMIT, AFTER),
        answers=(_ok("A page of them.", messages.Releases),),
        problems=PAST_PROBLEMS,
    ),
    Route(
        method="GET",
        path="/v1/versions/{ns}/{env}/{version}",
        handler=history.version,
        action="read",
        summary="One release with what it changed",
        answers=(_ok("The release.", messages.ReleaseDetails),),
        problems=PAST_PROBLEMS,
    ),
    Route(
        method="GET",
        path="/v1/diff/{ns}/{env}",
        handler=history.diff,
        action="read",
        summary="What differs between two releases",
        query=(FROM, TO),
        answers=(_ok("Key by key.", messages.Difference),),
        problems=PAST_PROBLEMS,
    ),
    Route(
        method="GET",
        path="/v1/history/{ns}/{env}/{key}",
        handler=history.key,
        action="read",
        summary="Who set one key, newest first",
        query=(LIMIT, AFTER),
        answers=(_ok("A page of releases.", messages.KeyHistory),),
        problems=PAST_PROBLEMS,
    ),
    Route(
        method="GET",
        path="/v1/drift/{ns}/{env}",
        handler=history.drift,
        action="read",
        summary="What differs from the newest release",
        answers=(_ok("Keys changed by hand, and pending overrides.", messages.Drift),),
        problems=PAST_PROBLEMS,
    ),
    Route(
        method="PUT",
        path="/v1/freeze/{ns}/{env}",
        handler=manage.freeze,
        action="deploy",
        summary="Refuse deploys for a time",
        query=(REASON, TTL),
        answers=FROZEN,
        problems=(401, 403, 409, 503, 504),
        writes=True,
    ),
    Route(
        method="DELETE",
        path="/v1/freeze/{ns}/{env}",
        handler=manage.unfreeze,
        action="deploy",
        summary="Take deploys again",
        answers=FROZEN,
        problems=(401, 403, 409, 503, 504),
        writes=True,
    ),
    Route(
        method="POST",
        path="/v1/repair/{ns}/{env}",
        handler=manage.repair,
        action="admin",
        summary="Make a release of what is there, where a scope's history cannot be used",
        query=(REASON,),
        answers=WRITTEN,
        problems=WRITE_PROBLEMS,
        writes=True,
    ),
    Route(
        method="POST",
        path="/v1/backup",
        handler=backup.save,
        action="admin",
        summary="Everything, or one namespace, at one revision, as a file",
        query=(NAMESPACE,),
        answers=(_ok("The file: gzip of JSON lines, checksummed.", media="application/gzip"),),
        problems=(401, 403, 503),
    ),
    Route(
        method="POST",
        path="/v1/restore",
        handler=backup.restore,
        action="admin",
        summary="Make each scope what a backup has, as a new release",
        query=(NAMESPACE, DRY_RUN, REASON, FORCE),
        body=bodies.BACKUP,
        answers=(_ok("What became of each scope, or would.", messages.Restored),),
        problems=WRITE_PROBLEMS,
        writes=True,
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
