"""Bodies as text to values by key: what is the same in JSON and YAML, and every bad input with its place."""

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from configsvc.core import documents, yaml_documents
from configsvc.core.documents import Named, Object, Problem, flatten, parse_json, parse_list, parse_value
from configsvc.core.model import MAX_NESTING, canonical, key_write_problem
from configsvc.core.yaml_documents import parse_yaml
from configsvc.errors import InvalidRequest

SEGMENTS = st.text("abcdefghé-0 ", min_size=1, max_size=6).filter(lambda text: text == text.strip())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("xyz", max_size=3), inner, max_size=3)
    ),
)
LEAVES = st.one_of(SCALARS, st.lists(VALUES, max_size=3), st.just({}))
TREES: st.SearchStrategy[Any] = st.recursive(
    st.dictionaries(SEGMENTS, LEAVES, max_size=4),
    lambda inner: st.dictionaries(SEGMENTS, st.one_of(LEAVES, inner), max_size=4),
    max_leaves=12,
)


def dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same state with every name written out."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            found |= dotted(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def refused(text: bytes, read: Any = parse_json) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        found = read(text)
        flatten(found)
    return caught.value


# ---- the same state --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(TREES)
def test_nested_is_dotted(tree: dict[str, Any]) -> None:
    flat = dotted(tree)
    found = flatten(parse_json(as_json(tree)))
    assert found == flatten(parse_json(as_json(flat)))
    assert found == {key: canonical(value) for key, value in flat.items()}


@settings(deadline=None)
@given(TREES, st.data())
def test_halfway_nested_is_the_same_too(tree: dict[str, Any], data: st.DataObject) -> None:
    mixed: dict[str, Any] = {}
    for key, value in dotted(tree).items():
        parts = key.split(".")
        at = data.draw(st.integers(1, len(parts)))
        head, rest = ".".join(parts[:at]), ".".join(parts[at:])
        # An object in the way stands for another spelling; then all of it stays dotted.
        if rest and isinstance(mixed.setdefault(head, {}), dict) and rest not in mixed[head]:
            mixed[head][rest] = value
        else:
            mixed.setdefault(key, value)
    found = {name: value for name, value in mixed.items() if value != {} or name in dotted(tree)}
    assert flatten(parse_json(as_json(found))) == flatten(parse_json(as_json(tree)))


@settings(deadline=None)
@given(TREES)
def test_json_is_yaml(tree: dict[str, Any]) -> None:
    """YAML 1.2 in flow style: the same text is read by both."""
    text = json.dumps(tree).encode()
    assert flatten(parse_yaml(text)) == flatten(parse_json(text))


@settings(deadline=None)
@given(TREES)
def test_block_style_is_the_same(tree: dict[str, Any]) -> None:
    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = False
    # This library loses what it folds where there is no space.
    yaml.width = 10**6
    yaml.dump(json.loads(json.dumps(tree)), out)
    assert flatten(parse_yaml(out.getvalue().encode())) == flatten(parse_json(as_json(tree)))


@settings(deadline=None)
@given(VALUES)
def test_a_value_is_canonical(value: Any) -> None:
    assert parse_value(as_json(value)) == canonical(value)
    assert parse_value(json.dumps(value, indent=2).encode()) == canonical(value)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (parse_json, parse_yaml, parse_list, parse_value):
        try:
            found = read(data)
            if isinstance(found, Object):
                flatten(found)
        except InvalidRequest as error:
            told = json.dumps(error.fields["problems"], ensure_ascii=False)
            (error.detail + told).encode()


