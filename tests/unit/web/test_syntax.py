"""The grammar of requests, as rules that hold for every input."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.core.model import key_problem
from configsvc.core.near import near
from configsvc.errors import InvalidRequest
from configsvc.web import syntax
from configsvc_client.protocol import EventId

TAG = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'), max_size=20)
KNOWN = {"view": str, "min_revision": str, "wait_s": str}


def attempt(read: Callable[[], Any]) -> Any:
    """What `read` returns, or the refusal that it raises."""
    try:
        return read()
    except (InvalidRequest, ValueError) as error:
        return error


# ---- paths -----------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_encoded_is_decoded_once(text: str) -> None:
    assert syntax.percent_decode(quote(text, safe="")) == text
    assert syntax.percent_decode(quote(quote(text, safe=""), safe="")) == quote(text, safe="")


@given(st.text(st.sampled_from("%0123456789abcdefABCDEFxyz/.é"), max_size=20))
def test_decoding_is_right_or_refused(raw: str) -> None:
    decoded = attempt(lambda: syntax.percent_decode(raw))
    if isinstance(decoded, str):
        assert not re.search("%(?![0-9a-fA-F]{2})", raw)
        assert syntax.percent_decode(quote(decoded, safe="")) == decoded
    else:
        assert "%" in raw
        assert str(decoded)


@given(st.text(max_size=30) | st.text(st.sampled_from("ab./_%\x00\x7f\x85 é"), max_size=8))
def test_a_key_in_a_path_is_the_key_or_refused(text: str) -> None:
    raw = quote(text.encode("utf-8", "surrogatepass"), safe="")
    if key_problem(text) is None:
        assert syntax.path_key(raw) == text
    else:
        with pytest.raises(InvalidRequest) as caught:
            syntax.path_key(raw)
        assert caught.value.code == "invalid_key"
        assert len(caught.value.detail) < 500


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_scope_in_a_path_is_two_names_or_refused(namespace: str, environment: str) -> None:
    raw = [quote(name, safe="", errors="replace") for name in (namespace, environment)]
    scope = attempt(lambda: syntax.path_scope(*raw))
    if isinstance(scope, InvalidRequest):
        assert scope.code == "invalid_scope"
        assert scope.fields["parameter"] in ("namespace", "environment")
    else:
        assert scope == (namespace, environment)


# ---- query strings ---------------------------------------------------------------------------------------------------


@given(st.text())
def test_any_query_is_read_or_refused(raw: str) -> None:
    readers = {"view": syntax.choice("values", "entries"), "min_revision": syntax.awaited, "wait_s": syntax.wait_s}
    found = attempt(lambda: syntax.parse_query(raw, readers))
    if isinstance(found, InvalidRequest):
        assert found.code == "invalid_query"
    else:
        assert set(found) <= set(KNOWN)


@given(st.dictionaries(st.sampled_from(sorted(KNOWN)), st.text(st.characters(exclude_categories=["Cs"]))))
def test_values_come_as_they_were_encoded(query: dict[str, str]) -> None:
    raw = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    assert syntax.parse_query(raw, KNOWN) == query


@given(st.sampled_from(sorted(KNOWN)), st.data())
def test_one_wrong_letter_in_a_long_name_is_noticed(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name) - 1))
    misspelt = name[:at] + name[at + 1 :]
    assert syntax.near_name(misspelt, KNOWN) == name


@pytest.mark.parametrize("name", ["utm_source", "cb", "_", "v", "format", "pretty", "token", "limit", "environment"])
def test_what_means_something_else_is_not(name: str) -> None:
    assert syntax.near_name(name, KNOWN) is None


@given(st.integers(0, 2**63 - 1), st.none() | st.from_regex("[0-9a-f]{12}", fullmatch=True), st.floats(0, 1e6))
def test_awaited(revision: int, epoch: str | None, wait_s: float) -> None:
    raw = f"{epoch}:{revision}" if epoch else str(revision)
    assert syntax.awaited(raw) == syntax.Awaited(revision, epoch)
    assert syntax.wait_s(repr(wait_s)) == min(wait_s, syntax.MAX_WAIT_S)


def test_what_is_larger_than_any_revision_is_cut() -> None:
    for digits in (19, 20, 100):
        assert syntax.awaited("9" * digits) == syntax.Awaited(2**63 - 1, None)
        assert syntax.awaited("0123456789ab:" + "9" * digits) == syntax.Awaited(2**63 - 1, "0123456789ab")


# ---- headers ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), TAG), max_size=6), TAG, st.sampled_from([",", ", ", " ,\t", ",,", " , , "]))
def test_a_well_formed_list_matches_exactly_its_members(tags: list[tuple[bool, str]], etag: str, comma: str) -> None:
    header = comma.join(("W/" if weak else "") + f'"{tag}"' for weak, tag in tags)
    for sent in (header, f",{header}", f" , {header},"):
        assert syntax.none_match(sent, etag) == (etag in [tag for _, tag in tags])


@given(st.text(), TAG)
def test_anything_else_never_matches_by_accident(header: str, etag: str) -> None:
    if f'"{etag}"' not in header and header.strip(" \t") != "*":
        assert not syntax.none_match(header, etag)


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("br, gzip", True),
        ("gzip;q=0.001", True),
        ("gzip; q=1.0", True),
        ("*", True),
        ("br;q=1, *;q=0.1", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; Q=0.000", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("*, gzip;q=0", False),
        ("gzipped", False),
    ],
)
def test_who_takes_gzip(header: str, allowed: bool) -> None:
    assert syntax.accepts_gzip(header) is allowed


@given(st.text())
def test_headers_never_raise(header: str) -> None:
    syntax.accepts_gzip(header)
    syntax.none_match(header, "x")
    syntax.trace_id(header)
    syntax.position(header, None)
    sane = syntax.sane_request_id(header)
    assert sane is None or (sane == header and sane.isascii() and sane.isprintable() and len(sane) <= 128)


def test_traceparent() -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    assert syntax.trace_id(f"00-{trace}-{span}-01") == trace
    assert syntax.trace_id(f"01-{trace}-{span}-01-more") == trace
    for wrong in (
        f"ff-{trace}-{span}-01",
        f"00-{'0' * 32}-{span}-01",
        f"00-{trace}-{'0' * 16}-01",
        f"00-{trace}-01",
        None,
    ):
        assert syntax.trace_id(wrong) is None


def test_the_header_wins_over_the_query() -> None:
    one, two = EventId("0" * 12, 1), EventId("0" * 12, 2)
    assert syntax.position(str(one), str(two)) == one
    assert syntax.position(None, str(two)) == two
    assert syntax.position("nonsense", str(two)) is None
    assert syntax.position(None, None) is None


# ---- near names ------------------------------------------------------------------------------------------------------


def test_near_names_come_from_the_given_ones_and_stay_cheap() -> None:
    names = [f"database.pool.{i}" for i in range(100_000)]
    assert near("database.poll.1", names)
    assert near("x" * 1024, names) == []
    assert len(near("database.pool", names)) <= 3


# ---- readers of writes -----------------------------------------------------------------------------------------------


def refusal(read: Callable[[str], Any], value: str) -> str | None:
    """What a reader says is wrong; None where it takes the value."""
    try:
        read(value)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (
            syntax.text(5),
            ["a", "a b c", " éa ", "日本"],
            ["", "  ", "abcdef", "a\nb", "a\x00", "\u2028", "a\tb", "\u200b"],
        ),
        (
            syntax.label,
            ["v1", "1", "a.b_c+d-e", "0" * 128],
            ["", ".a", "-a", "a b", "é", "0" * 129, "@1", "v1\n"],
        ),
        (syntax.name, ["production", "a.b-c_d", "0"], ["", "_x", ".", "..", "a b", "é", "a" * 129, "a/b"]),
        (
            syntax.number,
            ["0", "17", "@17", "9" * 18],
            ["", "@", "-1", "+1", "1.0", "9" * 19, "@@1", "\u0661", "1_0"],
        ),
        (syntax.count(500), ["1", "050", "500", "9" * 5000], ["", "0", "00", "-1", "x", "1.5", "@1", "\u0661"]),
        (syntax.duration(1, 60), ["1", "60", "1.5", "6e1"], ["", "0", "0.99", "61", "-1", "nan", "inf", "1s", "1e999"]),
        (syntax.version, ["v1", "@17", "17", "0" * 30], ["", "@", "@x", "@-1", "a b", ".x", "é", "@" + "9" * 19]),
        (syntax.choice("a", "b"), ["a", "b"], ["", "A", "c", "a,b", " a"]),
    ],
    ids=["text", "label", "environment", "number", "count", "duration", "version", "choice"],
)
def test_readers(read: Callable[[str], Any], good: list[str], bad: list[str]) -> None:
    assert [value for value in good if refusal(read, value)] == []
    for value in bad:
        told = refusal(read, value)
        assert told, value
        assert told.isprintable()
        assert len(told) < 250


@given(st.text(max_size=60))
def test_readers_of_any_text(value: str) -> None:
    for read in (syntax.label, syntax.name, syntax.number, syntax.version, syntax.text(20), syntax.count(5)):
        told = refusal(read, value)
        assert told is None or told.isascii()


def test_versions_and_counts() -> None:
    assert syntax.version("@17") == (None, 17)
    assert syntax.version("17") == ("17", 17)
    assert syntax.version("0017") == ("0017", 17)
    assert syntax.version("v17") == ("v17", None)
    assert syntax.version("1" * 19) == ("1" * 19, None)
    assert syntax.path_version("v1%2E0") == ("v1.0", None)
    with pytest.raises(InvalidRequest) as refused:
        syntax.path_version("%40x")
    assert refused.value.code == "invalid_path"
    assert (syntax.count(5)("7"), syntax.count(5)("1" * 5000), syntax.count(5)("0" * 30 + "3")) == (5, 5, 3)
    assert syntax.number("@17") == 17
    assert syntax.text(10)("  a b ") == "a b"


@pytest.mark.parametrize(
    ("header", "revision"),
    [
        ('"0f9a3c52d1be:1042"', 1042),
        ('W/"0f9a3c52d1be:1042"', 1042),
        (' \t"0f9a3c52d1be:1042" ', 1042),
        ('"0f9a3c52d1be:1042-0123abcd"', 1042),
        ('"0f9a3c52d1be:0"', 0),
        ("*", None),
        (" * ", None),
    ],
)
def test_if_match(header: str, revision: int | None) -> None:
    found = syntax.if_match(header)
    assert (found.state.revision if found else None) == revision


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        '"x"',
        "0f9a3c52d1be:1042",
        '"0f9a3c52d1be:1042',
        '"0F9A3C52D1BE:1042"',
        '"0f9a3c52d1b:1042"',
        '"0f9a3c52d1be:"',
        '"0f9a3c52d1be:-1"',
        '"0f9a3c52d1be:1042-0123abc"',
        '"0f9a3c52d1be:1", "0f9a3c52d1be:2"',
        'w/"0f9a3c52d1be:1042"',
        '"0f9a3c52d1be:' + "9" * 20 + '"',
        '*, "0f9a3c52d1be:1"',
    ],
)
def test_an_if_match_that_is_none(header: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        syntax.if_match(header)
    assert refused.value.code == "invalid_header"


@given(st.text(max_size=80))
def test_if_match_and_idempotency_keys_of_any_text(header: str) -> None:
    for read in (syntax.if_match, syntax.idempotency_key):
        try:
            read(header)
        except InvalidRequest as error:
            assert error.code == "invalid_header"  # noqa: PT017


def test_idempotency_keys() -> None:
    for key in ("a", "~" * 255, "3f0c-!#$%/=?"):
        assert syntax.idempotency_key(key) == key
    for key in ("", " a", "a b", "é", "x" * 256, "a\n"):
        with pytest.raises(InvalidRequest):
            syntax.idempotency_key(key)


def test_strict_queries_refuse_what_they_do_not_know() -> None:
    known = {"dry_run": syntax.choice("true", "false"), "reason": syntax.text(9)}
    assert syntax.parse_query("dry_run=true&reason=a+b", known, strict=True) == {"dry_run": "true", "reason": "a b"}
    for query, words in (
        ("x=1", "there is dry_run, reason"),
        ("dryrun=true", "did you mean dry_run"),
        ("=1", "does not exist"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            syntax.parse_query(query, known, strict=True)
        assert words in refused.value.detail
    with pytest.raises(InvalidRequest) as refused:
        syntax.parse_query("x=1", {}, strict=True)
    assert "there is none" in refused.value.detail
