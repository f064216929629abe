"""FastAPI: one client per process, opened and closed by the application's lifespan.

    pip install configsvc fastapi uvicorn
    uvicorn fastapi_app:app

Then `curl http://127.0.0.1:8000/`. Several workers (`--workers 4`) have a client each.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from configsvc_client import AsyncConfigClient, ConfigChange

logger = logging.getLogger("uvicorn.error")


async def on_change(change: ConfigChange) -> None:
    logger.info("%s: %s -> %s", change.key, change.old, change.new)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, AsyncConfigClient]]:
    async with AsyncConfigClient() as config:
        config.on_change(on_change)
        yield {"config": config}


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def index(request: Request) -> dict[str, int]:
    return {"page_size": await request.state.config.get_int("page.size", default=20, min_val=1, max_val=100)}
