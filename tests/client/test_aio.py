"""`AsyncConfigClient` as an application sees it."""

import asyncio
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from configsvc_client import MISSING, AsyncConfigClient, ClientClosed, ConfigChange, ConfigKeyError, LinkFailed
from configsvc_client.link import Link
from tests.client.support import (
    CUT,
    FAST,
    HOLD,
    PATIENT,
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


def client_of(service: Service | str, **more: Any) -> AsyncConfigClient:
    url = service if isinstance(service, str) else service.url
    return AsyncConfigClient(url, **{"tuning": FAST, **PATIENT, **SCOPE, **more})


async def test_reading_starts_the_client_and_waits_for_the_first_snapshot() -> None:
    ready = Wait()
    async with Service([ready, snapshot({"a": 1, "n": None}, 1), HOLD]).run() as service:
        client = client_of(service)
        reading = asyncio.gather(
            client.get("a"), client.get("n", default=5), client.get("x", default=5), client.get_all()
        )
        await eventually(lambda: service.watches)
        ready.go()
        assert await reading == [1, None, 5, {"a": 1, "n": None}]
        await client.close()


async def test_integers_are_exact_up_to_64_bits_and_types_are_kept() -> None:
    values = {
        "max": 2**64 - 1,
        "min": -(2**63),
        "float": 1.0,
        "true": True,
        "text": "1",
        "list": [1, [True]],
        "object": {},
    }
    async with Service([snapshot(values, 1), HOLD]).run() as service, client_of(service) as client:
        read = await client.get_all()
        assert read == values
        assert [type(value) for value in read.values()] == [type(value) for value in values.values()]


async def test_a_read_without_service_is_a_default_or_a_key_error_and_waits_only_once() -> None:
    async with client_of(NOBODY, start_timeout_s=0.2) as client:
        with pytest.raises(ConfigKeyError, match="no configuration of payments/production was received"):
            await client.get("a")
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.create_task(client.get("a", default=1)), 5) == 1
        assert await client.get_all() == {}
        assert (client.status.state, client.status.source, client.status.revision) == ("connecting", "none", None)


async def test_wait_ready_says_why_it_is_not() -> None:
    async with client_of(NOBODY) as client:
        with pytest.raises(TimeoutError, match=r"after 0\.2 s no configuration .* http://127\.0\.0\.1:9"):
            await client.wait_ready(0.2)


async def test_status_goes_from_connecting_over_live_and_stale_to_closed() -> None:
    go, gone = Wait(), Wait()
    service = Service([go, snapshot({"a": 1}, 5), status(7), gone, CUT])
    before = datetime.now(UTC)
    async with service.run():
        client = client_of(service, max_staleness_s=0.05)
        assert client.status.state == "connecting"
        async with client:
            go.go()
            await client.wait_ready(10)
            await eventually(lambda: client.status.revision == 7)
            live = client.status
            assert (live.state, live.source, live.age_s, live.last_error) == ("live", "live", 0.0, None)
            service.scripts = []
            gone.go()
            await eventually(lambda: client.status.state == "stale")
            stale = client.status
            assert (stale.source, stale.revision) == ("memory", 7)
            assert stale.age_s is not None
            assert stale.age_s > 0.05
            assert stale.last_error
            assert await client.get("a") == 1
            assert before < live.since < stale.since
    closed = client.status
    assert (closed.state, closed.source, closed.revision) == ("closed", "memory", 7)
    assert closed.since >= stale.since
    assert await client.get("a") == 1
    assert "payments/production closed" in repr(client)


async def test_what_a_stale_service_sends_first_is_as_old_as_it_says(tmp_path: Path) -> None:
    go = Wait()
    head = {"Configsvc-Staleness": "420.8"}
    beat = Beat(status(5, "stale", staleness_s=420.8))
    service = Service([head, snapshot({"a": 1}, 5), go, beat])
    told: list[tuple[str, str]] = []
    async with service.run():
        client = client_of(service, max_staleness_s=60, cache_dir=tmp_path)
        client.on_status(lambda status: told.append((status.state, status.source)))
        async with client:
            # Between the two it is not taken for the newest either.
            assert await client.get("a") == 1
            for _ in range(2):
                seen = client.status
                assert (seen.state, seen.source, seen.service_state) == ("stale", "memory", "stale")
                assert seen.age_s is not None
                assert 420.8 <= seen.age_s < 430
                assert "the service is stale" in (seen.last_error or "")
                go.go()
                await eventually(lambda: "stale since" in (client.status.last_error or ""))
            [proved] = [one.value for one in client.metrics() if one.name.endswith("proved_timestamp_seconds")]
            assert 420 < time.time() - proved < 430
    assert told == [("stale", "memory")]
    # Its file is no younger.
    service.scripts = []
    async with service.run():
        for limit_s, expected in ((400, None), (600, 1)):
            async with client_of(service, cache_dir=tmp_path, cache_max_age_s=limit_s, start_timeout_s=0.3) as client:
                assert await client.get("a", default=None) == expected


