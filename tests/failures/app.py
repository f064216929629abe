"""An application as a process of its own: both clients, and what they were told, asked for by lines on stdin."""

import json
import logging
import sys
from typing import Any

from tests.client.support import eventually_sync
from tests.failures.world import KINDS, TUNING, Lines, Seat, running_loop


def main(heartbeat_s: str, namespace: str, environment: str, *urls: str) -> None:
    lines = Lines()
    logger = logging.getLogger("configsvc_client")
    logger.setLevel(logging.INFO)
    logger.addHandler(lines)
    scope: Any = {"namespace": namespace, "environment": environment}
    with running_loop() as loop:
        seats = [
            Seat(kind, loop, url, cache_dir="off", tuning=TUNING, heartbeat_s=float(heartbeat_s), **scope)
            for kind, url in zip(KINDS, urls, strict=True)
        ]
        for seat in seats:
            seat.start()
            eventually_sync(lambda seat=seat: seat.read() == 1 and seat.status() == ["live", "live"])
            seat.listen()
        lines.said.clear()
        for _ in sys.stdin:
            told = [[seat.status(), seat.read(), [one.new for one in seat.changes], seat.states] for seat in seats]
            print(json.dumps({"seats": told, "lines": lines.said}), flush=True)
        for seat in seats:
            seat.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
