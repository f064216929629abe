"""A bare watch on etcd: one blocking connection to the gateway's /v3/watch, whose lines are decoded and timed.

It keeps nothing, checks nothing and calls nobody: the least that any reader of the gateway's JSON has to do.

    {"port": 1, "prefix": base64, "range_end": base64}
    {"collected": true}      answers and forgets [[revision, nanoseconds of the monotonic clock], …]
"""

import http.client
import json
import threading
import time
from typing import Any

import msgspec

from bench.load import answer, commands


class Kv(msgspec.Struct):
    mod_revision: str


class Event(msgspec.Struct):
    kv: Kv


class Response(msgspec.Struct):
    created: bool = False
    events: tuple[Event, ...] = ()


class Line(msgspec.Struct):
    result: Response


def watch(first: dict[str, Any], seen: list[tuple[int, int]]) -> None:
    decode = msgspec.json.Decoder(Line).decode
    connection = http.client.HTTPConnection("127.0.0.1", first["port"])
    create = {"key": first["prefix"], "range_end": first["range_end"]}
    connection.request("POST", "/v3/watch", json.dumps({"create_request": create}))
    lines = connection.getresponse()
    # `readline` waits for a full line, not for a full buffer.
    while line := lines.readline():
        now = time.monotonic_ns()
        response = decode(line).result
        if response.created:
            answer(ready=True)
        seen.extend((int(event.kv.mod_revision), now) for event in response.events)


if __name__ == "__main__":
    every = commands()
    seen: list[tuple[int, int]] = []
    threading.Thread(target=watch, args=(next(every), seen), daemon=True).start()
    for _ in every:
        taken, seen[:] = list(seen), []
        answer(seen=taken)
