"""The file of a backup: what goes in comes out, and what was changed by a single bit is refused as a whole."""

import gzip
import hashlib
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.core import backup
from configsvc.core.backup import FORMAT, Head, Writing, read
from configsvc.errors import InvalidRequest

HEAD = Head(created_at="2026-01-01T00:00:00.000Z", cluster_id="77", revision=42, namespace="pay", by="ann")
ITEMS = {b"/config/pay/production/a": b'{"value": 1}', b"\xff\x00": b"", b"": b"\n" * 3}
MOST = 10**7


def written(items: dict[bytes, bytes], head: Head = HEAD, pieces: int = 1) -> bytes:
    writing = Writing(head)
    found = b""
    rows = list(items.items())
    for at in range(0, len(rows) or 1, max(1, len(rows) // pieces)):
        found += writing.add(rows[at : at + max(1, len(rows) // pieces)])
    return found + writing.end()


def why(file: bytes, most: int = MOST) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(file, most)
    assert caught.value.code == "invalid_body"
    return caught.value.detail


@settings(deadline=None)
@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=200), max_size=20), st.integers(1, 5))
def test_what_goes_in_comes_out(items: dict[bytes, bytes], pieces: int) -> None:
    found = read(written(items, pieces=pieces), MOST)
    assert (found.head, found.items) == (HEAD, items)


def test_large_values_and_many() -> None:
    items = {b"%d" % n: bytes([n % 256]) * n for n in range(0, 3000, 7)} | {b"big": b"x" * 2_000_000}
    assert read(written(items, pieces=9), MOST).items == items


def test_it_is_plain_gzip_of_lines() -> None:
    first, *rows, last = gzip.decompress(written(ITEMS)).decode().splitlines()
    assert msgspec.json.decode(first) == msgspec.to_builtins(HEAD)
    assert len(rows) == 3
    text = "\n".join([first, *rows, ""]).encode()
    assert msgspec.json.decode(last) == {"count": 3, "sha256": hashlib.sha256(text).hexdigest()}


def test_cut_anywhere_it_is_refused() -> None:
    file = written(ITEMS)
    for length in range(len(file)):
        assert "no backup" in why(file[:length])


def test_changed_anywhere_it_is_refused_or_the_same() -> None:
    """Some bits of gzip itself mean nothing to what is in the file: its time, its flags, padding."""
    file = written(ITEMS)
    harmless = 0
    for at in range(len(file)):
        for bit in range(8):
            changed = bytearray(file)
            changed[at] ^= 1 << bit
            try:
                found = read(bytes(changed), MOST)
            except InvalidRequest:
                continue
            assert (found.head, found.items) == (HEAD, ITEMS)
            harmless += 1
    assert harmless < 80


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    why(data)
    why(gzip.compress(data, mtime=0))


def lines(*rows: Any, tail: dict[str, Any] | None = None) -> bytes:
    """A file of these lines, with the right tail but for `tail`."""
    encoded = [row if isinstance(row, bytes) else msgspec.json.encode(row) for row in rows]
    text = b"".join(line + b"\n" for line in encoded)
    last = {"count": len(rows) - 1, "sha256": hashlib.sha256(text).hexdigest()} | (tail or {})
    return gzip.compress(text + msgspec.json.encode(last) + b"\n", mtime=0)


ITEM = {"k": "YQ==", "v": "YQ=="}


def test_well_formed_files_that_are_not_right() -> None:
    head = msgspec.to_builtins(HEAD)
    assert read(lines(head, ITEM), MOST).items == {b"a": b"a"}
    assert "checksum" in why(lines(head, ITEM, tail={"count": 2}))
    assert "checksum" in why(lines(head, ITEM, tail={"sha256": "0" * 64}))
    # The same key twice is fewer keys than lines.
    assert "checksum" in why(lines(head, ITEM, ITEM))
    assert "line 2 cannot be read" in why(lines(head, {"k": "YQ=="}))
    assert "line 2 cannot be read" in why(lines(head, {"k": "!", "v": ""}))
    assert "line 3 cannot be read" in why(lines(head, ITEM, b"[" * 100_000))
    assert "begin as one" in why(lines(ITEM))
    assert f"has format {FORMAT + 1}" in why(lines(head | {"configsvc_backup": FORMAT + 1}))
    assert "last line is missing" in why(gzip.compress(msgspec.json.encode(head) + b"\n"))
    assert "follows its end" in why(lines(head, ITEM) + b"x")
    assert "follows its end" in why(lines(head, ITEM) + lines(head))
    again = gzip.decompress(lines(head, ITEM)) + msgspec.json.encode(ITEM) + b"\n"
    assert "follows its last line" in why(gzip.compress(again))


def test_a_later_service_may_say_more() -> None:
    head = msgspec.to_builtins(HEAD) | {"more": 1}
    assert read(lines(head, ITEM | {"more": 1}), MOST).head == HEAD


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = b"".join(bomb.compress(b"\0" * 1_000_000) for _ in range(200)) + bomb.flush()
    assert len(data) < 300_000
    assert "unpacks to more than 1000000 bytes" in why(data, 1_000_000)
    file = written(ITEMS)
    size = len(gzip.decompress(file))
    assert read(file, size).items == ITEMS
    assert "unpacks to more than" in why(file, size - 1)


def test_a_line_without_end_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "MAX_LINE_BYTES", 200_000)
    assert "a line of it has more than 200000 bytes" in why(gzip.compress(b"x" * 3_000_000))
    assert read(written({b"big": b"x" * 100_000}), MOST).items == {b"big": b"x" * 100_000}


def test_what_follows_its_end_wherever_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(ITEMS)
    for block in (1, 7, len(file), len(file) + 1, 10_000):
        monkeypatch.setattr(backup, "BLOCK_BYTES", block)
        assert read(file, MOST).items == ITEMS
        for more in (b"x", file, b"\0" * 20_000):
            assert "something follows its end" in why(file + more)
