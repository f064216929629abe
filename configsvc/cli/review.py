"""Changes for the eyes of a reviewer: what is deleted comes first, is counted, and can't be overlooked. Pure.

A line is its text and its style; styles are rich's, and a pipe goes without them.
"""

from collections.abc import Iterable, Iterator, Sequence

from configsvc.cli.output import json_text, printable
from configsvc_client import MISSING
from configsvc_client.admin_types import Changed, Outcome, Override

Line = tuple[str, str]

SHOWN = 200
"""Characters of a value; a longer one is cut to where it differs. `--json` has all."""
ONE_LINE = 70
RED, LOUD, GREEN, YELLOW, DIM, BOLD = "red", "bold white on red", "green", "yellow", "dim", "bold"


def counts(changes: Iterable[Changed]) -> str:
    """How many keys are deleted, changed and added, in words."""
    deleted, changed, added = _sorted(changes)
    words = [(deleted, "deleted"), (changed, "changed"), (added, "added")]
    return ", ".join(f"{len(found)} {word}" for found, word in words if found) or "nothing changes"


def changes(found: Iterable[Changed]) -> Iterator[Line]:
    """Every changed key with its value before and after."""
    deleted, changed, added = _sorted(found)
    if deleted:
        yield f"{_keys(len(deleted))} DELETED", LOUD
        for one in deleted:
            yield from _line("-", one.key, "(unreadable)" if one.old is MISSING else excerpt(json_text(one.old)), RED)
        yield "", ""
    if changed:
        yield f"{_keys(len(changed))} changed", BOLD
        for one in changed:
            old, new = excerpts(json_text(one.old), json_text(one.new))
            if json_text(one.old) == json_text(one.new):
                yield from _line("~", one.key, f"{excerpt(old)} (the same value, written anew)", YELLOW)
            elif len(old) + len(new) <= ONE_LINE:
                yield from _line("~", one.key, f"{old} -> {new}", YELLOW)
            else:
                yield f"  ~ {printable(one.key)}", YELLOW
                yield f"      - {old}", RED
                yield f"      + {new}", GREEN
        yield "", ""
    if added:
        yield f"{_keys(len(added))} added", BOLD
        for one in added:
            yield from _line("+", one.key, excerpt(json_text(one.new)), GREEN)
        yield "", ""


def plan(title: str, found: Outcome, lifts: dict[str, str]) -> Iterator[Line]:
    """A plan: what it would do, what should be known, and what stands in its way with what to say about it."""
    base = "before its first release" if found.base_release is None else f"at release {found.base_release}"
    yield f"{title}, {base}", BOLD
    yield "", ""
    if found.unchanged:
        yield "Nothing changes.", ""
        yield "", ""
    yield from changes(found.changes)
    for warning in found.warnings:
        yield f"! {printable(warning)}", YELLOW
    if found.warnings:
        yield "", ""
    for block in found.blocked:
        yield f"BLOCKED ({block.code}): {printable(block.detail)}", LOUD
        for override in block.overrides:
            yield f"    {_override(override)}", RED
        if block.code in lifts:
            yield f"    -> {lifts[block.code]}", "cyan"
    if found.blocked:
        yield "", ""
    if found.changes:
        yield f"In all: {counts(found.changes)}.", BOLD


def _override(one: Override) -> str:
    value = "(deleted or unreadable)" if one.value is MISSING else f"= {excerpt(json_text(one.value))}"
    by = f"by {one.by} in release {one.release}" if one.release else "changed by hand"
    return printable(f"{one.key} {value}, {by}" + (f": {one.reason}" if one.reason else ""))


def excerpt(text: str) -> str:
    """The beginning of a long text, and how long it is."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def excerpts(old: str, new: str) -> tuple[str, str]:
    """Two texts; where one is long, both from shortly before they differ."""
    if max(len(old), len(new)) <= SHOWN:
        return old, new
    same = next((n for n, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), len(min(old, new)))
    start = max(0, same - 40)
    lead = "…" if start else ""
    return lead + excerpt(old[start:]), lead + excerpt(new[start:])


def _sorted(changes: Iterable[Changed]) -> tuple[Sequence[Changed], Sequence[Changed], Sequence[Changed]]:
    deleted: list[Changed] = []
    changed: list[Changed] = []
    added: list[Changed] = []
    for one in changes:
        (deleted if one.op == "delete" else added if one.old is MISSING else changed).append(one)
    return deleted, changed, added


def _line(sign: str, key: str, text: str, style: str) -> Iterator[Line]:
    yield f"  {sign} {printable(key):<32}  {text}", style


def _keys(count: int) -> str:
    return f"{count:,} {'key' if count == 1 else 'keys'}"
