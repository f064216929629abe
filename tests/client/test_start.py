"""Start without the network, with both clients: from the last-known-good file, and from there on to a service."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from configsvc_client import MISSING, AsyncConfigClient, ConfigClient, disk, start
from configsvc_client.keeper import Keeper
from configsvc_client.lastgood import decode_head
from configsvc_client.protocol import Baseline, Entry, encode
from configsvc_client.sse import encode as encode_sse
from tests.client.support import (
    DEADLINE_S,
    EPOCH,
    FAST,
    HOLD,
    NAMESPACE,
    OTHER_EPOCH,
    SCOPE,
    Beat,
    Service,
    Wait,
    change,
    eventually,
    snapshot,
    status,
)

NOBODY = "http://127.0.0.1:9"
Kind = type[ConfigClient] | type[AsyncConfigClient]


@pytest.fixture(params=[ConfigClient, AsyncConfigClient])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


class Client:
    """Either client, called alike."""

    def __init__(self, kind: Kind, url: Any, folder: Path, **more: Any) -> None:
        self.made = kind(url, **{"cache_dir": folder, "tuning": FAST, **SCOPE, **more})
        self.heard: list[tuple[str, Any, Any]] = []
        self.made.on_change(lambda change: self.heard.append((change.key, change.old, change.new)))

    async def _call(self, name: str, *args: Any, **more: Any) -> Any:
        method = getattr(self.made, name)
        if isinstance(self.made, AsyncConfigClient):
            return await method(*args, **more)
        return await asyncio.to_thread(method, *args, **more)

    async def get(self, key: str, **more: Any) -> Any:
        return await self._call("get", key, **more)

    async def get_all(self) -> Any:
        return await self._call("get_all")

    async def wait_ready(self, timeout_s: float = DEADLINE_S) -> None:
        await self._call("wait_ready", timeout_s)

    async def close(self) -> None:
        await self._call("close")

    @property
    def seen(self) -> tuple[str, str, int | None]:
        now = self.made.status
        return now.state, now.source, now.revision


@asynccontextmanager
async def opened(kind: Kind, url: Any, folder: Path, **more: Any) -> AsyncIterator[Client]:
    client = Client(kind, url, folder, **more)
    try:
        if isinstance(client.made, AsyncConfigClient):
            await client.made.__aenter__()
        yield client
    finally:
        await client.close()


async def hang(_: web.Request) -> web.StreamResponse:
    """Accept a request and never answer it."""
    await asyncio.Event().wait()
    raise AssertionError


async def keep(folder: Path, values: dict[str, Any], revision: int = 5, *, proved: int = 8, **more: Any) -> Path:
    """A file as a client leaves it that was connected; returns its path."""
    async with (
        Service([snapshot(values, revision, proved=proved), HOLD]).run() as service,
        opened(AsyncConfigClient, service.url, folder, **more) as client,
    ):
        await client.wait_ready()
    (path,) = folder.glob("scope-*")
    return path


def log_lines(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    return [text for text in (record.getMessage() for record in caplog.records) if all(word in text for word in words)]


# ---- nobody answers --------------------------------------------------------------------------------------------------


async def test_it_starts_from_the_file_where_every_address_refuses(tmp_path: Path, kind: Kind) -> None:
    async with (
        Service([snapshot({"a": 1, "b": [1]}, 5, proved=8), HOLD]).run() as service,
        opened(kind, service.url, tmp_path) as client,
    ):
        assert await client.get("a") == 1
        assert client.seen == ("live", "live", 8)
    assert len(list(tmp_path.iterdir())) == 1
    async with opened(kind, [NOBODY, "http://127.0.0.1:7"], tmp_path, start_timeout_s=DEADLINE_S) as client:
        assert await client.get("a") == 1
        assert client.seen == ("connecting", "disk", 8)
        assert client.made.status.age_s is not None
        assert 0 <= client.made.status.age_s < 600
        assert await client.get_all() == {"a": 1, "b": [1]}
        assert await client.get("c", default=3) == 3
        with pytest.raises(KeyError):
            await client.get("c")
        with pytest.raises(TimeoutError):
            await client.wait_ready(0.05)
        assert client.heard == []
    assert client.seen == ("closed", "disk", 8)
    assert await client.get("a") == 1


@pytest.mark.parametrize("start_timeout_s", [0.0, 0.1, DEADLINE_S])
async def test_it_starts_from_the_file_where_the_service_accepts_and_says_nothing(
    tmp_path: Path, kind: Kind, start_timeout_s: float
) -> None:
    await keep(tmp_path, {"a": 1})
    async with (
        Service(hang).run() as service,
        opened(kind, service.url, tmp_path, start_timeout_s=start_timeout_s) as c,
    ):
        assert await c.get("a") == 1
        assert c.seen == ("connecting", "disk", 8)


async def test_a_start_that_never_waits_finds_the_file_all_the_same(tmp_path: Path, kind: Kind) -> None:
    await keep(tmp_path, {"a": 1})
    for _ in range(5):
        async with opened(kind, NOBODY, tmp_path, start_timeout_s=0) as client:
            assert await client.get("a", default=2) == 1
    async with opened(kind, NOBODY, tmp_path / "empty", start_timeout_s=0) as client:
        assert await client.get("a", default=2) == 2
        assert client.seen == ("connecting", "none", None)
    assert not (tmp_path / "empty").exists()


async def test_a_file_that_is_refused_leaves_defaults(
    tmp_path: Path, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    path = await keep(tmp_path, {"a": 1})
    path.write_bytes(path.read_bytes()[:-1])
    async with opened(kind, NOBODY, tmp_path, start_timeout_s=0.1) as client:
        assert await client.get("a", default=2) == 2
        assert client.seen == ("connecting", "none", None)
    assert len(log_lines(caplog, "refused", str(path))) == 1
    await keep(tmp_path, {"a": 1})
    async with opened(kind, NOBODY, tmp_path, start_timeout_s=0.1, cache_max_age_s=1e-6) as client:
        assert await client.get("a", default=2) == 2
    assert len(log_lines(caplog, "cache_max_age_s")) == 1


async def test_off_means_no_file(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CONFIGSVC_CACHE_DIR", "off")
    async with Service([snapshot({"a": 1}, 5), HOLD]).run() as service:
        for off in (None, "off"):
            async with opened(kind, service.url, tmp_path, cache_dir=off) as client:
                await client.wait_ready()
                assert "configsvc-disk" not in {thread.name for thread in threading.enumerate()}
        assert list(tmp_path.iterdir()) == []
        monkeypatch.delenv("CONFIGSVC_CACHE_DIR")
        async with opened(kind, service.url, tmp_path, cache_dir=None) as client:
            await client.wait_ready()
    assert len(list((tmp_path / "configsvc/client").iterdir())) == 1


# ---- a service comes -------------------------------------------------------------------------------------------------


async def test_a_service_that_answers_is_preferred(tmp_path: Path, kind: Kind) -> None:
    await keep(tmp_path, {"a": 1})
    async with Service([0.05, snapshot({"a": 2}, 9), HOLD]).run() as service:
        async with opened(kind, service.url, tmp_path) as client:
            assert await client.get("a") == 2
            assert client.seen == ("live", "live", 9)
            assert client.heard == []
        assert service.last_ids == [f"{EPOCH}:8"]


async def test_it_resumes_and_nothing_new_is_enough_to_be_live(tmp_path: Path, kind: Kind) -> None:
    await keep(tmp_path, {"a": 1})
    async with Service([Beat(status(9))]).run() as service, opened(kind, service.url, tmp_path) as client:
        await client.wait_ready()
        assert client.seen == ("live", "live", 9)
        assert await client.get("a") == 1
        assert client.heard == []


@pytest.mark.parametrize("events", [[change(9, {"a": 2, "c": 3}, ("b",))], [snapshot({"a": 2, "same": 0, "c": 3}, 9)]])
async def test_who_was_answered_from_the_file_hears_of_each_difference_once(
    tmp_path: Path, kind: Kind, events: list[bytes]
) -> None:
    await keep(tmp_path, {"a": 1, "b": 1, "same": 0})
    go = Wait()
    async with (
        Service([go, *events, Beat(status(10))]).run() as service,
        opened(kind, service.url, tmp_path, start_timeout_s=0) as client,
    ):
        assert await client.get("a") == 1
        go.go()
        await eventually(lambda: len(client.heard) == 3)
        assert sorted(client.heard, key=str) == sorted([("a", 1, 2), ("c", MISSING, 3), ("b", 1, MISSING)], key=str)
        await eventually(lambda: client.seen[2] == 10)
        assert await client.get_all() == {"a": 2, "same": 0, "c": 3}
        assert len(client.heard) == 3


async def test_another_history_is_taken_at_once(tmp_path: Path, kind: Kind) -> None:
    path = await keep(tmp_path, {"a": 1})
    async with (
        Service([snapshot({"a": 2}, 2, epoch=OTHER_EPOCH), HOLD]).run() as service,
        opened(kind, service.url, tmp_path) as client,
    ):
        assert await client.get("a") == 2
        assert client.seen == ("live", "live", 2)
    assert decode_head(path.read_bytes()).epoch == OTHER_EPOCH


async def test_a_service_that_lags_behind_the_file_is_believed_only_after_a_while(tmp_path: Path, kind: Kind) -> None:
    path = await keep(tmp_path, {"a": "new"})
    async with (
        Service([snapshot({"a": "old"}, 3), HOLD]).run() as service,
        opened(kind, service.url, tmp_path) as client,
    ):
        assert await client.get("a") == "new"
        assert client.seen[1:] == ("disk", 8)
        await eventually(lambda: client.seen == ("live", "live", 3))
        await eventually(lambda: client.heard == [("a", "new", "old")])
    # Also on disk, though it is behind what was there.
    assert decode_head(path.read_bytes()).position == 3


async def test_a_service_that_is_behind_and_says_so_leaves_the_file_in_use(tmp_path: Path, kind: Kind) -> None:
    await keep(tmp_path, {"a": 1})
    async with (
        Service([Beat(status(3, "behind", with_id=False))]).run() as service,
        opened(kind, service.url, tmp_path) as client,
    ):
        assert await client.get("a") == 1
        assert client.seen == ("connecting", "disk", 8)
        assert client.made.status.service_state == "behind"


# ---- the scope is not known ------------------------------------------------------------------------------------------


async def test_a_scope_that_the_service_named_is_remembered_in_a_folder_of_its_own(tmp_path: Path, kind: Kind) -> None:
    nothing_said = {"namespace": None, "environment": None}
    async with (
        Service([snapshot({"a": 1}, 5), HOLD]).run() as service,
        opened(kind, service.url, tmp_path, **nothing_said) as client,
    ):
        await client.wait_ready()
    async with opened(kind, service.url, tmp_path, **nothing_said) as client:
        assert await client.get("a") == 1
        assert client.seen == ("connecting", "disk", 5)
    # Another address, or another question, is another one.
    for url, asked in [(NOBODY, nothing_said), (service.url, {"namespace": "other", "environment": None})]:
        async with opened(kind, url, tmp_path, start_timeout_s=0.1, **asked) as client:
            assert await client.get("a", default=2) == 2


async def test_a_scope_is_not_remembered_in_the_folder_of_all_projects(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CONFIGSVC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    nothing_said = {"namespace": None, "environment": None, "cache_dir": None}
    async with (
        Service([snapshot({"a": 1}, 5), HOLD]).run() as service,
        opened(kind, service.url, tmp_path, **nothing_said) as client,
    ):
        await client.wait_ready()
    assert not log_lines(caplog, "SERVICE_NAME")
    async with opened(kind, service.url, tmp_path, start_timeout_s=0.1, **nothing_said) as client:
        assert await client.get("a", default=2) == 2
        await eventually(lambda: log_lines(caplog, "SERVICE_NAME and CONFIG_ENVIRONMENT"))
    assert len(log_lines(caplog, "SERVICE_NAME and CONFIG_ENVIRONMENT")) == 1
    # The file itself is kept, for who says the scope.
    async with opened(kind, service.url, tmp_path, cache_dir=None) as client:
        assert await client.get("a", default=2) == 1


async def test_a_remembered_scope_that_is_no_longer_the_services_is_not_resumed(tmp_path: Path, kind: Kind) -> None:
    nothing_said = {"namespace": None, "environment": None}
    about = {"service": "configsvc", **SCOPE}
    go, service = Wait(), Service([snapshot({"a": 1, "b": 1}, 5), HOLD])
    async with service.run():
        port = int(service.url.rpartition(":")[2])
        async with opened(kind, service.url, tmp_path, **nothing_said) as client:
            await client.wait_ready()
    other = Baseline(namespace=NAMESPACE, environment="staging", epoch=EPOCH, revision=4, entries={"a": Entry(value=2)})
    moved = Service(
        [go, encode_sse("snapshot", encode(other), f"{EPOCH}:4"), HOLD], about={**about, "environment": "staging"}
    )
    async with opened(kind, service.url, tmp_path, **nothing_said) as client:
        assert await client.get("a") == 1
        async with moved.run(port):
            await eventually(lambda: moved.watches)
            assert moved.last_ids == [None]
            go.go()
            await eventually(lambda: client.seen == ("live", "live", 4))
            await eventually(lambda: len(client.heard) == 2)
            assert await client.get_all() == {"a": 2}


# ---- the end ---------------------------------------------------------------------------------------------------------


async def test_the_last_state_is_on_disk_after_close(tmp_path: Path, kind: Kind) -> None:
    changes = [change(revision, {"a": revision}) for revision in range(6, 40)]
    async with (
        Service([snapshot({"a": 5}, 5), *changes, HOLD]).run() as service,
        opened(kind, service.url, tmp_path) as client,
    ):
        await eventually(lambda: client.seen[2] == 39)
    async with opened(kind, NOBODY, tmp_path) as client:
        assert await client.get("a") == 39


EXIT = {
    ConfigClient: """
