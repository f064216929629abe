"""A watch's bytes to batches: any chunking, fragments, ends."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.etcd.ops import (
    Compacted,
    EtcdError,
    KeyValue,
    Oversized,
    Refused,
    Unavailable,
    WatchBatch,
    WatchEvent,
)
from configsvc.etcd.reader import WatchReader

HEADER = {"cluster_id": "1", "member_id": "2", "revision": "24", "raft_term": "2"}


def line(**result: Any) -> bytes:
    return json.dumps({"result": {"header": HEADER, **result}}, separators=(",", ":")).encode() + b"\n"


def put_event(revision: int, key: str = "YQ==", value: str | None = "dg==") -> dict[str, Any]:
    kv = {"key": key, "create_revision": "2", "mod_revision": str(revision), "version": "3"}
    return {"kv": kv if value is None else {**kv, "value": value}}


def delete_event(revision: int) -> dict[str, Any]:
    return {"type": "DELETE", "kv": {"key": "YQ==", "mod_revision": str(revision)}, "prev_kv": {"key": "YQ=="}}


def read(data: bytes, **bounds: int) -> list[WatchBatch | EtcdError]:
    reader = WatchReader(**bounds)
    return reader.feed(data) + reader.end()


def shown(items: list[WatchBatch | EtcdError]) -> list[Any]:
    return [(type(item), item.detail) if isinstance(item, EtcdError) else item for item in items]


STREAM = (
    line(created=True)
    + line(events=[put_event(24), delete_event(25)])
    + b"\n"
    + line(fragment=True, events=[put_event(26), put_event(27, "Yg==")])
    + line(fragment=True, events=[put_event(27, "Yw==", None)])
    + line(events=[put_event(27, "ZA==")])
    + line()
    + line(watch_id="-1")
    + line(watch_id="3")
    + line(canceled=True, compact_revision="30")
)


def test_each_kind() -> None:
    items = read(STREAM)
    batches = [item for item in items if isinstance(item, WatchBatch)]
    assert batches == items
    kinds = ["created", "events", "events", "progress", "progress", "canceled"]
    assert [batch.kind for batch in batches] == kinds
    assert batches[1].events == [
        WatchEvent(
            key=b"a",
            mod_revision=24,
            kv=KeyValue(key=b"a", value=b"v", create_revision=2, mod_revision=24, version=3),
        ),
        WatchEvent(key=b"a", mod_revision=25, kv=None),
    ]
    assert [(event.key, event.mod_revision) for event in batches[2].events] == [
        (b"a", 26),
        (b"b", 27),
        (b"c", 27),
        (b"d", 27),
    ]
    assert batches[2].events[2].kv is not None
    assert batches[2].events[2].kv.value == b""
    assert batches[3].header.revision == 24
    assert batches[5].compact_revision == 30


def test_canceled_without_a_revision_and_with_a_reason() -> None:
    header = {key: value for key, value in HEADER.items() if key != "revision"}
    result = {"header": header, "canceled": True, "compact_revision": "24"}
    (compacted,) = read(json.dumps({"result": result}).encode())
    assert isinstance(compacted, WatchBatch)
    assert (compacted.kind, compacted.header.revision, compacted.compact_revision) == ("canceled", 0, 24)
    (refused,) = read(line(watch_id="-1", created=True, canceled=True, cancel_reason="because"))
    assert isinstance(refused, WatchBatch)
    assert (refused.kind, refused.reason) == ("canceled", "because")


ENDS = [
    b"",
    b'{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","http_status":"x"}}',
    b'{"error":{"code":14,"message":"etcdserver: no leader"}}\n',
    b'{"error":{"code":1,"message":"grpc: the client connection is closing"}}\n',
    b'{"result":{"hea',
    b"<html>\n",
]


@given(st.sampled_from(ENDS), st.lists(st.integers(0, len(STREAM) + 200), max_size=40))
def test_any_chunking_gives_the_same_batches(end: bytes, cuts: list[int]) -> None:
    whole = STREAM + end
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    reader = WatchReader()
    items: list[WatchBatch | EtcdError] = []
    for start, stop in pairwise(places):
        items += reader.feed(whole[start:stop])
    assert shown(items + reader.end()) == shown(read(whole))


def test_byte_by_byte() -> None:
    reader = WatchReader()
    items = [item for byte in STREAM for item in reader.feed(bytes([byte]))]
    assert shown(items) == shown(read(STREAM))


REVISIONS = st.lists(st.lists(st.sampled_from(["YQ==", "Yg==", "Yw=="]), min_size=1, max_size=4), max_size=8)


@given(REVISIONS, st.data())
def test_fragments_are_joined_wherever_they_are_cut(revisions: list[list[str]], data: st.DataObject) -> None:
    events = [put_event(n + 2, key) for n, keys in enumerate(revisions) for key in keys]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(events) - 1)), max_size=5)))
    parts = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    text = b"".join(line(events=part, fragment=True) for part in parts[:-1]) + line(events=parts[-1])
    batches = read(text)
    if not events:
        assert [batch.kind for batch in batches if isinstance(batch, WatchBatch)] == ["progress"]
        return
    (batch,) = batches
    assert isinstance(batch, WatchBatch)
    assert batch == read(line(events=events))[0]


def test_fragments_without_their_last_are_nothing() -> None:
    assert read(line(fragment=True, events=[put_event(26)])) == []


@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_an_error_line_is_the_last(newline: bytes) -> None:
    error = b'{"error":{"code":14,"message":"etcdserver: no leader"}}' + newline
    items = read(line(created=True) + error)
    assert shown(items[1:]) == [(Unavailable, "etcdserver: no leader")]
    # And nothing comes after it.
    reader = WatchReader()
    if newline:
        assert len(reader.feed(error + line(created=True))) == 1
        assert reader.feed(line(created=True)) == []
        assert reader.end() == []


def test_error_lines_by_class() -> None:
    cases = [(16, "etcdserver: invalid auth token", Refused), (11, "required revision has been compacted", Compacted)]
    for code, message, kind in cases:
        (item,) = read(json.dumps({"error": {"grpc_code": code, "message": message}}).encode())
        assert isinstance(item, kind)


def test_lines_have_a_bound() -> None:
    size = len(line(created=True)) - 1
    assert [type(item) for item in read(line(created=True), max_line_bytes=size)] == [WatchBatch]
    for data in (line(created=True), line(created=True)[:-1]):
        (item,) = read(data, max_line_bytes=size - 1)
        assert isinstance(item, Oversized)
    reader = WatchReader(max_line_bytes=1000)
    assert reader.feed(b"x" * 1000) == []
    assert [type(item) for item in reader.feed(b"x")] == [Oversized]


def test_joined_fragments_have_a_bound() -> None:
    fragment = line(fragment=True, events=[put_event(26)])
    reader = WatchReader(max_joined_bytes=3 * len(fragment))
    assert reader.feed(fragment * 2) == []
    assert [type(item) for item in reader.feed(fragment * 2)] == [Oversized]
    assert reader.feed(line(events=[put_event(27)])) == []


def test_a_line_in_many_chunks_is_searched_once() -> None:
    """17 MB in pieces of 4 KB; searching it again for each would look at 35 GB."""
    reader = WatchReader(max_line_bytes=32 * 1024 * 1024)
    value = "QUFB" * (4 * 1024 * 1024)
    data = line(events=[put_event(24, value=value)])
    items = [item for at in range(0, len(data), 4096) for item in reader.feed(data[at : at + 4096])]
    assert isinstance(items[0], WatchBatch)
    assert items[0].events[0].kv is not None
    assert len(items[0].events[0].kv.value) == 12 * 1024 * 1024