@settings(deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Lone surrogates and all: what is told has a form in UTF-8."""
    for body in (json.dumps({text: text}), json.dumps({"a": {text: [text]}}), json.dumps([text])):
        for read in (parse_json, parse_yaml):
            try:
                found = flatten(read(body.encode()))
            except InvalidRequest as error:
                (error.detail + json.dumps(error.fields, ensure_ascii=False)).encode()
            else:
                assert all(key_write_problem(key) is None for key in found)


def test_keys_that_are_objects_by_the_schema_do_not_nest() -> None:
    tree = parse_json(b'{"limits": {"a": {"b": 1}}, "other": {"limits": {"a": 1}}}')
    assert flatten(tree, frozenset({"limits"})) == {"limits": b'{"a":{"b":1}}', "other.limits.a": b"1"}
    assert flatten(tree, frozenset({"limits.a", "other"})) == {"limits.a": b'{"b":1}', "other": b'{"limits":{"a":1}}'}


def test_lists_and_empty_objects_are_values() -> None:
    assert flatten(parse_json(b'{"a": [], "b": {}, "c": [{"d": {"e": 1}}]}')) == {
        "a": b"[]",
        "b": b"{}",
        "c": b'[{"d":{"e":1}}]',
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", '"no"'),
        ("on", '"on"'),
        ("Yes", '"Yes"'),
        ("y", '"y"'),
        ("true", "true"),
        ("False", "false"),
        ("~", "null"),
        ("", "null"),
        ("0o17", "15"),
        ("017", "17"),
        ("0x1F", "31"),
        ("1_000", '"1_000"'),
        ("1_000.5", '"1_000.5"'),
        ("0b11", '"0b11"'),
        ("+12", "12"),
        (".5", "0.5"),
        ("1e3", "1000.0"),
        ('"\\ud83d\\ude00"', '"\U0001f600"'),
        ("12:30:45", '"12:30:45"'),
        ("2026-01-01", '"2026-01-01"'),
        ("2026-01-01T00:00:00Z", '"2026-01-01T00:00:00Z"'),
        ("'1'", '"1"'),
        ("=", '"="'),
        ("|\n  a\n  b\n", '"a\\nb\\n"'),
        ("!!str 5", '"5"'),
        ("!!int '5'", "5"),
        ("!!float 5", "5.0"),
        ("!!bool True", "true"),
        ("!!null ~", "null"),
    ],
)
def test_yaml_is_1_2(text: str, value: str) -> None:
    assert flatten(parse_yaml(f"a: {text}".encode()))["a"].decode() == value


def test_anchors_and_merges() -> None:
    text = b"a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{y: 5}, *a], z: 0}\nd: *a\n"
    assert flatten(parse_yaml(text)) == {
        "a.x": b"1",
        "a.y": b"2",
        "b.x": b"1",
        "b.y": b"3",
        "c.x": b"1",
        "c.y": b"5",
        "c.z": b"0",
        "d.x": b"1",
        "d.y": b"2",
    }


def test_nothing_of_a_document_is_printed(recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]) -> None:
    """The parser warns of some things with a piece of the text, which may be secret."""
    assert flatten(parse_yaml(b"a: &x secret\nb: &x other\nc: *x\n"))["c"] == b'"other"'
    assert flatten(parse_yaml(b"a: !!float 1e3"))["a"] == b"1000.0"
    refused(b"%YAML 1.1\n---\na: !!float 1e3\n", parse_yaml)
    assert not recwarn
    assert capfd.readouterr() == ("", "")


def test_a_byte_order_mark_is_passed_over() -> None:
    assert flatten(parse_json(b'\xef\xbb\xbf{"a": 1}')) == {"a": b"1"}
    assert flatten(parse_yaml(b"\xef\xbb\xbfa: 1")) == {"a": b"1"}


# ---- what is refused, and where --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        (b"{", 1, 2),
        (b'{"a": 1,}', 1, 9),
        (b'{\n  "a" 1\n}', 2, 7),
        (b'{"a": 1}\n\nx', 3, 1),
        (b'{"a": tru}', 1, 7),
        (b'{"a": "x\ny"}', 1, 9),
        (b'{"a": 01}', 1, 8),
        (b'{"a": "\\x"}', 1, 8),
    ],
)
def test_json_that_does_not_parse_has_a_place(text: bytes, line: int, column: int) -> None:
    error = refused(text)
    assert error.code == "invalid_body"
    (problem,) = error.fields["problems"]
    assert (problem["line"], problem["column"]) == (line, column)
    assert error.detail.startswith(f"line {line}, column {column}: ")


@pytest.mark.parametrize(
    ("text", "line", "column", "key"),
    [
        (b"a: 1\nb: 2\na: 3\n", 3, 1, "a"),
        (b"a:\n  b: 1\n  b: 1\n", 3, 3, "b"),
        (b"{a: 1, a: 2}", 1, 8, "a"),
        (b"a: 1\nb: .nan\n", 2, 4, "b"),
        (b"a: 1\nb:\n  - .inf\n", 3, 5, "b"),
        (b"a: !x 1\n", 1, 4, None),
        (b"ok: 1\n2: x\n", 2, 1, "2"),
        (b"ok: 1\ntrue: x\n", 2, 1, "true"),
        (b"[a]: x\n", 1, 1, None),
        (b"a: {<<: 5}\n", 1, 9, "<<"),
        (b"a: !!int x\n", 1, 4, None),
        (b'a: !!int ""\n', 1, 4, None),
        (b'a: !!float ""\n', 1, 4, None),
        (b"a: !!bool yes\n", 1, 4, None),
        (b"a: !!bool 1\n", 1, 4, None),
        (b"a: !!null x\n", 1, 4, None),
        (b"%YAML 1.1\n---\na: yes\n", None, None, None),
        (b"a: 1\n b: 2\n", 2, 3, None),
        (b"a: *b\n", 1, 4, None),
        ("ok: 1\na: 'x\u2028y'\n".encode(), 2, 6, None),
        (b"a: 1\n---\nb: 1\n", 2, 1, None),
    ],
)
def test_yaml_that_is_wrong_has_a_place(text: bytes, line: int, column: int, key: str | None) -> None:
    error = refused(text, parse_yaml)
    (problem,) = error.fields["problems"]
    assert (problem.get("line"), problem.get("column"), problem.get("key")) == (line, column, key)


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (b'{"_a": 1}', "_a", "reserved"),
        (b'{"a/b": 1}', "a/b", "'/'"),
        (b'{"..": 1}', "..", "'..'"),
        (b'{"": 1}', None, "a key is empty"),
        (b'{" a": 1}', " a", "white space"),
        (b'{"e\\u0301": 1}', "e\u0301", "normal form C"),
        (b'{"a\\u0001": 1}', "a\x01", "U+0001"),
        (b'{"a": 18446744073709551616}', "a", "beyond 64 bits"),
        (b'{"a": [-9223372036854775809]}', "a", "beyond 64 bits"),
        (b'{"a": {"b": 1}, "a.b": 1}', "a.b", "nested and dotted"),
        (b'{"a": {"b": {"c": 1}}, "a.b": {"c": 1}}', "a.b.c", "nested and dotted"),
    ],
)
def test_values_that_cannot_be_stored(read: Any, text: bytes, key: str | None, words: str) -> None:
    error = refused(text, read)
    assert error.code == "invalid_values"
    (problem,) = error.fields["problems"]
    assert problem.get("key") == key
    assert words in problem["detail"]
    assert ("line" in problem) is (read is parse_yaml)


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_are_none(word: bytes) -> None:
    assert "is no JSON value" in refused(b'{"a": ' + word + b"}").detail
    assert "too large for a double" in refused(b'{"a": -1e400}').detail


def test_all_problems_at_once() -> None:
    error = refused(as_json({f"_{n}": 1 for n in range(60)}))
    assert (error.fields["problems_total"], len(error.fields["problems"])) == (60, 50)
    assert error.detail.endswith("; and 57 more")
    twice = refused(b'{"a": 1, "a": 2, "b": {"c": 1, "c": 2}}')
    assert [one["key"] for one in twice.fields["problems"]] == ["c", "a"]
    mixed = refused(b'{"a": NaN, "_b": 1, "c": {"d": [-1e400]}, "e": "\\ud800"}')
    assert [one["key"] for one in mixed.fields["problems"]] == ["a", "_b", "c.d", "e"]
    mixed = refused(b'a: .nan\n_c: 1\n"d/e": 2\nf: 1e400\ng: 100000000000000000000\n', parse_yaml)
    found = [(one["key"], one["line"], one["column"]) for one in mixed.fields["problems"]]
    assert found == [("a", 1, 4), ("_c", 2, 1), ("d/e", 3, 1), ("f", 4, 4), ("g", 5, 1)]


def test_a_value_just_within_and_just_beyond_its_limits() -> None:
    deep = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert parse_value(deep) == deep
    assert "nested deeper" in refused(b"[" + deep + b"]", parse_value).detail
    long = b'"' + b"x" * (2**20 - 2) + b'"'
    assert parse_value(long) == long
    assert "the value has 1048577 bytes" in refused(b'"' + b"x" * (2**20 - 1) + b'"', parse_value).detail


@pytest.mark.parametrize("read", [parse_json, parse_yaml, parse_list, parse_value])
@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 50_000, b"[" * 5000 + b"]" * 5000])
def test_nesting_without_end(read: Any, text: bytes) -> None:
    assert refused(text, read).status == 400


def test_a_few_lines_that_stand_for_billions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_documents, "MAX_NODES", 10_000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    text = "\n".join(lines).encode()
    assert f"stands for more than {10_000 + len(text) // 2} values" in refused(text, parse_yaml).detail
    assert "is nested deeper" in refused(b"a: &a {b: *a}\n", parse_yaml).detail


def test_short_texts_that_stand_for_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is small, and what it stands for is not: neither is put together before it is refused."""
    monkeypatch.setattr(yaml_documents, "MAX_STATE_BYTES", 20_000)
    monkeypatch.setattr(documents, "MAX_STATE_BYTES", 20_000)
    aliased = f"a: &a {'x' * 1000}\nb: [{', '.join(['*a'] * 30)}]\n"
    assert "stands for more than 20000 bytes" in refused(aliased.encode(), parse_yaml).detail
    named = f"a: &a {{{'x' * 1000}: 1}}\nb: [{', '.join(['*a'] * 30)}]\n"
    assert "stands for more than 20000 bytes" in refused(named.encode(), parse_yaml).detail
    prefixed = as_json({"x" * 1000: {f"{n:03}": 1 for n in range(30)}})
    assert "more than 20000 bytes with its names written out" in refused(prefixed).detail


@pytest.mark.parametrize("text", [b'["a",%s1]', b"[%s1]", b'{"a":[%s{}]}'])
def test_texts_of_very_many_parts(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    """The text is a fraction of what is made of it."""
    monkeypatch.setattr(documents, "MAX_PARTS", 1000)
    for part in (b"[],", b'"",', b'{"b":1},', b"1,", b'"\\\\",', b'"\\"",', b'"\n"'):
        assert "has more than 1000 names" in refused(text % (part * 1000), parse_list).detail
    assert parse_value(as_json('[{,\\"' * 1000)) == as_json('[{,\\"' * 1000)
    few = as_json([["a,b", {"c": "[["}]] * 70)
    assert parse_list(few) is not None


def test_names_that_are_too_long_for_a_key_are_not_followed() -> None:
    """Each key below would repeat them: a megabyte of text could stand for a terabyte."""
    (problem,) = refused(as_json({"x" * 100_000: {str(n): 1 for n in range(1000)}})).fields["problems"]
    assert problem["key"] == "x" * 1024 + "..."
    assert "more bytes than 1024" in problem["detail"]
    deep = b'{"":' * 500 + b"1" + b"}" * 500
    for read in (parse_json, parse_yaml):
        assert "nested deeper than 100" in refused(deep, read).detail


def test_what_is_told_is_bounded() -> None:
    for text in (b"a: 1e" + b"9" * 100_000, b"a: " + b"9" * 100_000, b"a: !" + b"x" * 100_000 + b" 1"):
        assert len(json.dumps(refused(text, parse_yaml).fields)) < 1000
    assert len(json.dumps(refused(as_json({"x" * 100_000: 1})).fields)) < 2000


def test_many_aliases_in_merges_are_no_more_work_than_they_are_values(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"a: &a {{{', '.join(f'k{n}: 1' for n in range(100))}}}\nb: {{<<: [{', '.join(['*a'] * 1000)}]}}\n"
    assert len(flatten(parse_yaml(text.encode()))) == 200
    monkeypatch.setattr(yaml_documents, "MAX_NODES", 50_000)
    assert "aliases followed" in refused(text.encode(), parse_yaml).detail


def test_what_is_no_object_is_told_what_it_is() -> None:
    for read in (parse_json, parse_yaml):
        for text, kind in ((b"[1]", "a list"), (b"5", "a single value"), (b"null", "empty")):
            assert f"the document is {kind}; it is an object" in refused(text, read).detail
    assert "the document is empty" in refused(b"# only this\n", parse_yaml).detail
    assert "is no list" in refused(b"{}", parse_list).detail


def test_problems_as_text() -> None:
    assert str(Problem("a", "is odd", 2, 3)) == "line 2, column 3: 'a' is odd"
    assert str(Problem("", "is odd")) == "is odd"
    assert Problem("\ud800", "x").fields()["key"] == "\\ud800"
    problems: list[Problem] = []
    assert documents.plain({"a.b": Named(Object(c=Named(1)))}, problems) == {"a.b": b'{"c":1}'}
    assert not problems
