"""What an error means: one function from etcd's code and words, or the transport's, to a class of `ops`.

By gRPC code first; by message only where etcd uses one code for different things. Knows no JSON, no HTTP library and
no clock. The rows follow the error table of etcd's gateway, as observed on 3.4 to 3.7.
"""

from typing import Literal

from configsvc.etcd.ops import (
    Ambiguous,
    Compacted,
    Corrupt,
    EtcdError,
    FutureRevision,
    Invalid,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
    Unreachable,
)

Transport = Literal["not_sent", "broken", "timeout"]
"""`not_sent`: no connection was made. `broken`: reset or ended early. `timeout`: no answer in time."""

CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED = range(1, 8)
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = range(8, 15)
DATA_LOSS, UNAUTHENTICATED = 15, 16

_NAMES = {
    "PermissionDenied": PERMISSION_DENIED,
    "Unauthenticated": UNAUTHENTICATED,
    "InvalidArgument": INVALID_ARGUMENT,
    "OutOfRange": OUT_OF_RANGE,
    "Unavailable": UNAVAILABLE,
    "Canceled": CANCELLED,
    "DeadlineExceeded": DEADLINE_EXCEEDED,
}
_STALE_TOKEN = (
    "user name is empty",
    "invalid auth token",
    "revision of auth store is old",
    "auth: revision in header is old",
)


class TokenRefused(Refused):
    """The token is missing, expired or older than the auth store: a new one may help, once."""


class AuthOff(Invalid):
    """etcd does not use authentication; no token is needed."""


class NotEtcd(Unavailable):
    """Something answered that is not etcd's gateway; nothing was done."""


def classify(
    *,
    is_write: bool,
    status: int = 0,
    code: int | None = None,
    message: str = "",
    transport: Transport | None = None,
) -> type[EtcdError]:
    """Say which error an answer or a failure of the transport is.

    `code` is None where the body was no error of etcd's: then `status` decides. A write is `Ambiguous` wherever it
    may have been taken; `Unavailable` for a write means that it was not.
    """
    unanswered: type[EtcdError] = Ambiguous if is_write else Unavailable
    if transport:
        return Unreachable if transport == "not_sent" else unanswered
    if any(text in message for text in _STALE_TOKEN):
        return TokenRefused
    if code is None:
        return _by_status(status, message, unanswered)
    return _by_code(code, message, unanswered)


def classify_reason(reason: str) -> type[EtcdError]:
    """The same for the reason of a canceled watch, which carries a code's name in its text at best.

    3.5 calls every refusal PermissionDenied, an expired token too, so a new token is worth one try for all of them.
    """
    code = next((code for name, code in _NAMES.items() if f"code = {name} " in reason), UNAVAILABLE)
    if code in (PERMISSION_DENIED, UNAUTHENTICATED, INVALID_ARGUMENT):
        return TokenRefused
    if "permission denied" in reason:
        return TokenRefused
    if "has been compacted" in reason:
        return Compacted
    return _by_code(code, reason, Unavailable)


def _by_code(code: int, message: str, unanswered: type[EtcdError]) -> type[EtcdError]:
    match code:
        case 3 if "authentication failed" in message:
            return Refused
        case 5:
            # A path that the gateway does not know is answered with the same code, in JSON, from 3.6 on.
            return NotEtcd if message == "Not Found" else NotFound
        case 7:
            return Refused
        case 8:
            return _exhausted(message, unanswered)
        case 9 if "authentication is not enabled" in message:
            return AuthOff
        case 11:
            return _out_of_range(message)
        case 3 | 6 | 9 | 12:
            return Invalid
        case 14 if message.endswith("etcdserver: no leader"):
            return Unavailable
        case 15:
            return Corrupt if unanswered is Unavailable else unanswered
        case 16:
            return TokenRefused
    return unanswered


def _exhausted(message: str, unanswered: type[EtcdError]) -> type[EtcdError]:
    if "database space exceeded" in message:
        return NoSpace
    if "larger than max" in message or "too large" in message:
        return Invalid
    if "too many requests" in message:
        # Refused before it is proposed to the cluster.
        return Unavailable
    return unanswered


def _out_of_range(message: str) -> type[EtcdError]:
    if "compacted" in message:
        return Compacted
    return FutureRevision if "future revision" in message else Invalid


def _by_status(status: int, message: str, unanswered: type[EtcdError]) -> type[EtcdError]:
    if "CommonName" in message:
        # A client certificate with a name, while users are on: the gateway takes no such request.
        return Refused
    if 300 <= status < 500:
        return NotEtcd
    return unanswered
