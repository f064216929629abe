"""`reads` and `scope`: GET over kept connections beside nginx, a bare aiohttp application and etcd's gateway."""

import base64
import functools
import http.client
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import msgspec

from bench import references, store
from bench.harness import Series
from bench.http_load import Load, Request
from bench.load import packed
from bench.processes import SERVICE_CORE, BenchError, Child, Service, free_port
from bench.references import Answer, Nginx
from bench.results import Goal, Reference, Unit, compare
from bench.rows import World
from bench.stats import figure
from configsvc.core.model import Scope, entry_path

OURS, NGINX, BARE, ETCD = "configsvc", "nginx", "bare aiohttp", "etcd's gateway"
MEASURES: dict[str, tuple[str, Unit]] = {
    "rate": ("requests", "requests/s"),
    "p99_ms": ("p99", "ms"),
    "cpu_us": ("CPU time per request", "us"),
}
SPEED = {NGINX: 0.6, BARE: 2.0, ETCD: 5.0}
"""How many times as fast as each reference: that many requests, or a time of no more than one by so many."""
KEY, LARGE_KEY = "database.pool_size", "database.hosts"
"""An integer, and a value of 4 KiB: below 1 KiB the service compresses nothing."""
SKIPPED = {"date", "server", "content-length", "connection"}
"""Headers that each server makes itself."""


class Case(msgspec.Struct, frozen=True):
    """One kind of request. What else one needs (a token, say) is a header of one more case."""

    name: str
    path: str
    headers: dict[str, str] = {}
    conditional: bool = False
    """Whether it asks if its ETag still holds, so that the answer is a 304."""
    beside: tuple[str, ...] = (NGINX,)


class Asked(msgspec.Struct, frozen=True):
    """A case as it is sent, and what the service answers: that is what the references repeat."""

    case: Case
    request: Request
    status: int
    headers: dict[str, str]
    body: bytes


class Subject(msgspec.Struct, frozen=True):
    """A server that is measured, or why it is not there."""

    pid: int = 0
    request: Request | None = None
    why: str = ""


def read_key(world: World) -> None:
    """GET one key: plain, compressed, and 304."""
    scope = store.scope("bench-reads")
    base = f"/v1/config/{scope}"
    hosts = [{"host": f"db-{n}.example.com", "weight": n * 7 % 10, "zone": "abc"[n % 3]} for n in range(80)]
    values: dict[str, Any] = {name: n for n, name in enumerate(store.names(100))}
    cases = [
        Case("one key", f"{base}/{KEY}", beside=(NGINX, BARE, ETCD)),
        Case("one key, gzip", f"{base}/{LARGE_KEY}", {"Accept-Encoding": "gzip"}, beside=(NGINX, BARE)),
        Case("one key, 304", f"{base}/{KEY}", conditional=True, beside=(NGINX, BARE)),
    ]
    _measure(world, "reads", scope, {**values, KEY: 20, LARGE_KEY: hosts}, cases)


def read_scope(world: World) -> None:
    """GET a scope of 1,000 keys."""
    scope = store.scope("bench-scope")
    values = {name: f"value of {name}, as long as they are" for name in store.names(1000)}
    path = f"/v1/config/{scope}"
    cases = [Case("1,000 keys", path), Case("1,000 keys, gzip", path, {"Accept-Encoding": "gzip"})]
    _measure(world, "scope", scope, values, cases)


def _measure(world: World, row: str, scope: Scope, values: Mapping[str, Any], cases: list[Case]) -> None:
    bench = world.bench
    with ExitStack() as stack:
        etcd = stack.enter_context(store.etcd())
        store.Connection(etcd.url).fill(scope, values.items())
        service = stack.enter_context(Service(world.folder, etcd.url, scope))
        service.wait_ready()
        load = Load(world.folder)
        if load.missing:
            bench.leave_out("requests/s of reads", load.missing)
        asked = [_asked(service.url, case) for case in cases]
        beside = _references(world, stack, scope, asked)
        for number, one in enumerate(asked):
            bench.say(f"{row}: {one.case.name}")
            subjects = {OURS: Subject(service.pid, one.request)}
            subjects |= {name: beside[name, number] for name in one.case.beside}
            runs = {
                name: functools.partial(_measured, load, subject.pid, subject.request, bench.duration(2.0))
                for name, subject in subjects.items()
                if subject.request
            }
            _lines(world, row, one, bench.alternate(5, runs), subjects)


def _measured(load: Load, pid: int, request: Request, seconds: float) -> dict[str, float]:
    return load.measure(pid, request, seconds) | load.time(request, seconds / 2)


