"""Flask with gunicorn: one client at module level, as Flask's extensions are.

    pip install configsvc flask gunicorn
    gunicorn --preload --workers 2 flask_app:app

Then `curl http://127.0.0.1:8000/`. With `--preload` the client is made once in gunicorn's parent process and goes on by
itself in each worker; without, each worker makes its own. Both need nothing more than this. A change is then logged by
the parent too: callbacks run in every process that has a client.
"""

import logging
import os

from flask import Flask

from configsvc_client import ConfigChange, ConfigClient

logging.basicConfig(level=logging.INFO)
logger = logging.getLogger(__name__)


def on_change(change: ConfigChange) -> None:
    logger.info("%s: %s -> %s", change.key, change.old, change.new)


config = ConfigClient()
config.on_change(on_change)

app = Flask(__name__)


@app.get("/")
def index() -> dict[str, int]:
    return {"page_size": config.get_int("page.size", default=20, min_val=1, max_val=100), "pid": os.getpid()}
