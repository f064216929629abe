"""The event-stream format: what one event is, and that it does not matter how its bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc_client.sse import Decoder, Event, EventTooLarge, encode


def decode(data: bytes, *, step: int | None = None) -> list[Event]:
    decoder = Decoder()
    step = step or max(1, len(data))
    return [event for i in range(0, len(data), step) for event in decoder.feed(data[i : i + step])]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event(data=b"a")]),
        (b"data:a\n\n", [Event(data=b"a")]),
        (b"data:  a\n\n", [Event(data=b" a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(data=b"a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", [Event(data=b"a"), Event(data=b"b"), Event(data=b"c")]),
        (b"data: a\n\r\ndata: b\r\n\n", [Event(data=b"a"), Event(data=b"b")]),
        (b"data: a\ndata: b\n\n", [Event(data=b"a\nb")]),
        (b"data\ndata\n\n", [Event(data=b"\n")]),
        (b"data\n\n", [Event(data=b"")]),
        (b": comment\ndata: a\n:\n\n", [Event(data=b"a")]),
        (b"event: x\n\n", []),
        (b"event: x\ndata: a\n\ndata: b\n\n", [Event(event="x", data=b"a"), Event(data=b"b")]),
        (b"id: 1\ndata: a\n\ndata: b\n\n", [Event(data=b"a", id="1"), Event(data=b"b")]),
        (b"id: 1\0\ndata: a\n\n", [Event(data=b"a")]),
        (b"id\ndata: a\n\n", [Event(data=b"a", id="")]),
        (b"retry: 10\ndata: a\n\n", [Event(data=b"a", retry=10)]),
        (b"retry: +10\ndata: a\n\n", [Event(data=b"a")]),
        (b"retry: 1.5\ndata: a\n\n", [Event(data=b"a")]),
        (b"retry:\ndata: a\n\n", [Event(data=b"a")]),
        ("retry: ١\ndata: a\n\n".encode(), [Event(data=b"a")]),
        (b"foo: x\nData: y\ndata: a\n\n", [Event(data=b"a")]),
        (b" data: y\ndata: a\n\n", [Event(data=b"a")]),
        (b"data: a\n", []),
        (b"\n\n\n", []),
        ("data: a\u2028b\u0085c\x0b\x0c\x1cd\n\n".encode(), [Event(data="a\u2028b\u0085c\x0b\x0c\x1cd".encode())]),
        (b"event: \xff\ndata: \xff\n\n", [Event(event="\ufffd", data=b"\xff")]),
    ],
)
def test_an_event_is_what_the_rules_say_however_it_is_cut(stream: bytes, expected: list[Event]) -> None:
    assert decode(stream) == expected
    for step in range(1, len(stream)):
        assert decode(stream, step=step) == expected


def test_the_last_event_id_stays_until_another_one_even_without_data() -> None:
    decoder = Decoder()
    decoder.feed(b"id: 1\ndata: a\n\n")
    assert decoder.last_event_id == "1"
    decoder.feed(b"data: b\n\nid: 2\n")
    assert decoder.last_event_id == "1"
    decoder.feed(b"\n")
    assert decoder.last_event_id == "2"
    decoder.feed(b"id\n\n")
    assert decoder.last_event_id == ""


PIECES = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"data",
        b": ",
        b":",
        b"id: 1",
        b"id: \0",
        b"event: e",
        b"retry: 7",
        b"\xef\xbb\xbf",
        "é".encode(),
        b"x",
    ]
)


@given(stream=st.lists(PIECES, max_size=60).map(b"".join), data=st.data())
def test_any_chunking_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder = Decoder()
    events = [
        event
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for event in decoder.feed(stream[start:end])
    ]
    assert events == decode(stream)


LINE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=20)


@given(
    event=LINE.filter(bool),
    data=st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
    id=st.none() | LINE,
    retry=st.none() | st.integers(0, 10**9),
)
def test_what_is_encoded_reads_back(event: str, data: str, id: str | None, retry: int | None) -> None:
    raw = data.encode()
    lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert decode(encode(event, raw, id, retry), step=3) == [Event(event=event, data=lines, id=id, retry=retry)]


def test_encoding_is_plain_to_read() -> None:
    assert encode("change", b"{}", "e:1", 5) == b"id: e:1\nevent: change\nretry: 5\ndata: {}\n\n"
    assert encode("status", b"a\nb") == b"event: status\ndata: a\ndata: b\n\n"


@pytest.mark.parametrize(("event", "id"), [("a\nb", None), ("a", "1\n2"), ("a\r", None), ("a", "\0")])
def test_encoding_refuses_what_would_break_the_framing(event: str, id: str | None) -> None:
    with pytest.raises(ValueError, match="line ends"):
        encode(event, b"", id)


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(
    "long", [b"data: " + b"x" * 200, b"data: xxxxxxxx\n" * 40, b"event: " + b"x" * 200, b"foo\n" * 100, b"x" * 101]
)
def test_an_event_beyond_the_bound_is_an_error_after_those_before_it(long: bytes, step: int) -> None:
    stream = b"data: a\n\n" + long + b"\n\n"
    decoder = Decoder(max_event_bytes=100)
    events = []
    with pytest.raises(EventTooLarge, match="larger than 100 bytes"):
        for start in range(0, len(stream) + step, step):
            events += decoder.feed(stream[start : start + step])
    assert [event.data for event in events] == [b"a"]
    with pytest.raises(EventTooLarge):
        decoder.feed(b"data: b\n\n")


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_comments_may_be_as_long_as_they_like_and_an_event_as_long_as_its_bound(step: int) -> None:
    stream = (b":" + b"x" * 500 + b"\n") * 3 + b"data: " + b"x" * 94 + b"\n\n"
    decoder = Decoder(max_event_bytes=100)
    events = [event for i in range(0, len(stream), step) for event in decoder.feed(stream[i : i + step])]
    assert [len(event.data) for event in events] == [94]


def test_pending_bytes_grow_with_an_event_and_not_with_comments() -> None:
    decoder = Decoder()
    decoder.feed(b": keep-alive")
    assert decoder.pending_bytes == 0
    decoder.feed(b"\n\ndata: abc")
    before = decoder.pending_bytes
    decoder.feed(b"def")
    assert decoder.pending_bytes > before > 0
    decoder.feed(b"\n\n")
    assert decoder.pending_bytes == 0