def _asked(url: str, case: Case) -> Asked:
    headers = dict(case.headers)
    if case.conditional:
        headers["If-None-Match"] = _ask(url + case.path, headers)[1]["ETag"]
    status, seen, body = _ask(url + case.path, headers)
    coding = seen.get("Content-Encoding", "")
    if status != (304 if case.conditional else 200) or coding != headers.get("Accept-Encoding", ""):
        raise BenchError(f"{case.name}: answered {status} with coding {coding!r}")
    return Asked(case, Request(url=url + case.path, headers=headers), status, seen, body)


def _ask(url: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
    address, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=30)
    # No `Accept-Encoding: identity` of its own.
    connection.putrequest("GET", "/" + path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.headers.items()), body


# ---- references -----------------------------------------------------------------------------------------------------


def _references(world: World, stack: ExitStack, scope: Scope, asked: list[Asked]) -> dict[tuple[str, int], Subject]:
    """The references by name and number of the case."""
    wanted = {name for one in asked for name in one.case.beside}
    found: dict[tuple[str, int], Subject] = {}
    start = {NGINX: _nginx, BARE: _bare}
    for name in sorted(wanted & start.keys()):
        pid, url, why = start[name](world, stack, asked)
        if why:
            world.bench.leave_out(name, why)
        for number, one in enumerate(asked):
            request = None if why else Request(url=f"{url}/{number}", headers=one.request.headers)
            found[name, number] = Subject(pid, request, why)
    if ETCD in wanted:
        subject = _etcd(stack, scope)
        found |= {(ETCD, number): subject for number in range(len(asked))}
    return found


def _nginx(world: World, stack: ExitStack, asked: list[Asked]) -> tuple[int, str, str]:
    if why := references.missing("nginx"):
        return 0, "", why
    answers = [_constant(number, one) for number, one in enumerate(asked)]
    nginx = stack.enter_context(Nginx(world.folder / "nginx", free_port(), answers))
    return nginx.pid, nginx.url, ""


def _constant(number: int, one: Asked) -> Answer:
    """As large as the service's body; no header beyond nginx's own but what says how to read the body."""
    coding = one.headers.get("Content-Encoding")
    body = one.body
    if coding and len(body) <= references.MAX_CONSTANT_BYTES:
        # A configuration is text, and nobody unpacks what is answered here.
        body = b"x" * len(body)
    return Answer(f"/{number}", body, status=one.status, headers={"Content-Encoding": coding} if coding else {})


def _bare(world: World, stack: ExitStack, asked: list[Asked]) -> tuple[int, str, str]:
    port = free_port()
    app = stack.enter_context(Child("bare_app", world.folder, cores=(SERVICE_CORE,)))
    answers = {}
    for number, one in enumerate(asked):
        headers = {name: value for name, value in one.headers.items() if name.lower() not in SKIPPED}
        answers[f"/{number}"] = {"status": one.status, "headers": headers, "body": packed(one.body)}
    app.ask(port=port, answers=answers)
    return app.pid, f"http://127.0.0.1:{port}", ""


def _etcd(stack: ExitStack, scope: Scope) -> Subject:
    """Another etcd, on the service's core, with the same key."""
    member = stack.enter_context(store.etcd(SERVICE_CORE))
    path = entry_path(scope, KEY)
    store.Connection(member.url).put_raw(path, store.stored(20))
    # Serializable: as stale as our reads may be, and less work for etcd than a linearizable one.
    body = json.dumps({"key": base64.b64encode(path).decode(), "serializable": True})
    process = member.members[0].process
    assert process
    return Subject(process.pid, Request(url=f"{member.url}/v3/kv/range", body=body))


# ---- lines ----------------------------------------------------------------------------------------------------------


def _lines(world: World, row: str, one: Asked, series: Series, subjects: Mapping[str, Subject]) -> None:
    size = f"a body of {len(one.body):,} bytes" if one.body else "no body"
    for measure, (title, unit) in MEASURES.items():
        if not series.has(OURS, measure):
            continue
        note = f"{size}; {busy(series, [OURS, *one.case.beside])}" if measure == "rate" else ""
        for name in one.case.beside:
            is_there = series.has(name, measure)
            seen = figure(series.of(name, measure)) if is_there else None
            speed = SPEED[name]
            goal = Goal(speed, "least") if measure == "rate" else Goal(round(1 / speed, 3), "most")
            reference = Reference(name, seen, subjects[name].why)
            ours = series.of(OURS, measure)
            world.bench.add(compare(row, one.case.name, title, unit, ours, reference, goal, note))


def busy(series: Series, names: Iterable[str]) -> str:
    """How much of its core each server had work for. Below nearly all, the load was the limit, and not the server."""
    shares = []
    for name in names:
        if series.has(name, "rate"):
            pairs = zip(series.of(name, "rate"), series.of(name, "cpu_us"), strict=True)
            shares.append(f"{name} {figure([rate * cpu / 1e6 for rate, cpu in pairs]).median:.0%}")
    return f"its core was busy: {', '.join(shares)}"
