"""One schedule: writers, a janitor and a hand on one scope of a real etcd, where a scheduler owns the order of calls.

Each actor's etcd object waits for its turn at every call. When all actors wait, one decision is taken (`programs.py`):
a call is let through, its answer lost, it is carried out later, its actor dies. Leases are the explorer's own, `sleep`
and the clock are virtual, and a compaction is refused reads, so that schedules can share one etcd and run at the same
time. What is judged afterwards (`verdict.py`) is the history that etcd's watch tells.
"""

import asyncio
import contextlib
import itertools
import random
import secrets
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from configsvc.core.commands import About, Change, Command, Deploy, Expire, Rollback, View
from configsvc.core.guards import Guards
from configsvc.core.model import (
    Scope,
    canonical,
    content_prefix,
    encode_entry,
    entry_path,
    head_path,
    manifests_prefix,
)
from configsvc.core.release import decode_manifest, manifest_name
from configsvc.core.retention import Retention
from configsvc.errors import ConfigSvcError, NotFound, OutcomeUnknown
from configsvc.etcd.ops import (
    Compacted,
    Delete,
    Put,
    Range,
    RangeResult,
    Txn,
    TxnResult,
    prefix_end,
)
from configsvc.etcd.ops import NotFound as NoLease
from configsvc.writes.janitor import ORPHAN_S, Janitor
from configsvc.writes.writer import Key, Writer
from configsvc_client.protocol import format_time
from tests.writes.lean import LeanEtcd
from tests.writes.naming import at, head_of
from tests.writes.programs import Decision, Program, Step
from tests.writes.turns import Actor, Answer, Choose, Ghost, Lease, Turns

GUARDS = Guards(max_deleted=0, max_growth=0, max_scope_bytes=0, max_releases_per_min=0)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MAX_DECISIONS = 600
"""A schedule that needs more goes in circles."""
_ids: ContextVar[random.Random | None] = ContextVar("ids", default=None)
LASTING_S = 3600
"""Leases that are granted for longer end by no decision: receipts'."""


def new_id() -> str:
    """In place of random ids: within a schedule they come from its seed.

    How contents sort decides what a janitor, which walks through them, meets of what is staged meanwhile.
    """
    rng = _ids.get()
    return rng.randbytes(16).hex() if rng else secrets.token_hex(16)


