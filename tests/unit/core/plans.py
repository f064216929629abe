"""A scope on paper: plans are carried out on plain data, and the history that they leave can be replayed."""

import itertools
from collections.abc import Mapping
from typing import Any

import msgspec

from configsvc.core.commands import About, Command, Stored, View
from configsvc.core.guards import Guards
from configsvc.core.model import Head, Scope, canonical, encode_entry, overrides_prefix, value_of
from configsvc.core.plan import Plan, plan
from configsvc.core.release import Label, Override, Written, decode_override, replay

SCOPE = Scope("pay", "production")
NO_GUARDS = Guards(max_deleted=0, max_growth=0, max_scope_bytes=0, max_releases_per_min=0)
"""Only an empty scope is still looked at; tests of guards have their own."""


def values(**of: Any) -> dict[str, bytes]:
    return {key: canonical(value) for key, value in of.items()}


class Paper:
    """What etcd would hold of one scope, as far as a plan can see it."""

    def __init__(self) -> None:
        self.revision = 0
        self.head: Head | None = None
        self.entries: dict[str, Stored] = {}
        self.overrides: dict[str, Override] = {}
        self.labels: dict[str, Label] = {}
        self.contents: list[list[Written]] = []
        self.base: dict[str, bytes] = {}
        self._ids = itertools.count(1)

    @property
    def values(self) -> dict[str, Any]:
        return {key: msgspec.json.decode(value_of(one.raw) or b"null") for key, one in self.entries.items()}

    @property
    def raws(self) -> dict[str, bytes]:
        return {key: one.raw for key, one in self.entries.items()}

    @property
    def expected(self) -> dict[str, bytes]:
        return replay(self.base, *self.contents)

    def hand(self, key: str, value: Any) -> None:
        """`etcdctl put`; `...` is a deletion."""
        self.revision += 1
        if value is ...:
            self.entries.pop(key, None)
        else:
            self.entries[key] = Stored(encode_entry(canonical(value), None, {}), self.revision)

    def view(self, label: str | None = None, **more: Any) -> View:
        head = self.head
        return View(
            scope=SCOPE,
            revision=self.revision,
            head=head,
            head_mod=self.revision if head else 0,
            newest=head.release if head else 0,
            entries=dict(self.entries),
            expected=self.expected if head and head.release else {},
            overrides=dict(self.overrides),
            label=self.labels.get(label) if label else None,
            **more,
        )

    def about(self, **more: Any) -> About:
        at = more.pop("at", "2026-01-01T00:00:00.000Z")
        return About(by="alice", at=at, id=f"id{next(self._ids)}", **more)

    def plan(self, command: Command, guards: Guards = NO_GUARDS, **more: Any) -> Plan:
        label = getattr(command, "version", None)
        return plan(command, self.view(label), self.about(**more), guards)

    def do(self, command: Command, **more: Any) -> Plan:
        """Plan and carry out; what is blocked is an error."""
        found = self.plan(command, **more)
        assert not found.blocked, found.blocked
        self.carry_out(found)
        return found

    def carry_out(self, found: Plan) -> None:
        if found.label and found.manifest.version:
            self.labels[found.manifest.version] = found.label
        if found.unchanged:
            return
        self.revision += 1
        if not self.contents:
            self.base = self.raws
        for step in found.steps:
            if step.writes and step.new is None:
                del self.entries[step.key]
            elif step.writes and step.new is not None:
                self.entries[step.key] = Stored(step.new, self.revision)
        prefix = overrides_prefix(SCOPE).decode()
        for record in found.records:
            key = record.key.removeprefix(prefix)
            self.overrides.pop(key, None)
            if record.new is not None:
                self.overrides[key] = decode_override(record.new)
        self.head = found.head
        self.contents.append(found.content())


def state(of: Mapping[str, bytes]) -> dict[str, Any]:
    return {key: msgspec.json.decode(value) for key, value in of.items()}