async def test_a_service_that_does_not_say_how_old_its_state_is_answers_reads_and_fills_no_file(tmp_path: Path) -> None:
    caught_up = Wait()
    service = Service([{}, snapshot({"a": 1}, 5) + status(5, "stale"), caught_up, status(6), HOLD])
    async with service.run(), client_of(service, max_staleness_s=60, cache_dir=tmp_path) as client:
        assert await client.get("a") == 1
        seen = client.status
        assert (seen.state, seen.source, seen.age_s) == ("stale", "memory", None)
        await asyncio.sleep(0.1)
        assert list(tmp_path.glob("scope-*")) == []
        caught_up.go()
        await eventually(lambda: client.status.state == "live")
        await eventually(lambda: list(tmp_path.glob("scope-*")))


async def test_callbacks_hear_of_changes_in_order_with_old_and_new() -> None:
    go = Wait()
    steps = [change(n, {"a": n, "other": n}) for n in range(2, 40)]
    async with (
        Service([snapshot({"a": 1}, 1), go, *steps, change(40, deleted=("a",)), HOLD]).run() as service,
        client_of(service) as client,
    ):
        await client.wait_ready(10)
        seen: list[ConfigChange] = []
        running = 0

        async def slow(change: ConfigChange) -> None:
            nonlocal running
            running += 1
            assert running == 1
            await asyncio.sleep(0)
            seen.append(change)
            running -= 1

        client.on_change(slow, key="a")
        go.go()
        await eventually(lambda: len(seen) == 39)
        assert [(c.old, c.new, c.revision) for c in seen[:-1]] == [(n - 1, n, n) for n in range(2, 40)]
        assert (seen[-1].key, seen[-1].old, seen[-1].new) == ("a", 39, MISSING)


async def test_an_error_in_a_callback_is_logged_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    go = Wait()
    async with (
        Service([snapshot({}, 1), go, change(2, {"a": 1}), change(3, {"a": 2}), HOLD]).run() as service,
        client_of(service) as client,
    ):
        await client.wait_ready(10)
        seen: list[Any] = []

        def bad(_: ConfigChange) -> None:
            raise RuntimeError("from the application")

        async def cancelled(_: ConfigChange) -> None:
            raise asyncio.CancelledError

        client.on_change(bad)
        client.on_change(cancelled)
        client.on_change(lambda change: seen.append(change.new))
        with caplog.at_level(logging.ERROR, "configsvc_client"):
            go.go()
            await eventually(lambda: seen == [1, 2])
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 4
        assert "from the application" in caplog.text
        assert client.status.state == "live"


class Outcome(BaseException):
    """As test frameworks and greenlets raise it."""


async def test_nor_does_what_is_no_exception(caplog: pytest.LogCaptureFixture) -> None:
    go = Wait()
    async with (
        Service([snapshot({}, 1), go, change(2, {"a": 1}), change(3, {"a": 2}), HOLD]).run() as service,
        client_of(service) as client,
    ):
        await client.wait_ready(10)
        seen: list[Any] = []

        async def bad(_: ConfigChange) -> None:
            raise Outcome("from the application")

        client.on_change(bad)
        client.on_change(lambda change: seen.append(change.new))
        go.go()
        await eventually(lambda: seen == [1, 2])
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
        assert {sample.name: sample.value for sample in client.metrics()}["configsvc_client_callback_errors_total"] == 2


def test_a_callback_may_end_the_loop_and_is_no_news_to_the_next_one_when_it_is_run_again() -> None:
    loop = asyncio.new_event_loop()
    go, seen = Wait(), []
    with Service([snapshot({}, 1), go, change(2, {"a": 1, "b": 1}), HOLD]).run_in_thread() as service:
        client = client_of(service)

        def leave(change: ConfigChange) -> None:
            seen.append(change.key)
            if change.key == "a":
                raise SystemExit(3)

        client.on_change(leave)
        loop.run_until_complete(client.wait_ready(10))
        go.go()
        with pytest.raises(SystemExit):
            loop.run_until_complete(asyncio.sleep(20))
        loop.run_until_complete(eventually(lambda: seen == ["a", "b"]))
        loop.run_until_complete(client.close())
    loop.close()


