"""Writes the vectors from readable sources: `python -m tests.contract.build`.

The files are the contract, not this program: what it writes is reviewed and committed, and `test_vectors.py` fails when
the two differ. The stream bytes are written out by hand on purpose, because an encoder cannot vouch for itself.
"""

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors"

E1, E2 = "0123456789ab", "ba9876543210"
SNAPSHOT_5 = (
    f"id: {E1}:5\nevent: snapshot\nretry: 2000\n"
    f'data: {{"namespace":"payments","environment":"production","epoch":"{E1}","revision":5,"release":1,"version":"v1",'
    '"entries":{"db.host":{"value":"db1","version":"v1","source":"stored","revision":5,"metadata":null},'
    '"db.port":{"value":5432,"version":null,"source":"schema","revision":3,"metadata":null}}}\n\n'
)
EMPTY_5 = (
    f'id: {E1}:5\nevent: snapshot\ndata: {{"namespace":"payments","environment":"production","epoch":"{E1}",'
    '"revision":5,"entries":{}}\n\n'
)


def change(revision: int, set: str = "{}", deleted: str = "[]", epoch: str = E1, more: str = "") -> str:
    return (
        f"id: {epoch}:{revision}\nevent: change\n"
        f'data: {{"revision":{revision},"release":2,"version":"v2","set":{set},"deleted":{deleted}{more}}}\n\n'
    )


def status(
    revision: int, state: str = "live", *, id: bool = True, epoch: str = E1, retry: int | None = None, more: str = ""
) -> str:
    head = f"id: {epoch}:{revision}\n" if id else ""
    pause = f"retry: {retry}\n" if retry is not None else ""
    data = f'{{"revision":{revision},"state":"{state}","since":"2026-01-01T00:00:00.000Z"{more}}}'
    return f"{head}event: status\n{pause}data: {data}\n\n"


def end(
    values: dict[str, Any] | None,
    position: str | None,
    ends: str = "open",
    state: str = "live",
    resume: str | None = "",
) -> dict[str, Any]:
    return {
        "values": values,
        "position": position,
        "connection": ends,
        "service_state": state,
        "resume_with": position if resume == "" else resume,
    }


PORTS = {"db.host": "db1", "db.port": 5432}

STREAMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "snapshot-change-heartbeat": (
        "The ordinary life of a stream; a heartbeat moves the position although nothing changed.",
        SNAPSHOT_5
        + status(6)
        + change(8, '{"db.host":{"value":"db2","version":"v2","source":"stored","revision":8,"metadata":null}}')
        + status(11),
        end({"db.host": "db2", "db.port": 5432}, f"{E1}:11"),
    ),
    "delete-and-set-in-one-change": (
        "One change is one release: all of it at once.",
        SNAPSHOT_5 + change(7, '{"new":{"value":null},"db.port":{"value":1}}', '["db.host"]'),
        end({"db.port": 1, "new": None}, f"{E1}:7"),
    ),
    "values-of-every-kind": (
        "Values are any JSON; integers are exact within 64 bits, null is a value, types that look alike are not.",
        EMPTY_5
        + change(
            6,
            '{"null":{"value":null},"true":{"value":true},"one":{"value":1},"float":{"value":1.0},'
            '"max":{"value":18446744073709551615},"min":{"value":-9223372036854775808},"empty":{"value":""},'
            '"text":{"value":"\\u2028\\u0085\\"\\\\ é 😀"},"raw":{"value":"\u2028\u0085"},'
            '"list":{"value":[1,[true,null]]},"object":{"value":{"a":{"b":[]}}}}',
        ),
        end(
            {
                "null": None,
                "true": True,
                "one": 1,
                "float": 1.0,
                "max": 2**64 - 1,
                "min": -(2**63),
                "empty": "",
                "text": '\u2028\u0085"\\ é 😀',
                "raw": "\u2028\u0085",
                "list": [1, [True, None]],
                "object": {"a": {"b": []}},
            },
            f"{E1}:6",
        ),
    ),
    "keys-are-literal": (
        "A key's dots, spaces and letters mean nothing; no key is a path.",
        EMPTY_5 + change(6, '{"a.b":{"value":1},"a":{"value":2},"ключ с пробелом":{"value":3},"a:b=c":{"value":4}}'),
        end({"a.b": 1, "a": 2, "ключ с пробелом": 3, "a:b=c": 4}, f"{E1}:6"),
    ),
    "unknown-things-are-ignored": (
        "A newer service may send events, fields, states and SSE fields that a client does not know.",
        SNAPSHOT_5
        + "event: advice\ndata: not even json\n\n"
        + "note: x\n: a comment\n"
        + change(7, '{"a":{"value":1,"origin":"x"}}', more=',"why":{"deep":[1]}'),
        end({**PORTS, "a": 1}, f"{E1}:7"),
    ),
    "repeated-change-is-ignored": (
        "Overlapping replays change nothing; what is not above the state's revision was seen.",
        SNAPSHOT_5 + change(7, '{"a":{"value":1}}') + change(7, '{"a":{"value":2}}') + change(6, "{}", '["db.host"]'),
        end({**PORTS, "a": 1}, f"{E1}:7"),
    ),
    "snapshot-id-is-what-was-proved": (
        "A snapshot's id may be above its revision; resuming uses the id.",
        SNAPSHOT_5.replace(f"id: {E1}:5", f"id: {E1}:9"),
        end(PORTS, f"{E1}:9"),
    ),
    "snapshot-replaces-everything": (
        "A second snapshot is the whole truth, also where its revision is lower but its id is not.",
        EMPTY_5 + change(8, '{"gone":{"value":1}}') + SNAPSHOT_5.replace(f"id: {E1}:5", f"id: {E1}:9"),
        end(PORTS, f"{E1}:9"),
    ),
    "starting": (
        "A service without data yet says so; there is no state and no position.",
        status(0, "starting", id=False),
        end(None, None, state="starting"),
    ),
    "behind": (
        "A service behind the client's position says so without an id; state and position stay.",
        SNAPSHOT_5 + status(9) + status(3, "behind", id=False),
        end(PORTS, f"{E1}:9", state="behind"),
    ),
    "status-below-the-position": (
        "A position never steps back, whatever a heartbeat says; such a service is behind.",
        SNAPSHOT_5 + status(9) + status(7),
        end(PORTS, f"{E1}:9", state="behind"),
    ),
    "stale": (
        "A stale service is believed about its state, and about being stale.",
        SNAPSHOT_5 + status(6, "stale"),
        end(PORTS, f"{E1}:6", state="stale"),
    ),
    "stale-for-so-long": (
        "A status that is not live says how long ago the state was proved to be the newest.",
        SNAPSHOT_5 + status(6, "stale", more=',"staleness_s":420.812'),
        end(PORTS, f"{E1}:6", state="stale"),
    ),
    "applying": (
        "While a release is being applied the state stands still.",
        SNAPSHOT_5
        + f'id: {E1}:6\nevent: status\ndata: {{"revision":6,"state":"live","since":"2026-01-01T00:00:00.000Z",'
        '"applying":{"release":2,"since":"2026-01-01T00:00:01.000Z"}}\n\n',
        end(PORTS, f"{E1}:6"),
    ),
    "draining": (
        "Leave for the next service after `retry` milliseconds and jitter; go on from the same position.",
        SNAPSHOT_5 + status(6, "draining", retry=500),
        end(PORTS, f"{E1}:6", "leave", "draining"),
    ),
    "new-epoch": (
        "Another history: its snapshot replaces the state although its revisions are lower.",
        SNAPSHOT_5 + status(900) + SNAPSHOT_5.replace(E1, E2).replace("db1", "db9"),
        end({"db.host": "db9", "db.port": 5432}, f"{E2}:5"),
    ),
    "epoch-that-was-left": (
        "A snapshot of a history that was left is refused; another service is tried first.",
        SNAPSHOT_5 + SNAPSHOT_5.replace(E1, E2).replace("db1", "db9") + SNAPSHOT_5.replace(":5\n", ":8\n"),
        end({"db.host": "db9", "db.port": 5432}, f"{E2}:5", "leave", "live"),
    ),
    "older-snapshot": (
        "A snapshot of the same history below the position is refused; another service is tried first.",
        SNAPSHOT_5 + status(9) + EMPTY_5,
        end(PORTS, f"{E1}:9", "leave", "live"),
    ),
    "torn-event": (
        "What no empty line ended did not happen.",
        SNAPSHOT_5 + change(7, '{"a":{"value":1}}')[:-1],
        end(PORTS, f"{E1}:5"),
    ),
    "garbage-data": (
        "Data that does not read: keep the state, connect again and ask for a snapshot.",
        SNAPSHOT_5 + f"id: {E1}:7\nevent: change\ndata: {{oops\n\n",
        end(PORTS, f"{E1}:5", "leave", "live", None),
    ),
    "change-before-snapshot": (
        "A change to nothing makes no sense.",
        change(7, '{"a":{"value":1}}'),
        end(None, None, "leave", "unknown", None),
    ),
    "change-of-another-epoch": (
        "A change belongs to the history of its id, which is not the state's.",
        SNAPSHOT_5 + change(7, '{"a":{"value":1}}', epoch=E2),
        end(PORTS, f"{E1}:5", "leave", "live", None),
    ),
    "status-of-another-epoch": (
        "A heartbeat of another history without its snapshot makes no sense.",
        SNAPSHOT_5 + status(7, epoch=E2),
        end(PORTS, f"{E1}:5", "leave", "live", None),
    ),
    "another-scope": (
        "A snapshot of a scope that was not asked for makes no sense.",
        EMPTY_5.replace("payments", "invoices"),
        end(None, None, "leave", "unknown", None),
    ),
    "carriage-returns": (
        "Lines may end with CR LF or CR as well.",
        SNAPSHOT_5.replace("\n", "\r\n") + change(7, '{"a":{"value":1}}').replace("\n", "\r"),
        end({**PORTS, "a": 1}, f"{E1}:7"),
    ),
    "byte-order-mark": ("A byte order mark at the start is no content.", "\ufeff" + SNAPSHOT_5, end(PORTS, f"{E1}:5")),
    "data-in-several-lines": (
        "JSON over several data fields is one text with line ends.",
        SNAPSHOT_5 + f'id: {E1}:7\nevent: change\ndata: {{"revision":7,\ndata:"set":{{"a":{{"value":1}}}}}}\n\n',
        end({**PORTS, "a": 1}, f"{E1}:7"),
    ),
}

