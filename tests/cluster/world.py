"""One scope under continuous writes, two replicas of it, everybody who reads, and the verdict at the end.

`world()` sets all of that up on a running etcd; the test breaks things and says `moves_again` where the replicas have
to be back; leaving the block checks everything that anybody saw against etcd's own history.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from configsvc.core.model import Scope, scope_prefix
from configsvc.core.replica import Replica as State
from configsvc.epochs import Epochs
from configsvc.etcd.gateway import Gateway
from configsvc.etcd.ops import Range, prefix_end
from configsvc.follower import Follower
from configsvc.hub import Hub
from configsvc.settings import parse
from configsvc.web.app import create_app, running
from configsvc.web.build import gateway_config
from configsvc.web.server import bind, listening
from tests.cli.commands import CONFIGSVC, Running
from tests.cluster.history import History, Tap, check_changes, check_states, decode, difference
from tests.cluster.load import Load, Login
from tests.cluster.readers import Client, Poll, Recorder, Stream

HEARTBEAT_S = 2.0
START_S = 20.0


class Replica:
    """One replica of the service. In process, `hub` and `follower` can be looked at."""

    def __init__(self, name: str, url: str, hub: Hub | None = None, follower: Follower | None = None) -> None:
        self.name = name
        self.url = url
        self._hub = hub
        self._follower = follower

    @property
    def hub(self) -> Hub:
        assert self._hub
        return self._hub

    @property
    def follower(self) -> Follower:
        assert self._follower
        return self._follower

    @property
    def watched(self) -> str:
        """The URL of the member that is watched."""
        member = self.follower.member
        assert member
        return member.url


@asynccontextmanager
async def in_process(settings: Mapping[str, str]) -> AsyncIterator[Replica]:
    """A replica in this process, over HTTP like any other."""
    parsed = parse(settings)
    hub = Hub(State(), heartbeat_s=parsed.heartbeat_s)
    gateway = Gateway(gateway_config(parsed))
    follower = Follower(gateway, hub, prefix=b"/config/", epochs=Epochs(gateway) if parsed.writes else None)

    async def opened(app: Any) -> AsyncIterator[None]:
        async with gateway, running(app, follower.run(), "follower"):
            yield

    app = create_app(parsed, hub, follower=follower, etcd=gateway, lifetimes=[opened])
    async with listening(app, bind(parsed.listen)) as url:
        yield Replica("the replica in process", url, hub, follower)


@asynccontextmanager
async def as_process(settings: Mapping[str, str], folder: Path) -> AsyncIterator[Replica]:
    """A replica as production runs it."""
    folder.mkdir(parents=True)
    with Running(*CONFIGSVC, "serve", cwd=folder, **settings) as process:
        async with asyncio.timeout(START_S):
            while not (url := _address(process)):
                assert process.process.poll() is None, process.out + process.err
                await asyncio.sleep(0.02)
        yield Replica("the replica of its own process", url)
        assert process.process.poll() is None, f"the service ended by itself:\n{process.out[-3000:]}"


def _address(process: Running) -> str | None:
    for line in (process.out + process.err).splitlines():
        if '"address"' in line:
            address: str = json.loads(line)["address"]
            return address
    return None


def service_settings(endpoints: Sequence[str], login: Login | None = None, **more: str) -> dict[str, str]:
    """The environment of a central replica."""
    settings = {
        "CONFIGSVC_MODE": "central",
        "CONFIGSVC_LISTEN": "127.0.0.1:0",
        "CONFIG_AUTH": "none",
        "CONFIGSVC_HEARTBEAT_S": str(HEARTBEAT_S),
        "CONFIGSVC_LOG_FORMAT": "json",
        # As a heartbeat shorter than the default asks for.
        "CONFIGSVC_BREAKER_OPEN_S": str(HEARTBEAT_S / 2),
        "ETCD_ENDPOINTS": ",".join(endpoints),
    }
    if login:
        settings |= {"ETCD_USER": login.user, "ETCD_PASSWORD_FILE": str(login.password_file)}
    return settings | more


class World:
    """What `world` yields. `endpoints` are etcd's as the replicas know them, `direct` as writers and checks do."""

    def __init__(self, scope: Scope, direct: Sequence[str], login: Login | None) -> None:
        self.scope = scope
        self.direct = list(direct)
        self.login = login
        self.load = Load(direct, scope, login=login)
        self.headers: Callable[[], Mapping[str, str]] = dict
        self.tap = Tap(direct, scope, lambda: self.headers())
        self.replicas: list[Replica] = []
        self.streams: list[Stream] = []
        self.polls: list[Poll] = []
        self.client: Client | None = None
        self.complete = True
        """Whether every stream has to have every revision; not where a listing jumps over some."""
        self.forks: dict[str, History] = {}
        """For epochs that readers saw before a fork: the history that they belong to. All others are today's."""
        self.slowest_s = 0.0
        self.lag_s = 0.0
        self.tasks: asyncio.TaskGroup
        self.tap_task: asyncio.Task[None]

    @property
    def local(self) -> Replica:
        """The replica in this process."""
        return self.replicas[0]

    @property
    def recorders(self) -> list[Recorder]:
        return [*self.streams, *self.polls]

    def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start everybody who reads."""
        for replica in self.replicas:
            self.streams.append(Stream(replica.name, replica.url, self.scope))
            self.polls.append(Poll(replica.name, replica.url, self.scope))
        self.client = Client([replica.url for replica in reversed(self.replicas)], self.scope, HEARTBEAT_S)
        return [tasks.create_task(one.run()) for one in (*self.streams, *self.polls, self.client)]

    async def observe(self) -> None:
        """Note how late this process is, at worst."""
        while True:
            due = time.monotonic() + 0.02
            await asyncio.sleep(0.02)
            self.lag_s = max(self.lag_s, time.monotonic() - due)

    async def settled(self) -> None:
        """Wait until all readers have seen a write that was sent from now on."""
        ack = await self.load.acknowledged(time.monotonic())
        await self.everybody_reaches(ack.revision)

    async def everybody_reaches(self, revision: int) -> None:
        """Wait until every stream and poll has been told that `revision` is proved."""
        async with asyncio.timeout(START_S):
            while waiting := [one for one in self.recorders if one.first_at(revision, self.forks) is None]:
                await asyncio.sleep(0.01)
                assert waiting, revision

    async def moves_again(self, since: float) -> None:
        """Check that within two heartbeats of the first write that etcd took after `since` all readers are there."""
        ack = await self.load.acknowledged(since)
        async with asyncio.timeout(START_S):
            for one in self.recorders:
                while (at := one.first_at(ack.revision, self.forks)) is None:
                    await asyncio.sleep(0.005)
                late_s = at - ack.at
                self.slowest_s = max(self.slowest_s, late_s)
                assert late_s <= 2 * HEARTBEAT_S, (
                    f"{one.who} had revision {ack.revision} {late_s:.2f} s after etcd took it, "
                    f"{at - since:.2f} s after the fault; this process lagged by {self.lag_s:.2f} s at most"
                )

    async def standstill(self) -> int:
        """Let the writers pause and wait until everybody has everything; the last revision."""
        await self.load.pause()
        last = await self.load.write(self.load.put("last", uuid.uuid4().hex))
        await self.everybody_reaches(last)
        await self.tap.reaches(last)
        return last

    async def one_epoch(self) -> None:
        """Check that within two heartbeats all readers are in the epoch of this process's replica.

        Two services that find the same fork may rotate its epoch one after the other; then everybody takes the second.
        """
        until = time.monotonic() + 2 * HEARTBEAT_S
        while (seen := {one.epoch for one in self.recorders}) != {self.local.hub.epoch(self.scope)}:
            assert time.monotonic() < until, f"{seen}, and this replica is in {self.local.hub.epoch(self.scope)}"
            await asyncio.sleep(0.005)

    def end_history(self) -> None:
        """From here on etcd may be anything: what readers see in the epochs until now has to be what was before."""
        self.tap_task.cancel()
        self.forks.update((seen.epoch, self.tap.history) for one in self.recorders for seen in one.epochs)
        self.complete = False

    async def begin_history(self) -> None:
        """etcd is there again: what is in it now is the past of what comes."""
        self.tap = Tap(self.direct, self.scope, lambda: self.headers())
        self.tap_task = self.tasks.create_task(self.tap.run())
        await self.tap.started()

    async def equals_etcd_now(self) -> int:
        """Compare each replica with a range read of etcd at the revision that it says it has proved."""
        compared = 0
        async with Gateway(self.load.config(tuple(self.direct))) as gateway, aiohttp.ClientSession() as http:
            for replica in self.replicas:
                path = f"/v1/config/{self.scope.namespace}/{self.scope.environment}?view=entries"
                async with http.get(replica.url + path) as response:
                    entries = (await response.json())["entries"]
                    revision = int(response.headers["Configsvc-Revision"])
                prefix = scope_prefix(self.scope)
                result = await gateway.range(Range(key=prefix, range_end=prefix_end(prefix), revision=revision))
                names = {kv.key[len(prefix) :].decode(): kv for kv in result.kvs}
                expected = {
                    name: decode(kv.value, {"mod_revision": kv.mod_revision})
                    for name, kv in names.items()
                    if not name.startswith("_meta/")
                }
                state = {key: (entry["value"], entry["revision"]) for key, entry in entries.items()}
                assert state == expected, f"{replica.name} at {revision}: {difference(state, expected)}"
                compared += 1
        return compared

    async def finish(self) -> None:
        """Stop writing, wait until everybody has everything, and judge."""
        last = await self.standstill()
        self.load.stop()
        assert await self.equals_etcd_now() == len(self.replicas)
        assert self.client
        final = {key: value for key, (value, _) in self.tap.history.at(last).items()}
        deadline = time.monotonic() + START_S
        while self.client.values != final:
            assert time.monotonic() < deadline, f"{self.client.client!r} has {self.client.values}, etcd {final}"
            await asyncio.sleep(0.01)

    def judge(self) -> None:
        """Check all that was seen."""
        assert self.client
        problems = [problem for one in (*self.recorders, self.client) for problem in one.problems]
        assert not problems, "\n".join(problems[:10])
        for one in self.recorders:
            for seen in one.epochs:
                history = self.forks.get(seen.epoch, self.tap.history)
                check_states(seen, history)
                check_changes(seen, history, complete=self.complete)
        assert self.load.acks
        assert all(poll.answers > 3 for poll in self.polls)
        assert self.client.reads > 3


@asynccontextmanager
async def world(
    direct: Sequence[str],
    folder: Path,
    *,
    endpoints: Sequence[str] | None = None,
    login: Login | None = None,
    headers: Callable[[], Mapping[str, str]] = dict,
    processes: int = 1,
    count_files: bool = True,
    **settings: str,
) -> AsyncIterator[World]:
    """Everything running and settled; at the end everything is checked, and nothing of ours is left running."""
    before = asyncio.all_tasks()
    files = open_files() if count_files else None
    scope = Scope(f"ns-{uuid.uuid4().hex[:12]}", "production")
    here = World(scope, direct, login)
    here.headers = headers
    environ = service_settings(endpoints or direct, login, **settings)
    async with AsyncExitStack() as stack:
        here.tasks = tasks = await stack.enter_async_context(asyncio.TaskGroup())
        loops = [tasks.create_task(here.observe())]
        await here.begin_history()
        writing = tasks.create_task(here.load.run())
        await here.load.acknowledged(0.0)
        async with AsyncExitStack() as replicas:
            here.replicas.append(await replicas.enter_async_context(in_process(environ)))
            for number in range(processes):
                process = as_process(environ, folder / f"replica{number}")
                here.replicas.append(await replicas.enter_async_context(process))
            loops += here.start(tasks)
            try:
                await here.settled()
                yield here
                await here.finish()
                await writing
            finally:
                ours = [*loops, writing, here.tap_task]
                for task in ours:
                    task.cancel()
                await asyncio.wait(ours)
    here.judge()
    await nothing_left(before, files)


async def until_stale(w: World) -> None:
    """Wait until the replica in process says by itself that it has no proof any more."""
    async with asyncio.timeout(START_S):
        while w.local.hub.state() != "stale":
            await asyncio.sleep(0.02)


def open_files() -> int | None:
    """How many descriptors this process has open; None where the system does not say."""
    folder = Path("/proc/self/fd") if sys.platform == "linux" else Path("/dev/fd")
    return len(os.listdir(folder)) if folder.is_dir() else None


async def nothing_left(tasks: set["asyncio.Task[Any]"], files: int | None) -> None:
    """Check that tasks and descriptors that were made since are gone. Proxies between members are none of ours."""
    deadline = time.monotonic() + 5
    while True:
        left = [task for task in asyncio.all_tasks() - tasks if "Proxy." not in str(task.get_coro())]
        opened = files is not None and (open_files() or 0) > files
        if not left and not opened:
            return
        assert time.monotonic() < deadline, f"left behind: {left}, {open_files()} descriptors instead of {files}"
        await asyncio.sleep(0.02)
