"""What the service needs: memory and processor of a real `configsvc serve` on a real etcd, measured (Linux only).

    python -m tools.sizing                              # the table of docs/howto/production.md
    python -m tools.sizing --keys 5000 --streams 200    # one line of your own

Each line starts an etcd and a sidecar of their own on loopback, stores the keys (values of 200 bytes in one scope),
opens the streams, and prints a row of a Markdown table. The readers run in this process, whose needs do not count.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from configsvc import __version__
from configsvc.core.model import Scope, entry_path
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd, LocalOptions, binary_version, find_binary
from configsvc.etcd.ops import Put, Txn

SCOPE = Scope("sizing", "production")
VALUE_BYTES = 200
KEYS_PER_TXN = 100
CHANGES_PER_S = 10
READY_S = 60.0
TABLE = ((100, 0), (1_000, 0), (10_000, 0), (1_000, 100), (1_000, 1_000))
HEAD = (
    "keys",
    "streams",
    "ready after",
    "memory",
    "highest so far",
    "CPU idle",
    f"CPU at {CHANGES_PER_S} changes/s",
)
_http = build_opener(ProxyHandler({}))


class Usage(NamedTuple):
    """A process at a moment."""

    rss_mib: float
    peak_mib: float
    cpu_s: float
    at: float

    def share_since(self, before: "Usage") -> str:
        """Of one core, in percent."""
        return f"{100 * (self.cpu_s - before.cpu_s) / (self.at - before.at):.1f} %"


def usage(pid: int) -> Usage:
    """From /proc."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    kib = {name: int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")}
    return Usage(kib["VmRSS"] / 1024, kib["VmHWM"] / 1024, ticks / os.sysconf("SC_CLK_TCK"), time.monotonic())


def entry(number: int, turn: int = 0) -> Put:
    """A key, and a value of `VALUE_BYTES` that differs with each turn."""
    text = f"{number:08}-{turn:08}".ljust(VALUE_BYTES - 2, "x")
    value = json.dumps({"value": text, "metadata": {"created_by": "sizing"}}).encode()
    return Put(key=entry_path(SCOPE, f"section.{number % 20}.key-{number}"), value=value)


async def fill(gateway: Gateway, keys: int) -> None:
    """Store all keys."""
    for first in range(0, keys, KEYS_PER_TXN):
        batch = tuple(entry(number) for number in range(first, min(first + KEYS_PER_TXN, keys)))
        await gateway.txn(Txn(success=batch))


async def change(gateway: Gateway, keys: int, seconds: float) -> None:
    """One key after the other, `CHANGES_PER_S` of them."""
    began = time.monotonic()
    for turn in range(round(seconds * CHANGES_PER_S)):
        await gateway.txn(Txn(success=(entry(turn % keys, turn + 1),)))
        await asyncio.sleep(max(0.0, began + (turn + 1) / CHANGES_PER_S - time.monotonic()))


async def read_on(url: str, streams: int, opened: list[int]) -> None:
    """Open a stream and read it for ever; `opened` counts those that have their snapshot."""

    async def one() -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /v1/watch/{SCOPE} HTTP/1.1\r\nHost: sizing\r\n\r\n".encode())
        await reader.readuntil(b"event: snapshot")
        opened.append(1)
        while await reader.read(2**20):
            pass

    async with asyncio.TaskGroup() as tasks:
        for _ in range(streams):
            tasks.create_task(one())


def get(url: str) -> Any:
    """JSON, or None where nobody answers yet."""
    try:
        with _http.open(url, timeout=2) as answer:
            return json.load(answer)
    except (URLError, OSError):
        return None


async def measure(binary: Path | None, keys: int, streams: int, seconds: float) -> Sequence[str]:
    """One row."""
    with (
        tempfile.TemporaryDirectory(prefix="sizing-") as folder,
        LocalEtcd(options=LocalOptions(binary=binary)) as etcd,
    ):
        async with Gateway(GatewayConfig(endpoints=etcd.endpoints)) as gateway:
            await fill(gateway, keys)
            log = Path(folder) / "log"
            service = _serve(etcd.endpoints[0], log)
            try:
                return await _row(gateway, service, log, keys, streams, seconds)
            finally:
                service.terminate()
                await asyncio.to_thread(service.wait)


def _serve(etcd: str, log: Path) -> subprocess.Popen[bytes]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("CONFIG", "ETCD_", "SERVICE_NAME"))}
    environ |= {
        "SERVICE_NAME": SCOPE.namespace,
        "ETCD_ENDPOINTS": etcd,
        "CONFIGSVC_LISTEN": "127.0.0.1:0",
        "CONFIGSVC_LOG_FORMAT": "json",
    }
    with log.open("wb") as file:
        return subprocess.Popen(
            (sys.executable, "-m", "configsvc", "serve"), cwd=log.parent, env=environ, stdout=file, stderr=file
        )


async def _row(
    gateway: Gateway, service: subprocess.Popen[bytes], log: Path, keys: int, streams: int, seconds: float
) -> Sequence[str]:
    began = time.monotonic()
    url = await _ready(service, log)
    ready_s = time.monotonic() - began
    opened: list[int] = []
    readers = asyncio.create_task(read_on(url, streams, opened))
    while len(opened) < streams:
        if readers.done():
            readers.result()
        await asyncio.sleep(0.05)
    await asyncio.sleep(2)
    before = usage(service.pid)
    await asyncio.sleep(seconds)
    idle = usage(service.pid)
    await change(gateway, keys, seconds)
    busy = usage(service.pid)
    readers.cancel()
    await asyncio.wait([readers])
    return (
        f"{keys:,}",
        f"{streams:,}",
        f"{ready_s:.1f} s",
        f"{idle.rss_mib:.0f} MiB",
        f"{busy.peak_mib:.0f} MiB",
        idle.share_since(before),
        busy.share_since(idle),
    )


async def _ready(service: subprocess.Popen[bytes], log: Path) -> str:
    async with asyncio.timeout(READY_S):
        while True:
            if service.poll() is not None:
                raise SystemExit(f"the service ended:\n{log.read_text()}")
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
            url = next((line["address"] for line in lines if "address" in line), None)
            if url and await asyncio.to_thread(get, url + "/health/ready"):
                return str(url)
            await asyncio.sleep(0.02)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keys", type=int, help="how many keys; without it the whole table")
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each share of the processor is measured")
    parser.add_argument("--etcd", type=Path, help="etcd's binary; default: that of `configsvc dev`")
    options = parser.parse_args()
    version = ".".join(str(part) for part in binary_version(find_binary(options.etcd)))
    print(
        f"configsvc {__version__}, Python {platform.python_version()}, etcd {version}, "
        f"{platform.machine()}, {os.cpu_count()} cores\n"
    )
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for keys, streams in [(options.keys, options.streams)] if options.keys else TABLE:
        row = asyncio.run(measure(options.etcd, keys, streams, options.seconds))
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
