"""Bodies of writes as text to values by key: strictly, with every problem and where it is. Pure.

A desired state is a mapping whose names nest: nested mappings flatten to dotted keys, a literal dotted key means the
same, and both at once is an error. A list, a scalar, an empty mapping, or a mapping under a key that is an object by
the schema, is a value. JSON is read here and YAML in `yaml_documents.py`, into the same tree. Where a text is no JSON,
the problem has its line and column; where it is, a key.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from configsvc.core.model import MAX_KEY_BYTES, MAX_NESTING, MAX_VALUE_BYTES, canonical, key_write_problem
from configsvc.errors import InvalidRequest

MAX_STATE_BYTES = 128 * 1024 * 1024
"""Keys and values of a document, every name written out and every alias followed: a short text can stand for much."""
MAX_PARTS = 2_000_000
"""Names, values, commas and brackets in a JSON text: each may take a hundred bytes, and 64 MiB can have 40 million."""
MAX_PROBLEMS = 50
"""How many are told; the rest is counted."""
EMPTY_KEY = "a key is empty"
"""What is wrong with it, with the subject that it cannot be itself."""
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Problem(NamedTuple):
    """One thing that is wrong: with which key or name, where in the text, and what."""

    key: str
    detail: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{where}{shown(self.key) + ' ' if self.key else ''}{self.detail}"

    def fields(self) -> dict[str, Any]:
        """As the problem document lists it; of what is too long for a key, the beginning."""
        key = self.key if len(self.key) <= MAX_KEY_BYTES else self.key[:MAX_KEY_BYTES] + "..."
        key = key.encode("utf-8", "backslashreplace").decode()
        named = {"key": key or None, "detail": self.detail, "line": self.line, "column": self.column}
        return {name: value for name, value in named.items() if value is not None}


class Named(NamedTuple):
    """A member of an object: its value, and where its name stands."""

    value: Any
    line: int | None = None
    column: int | None = None


class Object(dict[str, Named]):
    """A parsed object, before it is decided whether it is a value or a level of names."""

    __slots__ = ()


class NoNumber(NamedTuple):
    """What stands where a number was meant, why it is none of ours, and where, if that is known."""

    why: str
    line: int | None = None
    column: int | None = None


class _Unfit(Exception):
    """Why a value cannot be stored, and where in it, as a `Problem` has it."""


def parse_json(text: bytes) -> Object:
    """A desired state's JSON, or a change's; raises `InvalidRequest` (`invalid_body`) with everything that is wrong."""
    return an_object(_json(text))


def parse_list(text: bytes) -> list[Any]:
    """A JSON list; raises `InvalidRequest` (`invalid_body`)."""
    value = _json(text)
    if not isinstance(value, list):
        raise malformed(Problem("", "the document is no list; it is one, [] where nothing is in it"))
    return value


def parse_value(text: bytes) -> bytes:
    """One JSON value as canonical JSON; raises `InvalidRequest` (`invalid_body`, `invalid_values`)."""
    value = _json(text)
    problems: list[Problem] = []
    found = _value("", value, problems)
    refuse([one._replace(detail=f"the value {one.detail}") for one in problems])
    return found


def flatten(tree: Object, objects: frozenset[str] = frozenset()) -> dict[str, bytes]:
    """The values by dotted key, as canonical JSON. `objects` are keys whose value is a mapping by the schema.

    Raises `InvalidRequest` (`invalid_values`) with every key and value that cannot be stored.
    """
    found: dict[str, bytes] = {}
    at: dict[str, Named] = {}
    problems: list[Problem] = []
    size = 0
    for key, member in _leaves(tree, "", objects, problems):
        if key in found:
            first = f" (line {at[key].line})" if at[key].line else ""
            detail = f"is given twice, nested and dotted{first}; write it once"
            problems.append(Problem(key, detail, member.line, member.column))
            continue
        at[key] = member
        found[key] = _entry(key, member, problems)
        size += len(key) + len(found[key])
        if size > MAX_STATE_BYTES:
            detail = f"the document has more than {MAX_STATE_BYTES} bytes with its names written out"
            problems.insert(0, Problem("", detail))
            break
    refuse(problems)
    return found


def plain(members: Mapping[str, Named], problems: list[Problem]) -> dict[str, bytes]:
    """Values by literal key, as canonical JSON: nothing nests. Adds what cannot be stored to `problems`."""
    return {key: _entry(key, member, problems) for key, member in members.items()}


# ---- from the tree ---------------------------------------------------------------------------------------------------


def _leaves(
    tree: Object, prefix: str, objects: frozenset[str], problems: list[Problem], depth: int = 1
) -> Iterator[tuple[str, Named]]:
    for name, member in tree.items():
        key = prefix + name
        if not isinstance(member.value, Object) or not member.value or key in objects:
            yield key, member
        elif len(key) >= MAX_KEY_BYTES or depth > MAX_NESTING:
            # Not followed: every key below repeats this beginning.
            why = "nested deeper than" if depth > MAX_NESTING else "the beginning of keys with more bytes than"
            most = MAX_NESTING if depth > MAX_NESTING else MAX_KEY_BYTES
            problems.append(Problem(key, f"is {why} {most}", member.line, member.column))
        else:
            yield from _leaves(member.value, key + ".", objects, problems, depth + 1)


def _entry(key: str, member: Named, problems: list[Problem]) -> bytes:
    if problem := key_write_problem(key):
        problems.append(Problem(key, problem if key else EMPTY_KEY, member.line, member.column))
    before = len(problems)
    value = _value(key, member.value, problems)
    problems[before:] = [
        one if one.line else one._replace(line=member.line, column=member.column) for one in problems[before:]
    ]
    return value


def _value(key: str, value: Any, problems: list[Problem]) -> bytes:
    """A value's canonical JSON, within the limits of what is stored."""
    try:
        found = canonical(_bare(value, 1))
    except _Unfit as error:
        problems.append(Problem(key, *error.args))
        return b"null"
    if len(found) > MAX_VALUE_BYTES:
        problems.append(Problem(key, f"has {len(found)} bytes as JSON, at most {MAX_VALUE_BYTES} are allowed"))
        return b"null"
    return found


