"""Names, limits and stored formats: what is accepted, what is unreadable, and that nothing else is ever raised."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.core import model
from configsvc.core.model import Place, Scope, Unreadable, decode_entry, decode_head, locate
from configsvc.errors import InvalidRequest

GOOD_NAMES = ("a", "A9", "payment-service", "v1.2_x", "a" * 128, "a..b")
BAD_NAMES = ("", ".", "..", "_x", "-x", ".x", "a/b", "a b", "a\n", "ä", "a" * 129, "a\0")


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names(name: str) -> None:
    assert model.is_name(name)
    assert model.parse_scope(name, "prod") == Scope(name, "prod")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused_and_the_answer_says_which(name: str) -> None:
    assert not model.is_name(name)
    for namespace, environment, part in ((name, "prod", "namespace"), ("shop", name, "environment")):
        with pytest.raises(InvalidRequest) as caught:
            model.parse_scope(namespace, environment)
        assert caught.value.code == "invalid_scope"
        assert caught.value.fields == {"parameter": part}
        assert len(caught.value.detail) < 300


@pytest.mark.parametrize("key", ["a", "database.pool_size", "ö", "日本", "a b", "a" * 1024, "...", "-", "%2F"])
def test_keys(key: str) -> None:
    assert model.parse_key(key) == key
    assert model.key_write_problem(key) is None


@pytest.mark.parametrize(
    "key",
    ["", "_x", ".", "..", "a/b", "a\nb", "\x7f", "\x85", "a" * 1025, "ö" * 513, "\ud800"],
)
def test_bad_keys(key: str) -> None:
    assert model.key_problem(key)
    assert model.key_write_problem(key)
    with pytest.raises(InvalidRequest) as caught:
        model.parse_key(key)
    assert caught.value.code == "invalid_key"
    caught.value.detail.encode()


@pytest.mark.parametrize("key", [" a", "a ", "a\u3000", "e\u0301"])
def test_keys_that_are_read_but_not_written(key: str) -> None:
    assert model.key_problem(key) is None
    assert model.key_write_problem(key)


@given(st.text(max_size=40))
def test_every_key_that_can_be_read_is_found_where_it_is_stored(key: str) -> None:
    if model.key_problem(key) is None:
        scope = Scope("shop", "prod")
        assert locate(model.entry_path(scope, key)) == Place("entry", "shop", "prod", key)


def test_paths_and_places() -> None:
    scope = Scope("shop", "prod")
    assert str(scope) == "shop/prod"
    assert locate(model.head_path(scope)) == Place("head", "shop", "prod")
    assert locate(model.head_path(scope)).scope == scope
    assert locate(model.epoch_path("shop")) == Place("epoch", "shop")
    assert locate(model.schema_path("shop")) == Place("schema", "shop")
    assert model.head_path(scope).startswith(model.scope_prefix(scope))
    assert model.scope_prefix(scope).startswith(model.namespace_prefix("shop"))
    assert model.namespace_prefix("shop").startswith(model.namespace_prefix(None))
    assert model.manifests_prefix(scope) == b"/configsvc/releases/shop/prod/n/"
    assert model.content_prefix(scope, "x") == b"/configsvc/releases/shop/prod/c/x/"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/config/shop/prod/_other", "reserved"),
        (b"/config/shop/prod/_meta/other", "reserved"),
        (b"/config/shop/_meta/other", "reserved"),
        (b"/config/_system/x/y", "reserved"),
        (b"/config/shop/prod/a/b", "unaddressable"),
        (b"/config/shop/prod/", "unaddressable"),
        (b"/config/shop/prod/..", "unaddressable"),
        (b"/config/shop/prod/" + b"a" * 1025, "unaddressable"),
        (b"/config/shop/prod/\xff", "unaddressable"),
        (b"/config/sh op/prod/a", "unaddressable"),
        (b"/config/shop", "unaddressable"),
        (b"/elsewhere", "unaddressable"),
        (b"", "unaddressable"),
        (b"/config/shop/prod/a\nb", "entry"),
    ],
)
def test_odd_places(path: bytes, kind: str) -> None:
    assert locate(path).kind == kind


@given(st.binary(max_size=60))
def test_locate_never_raises(path: bytes) -> None:
    locate(path)
    locate(b"/config/" + path)


# ---- entries ---------------------------------------------------------------------------------------------------------


def test_an_entry() -> None:
    entry = decode_entry(b'{ "value": {"b": 1.0, "a": [null]}, "version": "v1", "metadata": {"by": "x"}, "more": 1 }\n')
    assert bytes(entry.value) == b'{"b":1.0,"a":[null]}'
    assert entry.version == "v1"
    assert entry.metadata is not None
    assert bytes(entry.metadata) == b'{"by":"x"}'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"null", b"null"),
        (b'"\\u0000\\ud83d\\ude00"', '"\\u0000😀"'.encode()),
        (b"18446744073709551615", b"18446744073709551615"),
        (b"-9223372036854775808", b"-9223372036854775808"),
        (b"1e308", b"1e308"),
        (b"[" * 100 + b"]" * 100, b"[" * 100 + b"]" * 100),
        (b"[" * 100 + b"1" + b"]" * 100, b"[" * 100 + b"1" + b"]" * 100),
        (b'{"a":1,"a":2}', b'{"a":2}'),
    ],
)
def test_values(text: bytes, value: bytes) -> None:
    stored = decode_entry(b'{"value":' + text + b"}").value
    assert json.loads(bytes(stored)) == json.loads(value)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b"v1",
        b'{"value"',
        b'{"value":1} x',
        b'\xef\xbb\xbf{"value":1}',
        b'{"value":"\xff"}',
        b'{"value":1,"more":"\xff"}',
        b'{"value":"\\ud800"}',
        b'{"value":"\\udc00"}',
        b'{"value":"\\ud800x"}',
        b'{"value":{"\\ud800":1}}',
        b'{"value":NaN}',
        b'{"value":Infinity}',
        b'{"value":1e400}',
        b'{"value":-1e400}',
        b'{"value":18446744073709551616}',
        b'{"value":-9223372036854775809}',
        b'{"value":[{"a":123456789012345678901234567890}]}',
        b'{"value":' + b"[" * 101 + b"]" * 101 + b"}",
        b'{"value":' + b'{"a":' * 101 + b"1" + b"}" * 102,
        b'{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"value":1,"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"value":1,"version":5}',
        b'{"value":1,"metadata":[]}',
        b'{"value":1,"metadata":"x"}',
        b'{"value":1,"metadata":{"n":18446744073709551616}}',
        b'{"value":01}',
        b"{'value':1}",
        b'{"value":"\x01"}',
    ],
)
def test_unreadable_entries(stored: bytes) -> None:
    with pytest.raises(Unreadable):
        decode_entry(stored)


@pytest.mark.parametrize("stored", [b"20", b'"a"', b"hello", b"[1]", b'{"valu":1}', b"\xff"])
def test_what_is_no_entry_is_told_with_what_one_is(stored: bytes) -> None:
    with pytest.raises(Unreadable, match=r'store an object that has the value in it, such as \{"value": 20\}'):
        decode_entry(stored)


def test_a_problem_does_not_repeat_the_value() -> None:
    for stored in (b'{"value":secret}', b'{"value":1,"version":["secret"]}', b'{"value":"secret\xff"}', b"secret"):
        with pytest.raises(Unreadable) as caught:
            decode_entry(stored)
        assert "secret" not in str(caught.value)


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_whatever_is_stored_either_reads_or_is_unreadable(stored: bytes) -> None:
    for candidate in (stored, b'{"value":' + stored + b"}", b'{"release":1,"applying":' + stored + b"}"):
        for decode in (decode_entry, decode_head):
            with contextlib.suppress(Unreadable):
                decode(candidate)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)  # fmt: skip


@given(json_values)
def test_json_values_come_back_and_their_form_is_canonical(value: object) -> None:
    once = decode_entry(json.dumps({"value": value}).encode()).value
    assert msgspec.json.decode(once) == value
    again = decode_entry(b'{"value":' + bytes(once) + b"}").value
    assert bytes(again) == bytes(once)
    assert b"\n" not in bytes(once)


# ---- heads -----------------------------------------------------------------------------------------------------------


def test_a_head() -> None:
    head = decode_head(b'{"format":1,"release":7,"version":"v7","id":"x","overrides":{"a":3}}')
    assert (head.shown_release, head.shown_version, head.id, head.applying) == (7, "v7", "x", None)
    touched = decode_head(b'{"release":0,"version":"left over"}')
    assert (touched.shown_release, touched.shown_version) == (None, None)
    newer = decode_head(b'{"format":9,"release":7,"news":[1]}')
    assert newer.shown_release == 7


def test_a_head_with_a_window() -> None:
    applying = b'{"id":"w","sha256":"s","kind":"deploy","state":"verified","opened_revision":9,"since":"t","by":"me"}'
    head = decode_head(b'{"release":7,"applying":' + applying + b"}")
    assert head.applying is not None
    assert (head.applying.id, head.applying.opened_revision) == ("w", 9)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"{",
        b'{"release":-1}',
        b'{"release":1e3}',
        b'{"release":99999999999999999999}',
        b'{"release":"1"}',
        b'{"release":1,"version":2}',
        b'{"release":1,"applying":{}}',
        b'{"release":1,"applying":{"id":"x","opened_revision":-4}}',
        b'{"release":1,"applying":{"id":"x","opened_revision":99999999999999999999}}',
    ],
)
def test_unreadable_heads(stored: bytes) -> None:
    with pytest.raises(Unreadable):
        decode_head(stored)


def test_epochs_differ_by_each_part() -> None:
    epochs = {model.epoch_of(*parts) for parts in (("c", b"", ""), ("d", b"", ""), ("c", b"x", ""), ("c", b"", "x"))}
    assert len(epochs) == 4
    assert all(len(epoch) == 12 and set(epoch) <= set("0123456789abcdef") for epoch in epochs)
    assert model.epoch_of("ab", b"c", "") != model.epoch_of("a", b"bc", "")
