"""A service that plays what a test says: event streams with faults of every kind, on a free port.

Each connection to `/v1/watch/…` takes the next script (the last one again when they are used up). A script is a list of
steps; `record` keeps what clients sent.
"""

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Thread
from typing import Any

from aiohttp import web

from configsvc_client import Backoff, Tuning
from configsvc_client.protocol import Baseline, Delta, Entry, EventId, Status, encode
from configsvc_client.sse import encode as encode_sse

EPOCH = "0123456789ab"
OTHER_EPOCH = "ba9876543210"
NAMESPACE, ENVIRONMENT = "payments", "production"
SCOPE = {"namespace": NAMESPACE, "environment": ENVIRONMENT}
DEADLINE_S = 20.0

PATIENT: dict[str, Any] = {"start_timeout_s": DEADLINE_S}
FAST = Tuning(
    backoff=Backoff(base_s=0.01, cap_s=0.05),
    slow_backoff=Backoff(base_s=0.01, cap_s=0.05),
    connect_timeout_s=0.5,
    believe_after_s=0.2,
)
"""As patient as a test."""


def snapshot(
    values: dict[str, Any],
    revision: int = 1,
    *,
    epoch: str = EPOCH,
    proved: int | None = None,
    retry: int | None = None,
) -> bytes:
    """`event: snapshot`."""
    baseline = Baseline(
        **SCOPE, epoch=epoch, revision=revision, entries={key: Entry(value=value) for key, value in values.items()}
    )
    id = EventId(epoch, revision if proved is None else proved)
    return encode_sse("snapshot", encode(baseline), str(id), retry)


def change(
    revision: int, set: dict[str, Any] | None = None, deleted: tuple[str, ...] = (), epoch: str = EPOCH
) -> bytes:
    """`event: change`."""
    entries = {key: Entry(value=value) for key, value in (set or {}).items()}
    delta = Delta(revision=revision, set=entries, deleted=list(deleted))
    return encode_sse("change", encode(delta), str(EventId(epoch, revision)))


def status(
    revision: int,
    state: str = "live",
    *,
    with_id: bool = True,
    retry: int | None = None,
    epoch: str = EPOCH,
    staleness_s: float | None = None,
) -> bytes:
    """`event: status`."""
    data = encode(Status(revision=revision, state=state, since="2026-01-01T00:00:00Z", staleness_s=staleness_s))
    return encode_sse("status", data, str(EventId(epoch, revision)) if with_id else None, retry)


class Hold:
    """A step: keep the stream open and send nothing more."""


class Beat:
    """A step: send the bytes again and again, until the client goes or the test says so."""

    def __init__(self, data: bytes, every_s: float = 0.05, *, until: "Wait | None" = None) -> None:
        self.data = data
        self.every_s = every_s
        self.until = until or Wait()


class Cut:
    """A step: drop the connection in the middle of the body."""


class Wait:
    """A step: go on only when the test calls `go`, from whichever thread."""

    def __init__(self) -> None:
        self._may_go = False

    def go(self) -> None:
        self._may_go = True

    @property
    def may_go(self) -> bool:
        return self._may_go

    async def wait(self) -> None:
        while not self._may_go:
            await asyncio.sleep(0.005)


HOLD, CUT = Hold(), Cut()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Script = list[Any] | Handler


