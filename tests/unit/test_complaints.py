"""What the log says of keys that cannot be read."""

from structlog.testing import capture_logs

from configsvc.complaints import MAX_LINES, Complaints
from configsvc.core.model import Scope, entry_path, head_path, schema_path
from configsvc.core.replica import Event, Record, Replica, sort_listing

SCOPE = Scope("shop", "production")


def record(path: bytes, value: bytes, revision: int) -> Record:
    return Record(key=path, value=value, mod_revision=revision, create_revision=revision)


def rebase(replica: Replica, revision: int, *records: Record) -> None:
    replica.rebase(sort_listing(records, revision, "1"), windows={}, found={})


def said(complaints: Complaints, scopes: list[Scope] | None = None) -> list[tuple[str, str | None]]:
    with capture_logs() as lines:
        complaints.look(scopes) if scopes is not None else complaints.look_at_all()
    return [(line["log_level"], line.get("key")) for line in lines]


def test_each_problem_is_said_once_and_its_end_too() -> None:
    replica = Replica()
    complaints = Complaints(replica)
    good = record(entry_path(SCOPE, "good"), b'{"value":1}', 3)
    rebase(replica, 9, good, record(entry_path(SCOPE, "bad"), b"secret", 4), record(head_path(SCOPE), b"x", 5))
    assert said(complaints) == [("warning", "_meta/head"), ("warning", "bad")]
    assert said(complaints) == []
    path = entry_path(SCOPE, "bad")
    replica.apply(10, [Event(key=path, record=record(path, b"other", 10))])
    assert said(complaints, [SCOPE]) == [("warning", "bad")]
    replica.apply(11, [Event(key=path, record=record(path, b'{"value":2}', 11))])
    assert said(complaints, [SCOPE]) == [("info", "bad")]
    rebase(replica, 20, good)
    assert said(complaints) == [("info", "_meta/head")]
    assert said(complaints) == []


def test_nothing_of_a_value_is_said_and_a_flood_is_counted() -> None:
    replica = Replica()
    many = [record(entry_path(SCOPE, f"k{i:03}"), b"s3cret", i + 2) for i in range(MAX_LINES + 5)]
    schema = record(schema_path("shop"), b"s3cret", 2)
    rebase(replica, 99, schema, *many, record(b"/config/shop/a/b/c", b"s3cret", 2))
    with capture_logs() as lines:
        Complaints(replica).look_at_all()
    assert "s3cret" not in str(lines)
    assert len(lines) == MAX_LINES + 2
    assert lines[-1]["count"] == 5 + 1
