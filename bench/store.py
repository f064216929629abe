"""The etcd of a run, what is stored in it, and a connection that writes at a steady pace."""

import base64
import http.client
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import LOAD_CORE, on_cores
from configsvc.core.model import Scope, entry_path
from configsvc.etcd.local import LocalEtcd, LocalEtcdError, LocalOptions, binary_version, find_binary

ENVIRONMENT = "production"
TXN_OPS = 100
TXN_BYTES = 512 * 1024


def binary() -> Path:
    """The etcd of a run: the newest that `tools/build-etcd` left, else the one found on this machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "configsvc"
    built = Path(os.environ.get("CONFIGSVC_TOOLS_CACHE") or cache).glob("etcd/*/etcd")
    return max(built, key=_version, default=None) or find_binary()


@contextmanager
def etcd(core: int = LOAD_CORE, *, fsync: bool = False) -> Iterator[LocalEtcd]:
    """A member of its own on one core, empty; with `fsync` it answers a write when that is on disk."""
    # As much as a run writes; its data is thrown away.
    options = LocalOptions(binary=binary(), fsync=fsync, extra=("--quota-backend-bytes=8589934592",))
    with on_cores(core):
        member = LocalEtcd(options=options)
        member.start()
    try:
        yield member
    finally:
        member.stop()


def _version(binary: Path) -> tuple[int, ...]:
    try:
        return binary_version(binary)
    except LocalEtcdError:
        return ()


def scope(namespace: str) -> Scope:
    """The scope of a row: a namespace of its own."""
    return Scope(namespace, ENVIRONMENT)


def names(count: int) -> list[str]:
    """So many keys, as applications have them."""
    return [f"section-{n % 10}.subsection.key-{n:06d}" for n in range(count)]


def stored(value: Any) -> bytes:
    """An entry as a deploy leaves it."""
    metadata = {"created_by": "deploy@example.com", "created_at": "2026-01-01T00:00:00Z", "git_commit": "0123456789ab"}
    return json.dumps({"value": value, "version": "v1.0.0", "metadata": metadata}).encode()


def encoded(data: bytes) -> str:
    """Bytes as etcd's gateway wants them."""
    return base64.b64encode(data).decode()


def decoded(text: str) -> bytes:
    """Bytes as etcd's gateway has them."""
    return base64.b64decode(text)


class Connection:
    """A kept connection to etcd's gateway. Blocking; for one thread."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._http = http.client.HTTPConnection(host, int(port), timeout=60)

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST to the gateway."""
        self._http.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.loads(self._http.getresponse().read())

    def put(self, scope: Scope, key: str, value: Any) -> int:
        """Store one value; the revision."""
        return self.put_raw(entry_path(scope, key), stored(value))

    def put_raw(self, path: bytes, data: bytes) -> int:
        """Store bytes; the revision."""
        answer = self.ask("/v3/kv/put", {"key": encoded(path), "value": encoded(data)})
        return int(answer["header"]["revision"])

    def fill(self, scope: Scope, values: Iterable[tuple[str, Any]]) -> None:
        """Store many values, in as few transactions as etcd's limits allow."""
        ops: list[Any] = []
        size = 0
        for key, value in values:
            data = stored(value)
            ops.append({"requestPut": {"key": encoded(entry_path(scope, key)), "value": encoded(data)}})
            size += len(data)
            if len(ops) == TXN_OPS or size > TXN_BYTES:
                self.ask("/v3/kv/txn", {"success": ops})
                ops, size = [], 0
        if ops:
            self.ask("/v3/kv/txn", {"success": ops})


def paced(rate: float, seconds: float, do: Callable[[int], None]) -> None:
    """Call `do(0)`, `do(1)`, … at a rate per second, and catch up where one took too long."""
    begun = time.monotonic()
    for number in range(max(1, round(rate * seconds))):
        ahead = begun + number / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        do(number)
