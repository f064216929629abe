"""The actors of a schedule, and their etcd: each call waits for its turn, and ends as the schedule decides."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from configsvc.core.commands import Command
from configsvc.errors import ConfigSvcError
from configsvc.etcd.ops import (
    Ambiguous,
    Delete,
    MemberStatus,
    Put,
    Range,
    RangeResult,
    Txn,
    TxnResult,
    Unavailable,
    prefix_end,
)
from configsvc.writes.writer import Outcome
from tests.writes.naming import describe
from tests.writes.programs import Decision, Step

if TYPE_CHECKING:
    from tests.writes.explorer import Run

T = TypeVar("T")


class Choose(Protocol):
    def __call__(self, waiting: Sequence[str], last: str, ghosts: int, dead: Sequence[str]) -> Decision: ...


@dataclass
class Answer:
    """What a writer was told about one command; neither where it died first."""

    actor: str
    step: Step
    id: str
    outcome: Outcome | None = None
    error: ConfigSvcError | None = None
    wanted: Command | None = None
    """The command as it was planned last."""
    resent: "Answer | None" = None
    """The answer to the request that this one repeated."""


@dataclass
class Actor:
    name: str
    task: "asyncio.Task[None] | None" = None
    call: str | None = None
    """What it waits to do."""
    txn: Txn | None = None
    turn: "asyncio.Future[str] | None" = None
    dead: bool = False
    naps: int = 0
    faults: list[str] = field(default_factory=list)
    """What went wrong for the command that it is at."""

    @property
    def runs(self) -> bool:
        return self.task is not None and not self.task.done() and self.call is None and not self.dead


@dataclass
class Lease:
    owner: str
    ttl_s: int
    keys: dict[bytes, int] = field(default_factory=dict)
    """The keys on it, each with the revision at which it was put so."""


@dataclass
class Ghost:
    """A transaction whose sender was told that there is no answer, and that etcd has still to carry out."""

    actor: str
    txn: Txn
    text: str


class Turns:
    """An actor's etcd: `WriterEtcd`, each call in its turn. Without an actor nothing is waited for."""

    def __init__(self, run: "Run", actor: Actor | None) -> None:
        self._run = run
        self._actor = actor
        self._name = actor.name if actor else "-"

    async def _call(self, text: str, send: Callable[[], Awaitable[T]], txn: Txn | None = None) -> T:
        run, actor = self._run, self._actor
        verdict = await run.park(actor, text, txn) if actor else "go"
        if verdict == "down":
            raise Unavailable("refused by the schedule")
        if verdict == "ghost":
            raise Ambiguous("no answer yet")
        result = await send()
        if verdict == "lost":
            raise Ambiguous("the answer is lost")
        return result

    async def range(self, request: Range, *, member: object = None, timeout_s: float | None = None) -> RangeResult:
        return await self._call(f"read {self._run.shown(request.key)}", lambda: self._run.range(request))

    async def list(self, prefix: bytes, *, revision: int = 0) -> RangeResult:
        request = Range(key=prefix, range_end=prefix_end(prefix), revision=revision)
        return await self._call(f"list {self._run.shown(prefix)}", lambda: self._run.range(request))

    async def txn(self, txn: Txn) -> TxnResult:
        if not any(isinstance(one, Put | Delete) for one in txn.success):
            return await self._call("read the scope", lambda: self._run.txn(txn, self._name, ""))
        text = describe(self._run.scope, txn, self._run.head_raw)
        return await self._call(text, lambda: self._run.txn(txn, self._name, text), txn)

    async def status(self, *, member: object = None) -> MemberStatus:
        return MemberStatus(version="3.6.0")

    async def lease_grant(self, ttl_s: int) -> int:
        return self._run.grant(self._name, ttl_s)

    async def lease_keepalive(self, lease: int) -> int:
        return self._run.leases[lease].ttl_s

    async def lease_revoke(self, lease: int) -> None:
        if self._actor and self._actor.dead:
            raise Unavailable("the actor is dead")
        await self._call("revoke its lease", lambda: self._run.end_lease(lease))
