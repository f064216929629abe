"""Questions about releases: which there were, what one did, who set a key, and what differs from the head's.

Reads only, from etcd itself and not from the replica: history is not downloaded. All methods raise `EtcdError` kinds,
and `NotFound` for a release that never was or is not kept any more.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec

from configsvc.core.commands import View
from configsvc.core.model import MAX_NUMBER, Freeze, Scope, value_of
from configsvc.core.plan import change_of, changes_of
from configsvc.core.release import MAX_NAMES, Manifest, entries_of, pending
from configsvc.errors import NotFound
from configsvc.writes.reading import Reading, decoded
from configsvc.writes.threads import off_loop, weight_of

SCANNED = 1000
"""Releases that one page of a key's history looks through at most."""
OPENED = 50
"""Of how many of them it reads the content: those that may have changed more keys than their manifests name."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Releases, newest first; `next` is where the next page begins, None at the end."""

    releases: list[dict[str, Any]]
    next: int | None = None


async def page(reading: Reading, scope: Scope, *, limit: int, after: int | None) -> Page:
    """Releases older than `after`, newest first."""
    found: list[dict[str, Any]] = []
    async for one in reading.manifests(scope, await _first(reading, scope, after)):
        if len(found) == limit:
            return Page(releases=found, next=found[-1]["release"])
        found.append(row(one.manifest))
    return Page(releases=found)


async def _first(reading: Reading, scope: Scope, after: int | None) -> int:
    """Below which number a page begins: a release that the head does not have yet may never be."""
    head = decoded(await reading.head(scope))
    first = head.release + 1 if head and head.release else MAX_NUMBER
    return first if after is None else min(first, after)


def row(manifest: Manifest) -> dict[str, Any]:
    """A release as listings tell it."""
    return {
        "release": manifest.number,
        "version": manifest.version,
        "kind": manifest.kind,
        "at": manifest.at,
        "by": manifest.by,
        "reason": manifest.reason,
        "changed": manifest.count,
    }


async def release(reading: Reading, scope: Scope, manifest: Manifest) -> dict[str, Any]:
    """One release with all that it changed. `changes` is None where that is not kept."""
    content = await reading.content(scope, manifest.content)
    return {
        **row(manifest),
        "base_release": manifest.base or None,
        "source": manifest.source,
        "warnings": manifest.warnings,
        "changes": None if content is None else await off_loop(weight_of(content), changes_of, content),
    }


async def key_page(reading: Reading, scope: Scope, key: str, *, limit: int, after: int | None) -> Page:
    """The releases that changed a key, newest first, each with the value before and after it.

    Those that took over what was put by hand are among them.
    """
    found: list[dict[str, Any]] = []
    looked = opened = 0
    async for one in reading.manifests(scope, await _first(reading, scope, after)):
        if len(found) == limit or looked == SCANNED or opened == OPENED:
            return Page(releases=found, next=one.manifest.number + 1)
        looked += 1
        manifest = one.manifest
        if key not in manifest.keys and manifest.count <= len(manifest.keys) < MAX_NAMES:
            continue
        opened += key not in manifest.keys
        content = await reading.content(scope, manifest.content)
        record = next((record for record in entries_of(content or ()) if record.key == key), None)
        if record is None:
            continue
        # A value that was put by hand is taken over as it is. What that changed is the state before.
        old = record.old if record.old != record.new else await _left(reading, scope, manifest.base, key)
        if old != record.new:
            change = change_of(key, old, record.new)
            del change["key"]
            found.append({**row(manifest), **change})
    return Page(releases=found)


async def _left(reading: Reading, scope: Scope, number: int, key: str) -> bytes | None:
    """The entry of a key as a release left it; None also where that is not kept."""
    with contextlib.suppress(NotFound):
        return (await reading.state_at(scope, number)).get(key)
    return None


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from the head's release. `hand` are keys changed past every release (None: its history is gone),
    `overrides` those that a release set and a deploy or a timer would undo. `frozen` is a freeze that is not over."""

    release: int | None
    version: str | None
    revision: int
    hand: list[dict[str, Any]] | None
    overrides: list[dict[str, Any]]
    frozen: Freeze | None


def _by_hand(view: View, expected: Mapping[str, bytes], written: Mapping[str, bytes | None]) -> list[dict[str, Any]]:
    found = (key for key in sorted(view.drift()) if view.raw(key) != written.get(key, expected.get(key)))
    return [change_of(key, expected.get(key), view.raw(key)) for key in found]


async def _written(reading: Reading, view: View) -> dict[str, bytes | None]:
    """What the release writes that is being applied: no hand did that."""
    if view.head is None or view.head.applying is None:
        return {}
    found = await reading.manifest(view.scope, view.head.next_release, revision=view.revision)
    if found is None or found.manifest.id != view.head.applying.id:
        return {}
    content = await reading.content(view.scope, found.manifest.content, revision=view.revision)
    return {record.key: record.new for record in entries_of(content or ())}


async def drift(reading: Reading, scope: Scope, now: str) -> Drift:
    """What differs from the head's release at `now`, by RFC 3339."""
    view = await reading.view(scope, records=False)
    hand = None
    if view.expected is not None:
        written = await _written(reading, view)
        hand = await off_loop(len(view.entries), _by_hand, view, view.expected, written)
    frozen = view.head.frozen if view.head else None
    overrides = []
    for key, number in sorted(pending(view.overridden, view.overrides).items()):
        record = view.overrides.get(key)
        one: dict[str, Any] = {"key": key, "release": number}
        if record:
            one |= {"by": record.by, "reason": record.reason, "expires_at": record.expires_at}
        for name, raw in (("value", view.raw(key)), ("returns", record.returns if record else None)):
            if (value := value_of(raw)) is not None:
                one[name] = msgspec.Raw(value)
        overrides.append(one)
    return Drift(
        release=view.release or None,
        version=view.head.shown_version if view.head else None,
        revision=view.revision,
        hand=hand,
        overrides=overrides,
        frozen=frozen if frozen and frozen.until > now else None,
    )
