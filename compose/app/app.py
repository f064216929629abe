"""The smallest application that follows its configuration: it says what it reads, and each change as it comes."""

import signal
import threading

from config_service import ConfigClient

stop = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stop.set())

# No address, no name: the client finds http://config-service:8080 and asks it whose configuration this is.
with ConfigClient() as config:
    config.on_change(lambda change: print(f"{change.key}: {change.old} -> {change.new}", flush=True))
    print("greeting is", config.get("greeting", default="not set"), flush=True)
    print("debug is", config.get_bool("debug", default=False), flush=True)
    stop.wait()
