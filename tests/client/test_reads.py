"""Typed reads, iterators, status callbacks and counters of both clients, as an application sees them."""

import asyncio
import gc
import logging
import threading
from typing import Any

import pytest
from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest

from configsvc_client import (
    AsyncConfigClient,
    ClientStatus,
    ConfigChange,
    ConfigClient,
    ConfigValueError,
    InvalidOption,
)
from configsvc_client.link import Link
from configsvc_client.metrics import TABLE
from configsvc_client.prometheus import ClientCollector
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
    eventually_sync,
    snapshot,
    status,
)

NOBODY = "http://127.0.0.1:9"
VALUES = {"s": "x", "i": 5, "f": 0.5, "b": True, "j": {"a": [1]}, "pool.size": 3}
OPTIONS: dict[str, Any] = {"tuning": FAST, **PATIENT, **SCOPE, "cache_dir": "off"}


class Pool(Struct):
    size: int
    timeout_s: float = 1.0


def test_typed_reads_of_threads() -> None:
    with (
        Service([snapshot(VALUES, 1), HOLD]).run_in_thread() as service,
        ConfigClient(service.url, **OPTIONS) as client,
    ):
        assert client.get_str("s") == "x"
        assert client.get_int("i", min_val=5, max_val=5) == 5
        assert client.get_float("i") == 5.0
        assert client.get_float("f", min_val=0) == 0.5
        assert client.get_bool("b") is True
        assert client.get_json("j") == {"a": [1]}
        assert client.get_json("j", type=dict[str, list[int]]) == {"a": [1]}
        client.get_json("j")["a"].append(2)
        assert client.get("j") == {"a": [1]}
        assert client.as_struct(Pool, "pool") == Pool(size=3)
        assert client.get_int("s", None) is None
        assert client.get_int("b", 7) == 7
        assert client.get_int("i", 7, max_val=4) == 7
        assert client.get_str("none", "y") == "y"
        for read in (client.get_str, client.get_int, client.get_float, client.get_bool):
            with pytest.raises(ConfigValueError, match=r"^'j': stored is an object"):
                read("j")
        with pytest.raises(ConfigValueError, match=r"'pool\.size'"):
            client.as_struct(type("Other", (Struct,), {"__annotations__": {"size": str}}), "pool")
        for read in (client.get_int, client.get_float):
            with pytest.raises(InvalidOption, match="min_val 2 is above max_val 1"):
                read("none", 5, min_val=2, max_val=1)
        assert client.status.reads == {"live": 10, "memory": 0, "disk": 0, "default": 4}
        assert client.status.invalid_values == 3
        assert client.status.transport == "stream"


async def test_typed_reads_of_a_loop() -> None:
    async with Service([snapshot(VALUES, 1), HOLD]).run() as service:
        client = AsyncConfigClient(service.url, **OPTIONS)
        assert await client.get_str("s") == "x"
        assert await client.get_int("i", min_val=5, max_val=5) == 5
        assert await client.get_float("i") == 5.0
        assert await client.get_bool("b") is True
        assert await client.get_json("j", type=dict[str, list[int]]) == {"a": [1]}
        assert await client.as_struct(Pool, "pool.") == Pool(size=3)
        assert await client.get_int("b", 7) == 7
        with pytest.raises(ConfigValueError, match=r"^'j': stored is an object"):
            await client.get_bool("j")
        with pytest.raises(InvalidOption):
            await client.get_float("none", 5, min_val=2, max_val=1)
        assert client.status.reads == {"live": 6, "memory": 0, "disk": 0, "default": 1}
        assert client.status.invalid_values == 1
        await client.close()
        assert await client.get_int("i") == 5
        assert client.status.reads["memory"] == 1


def test_typed_reads_without_service_are_defaults() -> None:
    with ConfigClient(NOBODY, **{**OPTIONS, "start_timeout_s": 0}) as client:
        assert client.get_int("i", 5) == 5
        assert client.get_json("i", None, type=int) is None
        with pytest.raises(ConfigValueError, match=r"'size': missing; wanted int \(no configuration of payments"):
            client.as_struct(Pool)
        with pytest.raises(KeyError):
            client.get_int("i")
        assert client.status.reads == {"live": 0, "memory": 0, "disk": 0, "default": 2}


