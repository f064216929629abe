"""Bodies of writes as text to values by key: JSON and YAML, strictly, with every problem and where it is.

A desired state is a mapping whose names nest: nested mappings flatten to dotted keys, a literal dotted key means the
same, and both at once is an error. A list, a scalar, an empty mapping, or a mapping under a key that is an object by
the schema, is a value. YAML is 1.2 (`no` and `on` are text) and read as nodes, so that a problem has its line and
column; JSON has them where it does not parse, and a key otherwise. Pure.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from configsvc.core.model import MAX_NESTING, MAX_VALUE_BYTES, canonical, key_write_problem
from configsvc.errors import InvalidRequest

MAX_NODES = 1_000_000
"""Values in a YAML document with its aliases followed: a few lines can stand for billions."""
MAX_PROBLEMS = 50
"""How many are told; the rest is counted."""
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")
_OLD_BREAK = re.compile("[\x85\u2028\u2029]")
_PREFIX = "tag:yaml.org,2002:"


class Problem(NamedTuple):
    """One thing that is wrong: with which key or name, where in the text, and what."""

    key: str
    detail: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{where}{_shown(self.key) + ' ' if self.key else ''}{self.detail}"

    def fields(self) -> dict[str, Any]:
        """As the problem document lists it."""
        key = self.key.encode("utf-8", "backslashreplace").decode()
        named = {"key": key or None, "detail": self.detail, "line": self.line, "column": self.column}
        return {name: value for name, value in named.items() if value is not None}


class Named(NamedTuple):
    """A member of an object: its value, and where its name stands."""

    value: Any
    line: int | None = None
    column: int | None = None


class Object(dict[str, Named]):
    """A parsed object, before it is decided whether it is a value or a level of names."""


class _Problems(Exception):
    def __init__(self, *found: Problem) -> None:
        self.found = found


def parse_json(text: bytes) -> Object:
    """A desired state's JSON, or a change's; raises `InvalidRequest` (`invalid_body`) with everything that is wrong."""
    return _an_object(_json(text))


def parse_yaml(text: bytes) -> Object:
    """A desired state's YAML; raises `InvalidRequest` (`invalid_body`) with everything that is wrong."""
    return _an_object(_yaml(text))


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
    _refuse(problems)
    return found


def flatten(tree: Object, objects: frozenset[str] = frozenset()) -> dict[str, bytes]:
    """The values by dotted key, as canonical JSON. `objects` are keys whose value is a mapping by the schema.

    Raises `InvalidRequest` (`invalid_values`) with every key and value that cannot be stored.
    """
    found: dict[str, bytes] = {}
    at: dict[str, Named] = {}
    problems: list[Problem] = []
    for key, member in _leaves(tree, "", objects):
        if key in found:
            first = f" (line {at[key].line})" if at[key].line else ""
            detail = f"is given twice, nested and dotted{first}; write it once"
            problems.append(Problem(key, detail, member.line, member.column))
            continue
        at[key] = member
        found[key] = _entry(key, member, problems)
    _refuse(problems)
    return found


def plain(members: Mapping[str, Named]) -> dict[str, bytes]:
    """Values by literal key, as canonical JSON: nothing nests. Raises as `flatten` does."""
    problems: list[Problem] = []
    found = {key: _entry(key, member, problems) for key, member in members.items()}
    _refuse(problems)
    return found


# ---- from the tree ---------------------------------------------------------------------------------------------------


def _leaves(tree: Object, prefix: str, objects: frozenset[str]) -> Iterator[tuple[str, Named]]:
    for name, member in tree.items():
        key = prefix + name
        if isinstance(member.value, Object) and member.value and key not in objects:
            yield from _leaves(member.value, key + ".", objects)
        else:
            yield key, member


def _entry(key: str, member: Named, problems: list[Problem]) -> bytes:
    if problem := key_write_problem(key):
        problems.append(Problem(key, problem, member.line, member.column))
    before = len(problems)
    value = _value(key, member.value, problems)
    problems[before:] = [one._replace(line=member.line, column=member.column) for one in problems[before:]]
    return value


