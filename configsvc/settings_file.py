"""`config-service.yaml` as text to flat, dotted settings with the line that each stands on.

Pure. YAML 1.2 by ruamel.yaml, read as nodes: a value stays the text that was written, so that file and environment
have one grammar, and every problem can name its line and column. Knows the file's shape, not what a setting means.
"""

from collections.abc import Collection, Iterator

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from configsvc.settings_values import Line, near

_NULL = "tag:yaml.org,2002:null"


def read(text: str, keys: Collection[str]) -> tuple[dict[str, Line], list[str]]:
    """Read the file's settings; `keys` are the dotted words that exist. Also returns every problem, each with its line.

    A list stands for its members, comma separated. An unknown or doubled word is a problem.
    """
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.line + 1}:{mark.column + 1}: " if mark else ""
        return {}, [f"{where}not valid YAML: {_one_line(str(error.problem or error.context))}"]
    except (YAMLError, ValueError, RecursionError) as error:
        # After the file's name and a colon, as the others, but there is no line to tell.
        return {}, [f" not valid YAML: {_one_line(str(error))}"]
    if root is None or (isinstance(root, ScalarNode) and root.tag == _NULL):
        return {}, []
    if not isinstance(root, MappingNode):
        return {}, [f"{_at(root)}: a mapping of settings is expected, such as `service_name: my-app`"]
    found: dict[str, Line] = {}
    problems = list(_walk(root, "", keys, found))
    return found, problems


def _walk(node: MappingNode, prefix: str, keys: Collection[str], found: dict[str, Line]) -> Iterator[str]:
    seen: dict[str, Node] = {}
    for word_node, value in node.value:
        word = word_node.value if isinstance(word_node, ScalarNode) else None
        if word is None:
            yield f"{_at(word_node)}: a word is expected before the colon"
            continue
        key = f"{prefix}{word}"
        if word in seen:
            yield f"{_at(word_node)}: {key} is there twice, first in line {seen[word].start_mark.line + 1}"
            continue
        seen[word] = word_node
        section = any(known.startswith(f"{key}.") for known in keys)
        if key in keys:
            line = _line(value)
            if line is None:
                yield f"{_at(value)}: {key} is a single value, not a mapping"
            else:
                found[key] = line
        elif not section:
            yield f"{_at(word_node)}: unknown word {key}{near(key.lower(), keys)}"
        elif isinstance(value, MappingNode):
            yield from _walk(value, f"{key}.", keys, found)
        else:
            inner = ", ".join(known.removeprefix(f"{key}.") for known in sorted(keys) if known.startswith(f"{key}."))
            yield f"{_at(value)}: {key} is a section with the words: {inner}"


def _line(node: Node) -> Line | None:
    if isinstance(node, ScalarNode):
        return Line("" if node.tag == _NULL else node.value, node.start_mark.line + 1)
    if isinstance(node, SequenceNode) and all(isinstance(item, ScalarNode) for item in node.value):
        return Line(",".join(item.value for item in node.value), node.start_mark.line + 1)
    return None


def _at(node: Node) -> str:
    return f"{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
