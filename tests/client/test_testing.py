"""What applications test with: it answers as the real client does."""

import asyncio
import http.client
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc_client import MISSING, ClientStatus, ConfigChange, ConfigClient, ConfigKeyError, ConfigValueError
from configsvc_client.testing import AsyncStaticConfig, ConfigServer, StaticConfig
from tests.client.support import FAST, PATIENT, eventually_sync

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no UTF-8, and so no JSON.
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=5,
)
SCOPES = st.dictionaries(st.sampled_from(["a", "b", "a.b", "a.c"]), VALUES, max_size=4)


class Pool(msgspec.Struct):
    b: int
    c: str = "c"


READS = {
    "get": lambda config: config.get("a"),
    "get with default": lambda config: config.get("a", default=7),
    "get_all": lambda config: config.get_all(),
    "get_str": lambda config: config.get_str("a"),
    "get_int": lambda config: config.get_int("a", 3, min_val=1, max_val=5),
    "get_float": lambda config: config.get_float("b", min_val=0),
    "get_bool": lambda config: config.get_bool("b", None),
    "get_json": lambda config: config.get_json("a.b", type=list[int]),
    "as_struct": lambda config: config.as_struct(Pool, "a"),
}


def read(config: ConfigClient) -> dict[str, Any]:
    """What each read answers or raises, types included."""
    answers = {}
    for name, ask in READS.items():
        try:
            answers[name] = repr(ask(config))
        except (ConfigKeyError, ConfigValueError) as error:
            answers[name] = f"{type(error).__name__}: {error}"
    return answers


@settings(max_examples=40, deadline=None)
@given(first=SCOPES, second=SCOPES)
def test_a_static_config_answers_as_the_real_client_does(first: dict[str, Any], second: dict[str, Any]) -> None:
    with (
        StaticConfig(first) as static,
        ConfigServer(first) as server,
        ConfigClient(server.url, tuning=FAST, cache_dir="off", **PATIENT) as real,
    ):
        told: tuple[list[ConfigChange], list[ConfigChange]] = ([], [])
        real.wait_ready(20)
        static.on_change(told[0].append)
        real.on_change(told[1].append)
        assert read(static) == read(real)
        deleted = [key for key in first if key not in second]
        static.update(second, deleted)
        server.update(second, deleted)
        eventually_sync(lambda: real.status.revision == static.status.revision)
        assert read(static) == read(real)
        eventually_sync(lambda: len(told[1]) >= len(told[0]))
        assert repr(told[0]) == repr(told[1])
        assert (static.status.state, static.status.source) == (real.status.state, real.status.source)


