"""The service as a process of its own, as production runs it, and a hand that writes to its etcd beside it."""

import json
import re
import signal
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configsvc.core.model import Scope, entry_path
from configsvc.etcd.local import LocalCluster
from tests.cli.commands import CONFIGSVC, DEADLINE_S, Running, get
from tests.support.etcd import encoded

DELETED = object()


class ServiceProcess:
    """`configsvc serve`. The port is any that is free at the first start and the same at each later one.

    A context manager that ends what still runs. Everything here blocks; `await asyncio.to_thread(service.start)` where
    something that the service needs runs in the test's own loop.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.settings = {"CONFIGSVC_LISTEN": "127.0.0.1:0", "CONFIGSVC_LOG_FORMAT": "json"} | settings
        self.url = ""
        self._folder = folder
        self._starts = 0
        self._running: Running | None = None

    def __enter__(self) -> "ServiceProcess":
        return self

    def __exit__(self, *error: object) -> None:
        if self._running:
            self._running.__exit__(*error)

    @property
    def running(self) -> Running:
        """The process that was started last."""
        assert self._running, "not started yet"
        return self._running

    def start(self, *, ready: bool = True) -> None:
        """Start it and wait until it listens or, as a rule, until traffic may come."""
        self.launch()
        self.running.until("it listens", self.address)
        self.url = self.address()
        self.settings["CONFIGSVC_LISTEN"] = self.url.removeprefix("http://")
        if ready:
            self.running.until("it is ready", lambda: self.health("/health/ready")["status"] in ("ok", "degraded"))

    def launch(self) -> None:
        """Start it and wait for nothing."""
        assert self._running is None or self._running.process.poll() is not None, "runs already"
        self._starts += 1
        folder = self._folder / f"start-{self._starts}"
        folder.mkdir(parents=True)
        self._running = Running(*CONFIGSVC, "serve", cwd=folder, **self.settings)

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        return self.running.process.wait(DEADLINE_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        return self.running.stop(number)

    def kill(self) -> None:
        """End it at once, as an out-of-memory killer does."""
        self.stop(signal.SIGKILL)

    def address(self) -> str:
        """Where it says that it listens, empty before."""
        return next((line["address"] for line in self.log() if "address" in line), "")

    def log(self) -> list[dict[str, Any]]:
        """The lines that it has logged since it was started last; one that is being written is left out."""
        return [json.loads(line) for line in re.findall(r"^\{.*\}\n", self.running.err, re.MULTILINE)]

    def health(self, path: str = "/health") -> dict[str, Any]:
        """A health report, whatever its status."""
        return get(self.url + path) or {"status": "unreachable", "checks": {}}


class Hand:
    """Writes to one scope in etcd, without any service, and knows what the scope then is."""

    def __init__(self, etcd: LocalCluster, scope: Scope | None = None) -> None:
        self.scope = scope or Scope(f"ns-{uuid.uuid4().hex[:12]}", "production")
        self.values: dict[str, Any] = {}
        self.revisions: list[int] = []
        """Of each write, oldest first."""
        self._etcd = etcd

    def write(self, changes: Mapping[str, Any]) -> int:
        """Set and, where the value is `DELETED`, delete keys in one transaction; the revision."""
        stored = {k: v if v is DELETED else json.dumps({"value": v}).encode() for k, v in changes.items()}
        revision = self.put_raw({entry_path(self.scope, key): data for key, data in stored.items()})
        self.values = {k: v for k, v in (self.values | dict(changes)).items() if v is not DELETED}
        self.revisions.append(revision)
        return revision

    def delete(self, keys: Iterable[str]) -> int:
        """Delete keys in one transaction; the revision."""
        return self.write(dict.fromkeys(keys, DELETED))

    def put_raw(self, records: Mapping[bytes, Any]) -> int:
        """Store bytes under whole paths, in one transaction; the revision."""
        ops = [
            {"requestDeleteRange": {"key": encoded(path)}}
            if data is DELETED
            else {"requestPut": {"key": encoded(path), "value": encoded(data)}}
            for path, data in records.items()
        ]
        answer = self._etcd.members[0].ask("/v3/kv/txn", {"success": ops})
        return int(answer["header"]["revision"])


@contextmanager
def sidecar(
    etcd: LocalCluster, folder: Path, values: Mapping[str, Any], heartbeat_s: float = 0.5
) -> Iterator[tuple[ServiceProcess, Hand]]:
    """A sidecar that runs and has these values, and the hand that wrote them."""
    hand = Hand(etcd)
    hand.write(values)
    with ServiceProcess(
        folder,
        SERVICE_NAME=hand.scope.namespace,
        CONFIG_ENVIRONMENT=hand.scope.environment,
        ETCD_ENDPOINTS=etcd.url,
        CONFIGSVC_HEARTBEAT_S=str(heartbeat_s),
    ) as process:
        process.start()
        yield process, hand
