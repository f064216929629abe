"""docs/reference/failures.md, row by row: each cell of the page is compared with what the real client does."""

import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from configsvc_client import Backoff, ConfigClient, Tuning
from configsvc_client.testing import ConfigServer
from tests.client.support import (
    CUT,
    DEADLINE_S,
    HOLD,
    OTHER_EPOCH,
    SCOPE,
    Beat,
    Service,
    Wait,
    answer,
    change,
    eventually_sync,
    snapshot,
    state,
    status,
)

PAGE = Path(__file__).parents[2] / "docs/reference/failures.md"
READS = {"the last value": 1, "the new value": 2, "the file's value": 1, "the default": 0}
QUICK = Backoff(base_s=0.01, cap_s=0.05)
TUNING = Tuning(backoff=QUICK, slow_backoff=QUICK, connect_timeout_s=0.5, believe_after_s=1000, first_poll_after_s=0.1)


class Row(NamedTuple):
    """What the page says of one failure."""

    reads: str
    status: str
    callbacks: str
    log: str


def rows() -> dict[str, Row]:
    """The page's rows by what fails."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: Row(*rest) for name, *rest in cells if not name.startswith("what ")}


class World:
    """A client, what it was told, and what it can be given to fail."""

    def __init__(self, folder: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.told: list[str] = []
        self.states: list[str] = []
        self._stack = stack

    def serve(self, *scripts: Any, **more: Any) -> Callable[[], None]:
        """A client of a scripted service, which goes on with its scripts when the answer is called."""
        go = Wait()
        service = Service([snapshot({"a": 1}, 5), status(5), go, *scripts[0]], *scripts[1:])
        service.state = more.pop("read", answer(500))
        self._stack.enter_context(service.run_in_thread())
        self.connect(service.url, **more)
        return go.go

    def server(self, **more: Any) -> ConfigServer:
        """A client of a server that works."""
        server = self._stack.enter_context(ConfigServer({"a": 1}, **names(SCOPE), heartbeat_s=0.1))
        self.connect(server.url, **more)
        return server

    def connect(self, url: str, *, ready: bool = True, **more: Any) -> None:
        options = {"cache_dir": "off", "tuning": TUNING, "heartbeat_s": 0.3, "start_timeout_s": DEADLINE_S, **SCOPE}
        self.client = self._stack.enter_context(ConfigClient(url, **{**options, **more}))
        if ready:
            assert self.client.get("a") == 1
            eventually_sync(lambda: self.client.status.state == "live")
        self.client.on_change(lambda change: self.told.append("on_change"))
        self.client.on_status(lambda status: self.states.append(status.state))

    def kept_file(self) -> Path:
        """The last-known-good file that an earlier run has left."""
        with (
            ConfigServer({"a": 1}, **names(SCOPE)) as server,
            ConfigClient(server.url, cache_dir=self.folder, **SCOPE) as client,
        ):
            client.wait_ready(DEADLINE_S)
        (file,) = [path for path in self.folder.iterdir() if path.is_file()]
        return file

    def start_without(self, **more: Any) -> None:
        """A start while nobody answers. Somebody listens, so that nothing is decided before callbacks are there."""
        silent = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.connect(
            f"http://127.0.0.1:{silent.getsockname()[1]}",
            ready=False,
            **{"cache_dir": self.folder, "start_timeout_s": 0.3, **more},
        )
        self.client.get("a", default=0)


def names(scope: dict[str, str]) -> dict[str, Any]:
    return dict(scope)


Scenario = Callable[[World], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    def add(act: Scenario) -> Scenario:
        assert name not in SCENARIOS
        SCENARIOS[name] = act
        return act

    return add


# ---- while the application runs --------------------------------------------------------------------------------------


@scenario("the service stops or is killed")
def stops(world: World) -> None:
    world.server().stop()


@scenario("the service restarts")
def restarts(world: World) -> None:
    # A heartbeat as in production: the restart is over before two of them.
    server = world.server(heartbeat_s=5)
    server.stop()
    eventually_sync(lambda: world.client.status.last_error is not None)
    server.start()


@scenario("the service freezes: connections stay open, and silent")
def freezes(world: World) -> None:
    world.server().freeze()


@scenario("the service answers 500")
def answers_500(world: World) -> None:
    world.serve([CUT], answer(500))()


@scenario("the service refuses with 403")
def refuses(world: World) -> None:
    world.serve([CUT], answer(403))()


@scenario("the service has lost etcd, and says so")
def says_stale(world: World) -> None:
    world.serve([Beat(status(5, "stale"))])()


@scenario("the service shows another epoch: etcd was restored")
def another_epoch(world: World) -> None:
    world.serve([snapshot({"a": 2}, 2, epoch=OTHER_EPOCH), Beat(status(2, epoch=OTHER_EPOCH))])()


@scenario("the service lags behind what was shown before")
def lags(world: World) -> None:
    world.serve([CUT], [snapshot({"a": 0}, 3), Beat(status(3))])()


@scenario("the service sends garbage")
def garbage(world: World) -> None:
    world.serve([b"event: change\ndata: {nonsense\n\n", HOLD], [b"event: snapshot\ndata: nonsense\n\n", HOLD])()


@scenario("a proxy begins to hold streams back")
def holds_back(world: World) -> None:
    world.serve([CUT], [HOLD], read=state({"a": 1}, 5), heartbeat_s=1)()


@scenario("the token file goes, and the stream ends")
def token_goes(world: World) -> None:
    token = world.folder / "token"
    token.write_text("secret")
    go = world.serve([CUT], [snapshot({"a": 2}, 6), HOLD], token_file=token)
    token.unlink()
    go()


@scenario("a value of another type is stored")
def another_type(world: World) -> None:
    world.serve([change(6, {"a": "1"}), Beat(status(6))])()


@scenario("a callback raises")
def callback_raises(world: World) -> None:
    go = world.serve([change(6, {"a": 2}), Beat(status(6))])

    def broken(_: object) -> None:
        raise RuntimeError("from the application")

    world.client.on_change(broken)
    go()


def jump(world: World, years: int) -> None:
    server = world.server()
    now = time.time
    world.monkeypatch.setattr(time, "time", lambda: now() + years * 365 * 86400)
    # Until it was proved again twice, so that whatever looks at the wrong clock has had its chance.
    for number in (2, 3):
        server.set("b", number)
        eventually_sync(lambda number=number: world.client.get("b", default=0) == number)
    world.told.clear()


@scenario("the wall clock jumps ten years ahead")
def jumps_ahead(world: World) -> None:
    jump(world, 10)


@scenario("the wall clock jumps ten years back")
def jumps_back(world: World) -> None:
    jump(world, -10)


def small_disk(world: World) -> Path:
    """A disk of its own, where this may be mounted."""
    target = world.folder / "disk"
    target.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", target], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    world._stack.callback(subprocess.run, ["umount", "-l", target], check=True)
    return target


@scenario("the disk of the last-known-good file is full")
def disk_full(world: World) -> None:
    disk = small_disk(world)
    (disk / "filler").write_bytes(bytes(48 * 1024))
    world.server(cache_dir=disk).update({"a": 2, "b": "x" * 100_000})


@scenario("the folder of the last-known-good file turns read-only")
def read_only(world: World) -> None:
    disk = small_disk(world)
    server = world.server(cache_dir=disk)
    eventually_sync(lambda: any(disk.iterdir()))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    server.set("a", 2)


# ---- when it starts --------------------------------------------------------------------------------------------------


@scenario("no last-known-good file")
def no_file(world: World) -> None:
    world.start_without()


@scenario("a last-known-good file")
def a_file(world: World) -> None:
    world.kept_file()
    world.start_without()


@scenario("a file that is corrupt")
def corrupt(world: World) -> None:
    file = world.kept_file()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    world.start_without()


@scenario("a file that is truncated")
def truncated(world: World) -> None:
    file = world.kept_file()
    file.write_bytes(file.read_bytes()[:-10])
    world.start_without()


@scenario("a file that is too old")
def too_old(world: World) -> None:
    world.kept_file()
    world.start_without(cache_max_age_s=0.001)


@scenario("a file of another scope")
def another_scope(world: World) -> None:
    file = world.kept_file()
    other = world.folder / "other"
    other.mkdir(mode=0o700)
    with (
        ConfigServer({"a": 3}, namespace="orders", environment="production") as server,
        ConfigClient(server.url, namespace="orders", environment="production", cache_dir=other) as client,
    ):
        client.wait_ready(DEADLINE_S)
    (theirs,) = [path for path in other.iterdir() if path.is_file()]
    file.write_bytes(theirs.read_bytes())
    world.start_without()


# ---- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack, monkeypatch)


def test_each_row_has_a_scenario_and_each_scenario_a_row() -> None:
    assert sorted(rows()) == sorted(SCENARIOS)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts")
@pytest.mark.parametrize("name", rows())
def test_row(name: str, world: World, caplog: pytest.LogCaptureFixture) -> None:
    row = rows()[name]
    caplog.set_level(logging.INFO, "configsvc_client")
    SCENARIOS[name](world)
    client = world.client
    words = re.findall(r"`([^`]+)`", row.status)

    def seen() -> list[str]:
        now = client.status
        return [now.state, now.source, *(["polling"] if now.transport == "polling" else [])]

    def logged() -> list[str]:
        return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]

    wanted = [] if row.log == "none" else re.findall(r"([A-Z]+) `([^`]+)`", row.log)
    patterns = [re.compile(f"{level} " + ".*".join(map(re.escape, text.split("…")))) for level, text in wanted]
    assert patterns or row.log == "none"
    try:
        eventually_sync(
            lambda: (
                seen() == words
                and client.get_int("a", default=0) == READS[row.reads]
                and all(any(pattern.match(line) for line in logged()) for pattern in patterns)
            )
        )
        changed = ["on_change"] if "`on_change`" in row.callbacks else []
        states = re.findall(r"`(\w+)`", row.callbacks.partition("`on_status`:")[2])
        eventually_sync(lambda: world.told[:1] == changed and world.states == states)
    except AssertionError:
        pytest.fail(f"{name}: {seen()}, {client.get_all()}, {world.told}, {world.states}, {logged()}")
    # Nothing is said that the page does not say, but for what came before the failure.
    loud = [line for line in logged() if line.startswith(("WARNING", "ERROR"))]
    assert [line for line in loud if not any(pattern.match(line) for pattern in patterns)] == []
