"""etcd's JSON: requests to bytes, answers and errors to `ops` types.

Pure: no socket, no clock. What the gateway does that plain JSON does not tell: 64-bit numbers are strings, zero values
are left out, keys and values are base64, unknown request fields pass in silence (so requests are built from typed
values only), errors have two shapes and some are no JSON at all.
"""

from typing import Any

import msgspec

from configsvc.etcd.ops import (
    Compare,
    Delete,
    Header,
    KeyValue,
    MemberStatus,
    Put,
    Range,
    RangeResult,
    Txn,
    TxnResult,
    prefix_end,
)

_COMPARE_FIELD = {
    "MOD": "mod_revision",
    "CREATE": "create_revision",
    "VERSION": "version",
    "VALUE": "value",
    "LEASE": "lease",
}


# ---- requests --------------------------------------------------------------------------------------------------------
# `msgspec` writes bytes as standard base64 with padding, the only form that 3.5 takes.


def encode_range(request: Range) -> bytes:
    """The body for `/v3/kv/range`."""
    return msgspec.json.encode(_range(request))


def encode_txn(txn: Txn) -> bytes:
    """The body for `/v3/kv/txn`; see `limits.check_txn`."""
    return msgspec.json.encode(
        {
            "compare": [_compare(compare) for compare in txn.compare],
            "success": [_operation(operation) for operation in txn.success],
            "failure": [_operation(operation) for operation in txn.failure],
        }
    )


def encode_watch(prefix: bytes, start_revision: int) -> bytes:
    """The body for `/v3/watch`: one watch on everything below `prefix`."""
    create = {
        "key": prefix,
        "range_end": prefix_end(prefix),
        "start_revision": str(start_revision),
        "progress_notify": True,
        "fragment": True,
    }
    return msgspec.json.encode({"create_request": create})


def encode(fields: dict[str, Any]) -> bytes:
    """The body of a small request; 64-bit numbers have to be passed as strings."""
    return msgspec.json.encode(fields)


def _range(request: Range) -> dict[str, Any]:
    fields: dict[str, Any] = {"key": request.key}
    if request.range_end:
        fields["range_end"] = request.range_end
    if request.revision:
        fields["revision"] = str(request.revision)
    if request.limit:
        fields["limit"] = str(request.limit)
    for name in ("serializable", "keys_only", "count_only"):
        if getattr(request, name):
            fields[name] = True
    if request.sort_order != "NONE":
        fields["sort_order"] = request.sort_order
        fields["sort_target"] = request.sort_target
    return fields


def _compare(compare: Compare) -> dict[str, Any]:
    value = compare.value if isinstance(compare.value, bytes) else str(compare.value)
    return {
        "key": compare.key,
        "target": compare.target,
        "result": compare.result,
        _COMPARE_FIELD[compare.target]: value,
    }


def _operation(operation: Put | Delete | Range) -> dict[str, Any]:
    if isinstance(operation, Put):
        fields: dict[str, Any] = {"key": operation.key, "value": operation.value}
        if operation.lease:
            fields["lease"] = str(operation.lease)
        return {"request_put": fields}
    if isinstance(operation, Delete):
        fields = {"key": operation.key}
        if operation.range_end:
            fields["range_end"] = operation.range_end
        return {"request_delete_range": fields}
    return {"request_range": _range(operation)}


# ---- answers ---------------------------------------------------------------------------------------------------------
# `strict=False` lets msgspec read numbers from strings; the structs of `ops` are decoded without a step between.


class _ResponseRange(msgspec.Struct, frozen=True, kw_only=True):
    header: Header = Header()
    kvs: list[KeyValue] = []
    count: int = 0
    more: bool = False


class _Response(msgspec.Struct, frozen=True, kw_only=True):
    response_range: _ResponseRange | None = None


class _TxnAnswer(msgspec.Struct, frozen=True, kw_only=True):
    header: Header
    succeeded: bool = False
    responses: list[_Response] = []


class _Status(msgspec.Struct, frozen=True, kw_only=True):
    header: Header
    version: str
    leader: str = "0"
    db_size: int = msgspec.field(default=0, name="dbSize")
    db_used: int = msgspec.field(default=0, name="dbSizeInUse")
    quota: int = msgspec.field(default=0, name="dbSizeQuota")
    errors: list[str] = []


