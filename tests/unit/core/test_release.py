"""The stored form of a release's content, and what its records say together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.model import Unreadable
from configsvc.core.release import (
    CHUNK_BYTES,
    Override,
    Written,
    decode_content,
    decode_manifest,
    encode_content,
    manifest_name,
    pending,
)

value = st.none() | st.binary(max_size=40)
records = st.lists(st.builds(Written, st.text(min_size=1, max_size=8), value, value), max_size=8)


@given(records)
def test_content_comes_back_as_it_was(written: list[Written]) -> None:
    assert decode_content(b"".join(encode_content(written))) == written


@given(records.filter(bool), st.data())
def test_content_that_lost_its_end_is_refused(written: list[Written], data: st.DataObject) -> None:
    content = b"".join(encode_content(written))
    cut = data.draw(st.integers(1, len(content) - 1))
    try:
        assert decode_content(content[:cut]) == written[: len(decode_content(content[:cut]))]
    except Unreadable as error:
        assert "cut short" in str(error) or "UTF-8" in str(error)  # noqa: PT017


def test_content_is_cut_at_the_chunk_size_also_inside_a_record() -> None:
    written = [Written("a", None, b"x" * (CHUNK_BYTES * 2 + 5)), Written("b", b"\xff\x00", None)]
    chunks = list(encode_content(written))
    assert [len(chunk) for chunk in chunks[:-1]] == [CHUNK_BYTES] * 2
    assert decode_content(b"".join(chunks)) == written
    assert list(encode_content([])) == []


def test_a_key_that_is_no_text_is_refused() -> None:
    absent = b"\xff\xff\xff\xff"
    with pytest.raises(Unreadable, match="UTF-8"):
        decode_content(b"\x00\x00\x00\x01\xff" + absent + absent)


def test_manifest() -> None:
    stored = b'{"format":1,"number":7,"id":"r","content":"c","kind":"deploy","changed":{"count":2}}'
    manifest = decode_manifest(stored)
    assert (manifest.number, manifest.id, manifest.content) == (7, "r", "c")
    assert sorted([manifest_name(10), manifest_name(9)]) == [manifest_name(9), manifest_name(10)]
    for garbage in (b"", b"[]", b'{"number":"x"}', b"\xff", b"[" * 100_000):
        with pytest.raises(Unreadable, match="no manifest"):
            decode_manifest(garbage)


def test_pending_is_what_the_head_knows_and_what_has_a_timer() -> None:
    records = {"a": Override(release=3), "b": Override(release=4, expires_at="2026-01-01T00:00:00Z")}
    assert pending({}, records) == {"b": 4}
    assert pending({"a": 3, "b": 5, "gone": 1}, records) == {"a": 3, "b": 5, "gone": 1}
