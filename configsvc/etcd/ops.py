"""etcd's operations and answers as plain data, its errors as one tree, and the protocol that the rest programs against.

    EtcdError
    ├── Unreachable        nothing was sent: connection refused, no route
    │   └── LeftAlone      the endpoint's breaker is open
    ├── Unavailable        etcd or the network did not answer: no leader, shutting down, reset, deadline
    │   ├── Ambiguous      the same for a write: it may have been applied, or may be applied later
    │   └── Corrupt        this member's data is damaged; another one may answer
    ├── Compacted          the revision is gone; list again
    │   └── Oversized      what is between is larger than a watch may be; list again
    ├── FutureRevision     this member has not seen the revision; it lags, or history was rolled back
    ├── Refused            user, password, token or permission; `detail` says which
    ├── NoSpace            the quota is reached; an operator has to act
    └── Invalid            the request can never work: too large, too many operations, malformed
        └── NotFound       what it names is not there (any more), such as a lease

Pure. Compares, puts and deletes are values to build, inspect and print; only `Etcd.txn` does anything.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, Protocol

import msgspec

PROGRESS: Final = "progress"
EVENTS: Final = "events"
CREATED: Final = "created"
CANCELED: Final = "canceled"
LIST_RESTARTS = 5
"""How often a list starts over that was overtaken by a compaction."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer says of its sender. `revision` is the store's at that moment, not that of any key.

    A canceled watch tells no revision, and a read inside a transaction nothing else.
    """

    cluster_id: str = ""
    member_id: str = ""
    revision: int = 0
    raft_term: int = 0


class KeyValue(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A key as it is stored. `version` counts its puts since it was created; `lease` 0 is none."""

    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """A read. Without `range_end` one key; `revision` 0 is now; `limit` 0 is none; linearizable unless said."""

    key: bytes
    range_end: bytes = b""
    revision: int = 0
    limit: int = 0
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    sort_target: Literal["KEY", "VERSION", "CREATE", "MOD", "VALUE"] = "KEY"
    sort_order: Literal["NONE", "ASCEND", "DESCEND"] = "NONE"


class RangeResult(msgspec.Struct, frozen=True, kw_only=True):
    """A read's answer. `count` ignores the request's limit; `more` says that the limit cut it."""

    header: Header
    kvs: list[KeyValue] = []
    count: int = 0
    more: bool = False


class Compare(msgspec.Struct, frozen=True, kw_only=True):
    """A guard. A missing key compares as 0 in `create`, `mod` and `version`."""

    key: bytes
    target: Literal["MOD", "CREATE", "VERSION", "VALUE", "LEASE"]
    value: int | bytes
    result: Literal["EQUAL", "GREATER", "LESS", "NOT_EQUAL"] = "EQUAL"


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """Store `value` under `key`."""

    key: bytes
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    """Remove one key, or those below `range_end` (never from a key on: etcd can lose keys over it, etcd#22376)."""

    key: bytes
    range_end: bytes = b""


class Txn(msgspec.Struct, frozen=True, kw_only=True):
    """All of `success` at one revision if every compare holds, else all of `failure`."""

    compare: tuple[Compare, ...] = ()
    success: tuple[Put | Delete | Range, ...] = ()
    failure: tuple[Put | Delete | Range, ...] = ()


class TxnResult(msgspec.Struct, frozen=True, kw_only=True):
    """Which branch was taken, and an answer per operation: a `RangeResult` for a read, None for a write."""

    header: Header
    succeeded: bool
    responses: list[RangeResult | None] = []


class WatchEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One key's change; `kv` is None for a deletion."""

    key: bytes
    mod_revision: int
    kv: KeyValue | None


class WatchBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One complete response of a watch (fragments are joined).

    `events` come in etcd's order and never split a revision. `header.revision` is a position only for `progress`
    (every event of the watch up to it has been sent); of an event response it is merely the store's revision.
    `canceled` is the last: with `compact_revision` where the start had been compacted, else `reason` says why.
    """

    kind: Literal["created", "events", "progress", "canceled"]
    header: Header
    events: list[WatchEvent] = []
    compact_revision: int = 0
    reason: str = ""


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a member says of itself. `version` is etcd's (`3.6.16`), `leader` "0" where it knows none.

    `quota` is 0 where it does not say (before 3.6).
    """

    version: str
    leader: str = "0"
    db_size: int = 0
    db_used: int = 0
    quota: int = 0
    errors: list[str] = []