SSE: list[tuple[str, str, list[dict[str, Any]]]] = [
    (
        "one space after the colon is no data",
        "data:a\n\ndata: b\n\ndata:  c\n\n",
        [{"data": "a"}, {"data": "b"}, {"data": " c"}],
    ),
    ("a field without a colon has an empty value", "data\n\ndata\ndata\n\n", [{"data": ""}, {"data": "\n"}]),
    ("no data, no event", "event: x\nid: 7\n\ndata: a\n\n", [{"data": "a", "last_event_id": "7"}]),
    (
        "an id stays for the events after it",
        "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
        [
            {"data": "a", "id": "1", "last_event_id": "1"},
            {"data": "b", "last_event_id": "1"},
            {"data": "c", "id": "", "last_event_id": ""},
        ],
    ),
    ("an id with NUL is ignored", "id: 1\n\nid: 2\u00003\ndata: a\n\n", [{"data": "a", "last_event_id": "1"}]),
    (
        "retry is digits only",
        "retry: 15\ndata: a\n\nretry: 1s\ndata: b\n\nretry: -1\ndata: c\n\n",
        [{"data": "a", "retry": 15}, {"data": "b"}, {"data": "c"}],
    ),
    ("comments and unknown fields", ": x\n:\ndata: a\nfoo: bar\n\n", [{"data": "a"}]),
    ("line ends mixed", "data: a\r\ndata: b\rdata: c\n\r\n", [{"data": "a\nb\nc"}]),
    (
        "an event name is for one event",
        "event: x\ndata: a\n\ndata: b\n\n",
        [{"event": "x", "data": "a"}, {"data": "b"}],
    ),
    (
        "the last of a repeated field counts",
        "event: x\nevent: y\nid: 1\nid: 2\ndata: a\n\n",
        [{"event": "y", "data": "a", "id": "2", "last_event_id": "2"}],
    ),
    ("names are case sensitive", "Data: a\nDATA: b\ndata: c\n\n", [{"data": "c"}]),
    (
        "unicode line ends are text",
        "data: a\u2028b\u2029c\u0085d\u000be\u000cf\n\n",
        [{"data": "a\u2028b\u2029c\u0085d\u000be\u000cf"}],
    ),
    ("an event needs its empty line", "data: a\n\ndata: b\n", [{"data": "a"}]),
    (
        "a byte order mark counts only at the start",
        "\ufeffdata: a\n\n\ufeffdata: b\ndata: c\n\n",
        [{"data": "a"}, {"data": "c"}],
    ),
]

