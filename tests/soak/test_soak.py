"""Everything at once, for long: changes, readers, streams that come and go, scrapes, clients that open and close.

`CONFIGSVC_TEST_SOAK_S` says for how many seconds (15; an hour and more shows slow leaks). Afterwards, memory is what it
was once warm, and descriptors, threads and tasks are what they were before the first request.
"""

import asyncio
import itertools
import json
import os
import random
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import aiohttp
import pytest

from configsvc.core.model import Scope
from configsvc_client import AsyncConfigClient, ConfigClient
from tests.support.etcd import eventually
from tests.support.process import Hand, ServiceProcess

SOAK_S = float(os.environ.get("CONFIGSVC_TEST_SOAK_S", "15"))
KEYS = [f"section.key-{n}" for n in range(100)]
COUNTER = "counter"
STEADY_STREAMS = 20
WARM = 1 / 3
"""The share of the run that is not looked at: caches and pools fill, up to their bounds."""
MORE_MEMORY = 1.05
MORE_MIB = 4.0
"""What the last third may need more than the second: an allocator's steps. A leak of 1 KiB per request shows in a
minute, one of 100 bytes in an hour."""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.timeout(SOAK_S + 180),
]


class Held(NamedTuple):
    """What a process holds."""

    rss_mib: float
    descriptors: int
    threads: int
    tasks: int


async def held(pid: int, session: aiohttp.ClientSession, url: str) -> Held:
    """Of the service, by what the kernel and the service itself say."""
    text = await (await session.get(url + "/metrics")).text()
    found = re.search(r"^configsvc_event_loop_tasks (\S+)$", text, re.MULTILINE)
    assert found
    status = Path(f"/proc/{pid}/status").read_text()
    return Held(
        rss_mib=int(status.partition("VmRSS:")[2].split()[0]) / 1024,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status.partition("Threads:")[2].split()[0]),
        tasks=int(float(found[1])),
    )


class Load:
    """What goes on meanwhile; each method is one round of something, repeated until the time is over."""

    def __init__(self, process: ServiceProcess, write: Callable[[dict[str, object]], int], scope: Scope) -> None:
        self.url = process.url
        self.scope = str(scope)
        self.environment = scope.environment
        self.written = 0
        self.done: dict[str, int] = {}
        self._write = write
        self._until = time.monotonic() + SOAK_S
        host, _, port = process.url.removeprefix("http://").partition(":")
        self._address = (host, int(port))

    async def repeat(self, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
        name = getattr(work, "__name__", "work")
        while time.monotonic() < self._until:
            await work()
            self.done[name] = self.done.get(name, 0) + 1
            await asyncio.sleep(pause_s)

    async def change(self) -> None:
        """Set the counter and one key beside it, in one revision."""
        number = self.written + 1
        await asyncio.to_thread(self._write, {COUNTER: number, random.choice(KEYS): number})
        self.written = number

    async def read(self) -> None:
        """Read as many kinds of applications do, wrong names among them."""
        base = f"{self.url}/v1/config/{self.scope}"
        asked = [
            (f"{base}/{random.choice(KEYS)}", 200, {}),
            (f"{base}/{COUNTER}?raw=true", 200, {}),
            (base, 200, {"Accept-Encoding": "gzip"}),
            (base, 200, {"X-Request-Id": f"soak-{random.getrandbits(60)}"}),
            (f"{base}/no-such-key-{random.randrange(10**6)}", 404, {}),
            (f"{self.url}/v1/config/{self.scope}-{random.randrange(10**6)}", 404, {}),
            (f"{self.url}/no/such/route/{random.randrange(10**6)}", 404, {}),
        ]
        async with aiohttp.ClientSession() as session:
            for url, status, headers in asked:
                async with session.get(url, headers=headers) as answer:
                    etag = answer.headers.get("ETag")
                    await answer.read()
                    assert answer.status == status, url
            async with session.get(base, headers={"If-None-Match": etag or '"x"'}) as answer:
                assert answer.status in (200, 304)

    async def come_and_go(self) -> None:
        """Open a stream, some of a scope that is not there; leave it politely, rudely, or before the answer came."""
        reader, writer = await asyncio.open_connection(*self._address)
        absent = random.choice(["", "", f"-{random.randrange(10**6)}"])
        position = random.choice(["", "Last-Event-ID: 0123456789ab:1\r\n", "Last-Event-ID: nonsense\r\n"])
        writer.write(f"GET /v1/watch/{self.scope}{absent} HTTP/1.1\r\nHost: soak\r\n{position}\r\n".encode())
        if random.random() < 0.8:
            await asyncio.wait_for(reader.readuntil(b"event: snapshot"), 20)
        if random.random() < 0.5:
            writer.close()
        else:
            writer.transport.abort()

    async def use_async_client(self) -> None:
        async with AsyncConfigClient(self.url, environment=self.environment, cache_dir="off") as client:
            await client.wait_ready(20)
            client.on_change(lambda change: None)
            assert await client.get(COUNTER, default=-1) >= 0

    async def use_client(self) -> None:
        def use() -> None:
            with ConfigClient(self.url, environment=self.environment, cache_dir="off") as client:
                client.wait_ready(20)
                client.on_change(lambda change: None)
                assert client.get(COUNTER, default=-1) >= 0

        await asyncio.to_thread(use)

    async def run(self) -> None:
        """All of it, until the time is over."""
        work = [(self.change, 0.05), (self.read, 0.1), (self.come_and_go, 0.02), (self.come_and_go, 0.05)]
        work += [(self.use_async_client, 0.3), (self.use_client, 0.3)]
        async with asyncio.TaskGroup() as group:
            for one, pause_s in work:
                group.create_task(self.repeat(one, pause_s))


async def stream(session: aiohttp.ClientSession, url: str, seen: list[int]) -> None:
    """One that stays: notes the counter of each event."""
    async with session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as answer:
        while line := await answer.content.readline():
            if line.startswith(b"data: "):
                data = json.loads(line[6:])
                if entry := data.get("set", data.get("entries", {})).get(COUNTER):
                    seen.append(entry["value"])


async def test_memory_descriptors_threads_and_tasks_stay_flat(any_etcd, tmp_path):
    values: dict[str, object] = dict.fromkeys(KEYS, 0) | {COUNTER: 0}
    hand = Hand(any_etcd)
    hand.write(values)
    threads_before = ours()
    settings = {
        "SERVICE_NAME": hand.scope.namespace,
        "ETCD_ENDPOINTS": any_etcd.url,
        "CONFIGSVC_HEARTBEAT_S": "1",
        # Full after some seconds: what is bounded has to be at its bound before memory is compared.
        "CONFIGSVC_FRAME_LOG_COUNT": "100",
    }
    with ServiceProcess(tmp_path, **settings) as process:
        process.start()
        pid = process.running.process.pid
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            # A service that is ready may have a task still to begin, or one at work: what it has at rest is the median.
            before = medians(await sampled(asyncio.sleep(3), lambda: held(pid, session, process.url)))
            tasks_before = len(asyncio.all_tasks())
            load = Load(process, hand.write, hand.scope)
            seen: list[list[int]] = [[] for _ in range(STEADY_STREAMS)]
            streams = [
                asyncio.create_task(stream(session, f"{process.url}/v1/watch/{hand.scope}", one)) for one in seen
            ]
            samples = await sampled(load.run(), lambda: held(pid, session, process.url))
            assert_flat(samples)
            # Nothing was lost on the way: each stream has had every state of the counter since its snapshot, in order.
            await eventually(lambda: all(one and one[-1] == load.written for one in seen))
            for one in seen:
                assert one == list(range(one[0], load.written + 1))
            assert load.done.keys() == {"change", "read", "come_and_go", "use_async_client", "use_client"}
            assert not any(task.done() for task in streams)
            for task in streams:
                task.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            await settled(pid, session, process.url, before)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before)
        await eventually(lambda: ours() <= threads_before)
        problems = [line for line in process.log() if line.get("level") in ("error", "critical")]
        assert problems == []
        process.stop()


