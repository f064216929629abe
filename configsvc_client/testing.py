"""For an application's own tests: clients that need no service, and a small service that needs no etcd.

`StaticConfig` is a `ConfigClient`, and `AsyncStaticConfig` an `AsyncConfigClient`, whose values a test sets; reads,
errors, callbacks and counters are the real ones. `ConfigServer` speaks HTTP on a port of its own, so that a whole
application can be tested with the real client, also in another process.

    def test_page_size() -> None:
        config = StaticConfig({"page.size": 5})
        assert page(config) == 5
"""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import msgspec
from aiohttp import web

from configsvc_client import protocol, sse
from configsvc_client.aio import AsyncConfigClient, Calling, calling
from configsvc_client.client import ConfigClient
from configsvc_client.options import resolve
from configsvc_client.protocol import Baseline, Delta, Status
from configsvc_client.sample_scope import SampleScope
from configsvc_client.state import ClientState
from configsvc_client.worker import Worker

__all__ = ["AsyncStaticConfig", "ConfigServer", "StaticConfig"]

_NOWHERE = "http://static.invalid"


class _Fed:
    """A client's state, fed by hand instead of by a link."""

    def __init__(self, state: ClientState, values: Mapping[str, Any]) -> None:
        session = state.session
        assert session.namespace is not None
        assert session.environment is not None
        self.state = state
        self.source = SampleScope(values, session.namespace, session.environment)
        # A client may be used from any thread, and so may this.
        self._lock = threading.Lock()
        session.opened(time.monotonic(), staleness_s=0)
        self._receive(protocol.SNAPSHOT, self.source.state.baseline())

    def change(self, values: Mapping[str, Any], deleted: Iterable[str] = ()) -> None:
        with self._lock:
            self._receive(protocol.CHANGE, self.source.change(values, deleted))

    def say(self, state: str) -> None:
        with self._lock:
            self._receive(protocol.STATUS, self.source.status(state))

    def _receive(self, event: str, message: Baseline | Delta | Status) -> None:
        session = self.state.session
        received = sse.Event(event=event, data=protocol.encode(message), id=self.source.id)
        outcome = session.receive(received, time.monotonic())
        if outcome.snapshot is not None:
            self.state.take(outcome.snapshot)
        self.state.observe()


def _state(namespace: str, environment: str) -> ClientState:
    options = resolve({}, url=_NOWHERE, namespace=namespace, environment=environment, cache_dir="off")
    return ClientState(options, lambda: None)


class _NoWorker(Worker):
    """The threads of a client that has none."""

    def __init__(self, state: ClientState) -> None:
        self.state = state
        self._renew()
        self.let_go()

    def start(self) -> None:
        """There is nothing to start."""

    def awake(self) -> None:
        """Nor to wake, in a child either."""

    def need_callbacks(self) -> None:
        """Callbacks are called by whoever changes a value."""


class StaticConfig(ConfigClient):
    """A `ConfigClient` without a service: a test sets its values, and it is `live` unless told otherwise.

    `set`, `delete` and `update` return when every callback has been called, in order and on the thread that calls them;
    other threads that change it wait until then. An error in one is logged, as ever; what is no `Exception`, as
    `pytest.fail` raises it, comes out here. Values are JSON values; anything else is a `TypeError` or `ValueError`.
    """

    def __init__(
        self, values: Mapping[str, Any] | None = None, *, namespace: str = "test", environment: str = "test"
    ) -> None:
        """Hold these values. Environment variables are not looked at."""
        self._state = _state(namespace, environment)
        self._worker = _NoWorker(self._state)
        self._wait_until = None
        self._warned = False
        # A callback may change values too.
        self._turn = threading.RLock()
        self._fed = _Fed(self._state, values or {})

    def __repr__(self) -> str:
        return f"<StaticConfig {len(self._fed.source.state.entries)} values>"

    def set(self, key: str, value: Any) -> None:
        """Set one value."""
        self.update({key: value})

    def delete(self, key: str) -> None:
        """Delete a key; raises `KeyError` where it is not there."""
        self.update({}, [key])

    def update(self, values: Mapping[str, Any], deleted: Iterable[str] = ()) -> None:
        """Set and delete several keys in one step: no reader sees some of it."""
        self._call_back(lambda: self._fed.change(values, deleted))

    def go_stale(self) -> None:
        """As if the service had lost etcd: reads go on, `status` says `stale`."""
        self._call_back(lambda: self._fed.say("stale"))

    def go_live(self) -> None:
        """The end of that."""
        self._call_back(lambda: self._fed.say("live"))

    def _call_back(self, step: Callable[[], None]) -> None:
        with self._turn:
            step()
            for callback, told in self._state.callbacks.take():
                if self._state.is_closed:
                    return
                try:
                    callback(told)
                except Exception:
                    self._state.callbacks.failed(callback, told)


