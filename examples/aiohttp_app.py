"""aiohttp: one client per application, opened and closed by a cleanup context.

    pip install configsvc
    python aiohttp_app.py

Then `curl http://127.0.0.1:8000/` (`PORT` chooses another port).
"""

import logging
import os
from collections.abc import AsyncIterator

from aiohttp import web

from configsvc_client import AsyncConfigClient

logger = logging.getLogger(__name__)
CONFIG = web.AppKey("config", AsyncConfigClient)


async def live_config(app: web.Application) -> AsyncIterator[None]:
    async with AsyncConfigClient() as app[CONFIG]:
        app[CONFIG].on_change(lambda change: logger.info("%s: %s -> %s", change.key, change.old, change.new))
        yield


async def index(request: web.Request) -> web.Response:
    page_size = await request.app[CONFIG].get_int("page.size", default=20, min_val=1, max_val=100)
    return web.json_response({"page_size": page_size})


def create_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(live_config)
    app.router.add_get("/", index)
    return app


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    web.run_app(create_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
