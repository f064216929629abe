"""`client` and `imports`: what the library costs an application, and a command its user."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from bench import store
from bench.harness import Measures, Series
from bench.processes import LOAD_CORE, BenchError, Child, Service, environ, on_cores
from bench.results import Goal, Reference, compare
from bench.rows import World
from bench.stats import figure

KEY = "database.pool_size"
READS = {"get": ("client.get", 3.0), "get_int": ("client.get_int", 5.0), "aget": ("await aclient.get", 3.0)}


def reads(world: World) -> None:
    """Reads of the client, live, beside a look-up in a dictionary."""
    bench = world.bench
    bench.say("client")
    scope = store.scope("bench-client")
    with ExitStack() as stack:
        etcd = stack.enter_context(store.etcd())
        store.Connection(etcd.url).fill(scope, [(name, n) for n, name in enumerate([*store.names(100), KEY])])
        service = stack.enter_context(Service(world.folder, etcd.url, scope))
        service.wait_ready()
        app = stack.enter_context(Child("client_app", world.folder))
        app.ask(url=service.url)
        times = bench.count(200_000, least=1000)
        series = Series()
        app.ask(read=KEY, times=times)
        for _ in range(bench.rounds(15)):
            series.add("ns", app.ask(read=KEY, times=times))
    item = figure(series.of("ns", "dict[]")).median
    for name, (title, most) in READS.items():
        reference = Reference("values.get(key)", figure(series.of("ns", "dict.get")))
        note = f"per read, in the same bare loop, which is in both; values[key] takes {item:.0f} ns"
        bench.add(
            compare("client", "an integer", title, "ns", series.of("ns", name), reference, Goal(most, "most"), note)
        )


def imports(world: World) -> None:
    """Import time of the client, and the time that `configsvc --help` takes."""
    bench = world.bench
    bench.say("imports")
    client, aiohttp, help_, nothing = "configsvc_client", "aiohttp", "configsvc --help", "python -c ''"
    series = bench.alternate(
        15,
        {
            client: _import(world, client),
            aiohttp: _import(world, aiohttp),
            help_: _command(world, "-m", "configsvc", "--help"),
            nothing: _command(world, "-c", ""),
        },
    )
    bench.add(
        compare(
            "imports",
            "import configsvc_client",
            "time in a fresh process",
            "ms",
            series.of(client, "ms"),
            Reference("import aiohttp", figure(series.of(aiohttp, "ms"))),
            Goal(1.2, "most"),
            "without the start of Python",
        ),
        compare(
            "imports",
            help_,
            "time of the whole process",
            "ms",
            series.of(help_, "ms"),
            Reference(nothing, figure(series.of(nothing, "ms"))),
            Goal(150, "most", "difference"),
        ),
    )


def _run(world: World, *arguments: str) -> str:
    with on_cores(LOAD_CORE):
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environ(), cwd=world.folder, timeout=60
        )
    if done.returncode:
        raise BenchError(f"python {' '.join(arguments)} failed: {done.stderr[-1000:]}")
    return done.stdout


def _import(world: World, module: str) -> Callable[[], Measures]:
    code = f"from time import perf_counter as now; t = now(); import {module}; print((now() - t) * 1000)"
    return lambda: {"ms": float(_run(world, "-c", code))}


def _command(world: World, *arguments: str) -> Callable[[], Measures]:
    def measure() -> Measures:
        begun = time.perf_counter()
        _run(world, *arguments)
        return {"ms": (time.perf_counter() - begun) * 1000}

    return measure