class Run:
    """A schedule while it runs, and all that is known of it afterwards."""

    def __init__(self, etcd: LeanEtcd, program: Program, choose: Choose) -> None:
        self.etcd = etcd
        self.program = program
        self.scope = Scope(f"x{uuid.uuid4().hex[:12]}", "prod")
        self.choose = choose
        self.decisions: list[Decision] = []
        self.trace: list[str] = []
        self.answers: list[Answer] = []
        self.cases: Counter[str] = Counter()
        self.actors: dict[str, Actor] = {}
        self.ghosts: list[Ghost] = []
        self.leases: dict[int, Lease] = {}
        self.hands: set[int] = set()
        """The revisions of what was put by hand."""
        self.beheaded = self.damaged = False
        self.compacted = 0
        self.now = 0.0
        self.revision = 0
        """The newest at which something of the scope was stored."""
        self.head_raw: bytes | None = None
        self.finished_at = 0
        """The revision after the last writer; whatever comes later may change nothing."""
        self._took: dict[str, str] = {}
        """In which state somebody took a window over."""
        self._numbers = itertools.count(1)
        self._own: asyncio.Task[Any] | None = None
        self._quiet: asyncio.Future[None] | None = None

    # ---- the store ----------------------------------------------------------------------------------------------

    async def range(self, request: Range) -> RangeResult:
        if 0 < request.revision < self.compacted:
            raise Compacted("required revision has been compacted")
        return await self.etcd.range(request)

    async def txn(self, txn: Txn, who: str, text: str) -> TxnResult:
        """Carry a transaction out, with leases of our own."""
        leased: list[Put] = [one for one in txn.success if isinstance(one, Put) and one.lease]
        if any(one.lease not in self.leases for one in leased):
            # etcd looks at leases only where the compares hold; whoever sends this has lost either way.
            raise NoLease("requested lease not found")
        plain = tuple(msgspec.structs.replace(one, lease=0) if isinstance(one, Put) else one for one in txn.success)
        result = await self.etcd.txn(msgspec.structs.replace(txn, success=plain))
        if text:
            self._note_step(who, text.split(" of ")[0], text, refused=not result.succeeded)
        if result.succeeded and text:
            self.revision = max(self.revision, result.header.revision)
            for one in leased:
                self.leases[one.lease].keys[one.key] = result.header.revision
            path = head_path(self.scope)
            self.head_raw = next((o.value for o in plain if isinstance(o, Put) and o.key == path), self.head_raw)
        return result

    def _note_step(self, who: str, step: str, text: str, *, refused: bool) -> None:
        self.trace.append(f"{who:>3}: {text}{': refused' * refused}")
        self.cases[f"{step}{' refused' * refused}"] += 1
        if step.startswith("take over") and not refused:
            self._took[who] = step.removeprefix("take over ")
            self.cases["the janitor takes over"] += who == "j"
        elif step in ("verified", "undo", "close", "open") and who in self._took:
            state = self._took.pop(who)
            if step != "open":
                self.cases[f"taken over {state}, {step}{' refused' * refused}"] += 1

    def grant(self, owner: str, ttl_s: int) -> int:
        lease = next(self._numbers)
        self.leases[lease] = Lease(owner, ttl_s)
        return lease

    async def end_lease(self, lease: int) -> None:
        for key, revision in self.leases.pop(lease, Lease("", 0)).keys.items():
            compare = at(key, revision)
            await self.txn(Txn(compare=(compare,), success=(Delete(key=key),)), "-", "a lease ends")

    async def by_hand(self, *operations: Put | Delete) -> None:
        result = await self.etcd.txn(Txn(success=operations))
        self.revision = max(self.revision, result.header.revision)
        self.hands.add(result.header.revision)

    def shown(self, path: bytes) -> str:
        text = path.decode(errors="replace")
        for prefix in ("/configsvc/releases/", "/configsvc/", "/config/"):
            text = text.removeprefix(prefix)
        return text.removeprefix(f"{self.scope.namespace}/").removeprefix(f"{self.scope.environment}/") or "all"

    # ---- turns --------------------------------------------------------------------------------------------------

    async def park(self, actor: Actor, text: str, txn: Txn | None = None) -> str:
        """Wait for the actor's turn; how it ends. Nothing that the dead do goes on."""
        await self._only_in(None if actor.dead else actor.task)
        actor.call, actor.txn = text, txn
        actor.turn = asyncio.get_running_loop().create_future()
        self._note()
        return await actor.turn

    async def _only_in(self, task: "asyncio.Task[Any] | None") -> None:
        """Stand still for ever in any other task: it renews a lease, and these leases end by a decision only."""
        if asyncio.current_task() is not task:
            await asyncio.get_running_loop().create_future()

    def _note(self, *_: object) -> None:
        if self._quiet and not self._quiet.done() and not any(actor.runs for actor in self.actors.values()):
            self._quiet.set_result(None)

    async def _all_wait(self) -> None:
        if any(actor.runs for actor in self.actors.values()):
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    def sleep_of(self, actor: Actor | None) -> Callable[[float], Awaitable[None]]:
        async def sleep(seconds: float) -> None:
            if actor is None:
                await self._only_in(self._own)
                self.now += seconds
                return
            await self.park(actor, "sleep")
            # Whoever sleeps again and again sleeps longer: deadlines come after a few turns.
            self.now += seconds * 2 ** min(actor.naps, 8)
            actor.naps += 1

        return sleep

    def _go(self, actor: Actor, verdict: str) -> None:
        assert actor.turn
        actor.call, turn = None, actor.turn
        turn.set_result(verdict)

    # ---- one schedule -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Play the program to its end, and then what comes after it. The history is complete afterwards."""
        self._own = asyncio.current_task()
        _ids.set(random.Random(self.program.seed))
        writer = self.writer(None, max_steps=100)
        for number, step in enumerate(self.program.setup):
            await self.carry_out(writer, "w0", step, f"s{number}", Counter())
        self.trace.append("---")
        for number, steps in enumerate(self.program.writers, 1):
            self._start(Actor(f"w{number}"), self._write, steps)
        if self.program.janitor:
            self._start(Actor("j"), self._clean)
        try:
            await self._schedule()
        finally:
            for actor in self.actors.values():
                actor.dead = True
                if actor.task:
                    actor.task.cancel()
            await asyncio.wait([actor.task for actor in self.actors.values() if actor.task])
        for actor in self.actors.values():
            if actor.task and not actor.task.cancelled() and (error := actor.task.exception()):
                raise error
        await self._end()
        await self.etcd.reached(self.revision)

    def _start(self, actor: Actor, play: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        self.actors[actor.name] = actor
        actor.task = asyncio.create_task(play(actor, *arguments))  # type: ignore[arg-type]
        actor.task.add_done_callback(self._note)

    async def _schedule(self) -> None:
        last = ""
        while True:
            await self._all_wait()
            waiting = [name for name, actor in self.actors.items() if actor.call is not None and not actor.dead]
            if not any(name.startswith("w") for name in waiting):
                return
            assert len(self.decisions) < MAX_DECISIONS, "the schedule does not end"
            dead = [name for name, one in self.actors.items() if one.dead and self._leases(name)]
            decision = self.choose(waiting, last, len(self.ghosts), dead)
            if await self._do(decision):
                self.decisions.append(decision)
                last = decision[1] if decision[0] in ("go", "lost", "ghost", "down") else last

    def _leases(self, owner: str) -> list[int]:
        return [id for id, lease in self.leases.items() if lease.owner == owner and lease.ttl_s < LASTING_S]

    async def _do(self, decision: Decision) -> bool:
        """Whether the decision could be carried out."""
        kind, *rest = decision
        actor = self.actors.get(rest[0]) if rest else None
        waits = actor is not None and actor.call is not None and not actor.dead
        match kind:
            case "go" | "down" | "lost" | "ghost" | "kill" | "kill-ghost":
                return waits and actor is not None and self._do_turn(kind, actor)
            case "until":
                return waits and actor is not None and await self._go_until(actor, rest[1])
            case "deliver":
                if int(rest[0]) >= len(self.ghosts):
                    return False
                await self._deliver(self.ghosts.pop(int(rest[0])))
            case "expire":
                if not (leases := self._leases(rest[0])):
                    return False
                self.trace.append(f"***: the leases of {rest[0]} end")
                self.cases["a dead writer's lease ends" if actor and actor.dead else "a live writer's lease ends"] += 1
                for lease in leases:
                    await self.end_lease(lease)
            case "later":
                self.now += float(rest[0])
                self.trace.append(f"***: {rest[0]} s pass")
            case "compact":
                self.compacted = self.revision
                self.trace.append("***: compaction")
            case "hand":
                await self._put_by_hand(*rest)
            case _:
                return await self._harm(kind, *rest)
        return True

    def _do_turn(self, kind: str, actor: Actor) -> bool:
        is_read = actor.txn is None and actor.call not in ("sleep", "revoke its lease")
        if (kind == "down" and not is_read) or (kind in ("lost", "ghost", "kill-ghost") and actor.txn is None):
            return False
        if kind not in ("go", "kill"):
            self.trace.append(f"***: {actor.name} {kind}: {actor.call}")
            fault = f"{kind}: {(actor.call or '').split(' of ')[0]}" if kind != "down" else "down"
            actor.faults.append(fault)
            self.cases[fault] += 1
        if kind in ("ghost", "kill-ghost"):
            assert actor.txn
            self.ghosts.append(Ghost(actor.name, actor.txn, actor.call or ""))
        if not kind.startswith("kill"):
            self._go(actor, kind)
            return True
        self.trace += [f"***: {actor.name} is killed before: {actor.call}"] * (kind == "kill")
        actor.dead, actor.call = True, None
        self.cases["killed"] += 1
        return True

    async def _go_until(self, actor: Actor, text: str) -> bool:
        while actor.call is not None and not actor.call.startswith(text):
            self._go(actor, "go")
            await self._all_wait()
        return True

    async def _deliver(self, ghost: Ghost) -> None:
        self.trace.append(f"***: late, of {ghost.actor}:")
        with contextlib.suppress(NoLease):
            result = await self.txn(ghost.txn, ghost.actor, ghost.text)
            self.cases[f"late {'' if result.succeeded else 'and refused'}: {ghost.text.split(' of ')[0]}"] += 1

    async def _put_by_hand(self, key: str, value: str | None = None) -> None:
        path = entry_path(self.scope, key)
        self.trace.append(f"***: by hand: {key} = {value}")
        self.cases["by hand"] += 1
        stored = encode_entry(canonical(value), None, {})
        await self.by_hand(Delete(key=path) if value is None else Put(key=path, value=stored))

    async def _harm(self, kind: str, how: str = "") -> bool:
        """What only an operator's mistake does."""
        path = head_path(self.scope)
        if kind == "behead":
            if self.head_raw is None:
                return False
            self.beheaded = True
            await self.by_hand(Delete(key=path) if how == "delete" else Put(key=path, value=b"{garbled"))
            self.head_raw = None if how == "delete" else b"{garbled"
        elif kind == "damage":
            head = head_of(self.head_raw)
            if head is None or head.applying is None:
                return False
            self.damaged = True
            path = manifests_prefix(self.scope) + manifest_name(head.applying.release)
            manifest = decode_manifest((await self.range(Range(key=path))).kvs[0].value)
            prefix = content_prefix(self.scope, manifest.content)
            await self.by_hand(Delete(key=prefix, range_end=prefix_end(prefix)))
        else:
            return False
        self.trace.append(f"***: {kind} {how}")
        self.cases[f"{kind} {how}".strip()] += 1
        return True

    # ---- actors -------------------------------------------------------------------------------------------------

    def writer(self, actor: Actor | None, *, max_steps: int | None = None) -> Writer:
        return Writer(
            Turns(self, actor),  # type: ignore[arg-type]  # it is asked for no watch
            by=actor.name if actor else "w0",
            guards=GUARDS,
            now=lambda: EPOCH + timedelta(seconds=self.now),
            sleep=self.sleep_of(actor),
            clock=lambda: self.now,
            max_steps=max_steps or self.program.max_steps,
            chunk_records=self.program.chunk_records,
        )

    async def _write(self, actor: Actor, steps: Sequence[Step]) -> None:
        writer = self.writer(actor)
        for number, step in enumerate(steps):
            actor.naps, actor.faults = 0, []
            answer = await self.carry_out(writer, actor.name, step, f"{actor.name}-{number}", self.cases)
            if step.keyed and isinstance(answer.error, OutcomeUnknown):
                actor.naps, actor.faults = 0, []
                await self.carry_out(writer, actor.name, step, f"{actor.name}-{number}r", self.cases, answer)

    async def carry_out(
        self, writer: Writer, who: str, step: Step, id: str, cases: Counter[str], before: Answer | None = None
    ) -> Answer:
        answer = Answer(who, step, f"{self.scope.namespace}-{id}", resent=before)
        self.answers.append(answer)

        async def prepare(view: View) -> Command:
            answer.wanted = await self._command(writer, step, view)
            return answer.wanted

        about = About(by=who, at=writer.now(), id=answer.id, force="a test", reason="a test")
        name = (before or answer).id
        key = Key(who, name, str(step)) if step.keyed else None
        label = step.label if step.kind == "deploy" else None
        try:
            answer.outcome = await writer.write(self.scope, prepare, about, label=label, key=key)
        except ConfigSvcError as error:
            answer.error = error
        said = answer.outcome or answer.error
        word = "done" if answer.outcome else getattr(said, "code", "")
        cases[f"answer: {word}"] += 1
        for fault in self.actors[who].faults if who in self.actors else ():
            cases[f"{fault} -> {word}"] += 1
        keys = answer.wanted.keys if isinstance(answer.wanted, Expire) else ()
        if keys and step.back and answer.outcome and answer.outcome.unchanged:
            cases["an old timer does nothing"] += 1
        if answer.outcome:
            cases["answer: unchanged"] += answer.outcome.unchanged
            cases["answer: repeated"] += answer.outcome.plan is None
            result = f"release {answer.outcome.release}" + ", unchanged" * answer.outcome.unchanged
        else:
            result = f"{type(said).__name__}: {said}"
        self.trace.append(f"{who:>3}> {step}: {result}")
        return answer

    async def _command(self, writer: Writer, step: Step, view: View) -> Command:
        values = {key: canonical(value) for key, value in step.set.items()}
        match step.kind:
            case "deploy":
                return Deploy(values=values, version=step.label, overrides=step.policy)
            case "rollback":
                target = view.release - step.back
                if target < 1:
                    raise NotFound("there is no release to go back to", code="release_not_found")
                found = await writer.reading.manifest(self.scope, target)
                if found is None:
                    raise NotFound("the release was given up", code="release_not_found")
                entries, _ = await writer.deployed_at(self.scope, found.manifest)
                return Rollback(entries=entries, target=target, overrides=step.policy)
            case "expire":
                return Expire(keys={key: one.release - step.back for key, one in view.overrides.items()})
        ends = None if step.ttl_s is None else format_time(EPOCH + timedelta(seconds=self.now + step.ttl_s))
        kind: Any = step.kind
        return Change(kind=kind, set=values, delete=step.delete, expires_at=ends)

    def _janitor(self, actor: Actor | None, clock: Callable[[], float]) -> Janitor:
        return Janitor(
            Turns(self, actor),  # type: ignore[arg-type]
            self.writer(actor),
            namespace=self.scope.namespace,
            open_scopes=lambda: [self.scope],
            retention=Retention(),
            clock=clock,
            sleep=self.sleep_of(actor),
        )

    async def _clean(self, actor: Actor) -> None:
        await self._janitor(actor, lambda: self.now).run()

    # ---- afterwards ---------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        """The leases of the dead end, another writer comes, what is late arrives, and a janitor sweeps."""
        self.trace.append("---")
        for lease in [id for id, one in self.leases.items() if one.ttl_s < LASTING_S]:
            await self.end_lease(lease)
        writer = self.writer(None)
        last = Step(kind="change", set={"z": "last"})
        answer = await self.carry_out(writer, "w9", last, "last", Counter())
        if answer.error is not None and self.damaged:
            about = About(by="w9", at=writer.now(), id=f"{self.scope.namespace}-repair", reason="a test")
            await writer.repair(self.scope, about)
            self.cases["repaired"] += 1
            answer = await self.carry_out(writer, "w9", last, "last2", Counter())
        assert answer.error is None, f"the last writer was refused: {answer.error}"
        self.finished_at = self.revision
        while self.ghosts:
            await self._deliver(self.ghosts.pop(0))
        if self.program.sweep:
            hours = itertools.count(0.0, ORPHAN_S + 1)
            janitor = self._janitor(None, lambda: next(hours))
            assert await janitor._take_turn() is not None
            await janitor.sweep()
            await janitor.sweep()
            self.cases["swept"] += 1
