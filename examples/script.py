"""A plain script that follows its configuration while it runs.

    pip install configsvc
    python script.py

The client is made where the program starts and closed by `with` where it ends.
"""

import contextlib
import time

from configsvc_client import ConfigChange, ConfigClient


def on_change(change: ConfigChange) -> None:
    print(f"{change.key}: {change.old} -> {change.new}", flush=True)


with contextlib.suppress(KeyboardInterrupt), ConfigClient() as config:
    config.on_change(on_change)
    while True:
        print("page size", config.get_int("page.size", default=20, min_val=1, max_val=100), flush=True)
        time.sleep(config.get_float("pause_s", default=1.0, min_val=0.05))
