"""`AsyncConfigClient` where it is closed from the inside, and where more than one loop uses it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from configsvc_client import AsyncConfigClient, ConfigChange
from configsvc_client.testing import ConfigServer
from tests.client.support import DEADLINE_S, FAST, HOLD, PATIENT, SCOPE, Service, Wait, change, eventually, snapshot


def client_of(service: Service | ConfigServer, **more: Any) -> AsyncConfigClient:
    return AsyncConfigClient(service.url, **{"tuning": FAST, "cache_dir": "off", **PATIENT, **SCOPE, **more})


def ours() -> list[str]:
    """The client's tasks on this loop."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("configsvc-")]


# ---- closed by what a callback does ------------------------------------------------------------------------------


async def in_a_task(client: AsyncConfigClient) -> None:
    await asyncio.create_task(client.close())


async def in_a_task_of_a_task(client: AsyncConfigClient) -> None:
    await asyncio.create_task(in_a_task(client))


async def in_a_row(client: AsyncConfigClient) -> None:
    await asyncio.gather(client.close(), client.close())


async def in_time(client: AsyncConfigClient) -> None:
    await asyncio.wait_for(client.close(), DEADLINE_S)


async def in_a_group(client: AsyncConfigClient) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(client.close())


async def in_another_loop(client: AsyncConfigClient) -> None:
    await asyncio.to_thread(lambda: asyncio.run(client.close()))


@pytest.mark.parametrize(
    "close", [AsyncConfigClient.close, in_a_task, in_a_task_of_a_task, in_a_row, in_time, in_a_group, in_another_loop]
)
async def test_a_callback_may_close_its_client_in_any_way(
    close: Callable[[AsyncConfigClient], Awaitable[None]],
) -> None:
    go, ended = Wait(), asyncio.Event()
    async with Service([snapshot({}, 1), go, change(2, {"a": 2, "b": 2}), HOLD]).run() as service:
        client, calls = client_of(service), []

        async def callback(change: ConfigChange) -> None:
            calls.append(change.key)
            try:
                await close(client)
            finally:
                ended.set()

        client.on_change(callback)
        await client.wait_ready(DEADLINE_S)
        go.go()
        await asyncio.wait_for(ended.wait(), DEADLINE_S)
        await eventually(lambda: not ours())
        assert calls == ["a"]
        assert client.status.state == "closed"


async def test_a_task_that_outlives_the_callback_that_made_it_closes_as_any_other() -> None:
    go, may_close, made = Wait(), asyncio.Event(), []
    async with Service([snapshot({}, 1), go, change(2, {"a": 2}), HOLD]).run() as service:
        client = client_of(service)

        async def close_later() -> list[str]:
            await may_close.wait()
            await client.close()
            return ours()

        client.on_change(lambda _: made.append(asyncio.create_task(close_later())))
        await client.wait_ready(DEADLINE_S)
        go.go()
        await eventually(lambda: made)
        may_close.set()
        assert await asyncio.wait_for(made[0], DEADLINE_S) == []


# ---- one loop after another --------------------------------------------------------------------------------------


def test_a_loop_that_runs_again_does_not_follow_twice() -> None:
    heard: list[tuple[Any, Any]] = []
    loop = asyncio.new_event_loop()
    with ConfigServer({"a": 0}, heartbeat_s=0.5, **SCOPE) as server:
        client = client_of(server)
        client.on_change(lambda change: heard.append((change.old, change.new)))

        async def change_it() -> list[str]:
            at = await client.get("a")
            for number in range(at + 1, at + 6):
                server.set("a", number)
            await eventually(lambda: heard[-1:] == [(at + 4, at + 5)])
            await eventually(lambda: len(ours()) <= 4)
            return ours()

        loop.run_until_complete(change_it())
        asyncio.run(change_it())
        left = loop.run_until_complete(change_it())
        assert heard == [(number, number + 1) for number in range(15)]
        assert sorted(set(left)) == sorted(left), "the link of before follows too"

        loop.run_until_complete(client.close())
        assert [task.get_name() for task in asyncio.all_tasks(loop)] == []
    loop.close()


def test_a_loop_that_was_left_ends_its_tasks_when_it_runs_again() -> None:
    loop = asyncio.new_event_loop()
    with ConfigServer({"a": 0}, heartbeat_s=0.5, **SCOPE) as server:
        client = client_of(server)
        loop.run_until_complete(client.get("a"))

        async def use_and_close() -> None:
            assert await client.get("a") == 0
            await client.close()

        asyncio.run(use_and_close())
        loop.run_until_complete(eventually(lambda: not asyncio.all_tasks(loop) - {asyncio.current_task(loop)}))
    loop.close()


def test_a_close_in_another_loop_ends_the_tasks_of_one_that_does_not_run() -> None:
    loop = asyncio.new_event_loop()
    with ConfigServer({"a": 0}, heartbeat_s=0.5, **SCOPE) as server:
        client = client_of(server)
        loop.run_until_complete(client.get("a"))
        asyncio.run(client.close())
        loop.run_until_complete(eventually(lambda: not asyncio.all_tasks(loop) - {asyncio.current_task(loop)}))
    loop.close()


# ---- two loops at once -------------------------------------------------------------------------------------------


async def test_a_second_loop_waits_reads_and_hears_too() -> None:
    ready, go = Wait(), Wait()
    async with Service([ready, snapshot({"a": 1}, 1), go, change(2, {"a": 2}), HOLD]).run() as service:
        client = client_of(service)
        await client.__aenter__()
        await eventually(lambda: service.watches)
        reads: list[Any] = []
        is_waiting = threading.Event()

        async def elsewhere() -> Any:
            reads.append(asyncio.gather(client.get("a"), client.wait_ready(DEADLINE_S)))
            changes = client.changes()
            asyncio.get_running_loop().call_later(0.05, is_waiting.set)
            reads.append((await reads.pop())[0])
            go.go()
            return (await anext(changes)).new

        other = asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(elsewhere()))
        await eventually(is_waiting.is_set)
        ready.go()
        assert await asyncio.wait_for(other, DEADLINE_S) == 2
        assert reads == [1]
        assert len(service.watches) == 1
        await client.close()


async def test_a_close_in_a_second_loop_ends_everything_in_the_first() -> None:
    async with Service([snapshot({"a": 1}, 1), HOLD]).run() as service:
        client = client_of(service)
        await client.wait_ready(DEADLINE_S)
        await asyncio.to_thread(lambda: asyncio.run(client.close()))
        assert ours() == []
        assert client.status.state == "closed"


def test_two_loops_that_start_a_client_at_once_start_one_link() -> None:
    with Service([snapshot({"a": 1}, 1), HOLD]).run_in_thread() as service:
        for _ in range(20):
            before = len(service.watches)
            client = client_of(service)
            barrier, done = threading.Barrier(2), threading.Barrier(2)

            async def read(client: AsyncConfigClient = client, barrier: Any = barrier, done: Any = done) -> Any:
                barrier.wait(DEADLINE_S)
                value = await client.get("a")
                await asyncio.to_thread(done.wait, DEADLINE_S)
                return value

            with ThreadPoolExecutor(2) as pool:
                assert list(pool.map(lambda _: asyncio.run(read()), range(2))) == [1, 1]
            assert len(service.watches) == before + 1