import sys
from configsvc_client import ConfigClient
client = ConfigClient(sys.argv[1], namespace="payments", environment="production", cache_dir=sys.argv[2])
while client.get("a") != 39: pass
""",
    AsyncConfigClient: """
import asyncio, sys
from configsvc_client import AsyncConfigClient
async def main():
    client = AsyncConfigClient(sys.argv[1], namespace="payments", environment="production", cache_dir=sys.argv[2])
    while await client.get("a") != 39: await asyncio.sleep(0)
asyncio.run(main())
""",
}


async def test_the_last_state_is_on_disk_after_an_exit_without_close(tmp_path: Path, kind: Kind) -> None:
    changes = [change(revision, {"a": revision}) for revision in range(6, 40)]
    async with Service([snapshot({"a": 5}, 5), *changes, HOLD]).run() as service:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", EXIT[kind], service.url, str(tmp_path), stderr=subprocess.PIPE
        )
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
    async with opened(kind, NOBODY, tmp_path) as client:
        assert await client.get("a") == 39


async def test_a_disk_that_hangs_holds_up_neither_the_stream_nor_the_end(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(disk.os, "fsync", lambda _: release.wait(DEADLINE_S))
    monkeypatch.setattr(start, "STOP_TIMEOUT_S", 0.2)
    try:
        async with Service([snapshot({"a": 5}, 5), change(6, {"a": 6}), Beat(status(7))]).run() as service:
            async with opened(kind, service.url, tmp_path) as client:
                await eventually(lambda: client.seen == ("live", "live", 7))
                assert await client.get("a") == 6
            assert not release.is_set()
    finally:
        release.set()
    await eventually(lambda: not any(thread.name == "configsvc-disk" for thread in threading.enumerate()))


async def test_a_disk_that_is_slow_to_read_is_not_waited_for_and_used_when_it_comes(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep(tmp_path, {"a": 1, "b": 1})
    release, load = threading.Event(), disk.Files.load

    def slow(files: disk.Files) -> Any:
        release.wait(DEADLINE_S)
        return load(files)

    monkeypatch.setattr(disk.Files, "load", slow)
    try:
        async with opened(kind, NOBODY, tmp_path, start_timeout_s=0) as client:
            assert await client.get("a", default=0) == 0
            assert client.seen == ("connecting", "none", None)
            release.set()
            await eventually(lambda: client.seen == ("connecting", "disk", 8))
            await eventually(lambda: len(client.heard) == 2)
            assert await client.get("a") == 1
    finally:
        release.set()


async def test_what_a_broken_thread_would_leave_is_an_ordinary_client(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Keeper) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Keeper, "_write_behind", broken)
    async with Service([snapshot({"a": 5}, 5), HOLD]).run() as service, opened(kind, service.url, tmp_path) as client:
        assert await client.get("a") == 5
        await eventually(lambda: log_lines(caplog, "a defect ended the keeping"))


def test_a_forked_child_keeps_the_file_too(tmp_path: Path) -> None:
    code = """