class Service:
    """One scripted service. `answers` holds what the next connections get."""

    def __init__(self, *scripts: Script, about: dict[str, Any] | None = None) -> None:
        self.scripts = list(scripts)
        self.about = {"service": "configsvc", **SCOPE} if about is None else about
        self.state: Handler = answer(503)
        """What a read of the scope is answered with."""
        self.polled_at: list[float] = []
        self.record: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    @property
    def watches(self) -> list[dict[str, str]]:
        """The headers of each request for the stream, in order."""
        return [headers for path, headers in self.record if path.startswith("/v1/watch/")]

    @property
    def polls(self) -> list[dict[str, str]]:
        """The headers of each read of the scope, in order."""
        return [headers for path, headers in self.record if path.startswith("/v1/config/")]

    @property
    def last_ids(self) -> list[str | None]:
        """From where each connection resumed."""
        return [headers.get("Last-Event-ID") for headers in self.watches]

    async def _self(self, request: web.Request) -> web.Response:
        self.record.append((request.raw_path, dict(request.headers)))
        return web.json_response(self.about)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        number = len(self.watches)
        self.record.append((request.raw_path, dict(request.headers)))
        if not self.scripts:
            return web.Response(status=503)
        script = self.scripts[min(number, len(self.scripts) - 1)]
        if callable(script):
            return await script(request)
        return await play(request, script)

    async def _read(self, request: web.Request) -> web.StreamResponse:
        self.record.append((request.raw_path, dict(request.headers)))
        self.polled_at.append(time.monotonic())
        return await self.state(request)

    @asynccontextmanager
    async def run(self, port: int = 0) -> AsyncIterator["Service"]:
        """Listen on a free port until the block ends; open streams are dropped then."""
        app = web.Application()
        app.router.add_get("/v1/self", self._self)
        app.router.add_get("/v1/watch/{namespace}/{environment}", self._watch)
        app.router.add_get("/v1/config/{namespace}/{environment}", self._read)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    @contextmanager
    def run_in_thread(self) -> Iterator["Service"]:
        """The same for tests without a loop."""
        loop = asyncio.new_event_loop()
        thread = Thread(target=loop.run_forever)
        thread.start()

        def call(coroutine: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result(DEADLINE_S)

        running = self.run()
        try:
            call(running.__aenter__())
            try:
                yield self
            finally:
                call(running.__aexit__(None, None, None))
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def play(request: web.Request, script: list[Any]) -> web.StreamResponse:
    """Send a stream step by step; its end is the stream's end.

    A `dict` at the beginning is more headers, in place of those of a service that is live.
    """
    said = {"Configsvc-Staleness": "0"}
    if script and isinstance(script[0], dict):
        said, *script = script
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache", **said})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for step in script:
            if isinstance(step, bytes):
                await response.write(step)
            elif isinstance(step, Wait):
                await step.wait()
            elif isinstance(step, Beat):
                while not step.until.may_go:
                    await response.write(step.data)
                    await asyncio.sleep(step.every_s)
            elif isinstance(step, Hold):
                await asyncio.Event().wait()
            elif isinstance(step, Cut):
                assert request.transport is not None
                request.transport.abort()
                return response
            else:
                await asyncio.sleep(step)
        await response.write_eof()
    return response


def answer(status: int, *, headers: dict[str, str] | None = None, body: Any = None) -> Handler:
    """A script that is one plain answer."""

    async def handle(_: web.Request) -> web.StreamResponse:
        text = json.dumps(body) if body is not None else ""
        return web.Response(status=status, text=text, headers=headers, content_type="application/problem+json")

    return handle


def state(
    values: dict[str, Any],
    revision: int = 1,
    *,
    epoch: str = EPOCH,
    proved: int | None = None,
    source: str = "live",
    staleness: str = "0",
    packed: bool = False,
) -> Handler:
    """What the service answers to a read of the whole scope, 304 included."""
    baseline = Baseline(
        **SCOPE, epoch=epoch, revision=revision, entries={key: Entry(value=value) for key, value in values.items()}
    )
    tag = f'"{epoch}:{revision}"'
    headers = {
        "ETag": f"W/{tag}" if packed else tag,
        "Configsvc-Revision": str(revision if proved is None else proved),
        "Configsvc-Source": source,
        "Configsvc-Staleness": staleness,
    }

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.query_string == "view=entries"
        if request.headers.get("If-None-Match") in (tag, f"W/{tag}"):
            return web.Response(status=304, headers=headers)
        body, more = encode(baseline), {}
        if packed:
            assert request.headers["Accept-Encoding"] == "gzip"
            body, more = gzip.compress(body), {"Content-Encoding": "gzip"}
        return web.Response(body=body, headers={**headers, **more}, content_type="application/json")

    return handle


async def never(_: web.Request) -> web.StreamResponse:
    """A script that is no answer at all."""
    await asyncio.Event().wait()
    raise AssertionError


async def eventually(condition: Callable[[], Any], why: str = "the condition did not come true") -> None:
    """Poll until a condition holds; fails after a deadline that proves nothing about speed."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, why
        await asyncio.sleep(0.005)


def eventually_sync(condition: Callable[[], Any], why: str = "the condition did not come true") -> None:
    """The same without a loop."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, why
        time.sleep(0.005)