def nested(levels: int) -> Any:
    """So many lists in one another."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_as_deep_as_a_service_takes_it() -> None:
    assert StaticConfig({"a": nested(100)}).get("a") == nested(100)


def test_callbacks_have_been_called_when_a_change_returns() -> None:
    config = StaticConfig({"a": 1})
    seen: list[Any] = []

    def broken(_: ConfigChange) -> None:
        raise RuntimeError("from the application")

    config.on_change(broken)
    end = config.on_change(lambda change: seen.append((change.key, change.old, change.new)), key="a")
    config.set("a", 2)
    config.set("b", 2)
    config.delete("a")
    assert seen == [("a", 1, 2), ("a", 2, MISSING)]
    end()
    config.set("a", 3)
    assert len(seen) == 2
    assert config.get("a") == 3


def test_an_iterator_has_what_came_since_it_was_made() -> None:
    config = StaticConfig()
    with config.changes() as changes:
        config.set("a", 1)
        assert next(changes).new == 1
        config.close()
        assert list(changes) == []


def test_stale_and_live_again() -> None:
    config = StaticConfig({"a": 1})
    told: list[ClientStatus] = []
    config.on_status(told.append)
    config.go_stale()
    assert (config.status.state, config.status.source, config.get("a")) == ("stale", "memory", 1)
    config.go_live()
    assert [status.state for status in told] == ["stale", "live"]
    config.close()
    assert config.status.state == "closed"
    assert config.get("a") == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((1, 2), "a: tuple is no JSON value"),
        ({"x": [{1}]}, r"a.x\[0\]: set is no JSON value"),
        ({1: 2}, "a: an object's keys are strings"),
        (float("nan"), "a: JSON has no nan"),
        (2**64, "more than 64 bits"),
        ({"x": "\ud800"}, "a.x.*no UTF-8"),
        ({"\udfff": 1}, "no UTF-8"),
        (nested(101), "nested deeper than 100"),
    ],
)
def test_what_json_cannot_hold_is_refused_and_nothing_changes(value: Any, said: str) -> None:
    config = StaticConfig({"b": 1})
    with pytest.raises((TypeError, ValueError), match=said):
        config.update({"c": 1, "a": value})
    assert config.get_all() == {"b": 1}
    with pytest.raises(KeyError):
        config.delete("a")
    with pytest.raises((TypeError, ValueError), match=said):
        StaticConfig({"a": value})
    with pytest.raises(ValueError, match="'b' is set and deleted in one step"):
        config.update({"b": 2}, ["b"])
    config.set("b", 2)
    assert config.get_all() == {"b": 2}


def test_several_threads_may_change_it() -> None:
    config, seen = StaticConfig({"a": -1}), []
    with config.changes("a") as changes, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: config.set("a", n), range(200)))
        seen = [change.new for _, change in zip(range(200), changes, strict=False)]
    assert sorted(seen) == list(range(200))
    assert config.get("a") == seen[-1]


def test_threads_that_change_it_take_turns_and_each_returns_after_its_callbacks() -> None:
    config, running, seen, late = StaticConfig({"a": -1}), [], [], []

    def callback(change: ConfigChange) -> None:
        running.append(threading.get_ident())
        time.sleep(0.001)
        assert len(running) == 1
        seen.append((running.pop(), change.new))

    def change_it(number: int) -> None:
        config.set("a", number)
        if (threading.get_ident(), number) not in seen:
            late.append(number)

    config.on_change(callback)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change_it, range(100)))
    assert (len(seen), late) == (100, [])


def test_a_callback_may_change_it_and_all_hear_in_order() -> None:
    config, heard = StaticConfig({"a": 0}), []

    def count_on(change: ConfigChange) -> None:
        if change.new < 5:
            config.set("a", change.new + 1)

    config.on_change(count_on)
    config.on_change(lambda change: heard.append((change.old, change.new)))
    config.set("a", 1)
    assert heard == [(number, number + 1) for number in range(5)]


def test_after_its_end_nothing_is_called() -> None:
    config, heard = StaticConfig({"a": 0}), []
    config.on_change(heard.append)
    config.on_status(heard.append)
    config.close()
    config.set("a", 1)
    config.go_stale()
    assert heard == []


async def test_tasks_that_change_the_asyncio_one_take_turns_too() -> None:
    config, running, heard = AsyncStaticConfig({"a": 0}), [], []

    async def callback(change: ConfigChange) -> None:
        running.append(change.new)
        await asyncio.sleep(0)
        assert running == [change.new]
        heard.append(running.pop())

    async def change_it(number: int) -> None:
        await config.set("a", number)
        assert number in heard

    config.on_change(callback)
    await asyncio.wait_for(asyncio.gather(*map(change_it, range(1, 20))), 20)
    assert sorted(heard) == list(range(1, 20))
    await config.close()
    await config.set("a", 50)
    assert 50 not in heard


async def test_a_callback_may_change_the_asyncio_one_also_in_tasks() -> None:
    config, heard = AsyncStaticConfig({"a": 0}), []

    async def callback(change: ConfigChange) -> None:
        heard.append(change.key)
        if change.key == "a":
            await asyncio.gather(config.set("b", 1), config.set("c", 1))

    config.on_change(callback)
    await asyncio.wait_for(config.set("a", 1), 20)
    assert heard == ["a", "b", "c"]


def test_what_goes_in_and_comes_out_are_copies() -> None:
    mine = {"x": [1]}
    config = StaticConfig({"a": mine})
    mine["x"].append(2)
    config.get("a")["x"].append(3)
    assert config.get("a") == {"x": [1]}


async def test_the_same_for_asyncio() -> None:
    async with AsyncStaticConfig({"a": 1}) as config:
        seen: list[Any] = []

        async def callback(change: ConfigChange) -> None:
            await asyncio.sleep(0)
            seen.append((change.new, await config.get("a")))

        config.on_change(callback)
        await config.wait_ready(1)
        await config.set("a", 2)
        assert seen == [(2, 2)]
        assert await config.get_int("a", min_val=1) == 2
        await config.go_stale()
        assert config.status.state == "stale"
        await config.go_live()
        await config.delete("a")
        with pytest.raises(KeyError):
            await config.get("a")
        assert config.status.state == "live"


def test_a_server_that_stops_and_starts_keeps_its_port_and_readers_resume() -> None:
    with ConfigServer({"a": 1}) as server, ConfigClient(server.url, tuning=FAST, cache_dir="off", **PATIENT) as config:
        assert config.get("a") == 1
        url = server.url
        server.stop()
        server.set("a", 2)
        assert config.get("a") == 1
        server.start()
        assert server.url == url
        eventually_sync(lambda: config.get("a") == 2 and config.status.state == "live")


def address(server: ConfigServer) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port)


def test_a_frozen_server_is_silence() -> None:
    with (
        ConfigServer({"a": 1}, heartbeat_s=0.1) as server,
        ConfigClient(server.url, tuning=FAST, cache_dir="off", heartbeat_s=0.3, **PATIENT) as config,
    ):
        assert config.get("a") == 1
        server.freeze()
        eventually_sync(lambda: config.status.state == "stale")
        server.set("a", 2)
        assert config.get("a") == 1
        server.thaw()
        eventually_sync(lambda: config.get("a") == 2 and config.status.state == "live")


def test_a_client_that_goes_while_its_stream_is_opened_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    with ConfigServer({"a": "x" * 100_000}) as server:
        port = int(server.url.rpartition(":")[2])
        for _ in range(300):
            with socket.create_connection(("127.0.0.1", port)) as one:
                # Its end is a reset, which the server sees at once.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.sendall(b"GET /v1/watch/test/test HTTP/1.1\r\nHost: x\r\n\r\n")
        with ConfigClient(server.url, tuning=FAST, **PATIENT) as config:
            assert len(config.get("a")) == 100_000
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_thawed_server_never_tells_of_a_revision_before_its_change() -> None:
    with ConfigServer({"a": 0}, heartbeat_s=0.01) as server, socket.create_connection(address(server)) as reader:
        reader.settimeout(20)
        reader.sendall(b"GET /v1/watch/test/test HTTP/1.1\r\nHost: test\r\n\r\n")
        stream = reader.makefile("rb")
        for n in range(1, 6):
            server.freeze()
            # Until a heartbeat is held back; where it takes longer the test shows less, and passes.
            time.sleep(0.03)
            server.set("a", n)
            server.thaw()
        sent, held = 0, 0
        while sent < 6:
            name, _, text = stream.readline().decode().strip().partition(": ")
            if name == "id":
                held = int(text.partition(":")[2])
            elif name == "event" and text != "status":
                sent = held
            elif name == "event":
                assert held <= sent


def ask(url: str, **headers: str) -> http.client.HTTPResponse:
    """One GET on a connection of its own, errors included."""
    host, path = url.removeprefix("http://").split("/", 1)
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("GET", f"/{path}", headers={name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def first_events(url: str, n: int, **headers: str) -> list[tuple[str, Any]]:
    """The first events of a stream: name and data."""
    found: list[tuple[str, Any]] = []
    name = ""
    with ask(url, **headers) as stream:
        while len(found) < n:
            field, _, text = stream.readline().decode().strip().partition(": ")
            if field == "event":
                name = text
            elif field == "data":
                found.append((name, msgspec.json.decode(text)))
    return found


def test_a_reader_resumes_with_what_it_missed_or_else_gets_everything() -> None:
    with ConfigServer({"a": 0}) as server:
        watch = f"{server.url}/v1/watch/test/test"
        (_, start), _ = first_events(watch, 2)
        server.set("a", 1)
        server.update({"b": 2}, ["a"])
        missed = first_events(watch, 3, Last_Event_ID=f"{start['epoch']}:{start['revision']}")
        assert [name for name, _ in missed] == ["change", "change", "status"]
        assert [(sorted(data.get("set", {})), data["deleted"]) for _, data in missed[:2]] == [
            (["a"], []),
            (["b"], ["a"]),
        ]
        newest = missed[1][1]["revision"]
        assert [name for name, _ in first_events(watch, 1, Last_Event_ID=f"{start['epoch']}:{newest}")] == ["status"]
        # Of another history, of the future, of no sense.
        for strange in (f"{'0' * 12}:{newest}", f"{start['epoch']}:{newest + 1}", "x"):
            (name, data), (_, status) = first_events(watch, 2, Last_Event_ID=strange)
            assert (name, sorted(data["entries"]), status["state"]) == ("snapshot", ["b"], "live")


def test_the_read_that_clients_poll_with() -> None:
    with ConfigServer({"a": 1}) as server:
        read_url = f"{server.url}/v1/config/test/test"
        with ask(f"{read_url}?view=entries") as answer:
            tag = answer.headers["ETag"]
            assert msgspec.json.decode(answer.read())["entries"]["a"]["value"] == 1
        with ask(read_url) as answer:
            assert msgspec.json.decode(answer.read())["values"] == {"a": 1}
        with ask(read_url, If_None_Match=tag) as answer:
            assert (answer.status, answer.read()) == (304, b"")
        server.set("a", 2)
        with ask(read_url, If_None_Match=tag) as answer:
            assert (answer.status, msgspec.json.decode(answer.read())["values"]) == (200, {"a": 2})
        with ask(f"{server.url}/v1/config/other/test") as answer:
            assert answer.status == 404


def test_its_metrics_are_those_of_the_real_client() -> None:
    with ConfigServer({"a": 1}) as server, ConfigClient(server.url, tuning=FAST, cache_dir="off", **PATIENT) as real:
        static = StaticConfig({"a": 1})
        for config in (static, real):
            config.wait_ready(20)
            config.get("a")
            config.get_str("a", None)
        named = [
            {(one.name, tuple(sorted(one.labels.items()))) for one in config.metrics()} for config in (static, real)
        ]
        assert {name for name, _ in named[0]} == {name for name, _ in named[1]}
        assert static.status.reads == real.status.reads
        assert static.status.invalid_values == real.status.invalid_values == 1


def test_a_port_that_was_taken_meanwhile_is_an_error_and_leaves_nothing_running() -> None:
    server = ConfigServer()
    server.start()
    host, port = address(server)
    server.stop()
    with socket.create_server((host, port)), pytest.raises(OSError):
        server.start()
    assert "configsvc-server" not in {thread.name for thread in threading.enumerate()}
    with server:
        assert server.url.endswith(f":{port}")


def test_a_server_that_does_not_run_says_so() -> None:
    server = ConfigServer()
    with pytest.raises(RuntimeError, match="never started"):
        _ = server.url
    with pytest.raises(RuntimeError, match="not running"):
        server.freeze()
    server.stop()
