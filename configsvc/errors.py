"""The errors that a caller of the service can see, in one tree: code, HTTP status and fields of each.

    ConfigSvcError
    ├── InvalidRequest            400  bad_request, invalid_scope, invalid_key, invalid_path, invalid_query,
    │                                  invalid_header, invalid_body, invalid_values
    ├── Unauthenticated           401
    ├── Forbidden                 403  forbidden, outside_sidecar, read_only
    ├── NotFound                  404  scope_not_found, key_not_found, route_not_found, release_not_found,
    │                                  release_pruned
    ├── MethodNotAllowed          405
    ├── RequestTimeout            408
    ├── EpochChanged              409
    ├── Conflict                  409  base_moved, plan_changed, write_conflict, override_pending, version_exists,
    │                                  scope_frozen
    ├── PreconditionFailed        412
    ├── TooLarge                  413
    ├── UnsupportedMediaType      415
    ├── Unprocessable             422  blast_radius, source_unfit, idempotency_mismatch, too_many_overrides
    ├── HeadersTooLarge           431
    ├── Internal                  500
    ├── Unavailable               503  starting, revision_not_reached, too_many_streams, too_many_bodies, draining,
    │                                  store_unavailable, store_full
    └── OutcomeUnknown            504

A code is stable and is what programs decide by; `detail` is for people: what was wrong, where, and what would be right.
Knows nothing of HTTP servers: `status` is the hint that `web/middleware.py` turns into an answer.
"""

from typing import Any, ClassVar


class ConfigSvcError(Exception):
    """Base of all: `code` is stable, `detail` a sentence for people, `fields` go into the problem body."""

    status: ClassVar[int] = 500
    codes: ClassVar[dict[str, str]] = {}
    """Every code of the class with its title; the first is the default."""

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(detail)
        self.code = code or next(iter(self.codes))
        if self.code not in self.codes:
            raise ValueError(f"{type(self).__name__} has no code {self.code!r}")
        self.title = self.codes[self.code]
        self.detail = detail
        self.headers = headers or {}
        self.fields = fields


class InvalidRequest(ConfigSvcError):
    """The request's shape is wrong; sending it again unchanged cannot work."""

    status = 400
    codes: ClassVar[dict[str, str]] = {
        "bad_request": "Malformed request",
        "invalid_scope": "Invalid namespace or environment",
        "invalid_key": "Invalid key",
        "invalid_path": "Invalid path",
        "invalid_query": "Invalid query parameter",
        "invalid_header": "Invalid header",
        "invalid_body": "Invalid body",
        "invalid_values": "Keys or values that cannot be stored",
    }


class Unauthenticated(ConfigSvcError):
    """No identity, or one that is not valid any more."""

    status = 401
    codes: ClassVar[dict[str, str]] = {"unauthenticated": "Authentication required"}


class Forbidden(ConfigSvcError):
    """The identity is known and may not do this."""

    status = 403
    codes: ClassVar[dict[str, str]] = {
        "forbidden": "Not allowed",
        "outside_sidecar": "This sidecar does not follow that scope",
        "read_only": "This service does not accept writes",
    }


class NotFound(ConfigSvcError):
    """Nothing is there under that name; `near` lists names that are."""

    status = 404
    codes: ClassVar[dict[str, str]] = {
        "route_not_found": "No such route",
        "scope_not_found": "No such scope",
        "key_not_found": "No such key",
        "release_not_found": "No such release",
        "release_pruned": "The release is not kept any more",
    }


class MethodNotAllowed(ConfigSvcError):
    """The route exists, with other methods."""

    status = 405
    codes: ClassVar[dict[str, str]] = {"method_not_allowed": "Method not allowed"}


class RequestTimeout(ConfigSvcError):
    """The request did not arrive in time."""

    status = 408
    codes: ClassVar[dict[str, str]] = {"request_timeout": "Request not received in time"}


class EpochChanged(ConfigSvcError):
    """A revision of another history was named; revisions of two histories do not compare."""

    status = 409
    codes: ClassVar[dict[str, str]] = {"epoch_changed": "The history has changed"}


class Conflict(ConfigSvcError):
    """The scope is not as the write took it to be, or must not be changed so now; `changes` say what happened since."""

    status = 409
    codes: ClassVar[dict[str, str]] = {
        "base_moved": "The scope has another release",
        "plan_changed": "The plan would be another one now",
        "write_conflict": "Another write came first",
        "override_pending": "A pending override would be changed",
        "version_exists": "The version label stands for another state",
        "scope_frozen": "The scope is frozen",
    }


class PreconditionFailed(ConfigSvcError):
    """`If-Match` does not hold: the scope has changed since."""

    status = 412
    codes: ClassVar[dict[str, str]] = {"precondition_failed": "The scope has changed"}


class TooLarge(ConfigSvcError):
    """The body is larger than this route takes."""

    status = 413
    codes: ClassVar[dict[str, str]] = {"body_too_large": "Body too large"}


class UnsupportedMediaType(ConfigSvcError):
    """The body's type or encoding is not one that this route takes."""

    status = 415
    codes: ClassVar[dict[str, str]] = {"unsupported_media_type": "Unsupported content type or encoding"}


class Unprocessable(ConfigSvcError):
    """The write is well formed and not allowed as it is; `problems` list everything that is wrong with it."""

    status = 422
    codes: ClassVar[dict[str, str]] = {
        "blast_radius": "The change looks like an accident",
        "source_unfit": "The source is not ready to be promoted",
        "idempotency_mismatch": "The Idempotency-Key belongs to another request",
        "too_many_overrides": "More overrides would be pending than a scope can have",
    }


class HeadersTooLarge(ConfigSvcError):
    """The request line or a header is over the limit."""

    status = 431
    codes: ClassVar[dict[str, str]] = {"headers_too_large": "Request head too large"}


class Internal(ConfigSvcError):
    """A defect of the service; the log has it under the request id."""

    status = 500
    codes: ClassVar[dict[str, str]] = {"internal": "Internal error"}


class Unavailable(ConfigSvcError):
    """Not now; `Retry-After` says when to ask again."""

    status = 503
    codes: ClassVar[dict[str, str]] = {
        "starting": "No data yet",
        "revision_not_reached": "Revision not reached in time",
        "too_many_streams": "Too many streams",
        "too_many_bodies": "Too many large bodies at once",
        "draining": "Shutting down",
        "store_unavailable": "etcd does not answer",
        "store_full": "etcd's space is used up",
    }

    def __init__(self, detail: str, *, code: str | None = None, retry_after_s: int = 1, **fields: Any) -> None:
        super().__init__(detail, code=code, headers={"Retry-After": str(retry_after_s)}, **fields)


class OutcomeUnknown(ConfigSvcError):
    """Whether the write took place is not known; the same request with its `Idempotency-Key` settles it."""

    status = 504
    codes: ClassVar[dict[str, str]] = {"outcome_unknown": "It is not known whether the write took place"}


ALL: tuple[type[ConfigSvcError], ...] = (
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    EpochChanged,
    Conflict,
    PreconditionFailed,
    TooLarge,
    UnsupportedMediaType,
    Unprocessable,
    HeadersTooLarge,
    Internal,
    Unavailable,
    OutcomeUnknown,
)
