"""`latency`, `busy` and `size`: what one change takes, what reads notice of it, and what it costs in a large scope."""

import base64
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from bench import store
from bench.harness import Measures, Series
from bench.processes import Child, Service, cpu_s, status_of, until
from bench.results import Goal, Reference, compare
from bench.rows import World
from bench.stats import figure, percentile
from configsvc.core.model import Scope
from configsvc.etcd.ops import prefix_end

OURS, WATCH = "callback of an app", "bare etcd watch"
IDLE, BUSY = "idle", "busy"
KEY = "database.pool_size"


def latency(world: World) -> None:
    """From a put that etcd has acknowledged to the callback of an application."""
    bench = world.bench
    scope, other = store.scope("bench-latency"), b"/bench-watch/"
    with ExitStack() as stack:
        etcd = stack.enter_context(store.etcd())
        connection = store.Connection(etcd.url)
        connection.fill(scope, [(name, n) for n, name in enumerate([*store.names(100), KEY])])
        service = stack.enter_context(Service(world.folder, etcd.url, scope))
        service.wait_ready()
        app = stack.enter_context(Child("client_app", world.folder))
        app.ask(url=service.url)
        watch = stack.enter_context(Child("bare_watch", world.folder))
        prefix = [base64.b64encode(one).decode() for one in (other, prefix_end(other))]
        watch.ask(port=etcd.members[0].ports[0], prefix=prefix[0], range_end=prefix[1])
        puts = {
            OURS: (app, lambda n: connection.put(scope, KEY, n)),
            WATCH: (watch, lambda n: connection.put_raw(other + b"key", store.stored(n))),
        }
        for reader, put in puts.values():
            _timed(reader, 50, bench.duration(1.0), put)
        for rate, full_s in ((10, 10.0), (500, 4.0)):
            bench.say(f"latency: {rate} changes/s")
            seconds = bench.duration(full_s)
            runs = {name: partial(_timed, reader, rate, seconds, put) for name, (reader, put) in puts.items()}
            _latency_lines(world, f"{rate} changes/s", bench.alternate(3, runs, warm_up=False))


def _latency_lines(world: World, case: str, series: Series) -> None:
    early = "a bare watch may have it before its put is acknowledged, so that there is no ratio to it"
    for share in ("median", "p99"):
        for since, goal, note in (("sent", Goal(2, "most"), ""), ("acknowledged", None, early)):
            measure = f"{since} {share}"
            reference = Reference(WATCH, figure(series.of(WATCH, measure)))
            title = f"put {since} → called, {share}"
            world.bench.add(compare("latency", case, title, "ms", series.of(OURS, measure), reference, goal, note))


def _timed(reader: Child, rate: float, seconds: float, put: Callable[[int], int]) -> Measures:
    """Put at a rate; how long after each put the reader had it, in ms."""
    sent: dict[int, tuple[int, int]] = {}

    def one(number: int) -> None:
        begun = time.monotonic_ns()
        revision = put(number)
        sent[revision] = (begun, time.monotonic_ns())

    store.paced(rate, seconds, one)
    seen: dict[int, int] = {}

    def all_seen() -> bool:
        seen.update((revision, at) for revision, at in reader.ask(collected=True)["seen"])
        return sent.keys() <= seen.keys()

    until("the reader has all changes", all_seen)
    since_sent = [(seen[revision] - begun) / 1e6 for revision, (begun, _) in sent.items()]
    since_acknowledged = [(seen[revision] - done) / 1e6 for revision, (_, done) in sent.items()]
    return {
        "sent median": percentile(since_sent, 0.5),
        "sent p99": percentile(since_sent, 0.99),
        "acknowledged median": percentile(since_acknowledged, 0.5),
        "acknowledged p99": percentile(since_acknowledged, 0.99),
    }


READS_S, CHANGES_S, RECONNECTS_S, SCRAPES_S = 200, 20, 20, 1
"""How many a second while reads are timed."""


