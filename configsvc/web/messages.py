"""The bodies of answers as types: what `/openapi.json` declares and what tests decode by.

Stored bodies are encoded by `core/feed.py`; this module says what they hold. Pure data.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Epoch = Annotated[
    str, Meta(pattern="^[0-9a-f]{12}$", description="Identity of one history; revisions compare within it.")
]
Revision = Annotated[int, Meta(ge=0, description="etcd's revision.")]
Release = Annotated[int, Meta(ge=1)]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"}, description="RFC 3339 in UTC.")]


class ScopeEntry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What applies under one key of a scope: `value` is any JSON."""

    value: Any
    version: str | None
    source: Literal["stored", "schema"]
    revision: Revision
    metadata: dict[str, Any] | None


class ScopeValues(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A scope as plain values: what applies, schema defaults included."""

    namespace: str
    environment: str
    epoch: Epoch
    revision: Revision
    release: Release | None
    version: str | None
    values: dict[str, Any]


class ScopeEntries(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A scope with where each value comes from (`view=entries`)."""

    namespace: str
    environment: str
    epoch: Epoch
    revision: Revision
    release: Release | None
    version: str | None
    entries: dict[str, ScopeEntry]


class KeyEntry(ScopeEntry, kw_only=True, forbid_unknown_fields=True):
    """One key's entry."""

    key: str


class Changed(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key of a write. `old` and `new` are values, absent where there was or is none."""

    key: str
    op: Literal["set", "delete"]
    old: Any = msgspec.UNSET
    new: Any = msgspec.UNSET


class Written(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a write did. `release` is null where a scope without a release was left as it is."""

    release: Release | None
    revision: Revision
    epoch: Epoch
    version: str | None
    changes: list[Changed]
    warnings: list[str]
    unchanged: bool = False


class Problem(msgspec.Struct, kw_only=True):
    """RFC 9457. `code` is stable and is what programs decide by; some codes have more fields."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    code: str
    detail: str
    request_id: str


class Planned(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a write would do (`dry_run=true`), and everything that stands in its way."""

    epoch: Epoch
    version: str | None
    changes: list[Changed]
    warnings: list[str]
    digest: str
    base_release: Release | None
    blocked: list[Problem]
    unchanged: bool = False


class PastValues(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A scope's stored values as a release left them; schema defaults are not among them."""

    namespace: str
    environment: str
    epoch: Epoch
    release: Release
    version: str | None
    values: dict[str, Any]


class PastEntry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What was stored under one key: `value` is any JSON."""

    value: Any
    version: str | None
    source: Literal["stored"]
    metadata: dict[str, Any] | None


class PastEntries(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The same with what else was stored with each value (`view=entries`)."""

    namespace: str
    environment: str
    epoch: Epoch
    release: Release
    version: str | None
    entries: dict[str, PastEntry]


class ReleaseRow(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A release. `changed` counts its keys."""

    release: Release
    version: str | None
    kind: Literal["deploy", "change", "emergency", "expiry", "delete", "rollback", "promote", "restore", "repair"]
    at: Time
    by: str
    reason: str | None
    changed: Annotated[int, Meta(ge=0)]


class Releases(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A page of releases, newest first; `next` goes into `after`."""

    releases: list[ReleaseRow]
    next: int | None


class ReleaseDetails(ReleaseRow, kw_only=True, forbid_unknown_fields=True):
    """A release with what it changed; null where that is not kept any more."""

    base_release: Release | None
    source: dict[str, str]
    warnings: list[str]
    changes: list[Changed] | None


class Difference(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename={"before": "from", "after": "to"}):
    """What is different between two releases."""

    before: ReleaseRow
    after: ReleaseRow
    changes: list[Changed]


class KeyRelease(ReleaseRow, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A release as it concerned one key."""

    op: Literal["set", "delete"]
    old: Any = msgspec.UNSET
    new: Any = msgspec.UNSET


class KeyHistory(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A page of the releases that changed a key, newest first; `next` goes into `after`."""

    key: str
    releases: list[KeyRelease]
    next: int | None


class Override(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A value that a release set and a deploy would undo. `returns` is what comes back when it ends."""

    key: str
    release: Release
    by: str = ""
    reason: str | None = None
    expires_at: str | None = None
    value: Any = msgspec.UNSET
    returns: Any = msgspec.UNSET


class Freeze(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Deploys are refused until a time."""

    until: Time
    reason: str
    by: str
    since: Time


class Drift(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What differs from the newest release: keys changed by hand (null: its history is gone), pending overrides."""

    namespace: str
    environment: str
    release: Release | None
    version: str | None
    revision: Revision
    hand: list[Changed] | None
    overrides: list[Override]
    frozen: Freeze | None


class OwnKeys(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Patterns of the keys that differ by environment on purpose."""

    namespace: str
    environment: str
    patterns: list[str]


class BackupHead(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a backup is of; `namespace` null is all of them."""

    configsvc_backup: int
    created_at: Time
    cluster_id: str
    revision: Revision
    namespace: str | None
    by: str


class RestoredScope(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One scope of a restore. `release` is null where nothing was to change, `blocked` says why it would fail."""

    namespace: str
    environment: str
    release: Release | None
    changed: Annotated[int, Meta(ge=0)]
    unchanged: bool
    warnings: list[str]
    blocked: list[str]


class Restored(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What became of each scope of a backup."""

    head: BackupHead
    scopes: list[RestoredScope]


class Frozen(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether a scope takes deploys."""

    namespace: str
    environment: str
    frozen: Freeze | None


class SelfScope(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A scope that this service follows."""

    namespace: str
    environment: str
    release: Release | None
    revision: Revision


class Self(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who the caller is, and what this service is."""

    service: Literal["configsvc"]
    version: str
    mode: Literal["sidecar", "central"]
    namespace: str | None
    environment: str | None
    revision: Revision
    scopes: Annotated[list[SelfScope], Meta(max_length=100)]
    scopes_total: Annotated[int, Meta(ge=0)]
    identity: str | None


class Check(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One thing that may be wrong."""

    status: Literal["ok", "degraded", "unavailable"]
    since: Time
    detail: str


class HealthReport(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The worst of the checks, and each of them."""

    status: Literal["ok", "degraded", "unavailable"]
    since: Time
    checks: dict[str, Check]


class Alive(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The process answers."""

    status: Literal["ok"]


class Index(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What there is to ask for."""

    service: Literal["configsvc"]
    version: str
    routes: list[str]
