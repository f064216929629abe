"""Clients that are not ours, each reading a scope into a transcript until its block ends.

`reader(url, path, transcript)` connects to `url + path` and connects again whenever the connection ends. A client that
knows how to do that by itself (EventSource) is left alone; for the others a loop sends the last id that they got.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn

import aiohttp
import httpx
import pytest
from httpx_sse import aconnect_sse
from playwright.async_api import Page, async_playwright

from tests.interop.transcript import Transcript

Reader = Callable[[str, str, Transcript], AbstractAsyncContextManager[None]]
NODE = Path(__file__).parent / "node"
PAUSE_S = 0.05
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def left_out(reason: str, *, required: bool) -> NoReturn:
    """Skip the test, or fail where it may not be left out."""
    if required and os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str) -> str:
    """The path of a program, without which the test is left out."""
    return shutil.which(name) or left_out(f"{name} is not installed", required=False)


@asynccontextmanager
async def background(work: Awaitable[None]) -> AsyncIterator[None]:
    """Run `work` while the block does; what goes wrong in it fails the block, at its end at the latest."""
    task = asyncio.ensure_future(work)
    watched = asyncio.current_task()
    task.add_done_callback(lambda done: None if done.cancelled() or not watched else watched.cancel())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# ---- clients that leave connecting again to their caller -------------------------------------------------------------


def parse_stream(data: bytes) -> tuple[list[tuple[str, str, str]], bytes]:
    """Whole events as (event, id, data), and what is left over: the grammar as far as the service uses it."""
    *blocks, rest = data.split(b"\n\n")
    events = []
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.decode("utf-8").split("\n"))
        events.append((fields["event"], fields.get("id", ""), fields["data"]))
    return events, rest


@asynccontextmanager
async def curl(url: str, path: str, transcript: Transcript) -> AsyncIterator[None]:
    """`curl -N`, started again with `-H Last-Event-ID`."""
    command = program("curl")

    async def once() -> None:
        header = ("-H", f"Last-Event-ID: {transcript.last_id}") if transcript.last_id else ()
        process = await asyncio.create_subprocess_exec(
            command, "--noproxy", "*", "-sN", *header, url + path, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout
        rest = b""
        try:
            while data := await process.stdout.read(2**16):
                events, rest = parse_stream(rest + data)
                for event in events:
                    transcript.add(*event)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async with background(again_and_again(once)):
        yield


@asynccontextmanager
async def httpx_sse(url: str, path: str, transcript: Transcript) -> AsyncIterator[None]:
    """`httpx-sse`, as its documentation has it."""

    async def once() -> None:
        headers = {"Last-Event-ID": transcript.last_id} if transcript.last_id else {}
        async with (
            httpx.AsyncClient(timeout=None, trust_env=False) as client,
            aconnect_sse(client, "GET", url + path, headers=headers) as source,
        ):
            async for event in source.aiter_sse():
                transcript.add(event.event, event.id, event.data)

    async with background(again_and_again(once)):
        yield


@asynccontextmanager
async def aiohttp_websocket(url: str, path: str, transcript: Transcript) -> AsyncIterator[None]:
    """aiohttp's WebSocket client."""

    async def once() -> None:
        query = {"last_event_id": transcript.last_id} if transcript.last_id else {}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url + path, params=query, max_msg_size=0) as socket,
        ):
            async for frame in socket:
                assert frame.type is aiohttp.WSMsgType.TEXT, frame
                message = json.loads(frame.data)
                transcript.add(message["event"], message["id"] or "", message["data"])

    async with background(again_and_again(once)):
        yield


async def again_and_again(once: Callable[[], Awaitable[None]]) -> None:
    """Connect for ever, whatever ends the connection."""
    while True:
        with suppress(OSError, aiohttp.ClientError, httpx.TransportError):
            await once()
        await asyncio.sleep(PAUSE_S)


# ---- clients that connect again by themselves ------------------------------------------------------------------------


@asynccontextmanager
async def node_eventsource(url: str, path: str, transcript: Transcript) -> AsyncIterator[None]:
    """The npm package `eventsource`."""
    node = program("node")
    if not (NODE / "node_modules" / "eventsource").is_dir():
        left_out("the npm package eventsource is not installed; run `npm ci` in tests/interop/node", required=True)
    process = await asyncio.create_subprocess_exec(
        node, str(NODE / "read.mjs"), url + path, stdout=asyncio.subprocess.PIPE, limit=2**24
    )
    output = process.stdout
    assert output

    async def read() -> None:
        while line := await output.readline():
            transcript.add(**json.loads(line))
        raise AssertionError(f"node ended with {await process.wait()}")

    try:
        async with background(read()):
            yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def page(url: str) -> AsyncIterator[Page]:
    """A page of the service's own origin in a browser: the service lets no other origin read."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        required = os.environ.get("CONFIGSVC_TEST_REQUIRE_BROWSER") == "1"
        left_out("no Chromium is installed; run tools/install-chromium", required=required)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(BROWSER_FLAGS))
        try:
            opened = await browser.new_page()
            await opened.goto(url + "/")
            yield opened
        finally:
            await browser.close()


EVENT_SOURCE = """
path => {
  window.source = new EventSource(path);
  for (const event of ["snapshot", "change", "status"])
    source.addEventListener(event, ({lastEventId, data}) => tell(event, lastEventId, data));
}
"""
WEB_SOCKET = """
path => {
  let last = "";
  const connect = () => {
    const socket = new WebSocket(path + (last && "?last_event_id=" + encodeURIComponent(last)));
    socket.onmessage = message => {
      const {event, id, data} = JSON.parse(message.data);
      last = id || last;
      tell(event, id || "", JSON.stringify(data));
    };
    socket.onclose = () => setTimeout(connect, 50);
  };
  connect();
}
"""


def in_a_page(script: str) -> Reader:
    """A reader that is a script in a page."""

    @asynccontextmanager
    async def read(url: str, path: str, transcript: Transcript) -> AsyncIterator[None]:
        async with page(url) as opened:
            wrong: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def tell(event: str, id: str, data: str) -> None:
                try:
                    transcript.add(event, id, data)
                except AssertionError as error:
                    if not wrong.done():
                        wrong.set_exception(error)

            await opened.expose_function("tell", tell)
            await opened.evaluate(script, path)
            async with background(wrong):
                yield

    return read


SSE_READERS: dict[str, Reader] = {
    "curl": curl,
    "httpx-sse": httpx_sse,
    "node-eventsource": node_eventsource,
    "browser-EventSource": in_a_page(EVENT_SOURCE),
}
WEBSOCKET_READERS: dict[str, Reader] = {
    "aiohttp": aiohttp_websocket,
    "browser-WebSocket": in_a_page(WEB_SOCKET),
}
