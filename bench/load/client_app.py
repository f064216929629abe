"""An application with the client library: notes when its callback is called, and times reads.

{"url": "http://…"}                  connect; answers once there is a snapshot
{"collected": true}                  answers and forgets [[revision, nanoseconds of the monotonic clock], …]
{"calls": true}                      answers how many changes the callback has had
{"read": key, "times": n}            answers the nanoseconds per read, of each way to read
"""

import asyncio
import time
from collections.abc import Callable
from itertools import repeat

from bench.load import answer, commands
from configsvc_client import AsyncConfigClient, ConfigChange, ConfigClient


def main() -> None:
    every = commands()
    url = next(every)["url"]
    seen: list[tuple[int, int]] = []
    calls = 0

    def changed(change: ConfigChange) -> None:
        nonlocal calls
        seen.append((change.revision, time.monotonic_ns()))
        calls += 1

    with ConfigClient(url, cache_dir="off") as client:
        client.on_change(changed)
        client.wait_ready(60)
        answer(ready=True)
        for command in every:
            if "read" in command:
                answer(**times(client, url, command["read"], command["times"]))
            elif "calls" in command:
                answer(calls=calls)
            else:
                taken, seen[:] = list(seen), []
                answer(seen=taken)


def times(client: ConfigClient, url: str, key: str, number: int) -> dict[str, float]:
    """Nanoseconds per read, each in the same bare loop; the loop itself is in all of them."""
    values = dict(client.get_all())
    clock = time.perf_counter_ns

    def dict_get() -> None:
        get = values.get
        for _ in repeat(None, number):
            get(key)

    def dict_item() -> None:
        for _ in repeat(None, number):
            values[key]

    def client_get() -> None:
        for _ in repeat(None, number):
            client.get(key)

    def client_get_int() -> None:
        for _ in repeat(None, number):
            client.get_int(key)

    def timed(work: Callable[[], None]) -> float:
        begun = clock()
        work()
        return (clock() - begun) / number

    async def client_aget() -> float:
        async with AsyncConfigClient(url, cache_dir="off") as other:
            await other.wait_ready(60)
            await other.get(key)
            begun = clock()
            for _ in repeat(None, number):
                await other.get(key)
            return (clock() - begun) / number

    return {
        "dict.get": timed(dict_get),
        "dict[]": timed(dict_item),
        "get": timed(client_get),
        "get_int": timed(client_get_int),
        "aget": asyncio.run(client_aget()),
    }


if __name__ == "__main__":
    main()
