"""Writes that etcd carries out after their sender gave up: on three members, with the leader or the quorum frozen.

What the writer was told is true, or it was told that the outcome is not known, and then the same request with its
Idempotency-Key settles it. What was reported as not applied never comes later.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from configsvc.core.commands import About, Command, Deploy, View
from configsvc.core.model import Scope, canonical, decode_head, entry_path, head_path, manifests_prefix
from configsvc.core.release import decode_manifest
from configsvc.errors import ConfigSvcError, OutcomeUnknown, Unavailable
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalCluster, LocalMember
from configsvc.etcd.ops import Put, Range, Txn, TxnResult
from configsvc.writes import txns
from configsvc.writes.writer import Key, Outcome, Writer
from tests.cluster.conftest import freeze, heal, started
from tests.support.etcd import newest
from tests.writes.mortal import GUARDS
from tests.writes.naming import asked, describe

SCOPE_KEYS = ("a", "b", "c")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three members of this module's own, and the thread that they live as long as."""
    with ThreadPoolExecutor(1, thread_name_prefix="etcd") as hands, started(newest(), hands) as found:
        yield found


@pytest.fixture(autouse=True)
async def healthy(cluster: LocalCluster) -> Any:
    """All members go on, before and after."""
    await asyncio.to_thread(heal, cluster)
    yield
    await asyncio.to_thread(heal, cluster)


class Haunted:
    """A gateway that does something right before it sends the transaction whose description begins with `step`."""

    def __init__(self, gateway: Gateway, scope: Scope, step: str, fault: Callable[[], None]) -> None:
        self._gateway = gateway
        self._scope = scope
        self._step = step
        self._fault = fault
        self._head: bytes | None = None
        self.happened = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    async def txn(self, txn: Txn) -> TxnResult:
        if txn.compare and not self.happened and describe(self._scope, txn, self._head).startswith(self._step):
            self.happened = True
            self._fault()
        result = await self._gateway.txn(txn)
        path = head_path(self._scope)
        if result.succeeded:
            self._head = next(
                (one.value for one in txn.success if isinstance(one, Put) and one.key == path), self._head
            )
        return result


def status_of(member: LocalMember) -> dict[str, Any]:
    found: dict[str, Any] = member.ask("/v3/maintenance/status", {})
    return found


def leader_of(cluster: LocalCluster) -> LocalMember:
    found = [status_of(member) for member in cluster.members]
    ids = [one["header"]["member_id"] for one in found]
    return cluster.members[ids.index(found[0]["leader"])]


async def quiet(cluster: LocalCluster) -> None:
    """All members have a leader and have applied the same log, up to its end."""

    def same() -> bool:
        found = [status_of(member) for member in cluster.members]
        return len({(one["raftIndex"], one["raftAppliedIndex"], one["leader"]) for one in found}) == 1

    for _ in range(3):
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(OSError, KeyError):
                    if await asyncio.to_thread(same):
                        break
                await asyncio.sleep(0.2)
        await asyncio.sleep(0.3)


async def write(writer: Writer, scope: Scope, value: str, key: Key | None) -> tuple[str, Outcome | ConfigSvcError]:
    async def prepare(view: View) -> Command:
        return Deploy(values=dict.fromkeys(SCOPE_KEYS, canonical(value)), overrides="discard")

    about = About(by="w", at=writer.now(), id=txns.new_id())
    try:
        return about.id, await writer.write(scope, prepare, about, key=key)
    except ConfigSvcError as error:
        return about.id, error


STEPS = {100: ("release",), 1: ("open", "verified", "chunk", "close")}
CASES = [
    (max_steps, step, frozen, early)
    for max_steps, steps in STEPS.items()
    for step in steps
    for frozen, early in (("leader", False), ("leader", True), ("quorum", False))
    # Inside a window one of the three tells as much for each step.
    if max_steps > 1 or (frozen, early) == ("leader", step in ("open", "close"))
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("max_steps", "step", "frozen", "early"), CASES)
async def test_what_a_writer_is_told_is_true(
    cluster: LocalCluster, max_steps: int, step: str, frozen: str, early: bool
) -> None:
    scope = Scope(f"ns-{uuid.uuid4().hex[:12]}", "prod")
    leader = await asyncio.to_thread(leader_of, cluster)
    others = [member for member in cluster.members if member is not leader]
    stopped = [leader] if frozen == "leader" else [leader, others[1]]
    thawing: list[asyncio.Task[None]] = []

    async def thaw_after(seconds: float) -> None:
        await asyncio.sleep(seconds)
        for member in stopped:
            member.thaw()

    def stop() -> None:
        for member in stopped:
            freeze(member)
        # Early: while the writer still asks what became of it. Else it has to live with what is left of the cluster.
        thawing.append(asyncio.create_task(thaw_after(2.5 if early else 8.0)))

    async with AsyncExitStack() as stack:
        by_follower = await stack.enter_async_context(
            Gateway(GatewayConfig(endpoints=(others[0].url,), breaker_failures=1000))
        )
        plain = await stack.enter_async_context(Gateway(GatewayConfig(endpoints=tuple(m.url for m in cluster.members))))
        options: dict[str, Any] = {"guards": GUARDS, "max_steps": max_steps, "chunk_records": 1}
        first = Writer(plain, by="before", **options)
        assert isinstance((await write(first, scope, "0", None))[1], Outcome)
        haunted = Haunted(by_follower, scope, step, stop)
        writer = Writer(haunted, by="haunted", **options)  # type: ignore[arg-type]
        key = Key("w", scope.namespace, "the same")
        id, said = await write(writer, scope, "1", key)
        assert haunted.happened, said
        before = await state(plain, scope) if isinstance(said, Unavailable) else None
        for task in thawing:
            await task
        await quiet(cluster)
        if before is not None:
            # Reported as not applied: nothing of it has come meanwhile.
            assert await state(plain, scope) == before
        ids = {id: said}
        if isinstance(said, OutcomeUnknown):
            again, now = await write(first, scope, "1", key)
            assert isinstance(now, Outcome), now
            assert not now.unchanged
            ids[again] = now
        # Another write finishes whatever is left, and what comes later changes nothing any more.
        assert isinstance((await write(first, scope, "2", None))[1], Outcome)
        await quiet(cluster)
        await check(plain, scope, ids)


async def state(gateway: Gateway, scope: Scope) -> dict[bytes, bytes]:
    return {kv.key: kv.value for kv in (await gateway.list(entry_path(scope, ""))).kvs if b"/_meta/" not in kv.key}


async def check(gateway: Gateway, scope: Scope, ids: dict[str, Outcome | ConfigSvcError]) -> None:
    """What was accepted is in the history, once; what was refused is not; all keys have the last value."""
    head = decode_head((await gateway.range(Range(key=head_path(scope)))).kvs[0].value)
    manifests = [decode_manifest(kv.value) for kv in (await gateway.list(manifests_prefix(scope))).kvs]
    assert head.applying is None
    assert [one.number for one in manifests] == list(range(1, head.release + 1))
    made = [asked(one.id) for one in manifests]
    found = [id for id in ids if id in made]
    wanted = any(isinstance(said, Outcome) for said in ids.values())
    assert len(found) == wanted, f"{ids} and {made}"
    values = {msgspec.json.decode(raw)["value"] for raw in (await state(gateway, scope)).values()}
    assert values == {"2"}
