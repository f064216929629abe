"""A feed: frames since a position, whole snapshots, stored bodies and their tags."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.feed import RETRY_MS, Feed, Frame, Update, status_frame
from configsvc.core.model import Scope
from configsvc_client.protocol import Delta, Entry, EventId, Status, decode_delta
from configsvc_client.snapshot import Snapshot

SCOPE = Scope("shop", "prod")
EPOCH, OTHER = "0" * 12, "1" * 12


def entry(value: Any, revision: int = 1) -> Entry:
    return Entry(value=msgspec.Raw(json.dumps(value).encode()), revision=revision)


def start(revision: int = 1, epoch: str = EPOCH, **entries: Any) -> Snapshot:
    shown = {key: entry(value) for key, value in entries.items()}
    return Snapshot(namespace="shop", environment="prod", epoch=epoch, revision=revision, entries=shown)


def step(feed: Feed, revision: int, **values: Any) -> Update:
    delta = Delta(revision=revision, release=revision, set={key: entry(v, revision) for key, v in values.items()})
    update = Update(scope=SCOPE, snapshot=feed.snapshot.apply(delta), delta=delta)
    feed.publish(update)
    return update


def revisions(frames: list[Frame] | None) -> list[int] | None:
    return None if frames is None else [frame.id.revision for frame in frames if frame.id]


def test_frames_since_a_position() -> None:
    feed = Feed(start(5, a=1))
    step(feed, 7, a=2)
    step(feed, 9, b=3)
    assert revisions(feed.since(EventId(EPOCH, 4))) is None
    assert revisions(feed.since(EventId(EPOCH, 5))) == [7, 9]
    assert revisions(feed.since(EventId(EPOCH, 6))) == [7, 9]
    assert revisions(feed.since(EventId(EPOCH, 7))) == [9]
    assert revisions(feed.since(EventId(EPOCH, 9))) == []
    assert revisions(feed.since(EventId(EPOCH, 99))) == []
    assert feed.since(EventId(OTHER, 9)) is None
    assert "2 keys, 2 frames" in repr(feed)


def test_the_log_is_bounded_in_count() -> None:
    feed = Feed(start(), max_frames=2)
    for revision in (2, 3, 4):
        step(feed, revision, a=revision)
    assert feed.floor == 2
    assert feed.since(EventId(EPOCH, 1)) is None
    assert revisions(feed.since(EventId(EPOCH, 2))) == [3, 4]


def test_the_log_is_bounded_in_bytes_but_keeps_the_newest_frame() -> None:
    feed = Feed(start(), max_bytes=300)
    step(feed, 2, a="x")
    step(feed, 3, a="x" * 1000)
    assert revisions(feed.since(EventId(EPOCH, 2))) == [3]
    step(feed, 4, a="x")
    assert feed.floor == 3
    assert revisions(feed.since(EventId(EPOCH, 3))) == [4]


@pytest.mark.parametrize("update", ["baseline", "epoch"])
def test_another_story_ends_the_log(update: str) -> None:
    feed = Feed(start(1, a=1))
    step(feed, 2, a=2)
    if update == "baseline":
        feed.publish(Update(scope=SCOPE, snapshot=start(9, a=3), baseline=True))
        assert feed.since(EventId(EPOCH, 2)) is None
    else:
        feed.publish(Update(scope=SCOPE, snapshot=start(2, epoch=OTHER, a=3)))
        assert feed.since(EventId(OTHER, 1)) is None
    assert feed.since(EventId(feed.snapshot.epoch, feed.snapshot.revision)) == []


def test_a_step_that_was_published_before_makes_no_frame() -> None:
    feed = Feed(start())
    update = step(feed, 2, a=1)
    feed.publish(update)
    assert revisions(feed.since(EventId(EPOCH, 1))) == [2]


def test_a_snapshot_goes_on_from_what_is_proved() -> None:
    feed = Feed(start(5, b=1, a=2))
    frame = feed.snapshot_frame(8)
    assert frame.id == EventId(EPOCH, 8)
    assert frame.retry_ms == RETRY_MS
    data = json.loads(frame.data)
    assert data["revision"] == 5
    assert list(data["entries"]) == ["a", "b"]
    assert data["release"] is None
    # After a listing is due, some scopes are ahead of what is proved for all.
    assert feed.snapshot_frame(3).id == EventId(EPOCH, 5)


def test_frames_as_sse_and_websocket() -> None:
    frame = Frame("change", b'{"a":"\\n"}', id=EventId(EPOCH, 3))
    assert frame.sse == b'id: 000000000000:3\nevent: change\ndata: {"a":"\\n"}\n\n'
    assert frame.sse is frame.sse
    assert json.loads(frame.ws) == {"event": "change", "id": "000000000000:3", "data": {"a": "\n"}}
    assert frame.ws is frame.ws
    assert len(frame) == len(frame.data)
    status = status_frame(Status(revision=4, state="behind", since="now"), None, retry_ms=9)
    assert status.sse.startswith(b"event: status\nretry: 9\ndata: {")
    assert json.loads(status.ws)["id"] is None


def test_bodies_are_made_once_and_anew_after_a_change() -> None:
    feed = Feed(start(5, b=1, a={"x": None}))
    values = feed.body("values")
    assert feed.body("values") is values
    assert json.loads(values) == {
        "namespace": "shop", "environment": "prod", "epoch": EPOCH, "revision": 5, "release": None, "version": None,
        "values": {"a": {"x": None}, "b": 1},
    }  # fmt: skip
    assert json.loads(feed.body("entries"))["entries"]["b"] == {
        "value": 1, "version": None, "source": "stored", "revision": 1, "metadata": None,
    }  # fmt: skip
    step(feed, 6, b=2)
    assert json.loads(feed.body("values"))["values"]["b"] == 2


def test_one_key() -> None:
    feed = Feed(start(5, a={"x": None}))
    body = feed.entry_body("a")
    assert body is not None
    assert body is feed.entry_body("a")
    assert list(json.loads(body)) == ["key", "value", "version", "source", "revision", "metadata"]
    assert feed.raw_body("a") == b'{"x": null}'
    assert feed.entry_body("b") is None
    assert feed.raw_body("b") is None
    assert list(feed.keys()) == ["a"]


def test_a_tagged_etag_holds_a_hash_of_the_body() -> None:
    feed = Feed(start(5, a=1))
    assert feed.etag == f"{EPOCH}:5"
    feed.publish(Update(scope=SCOPE, snapshot=feed.snapshot, tag=True))
    tagged = feed.etag
    assert tagged.startswith(f"{EPOCH}:5-")
    assert len(tagged) == len(EPOCH) + 11
    other = Feed(start(5, a=2))
    other.publish(Update(scope=SCOPE, snapshot=other.snapshot, tag=True))
    assert other.etag != tagged
    feed.publish(Update(scope=SCOPE, snapshot=feed.snapshot))
    assert feed.etag == f"{EPOCH}:5"


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2), min_size=2), st.randoms())
def test_the_order_in_which_keys_came_shows_in_no_body(values: dict[str, int], random: Any) -> None:
    shuffled = list(values.items())
    random.shuffle(shuffled)
    one, other = Feed(start(5, **values)), Feed(start(5, **dict(shuffled)))
    assert one.body("values") == other.body("values")
    assert one.body("entries") == other.body("entries")
    assert one.snapshot_frame(5).data == other.snapshot_frame(5).data


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), min_size=1), max_size=12), st.integers(1, 6))
def test_frames_since_any_revision_lead_to_the_present(steps: list[dict[str, int]], most: int) -> None:
    feed = Feed(start(1), max_frames=most)
    states = {1: feed.snapshot}
    for revision, values in enumerate(steps, start=2):
        step(feed, revision, **values)
        states[revision] = feed.snapshot
    for revision, state in states.items():
        frames = feed.since(EventId(EPOCH, revision))
        assert (frames is None) == (revision < feed.floor)
        for frame in frames or ():
            state = state.apply(decode_delta(frame.data))
        if frames is not None:
            assert state.revision == feed.snapshot.revision
            assert msgspec.json.encode(state.entries) == msgspec.json.encode(feed.snapshot.entries)
