"""What bodies may hold, on every route that takes one: what is wrong is told with its place, and nothing changes."""

import gzip
import json
from itertools import pairwise
from typing import Any

import pytest

from configsvc.web.routes import ROUTES
from tests.support.writing import SHARED, Api, repr_of

JSON, YAML = "application/json", "application/yaml"
WRITES = [route for route in ROUTES if route.writes]
MB = 1024 * 1024


# ---- what bodies may hold --------------------------------------------------------------------------------------------

DEEP = "[" * 101 + "]" * 101
BAD_JSON: list[tuple[bytes, str, str]] = [
    (b"", "invalid_body", "empty"),
    (b"  \n ", "invalid_body", "empty"),
    (b"{", "invalid_body", "ends too early"),
    (b'{"a": 1', "invalid_body", "ends too early"),
    (b'{"a": }', "invalid_body", "line 1, column 7"),
    (b'{\n "a": 1,\n}', "invalid_body", "line 3"),
    (b'{"a": 1} x', "invalid_body", "line 1"),
    (b"{'a': 1}", "invalid_body", "line 1, column 2"),
    (b"[1]", "invalid_body", "a list"),
    (b"1", "invalid_body", "a single value"),
    (b"null", "invalid_body", "empty"),
    (b'"text"', "invalid_body", "a single value"),
    (b'{"a": NaN}', "invalid_values", "NaN"),
    (b'{"a": Infinity}', "invalid_values", "Infinity"),
    (b'{"a": -Infinity}', "invalid_values", "-Infinity"),
    (b'{"a": 1e999}', "invalid_values", "too large for a double"),
    (b'{"a": 1, "a": 2}', "invalid_body", "'a' occurs twice"),
    (b'{"a": {"b": 1, "b": 2}}', "invalid_body", "'b' occurs twice"),
    (b'{"a": "\xff"}', "invalid_body", "not UTF-8"),
    (b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}', "invalid_body", "line 1"),
    (b'{"a": 18446744073709551616}', "invalid_values", "beyond 64 bits"),
    (b'{"a": -9223372036854775809}', "invalid_values", "beyond 64 bits"),
    (b'{"a": ' + b"9" * 5000 + b"}", "invalid_values", "beyond 64 bits"),
    (b'{"a": "\\ud800"}', "invalid_values", "surrogate"),
    (b'{"a": {"b": [{"\\udfff": 1}]}}', "invalid_values", ""),
    (b'{"\\ud800": 1}', "invalid_values", "UTF-8"),
    (f'{{"a": {DEEP}}}'.encode(), "invalid_values", "nested deeper than 100"),
    (b'{"a": ' + b"[" * 200_000, "invalid_body", ""),
    (b'{"_meta": 1}', "invalid_values", "reserved"),
    (b'{"_meta": {"head": 1}}', "invalid_values", "reserved"),
    (b'{"a/b": 1}', "invalid_values", "may not hold '/'"),
    (b'{"..": 1}', "invalid_values", "'..'"),
    (b'{".": 1}', "invalid_values", "'.'"),
    (b'{"": 1}', "invalid_values", "is empty"),
    (b'{"a\\u0000b": 1}', "invalid_values", "U+0000"),
    (b'{"a\\nb": 1}', "invalid_values", "U+000A"),
    (b'{" a": 1}', "invalid_values", "white space"),
    (b'{"e\\u0301": 1}', "invalid_values", "normal form C"),
    (json.dumps({"x" * 1025: 1}).encode(), "invalid_values", "1025 bytes"),
    (json.dumps({"a": "x" * MB}).encode(), "invalid_values", "at most 1048576"),
]
BAD_STATES = [
    *BAD_JSON,
    (b'{"a": {"b": 1}, "a.b": 2}', "invalid_values", "nested and dotted"),
    (b'{"a.b": {"c": 1}, "a": {"b.c": 1}}', "invalid_values", "nested and dotted"),
    (b'{"a": {"": {"b": 1}, ".b": 2}}', "invalid_values", "nested and dotted"),
]
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%s: &%s [%s]\n" % (name, name, b", ".join([b"*" + before] * 10))
    for before, name in pairwise(bytes([letter]) for letter in b"abcdefgh")
)
BAD_YAML: list[tuple[bytes, str, int | None]] = [
    (b"a: 1\nb: 2\na: 3\n", "given twice", 3),
    (b"x:\n  y: 1\n  y: 2\n", "given twice", 3),
    (b"a: 1\nb: {c: 1, c: 2}\n", "given twice", 2),
    (b"a: .nan\n", ".nan", 1),
    (b"a: 1\nb: -.inf\n", "inf", 2),
    (b"a: 1\n  b: 2\n", "not YAML", 2),
    (b"a: [1\n", "not YAML", None),
    (b"a: 'x\n", "not YAML", None),
    (b"\tb: 1\n", "not YAML", 1),
    (b"a: !!python/object/apply:os.system [x]\n", "has no meaning here", 1),
    (b"a: !secret x\n", "has no meaning here", 1),
    (b"a: !!binary aGVsbG8=\n", "has no meaning here", 1),
    (b"a: *nothing\n", "not YAML", 1),
    (b"a: &a [*a]\n", "nested deeper", 1),
    (b"1: x\n", "no text", 1),
    (b"null: x\n", "no text", 1),
    (b"? [a]\n: x\n", "a name is text", 1),
    (b"a: 1\n---\nb: 2\n", "not YAML", 2),
    (b"- a\n", "a list", None),
    (b"just text\n", "a single value", None),
    (b"# nothing\n", "empty", None),
    (b"a:\n  b: 1\na.b: 2\n", "nested and dotted (line 2)", 3),
    (b"a: 99999999999999999999\n", "beyond 64 bits", 1),
    (b"ok: 1\n_x: 1\n", "reserved", 2),
    (b"a: " + b"[" * 150 + b"]" * 150 + b"\n", "nested deeper", 1),
    (b"a: " + b"[" * 50_000 + b"\n", "", None),
    (b"a: \xff\n", "not UTF-8", None),
    (b"a: \x01\n", "not YAML", None),
    (BOMB, "stands for more than", None),
]


