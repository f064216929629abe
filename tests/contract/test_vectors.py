"""Our own encoder and decoder, held to the golden vectors like any other client (`README.md` says what they are)."""

import json
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from configsvc.core.feed import RETRY_MS, Feed, Update, status_frame
from configsvc.core.model import Scope
from configsvc_client.errors import LinkError
from configsvc_client.options import resolve
from configsvc_client.protocol import Delta, Entry, EventId, Status, decode_delta, parse_event_id
from configsvc_client.session import Session
from configsvc_client.snapshot import Snapshot, same_value
from configsvc_client.sse import Decoder, Event
from tests.contract.build import files

VECTORS = Path(__file__).parent / "vectors"
STREAMS = sorted(path.stem for path in (VECTORS / "streams").glob("*.sse"))
EPOCH = "0123456789ab"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_bytes())


def stream(name: str) -> bytes:
    return (VECTORS / "streams" / f"{name}.sse").read_bytes()


def decode(data: bytes, step: int) -> list[Event]:
    decoder = Decoder()
    return [event for start in range(0, len(data), step) for event in decoder.feed(data[start : start + step])]


def test_the_files_are_those_that_were_reviewed() -> None:
    assert {str(path.relative_to(VECTORS).as_posix()): path.read_bytes() for path in VECTORS.rglob("*.*")} == files()


# ---- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", load("sse.json"), ids=lambda case: case["what"])
@pytest.mark.parametrize("step", [1, 2, 3, 10_000])
def test_event_stream_corner_cases(case: dict[str, Any], step: int) -> None:
    data = case["stream"].encode()
    seen = [{**msgspec.structs.asdict(event), "data": event.data.decode()} for event in decode(data, step)]
    expected = [{key: value for key, value in event.items() if key != "last_event_id"} for event in case["events"]]
    assert seen == expected
    if step == 1:
        # Fed byte by byte, the decoder shows the id that went with each event.
        assert last_event_ids(data) == [event["last_event_id"] for event in case["events"]]


def last_event_ids(data: bytes) -> list[str]:
    decoder = Decoder()
    return [decoder.last_event_id for byte in data for _ in decoder.feed(bytes([byte]))]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_stream_leads_to_its_state_and_position(name: str, step: int) -> None:
    expected = load(f"streams/{name}.json")
    options = resolve({}, url="http://a,http://b", namespace=expected["namespace"], environment=expected["environment"])
    session = Session(options, Random(1), 0.0)
    session.opened(0.0)
    connection = "open"
    service_state = session.service_state
    for event in decode(stream(name), step):
        try:
            session.receive(event, 0.0)
        except LinkError as error:
            connection, service_state = "leave", session.service_state
            session.lost(error, 0.0)
            break
        service_state = session.service_state
    values = session.snapshot and {key: entry.value for key, entry in session.snapshot.entries.items()}
    resume = session.attempt().last_event_id
    assert same_value(values, expected["values"])
    assert {
        "position": session.position and str(session.position),
        "connection": connection,
        "service_state": service_state or "unknown",
        "resume_with": resume and str(resume),
    } == {key: expected[key] for key in ("position", "connection", "service_state", "resume_with")}


@pytest.mark.parametrize("case", load("ids.json")["valid"], ids=lambda case: case["text"])
def test_valid_ids(case: dict[str, Any]) -> None:
    id = EventId(case["epoch"], case["revision"])
    assert parse_event_id(case["text"]) == id
    assert str(id) == case["text"]


@pytest.mark.parametrize("text", load("ids.json")["invalid"])
def test_invalid_ids(text: str) -> None:
    assert parse_event_id(text) is None


@pytest.mark.parametrize("case", load("entries.json")["valid"], ids=lambda case: case["json"])
def test_valid_entries(case: dict[str, Any]) -> None:
    entry = decode_delta(f'{{"revision":1,"set":{{"a":{case["json"]}}}}}').set["a"]
    assert same_value(entry.value, case["value"])
    assert (entry.version, entry.source, entry.revision) == (case["version"], case["source"], case["revision"])


@pytest.mark.parametrize("text", load("entries.json")["invalid"])
def test_invalid_entries(text: str) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_delta(f'{{"revision":1,"set":{{"a":{text}}}}}')


# ---- encoding --------------------------------------------------------------------------------------------------------


def test_the_services_frames_are_the_bytes_of_the_vectors() -> None:
    entries = {
        "db.host": Entry(value=msgspec.Raw(b'"db1"'), version="v1", revision=5),
        "db.port": Entry(value=msgspec.Raw(b"5432"), source="schema", revision=3),
    }
    start = Snapshot(
        namespace="payments",
        environment="production",
        epoch=EPOCH,
        revision=5,
        release=1,
        version="v1",
        entries=entries,
    )
    feed = Feed(start)
    delta = Delta(
        revision=8,
        release=2,
        version="v2",
        set={"db.host": Entry(value=msgspec.Raw(b'"db2"'), version="v2", revision=8)},
    )
    first = feed.snapshot_frame(5)
    feed.publish(Update(scope=Scope("payments", "production"), snapshot=start.apply(delta), delta=delta))
    (frame,) = feed.since(EventId(EPOCH, 6)) or []

    def beat(revision: int, state: str = "live", retry: int | None = None) -> bytes:
        status = Status(revision=revision, state=state, since="2026-01-01T00:00:00.000Z")
        return status_frame(status, EventId(EPOCH, revision), retry).sse

    assert RETRY_MS == 2000
    assert first.sse + beat(6) + frame.sse + beat(11) == stream("snapshot-change-heartbeat")
    assert first.sse + beat(6, "draining", 500) == stream("draining")
    starting = status_frame(Status(revision=0, state="starting", since="2026-01-01T00:00:00.000Z"), None)
    assert starting.sse == stream("starting")
