"""Requests as etcd wants them, answers as etcd gives them, in the forms of every version."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.etcd import wire
from configsvc.etcd.ops import Compare, Delete, Header, KeyValue, MemberStatus, Put, Range, RangeResult, Txn

HEADER = {"cluster_id": "14841639068965178418", "member_id": "10276657743932975437", "revision": "5", "raft_term": "2"}
OUR_HEADER = Header(cluster_id="14841639068965178418", member_id="10276657743932975437", revision=5, raft_term=2)


def loaded(body: bytes) -> Any:
    return json.loads(body)


def test_a_plain_range_says_nothing_more() -> None:
    assert loaded(wire.encode_range(Range(key=b"foo"))) == {"key": "Zm9v"}


def test_a_range_with_everything() -> None:
    request = Range(
        key=b"\xfb\xff",
        range_end=b"\0",
        revision=2**53 + 1,
        limit=5000,
        serializable=True,
        keys_only=True,
        count_only=True,
        sort_target="MOD",
        sort_order="DESCEND",
    )
    assert loaded(wire.encode_range(request)) == {
        "key": "+/8=",
        "range_end": "AA==",
        "revision": "9007199254740993",
        "limit": "5000",
        "serializable": True,
        "keys_only": True,
        "count_only": True,
        "sort_target": "MOD",
        "sort_order": "DESCEND",
    }


def test_a_txn() -> None:
    txn = Txn(
        compare=(
            Compare(key=b"k", target="MOD", value=7),
            Compare(key=b"k", target="CREATE", value=0, result="GREATER"),
            Compare(key=b"k", target="VERSION", value=1, result="LESS"),
            Compare(key=b"k", target="VALUE", value=b"v", result="NOT_EQUAL"),
            Compare(key=b"k", target="LEASE", value=9),
        ),
        success=(Put(key=b"k", value=b"", lease=9), Delete(key=b"k"), Delete(key=b"k", range_end=b"l")),
        failure=(Range(key=b"k"), Put(key=b"k", value=b"v")),
    )
    assert loaded(wire.encode_txn(txn)) == {
        "compare": [
            {"key": "aw==", "target": "MOD", "result": "EQUAL", "mod_revision": "7"},
            {"key": "aw==", "target": "CREATE", "result": "GREATER", "create_revision": "0"},
            {"key": "aw==", "target": "VERSION", "result": "LESS", "version": "1"},
            {"key": "aw==", "target": "VALUE", "result": "NOT_EQUAL", "value": "dg=="},
            {"key": "aw==", "target": "LEASE", "result": "EQUAL", "lease": "9"},
        ],
        "success": [
            {"request_put": {"key": "aw==", "value": "", "lease": "9"}},
            {"request_delete_range": {"key": "aw=="}},
            {"request_delete_range": {"key": "aw==", "range_end": "bA=="}},
        ],
        "failure": [{"request_range": {"key": "aw=="}}, {"request_put": {"key": "aw==", "value": "dg=="}}],
    }


def test_a_watch() -> None:
    assert loaded(wire.encode_watch(b"/config/", 24)) == {
        "create_request": {
            "key": "L2NvbmZpZy8=",
            "range_end": "L2NvbmZpZzA=",
            "start_revision": "24",
            "progress_notify": True,
            "fragment": True,
        }
    }


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_range_answer_with_and_without_spaces(separators: tuple[str, str]) -> None:
    kv = {"key": "L2E=", "create_revision": "3", "mod_revision": "9007199254740993", "version": "4", "value": "+/8="}
    body = json.dumps({"header": HEADER, "kvs": [kv], "more": True, "count": "8"}, separators=separators).encode()
    assert wire.decode_range(body) == RangeResult(
        header=OUR_HEADER,
        kvs=[KeyValue(key=b"/a", value=b"\xfb\xff", create_revision=3, mod_revision=2**53 + 1, version=4)],
        count=8,
        more=True,
    )


def test_zero_values_are_left_out() -> None:
    assert wire.decode_range(json.dumps({"header": HEADER}).encode()) == RangeResult(header=OUR_HEADER)
    kv = {"key": "YQ==", "create_revision": "2", "mod_revision": "2", "version": "1", "lease": "77"}
    result = wire.decode_range(json.dumps({"header": HEADER, "kvs": [kv], "count": "1"}).encode())
    assert (result.kvs[0].value, result.kvs[0].lease) == (b"", 77)
    txn = wire.decode_txn(json.dumps({"header": HEADER}).encode())
    assert (txn.succeeded, txn.responses) == (False, [])


def test_a_txn_answer() -> None:
    put: dict[str, Any] = {"response_put": {"header": {"revision": "5"}}}
    deleted: dict[str, Any] = {"response_delete_range": {"header": {"revision": "5"}, "deleted": "1"}}
    read = {"response_range": {"header": {"revision": "5"}, "kvs": [{"key": "YQ=="}], "count": "1"}}
    body = json.dumps({"header": HEADER, "succeeded": True, "responses": [put, deleted, read]}).encode()
    txn = wire.decode_txn(body)
    assert txn.succeeded
    assert txn.responses == [None, None, RangeResult(header=OUR_HEADER, kvs=[KeyValue(key=b"a")], count=1)]


def test_small_answers() -> None:
    status = {"header": HEADER, "version": "3.6.16", "dbSize": "20480", "leader": "10276657743932975437"}
    assert wire.decode_status(json.dumps({**status, "raftTerm": "2"}).encode()) == MemberStatus(
        version="3.6.16", leader="10276657743932975437", db_size=20480
    )
    leaderless = {"header": HEADER, "version": "3.5.1", "errors": ["etcdserver: no leader"]}
    assert wire.decode_status(json.dumps(leaderless).encode()).leader == "0"
    assert wire.decode_lease(json.dumps({"header": HEADER, "ID": "7", "TTL": "60"}).encode()) == (7, 60)
    assert wire.decode_keepalive(b'{"result":{"header":{},"ID":"7","TTL":"60"}}\n') == 60
    assert wire.decode_keepalive(b'{"result":{"header":{},"ID":"7"}}\n') == 0
    assert wire.decode_token(b'{"header":{},"token":"abc.1"}') == "abc.1"
    assert wire.decode_version(b'{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}') == "3.7.3"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b"\xff", b'{"header":7}', b'{"header":{"revision":"x"}}']
)
def test_what_is_no_answer(body: bytes) -> None:
    for decode in (wire.decode_range, wire.decode_txn, wire.decode_status, wire.decode_version):
        with pytest.raises(wire.Malformed):
            decode(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_or_malformed(body: bytes) -> None:
    code, message = wire.decode_error(body)
    assert code is None or isinstance(code, int)
    assert isinstance(message, str)
    with pytest.raises(wire.Malformed) as raised:
        wire.decode_range(body)
    assert len(str(raised.value)) < 1000


@given(st.binary(min_size=1), st.binary(), st.integers(0, 2**63 - 1))
def test_keys_values_and_revisions_survive(key: bytes, value: bytes, revision: int) -> None:
    """What we send as a put, etcd's answer to a range holds in the same words."""
    sent = loaded(wire.encode_txn(Txn(success=(Put(key=key, value=value),))))["success"][0]["request_put"]
    body = json.dumps({"header": HEADER, "kvs": [{**sent, "mod_revision": str(revision)}], "count": "1"}).encode()
    assert wire.decode_range(body).kvs == [KeyValue(key=key, value=value, mod_revision=revision)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": "M", "code": 14, "message": "M"}, (14, "M")),
        ({"code": 14, "message": "M"}, (14, "M")),
        ({"code": 5, "message": "Not Found", "details": []}, (5, "Not Found")),
        ({"error": {"grpc_code": 14, "http_code": 503, "message": "M", "http_status": "x"}}, (14, "M")),
        ({"error": {"code": 14, "message": "M"}}, (14, "M")),
        ({"error": "only", "code": 2}, (2, "only")),
    ],
)
def test_both_shapes_of_errors(body: Any, expected: tuple[int, str]) -> None:
    assert wire.decode_error(json.dumps(body).encode()) == expected
    assert wire.decode_error(json.dumps(body, indent=1).encode() + b"\n") == expected


@pytest.mark.parametrize("body", [b"404 page not found\n", b"Method Not Allowed\n", b"", b"{}", b"\xff\xfe", b"[1]"])
def test_errors_that_are_none_of_etcds(body: bytes) -> None:
    assert wire.decode_error(body) == (None, body.decode("utf-8", "replace").strip())