@pytest.mark.parametrize("dry_run", ["true", "false"])
@pytest.mark.parametrize(("body", "code", "words"), BAD_STATES, ids=repr_of)
@SHARED
async def test_states_in_json(deployed: Api, body: bytes, code: str, words: str, dry_run: str) -> None:
    refused = await deployed.deploy(body, dry_run=dry_run)
    assert (refused.status, refused.code) == (400, code)
    assert words in refused.json["detail"]
    assert len(refused.body) < 10_000


@pytest.mark.parametrize(("body", "words", "line"), BAD_YAML, ids=repr_of)
@SHARED
async def test_states_in_yaml(deployed: Api, body: bytes, words: str, line: int | None) -> None:
    refused = await deployed.deploy(body, media=YAML)
    assert (refused.status, refused.code in ("invalid_body", "invalid_values")) == (400, True)
    assert words in refused.json["detail"]
    if line is not None:
        assert refused.json["problems"][0]["line"] == line
        assert refused.json["problems"][0]["column"] >= 1
        assert f"line {line}, column" in refused.json["detail"]


@SHARED
async def test_all_problems_are_told_at_once(deployed: Api) -> None:
    refused = await deployed.deploy(b"_x: 1\na/b: 2\nbig: 99999999999999999999\n' c': 1\n", media=YAML)
    found = [(one["key"], one["line"], one["column"]) for one in refused.json["problems"]]
    assert found == [("_x", 1, 1), ("a/b", 2, 1), ("big", 3, 1), (" c", 4, 1)]
    refused = await deployed.deploy({f"_{n}": 1 for n in range(200)})
    assert (refused.json["problems_total"], len(refused.json["problems"])) == (200, 50)
    assert "and 197 more" in refused.json["detail"]


async def test_what_only_looks_odd_is_taken(api: Api) -> None:
    odd = {"a..b": 1, "...": 2, "with space": None, "ключ": "\u2028\U0001f600", "x" * 1024: [], "-": {}, "a\\b": ""}
    done = await api.deploy(odd)
    assert await api.values(done) == odd
    numbers = (
        b'{"a": 18446744073709551615, "b": -9223372036854775808, "c": 1.5e300, "d": ' + b"[" * 100 + b"]" * 100 + b"}"
    )
    assert (await api.deploy(numbers, overrides="discard", force="x")).status == 200
    text = json.dumps({"a": "x" * (MB - 2)}).encode()
    assert (await api.deploy(text, force="x")).status == 200
    yaml = b"\xef\xbb\xbfyes: no\non: off\ndate: 2026-01-01\noct: 0o17\nbase: &b {x: 1}\nmore: {<<: *b, y: 2}\n"
    done = await api.deploy(yaml, media=YAML, force="x")
    assert await api.values(done) == {
        "yes": "no", "on": "off", "date": "2026-01-01", "oct": 15, "base.x": 1, "more.x": 1, "more.y": 2,
    }  # fmt: skip


VALUES = [
    body[6:-1] for body, _, _ in BAD_JSON if body.startswith(b'{"a": ') and body.endswith(b"}") and b"," not in body
]


