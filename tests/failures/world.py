"""What scenarios happen in: both clients, each with a service of its own to fail it, and what they were told."""

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from configsvc_client import AsyncConfigClient, Backoff, ConfigClient, Tuning, disk, state
from configsvc_client.testing import ConfigServer
from tests.client.support import DEADLINE_S, SCOPE, Beat, Service, Wait, answer, eventually_sync, snapshot, status
from tests.failures.page import AFTER

QUICK = Backoff(base_s=0.01, cap_s=0.05)
TUNING = Tuning(
    backoff=QUICK,
    slow_backoff=QUICK,
    stream_retry=QUICK,
    connect_timeout_s=2,
    believe_after_s=1000,
    first_poll_after_s=1,
    max_event_bytes=200_000,
)
HEARTBEAT_S = 1.0
"""Of all clients: what they call a silence is longer than a busy machine holds anybody up."""
KINDS = (ConfigClient, AsyncConfigClient)
NAMES: Any = SCOPE
More = Callable[[int], dict[str, Any]]
"""Options of the client with that number."""
Etcd = Callable[[], Any]
_REFUSED = answer(500)


class Seat:
    """One client of either kind, called alike, and what it was told of the key `a` and of its state."""

    def __init__(self, kind: type[Any], loop: asyncio.AbstractEventLoop, url: str | list[str], **options: Any) -> None:
        self.changes: list[Any] = []
        self.states: list[str] = []
        self.client = kind(url, **options)
        self._loop = loop

    def start(self) -> None:
        """Begin, as an application does that reads nothing yet."""
        if isinstance(self.client, AsyncConfigClient):
            self.call(self.client.__aenter__)

    def listen(self) -> None:
        """Note what is told from now on."""
        self.client.on_change(self.changes.append, key="a")
        self.client.on_status(lambda status: self.states.append(status.state))

    def call(self, method: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Call a method of either client; the asyncio one's on its loop."""
        if inspect.iscoroutinefunction(method):
            return asyncio.run_coroutine_threadsafe(method(*args, **more), self._loop).result(DEADLINE_S)
        return method(*args, **more)

    def read(self) -> Any:
        """What a typed read with a default answers."""
        return self.call(self.client.get_int, "a", default=0)

    def status(self) -> list[str]:
        """State and source, and the transport where it is not the usual one."""
        now = self.client.status
        return [now.state, now.source, *(["polling"] if now.transport == "polling" else [])]

    def close(self) -> None:
        self.call(self.client.close)


class World:
    """Both clients beside each other, each with a service of its own, so that neither fails the other."""

    def __init__(self, folder: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, etcd: Etcd) -> None:
        self.folder = folder
        self.stack = stack
        self.monkeypatch = monkeypatch
        self.etcd = etcd
        """A running etcd, started at the first call."""
        self.seats: list[Any] = []
        self.done = Wait()
        self.services: list[Service] = []
        self.servers: list[ConfigServer] = []
        self.loop = stack.enter_context(running_loop())

    def folders(self) -> list[Path]:
        """A folder of its own for each client."""
        made = [self.folder / kind.__name__ for kind in KINDS]
        for one in made:
            one.mkdir(mode=0o700, exist_ok=True)
        return made

    def serve(self, *scripts: Any, read: Any = _REFUSED, more: More | None = None) -> None:
        """Clients of scripted services, which go on from a first state with the scripts when `go` is called."""
        self._go = Wait()
        for number, kind in enumerate(KINDS):
            service = Service([snapshot({"a": 1}, 5), status(5), self._go, *scripts[0]], *scripts[1:])
            service.state = read
            self.stack.enter_context(service.run_in_thread())
            self.services.append(service)
            self.connect(kind, service.url, **(more(number) if more else {}))

    def go(self) -> None:
        """Let the scripts go on."""
        self._go.go()

    def end(self) -> None:
        """Let the scripts be over: what connects then gets a good service's stream with another value."""
        for service in self.services:
            service.scripts = [[snapshot({"a": AFTER}, 50), Beat(status(50), 0.75 * HEARTBEAT_S)]]
        self.done.go()

    def serve_well(self, more: More | None = None, **options: Any) -> list[ConfigServer]:
        """Clients of servers that work."""
        for number, kind in enumerate(KINDS):
            server = self.stack.enter_context(ConfigServer({"a": 1}, **NAMES, heartbeat_s=HEARTBEAT_S / 4))
            self.servers.append(server)
            self.connect(kind, server.url, **{**options, **(more(number) if more else {})})
        return self.servers

    def set(self, value: Any = AFTER) -> None:
        """Another value at each of those servers."""
        for server in self.servers:
            server.set("a", value)

    def connect(
        self, kind: type[Any], url: str | list[str], *, is_up: bool = True, scope: Any = NAMES, **more: Any
    ) -> Seat:
        """A client; one whose service is up has read a value before the failure."""
        options = {"cache_dir": "off", "tuning": TUNING, "heartbeat_s": HEARTBEAT_S, "start_timeout_s": DEADLINE_S}
        seat = Seat(kind, self.loop, url, **{**options, **scope, **more})
        self.stack.callback(seat.close)
        if is_up:
            seat.start()
            assert seat.read() == 1
            eventually_sync(lambda: seat.status() == ["live", "live"])
            seat.listen()
        else:
            seat.listen()
            seat.start()
        self.seats.append(seat)
        return seat


Scenario = Callable[[World], Generator[None, None, None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """What a row of the page is about: a failure, a `yield` while the page is compared, and what ends it."""

    def add(act: Scenario) -> Scenario:
        assert name not in SCENARIOS, name
        SCENARIOS[name] = act
        return act

    return add


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop on a thread, as an asyncio application has one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def jump_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the wall clock, as all of this process sees it."""
    now = time.time

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=seconds)

    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    for module in (disk, state):
        monkeypatch.setattr(module, "datetime", Shifted)


class Lines(logging.Handler):
    """What the client logs, from level INFO on."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.levelname} {record.getMessage()}")