async def test_a_callback_that_blocks_holds_up_neither_reads_nor_the_link() -> None:
    go, block = Wait(), asyncio.Event()
    async with (
        Service([snapshot({}, 1), go, change(2, {"a": 2}), change(3, {"a": 3}), HOLD]).run() as service,
        client_of(service) as client,
    ):
        await client.wait_ready(10)
        seen: list[Any] = []

        async def callback(change: ConfigChange) -> None:
            seen.append((change.new, await client.get("a")))
            await block.wait()

        remove = client.on_change(callback)
        go.go()
        await eventually(lambda: client.status.revision == 3)
        await eventually(lambda: seen)
        assert await client.get("a") == 3
        remove()
        block.set()
        await asyncio.sleep(0)
        assert len(seen) == 1


async def test_the_first_snapshot_is_a_change_only_to_who_was_answered_without_it() -> None:
    for answered in (False, True):
        go = Wait()
        async with (
            Service([go, snapshot({"a": 1}, 1), change(2, {"b": 2}), HOLD]).run() as service,
            client_of(service, start_timeout_s=0) as client,
        ):
            seen: list[tuple[str, Any]] = []
            client.on_change(lambda change, seen=seen: seen.append((change.key, change.old)))
            if answered:
                assert await client.get("a", default=9) == 9
            go.go()
            await eventually(lambda seen=seen: ("b", MISSING) in seen)
            assert (("a", MISSING) in seen) is answered


async def test_a_callback_may_close_its_client() -> None:
    go, closed = Wait(), asyncio.Event()
    async with Service([snapshot({}, 1), go, change(2, {"a": 2, "b": 2}), HOLD]).run() as service:
        client = client_of(service)
        await client.wait_ready(10)
        calls = []

        async def callback(change: ConfigChange) -> None:
            calls.append(change.key)
            await client.close()
            closed.set()

        client.on_change(callback)
        go.go()
        await asyncio.wait_for(closed.wait(), 10)
        await client.close()
        assert calls == ["a"]


async def test_closing_ends_everything_at_once_and_for_good() -> None:
    async with Service([Beat(status(0, "starting", with_id=False))]).run() as service:
        before = asyncio.all_tasks()
        client = client_of(service)
        waiting = asyncio.gather(client.wait_ready(), client.get("a", default=1), return_exceptions=True)
        await eventually(lambda: service.watches)
        await client.close()
        await client.close()
        errors = await asyncio.wait_for(waiting, 10)
        assert isinstance(errors[0], ClientClosed)
        assert errors[1] == 1
        assert not {task for task in asyncio.all_tasks() - before if task.get_name().startswith("configsvc")}
        with pytest.raises(ClientClosed):
            await client.wait_ready(1)
        with pytest.raises(ClientClosed):
            await client.__aenter__()
        assert await client.get("a", default=2) == 2


async def test_nothing_is_ready_once_the_client_is_closed() -> None:
    async with Service([snapshot({"a": 1}, 1), HOLD]).run() as service:
        client = client_of(service)
        await client.wait_ready(10)
        await client.close()
    with pytest.raises(ClientClosed):
        await client.wait_ready(10)
    assert await client.get("a") == 1


async def test_a_client_that_was_never_started_can_be_closed() -> None:
    client = client_of(NOBODY)
    await client.close()
    assert client.status.state == "closed"


async def test_a_defect_ends_the_link_not_the_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    go = Wait()
    async with Service([snapshot({"a": 1}, 1), go, status(1), HOLD]).run() as service:
        client = client_of(service)
        await client.wait_ready(10)

        def broken(_: Link) -> None:
            raise AssertionError("a defect")

        monkeypatch.setattr(Link, "_log_return", broken)
        go.go()
        await eventually(lambda: "a defect" in (client.status.last_error or ""))
        assert await client.get("a") == 1
        with pytest.raises(LinkFailed, match="a defect"):
            await client.wait_ready(1)
        with pytest.raises(LinkFailed, match="a defect"):
            await client.close()


async def test_a_defect_before_the_first_snapshot_is_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Link) -> None:
        raise AssertionError("a defect")

    monkeypatch.setattr(Link, "_open_client", broken)
    client = client_of(NOBODY, start_timeout_s=60)
    assert await asyncio.wait_for(asyncio.create_task(client.get("a", default=1)), 20) == 1
    with pytest.raises(ConfigKeyError, match="a defect"):
        await client.get("a")
    with pytest.raises(LinkFailed):
        await client.wait_ready(60)
    with pytest.raises(LinkFailed):
        await client.close()
