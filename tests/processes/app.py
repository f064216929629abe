"""The application of these tests: one client at module level, as every process model imports it.

Each process in which a callback is called leaves a report. Nothing here knows of forks.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from configsvc_client import AsyncConfigClient, ConfigChange, ConfigClient, Tuning

URL = os.environ["TEST_URL"]
FOLDER = Path(os.environ["TEST_REPORTS"])
# The service of these tests says nothing until it has something to say: no heartbeat is missed. Nor is a stream that is
# slow to begin, on a busy machine, asked beside: connections are counted.
OPTIONS: dict[str, Any] = {
    "namespace": "payments",
    "environment": "production",
    "heartbeat_s": 60,
    "cache_dir": "off",
    "tuning": Tuning(first_poll_after_s=60),
    # Half of it bounds the setting above.
    "start_timeout_s": 120,
}


def streams() -> int:
    """How many connections to the service this process holds."""
    port = f"{int(URL.rpartition(':')[2]):04X}"
    inodes = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            inodes.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port}") and f"socket:[{row[9]}]" in inodes for row in rows)


def threads() -> list[str]:
    """The client's threads that run in this process."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("configsvc"))


def report(told: Any, read: Any, **more: Any) -> None:
    """Leave word of what this process was told and reads."""
    said = {"pid": os.getpid(), "told": told, "read": read, "threads": threads(), "streams": streams(), **more}
    file = FOLDER / f"{os.getpid()}.new"
    file.write_text(json.dumps(said))
    file.rename(file.with_suffix(".json"))


def on_change(change: ConfigChange) -> None:
    report(change.new, config.get("a"))


config = ConfigClient(URL, **OPTIONS)
if os.environ.get("TEST_CALLBACK", "1") == "1":
    config.on_change(on_change)
if os.environ.get("TEST_READ_FIRST"):
    config.wait_ready(20)


def wsgi(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A WSGI application that says what it reads."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "read": config.get("a", default=None)}).encode()]


aconfig = AsyncConfigClient(URL, **OPTIONS)


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """An ASGI application that follows its configuration from start to end, with the client for asyncio."""
    assert scope["type"] == "lifespan"
    await receive()

    async def tell(change: ConfigChange) -> None:
        report(change.new, await aconfig.get("a"))

    aconfig.on_change(tell)
    await aconfig.wait_ready(20)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await aconfig.close()
    await send({"type": "lifespan.shutdown.complete"})
