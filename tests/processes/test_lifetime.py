"""Clients that come and go, and programs that end: nothing is left, nothing is said, nobody waits."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from configsvc_client import AsyncConfigClient, ConfigClient
from tests.client.support import HOLD, SCOPE, Service, eventually_sync, snapshot

NOBODY = "http://127.0.0.1:9"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def test_ten_thousand_clients_leave_nothing() -> None:
    """Most of them are gone before they have connected; every fiftieth reads from a service first."""
    with Service([snapshot({"a": 1}, 1), HOLD]).run_in_thread() as service:

        def one(number: int) -> "weakref.ref[ConfigClient]":
            url = service.url if number % 50 == 0 else NOBODY
            with ConfigClient(url, **SCOPE, cache_dir="off", heartbeat_s=60) as client:
                if number % 50 == 0:
                    assert client.get("a") == 1
                return weakref.ref(client)

        def settle() -> tuple[int, int]:
            gc.collect()
            return descriptors(), tasks()

        for number in range(500):
            one(number)
        eventually_sync(lambda: threading.active_count() < 5)
        (files, threads), memory = settle(), resident()
        clients = [one(number) for number in range(10_000)]
        eventually_sync(lambda: settle() <= (files, threads), f"no more than {files} descriptors, {threads} threads")
        assert not any(client() for client in clients)
        # What one client costs is about 100 KiB: one leak in thirty would show.
        assert resident() - memory < 32 * 2**20


async def test_a_thousand_clients_for_asyncio_leave_nothing() -> None:
    async with Service([snapshot({"a": 1}, 1), HOLD]).run() as service:

        async def one(number: int) -> "weakref.ref[AsyncConfigClient]":
            url = service.url if number % 10 == 0 else NOBODY
            async with AsyncConfigClient(url, **SCOPE, cache_dir="off", heartbeat_s=60) as client:
                if number % 10 == 0:
                    assert await client.get("a") == 1
                return weakref.ref(client)

        for number in range(50):
            await one(number)
        gc.collect()
        before, all_tasks = descriptors(), len(asyncio.all_tasks())
        clients = [await one(number) for number in range(1000)]
        for _ in range(400):
            gc.collect()
            alive = sum(client() is not None for client in clients)
            if descriptors() <= before and len(asyncio.all_tasks()) <= all_tasks and not alive:
                break
            await asyncio.sleep(0.02)
        assert (descriptors() <= before, len(asyncio.all_tasks()) <= all_tasks, alive) == (True, True, 0)


HEAD = """
import os, sys, threading, time, atexit, socket
from configsvc_client import ConfigClient
def client(url=os.environ["TEST_URL"], **more):
    return ConfigClient(url, namespace="payments", environment="production", cache_dir="off", heartbeat_s=60, **more)
"""
PROGRAMS = {
    "a client that runs": "c = client(); c.get('a')",
    "a client that just began": "c = client()",
    "nobody is there": "c = client('http://127.0.0.1:9'); c.get('a', default=1)",
    "a service that never answers": """
s = socket.create_server(("127.0.0.1", 0)); c = client(f"http://127.0.0.1:{s.getsockname()[1]}", start_timeout_s=0.1)
c.get("a", default=1)""",
    "a name that nobody knows": "c = client('http://nowhere.invalid:1', start_timeout_s=0.1); c.get('a', default=1)",
    "a callback that never returns": """
began = threading.Event()
c = client('http://127.0.0.1:9', start_timeout_s=0); c.get('a', default=1)
c.on_status(lambda status: (began.set(), time.sleep(1000)))
c._state.callbacks.push_status(c.status); began.wait(20)""",
    "an iterator that waits in a daemon thread": """
c = client(); c.get('a'); threading.Thread(target=lambda: list(c.changes()), daemon=True).start()""",
    "made while exiting": "atexit.register(lambda: client(start_timeout_s=0).get('a', default=1))",
    "used while exiting": "c = client(); c.get('a'); atexit.register(lambda: c.get('a'))",
    "sys.exit in a forked child": """
c = client(); c.get('a'); n = os.fork()
c.get('a')
if n: assert os.waitpid(n, 0)[1] == 0
sys.exit(0)""",
    "forgotten": "client().get('a'); client()",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_ends_by_itself_and_says_nothing(program: str) -> None:
    with Service([snapshot({"a": 1}, 1), HOLD]).run_in_thread() as service:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", HEAD + PROGRAMS[program]],
            env={**os.environ, "TEST_URL": service.url},
            capture_output=True,
            text=True,
            # Against hanging: a thread that is waited for in vain.
            timeout=30,
        )
    said = [line for line in done.stderr.splitlines() if not line.startswith("link to ")]
    assert (done.returncode, done.stdout, said) == (0, "", [])
