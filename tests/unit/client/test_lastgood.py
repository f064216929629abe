"""The last-known-good file as data: every byte counts, and each rule of belief and replacement."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc_client.doubt import Proof
from configsvc_client.lastgood import (
    CLOCK_TOLERANCE_S,
    HEAD_LINES,
    REFRESH_S,
    Head,
    KnownScope,
    Refused,
    decode,
    decode_head,
    decode_known_scope,
    encode,
    encode_known_scope,
    head_of,
    known_scope_name,
    may_replace,
    state_name,
)
from configsvc_client.protocol import Entry, EventId
from configsvc_client.snapshot import Snapshot
from configsvc_client.state import FILE_AFTER_S, first_wait_s

EPOCH, OTHER_EPOCH = "0123456789ab", "ba9876543210"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCOPE = {"namespace": "payments", "environment": "production"}
WEEK_S = 7 * 86_400.0

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # No lone surrogates, as in every value that the service takes.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)
entries = st.builds(
    Entry,
    value=json_values,
    version=st.none() | st.just("v1"),
    source=st.sampled_from(["stored", "schema"]),
    revision=st.integers(0, 2**63 - 1),
    metadata=json_values,
)


def proof_of(values: dict[str, Any], revision: int = 5, position: int = 8, *, epoch: str = EPOCH, age_s: float = 0.0):
    held = {key: value if isinstance(value, Entry) else Entry(value=value) for key, value in values.items()}
    snapshot = Snapshot(**SCOPE, epoch=epoch, revision=revision, release=3, version="v3", entries=held)
    return Proof(snapshot, EventId(epoch, position), age_s)


def read(content: bytes, *, now: datetime = NOW, max_age_s: float = WEEK_S, **scope: str) -> Proof:
    return decode(content, now=now, max_age_s=max_age_s, **{**SCOPE, **scope})


def head(
    position: int, revision: int = 1, *, epoch: str = EPOCH, at_s: float = 0.0, left: tuple[str, ...] = ()
) -> Head:
    proof = proof_of({}, revision, position, epoch=epoch)._replace(left=left)
    return head_of(proof, NOW + timedelta(seconds=at_s))


# ---- bytes -----------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text("aé😀.\n", min_size=1, max_size=5), entries, max_size=4), st.floats(0, WEEK_S))
def test_what_is_written_is_read_again_as_old_as_it_was(values: dict[str, Entry], age_s: float) -> None:
    written = proof_of(values, age_s=age_s)
    content = encode(written, NOW)
    kept = read(content)
    assert kept.snapshot == written.snapshot
    assert msgspec.json.encode(kept.snapshot.entries) == msgspec.json.encode(written.snapshot.entries)
    assert kept.position == written.position
    assert kept.age_s == pytest.approx(age_s, abs=1e-3)
    head = b"".join(content.splitlines(keepends=True)[:HEAD_LINES])
    assert decode_head(head) == decode_head(content)


SMALL = encode(proof_of({"a": 1, "b": {"c": ["d", None, 1.5]}}), NOW)


def test_no_flipped_bit_is_believed() -> None:
    for at in range(len(SMALL)):
        for bit in range(8):
            damaged = bytearray(SMALL)
            damaged[at] ^= 1 << bit
            with pytest.raises(Refused):
                read(bytes(damaged))


def test_no_truncation_and_no_addition_is_believed() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(Refused):
            read(SMALL[:length])
    for more in (b"\n", b" ", b"}", SMALL):
        with pytest.raises(Refused, match="too long"):
            read(SMALL + more)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: SMALL[:90] + tail))
def test_anything_else_is_refused_and_nothing_else_happens(content: bytes) -> None:
    with pytest.raises(Refused):
        read(content)
    with pytest.raises(Refused):
        decode_known_scope(content, ["http://a"], (None, None))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"{}", "no last-known-good file"),
        (SMALL.replace(b"state 1 ", b"state 2 ", 1), "give clients of different versions folders of their own"),
        (SMALL[:-1], "cut short"),
        (SMALL[:40], "cut short|damaged|no last-known-good"),
        (SMALL.replace(b"1.5", b"1.6"), "wrong checksum"),
        (encode(proof_of({}, 9, 8), NOW), "makes no sense"),
        (encode(proof_of({}, epoch="x"), NOW), "makes no sense"),
    ],
)
def test_a_refusal_says_why(content: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why):
        read(content)


def test_a_key_of_a_newer_version_is_no_reason_to_refuse() -> None:
    first, _, payload = SMALL.partition(b"\n{")
    head, _, rest = (b"{" + payload).partition(b"\n")
    import hashlib

    newer = head[:-1] + b',"more":1}'
    digest = hashlib.sha256(newer).hexdigest().encode()
    assert read(b" ".join([*first.split(b" ")[:2], digest]) + b"\n" + newer + b"\n" + rest).position.revision == 8


# ---- names -----------------------------------------------------------------------------------------------------------

names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


@given(names, names, names, names)
def test_two_scopes_never_share_a_file_whatever_a_file_system_does_to_case(a: str, b: str, c: str, d: str) -> None:
    one, other = state_name(a, b), state_name(c, d)
    assert (one.lower() == other.lower()) == ((a, b) == (c, d))
    assert len(one) < 160
    assert "/" not in one


def test_scopes_that_differ_by_case_or_by_where_a_dot_is_have_files_of_their_own() -> None:
    scopes = [("a", "b.c"), ("a.b", "c"), ("A", "b.c"), ("a-b", "c"), ("x" * 127 + "y", "z"), ("x" * 127 + "z", "z")]
    assert len({state_name(*scope).lower() for scope in scopes}) == len(scopes)


def test_a_remembered_scope_is_that_of_the_same_question_alone() -> None:
    known = KnownScope(urls=("http://a", "http://b"), asked=("payments", None), **SCOPE)
    content = encode_known_scope(known)
    assert decode_known_scope(content, ["http://a", "http://b"], ("payments", None)) == known
    for urls, asked in [
        (["http://b", "http://a"], ("payments", None)),
        (["http://a"], ("payments", None)),
        (["http://a", "http://b"], (None, None)),
    ]:
        assert known_scope_name(urls, asked) != known_scope_name(known.urls, known.asked)
        with pytest.raises(Refused, match="other addresses"):
            decode_known_scope(content, urls, asked)
    for at in range(len(content)):
        with pytest.raises(Refused):
            decode_known_scope(content[:at], known.urls, known.asked)


# ---- judgement -------------------------------------------------------------------------------------------------------


def test_a_file_of_another_scope_is_refused() -> None:
    with pytest.raises(Refused, match="it holds payments/production"):
        read(SMALL, environment="staging")


@pytest.mark.parametrize(
    ("hours", "age_s"),
    [
        (0, 0.0),
        (1, 3600.0),
        (7 * 24, WEEK_S),
        # The clock was set back a little, or has lost its time with the power.
        (-1, 0.0),
        (-CLOCK_TOLERANCE_S / 3600, 0.0),
    ],
)
def test_age_counts_from_the_last_proof_and_is_never_negative(hours: float, age_s: float) -> None:
    assert read(SMALL, now=NOW + timedelta(hours=hours)).age_s == age_s


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (NOW + timedelta(days=7, seconds=1), r"last proved 7\.0 days ago, and cache_max_age_s allows 7\.0 days"),
        (NOW.replace(year=2036), "see whether the clock is right"),
        (NOW.replace(year=1970), "nobody knows its age; correct the clock"),
        (NOW - timedelta(seconds=CLOCK_TOLERANCE_S + 1), "nobody knows its age"),
        (datetime.max.replace(tzinfo=UTC), "ago"),
        (datetime.min.replace(tzinfo=UTC), "from now"),
    ],
)
def test_an_age_that_is_too_high_or_unknown_is_refused(now: datetime, why: str) -> None:
    with pytest.raises(Refused, match=why):
        read(SMALL, now=now)


@pytest.mark.parametrize(
    ("held", "mine", "expected"),
    [
        (None, head(1), True),
        (head(8), head(9, 9), True),
        (head(9, 9), head(8), False),
        (head(9), head(8, at_s=10 * REFRESH_S), False),
        # Of two histories the one that came after the other, where that is known; else the last writer wins.
        (head(9), head(1, epoch=OTHER_EPOCH), True),
        (head(9), head(1, epoch=OTHER_EPOCH, left=(EPOCH,)), True),
        (head(1, left=(OTHER_EPOCH,)), head(9, epoch=OTHER_EPOCH), False),
        # The same content: only for a proof that is newer by a good deal, or where the clock was wrong.
        (head(8), head(8, at_s=1), False),
        (head(8), head(99, at_s=REFRESH_S - 1), False),
        (head(8), head(8, at_s=REFRESH_S), True),
        (head(8, at_s=10 * REFRESH_S), head(8), True),
    ],
)
def test_a_file_moves_forward_only_and_not_for_nothing(held: Head | None, mine: Head, expected: bool) -> None:
    assert may_replace(held, mine) is expected


def test_an_older_state_that_was_believed_replaces_a_newer_file() -> None:
    assert may_replace(head(9, 9), head(3, 3), stepped_back=True)


@pytest.mark.parametrize(
    ("start_timeout_s", "has_file", "all_failed", "expected"),
    [
        (5.0, True, False, FILE_AFTER_S),
        (0.2, True, False, 0.2),
        (5.0, True, True, 0.0),
        (0.0, True, False, 0.0),
        (0.0, False, False, 0.0),
        (0.2, False, True, 0.2),
        (5.0, False, True, float("inf")),
    ],
)
def test_how_long_a_first_read_waits(start_timeout_s: float, has_file: bool, all_failed: bool, expected: float) -> None:
    known = {"has_file": has_file, "all_failed": all_failed}
    assert first_wait_s(start_timeout_s, **known, is_refused=False) == expected
    assert first_wait_s(start_timeout_s, **known, is_refused=True) == 0.0
