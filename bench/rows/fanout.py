"""`fanout` and `reconnect`: many streams on one process."""

import resource
import signal
import socket
import time
from contextlib import ExitStack
from typing import Any

from bench import store
from bench.harness import Measures
from bench.load import packed
from bench.processes import SERVICE_CORE, BenchError, Child, Service, free_port, peak_mib, rss_mib
from bench.results import Goal, Reference, Unit, compare
from bench.rows import World
from bench.stats import figure
from configsvc.core.model import Scope

OURS, BARE = "configsvc", "bare event loop"
AT_ONCE, ONE_BY_ONE = "at once", "one by one"
KEY = "database.pool_size"
SPARE_FILES = 200
HEARTBEAT_S = "60"
"""Longer than a round: a heartbeat in the middle of a change is another fan-out."""


def fan_out(world: World) -> None:
    """The time until the last of many subscribers has a change, and the memory for each."""
    for full in (1000, 5000, 9000):
        count = world.bench.count(full, least=10)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if most != resource.RLIM_INFINITY and most < count + SPARE_FILES:
            world.bench.leave_out(
                f"fanout: {count:,} subscribers", f"a process may open {most:,} files here (ulimit -Hn)"
            )
        else:
            _fan_out(world, count)


def _fan_out(world: World, count: int) -> None:
    bench = world.bench
    bench.say(f"fanout: {count:,} subscribers")
    scope = store.scope("bench-fanout")
    with ExitStack() as stack:
        etcd = stack.enter_context(store.etcd())
        connection = store.Connection(etcd.url)
        connection.fill(scope, [(name, n) for n, name in enumerate([*store.names(20), KEY])])
        service = stack.enter_context(
            Service(world.folder, etcd.url, scope, settings={"CONFIGSVC_HEARTBEAT_S": HEARTBEAT_S})
        )
        service.wait_ready()
        wire = stack.enter_context(Wire(service.port, _path(scope)))
        greeting = wire.until(b"event: snapshot")
        bare, bare_port = stack.enter_context(Child("bare_fanout", world.folder, cores=(SERVICE_CORE,))), free_port()
        bare.ask(port=bare_port, greeting=packed(greeting))
        ours, others = (stack.enter_context(Child("subscribers", world.folder)) for _ in range(2))
        ours_mib, bare_mib = rss_mib(service.pid), rss_mib(bare.pid)
        ours.ask(connect=count, port=service.port, path=_path(scope))
        others.ask(connect=count, port=bare_port, path="/")
        each_kib = (rss_mib(service.pid) - ours_mib) * 1024 / count
        bare_kib = (rss_mib(bare.pid) - bare_mib) * 1024 / count
        number = 0
        written = b""

        def change() -> Measures:
            nonlocal number, written
            number += 1
            marker = f"change-{number:06d}"
            ours.ask(expect=marker)
            begun = time.monotonic_ns()
            connection.put(scope, KEY, marker)
            acknowledged = time.monotonic_ns()
            seen = ours.answer()
            written = wire.until(marker.encode())
            return {"ms": (seen["last_ns"] - begun) / 1e6, "put_ms": (acknowledged - begun) / 1e6}

        def write() -> Measures:
            marker = f"change-{number:06d}"
            others.ask(expect=marker)
            begun = time.monotonic_ns()
            bare.tell(write=packed(written))
            return {"ms": (others.answer()["last_ns"] - begun) / 1e6}

        series = bench.alternate(15, {OURS: change, BARE: write})
    case = f"{count:,} subscribers"
    put_ms = figure(series.of(OURS, "put_ms")).median
    reference = Reference(BARE, figure(series.of(BARE, "ms")))
    note = f"{len(written)} bytes each; from when the put is sent, {put_ms:.1f} ms of it until etcd acknowledges"
    bench.add(
        compare(
            "fanout", case, "until the last has it", "ms", series.of(OURS, "ms"), reference, Goal(1.5, "most"), note
        ),
        compare(
            "fanout",
            case,
            "memory each",
            "KiB",
            [each_kib],
            Reference(BARE, figure([max(bare_kib, 0.1)])),
            Goal(20, "most", "value"),
            "resident, in the process",
        ),
    )