import os, sys, time
from configsvc_client import ConfigClient
client = ConfigClient(sys.argv[1], namespace="payments", environment="production", cache_dir=sys.argv[2])
assert client.get("a") == 5
child = os.fork()
if not child:
    while client.get("a") != 6: time.sleep(0.005)
    sys.exit(0)
client.close()
assert os.waitpid(child, 0)[1] == 0
"""
    scripts: list[Any] = [[snapshot({"a": 5}, 5), HOLD], [change(6, {"a": 6}), HOLD]]
    with Service(*scripts).run_in_thread() as service:
        done = subprocess.run(
            [sys.executable, "-c", code, service.url, str(tmp_path)], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
    (path,) = tmp_path.iterdir()
    assert decode_head(path.read_bytes()).position == 6


def test_containers_without_a_home_start_all_the_same(tmp_path: Path) -> None:
    code = """
import logging, sys
logging.basicConfig()
from configsvc_client import ConfigClient
with ConfigClient(sys.argv[1], namespace="payments", environment="production") as client:
    print(client.get("a"))
"""
    environ = {name: value for name, value in os.environ.items() if name not in ("HOME", "CONFIGSVC_CACHE_DIR")}
    with Service([snapshot({"a": 5}, 5), HOLD]).run_in_thread() as service:
        for more, warnings in [
            ({}, 0),
            ({"HOME": ""}, 0),
            ({"HOME": "/"}, 0),
            ({"HOME": "relative"}, 0),
            ({"HOME": str(tmp_path / "nobody")}, 1),
            ({"XDG_CACHE_HOME": "/dev/null"}, 1),
            ({"XDG_CACHE_HOME": "/proc/nothing"}, 1),
        ]:
            done = subprocess.run(
                [sys.executable, "-c", code, service.url],
                capture_output=True,
                text=True,
                timeout=60,
                env=environ | more,
            )
            assert (done.returncode, done.stdout.strip()) == (0, "5"), done.stderr
            assert done.stderr.count("WARNING") == warnings, done.stderr
            assert done.stderr.count("Set CONFIGSVC_CACHE_DIR") == warnings
    assert list(tmp_path.iterdir()) == []
