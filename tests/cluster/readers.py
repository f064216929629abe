"""Those who read while things break: a stream, a poll and a client, each keeping everything that it saw."""

import asyncio
import json
import time
from collections.abc import Container, Sequence
from typing import Any

import aiohttp

from configsvc.core.model import Scope
from configsvc_client import AsyncConfigClient, Backoff, Tuning
from configsvc_client.protocol import decode_baseline, decode_delta, parse_event_id
from configsvc_client.snapshot import Snapshot
from configsvc_client.sse import Decoder, Event
from tests.cluster.history import Seen, State, check_no_torn_pair

POLL_S = 0.03


class Recorder:
    """What one reader saw, by epoch in the order in which the epochs came; an epoch that was left never comes back."""

    def __init__(self, who: str) -> None:
        self.who = who
        self.epochs: list[Seen] = []
        self.problems: list[str] = []
        self.moved: list[tuple[float, str, int]] = []
        """When which revision of which epoch was first seen to be proved."""

    def note(self, epoch: str, revision: int) -> Seen:
        """A revision that the service says it has proved."""
        if not self.epochs or self.epochs[-1].epoch != epoch:
            if any(seen.epoch == epoch for seen in self.epochs):
                self.problems.append(f"{self.who}: went back to epoch {epoch}")
            self.epochs.append(Seen(self.who, epoch))
            self.moved.append((time.monotonic(), epoch, revision))
        elif revision > self.moved[-1][2]:
            self.moved.append((time.monotonic(), epoch, revision))
        elif revision < self.moved[-1][2]:
            self.problems.append(f"{self.who}: stepped back from {self.moved[-1][2]} to {revision}")
        return self.epochs[-1]

    def first_at(self, revision: int, past: Container[str] = ()) -> float | None:
        """When `revision` was first proved, in an epoch that is not `past`."""
        return next((at for at, epoch, seen in self.moved if epoch not in past and seen >= revision), None)

    @property
    def epoch(self) -> str:
        return self.epochs[-1].epoch if self.epochs else ""


class Stream(Recorder):
    """Reads `/v1/watch` for ever, and resumes where it was."""

    def __init__(self, who: str, url: str, scope: Scope) -> None:
        super().__init__(f"the stream of {who}")
        self._url = f"{url}/v1/watch/{scope.namespace}/{scope.environment}"
        self.snapshot = Snapshot(namespace=scope.namespace, environment=scope.environment)
        self.connections = 0
        self.states: list[str] = []
        """The states that status events told, each when it changed."""

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        last_id = ""
        async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**20) as http:
            while True:
                self.connections += 1
                decoder = Decoder()
                try:
                    headers = {"Last-Event-ID": last_id} if last_id else {}
                    async with http.get(self._url, headers=headers) as response:
                        if response.status != 200:
                            self.problems.append(f"{self.who}: {response.status}")
                        async for chunk in response.content.iter_any():
                            for event in decoder.feed(chunk):
                                self.take(event)
                            last_id = decoder.last_event_id or last_id
                except (aiohttp.ClientError, OSError):
                    pass
                await asyncio.sleep(0.05)

    def take(self, event: Event) -> None:
        """Apply one event as a client does, and keep what came of it."""
        id = parse_event_id(event.id)
        if event.event == "status":
            state = json.loads(event.data)["state"]
            if not self.states or self.states[-1] != state:
                self.states.append(state)
        if id is None:
            return
        if event.event == "snapshot":
            baseline = decode_baseline(event.data)
            self.note(baseline.epoch, id.revision).bases.append(id.revision)
            self.snapshot = self.snapshot.apply(baseline)
        elif event.event == "change":
            delta = decode_delta(event.data)
            keys = frozenset(delta.set) | frozenset(delta.deleted)
            self.note(id.epoch, id.revision).changes.append((delta.revision, keys))
            self.snapshot = self.snapshot.apply(delta)
        state = {key: (entry.value, entry.revision) for key, entry in self.snapshot.entries.items()}
        self.note(id.epoch, id.revision).states.append((id.revision, state))


class Poll(Recorder):
    """Asks for the scope again and again. After the first answer that was a 200 nothing else is right."""

    def __init__(self, who: str, url: str, scope: Scope) -> None:
        super().__init__(f"the poll of {who}")
        self._url = f"{url}/v1/config/{scope.namespace}/{scope.environment}?view=entries"
        self.answers = 0
        self.slowest_s = 0.0
        self.sources: set[str] = set()
        self.may_be_gone = False
        """Whether the scope may cease to exist."""
        self._last: tuple[str, State] = ("", {})

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            while True:
                started = time.monotonic()
                try:
                    await self._ask(http)
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    self.problems.append(f"{self.who}: {error!r}")
                if self.answers:
                    self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                await asyncio.sleep(POLL_S)

    async def _ask(self, http: aiohttp.ClientSession) -> None:
        async with http.get(self._url) as response:
            body = await response.read()
            if response.status != 200:
                gone = self.may_be_gone and response.status == 404
                if not gone and (self.answers or response.status not in (404, 503)):
                    self.problems.append(f"{self.who}: {response.status} {body[:200]!r}")
                return
            self.answers += 1
            self.sources.add(response.headers["Configsvc-Source"])
            tag = response.headers["ETag"].removeprefix("W/").strip('"')
            proved = int(response.headers["Configsvc-Revision"])
            if tag != self._last[0]:
                entries = json.loads(body)["entries"]
                self._last = (tag, {key: (entry["value"], entry["revision"]) for key, entry in entries.items()})
            seen = self.note(tag.partition(":")[0], proved)
            if not seen.states or seen.states[-1] != (proved, self._last[1]):
                seen.states.append((proved, self._last[1]))


class Client(Recorder):
    """An application with `AsyncConfigClient` on all replicas: reads in a loop, which must never raise."""

    def __init__(self, urls: Sequence[str], scope: Scope, heartbeat_s: float) -> None:
        super().__init__("the client")
        backoff = Backoff(base_s=0.05, cap_s=0.5)
        self.client = AsyncConfigClient(
            list(urls),
            namespace=scope.namespace,
            environment=scope.environment,
            heartbeat_s=heartbeat_s,
            tuning=Tuning(backoff=backoff, connect_timeout_s=1.0),
        )
        self.values: dict[str, Any] = {}
        self.reads = 0

    async def run(self) -> None:
        async with self.client:
            await self.client.wait_ready(20)
            while True:
                self.values = await self.client.get_all()
                self.reads += 1
                try:
                    check_no_torn_pair(self.who, self.values)
                except AssertionError as error:
                    self.problems.append(str(error))
                await asyncio.sleep(POLL_S)
