"""`writes`: what a release takes, of one key and of many, beside etcd's transactions with the same entries."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from bench import store
from bench.harness import Measures
from bench.processes import BenchError, Child, Service
from bench.results import Goal, Reference, compare
from bench.rows import World
from bench.stats import figure
from configsvc.core.model import Scope, head_path

OURS, BARE = "a release", "etcd transactions"
IDLE, APPLYING = "idle", "while it is applied"
KEYS = (1, 100, 10_000)
PER_TXN = 100


def writes(world: World) -> None:
    """Releases of 1, 100 and 10,000 keys, the window in which the largest is applied, and reads meanwhile."""
    bench = world.bench
    with ExitStack() as stack:
        # A write is done when it is on disk, for both.
        etcd = stack.enter_context(store.etcd(fsync=True))
        connection = store.Connection(etcd.url)
        for count in map(bench.count, KEYS):
            bench.say(f"writes: {count:,} keys")
            service, scope = _service(world, stack, etcd.url, count)
            release = _release(service, scope, store.names(count))
            subjects = {OURS: _timed(release), BARE: _timed(_bare(connection, count))}
            series = bench.alternate(9 if count < 1000 else 3, subjects)
            reference = Reference(BARE, figure(series.of(BARE, "ms")))
            bench.add(
                compare("writes", _case(count), "answered", "ms", series.of(OURS, "ms"), reference, Goal(2, "most"))
            )
        bench.say("writes: reads meanwhile")
        _meanwhile(world, stack, etcd.url, bench.count(KEYS[-1]))


def _case(count: int) -> str:
    return f"{count:,} keys" if count > 1 else "1 key"


def _service(world: World, stack: ExitStack, etcd_url: str, count: int) -> tuple[Service, Scope]:
    scope = store.scope(f"bench-writes-{count}")
    service = stack.enter_context(Service(world.folder, etcd_url, scope, settings={"CONFIGSVC_WRITES": "true"}))
    service.wait_ready()
    return service, scope


def _meanwhile(world: World, stack: ExitStack, etcd_url: str, count: int) -> None:
    """How long the apply window is open, and what reads notice of it."""
    bench, name = world.bench, _case(count)
    service, scope = _service(world, stack, etcd_url, count)
    release = _release(service, scope, store.names(count))
    release()
    reader = stack.enter_context(Child("reader", world.folder))
    path = f"/v1/config/{scope}/{store.names(1)[0]}"

    def read(seconds: float) -> Measures:
        seen = reader.ask(port=service.port, path=path, rate=200, seconds=seconds)
        return {"p99": seen["p99_us"] / 1000, "errors": seen["errors"]}

    def applying() -> Measures:
        reader.tell(port=service.port, path=path, rate=200, seconds=bench.duration(3.0))
        with _watched(etcd_url, scope) as window:
            release()
        seen = reader.answer()
        return {"p99": seen["p99_us"] / 1000, "errors": seen["errors"], "open": window.open_s * 1000}

    series = bench.alternate(3, {IDLE: lambda: read(bench.duration(3.0)), APPLYING: applying})
    reference = Reference(IDLE, figure(series.of(IDLE, "p99")))
    bench.add(
        compare("writes", name, "apply window open", "ms", series.of(APPLYING, "open"), None, None),
        compare("writes", name, "read p99 meanwhile", "ms", series.of(APPLYING, "p99"), reference, None),
        compare("writes", name, "failed reads", "count", series.of(APPLYING, "errors"), None, Goal(0, "most", "value")),
    )


def _release(service: Service, scope: Scope, keys: list[str]) -> Callable[[], None]:
    """A deploy that changes every key, over one connection, as etcd's transactions are."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
    number = 0

    def release() -> None:
        nonlocal number
        number += 1
        body = json.dumps({key: f"{number} {key}" for key in keys}).encode()
        connection.request("POST", f"/v1/deploy/{scope}?force=bench", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise BenchError(f"a deploy answered {answer.status}: {said[:500]!r}")

    return release


def _bare(connection: store.Connection, count: int) -> Callable[[], None]:
    """The same entries by transactions of 100, one after the other, under no compare."""
    scope, number = store.scope(f"bench-bare-{count}"), 0

    def put() -> None:
        nonlocal number
        number += 1
        connection.fill(scope, [(key, f"{number} {key}") for key in store.names(count)])

    return put


def _timed(do: Callable[[], None]) -> Callable[[], Measures]:
    def measure() -> Measures:
        begun = time.perf_counter()
        do()
        return {"ms": (time.perf_counter() - begun) * 1000}

    return measure


class _watched:  # noqa: N801  # reads as a statement
    """Looks at a scope's head while the block runs: for how long it said that a release is being applied."""

    def __init__(self, etcd_url: str, scope: Scope) -> None:
        self.open_s = 0.0
        self._ask = {"key": store.encoded(head_path(scope))}
        self._connection = store.Connection(etcd_url)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        first = last = None
        while not self._over.wait(0.002):
            kvs = self._connection.ask("/v3/kv/range", self._ask).get("kvs", [])
            if kvs and b'"applying"' in store.decoded(kvs[0]["value"]):
                first, last = first or time.perf_counter(), time.perf_counter()
        self.open_s = last - first if first and last else 0.0

    def __enter__(self) -> "_watched":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