IDS = {
    "valid": [
        {"text": f"{E1}:0", "epoch": E1, "revision": 0},
        {"text": f"{E1}:7", "epoch": E1, "revision": 7},
        {"text": f"{E1}:9223372036854775807", "epoch": E1, "revision": 2**63 - 1},
    ],
    "invalid": [
        "",
        "7",
        f"{E1}",
        f"{E1}:",
        f":{7}",
        f"{E1}:-1",
        f"{E1}:+1",
        f"{E1}:07",
        f"{E1}:1.0",
        f"{E1}: 7",
        f" {E1}:7",
        f"{E1}:7\n",
        f"{E1.upper()}:7",
        f"{E1[:-1]}:7",
        f"{E1}0:7",
        f"{E1}:7:8",
        f"{E1}:٧",
        f"{E1}:{10**19}",
    ],
}

ENTRIES = {
    "valid": [
        {"json": '{"value":1}', "value": 1, "version": None, "source": "stored", "revision": 0},
        {
            "json": '{"value":null,"version":"v1","source":"schema","revision":7,"metadata":{"created_by":"x"}}',
            "value": None,
            "version": "v1",
            "source": "schema",
            "revision": 7,
        },
        {
            "json": '{"later":1,"value":{"value":2}}',
            "value": {"value": 2},
            "version": None,
            "source": "stored",
            "revision": 0,
        },
        {
            "json": '{"value":"x","metadata":"anything"}',
            "value": "x",
            "version": None,
            "source": "stored",
            "revision": 0,
        },
    ],
    "invalid": [
        "{}",
        "1",
        "[]",
        '"x"',
        "null",
        '{"version":"v1"}',
        '{"value":1,"version":1}',
        '{"value":1,"revision":"7"}',
        '{"value":}',
    ],
}


def files() -> dict[str, bytes]:
    """Every vector file by its name."""
    made = {"ids.json": _json(IDS), "entries.json": _json(ENTRIES), "sse.json": _json([_case(*case) for case in SSE])}
    for name, (what, stream, expected) in STREAMS.items():
        made[f"streams/{name}.sse"] = stream.encode()
        made[f"streams/{name}.json"] = _json(
            {"what": what, "namespace": "payments", "environment": "production", **expected}
        )
    return made


def _case(what: str, stream: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    defaults = {"event": "message", "id": None, "retry": None, "last_event_id": ""}
    return {"what": what, "stream": stream, "events": [{**defaults, **event} for event in events]}


def _json(content: Any) -> bytes:
    return (json.dumps(content, ensure_ascii=True, indent=2) + "\n").encode()


if __name__ == "__main__":
    for name, content in files().items():
        (VECTORS / name).write_bytes(content)
