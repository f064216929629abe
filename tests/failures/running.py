"""Scenarios of an application that runs: its callbacks, its clock, its disk, its loop."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from configsvc_client import AsyncConfigClient
from tests.client.support import Beat, change, eventually_sync, status
from tests.failures.world import HEARTBEAT_S, World, jump_clock, scenario

Steps = Generator[None, None, None]
YEARS_S = 10 * 365 * 86_400


@scenario("a callback raises")
def callback_raises(world: World) -> Steps:
    world.serve(
        [change(6, {"a": 2}), Beat(status(6))],
    )

    def broken(_: object) -> None:
        raise RuntimeError("from the application")

    for seat in world.seats:
        seat.client.on_change(broken)
    world.go()
    yield


def jump(world: World, seconds: float) -> Steps:
    world.serve_well()
    jump_clock(world.monkeypatch, seconds)
    revisions = [seat.client.status.revision for seat in world.seats]
    # Until all was proved again, so that whatever looks at the wrong clock has had its chance.
    for server in world.servers:
        server.set("b", 1)
    for seat, before in zip(world.seats, revisions, strict=True):
        eventually_sync(lambda seat=seat, before=before: seat.client.status.revision > before)
        assert seat.client.status.age_s == 0
    yield
    # It is as good at seeing that nobody is there any more.
    for server in world.servers:
        server.stop()
    for seat in world.seats:
        eventually_sync(lambda seat=seat: seat.status() == ["stale", "memory"])
        assert 0 < seat.client.status.age_s < 60


@scenario("the wall clock jumps ten years ahead")
def jumps_ahead(world: World) -> Steps:
    yield from jump(world, YEARS_S)


@scenario("the wall clock jumps ten years back")
def jumps_back(world: World) -> Steps:
    yield from jump(world, -YEARS_S)


@scenario("the asyncio client's loop is blocked for longer than two heartbeats")
def loop_blocked(world: World) -> Steps:
    world.serve_well()
    seat = next(seat for seat in world.seats if isinstance(seat.client, AsyncConfigClient))
    world.seats = [seat]

    async def block() -> tuple[list[str], int]:
        time.sleep(3 * HEARTBEAT_S)
        return seat.status(), await seat.client.get_int("a", default=0)

    seen, read = asyncio.run_coroutine_threadsafe(block(), world.loop).result(60)
    # What is looked at while the loop turns again is what comes after.
    with world.monkeypatch.context() as patch:
        patch.setattr(seat, "status", lambda: seen)
        patch.setattr(seat, "read", lambda: read)
        yield
    world.set()


def small_disks(world: World) -> list[Path]:
    """For each client a disk of its own, where this may be mounted."""
    for target in world.folders():
        command = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", target]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("may not mount")
        world.stack.callback(subprocess.run, ["umount", "-l", target], check=True)
    return world.folders()


def keeping(folders: list[Path]) -> Any:
    return lambda number: {"cache_dir": folders[number]}


@scenario("the disk of the last-known-good file is full")
def disk_full(world: World) -> Steps:
    disks = small_disks(world)
    for disk in disks:
        (disk / "filler").write_bytes(bytes(48 * 1024))
    for server in world.serve_well(keeping(disks)):
        server.update({"a": 2, "b": "x" * 100_000})
    yield


@scenario("the folder of the last-known-good file turns read-only")
def read_only(world: World) -> Steps:
    disks = small_disks(world)
    world.serve_well(keeping(disks))
    for disk in disks:
        eventually_sync(lambda disk=disk: any(disk.iterdir()))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    world.set(2)
    yield


@scenario("the folder of the last-known-good file is removed")
def folder_removed(world: World) -> Steps:
    folders = world.folders()
    world.serve_well(keeping(folders))
    for folder in folders:
        eventually_sync(lambda folder=folder: [path.name[:6] for path in folder.iterdir()] == ["scope-"])
        shutil.rmtree(folder)
    world.set(2)
    yield
    for folder in folders:
        eventually_sync(lambda folder=folder: any(folder.glob("scope-*")))
