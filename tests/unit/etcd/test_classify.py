"""Every row of the error table, for reads and for writes."""

import pytest

from configsvc.etcd.classify import AuthOff, NotEtcd, TokenRefused, classify, classify_reason
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

UNANSWERED = (Unavailable, Ambiguous)
ROWS: list[tuple[int, int, str, type[EtcdError] | tuple[type[EtcdError], type[EtcdError]]]] = [
    (1, 408, "context canceled", UNANSWERED),
    (1, 499, "grpc: the client connection is closing", UNANSWERED),
    (3, 400, "etcdserver: key is not provided", Invalid),
    (3, 400, "etcdserver: too many operations in txn request", Invalid),
    (3, 400, "etcdserver: duplicate key given in txn request", Invalid),
    (3, 400, "etcdserver: request is too large", Invalid),
    (3, 400, "etcdserver: authentication failed, invalid user ID or password", Refused),
    (3, 400, "etcdserver: user name is empty", TokenRefused),
    (3, 400, "etcdserver: revision of auth store is old", TokenRefused),
    (5, 404, "etcdserver: requested lease not found", NotFound),
    (5, 404, "Not Found", NotEtcd),
    (7, 403, "etcdserver: permission denied", Refused),
    (8, 429, "grpc: received message larger than max (2097163 vs. 2097152)", Invalid),
    (8, 429, "etcdserver: mvcc: database space exceeded", NoSpace),
    (8, 429, "etcdserver: too many requests", Unavailable),
    (8, 429, "something new", UNANSWERED),
    (9, 400, "etcdserver: lease already exists", Invalid),
    (9, 412, "etcdserver: lease already exists", Invalid),
    (9, 400, "etcdserver: authentication is not enabled", AuthOff),
    (11, 400, "etcdserver: mvcc: required revision has been compacted", Compacted),
    (11, 400, "etcdserver: mvcc: required revision is a future revision", FutureRevision),
    (11, 400, "etcdserver: too large lease TTL", Invalid),
    (12, 501, "Method Not Allowed", Invalid),
    (16, 401, "etcdserver: invalid auth token", TokenRefused),
    (4, 504, "context deadline exceeded", UNANSWERED),
    (4, 504, "stream terminated by RST_STREAM with error code: CANCEL", UNANSWERED),
    (2, 500, "context deadline exceeded", UNANSWERED),
    (2, 500, "auth: revision in header is old", TokenRefused),
    (2, 500, "something else", UNANSWERED),
    (13, 500, "transport: something", UNANSWERED),
    (14, 503, "etcdserver: no leader", Unavailable),
    (14, 503, "etcdserver: leader changed", UNANSWERED),
    (14, 503, "etcdserver: request timed out", UNANSWERED),
    (14, 503, "etcdserver: request timed out, possibly due to previous leader failure", UNANSWERED),
    (14, 503, "etcdserver: server stopped", UNANSWERED),
    (14, 503, "error reading from server: EOF", UNANSWERED),
    (14, 503, "transport is closing", UNANSWERED),
    (15, 500, "etcdserver: corrupt cluster", (Corrupt, Ambiguous)),
]


@pytest.mark.parametrize(("code", "status", "message", "expected"), ROWS)
def test_rows(code: int, status: int, message: str, expected: type[EtcdError] | tuple[type[EtcdError], ...]) -> None:
    read, write = expected if isinstance(expected, tuple) else (expected, expected)
    assert classify(is_write=False, status=status, code=code, message=message) is read
    assert classify(is_write=True, status=status, code=code, message=message) is write


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (404, "404 page not found", NotEtcd),
        (405, "Method Not Allowed", NotEtcd),
        (302, "", NotEtcd),
        (400, "Client sent an HTTP request to an HTTPS server.", NotEtcd),
        (400, "CommonName of client sending a request against gateway will be ignored", Refused),
        (500, "oops", UNANSWERED),
        (502, "<html>", UNANSWERED),
        (503, "", UNANSWERED),
    ],
)
def test_answers_that_are_none_of_etcds(status: int, message: str, expected: type[EtcdError]) -> None:
    read, write = expected if isinstance(expected, tuple) else (expected, expected)
    assert classify(is_write=False, status=status, message=message) is read
    assert classify(is_write=True, status=status, message=message) is write


def test_transport() -> None:
    for is_write, unanswered in ((False, Unavailable), (True, Ambiguous)):
        assert classify(is_write=is_write, transport="not_sent") is Unreachable
        assert classify(is_write=is_write, transport="broken") is unanswered
        assert classify(is_write=is_write, transport="timeout") is unanswered


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", TokenRefused),
        ("rpc error: code = InvalidArgument desc = etcdserver: user name is empty", TokenRefused),
        ("rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old", TokenRefused),
        ("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token", TokenRefused),
        ("etcdserver: permission denied", TokenRefused),
        ("etcdserver: mvcc: required revision has been compacted", Compacted),
        ("etcdserver: no leader", Unavailable),
        ("", Unavailable),
    ],
)
def test_reasons_of_canceled_watches(reason: str, expected: type[EtcdError]) -> None:
    assert classify_reason(reason) is expected


def test_a_write_that_may_have_been_taken_is_never_called_unavailable() -> None:
    """Of all codes, only what etcd refuses before proposing is not `Ambiguous`."""
    safe = {message for code, _, message, expected in ROWS if expected is Unavailable}
    assert safe == {"etcdserver: too many requests", "etcdserver: no leader"}