def _bare(value: Any, depth: int) -> Any:
    if isinstance(value, Object | list):
        if depth > MAX_NESTING:
            raise _Unfit(f"is nested deeper than {MAX_NESTING}")
        if isinstance(value, list):
            return [_bare(one, depth + 1) for one in value]
        return {_text(name): _bare(member.value, depth + 1) for name, member in value.items()}
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, NoNumber):
        raise _Unfit(f"holds {value.why}", value.line, value.column)
    if type(value) is int and not _INT_MIN <= value <= _INT_MAX:
        raise _Unfit("holds an integer beyond 64 bits; store it as text")
    return value


def is_broken(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, as JSON's escapes can: it has no UTF-8."""
    return _SURROGATE.search(text) is not None


def _text(text: str) -> str:
    if is_broken(text):
        raise _Unfit("holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")
    return text


# ---- refusals --------------------------------------------------------------------------------------------------------


def refuse(problems: list[Problem]) -> None:
    """Raise `InvalidRequest` (`invalid_values`) where there are problems with what was to be stored."""
    if problems:
        raise InvalidRequest(_sentence(problems), code="invalid_values", **_listed(problems))


def malformed(*problems: Problem) -> InvalidRequest:
    """The refusal of a body that is not of the expected shape."""
    return InvalidRequest(_sentence(problems), code="invalid_body", **_listed(problems))


def _sentence(problems: Any) -> str:
    text = "; ".join(str(one) for one in problems[:3])
    return text + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")


def _listed(problems: Any) -> dict[str, Any]:
    return {"problems": [one.fields() for one in problems[:MAX_PROBLEMS]], "problems_total": len(problems)}


def shown(text: str) -> str:
    """A text of a sender's as a sentence may repeat it: quoted, on one line, bounded."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def an_object(value: Any) -> Object:
    """The document, which has to be an object; raises `InvalidRequest` (`invalid_body`)."""
    if isinstance(value, Object):
        return value
    kind = "empty" if value is None else "a list" if isinstance(value, list) else "a single value"
    raise malformed(
        Problem("", f"the document is {kind}; it is an object of keys and values, {{}} where there are none")
    )


def decoded(text: bytes) -> str:
    """The body as text; raises `InvalidRequest` (`invalid_body`)."""
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise malformed(Problem("", f"the body is not UTF-8 (byte {error.start})")) from None


# ---- JSON ------------------------------------------------------------------------------------------------------------


def _has_many_parts(body: bytes) -> bool:
    """Whether a text has more than `MAX_PARTS`, found before anything is made of them."""

    def between(start: int, end: int) -> int:
        return sum(body.count(sign, start, end) for sign in (b",", b"[", b"{"))

    if between(0, len(body)) + body.count(b'"') // 2 <= MAX_PARTS:
        return False
    # Some of these may be in texts, which are one part each.
    found = at = 0
    for match in _STRING.finditer(body):
        found += 1 + between(at, match.start())
        at = match.end()
        if found > MAX_PARTS:
            return True
    return found + between(at, len(body)) > MAX_PARTS


def _json(body: bytes) -> Any:
    text = decoded(body)
    if _has_many_parts(body):
        raise malformed(Problem("", f"has more than {MAX_PARTS} names, values, commas and brackets"))
    doubled: list[Problem] = []

    def members(pairs: list[tuple[str, Any]]) -> Object:
        found = Object()
        for name, value in pairs:
            if name in found:
                doubled.append(Problem(name, "occurs twice in one object; keep one of them"))
            found[name] = Named(value)
        return found

    def integer(digits: str) -> Any:
        # Python refuses to read thousands of digits; what is beyond 64 bits is refused later, with its key.
        return int(digits) if len(digits) < 100 else _INT_MAX + 1

    def number(digits: str) -> Any:
        found = float(digits)
        if found in (float("inf"), float("-inf")):
            return NoNumber(f"the number {digits[:40]}, too large for a double; store it as text")
        return found

    def constant(word: str) -> NoNumber:
        return NoNumber(f"{word}, which is no JSON value; there are no such numbers in JSON")

    try:
        value = json.loads(
            text, object_pairs_hook=members, parse_constant=constant, parse_int=integer, parse_float=number
        )
    except json.JSONDecodeError as error:
        detail = "the document ends too early" if error.pos >= len(text.rstrip()) else f"not JSON: {error.msg}"
        raise malformed(Problem("", detail, error.lineno, error.colno)) from None
    except RecursionError:
        raise malformed(Problem("", f"nested deeper than {MAX_NESTING}")) from None
    if doubled:
        raise malformed(*doubled)
    return value
