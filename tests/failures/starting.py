"""Scenarios of an application that starts while no service answers."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from configsvc_client import ConfigClient
from configsvc_client.testing import ConfigServer
from tests.client.support import DEADLINE_S
from tests.failures.page import AFTER
from tests.failures.running import YEARS_S
from tests.failures.world import KINDS, NAMES, World, jump_clock, scenario

Steps = Generator[None, None, None]


def start_without(world: World, *, folders: list[Path] | None = None, freeze: bool = False, **more: Any) -> Steps:
    """A start while nobody answers, and then somebody does."""
    for number, kind in enumerate(KINDS):
        server = ConfigServer({"a": AFTER}, **NAMES)
        world.stack.enter_context(server)
        world.servers.append(server)
        # Silent at first, so that nothing is decided before callbacks are registered.
        server.freeze()
        cache = folders[number] if folders else "off"
        seat = world.connect(kind, server.url, is_up=False, **{"cache_dir": cache, "start_timeout_s": 0.3, **more})
        if not freeze:
            server.stop()
        seat.call(seat.client.get, "a", default=0)
    yield
    for server in world.servers:
        if freeze:
            server.thaw()
        else:
            server.start()


def kept_file(folder: Path, namespace: str = NAMES["namespace"]) -> Path:
    """The last-known-good file that an earlier run has left."""
    scope = {"namespace": namespace, "environment": NAMES["environment"]}
    with ConfigServer({"a": 1}, **scope) as server, ConfigClient(server.url, cache_dir=folder, **scope) as client:
        client.wait_ready(DEADLINE_S)
    (file,) = folder.glob("scope-*")
    return file


def kept(world: World, damage: Callable[[Path], None] = lambda _: None) -> list[Path]:
    folders = world.folders()
    for folder in folders:
        damage(kept_file(folder))
    return folders


@scenario("no last-known-good file")
def no_file(world: World) -> Steps:
    yield from start_without(world)


@scenario("a last-known-good file")
def a_file(world: World) -> Steps:
    yield from start_without(world, folders=kept(world))


@scenario("a last-known-good file, and addresses that take connections and say nothing")
def silence(world: World) -> Steps:
    yield from start_without(world, folders=kept(world), freeze=True)


@scenario("a file that is corrupt")
def corrupt(world: World) -> Steps:
    def damage(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    yield from start_without(world, folders=kept(world, damage))


@scenario("a file that is truncated")
def truncated(world: World) -> Steps:
    yield from start_without(world, folders=kept(world, lambda file: _cut(file)))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@scenario("a file that is too old")
def too_old(world: World) -> Steps:
    yield from start_without(world, folders=kept(world), cache_max_age_s=0.001)


@scenario("a file, and a wall clock that has jumped ten years ahead")
def clock_ahead(world: World) -> Steps:
    folders = kept(world)
    jump_clock(world.monkeypatch, YEARS_S)
    yield from start_without(world, folders=folders)


@scenario("a file, and a wall clock that has jumped ten years back")
def clock_back(world: World) -> Steps:
    folders = kept(world)
    jump_clock(world.monkeypatch, -YEARS_S)
    yield from start_without(world, folders=folders)


@scenario("a file of another scope")
def another_scope(world: World) -> Steps:
    other = world.folder / "other"
    other.mkdir(mode=0o700)
    theirs = kept_file(other, "orders").read_bytes()
    yield from start_without(world, folders=kept(world, lambda file: _write(file, theirs)))


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


@scenario("a folder that cannot be made")
def no_folder(world: World) -> Steps:
    (world.folder / "file").touch()
    yield from start_without(world, folders=[world.folder / "file" / kind.__name__ for kind in KINDS])