class _Lease(msgspec.Struct, frozen=True, kw_only=True):
    lease_id: int = msgspec.field(default=0, name="ID")
    ttl: int = msgspec.field(default=0, name="TTL")


class _KeepAlive(msgspec.Struct, frozen=True, kw_only=True):
    result: _Lease


class _Token(msgspec.Struct, frozen=True, kw_only=True):
    token: str


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    etcdserver: str


class Malformed(ValueError):
    """The body is not what etcd answers; the text shows its beginning."""


_RANGE = msgspec.json.Decoder(RangeResult, strict=False)
_TXN = msgspec.json.Decoder(_TxnAnswer, strict=False)
_STATUS = msgspec.json.Decoder(_Status, strict=False)
_LEASE = msgspec.json.Decoder(_Lease, strict=False)
_KEEPALIVE = msgspec.json.Decoder(_KeepAlive, strict=False)
_TOKEN = msgspec.json.Decoder(_Token, strict=False)
_VERSION = msgspec.json.Decoder(_Version, strict=False)


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"{error}: {shown(body)}") from error


def shown(body: bytes) -> str:
    """The beginning of a body, for a message."""
    text = body[:200].decode("utf-8", "replace").strip()
    return f"{text!r}{'…' if len(body) > 200 else ''}"


def decode_range(body: bytes) -> RangeResult:
    """The answer of `/v3/kv/range`. Raises `Malformed`, like all below."""
    result: RangeResult = _decode(_RANGE, body)
    return result


def decode_txn(body: bytes) -> TxnResult:
    """The answer of `/v3/kv/txn`."""
    answer: _TxnAnswer = _decode(_TXN, body)
    return TxnResult(
        header=answer.header,
        succeeded=answer.succeeded,
        responses=[_range_result(response.response_range, answer.header) for response in answer.responses],
    )


def _range_result(answer: _ResponseRange | None, header: Header) -> RangeResult | None:
    if answer is None:
        return None
    return RangeResult(header=header, kvs=answer.kvs, count=answer.count, more=answer.more)


def decode_status(body: bytes) -> MemberStatus:
    """The answer of `/v3/maintenance/status`."""
    answer: _Status = _decode(_STATUS, body)
    return MemberStatus(
        version=answer.version,
        leader=answer.leader,
        db_size=answer.db_size,
        db_used=answer.db_used,
        quota=answer.quota,
        errors=answer.errors,
    )


def decode_lease(body: bytes) -> tuple[int, int]:
    """The answer of `/v3/lease/grant`: id and TTL in seconds."""
    answer: _Lease = _decode(_LEASE, body)
    return answer.lease_id, answer.ttl


def decode_keepalive(body: bytes) -> int:
    """The TTL in the answer of `/v3/lease/keepalive`, one line; 0 for a lease that etcd does not know."""
    answer: _KeepAlive = _decode(_KEEPALIVE, body)
    return answer.result.ttl


def decode_token(body: bytes) -> str:
    """The token in the answer of `/v3/auth/authenticate`."""
    answer: _Token = _decode(_TOKEN, body)
    return answer.token


def decode_version(body: bytes) -> str:
    """etcd's version in the answer of `GET /version`."""
    answer: _Version = _decode(_VERSION, body)
    return answer.etcdserver


# ---- errors ----------------------------------------------------------------------------------------------------------


class StreamError(msgspec.Struct, frozen=True, kw_only=True):
    """The error of a stream's line, in the words of 3.5 or of later versions."""

    grpc_code: int | None = None
    http_code: int = 0
    code: int | None = None
    message: str = ""


class _ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    error: StreamError | str | None = None
    code: int | None = None
    message: str = ""


_ERROR = msgspec.json.Decoder(_ErrorBody, strict=False)


def decode_error(body: bytes) -> tuple[int | None, str]:
    """gRPC code and message of an error's body, whichever shape it has; (None, its text) if it is not etcd's."""
    try:
        answer = _ERROR.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, body[:300].decode("utf-8", "replace").strip()
    if isinstance(answer.error, StreamError):
        return stream_error(answer.error)
    if answer.code is None:
        return None, body[:300].decode("utf-8", "replace").strip()
    return answer.code, answer.message or answer.error or ""


def stream_error(error: StreamError) -> tuple[int | None, str]:
    """gRPC code and message."""
    return error.grpc_code if error.grpc_code is not None else error.code, error.message
