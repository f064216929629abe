"""The errors that a caller of the service can see, in one tree: code, HTTP status and fields of each.

    ConfigSvcError
    ├── InvalidRequest            400  bad_request, invalid_scope, invalid_key, invalid_path, invalid_query,
    │                                  invalid_header
    ├── Unauthenticated           401
    ├── Forbidden                 403  forbidden, outside_sidecar, read_only
    ├── NotFound                  404  scope_not_found, key_not_found, route_not_found
    ├── MethodNotAllowed          405
    ├── RequestTimeout            408
    ├── EpochChanged              409
    ├── TooLarge                  413
    ├── UnsupportedMediaType      415
    ├── HeadersTooLarge           431
    ├── Internal                  500
    └── Unavailable               503  starting, revision_not_reached, too_many_streams, draining

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


class TooLarge(ConfigSvcError):
    """The body is larger than this route takes."""

    status = 413
    codes: ClassVar[dict[str, str]] = {"body_too_large": "Body too large"}


class UnsupportedMediaType(ConfigSvcError):
    """The body's type or encoding is not one that this route takes."""

    status = 415
    codes: ClassVar[dict[str, str]] = {"unsupported_media_type": "Unsupported content type or encoding"}


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
        "draining": "Shutting down",
    }

    def __init__(self, detail: str, *, code: str | None = None, retry_after_s: int = 1, **fields: Any) -> None:
        super().__init__(detail, code=code, headers={"Retry-After": str(retry_after_s)}, **fields)


ALL: tuple[type[ConfigSvcError], ...] = (
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    EpochChanged,
    TooLarge,
    UnsupportedMediaType,
    HeadersTooLarge,
    Internal,
    Unavailable,
)
