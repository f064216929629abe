"""The table of contents: every route with its permission, what it reads, and all that it may answer.

Routing, authorization, the index and `/openapi.json` are made from `ROUTES`; to add a route is to add a row.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from configsvc.core.model import key_write_problem
from configsvc.errors import HeadersTooLarge, InvalidRequest, RequestTimeout, TooLarge, UnsupportedMediaType
from configsvc.web import backup, bodies, history, manage, messages, ops, read, stream, syntax
from configsvc.web.route import Answer, Parameter, Route, Target
from configsvc.web.syntax import LABEL_PATTERN, NAME_SCHEMA, VERSION_SCHEMA

ANY_ROUTE = tuple(
    error.status for error in (InvalidRequest, RequestTimeout, TooLarge, UnsupportedMediaType, HeadersTooLarge)
)
"""Statuses of problems that every route may answer."""
READ_HEADERS = ("ETag", "Cache-Control", "Vary", "Configsvc-Revision", "Configsvc-Staleness", "Configsvc-Source")
JSON = "application/json"


def _query(name: str, description: str, read: Callable[[str], Any] = str, **schema: Any) -> Parameter:
    return Parameter(name=name, description=description, schema=schema, read=read)


def _text(name: str, description: str, most: int) -> Parameter:
    return _query(name, description, syntax.text(most), type="string", minLength=1, maxLength=most)


def _version(name: str, description: str) -> Parameter:
    return _query(name, description, syntax.version, **VERSION_SCHEMA)


def _name(name: str, description: str) -> Parameter:
    return _query(name, description, syntax.name, **NAME_SCHEMA)


def _seconds(name: str, description: str, least: float, most: float) -> Parameter:
    return _query(name, description, syntax.duration(least, most), type="number", minimum=least, maximum=most)


def _must(parameter: Parameter) -> Parameter:
    return msgspec.structs.replace(parameter, required=True)


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
AS_OF = _version("release", "The values as this release left them: a number, @number or a label.")
LIMIT = _query("limit", "How many, cut to 500.", syntax.count(500), type="integer", minimum=1, default=50)
AFTER = _query("after", "The `next` of the page before.", syntax.number, type="integer", minimum=0, maximum=10**18 - 1)
FROM = _version("from", "The release to compare with.")
TO = _version("to", "The release that is compared; the head's without it.")
FROM_ENVIRONMENT = _name("from", "The environment to promote from.")
NAMESPACE = _name("namespace", "Only this namespace.")
YES = ("false", "true")
DRY_RUN = _choice("dry_run", "Only say what would happen.", *YES)
DIGEST = _text("digest", "Apply this plan and no other: the digest that a dry run answered.", 100)
REASON = _text("reason", "Why; kept in the history.", 1000)
FORCE = _text("force", "Why the guards do not apply this time.", 1000)
BASE = _query(
    "base_release",
    "Refuse unless the scope is at this release.",
    syntax.number,
    type="integer",
    minimum=0,
    maximum=10**18 - 1,
)
TTL = _seconds("ttl_s", "After so many seconds it ends by itself.", 1, 366 * 86_400)
OVERRIDES = _choice("overrides", "What becomes of pending overrides.", "refuse", "keep", "discard")
VERSION = _query(
    "version", "The release's label, such as a tag or a commit.", syntax.label, type="string", pattern=LABEL_PATTERN
)
APPROVED_BY = _text("approved_by", "Who approved it; kept with the values.", 200)
GIT_COMMIT = _text("git_commit", "The commit that it comes from.", 200)
EMERGENCY = _choice("emergency", "An emergency: needs a reason, and that permission.", *YES)
ABOUT = (DRY_RUN, DIGEST, REASON, FORCE, BASE)
IF_MATCH = Parameter(
    name="If-Match",
    description="The ETag of a read: refuse if the scope has changed since.",
    schema={
        "type": "string",
        "pattern": '^(\\*|(W/)?"[0-9a-f]{12}:[0-9]{1,18}(-[0-9a-f]{8})?")$',
        "examples": ['"0f9a3c52d1be:1042"', "*"],
    },
    read=syntax.if_match,
)
IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    description="Names the request: sent again within 24 h, it is answered as the first time.",
    schema={"type": "string", "pattern": "^[!-~]{1,255}$"},
    read=syntax.idempotency_key,
)
WRITE_HEADERS = (IF_MATCH, IDEMPOTENCY_KEY)
PAST_PROBLEMS = (401, 403, 404, 503)
WRITE_PROBLEMS = (401, 403, 404, 409, 412, 422, 503, 504)
NOT_MODIFIED = Answer(status=304, description="The reader has the current state.", headers=READ_HEADERS)


def _ok(description: str, *types: Any, media: str = JSON, headers: tuple[str, ...] = ()) -> Answer:
    return Answer(status=200, description=description, content={media: types or None}, headers=headers)


def _emergency(query: Mapping[str, Any]) -> str:
    return "emergency" if query.get("emergency") == "true" else "deploy"


def _has_reason(target: Target) -> None:
    if target.query.get("emergency") == "true" and "reason" not in target.query:
        raise syntax.query_error("reason", "is missing; say why this is an emergency")


def _may_be_written(target: Target) -> None:
    if problem := key_write_problem(target.key or ""):
        raise InvalidRequest(f"the key {problem}", code="invalid_key", parameter="key")


def _is_another(target: Target) -> None:
    if target.scope is not None and target.query["from"] == target.scope.environment:
        raise syntax.query_error("from", f"is {target.scope.environment} itself; name another environment")


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
                messages.PastEntries,
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
        answers=(
            _ok(
                "Events `snapshot`, `change` and `status`.",
                media="text/event-stream",
                headers=("Configsvc-Staleness",),
            ),
        ),
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
        answers=(
            Answer(status=101, description="Text messages `{event, id, data}`.", headers=("Configsvc-Staleness",)),
        ),
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
        check=_has_reason,
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
        check=_may_be_written,
        query=(TTL, DRY_RUN, DIGEST, _must(REASON), FORCE, BASE),
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
        check=_is_another,
        query=(_must(FROM_ENVIRONMENT), VERSION, OVERRIDES, APPROVED_BY, *ABOUT),
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
        query=(_must(FROM), TO),
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
        query=(_must(REASON), _must(TTL)),
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
