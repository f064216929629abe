"""A gateway that plays recorded answers, for what a real etcd cannot be made to do when a test wants it."""

import asyncio
import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Answer:
    """One answer. `chunks` are written one by one; then the body ends, unless it hangs or is reset."""

    status: int = 200
    chunks: tuple[bytes, ...] = ()
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    delay_s: float = 0.0
    """Before anything is sent."""
    hang: bool = False
    """Never end: after the chunks, or before the head where there are none."""
    reset: bool = False
    """Cut the connection after the chunks, or before the head where there are none."""


def answer(value: Any, status: int = 200) -> Answer:
    """A whole JSON answer."""
    return Answer(status, (json.dumps(value).encode(),))


def text(body: str, status: int) -> Answer:
    """A whole answer that is no JSON."""
    return Answer(status, (body.encode(),), {"Content-Type": "text/plain; charset=utf-8"})


def lines(*values: Any, hang: bool = True, reset: bool = False) -> Answer:
    """A stream of JSON lines, one chunk each."""
    return Answer(chunks=tuple(json.dumps(value).encode() + b"\n" for value in values), hang=hang, reset=reset)


HEADER = {"cluster_id": "1", "member_id": "2", "revision": "7", "raft_term": "3"}
CREATED_LINE = {"result": {"header": HEADER, "created": True}}


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: Any


class ScriptedGateway:
    """An async context manager. `play` queues answers for a path; the last one of a path is repeated for ever."""

    def __init__(self) -> None:
        self._answers: dict[str, deque[Answer]] = defaultdict(deque)
        self.requests: list[Seen] = []
        self._runner: web.AppRunner | None = None
        self._closing = asyncio.Event()
        self.url = ""

    def play(self, path: str, *answers: Answer) -> None:
        """Forget what was queued for `path` and queue these."""
        self._answers[path] = deque(answers)

    def seen(self, path: str) -> list[Seen]:
        """The requests that came for `path`."""
        return [request for request in self.requests if request.path == path]

    async def __aenter__(self) -> "ScriptedGateway":
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        assert self._runner
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(Seen(request.path, dict(request.headers), json.loads(body) if body else None))
        queue = self._answers[request.path]
        if not queue:
            return web.Response(status=404, text="404 page not found\n")
        played = queue.popleft() if len(queue) > 1 else queue[0]
        if played.delay_s:
            await self._pause(played.delay_s)
        response = web.StreamResponse(status=played.status, headers=played.headers)
        if played.chunks or not (played.hang or played.reset):
            await response.prepare(request)
        for chunk in played.chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        if played.hang:
            await self._closing.wait()
        if (played.hang or played.reset) and request.transport:
            request.transport.abort()
        return response

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass
