"""Documentation as data: the blocks of a page that are to be run, and what the sources can say."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto"
GAP = "\0"
"""Stands in a text of the sources for what is put in when the program runs."""
_RUN = re.compile(r"<!-- run: ([\w-]+) -->\n+```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block that is run, and how: the word that its comment has."""

    how: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks behind a comment `<!-- run: HOW -->`, in order."""
    return [Block(*match.groups()) for match in _RUN.finditer(page.read_text("utf-8"))]


def fenced(page: Path, language: str) -> list[str]:
    """The blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@cache
def said() -> tuple[str, ...]:
    """Every text in the sources but for docstrings, with `GAP` where something is put in."""
    files = [path for package in ("configsvc", "configsvc_client") for path in (ROOT / package).rglob("*.py")]
    return tuple(text for path in files for text in _texts(ast.parse(path.read_text("utf-8"))))


def _texts(tree: ast.AST) -> Iterator[str]:
    explained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in explained:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%s|%r|%\.1f|\{\w*\}", GAP, node.value)


def is_said(quoted: str) -> bool:
    """Whether the program can say this; `…` stands for anything."""
    pattern = re.compile(".*".join(re.escape(part) for part in quoted.split("…")), re.DOTALL)
    return any(pattern.search(text) for text in said())
