"""`start` and `workers`: how long a service takes until traffic may come, what it then holds, and a second process."""

import base64
import functools
import http.client
import json
import time
from contextlib import ExitStack

import msgspec

from bench import store
from bench.harness import Measures, Series
from bench.http_load import Load, Request
from bench.processes import CORES, LOAD_CORE, SERVICE_CORE, Service, rss_mib
from bench.results import Goal, Reference, Result, compare
from bench.rows import World
from bench.stats import figure
from configsvc.core.model import Scope
from configsvc.etcd.local import LocalEtcd
from configsvc.etcd.ops import prefix_end

SERVICE, LIST = "service", "etcd's list of the same keys"
KEY = "database.pool_size"
HOT = "hot reads"


def start(world: World) -> None:
    """From the start of the process to ready, and resident memory then."""
    for full in (1000, 100_000):
        _start(world, full, full if full == 1000 else world.bench.count(full, least=2000))


def _start(world: World, full: int, count: int) -> None:
    bench = world.bench
    bench.say(f"start: {count:,} keys")
    scope = store.scope("bench-start")
    with store.etcd() as etcd:
        store.Connection(etcd.url).fill(scope, ((name, n) for n, name in enumerate(store.names(count))))
        series = bench.alternate(
            5,
            {SERVICE: lambda: _to_ready(world, etcd, scope), LIST: lambda: _list(etcd, scope)},
        )
    case = f"{count:,} keys"
    listed = Reference(LIST, figure(series.of(LIST, "s")))
    read = Reference("the list's JSON", figure(series.of(LIST, "mib")))
    at_small = full == 1000
    bench.add(
        compare(
            "start",
            case,
            "start to ready",
            "s",
            series.of(SERVICE, "s"),
            listed,
            Goal(0.6, "most", "value") if at_small else Goal(2, "most"),
            "of the list: request sent to last byte read, by one range over the gateway",
        ),
        compare(
            "start",
            case,
            "resident memory",
            "MiB",
            series.of(SERVICE, "mib"),
            read,
            Goal(60, "most", "value") if at_small else None,
        ),
    )


def _to_ready(world: World, etcd: LocalEtcd, scope: Scope) -> Measures:
    begun = time.perf_counter()
    with Service(world.folder, etcd.url, scope) as service:
        service.wait_ready()
        return {"s": time.perf_counter() - begun, "mib": rss_mib(service.pid)}


def _list(etcd: LocalEtcd, scope: Scope) -> Measures:
    prefix = f"/config/{scope.namespace}/".encode()
    key, end = (base64.b64encode(one).decode() for one in (prefix, prefix_end(prefix)))
    connection = http.client.HTTPConnection("127.0.0.1", etcd.members[0].ports[0], timeout=60)
    begun = time.perf_counter()
    connection.request("POST", "/v3/kv/range", json.dumps({"key": key, "range_end": end}))
    size = len(connection.getresponse().read())
    taken = time.perf_counter() - begun
    connection.close()
    return {"s": taken, "mib": size / 2**20}


def workers(world: World) -> None:
    """Requests of two processes on one port beside one."""
    bench = world.bench
    if len(CORES) < 2:
        bench.leave_out("workers", "this machine has one core")
        return
    apart = len(CORES) >= 4
    load_cores = tuple(CORES[2:4]) if apart else tuple(CORES[:2])
    scope = store.scope("bench-workers")
    bench.say("workers")
    with ExitStack() as stack:
        etcd = stack.enter_context(store.etcd())
        store.Connection(etcd.url).fill(scope, [(name, n) for n, name in enumerate([*store.names(100), KEY])])
        load = Load(world.folder, connections=64, cores=load_cores)
        if load.missing:
            bench.leave_out("workers", f"its load needs wrk: {load.missing}")
            return
        services = {}
        for count, cores in ((1, (SERVICE_CORE,)), (2, (SERVICE_CORE, LOAD_CORE))):
            service = Service(
                world.folder / str(count), etcd.url, scope, cores=cores, settings={"CONFIGSVC_WORKERS": str(count)}
            )
            services[count] = stack.enter_context(service)
            service.wait_ready()
        for case, path, headers in (
            (HOT, f"/v1/config/{scope}/{KEY}", {}),
            ("not from the memo", f"/v1/config/{scope}/{KEY}", {"traceparent": f"00-{1:032x}-{1:016x}-01"}),
        ):
            runs = {
                str(count): functools.partial(
                    load.measure, service.pid, Request(url=service.url + path, headers=headers), bench.duration(2.0)
                )
                for count, service in services.items()
            }
            series = bench.alternate(3, runs)
            world.bench.add(*_worker_lines(world, case, series, apart=apart))


def _worker_lines(world: World, case: str, series: Series, *, apart: bool) -> list[Result]:
    one = {measure: Reference("one process", figure(series.of("1", measure))) for measure in ("rate", "cpu_us")}
    note = (
        "the load has cores of its own"
        if apart
        else "service and load share two cores; the less a request costs the load, the more it shows of the service"
    )
    title, rate = "requests of two processes", series.of("2", "rate")
    requests = compare("workers", case, title, "requests/s", rate, one["rate"], Goal(1.8, "least"), note)
    if case == HOT and not apart:
        why = "here the load takes as much of the two cores as the service; with four it has its own"
        world.bench.leave_out("workers: a verdict on hot reads", why)
        requests = msgspec.structs.replace(requests, verdict="left out")
    cost = compare("workers", case, "CPU time per request", "us", series.of("2", "cpu_us"), one["cpu_us"])
    return [requests, cost]