def prefix_end(prefix: bytes) -> bytes:
    """The `range_end` of everything that starts with `prefix` (etcd's documentation, "range")."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0"


def fingerprint(prefix: bytes, *, revision: int = 0, serializable: bool = False, limit: int = 1) -> Range:
    """The read that tells the `limit` keys of a prefix that changed last, newest first, and how many keys there are."""
    return Range(
        key=prefix,
        range_end=prefix_end(prefix),
        revision=revision,
        serializable=serializable,
        limit=limit,
        keys_only=True,
        sort_target="MOD",
        sort_order="DESCEND",
    )


# ---- errors ----------------------------------------------------------------------------------------------------------


class EtcdError(Exception):
    """Base of all. `detail` is for people (etcd's words or the transport's), `endpoint` the one that was asked."""

    def __init__(self, detail: str, *, endpoint: str = "", **fields: Any) -> None:
        super().__init__(f"{endpoint}: {detail}" if endpoint else detail)
        self.detail = detail
        self.endpoint = endpoint
        self.fields = fields


class Unreachable(EtcdError):
    """Nothing was sent, so nothing happened; any request may be sent elsewhere."""


class LeftAlone(Unreachable):
    """Not asked at all, because of earlier failures: the endpoint's circuit breaker is open."""


class Unavailable(EtcdError):
    """No answer, or one that says "not now". A read may be sent elsewhere."""


class Ambiguous(Unavailable):
    """A write without an answer: applied, not applied, or applied later. Read back before anything else."""


class Corrupt(Unavailable):
    """The member found its own data damaged (an alarm of etcd's): it must not be used until somebody repaired it."""


class Compacted(EtcdError):
    """The revision asked for is older than the last compaction."""


class Oversized(Compacted):
    """A line, or the fragments of one response, are over the bound that a watch may take: list, page by page."""


class FutureRevision(EtcdError):
    """The revision asked for is newer than what this member has."""


class Refused(EtcdError):
    """Who we are, or what we may do, is not enough; renewing the token did not help."""


class NoSpace(EtcdError):
    """The space quota is reached (alarm NOSPACE): reads work, writes do not."""


class Invalid(EtcdError):
    """etcd will never take this request; `detail` says why."""


class NotFound(Invalid):
    """What the request names is not there: a lease that expired or was revoked, a user, a role."""


# ---- what the rest programs against ----------------------------------------------------------------------------------


class Member(Protocol):
    """One endpoint. `repr` shows its URL and its breaker, such as `http://10.0.0.1:2379 (closed)`."""

    @property
    def url(self) -> str: ...

    @property
    def breaker(self) -> Literal["closed", "open", "half-open"]: ...


class Etcd(Protocol):
    """What can be asked of etcd. Every call has a deadline of its own and raises `EtcdError` kinds only.

    Without `member` the preferred endpoint is asked first, and reads go on to the others, with jittered backoff,
    where the answer was `Unreachable` or `Unavailable`. With `member` only that one is asked. Writes are sent once,
    elsewhere only after `Unreachable`; their other failures without an answer are `Ambiguous`.
    """

    @property
    def members(self) -> tuple[Member, ...]:
        """All endpoints, in the order of the configuration."""
        ...

    def next_member(self, after: Member | None = None) -> Member:
        """The endpoint to try next: one that answered before one that failed, never `after` if there is another."""
        ...

    async def range(
        self, request: Range, *, member: Member | None = None, timeout_s: float | None = None
    ) -> RangeResult:
        """Read. A prefix may be cut by etcd's size limits: use `list` for those."""
        ...

    async def list(self, prefix: bytes, *, revision: int = 0) -> RangeResult:
        """Everything below `prefix`, read in pages at one revision (that of the first page): one consistent state.

        Linearizable. Raises `Compacted` where `revision` was given and is gone; otherwise it starts over by itself,
        `LIST_RESTARTS` times.
        """
        ...

    def pages(self, prefix: bytes, *, revision: int = 0) -> AsyncGenerator[RangeResult, None]:
        """The same page by page, at least one, with the header that counts in the first.

        Raises `Compacted` where the revision is gone before the last page: what came before is to be forgotten then.
        """
        ...

    async def txn(self, txn: Txn) -> TxnResult:
        """Commit a transaction. Raises `Ambiguous` where it may have been, or may later be, applied.

        One that only reads is a read: it goes on to other endpoints, and is never `Ambiguous`.
        """
        ...

    async def status(self, *, member: Member | None = None) -> MemberStatus:
        """Version and health of a member."""
        ...

    def watch(
        self, prefix: bytes, start_revision: int, *, member: Member
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchBatch]]:
        """Watch a prefix on one member, with progress notices, fragments and `hasleader`.

        Entering waits for the `created` answer, 2 s at most, and the iterator yields it first. The iterator ends after
        `canceled`, and raises `Unavailable` when the stream breaks or ends; leaving cancels the watch. Nothing is read
        from the socket before it is asked for, beyond one buffer: not asking pushes back.
        """
        ...