class AsyncStaticConfig(AsyncConfigClient):
    """The same for asyncio: what changes values is awaited, and callbacks may be coroutine functions."""

    def __init__(
        self, values: Mapping[str, Any] | None = None, *, namespace: str = "test", environment: str = "test"
    ) -> None:
        """Hold these values. Environment variables are not looked at."""
        self._state = _state(namespace, environment)
        self._wait_until = None
        self._renew()
        self._turns: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._fed = _Fed(self._state, values or {})

    def __repr__(self) -> str:
        return f"<AsyncStaticConfig {len(self._fed.source.state.entries)} values>"

    async def set(self, key: str, value: Any) -> None:
        """Set one value."""
        await self.update({key: value})

    async def delete(self, key: str) -> None:
        """Delete a key; raises `KeyError` where it is not there."""
        await self.update({}, [key])

    async def update(self, values: Mapping[str, Any], deleted: Iterable[str] = ()) -> None:
        """Set and delete several keys in one step: no reader sees some of it."""
        await self._deliver(lambda: self._fed.change(values, deleted))

    async def go_stale(self) -> None:
        """As if the service had lost etcd: reads go on, `status` says `stale`."""
        await self._deliver(lambda: self._fed.say("stale"))

    async def go_live(self) -> None:
        """The end of that."""
        await self._deliver(lambda: self._fed.say("live"))

    def _start(self) -> None:
        """There is nothing to start."""

    async def _deliver(self, step: Callable[[], None]) -> None:
        async with self._turn():
            step()
            for callback, told in self._state.callbacks.take():
                if self._state.is_closed:
                    return
                try:
                    with Calling(self._run):
                        result = callback(told)
                        if inspect.isawaitable(result):
                            await result
                except Exception:
                    self._state.callbacks.failed(callback, told)

    def _turn(self) -> asyncio.Lock:
        """Whose turn it is to call callbacks. One of them may change values too: within its own turn."""
        if (call := calling(self._run)) is not None:
            return call.turn
        loop = asyncio.get_running_loop()
        if self._turns is None or self._turns[0] is not loop:
            self._turns = loop, asyncio.Lock()
        return self._turns[1]


