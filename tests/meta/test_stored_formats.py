"""The page on stored formats names every field of every record, and every place where records lie."""

import re
from pathlib import Path

import msgspec
import pytest

from configsvc.core import backup
from configsvc.core.model import (
    ROOT,
    Applying,
    Freeze,
    Head,
    Scope,
    StoredEntry,
    content_prefix,
    entry_path,
    epoch_path,
    head_path,
    labels_prefix,
    manifests_prefix,
    overrides_prefix,
    schema_path,
)
from configsvc.core.release import Label, Manifest, Override, Receipt, Written
from configsvc.writes.txns import alive_path

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "stored-formats.md").read_text("utf-8")
TABLE = re.compile(r"^\| (?:field|part) \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", re.MULTILINE)


def tables(section: str) -> list[set[str]]:
    """The fields that the tables of a section name."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)) for rows in TABLE.findall(text)]


@pytest.mark.parametrize(
    ("section", "kinds"),
    [
        ("Entry", [StoredEntry]),
        ("Head", [Head, Applying, Freeze]),
        ("Manifest", [Manifest]),
        ("Label", [Label]),
        ("Override", [Override]),
        ("Receipt", [Receipt]),
    ],
)
def test_fields(section: str, kinds: list[type[msgspec.Struct]]) -> None:
    assert tables(section) == [set(kind.__struct_fields__) for kind in kinds]


def test_content() -> None:
    assert tables("Content") == [set(Written._fields)]


def test_backup() -> None:
    text = PAGE.partition("\n## Backup\n")[2]
    fields = {name for kind in (backup.Head, backup.Item, backup.Tail) for name in kind.__struct_fields__}
    assert {name for name in fields if f"`{name}`" not in text} == set()


def test_places() -> None:
    scope = Scope("{ns}", "{env}")
    places = {
        entry_path(scope, "{key}"),
        head_path(scope),
        schema_path("{ns}"),
        epoch_path("{ns}"),
        manifests_prefix(scope) + b"{number}",
        content_prefix(scope, "{id}") + b"{chunk}",
        labels_prefix(scope) + b"{label}",
        alive_path(scope, "{id}"),
        overrides_prefix(scope) + b"{key}",
    }
    assert {place.decode() for place in places if f"| `{place.decode()}` |" not in PAGE} == set()
    assert ROOT in PAGE