async def sampled(work: Awaitable[None], look: Callable[[], Awaitable[Held]]) -> list[Held]:
    """What `look` sees while `work` goes on, some hundred times at most."""
    working = asyncio.ensure_future(work)
    samples: list[Held] = []
    while not working.done():
        samples.append(await look())
        await asyncio.wait({working}, timeout=max(0.25, SOAK_S / 300))
    await working
    return samples


def assert_flat(samples: list[Held]) -> None:
    """The last third needs no more than the second."""
    warm = samples[int(len(samples) * WARM) :]
    first, last = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    print(f"{len(samples)} samples; middle {medians(first)}; last {medians(last)}")
    allowed = medians(first).rss_mib * MORE_MEMORY + MORE_MIB
    assert medians(last).rss_mib <= allowed, f"memory grows: {medians(first)} → {medians(last)}"
    # Those of requests and clients of the moment come and go; their number does not grow.
    for field in ("descriptors", "threads", "tasks"):
        at_first, at_last = getattr(medians(first), field), getattr(medians(last), field)
        assert at_last <= at_first * 1.25 + 5, f"{field} grow: {medians(first)} → {medians(last)}"


def medians(samples: list[Held]) -> Held:
    return Held(*(median(values) for values in zip(*samples, strict=True)))


async def settled(pid: int, session: aiohttp.ClientSession, url: str, before: Held) -> None:
    """Wait until the service holds what it held at first: every connection, task and thread of the load is gone.

    Threads of its pool stay, as many as asyncio ever makes; the scrape's own connection was there before too.
    """
    deadline = time.monotonic() + 30
    pool = min(32, (os.cpu_count() or 1) + 4)
    for _ in itertools.count():
        now = await held(pid, session, url)
        if now.descriptors <= before.descriptors and now.tasks <= before.tasks:
            assert now.threads <= before.threads + pool
            return
        assert time.monotonic() < deadline, f"not given back: {before} → {now}"
        await asyncio.sleep(0.2)


def ours() -> set[str]:
    """The client's threads in this process."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("configsvc")}
