"""A bare aiohttp application, on uvloop, that answers constants: what the framework alone costs.

{"port": 1, "answers": {"/path": {"status": 200, "headers": {…}, "body": base64}}}
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from aiohttp import web

from bench.load import answer, commands, unpacked


def constant(status: int, headers: dict[str, str], body: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers, body=body)

    return handle


async def serve(port: int, answers: dict[str, dict[str, Any]]) -> None:
    app = web.Application()
    for path, one in answers.items():
        app.router.add_get(path, constant(one["status"], one["headers"], unpacked(one["body"])))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    answer(ready=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    first = next(commands())
    uvloop.run(serve(first["port"], first["answers"]))