@pytest.mark.parametrize("body", [b"", *VALUES], ids=repr_of)
@SHARED
async def test_values(deployed: Api, body: bytes) -> None:
    refused = await deployed.ask("PUT", "/v1/emergency/{ns}/production/a", body, reason="x")
    assert (refused.status, refused.code in ("invalid_body", "invalid_values")) == (400, True)
    assert "Traceback" not in refused.json["detail"]


@pytest.mark.parametrize(("body", "code", "words"), BAD_JSON, ids=repr_of)
@SHARED
async def test_changes(deployed: Api, body: bytes, code: str, words: str) -> None:
    wrapped = body if body.strip()[:1] != b"{" else b'{"set": ' + body + b"}"
    refused = await deployed.ask("PATCH", "/v1/config/{ns}/production", wrapped)
    assert (refused.status, refused.code in ("invalid_body", "invalid_values")) == (400, True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "nothing is set"),
        ({"set": {}}, "nothing is set"),
        ({"set": {}, "delete": []}, "nothing is set"),
        ({"sett": {"a": 1}}, "'sett' is no field"),
        ({"a": 1}, "'a' is no field"),
        ({"set": {"a": 1}, "extra": 1}, "'extra' is no field"),
        ({"set": [1]}, "'set' is no object"),
        ({"set": None}, "'set' is no object"),
        ({"delete": "a"}, "'delete' is no list"),
        ({"delete": [1]}, "'delete' is no list"),
        ({"delete": [None]}, "'delete' is no list"),
        ({"set": {"a": 1}, "delete": ["a"]}, "both set and deleted"),
        ({"delete": ["a", "a"]}, "deleted twice"),
        ({"delete": ["_meta/head"]}, "reserved"),
        ({"delete": ["../production/a"]}, "may not hold '/'"),
        ({"delete": ["\ud800"]}, "UTF-8"),
        ({"set": {"\ud800": 1}, "delete": ["\ud800"]}, ""),
        ({"set": [1], "delete": "x", "more": 1}, "'more' is no field"),
    ],
    ids=repr_of,
)
@SHARED
async def test_the_shape_of_changes(deployed: Api, body: Any, words: str) -> None:
    refused = await deployed.ask("PATCH", "/v1/config/{ns}/production", body)
    assert (refused.status, refused.code in ("invalid_body", "invalid_values")) == (400, True)
    assert words in refused.json["detail"]
    if len(body) == 3:
        assert refused.json["problems_total"] == 3


@SHARED
async def test_everything_that_is_wrong_with_a_change(deployed: Api) -> None:
    body = b'{"set": {"_x": 1, "b": NaN, "c": "\\ud800"}, "delete": ["_y", "a", "a", "b"], "more": 1}'
    refused = await deployed.ask("PATCH", "/v1/config/{ns}/production", body)
    found = [one["key"] for one in refused.json["problems"]]
    assert found == ["more", "_y", "a", "b", "_x", "b", "c"]


@SHARED
async def test_own_keys_that_nest(deployed: Api) -> None:
    for body in (b"[" + b'{"a":' * 400 + b"1" + b"}" * 400 + b"]", b'["a", 5]'):
        refused = await deployed.ask("PUT", "/v1/own-keys/{ns}/production", body)
        assert (refused.status, refused.code) == (400, "invalid_body")
    assert refused.json["problems"][0]["key"] == "[1]"


async def test_keys_of_a_change_are_literal(api: Api) -> None:
    done = await api.change({"a": {"b": 1}, "a.b": 2})
    assert await api.values(done) == {"a": {"b": 1}, "a.b": 2}


@pytest.mark.parametrize(
    "body",
    [
        {},
        None,
        "x",
        [1],
        [""],
        ["x" * 1025],
        [None],
        [["a"]],
        ["\ud800"],
        ["a"] * 1001,
        ["x" * 1000 + str(n) for n in range(70)],
    ],
    ids=repr_of,
)
@SHARED
async def test_own_keys(deployed: Api, body: Any) -> None:
    refused = await deployed.ask("PUT", "/v1/own-keys/{ns}/production", json.dumps(body).encode())
    assert (refused.status, refused.code) == (400, "invalid_body")


@pytest.mark.parametrize(
    "body",
    [b"x", b"{}", b"\x1f\x8b", *(gzip.compress(data, mtime=0) for data in (b"", b"{}", b"\0" * 10 * MB))],
    ids=repr_of,
)
@SHARED
async def test_restore_of_what_is_no_backup(deployed: Api, body: bytes) -> None:
    for dry_run in ("true", "false"):
        refused = await deployed.ask("POST", "/v1/restore", body, media="application/gzip", dry_run=dry_run)
        assert (refused.status, refused.code) == (400, "invalid_body")
