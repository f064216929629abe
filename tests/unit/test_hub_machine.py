"""Readers of two hubs over one store, in random order with everything that can happen to either: what they end up with.

A reader is what a client is: it applies what it is sent, remembers the last id, and goes on with that at either hub.
After every step and once the loop is quiet, each state that a reader had was a state of its feed; ids never went back
within an epoch; and no reader sleeps while there is something to send.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.json import encode

from configsvc.core.feed import Frame
from configsvc.core.model import Scope, entry_path, epoch_path, head_path, schema_path
from configsvc.core.replica import Relist, Replica
from configsvc.hub import Hub
from configsvc.readers import Reader
from configsvc_client.protocol import CHANGE, SNAPSHOT, STATUS, EventId, decode_baseline, decode_delta, decode_status
from configsvc_client.snapshot import Snapshot
from tests.support.model_etcd import ModelEtcd, entry_bytes, head_bytes, schema_bytes, window

HEARTBEAT_S = 5.0
SCOPES = (Scope("a", "prod"), Scope("b", "prod"))
KEYS = ("x", "y", "default")

scopes = st.sampled_from(SCOPES)
hubs = st.integers(0, 1)
values = st.one_of(st.integers(0, 3).map(entry_bytes), st.none(), st.just(b"?"))
writes = st.lists(st.tuples(scopes, st.sampled_from(KEYS), values), min_size=1, max_size=3)

Plain = tuple[Any, ...]


def plain(snapshot: Snapshot) -> Plain:
    """A state whose values are comparable, whether they came over the wire or not."""
    entries = {key: (encode(entry.value), entry.revision, entry.source) for key, entry in snapshot.entries.items()}
    return snapshot.release, snapshot.version, entries


class Client:
    """One reader of one scope over all of its connections: the state, and the last id that it was sent."""

    def __init__(self, scope: Scope, past: dict[tuple[Scope, EventId], list[Plain]]) -> None:
        self.scope = scope
        self.state: Snapshot | None = None
        self.last: EventId | None = None
        self.reader: Reader | None = None
        self.task: asyncio.Task[None] | None = None
        self.pace = 0
        self.shares = False
        """Whether it pulls when poked and shares what it pulls, as streams do, or is a task of its own."""
        self.told = ""
        """The state in the last status of this connection."""
        self.ended = False
        self._past = past

    def connect(self, loop: asyncio.AbstractEventLoop, hub: Hub, pace: int, shares: bool) -> None:
        self.pace, self.shares, self.ended, self.told = pace, shares, False, ""
        self.task = loop.create_task(self._read(hub))

    async def leave(self) -> None:
        if self.task and not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task})
        self.task = None

    async def _read(self, hub: Hub) -> None:
        with hub.subscribe(self.scope, self.last) as self.reader:
            async for frames in self._shared(hub, self.reader) if self.shares else self.reader:
                for frame in frames:
                    self.take(frame)
                for _ in range(self.pace):
                    await asyncio.sleep(0)
        self.ended = True

    async def _shared(self, hub: Hub, reader: Reader) -> AsyncIterator[list[Frame]]:
        poked = asyncio.Event()
        reader.poke = poked.set
        while not reader.ended:
            poked.clear()
            if frames := reader.pull(hub.shared()):
                yield frames
            else:
                await poked.wait()

    def take(self, frame: Frame) -> None:
        if frame.event == SNAPSHOT:
            baseline = decode_baseline(frame.data)
            self.state = Snapshot(
                namespace=baseline.namespace, environment=baseline.environment, epoch=baseline.epoch
            ).apply(baseline)
        elif frame.event == CHANGE:
            assert self.state is not None
            assert frame.id is not None
            assert frame.id.epoch == self.state.epoch
            assert frame.id.revision > self.state.revision
            self.state = self.state.apply(decode_delta(frame.data))
        else:
            status = decode_status(frame.data)
            self.told = status.state
            assert frame.id is None or (self.state and frame.id.revision == status.revision)
        if frame.id:
            if self.last and self.last.epoch == frame.id.epoch:
                assert frame.id.revision >= self.last.revision
            self.last = frame.id
        if self.state and frame.event in (SNAPSHOT, CHANGE):
            at = EventId(self.state.epoch, self.state.revision)
            assert plain(self.state) in self._past[self.scope, at]


class HubMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.etcd = ModelEtcd()
        self.time = 1000.0
        self.past: dict[tuple[Scope, EventId], list[Plain]] = {}
        self.hubs = [self.new_hub(), self.new_hub()]
        self.open: dict[Scope, tuple[str, int]] = {}
        self.release = dict.fromkeys(SCOPES, 0)
        self.serial = 0
        self.clients: list[Client] = []
        self.relist(0)
        for shares in (False, True, True):
            self.come(0, SCOPES[0], 0, shares)

    def teardown(self) -> None:
        for client in self.clients:
            self.loop.run_until_complete(client.leave())
        for hub in self.hubs:
            assert hub.subscribers == 0
            assert all(feed.exists for scope, feed in hub.feeds.items())
        self.loop.close()

    def new_hub(self) -> Hub:
        def note(updates: Any) -> None:
            for update in updates:
                at = EventId(update.snapshot.epoch, update.snapshot.revision)
                self.past.setdefault((update.scope, at), []).append(plain(update.snapshot))

        return Hub(
            Replica(),
            heartbeat_s=HEARTBEAT_S,
            max_frames=2,
            clock=lambda: self.time,
            rng=random.Random(1),
            on_publish=note,
        )

    # ---- the store ----------------------------------------------------------------------------------------------

    @rule(writes=writes)
    def write(self, writes: list[tuple[Scope, str, bytes | None]]) -> None:
        self.etcd.txn({entry_path(scope, key): value for scope, key, value in writes})

    @rule(scope=scopes)
    def delete_scope(self, scope: Scope) -> None:
        self.etcd.txn({key: None for key in self.etcd.live if key.startswith(f"/config/{scope}/".encode())})
        self.open.pop(scope, None)

    @rule(scope=scopes)
    def open_window(self, scope: Scope) -> None:
        if scope not in self.open:
            self.serial += 1
            id, release = f"w{self.serial}", self.release[scope] if head_path(scope) in self.etcd.live else 0
            opened = self.etcd.txn({head_path(scope): head_bytes(release, applying=window(id))})
            self.open[scope] = (id, opened)

    @rule(scope=scopes)
    def close_window(self, scope: Scope) -> None:
        if self.open.pop(scope, None):
            self.release[scope] += 1
            self.etcd.txn({head_path(scope): head_bytes(self.release[scope])})

    @rule(namespace=st.sampled_from("ab"), schema=st.sampled_from([schema_bytes(default=1), schema_bytes(y=3), None]))
    def schema(self, namespace: str, schema: bytes | None) -> None:
        self.etcd.txn({schema_path(namespace): schema})

    @rule(namespace=st.sampled_from("ab"))
    def rotate_epoch(self, namespace: str) -> None:
        self.serial += 1
        self.etcd.txn({epoch_path(namespace): b"%d" % self.serial})

    # ---- the hubs -----------------------------------------------------------------------------------------------

    @rule(which=hubs, most=st.integers(1, 5))
    def deliver(self, which: int, most: int) -> None:
        hub = self.hubs[which]
        if not hub.listed:
            return self.relist(which)
        position = hub.replica.position
        for revision in range(position + 1, self.etcd.revision + 1)[:most]:
            try:
                hub.apply(revision, self.etcd.events[revision])
            except Relist:
                return self.relist(which)
        return None

    @rule(which=hubs)
    def deliver_all(self, which: int) -> None:
        self.deliver(which, 10**6)

    @rule(which=hubs)
    def relist(self, which: int, *, new_history: bool = False) -> None:
        hub = self.hubs[which]
        listed = self.etcd.listing()
        windows, lost = hub.replica.needs(listed, new_history=new_history)
        found = {need.path: record for need in lost if (record := self.etcd.last_readable(need)) is not None}
        before = {need.scope: self.etcd.before(need) for need in windows}
        hub.rebase(listed, windows=before, found=found, new_history=new_history)

    @rule(which=hubs)
    def fork(self, which: int) -> None:
        self.serial += 1
        self.hubs[which].replica.begin_history(f"salt{self.serial}", self.etcd.listing().epochs)
        self.relist(which, new_history=True)

    @rule(which=hubs)
    def prove(self, which: int) -> None:
        hub = self.hubs[which]
        if hub.listed and hub.replica.position == self.etcd.revision:
            hub.prove(self.etcd.revision)

    @rule(which=hubs)
    def settle_doubt(self, which: int) -> None:
        hub = self.hubs[which]
        if hub.doubt.is_set():
            self.time += 0.1
            hub.store_at(self.etcd.revision)

    @rule(which=hubs)
    def tick(self, which: int) -> None:
        self.hubs[which].tick()

    @rule(seconds=st.sampled_from([0.5, 3 * HEARTBEAT_S]))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @rule(which=hubs)
    def drain(self, which: int) -> None:
        """A drained hub is followed by a new process, which knows nothing."""
        old = self.hubs[which]
        old.drain()
        self.turn(30)
        assert all(client.ended for client in self.clients if client.task and client.reader in self.readers(old))
        for client in [client for client in self.clients if client.ended]:
            self.loop.run_until_complete(client.leave())
        assert old.subscribers == 0
        self.hubs[which] = self.new_hub()

    # ---- the clients --------------------------------------------------------------------------------------------

    @rule(which=hubs, scope=scopes, pace=st.integers(0, 3), shares=st.booleans())
    def come(self, which: int, scope: Scope, pace: int, shares: bool) -> None:
        if len(self.clients) < 6:
            self.clients.append(Client(scope, self.past))
            self.clients[-1].connect(self.loop, self.hubs[which], pace, shares)

    @precondition(lambda self: self.clients)
    @rule(which=hubs, client=st.integers(0, 5), pace=st.integers(0, 3), shares=st.booleans())
    def move(self, which: int, client: int, pace: int, shares: bool) -> None:
        chosen = self.clients[client % len(self.clients)]
        self.loop.run_until_complete(chosen.leave())
        chosen.connect(self.loop, self.hubs[which], pace, shares)

    @precondition(lambda self: self.clients)
    @rule(client=st.integers(0, 5))
    def leave(self, client: int) -> None:
        self.loop.run_until_complete(self.clients[client % len(self.clients)].leave())

    @rule(times=st.integers(1, 3))
    def turn(self, times: int) -> None:
        self.loop.run_until_complete(self._turn(times))

    async def _turn(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    # ---- what has to hold ---------------------------------------------------------------------------------------

    def readers(self, hub: Hub) -> list[Reader]:
        return [reader for readers in hub.readers.values() for reader in readers]

    @invariant()
    def tasks_are_well(self) -> None:
        for client in self.clients:
            if client.task and client.task.done():
                client.task.result()

    @rule()
    def everything_is_quiet(self) -> None:
        self.turn(40)
        self.tasks_are_well()
        for hub in self.hubs:
            for reader in self.readers(hub):
                # That the state is stale by now, or live again, a reader is told with the next heartbeat.
                assert {frame.event for frame in reader.pull()} <= {STATUS}, (
                    "it sleeps while there is something to send"
                )
            for client in self.clients:
                if client.task and client.reader in self.readers(hub):
                    self.check(hub, client)
            live = {scope for scope, state in hub.replica.scopes.items() if state.stored}
            assert live | hub.readers.keys() >= hub.replica.scopes.keys()

    def check(self, hub: Hub, client: Client) -> None:
        if not hub.shows(client.scope):
            return
        feed = hub.feeds[client.scope]
        if client.last and client.last.epoch == feed.snapshot.epoch and client.last.revision > hub.proved(client.scope):
            assert client.told == "behind"
            return
        assert client.told != "behind"
        assert client.state is not None
        assert client.state.epoch == feed.snapshot.epoch
        assert plain(client.state) == plain(feed.snapshot)


TestHubs = HubMachine.TestCase
TestHubs.settings = settings(max_examples=250, stateful_step_count=50, deadline=None, report_multiple_bugs=False)
