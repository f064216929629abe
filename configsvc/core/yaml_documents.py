"""A desired state's YAML, read as nodes, so that a problem has its line and column. It is 1.2: `no` and `on` are text.

The only module that loads the YAML parser for bodies: whoever is sent none goes without it. Pure.
"""

import re
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from configsvc.core.documents import (
    MAX_STATE_BYTES,
    Named,
    NoNumber,
    Object,
    Problem,
    an_object,
    decoded,
    is_broken,
    malformed,
)
from configsvc.core.documents import shown as quoted
from configsvc.core.model import MAX_NESTING

MAX_NODES = 100_000
"""Values that a document may have with its aliases followed, beyond those that are written out: a few lines can stand
for billions."""
_OLD_BREAK = re.compile("[\x85\u2028\u2029]")
_PREFIX = "tag:yaml.org,2002:"
MAX_DIGITS = 100
"""An integer with more is not even read: Python refuses thousands of them."""
_INT = re.compile(r"([-+]?)(0o[0-7]+|0x[0-9a-fA-F]+|[0-9]+)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS = {"true": True, "false": False}
_NULLS = ("", "~", "null")


def parse_yaml(text: bytes) -> Object:
    """A desired state's YAML; raises `InvalidRequest` (`invalid_body`) with everything that is wrong."""
    return an_object(_yaml(text))


def _yaml(body: bytes) -> Any:
    text = decoded(body)
    if match := _OLD_BREAK.search(text):
        # YAML 1.2 has it as a character, the parser as the end of a line: it would be lost without a word.
        before = text[: match.start()]
        detail = f"holds a bare U+{ord(match[0]):04X}; write it as an escape, in double quotes"
        raise malformed(Problem("", detail, before.count("\n") + 1, match.start() - before.rfind("\n")))
    yaml = YAML(typ="safe", pure=True)
    # It would print a piece of the document to stderr.
    yaml.composer.warn_double_anchors = False
    try:
        root = yaml.compose(text)
        if yaml.resolver.processing_version != (1, 2):
            raise malformed(
                Problem("", "the document says that it is no YAML 1.2, and is read as that; remove the %YAML line")
            )
        if root is None:
            return None
        # No value takes less than two characters.
        reading = _Nodes(len(text) // 2 + MAX_NODES)
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

    def __init__(self, most: int) -> None:
        self.problems: list[Problem] = []
        self._most = most
        self._count = 0
        self._size = 0
        self._scalars: dict[str, Callable[[ScalarNode], Any]] = {
            "null": _null,
            "bool": _bool,
            "int": _int,
            "float": _float,
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
        if self._count > self._most:
            raise malformed(self._at(node, "", f"stands for more than {self._most} values, with its aliases followed"))
        match node:
            case MappingNode():
                return self._mapping(node, depth)
            case SequenceNode():
                self._known(node, "seq")
                return [self.value(one, depth + 1) for one in node.value]
            case _:
                self._measure(node)
                return self._scalar(node)

    def _measure(self, node: Any) -> None:
        """Count a text each time that it is stood for: a value repeats it."""
        self._size += len(node.value)
        if self._size > MAX_STATE_BYTES:
            detail = f"stands for more than {MAX_STATE_BYTES} bytes, with its aliases followed"
            raise malformed(self._at(node, "", detail))

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
                    for name, member in below.items():
                        merged.setdefault(name, member)
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
        if isinstance(node, ScalarNode):
            self._measure(node)
            if node.tag not in (_PREFIX + "str", _PREFIX + "value"):
                self.problems.append(self._at(node, node.value, "is no text; put the name in quotes"))
            return _paired(str(node.value))
        self.problems.append(self._at(node, "", "a name is text, not a list or a mapping"))
        return ""

    def _scalar(self, node: Any) -> Any:
        read = self._scalars.get(str(node.tag).removeprefix(_PREFIX)) if self._known(node, None) else None
        if read is None:
            return None
        try:
            found = read(node)
        except ValueError:
            self.problems.append(self._at(node, "", f"{quoted(str(node.value))} is no value of its type"))
            return None
        if isinstance(found, float) and (found != found or found in (float("inf"), float("-inf"))):
            mark = node.start_mark
            why = f"{quoted(str(node.value))}, which is no JSON value; write it as text, in quotes"
            return NoNumber(why, mark.line + 1, mark.column + 1)
        return found

    def _known(self, node: Node, kind: str | None) -> bool:
        tag = str(node.tag)
        known = (
            tag == _PREFIX + kind if kind else tag.startswith(_PREFIX) and tag.removeprefix(_PREFIX) in self._scalars
        )
        if not known:
            self.problems.append(self._at(node, "", f"the tag {quoted(tag)} has no meaning here; remove it"))
        return known

    def _at(self, node: Node, key: str, detail: str) -> Problem:
        return Problem(key, detail, node.start_mark.line + 1, node.start_mark.column + 1)


def _null(node: ScalarNode) -> None:
    if str(node.value).lower() not in _NULLS:
        raise ValueError(node.value)


def _bool(node: ScalarNode) -> bool:
    # A tag may stand before words that are none here.
    if (text := str(node.value).lower()) not in _WORDS:
        raise ValueError(text)
    return _WORDS[text]


def _int(node: ScalarNode) -> Any:
    text = str(node.value)
    if _is_old(text):
        return text
    if not (match := _INT.fullmatch(text)):
        raise ValueError(text)
    sign, digits = match.groups()
    base = {"0o": 8, "0x": 16}.get(digits[:2], 10)
    digits = digits if base == 10 else digits[2:]
    if len(digits) > MAX_DIGITS:
        return NoNumber("an integer beyond 64 bits; store it as text")
    return int(sign + digits, base)


def _float(node: ScalarNode) -> Any:
    text = str(node.value)
    if _is_old(text):
        return text
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    if not _FLOAT.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _is_old(text: str) -> bool:
    """Whether the parser takes for a number what YAML 1.2 has as text."""
    return "_" in text or text.lstrip("+-").lower().startswith("0b")


def _paired(text: str) -> str:
    """With two escapes that JSON writes for one character as that character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") if is_broken(text) else text
