"""What the management API answers, as types, and the one error that `admin.py` raises.

Decoded from JSON; fields that a newer service adds are passed over. Pure.
"""

from typing import Any, Literal

import msgspec

from configsvc_client.errors import ConfigError, printable
from configsvc_client.view import MISSING

Kind = Literal["deploy", "change", "emergency", "expiry", "delete", "rollback", "promote", "restore", "repair"]


class AdminError(ConfigError):
    """Why a call has no answer. `code` is stable and is what programs decide by, `str()` a sentence for people.

    `status` is the HTTP status of the service's refusal, `fields` what else it said (`problems`, `overrides`,
    `changes`, `near`, `request_id`, …). Without a status no service gave an answer, and `code` is one of

    - `unreachable`: no address answers as configsvc does; nothing was changed. `reasons` has a line for each;
    - `outcome_unknown`: a write was sent and its answer lost, more than once where it could be sent again. The service
      says the same with status 504, where etcd did not answer it;
    - `token`: the token file cannot be read;
    - `unknown_scope`: nobody says which namespace or environment is meant;
    - `invalid_backup`: a file is no backup, is cut short or damaged;
    - `scope_not_found`: nothing is stored in the namespace that a backup was to be of. The service says the same with
      status 404 where a scope is read.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        fields: dict[str, Any] | None = None,
        reasons: tuple[str, ...] = (),
    ) -> None:
        self.detail = printable(detail, 4000)
        super().__init__(self.detail)
        self.code = code
        self.status = status
        self.fields = fields or {}
        self.reasons = reasons

    @property
    def problems(self) -> list[dict[str, Any]]:
        """Everything that is wrong with what was sent: `detail`, and where it applies `key`, `line` and `column`."""
        found = self.fields.get("problems")
        listed = found if isinstance(found, list) else []
        return [one if isinstance(one, dict) else {"detail": str(one)} for one in listed]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What applies under one key. `revision` is that of the entry, `metadata` what was stored beside the value."""

    key: str = ""
    value: Any
    version: str | None = None
    source: Literal["stored", "schema"]
    revision: int
    metadata: dict[str, Any] | None = None


class Entries(msgspec.Struct, frozen=True, kw_only=True):
    """A scope: what applies under each key, at one revision."""

    namespace: str
    environment: str
    epoch: str
    revision: int
    release: int | None
    version: str | None
    entries: dict[str, Entry]

    def __post_init__(self) -> None:
        # An answer names each of them once, before it.
        for key, entry in self.entries.items():
            msgspec.structs.force_setattr(entry, "key", key)

    @property
    def values(self) -> dict[str, Any]:
        """The plain values by key."""
        return {key: entry.value for key, entry in self.entries.items()}


class PastValues(msgspec.Struct, frozen=True, kw_only=True):
    """The stored values as a release left them; schema defaults are not among them."""

    namespace: str
    environment: str
    epoch: str
    release: int
    version: str | None
    values: dict[str, Any]


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a write; `old` or `new` is `MISSING` where there was or is no value."""

    key: str
    op: Literal["set", "delete"]
    old: Any = MISSING
    new: Any = MISSING


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that keeps a plan from being applied, as the refusal would say it."""

    code: str
    status: int
    detail: str
    problems: list[Any] = []
    overrides: list["Override"] = []


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a write did or, after `dry_run=True`, would do.

    Done: `release` and `revision` say where the scope is now (`release` is None where a scope without releases was left
    as it is); a read with `min_revision` of that revision sees it on every replica. Planned: `digest` names the plan,
    `base_release` is what it starts from, `blocked` has everything that stands in its way, and `revision` is None.
    `unchanged`: there was nothing to do, and no release was made.
    """

    epoch: str
    version: str | None
    changes: list[Changed]
    warnings: list[str]
    unchanged: bool = False
    release: int | None = None
    revision: int | None = None
    digest: str | None = None
    base_release: int | None = None
    blocked: list[Blocked] = []

    @property
    def is_planned(self) -> bool:
        """Whether this is only a plan."""
        return self.digest is not None


class ReleaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """A release; `changed` counts its keys."""

    release: int
    version: str | None
    kind: Kind | str
    at: str
    by: str
    reason: str | None
    changed: int


class Releases(msgspec.Struct, frozen=True, kw_only=True):
    """A page of releases, newest first; `next` is where the next one begins, None at the end."""

    releases: list[ReleaseRow]
    next: int | None


class Release(ReleaseRow, frozen=True, kw_only=True):
    """A release with what it changed; `changes` is None where that is not kept any more."""

    base_release: int | None
    source: dict[str, str]
    warnings: list[str]
    changes: list[Changed] | None


class Difference(msgspec.Struct, frozen=True, kw_only=True, rename={"before": "from", "after": "to"}):
    """What is different between two releases."""

    before: ReleaseRow
    after: ReleaseRow
    changes: list[Changed]


class KeyRelease(ReleaseRow, frozen=True, kw_only=True):
    """A release as it concerned one key."""

    op: Literal["set", "delete"]
    old: Any = MISSING
    new: Any = MISSING


class KeyReleases(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the releases that changed a key, newest first."""

    key: str
    releases: list[KeyRelease]
    next: int | None


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """A value that a deploy would undo. `returns` is what comes back when it ends, by itself at `expires_at`.

    `release` is None where it was changed by hand.
    """

    key: str
    release: int | None = None
    by: str = ""
    reason: str | None = None
    expires_at: str | None = None
    value: Any = MISSING
    returns: Any = MISSING


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """Deploys are refused until a time."""

    until: str
    reason: str
    by: str
    since: str


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from the newest release: keys changed by hand (None: its history is gone), pending overrides."""

    namespace: str
    environment: str
    release: int | None
    version: str | None
    revision: int
    hand: list[Changed] | None
    overrides: list[Override]
    frozen: Freeze | None


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a scope takes deploys."""

    namespace: str
    environment: str
    frozen: Freeze | None


class OwnKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Patterns of the keys that differ by environment on purpose."""

    namespace: str
    environment: str
    patterns: list[str]


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What the service says of itself and of who asks."""

    service: str | None = None
    version: str = ""
    mode: str = ""
    namespace: str | None = None
    environment: str | None = None
    identity: str | None = None


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """How fresh what a service serves of the scope is: all it has seen up to `revision`, `staleness_s` seconds ago.

    `source` is `live`, `memory` or `disk`, and `none` where there is nothing to read.
    """

    source: str = "none"
    staleness_s: float = 0.0
    revision: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How a scope is, put together from several answers.

    `newest` is the head's release with who made it and when, None before the first. `source` and `staleness_s` are
    those of `Freshness`.
    """

    namespace: str
    environment: str
    newest: ReleaseRow | None
    revision: int
    frozen: Freeze | None
    overrides: list[Override]
    hand: list[Changed] | None
    source: str
    staleness_s: float
    service: Service


class BackupHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of; `namespace` None is all of them."""

    configsvc_backup: int
    created_at: str
    cluster_id: str
    revision: int
    namespace: str | None = None
    by: str = ""


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A backup's file that was read to its end and whose checksum fits: its size in bytes, and its keys of etcd."""

    path: str
    size: int
    keys: int
    head: BackupHead


class RestoredScope(msgspec.Struct, frozen=True, kw_only=True):
    """One scope of a restore. `release` is None where nothing was to change, `blocked` says why it would fail."""

    namespace: str
    environment: str
    release: int | None
    changed: int
    unchanged: bool
    warnings: list[str]
    blocked: list[str]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each scope of a backup."""

    head: BackupHead
    scopes: list[RestoredScope]