def busy(world: World) -> None:
    """p99 of reads while changes, reconnects and scrapes go on, against idle."""
    bench = world.bench
    seconds = bench.duration(6.0)
    subscribers = bench.count(200, least=5)
    scope = store.scope("bench-busy")
    path = f"/v1/config/{scope}/{KEY}"
    bench.say("busy")
    with ExitStack() as stack:
        etcd = stack.enter_context(store.etcd())
        connection = store.Connection(etcd.url)
        connection.fill(scope, [(name, n) for n, name in enumerate([*store.names(1000), KEY])])
        service = stack.enter_context(Service(world.folder, etcd.url, scope))
        service.wait_ready()
        reader = stack.enter_context(Child("reader", world.folder))
        crowd = stack.enter_context(Child("subscribers", world.folder))
        crowd.ask(connect=subscribers, port=service.port, path=f"/v1/watch/{scope}")

        def read() -> Measures:
            seen = reader.ask(port=service.port, path=path, rate=READS_S, seconds=seconds)
            return {"p99": seen["p99_us"] / 1000, "errors": seen["errors"]}

        def disturbed() -> Measures:
            crowd.tell(churn=RECONNECTS_S, seconds=seconds)
            work: list[tuple[float, Callable[[int], object]]] = [
                (CHANGES_S, lambda n: connection.put(scope, KEY, n)),
                (SCRAPES_S, lambda n: status_of(service.url + "/metrics")),
            ]
            threads = [threading.Thread(target=store.paced, args=(rate, seconds, do)) for rate, do in work]
            for thread in threads:
                thread.start()
            seen = read()
            for thread in threads:
                thread.join()
            crowd.answer()
            return seen

        series = bench.alternate(5, {IDLE: read, BUSY: disturbed})
    case = f"{subscribers} subscribers, {CHANGES_S} changes, {RECONNECTS_S} reconnects, {SCRAPES_S} scrape a second"
    rounds = series.of(BUSY, "p99")
    bench.add(
        compare(
            "busy", case, "read p99", "ms", rounds, Reference(IDLE, figure(series.of(IDLE, "p99"))), Goal(3, "most")
        ),
        compare("busy", case, "read p99", "ms", rounds, None, Goal(100, "most", "value")),
        compare("busy", case, "failed reads", "count", series.of(BUSY, "errors"), None, Goal(0, "most", "value")),
    )


SIZES = (100, 10_000, 100_000)
RATE = 100


def size(world: World) -> None:
    """CPU time of one change, in service and client, by the size of the scope."""
    bench = world.bench
    changes = bench.count(200, least=20)
    sizes = [SIZES[0], *(max(2 * SIZES[0], bench.count(one)) for one in SIZES[1:])]
    with ExitStack() as stack:
        etcd = stack.enter_context(store.etcd())
        connection = store.Connection(etcd.url)
        subjects = {}
        for count in sizes:
            bench.say(f"size: {count:,} keys")
            scope = store.scope(f"bench-size-{count}")
            connection.fill(scope, ((name, n) for n, name in enumerate([*store.names(count - 1), KEY])))
            service = stack.enter_context(Service(world.folder, etcd.url, scope))
            service.wait_ready()
            app = stack.enter_context(Child("client_app", world.folder))
            app.ask(url=service.url)
            subjects[f"{count:,} keys"] = _cost(connection, scope, service, app, changes)
        bench.say("size: changes")
        series = bench.alternate(5, subjects)
    smallest = next(iter(subjects))
    for name in list(subjects)[1:]:
        for who in ("service", "client"):
            reference = Reference(smallest, figure(series.of(smallest, who)))
            title = f"CPU time per change, {who}"
            bench.add(compare("size", name, title, "us", series.of(name, who), reference, Goal(1.5, "most")))


def _cost(
    connection: store.Connection, scope: Scope, service: Service, app: Child, changes: int
) -> Callable[[], Measures]:
    number = 0

    def put(_: int) -> None:
        nonlocal number
        number += 1
        connection.put(scope, KEY, number)

    def measure() -> Measures:
        expected = app.ask(calls=True)["calls"] + changes
        before = cpu_s(service.pid), cpu_s(app.pid)
        store.paced(RATE, changes / RATE, put)
        until("the client has all changes", lambda: app.ask(calls=True)["calls"] >= expected)
        after = cpu_s(service.pid), cpu_s(app.pid)
        return {
            "service": (after[0] - before[0]) / changes * 1e6,
            "client": (after[1] - before[1]) / changes * 1e6,
        }

    return measure