def _value(key: str, value: Any, problems: list[Problem]) -> bytes:
    """A value's canonical JSON, within the limits of what is stored."""
    try:
        found = canonical(_bare(value, 1))
    except _Problems as error:
        problems += [one._replace(key=key) for one in error.found]
        return b"null"
    if len(found) > MAX_VALUE_BYTES:
        problems.append(Problem(key, f"has {len(found)} bytes as JSON, at most {MAX_VALUE_BYTES} are allowed"))
    return found


def _bare(value: Any, depth: int) -> Any:
    if isinstance(value, Object | list):
        if depth > MAX_NESTING:
            raise _Problems(Problem("", f"is nested deeper than {MAX_NESTING}"))
        if isinstance(value, list):
            return [_bare(one, depth + 1) for one in value]
        return {_text(name): _bare(member.value, depth + 1) for name, member in value.items()}
    if isinstance(value, str):
        return _text(value)
    if type(value) is int and not _INT_MIN <= value <= _INT_MAX:
        raise _Problems(Problem("", "holds an integer beyond 64 bits; store it as text"))
    return value


def is_broken(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, as JSON's escapes can: it has no UTF-8."""
    return _SURROGATE.search(text) is not None


def _text(text: str) -> str:
    if is_broken(text):
        raise _Problems(Problem("", "holds half of a surrogate pair (\\ud800 to \\udfff), which is no text"))
    return text


def _refuse(problems: list[Problem]) -> None:
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


def _shown(key: str) -> str:
    return ascii(key if len(key) <= 80 else key[:77] + "...")


def _an_object(value: Any) -> Object:
    if isinstance(value, Object):
        return value
    kind = "empty" if value is None else "a list" if isinstance(value, list) else "a single value"
    raise malformed(
        Problem("", f"the document is {kind}; it is an object of keys and values, {{}} where there are none")
    )


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise malformed(Problem("", f"the body is not UTF-8 (byte {error.start})")) from None


# ---- JSON ------------------------------------------------------------------------------------------------------------


def _json(body: bytes) -> Any:
    text = _decoded(body)
    doubled: list[Problem] = []

    def members(pairs: list[tuple[str, Any]]) -> Object:
        found = Object()
        for name, value in pairs:
            if name in found:
                doubled.append(Problem(name, "occurs twice in one object; keep one of them"))
            found[name] = Named(value)
        return found

    def constant(word: str) -> Any:
        raise malformed(Problem("", f"{word} is no JSON value; there are no such numbers in JSON"))

    def integer(digits: str) -> Any:
        # Python refuses to read thousands of digits; what is beyond 64 bits is refused later, with its key.
        return int(digits) if len(digits) < 100 else _INT_MAX + 1

    def number(digits: str) -> float:
        found = float(digits)
        if found in (float("inf"), float("-inf")):
            raise malformed(Problem("", f"the number {digits[:40]} is too large for a double; store it as text"))
        return found

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


# ---- YAML ------------------------------------------------------------------------------------------------------------


def _yaml(body: bytes) -> Any:
    text = _decoded(body)
    if match := _OLD_BREAK.search(text):
        # YAML 1.2 has it as a character, the parser as the end of a line: it would be lost without a word.
        before = text[: match.start()]
        detail = f"holds a bare U+{ord(match[0]):04X}; write it as an escape, in double quotes"
        raise malformed(Problem("", detail, before.count("\n") + 1, match.start() - before.rfind("\n")))
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
        if root is None:
            return None
        reading = _Nodes(yaml.constructor)
        value = reading.value(root, 1)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = f"not YAML: {_one_line(str(error.problem or error.context))}"
        raise malformed(
            Problem("", detail, mark.line + 1 if mark else None, mark.column + 1 if mark else None)
        ) from None
    except RecursionError:
        raise malformed(Problem("", f"nested deeper than {MAX_NESTING}")) from None
    except (YAMLError, ValueError) as error:
        raise malformed(Problem("", f"not YAML: {_one_line(str(error))}")) from None
    if reading.problems:
        raise malformed(*reading.problems)
    return value


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


class _Nodes:
    """YAML's nodes to values, with every problem and its mark."""

    def __init__(self, constructor: Any) -> None:
        self.problems: list[Problem] = []
        self._count = 0
        self._scalars: dict[str, Callable[[ScalarNode], Any]] = {
            "null": lambda node: None,
            "bool": lambda node: node.value.lower() == "true",
            "int": lambda node: _number(node, constructor.construct_yaml_int),
            "float": lambda node: _number(node, constructor.construct_yaml_float),
            "str": lambda node: _paired(node.value),
            # A date is text here: JSON has no such type, and nobody should be surprised by a format.
            "timestamp": lambda node: node.value,
            "value": lambda node: node.value,
            "merge": lambda node: node.value,
        }

    def value(self, node: Node, depth: int) -> Any:
        self._count += 1
        if depth > MAX_NESTING + 1:
            # Also the end of a node that holds itself.
            raise malformed(self._at(node, "", f"is nested deeper than {MAX_NESTING}"))
        if self._count > MAX_NODES:
            raise malformed(self._at(node, "", f"stands for more than {MAX_NODES} values, with its aliases followed"))
        match node:
            case MappingNode():
                return self._mapping(node, depth)
            case SequenceNode():
                self._known(node, "seq")
                return [self.value(one, depth + 1) for one in node.value]
            case _:
                return self._scalar(node)

    def _mapping(self, node: MappingNode, depth: int) -> Object:
        self._known(node, "map")
        merged, found = Object(), Object()
        for name_node, value_node in node.value:
            if name_node.tag == _PREFIX + "merge":
                for one in value_node.value if isinstance(value_node, SequenceNode) else [value_node]:
                    below = self.value(one, depth + 1)
                    if not isinstance(below, Object):
                        self.problems.append(self._at(one, "<<", "merges mappings only"))
                        continue
                    # Of several, the first has the say; the mapping's own names come before all.
                    merged = Object({**below, **merged})
                continue
            name = self._name(name_node)
            value = self.value(value_node, depth + 1)
            if name in found:
                line = found[name].line
                self.problems.append(
                    self._at(name_node, name, f"is given twice (first in line {line}); keep one of them")
                )
            found[name] = Named(value, name_node.start_mark.line + 1, name_node.start_mark.column + 1)
        return Object({**merged, **found})

    def _name(self, node: Node) -> str:
        if isinstance(node, ScalarNode) and node.tag in (_PREFIX + "str", _PREFIX + "value"):
            return _paired(str(node.value))
        if isinstance(node, ScalarNode):
            self.problems.append(self._at(node, node.value, "is no text; put the name in quotes"))
            return str(node.value)
        self.problems.append(self._at(node, "", "a name is text, not a list or a mapping"))
        return ""

    def _scalar(self, node: Any) -> Any:
        read = self._scalars.get(str(node.tag).removeprefix(_PREFIX)) if self._known(node, None) else None
        if read is None:
            return None
        try:
            found = read(node)
        except ValueError:
            self.problems.append(self._at(node, "", f"{_shown(str(node.value))} is no value of its type"))
            return None
        if isinstance(found, float) and (found != found or found in (float("inf"), float("-inf"))):
            self.problems.append(self._at(node, "", f"{node.value} is no JSON value; write it as text, in quotes"))
        return found

    def _known(self, node: Node, kind: str | None) -> bool:
        tag = str(node.tag)
        known = (
            tag == _PREFIX + kind if kind else tag.startswith(_PREFIX) and tag.removeprefix(_PREFIX) in self._scalars
        )
        if not known:
            self.problems.append(self._at(node, "", f"the tag {_shown(tag)} has no meaning here; remove it"))
        return known

    def _at(self, node: Node, key: str, detail: str) -> Problem:
        return Problem(key, detail, node.start_mark.line + 1, node.start_mark.column + 1)


def _number(node: ScalarNode, read: Callable[[ScalarNode], Any]) -> Any:
    """A number as YAML 1.2 has them; the parser takes older spellings for numbers too."""
    text = str(node.value)
    return text if "_" in text or text.lstrip("+-").lower().startswith("0b") else read(node)


def _paired(text: str) -> str:
    """With two escapes that JSON writes for one character as that character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") if is_broken(text) else text
