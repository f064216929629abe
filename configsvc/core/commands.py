"""Requested writes as plain data, and the state of a scope that a write is planned on.

A command says what is wanted, `About` who wants it and why, `View` what was there at one revision. `plan.py` makes a
plan of the three. Pure; knows neither HTTP nor how a view is read.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from configsvc.core.model import Head, Scope
from configsvc.core.release import Kind, Label, Override

Policy = Literal["refuse", "keep", "discard"]
"""What becomes of pending overrides that a deploy would change: it is refused, or they stay, or they go."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What is said about a write: by whom and when (RFC 3339), why, and what it is forced for.

    `id` is random and names the release. `digest` is that of the plan that was looked at, None where none was.
    `base_release` is the release that the sender knew.
    """

    by: str
    at: str
    id: str
    reason: str | None = None
    force: str | None = None
    digest: str | None = None
    base_release: int | None = None


class Deploy(msgspec.Struct, frozen=True, kw_only=True):
    """The whole desired state: canonical JSON by key."""

    values: Mapping[str, bytes]
    version: str | None = None
    overrides: Policy = "refuse"
    git_commit: str | None = None
    approved_by: str | None = None


class Promote(msgspec.Struct, frozen=True, kw_only=True):
    """What was deployed to another environment, as the desired state of this one.

    `values` are the source's deployed values at its release `release`. `stays` are this environment's own keys: they
    keep what they have here. `doubts` say why the source may not be fit yet (guards; `force` lifts them).
    """

    values: Mapping[str, bytes]
    source: str
    release: int
    version: str | None = None
    overrides: Policy = "refuse"
    stays: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()
    approved_by: str | None = None


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """The state as release `target` deployed it, byte for byte. `version` and `digest` are those of that release.

    `kept` are keys of which it had left an override as it was: what was deployed under them comes back.
    """

    entries: Mapping[str, bytes]
    target: int
    kept: tuple[str, ...] = ()
    version: str | None = None
    digest: str | None = None
    overrides: Policy = "refuse"


class Restore(msgspec.Struct, frozen=True, kw_only=True):
    """The state as a backup has it, byte for byte; what is pending here ends, and what was pending there goes on.

    `ended` are overrides whose time passed since the backup: `entries` have what came back.
    """

    entries: Mapping[str, bytes]
    version: str | None = None
    digest: str | None = None
    source: str = ""
    overrides: Mapping[str, Override] = {}
    ended: tuple[str, ...] = ()


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Some keys: canonical JSON of those that are set, and those that go. `ttl_s` ends it by itself.

    `kind` is `emergency`, `delete` or `change`. Keys of `delete` must be there.
    """

    kind: Kind = "change"
    set: Mapping[str, bytes] = {}
    delete: tuple[str, ...] = ()
    expires_at: str | None = None


class Expire(msgspec.Struct, frozen=True, kw_only=True):
    """Overrides whose time is over, each with the release that set it."""

    keys: Mapping[str, int]


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """What is there now becomes a release, whatever it is: for a scope whose history cannot be used any more."""


Command = Deploy | Promote | Rollback | Restore | Change | Expire | Repair


class Stored(NamedTuple):
    """An entry's bytes as etcd has them, readable or not."""

    raw: bytes
    mod_revision: int


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A scope at one revision, by a linearizable read: all that a plan may depend on.

    `entries` are what etcd has, `expected` what the head's release left there (None where its history cannot be read):
    what differs was changed by hand. `oldest` and `newest` are the lowest and the highest number that any manifest has.
    `recent` counts the releases of the last minute. `label` is what the command's version label means so far.
    """

    scope: Scope
    revision: int
    cluster_id: str = ""
    head: Head | None = None
    head_raw: bytes | None = None
    head_mod: int = 0
    oldest: int = 0
    newest: int = 0
    entries: Mapping[str, Stored] = {}
    expected: Mapping[str, bytes] | None = {}
    overrides: Mapping[str, Override] = {}
    schema: bytes | None = None
    schema_mod: int = 0
    epoch: bytes | None = None
    label: Label | None = None
    label_mod: int = 0
    recent: int = 0

    @property
    def release(self) -> int:
        """The head's release, 0 before the first."""
        return self.head.release if self.head else 0

    @property
    def deployed(self) -> int:
        """The last release that said what the whole scope should be; 0 before the first, the newest without a head."""
        if self.is_headless:
            return self.newest
        return self.head.deployed if self.head else 0

    @property
    def is_headless(self) -> bool:
        """Whether somebody took the head away, or garbled it: a freeze and a list of own keys are lost with it."""
        garbled = self.head is None and self.head_raw is not None
        return not self.release and (garbled or self.newest > 0)

    @property
    def overridden(self) -> Mapping[str, int]:
        """The overrides that the head knows, each with the release that set it; without one, what the records tell."""
        if self.is_headless:
            return {key: record.release for key, record in self.overrides.items()}
        return self.head.overrides if self.head else {}

    def drift(self) -> set[str]:
        """The keys that somebody changed by hand since the head's release; none before the first release."""
        if self.expected is None or not self.release:
            return set()
        keys = self.entries.keys() | self.expected.keys()
        return {key for key in keys if self.raw(key) != self.expected.get(key)}

    def raw(self, key: str) -> bytes | None:
        """What is stored under a key."""
        stored = self.entries.get(key)
        return None if stored is None else stored.raw
