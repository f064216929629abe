"""Celery: one client at module level; each process of the pool goes on with it by itself.

    pip install configsvc celery
    celery -A celery_app worker --concurrency 2 -l info
    python -c 'from celery_app import page; print(page.delay().get(timeout=10))'

The broker here is a folder, so that the example needs no server; put your own in its place.
"""

import os
from pathlib import Path

from celery import Celery
from celery.utils.log import get_task_logger

from configsvc_client import ConfigChange, ConfigClient

logger = get_task_logger(__name__)
folder = Path(os.environ.get("QUEUE_DIR", "queue")).absolute()
for name in ("messages", "control", "results"):
    (folder / name).mkdir(parents=True, exist_ok=True)

app = Celery("celery_app", broker="filesystem://", backend=f"file://{folder / 'results'}")
app.conf.broker_transport_options = {
    "data_folder_in": str(folder / "messages"),
    "data_folder_out": str(folder / "messages"),
    "control_folder": str(folder / "control"),
    "polling_interval": 0.1,
}


def on_change(change: ConfigChange) -> None:
    logger.info("%s: %s -> %s", change.key, change.old, change.new)


config = ConfigClient()
config.on_change(on_change)


@app.task
def page() -> dict[str, int]:
    return {"page_size": config.get_int("page.size", default=20, min_val=1, max_val=100), "pid": os.getpid()}