class ConfigServer:
    """A service of one scope on a free port of loopback, in a thread of its own; etcd is not needed.

    It speaks what the client speaks: `/v1/self`, the stream, and the read that clients poll with. May be changed and
    broken from any thread while it runs.

        with ConfigServer({"page.size": 5}) as server, ConfigClient(server.url) as config:
            server.set("page.size", 6)
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        namespace: str = "test",
        environment: str = "test",
        heartbeat_s: float = 1.0,
    ) -> None:
        """Hold these values; `start` or `with` begins to serve them."""
        self._source = SampleScope(values or {}, namespace, environment)
        self._heartbeat_s = heartbeat_s
        self._steps: list[tuple[int, bytes]] = []
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None
        self._wakes: set[asyncio.Event] = set()
        self._thawed: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Where it listens; the same after `stop` and `start`."""
        if not self._port:
            raise RuntimeError("the server was never started")
        return f"http://127.0.0.1:{self._port}"

    # ---- from any thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen, again on the same port after `stop`."""
        if self._loop is not None:
            return
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="configsvc-server", daemon=True)
        self._thread.start()
        try:
            self._call(self._listen())
        except BaseException:
            # The port may be another's by now.
            self.stop()
            raise

    def stop(self) -> None:
        """Drop every connection and refuse new ones; what was set is kept."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._call(self._end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._loop = self._thread = None

    def set(self, key: str, value: Any) -> None:
        """Set one value; readers hear of it at once."""
        self.update({key: value})

    def delete(self, key: str) -> None:
        """Delete a key; raises `KeyError` where it is not there."""
        self.update({}, [key])

    def update(self, values: Mapping[str, Any], deleted: Iterable[str] = ()) -> None:
        """Set and delete several keys in one step; also while it is stopped or frozen."""
        gone = list(deleted)
        if self._loop is None:
            self._change(values, gone)
        else:
            self._call(self._changed(values, gone))

    def freeze(self) -> None:
        """Say nothing any more: connections stay open and silent, new ones get no answer."""
        self._call(self._freeze(True))

    def thaw(self) -> None:
        """The end of that."""
        self._call(self._freeze(False))

    def __enter__(self) -> "ConfigServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _call(self, coroutine: Any) -> None:
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("the server is not running")
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # ---- on its loop --------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        self._thawed = asyncio.Event()
        self._thawed.set()
        app = web.Application()
        app.router.add_get("/v1/self", self._self)
        app.router.add_get("/v1/watch/{namespace}/{environment}", self._watch)
        app.router.add_get("/v1/config/{namespace}/{environment}", self._read)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]

    async def _end(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _freeze(self, frozen: bool) -> None:
        assert self._thawed is not None
        if frozen:
            self._thawed.clear()
        else:
            self._thawed.set()

    async def _changed(self, values: Mapping[str, Any], deleted: list[str]) -> None:
        self._change(values, deleted)
        for wake in self._wakes:
            wake.set()

    def _change(self, values: Mapping[str, Any], deleted: list[str]) -> None:
        delta = self._source.change(values, deleted)
        self._steps.append((delta.revision, sse.encode(protocol.CHANGE, protocol.encode(delta), self._source.id)))

    async def _may_answer(self) -> None:
        assert self._thawed is not None
        await self._thawed.wait()

    def _is_ours(self, request: web.Request) -> bool:
        asked = request.match_info["namespace"], request.match_info["environment"]
        return asked == (self._source.state.namespace, self._source.state.environment)

    async def _self(self, _: web.Request) -> web.Response:
        await self._may_answer()
        source = self._source
        said = {"service": "configsvc", "namespace": source.state.namespace, "environment": source.state.environment}
        return web.json_response(said)

    async def _read(self, request: web.Request) -> web.Response:
        await self._may_answer()
        source = self._source
        if not self._is_ours(request):
            return _problem(
                404, "scope_not_found", f"this server has {source.state.namespace}/{source.state.environment} only"
            )
        headers = {
            "ETag": f'"{source.id}"',
            "Configsvc-Revision": str(source.state.revision),
            "Configsvc-Source": "live",
            "Configsvc-Staleness": "0",
        }
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        baseline = source.state.baseline()
        body = protocol.encode(baseline)
        if request.query.get("view") != "entries":
            said = msgspec.json.decode(body)
            entries = said.pop("entries")
            body = msgspec.json.encode({**said, "values": {key: entry["value"] for key, entry in entries.items()}})
        return web.Response(body=body, headers=headers, content_type="application/json")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        await self._may_answer()
        if not self._is_ours(request):
            return _problem(403, "outside_sidecar", "this server has another scope only")
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "Configsvc-Staleness": "0"}
        response = web.StreamResponse(headers=headers)
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            await response.prepare(request)
            at = await self._begin(request, response)
            while True:
                try:
                    async with asyncio.timeout(self._heartbeat_s):
                        await wake.wait()
                except TimeoutError:
                    await self._may_answer()
                    await response.write(self._source.heartbeat(at))
                    continue
                wake.clear()
                await self._may_answer()
                at = await self._send_since(at, response)
        except ConnectionError:
            return response
        finally:
            self._wakes.discard(wake)

    async def _begin(self, request: web.Request, response: web.StreamResponse) -> int:
        """What a reader gets first: what it missed, or everything."""
        source = self._source
        last = protocol.parse_event_id(request.headers.get("Last-Event-ID"))
        if last is not None and last.epoch == source.state.epoch and last.revision <= source.state.revision:
            at = await self._send_since(last.revision, response)
        else:
            at = source.state.revision
            await response.write(sse.encode(protocol.SNAPSHOT, protocol.encode(source.state.baseline()), source.id))
        await response.write(source.heartbeat(at))
        return at

    async def _send_since(self, revision: int, response: web.StreamResponse) -> int:
        missed = [step for step in self._steps if step[0] > revision]
        if not missed:
            return revision
        await response.write(b"".join(frame for _, frame in missed))
        return missed[-1][0]


def _problem(status: int, code: str, detail: str) -> web.Response:
    body = msgspec.json.encode({"status": status, "code": code, "detail": detail})
    return web.Response(status=status, body=body, content_type="application/problem+json")