def reconnect(world: World) -> None:
    """2,000 subscribers of a scope of 1 MB come back at once after a restart; beside it, one by one."""
    bench = world.bench
    count = bench.count(2000, least=10)
    scope = store.scope("bench-reconnect")
    values = [(name, f"{n:04d}" * 225) for n, name in enumerate(store.names(1000))]
    bench.say(f"reconnect: {count:,} subscribers")
    with ExitStack() as stack:
        etcd = stack.enter_context(store.etcd())
        connection = store.Connection(etcd.url)
        connection.fill(scope, values)
        number = 0

        def change() -> None:
            nonlocal number
            number += 1
            connection.put(scope, KEY, number)

        def at_once() -> Measures:
            with ExitStack() as both:
                crowd = both.enter_context(Child("subscribers", world.folder))
                first = Service(world.folder, etcd.url, scope)
                with first:
                    first.wait_ready()
                    crowd.ask(connect=count, port=first.port, path=_path(scope))
                    crowd.ask(again=True)
                    first.stop(signal.SIGKILL)
                # Without a change all would be told that they have everything.
                change()
                begun = time.monotonic_ns()
                second = both.enter_context(Service(world.folder, etcd.url, scope, port=first.port))
                return _seen(crowd.answer(), begun, second)

        def one_by_one() -> Measures:
            with Service(world.folder, etcd.url, scope) as service, Child("subscribers", world.folder) as crowd:
                begun = time.monotonic_ns()
                service.wait_ready()
                return _seen(
                    crowd.ask(connect=count, port=service.port, path=_path(scope), in_flight=1), begun, service
                )

        series = bench.alternate(3, {AT_ONCE: at_once, ONE_BY_ONE: one_by_one}, warm_up=False)
    case = f"{count:,} subscribers, 1 MB"
    lines: tuple[tuple[str, Unit, Goal], ...] = (
        ("time until all are live", "s", Goal(10, "most", "value")),
        ("peak memory", "MiB", Goal(1.25, "most")),
        ("answers 5xx", "count", Goal(0, "most", "value")),
    )
    for measure, unit, goal in lines:
        reference = Reference(ONE_BY_ONE, figure(series.of(ONE_BY_ONE, measure)))
        note = "from the start of the new process; all get the whole scope" if unit == "s" else ""
        bench.add(compare("reconnect", case, measure, unit, series.of(AT_ONCE, measure), reference, goal, note))


def _seen(live: dict[str, Any], begun: int, service: Service) -> Measures:
    errors = sum(many for status, many in live["statuses"].items() if status.startswith("5"))
    return {
        "time until all are live": (live["last_ns"] - begun) / 1e9,
        "peak memory": peak_mib(service.pid),
        "answers 5xx": errors,
    }


def _path(scope: Scope) -> str:
    return f"/v1/watch/{scope}"


class Wire:
    """One more subscriber, that keeps the bytes as they came."""

    def __init__(self, port: int, path: str) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._sock.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n".encode())
        self._data = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *error: object) -> None:
        self._sock.close()

    def until(self, text: bytes) -> bytes:
        """What came since the last time, to the end of the event (and of the chunk) that has `text` in it."""

        def end() -> int:
            at = self._data.find(text)
            at = self._data.find(b"\n\n", at) if at >= 0 else -1
            return self._data.find(b"\r\n", at) + 2 if at >= 0 and self._data.find(b"\r\n", at) >= 0 else 0

        while not end():
            piece = self._sock.recv(1 << 16)
            if not piece:
                raise BenchError("the stream has ended")
            self._data += piece
        taken, self._data = self._data[: end()], self._data[end() :]
        return taken