def test_changes_are_iterated_over_until_the_client_is_closed() -> None:
    go = Wait()
    steps = [change(n, {"a": n, "b": n}) for n in range(2, 20)]
    with (
        Service([snapshot({"a": 1}, 1), go, *steps, HOLD]).run_in_thread() as service,
        ConfigClient(service.url, **OPTIONS) as client,
    ):
        client.wait_ready(10)
        one, every = client.changes("a"), client.changes()
        go.go()
        assert [next(one).new for _ in range(18)] == list(range(2, 20))
        eventually_sync(lambda: client.get("a") == 19)
        # Nothing is lost for a reader that comes late, and its order is that of callbacks.
        assert [(c.key, c.new) for c, _ in zip(every, range(4), strict=False)] == [
            ("a", 2), ("b", 2), ("a", 3), ("b", 3)
        ]  # fmt: skip
        left: list[ConfigChange] = []
        reader = threading.Thread(target=lambda: left.extend(one))
        reader.start()
        client.close()
        reader.join(10)
        assert not reader.is_alive()
        assert left == []
        assert list(client.changes()) == []


def test_an_iterator_can_be_closed_by_itself_and_a_forgotten_one_is_dropped() -> None:
    with (
        Service([snapshot({"a": 1}, 1), HOLD]).run_in_thread() as service,
        ConfigClient(service.url, **OPTIONS) as client,
    ):
        client.wait_ready(10)
        with client.changes() as iterator:
            reader = threading.Thread(target=lambda: list(iterator))
            reader.start()
            iterator.close()
            reader.join(10)
            assert not reader.is_alive()
        client.changes()
        gc.collect()
        assert not list(client._state.callbacks.listeners)


async def test_changes_are_iterated_over_in_a_loop() -> None:
    go = Wait()
    async with Service([snapshot({"a": 1}, 1), go, change(2, {"a": 2}), change(3, {"b": 3}), HOLD]).run() as service:
        client = AsyncConfigClient(service.url, **OPTIONS)
        await client.wait_ready(10)
        changes = client.changes()
        go.go()
        assert [(await anext(changes)).new, (await anext(changes)).key] == [2, "b"]
        waiting = asyncio.create_task(anext(changes, None))
        other = client.changes("a")
        await asyncio.sleep(0)
        await other.aclose()
        assert await anext(other, None) is None
        await client.close()
        assert await asyncio.wait_for(waiting, 10) is None


def test_status_is_told_at_each_step_also_at_the_one_that_time_makes(caplog: pytest.LogCaptureFixture) -> None:
    begin, gone, back = Wait(), Wait(), Wait()
    scripts: list[Any] = [[begin, snapshot({"a": 1}, 1), status(1), gone, CUT], [back, status(1), HOLD]]
    with (
        Service(*scripts).run_in_thread() as service,
        ConfigClient(service.url, **OPTIONS, max_staleness_s=0.05) as client,
        caplog.at_level(logging.INFO, "configsvc_client"),
    ):
        told: list[ClientStatus] = []
        threads = set()

        def heard(status: ClientStatus) -> None:
            threads.add(threading.current_thread().name)
            told.append(status)
            raise RuntimeError("from the application")

        client.on_status(heard)
        end = client.on_status(lambda status: told.clear())
        end()
        # The first step is to be heard too, and a callback hears of what comes after it was registered.
        begin.go()
        eventually_sync(lambda: told)
        assert client.get("a") == 1
        gone.go()
        eventually_sync(lambda: len(told) == 2)
        assert client.get("a") == 1
        back.go()
        eventually_sync(lambda: len(told) == 3)
        assert client.get("a") == 1
        assert [(one.state, one.source) for one in told] == [("live", "live"), ("stale", "memory"), ("live", "live")]
        assert told[1].last_error
        assert threads == {"configsvc-callbacks"}
        assert client.status.reads == {"live": 2, "memory": 1, "disk": 0, "default": 0}
        eventually_sync(
            lambda: {m.name: m for m in client.metrics()}["configsvc_client_callback_errors_total"].value == 3
        )
    said = [record.getMessage() for record in caplog.records if record.levelno in (logging.INFO, logging.WARNING)]
    assert len([one for one in said if one.startswith("values are stale, proved 0.")]) == 1
    assert len([one for one in said if "live again" in one]) == 1


