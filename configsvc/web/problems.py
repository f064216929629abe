"""Errors as RFC 9457 problem documents: the one place that turns ours, and aiohttp's, into an answer."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from configsvc.errors import (
    ConfigSvcError,
    HeadersTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    RequestTimeout,
    TooLarge,
    UnsupportedMediaType,
)

MEDIA_TYPE = "application/problem+json"
SERVER = "configsvc"
CHALLENGE = {"WWW-Authenticate": "Bearer"}
TYPE = "urn:configsvc:error:"


def document(error: ConfigSvcError, request_id: str) -> bytes:
    """The problem's body."""
    body: dict[str, Any] = {
        "type": TYPE + error.code,
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
    }
    return msgspec.json.encode(body | {name: value for name, value in error.fields.items() if name not in body})


def response(error: ConfigSvcError, request_id: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """The problem as an answer."""
    return web.Response(
        body=document(error, request_id),
        status=error.status,
        headers={
            **(CHALLENGE if error.status == 401 else {}),
            **error.headers,
            **(headers or {}),
            "Content-Type": MEDIA_TYPE,
            "Cache-Control": "no-store",
            "Server": SERVER,
            "X-Request-Id": request_id,
        },
    )


def of_http_exception(error: web.HTTPException, method: str) -> ConfigSvcError:
    """Our error for one of aiohttp's own, which carries none of its text."""
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = sorted(error.allowed_methods)
            return MethodNotAllowed(
                f"this path takes {', '.join(allowed)}, not {method[:20]}",
                headers={"Allow": ", ".join(allowed)},
                allowed=allowed,
            )
        case web.HTTPRequestEntityTooLarge():
            return TooLarge("the body is larger than this route takes")
        case web.HTTPUnsupportedMediaType():
            return UnsupportedMediaType("the body has a type that this route does not take")
        case web.HTTPRequestTimeout():
            return RequestTimeout("the request did not arrive in time")
        case web.HTTPRequestHeaderFieldsTooLarge() | web.HTTPRequestURITooLong():
            return HeadersTooLarge("the request line or a header is too long")
        case web.HTTPExpectationFailed():
            return InvalidRequest("the only expectation that may be asked for is 100-continue", code="invalid_header")
    return InvalidRequest(f"the request cannot be answered ({error.status})", code="bad_request")