async def test_a_service_that_says_that_it_is_stale_is_heard_on_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    go, back = Wait(), Wait()
    steps = [snapshot({"a": 1}, 1), go, status(1, "stale"), back, Beat(status(1))]
    async with Service(steps).run() as service:
        with caplog.at_level(logging.INFO, "configsvc_client"):
            async with AsyncConfigClient(service.url, **OPTIONS) as client:
                told: list[str] = []

                async def heard(status: ClientStatus) -> None:
                    await asyncio.sleep(0)
                    told.append(status.state)

                client.on_status(heard)
                await client.wait_ready(10)
                go.go()
                await eventually(lambda: told == ["live", "stale"])
                back.go()
                await eventually(lambda: told == ["live", "stale", "live"])
    said = [record.getMessage() for record in caplog.records]
    assert len([one for one in said if "values are live again" in one]) == 1
    assert told == ["live", "stale", "live"]


def test_a_defect_is_told_as_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, go = Wait(), Wait()
    with Service([begin, snapshot({"a": 1}, 1), go, status(1), HOLD]).run_in_thread() as service:
        client = ConfigClient(service.url, **OPTIONS)
        told: list[str] = []
        client.on_status(lambda status: told.append(status.state))
        begin.go()
        client.wait_ready(10)

        def broken(_: Link) -> None:
            raise AssertionError("a defect")

        monkeypatch.setattr(Link, "_log_return", broken)
        go.go()
        eventually_sync(lambda: told == ["live", "stale"])
        assert client.status.state == "stale"
        with pytest.raises(RuntimeError):
            client.close()


def test_metrics_are_the_table_and_prometheus_takes_them() -> None:
    with (
        Service([snapshot({"a": "x"}, 5), CUT], [status(7), HOLD]).run_in_thread() as service,
        ConfigClient(service.url, **OPTIONS) as client,
    ):
        eventually_sync(lambda: client.status.revision == 7 and client.status.state == "live")
        client.get("a")
        client.get_int("a", 1)
        samples = client.metrics()
        assert {sample.name for sample in samples} == set(TABLE)
        assert all(tuple(sample.labels) == TABLE[sample.name].labels for sample in samples)
        numbers = {
            (sample.name.removeprefix("configsvc_client_"), *sample.labels.values()): sample.value for sample in samples
        }
        assert numbers["reads_total", "live"] == numbers["reads_total", "default"] == 1
        assert numbers["invalid_values_total",] == numbers["changes_total",] == 1
        assert (numbers["connections_total",], numbers["failures_total", "ended"]) == (2, 1)
        assert (numbers["state", "live"], numbers["state", "stale"], numbers["transport", "stream"]) == (1, 0, 1)
        assert numbers["revision",] == 7
        assert numbers["proved_timestamp_seconds",] > 1.7e9
        registry = CollectorRegistry()
        registry.register(ClientCollector(client))
        text = generate_latest(registry).decode()
        assert 'configsvc_client_reads_total{source="live"} 1.0' in text
        named = CollectorRegistry()
        named.register(ClientCollector(one=client, other=client))
        text = generate_latest(named).decode()
        assert 'configsvc_client_reads_total{client="other",source="live"} 1.0' in text
        assert "# TYPE configsvc_client_revision gauge" in text
    for arguments in ((), (client,)):
        with pytest.raises(ValueError, match="one client, or several by name"):
            ClientCollector(*arguments, **({"one": client} if arguments else {}))
