"""Starts and stops a real etcd on this machine: for `configsvc dev`, local clusters and tests.

Blocking, for it runs before an event loop and after it; `start` waits until the members answer. Start from a thread
that lives as long as etcd should: on Linux the kernel ends a member with the thread that started it, so that a killed
parent leaves nothing behind. Which binary is run `binary` decides. Knows nothing of the gateway.
"""

import ctypes
import http.client
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit

import msgspec

from configsvc.etcd.binary import LocalEtcdError, binary_version, environment, find_binary, run
from configsvc.etcd.tls import TlsFiles

__all__ = [
    "LocalCluster",
    "LocalEtcd",
    "LocalEtcdError",
    "LocalMember",
    "LocalOptions",
    "LocalTls",
    "binary_version",
    "find_binary",
    "free_ports",
]

HOST = "127.0.0.1"
START_S = 20.0
STOP_S = 10.0
"""An etcd of 3.5.35 or later goes on for 7 s after SIGTERM while watches are open."""
PORT_ATTEMPTS = 5
PORTS = range(20_000, 32_000)
_TAKEN = ("address already in use", "Only one usage of each socket address")
_PR_SET_PDEATHSIG = 1


class LocalTls(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files for the client port. `cert` is etcd's and ours; `client_auth` asks clients for one."""

    cacert: Path
    cert: Path
    key: Path
    client_auth: bool = False


class LocalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How members are started."""

    binary: Path | None = None
    progress_s: float = 1.0
    """How often an idle watch is told how far it is."""
    fsync: bool = True
    """False only where losing the data does not matter."""
    tls: LocalTls | None = None
    cluster_token: str = "configsvc-local"  # noqa: S105 (a name, not a secret)
    """Identity of the cluster: the same token after a wipe gives the same `cluster_id`."""
    extra: tuple[str, ...] = ()
    """More of etcd's flags."""


class LocalMember:
    """One etcd process: its ports and its data stay the same over restarts."""

    def __init__(self, name: str, folder: Path, ports: tuple[int, int], options: LocalOptions) -> None:
        self.name = name
        self.data_dir = folder / name
        self.log_path = folder / f"{name}.log"
        self.options = options
        self.ports = ports
        """Client and peer."""
        self.cluster: str = ""
        """etcd's `--initial-cluster`."""
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"LocalMember({self.name} {self.url} {'running' if self.running else 'stopped'})"

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{'https' if self.options.tls else 'http'}://{HOST}:{self.ports[0]}"

    @property
    def peer_url(self) -> str:
        return f"http://{HOST}:{self.ports[1]}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the process; `wait_ready` waits for it."""
        if self.running:
            return
        try:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
            log = self.log_path.open("ab")
        except OSError as error:
            raise LocalEtcdError(f"etcd's data cannot be kept in {self.data_dir.parent}: {error.strerror}") from error
        with log:
            self.process = _spawn(self.command(), log)

    def command(self) -> list[str]:
        """The command line."""
        options = self.options
        binary = find_binary(options.binary)
        progress = "watch-progress-notify-interval"
        if binary_version(binary) < (3, 6):
            progress = "experimental-" + progress
        command = [
            str(binary),
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self.cluster or f'{self.name}={self.peer_url}'}",
            f"--initial-cluster-token={options.cluster_token}",
            f"--{progress}={round(options.progress_s * 1000)}ms",
            "--logger=zap",
            "--log-outputs=stderr",
        ]
        if not options.fsync:
            command.append("--unsafe-no-fsync")
        if options.tls:
            command += [f"--cert-file={options.tls.cert}", f"--key-file={options.tls.key}"]
            if options.tls.client_auth:
                # The authority alone makes etcd ask for certificates, whatever the other flag says.
                command += [f"--trusted-ca-file={options.tls.cacert}", "--client-cert-auth"]
        return [*command, *options.extra]

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Wait until the member answers that it is healthy. Raises `LocalEtcdError` with the end of its log."""
        deadline = time.monotonic() + timeout_s
        while not self._healthy():
            if not self.running:
                raise LocalEtcdError(f"etcd {self.name} ended at start:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise LocalEtcdError(f"etcd {self.name} is not healthy after {timeout_s} s:\n{self.log_tail()}")
            time.sleep(0.05)

    def _healthy(self) -> bool:
        try:
            return bool(self.ask("/health").get("health") == "true")
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def ask(self, path: str, body: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """Ask the member for JSON: GET, or POST with a body."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(HOST, address.port, timeout=2)
        if self.options.tls:
            connection = http.client.HTTPSConnection(HOST, address.port, timeout=2, context=self._tls_context())
        try:
            content = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, content, dict(headers or {}))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _tls_context(self) -> ssl.SSLContext:
        assert self.options.tls
        shown = {"cert": self.options.tls.cert, "key": self.options.tls.key} if self.options.tls.client_auth else {}
        context = TlsFiles(cacert=self.options.tls.cacert, **shown).context()
        context.check_hostname = False
        return context

    def log_tail(self, lines: int = 15) -> str:
        """The end of the log."""
        try:
            text = self.log_path.read_text("utf-8", "replace")
        except OSError as error:
            return f"(no log: {error})"
        return "\n".join(text.splitlines()[-lines:])

    def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        if self.process:
            self.process.kill()
            self.process.wait(STOP_S)

    def terminate(self, timeout_s: float = STOP_S) -> None:
        """Ask the process to end (SIGTERM), and make it after `timeout_s`."""
        if not self.process:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def freeze(self) -> None:
        """Stop the process where it is (SIGSTOP): its sockets stay open and nothing answers. Not on Windows."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        if sys.platform == "linux":
            # Until each of its threads has taken the signal it may still answer. Its status stays there for `Popen`.
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        if self.running:
            assert self.process
            self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start again on the same ports and data, after any end, and wait."""
        if self.running:
            self.terminate()
        self.start()
        self.wait_ready()


def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches our process, which ends etcd when it does not need it any more.
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
            preexec_fn=_death_with_parent(),
        )
    except OSError as error:
        raise LocalEtcdError(f"{command[0]}: {error}") from error


def _death_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Loaded here: between fork and exec as little as possible may happen.
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arm


class LocalCluster:
    """Members on this machine, as a context manager. Without a folder data is temporary and removed at the end.

    `ports` are the clients' and peers' of each member, for those who need the same ones every time; otherwise free
    ones are taken, and others if somebody else takes them meanwhile.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        folder: Path | None = None,
        ports: Sequence[tuple[int, int]] | None = None,
        options: LocalOptions | None = None,
    ) -> None:
        if ports is not None and len(ports) != size:
            raise ValueError(f"{len(ports)} pairs of ports for {size} members")
        self.size = size
        self.options = options or LocalOptions()
        self._fixed_ports = ports
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.members: list[LocalMember] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.members))})"

    def __enter__(self) -> "LocalCluster":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The clients' URLs."""
        return tuple(member.url for member in self.members)

    @property
    def version(self) -> tuple[int, ...]:
        return binary_version(find_binary(self.options.binary))

    def start(self) -> None:
        """Start all members and wait until each is healthy. Raises `LocalEtcdError`, with nothing left running."""
        for attempt in range(PORT_ATTEMPTS):
            self._place(self._fixed_ports or free_ports(self.size))
            try:
                self.start_members()
                return
            except LocalEtcdError as error:
                self.stop()
                taken = any(text in str(error) for text in _TAKEN)
                if self._fixed_ports or not taken or attempt == PORT_ATTEMPTS - 1:
                    raise
            except BaseException:
                self.stop()
                raise

    def _place(self, ports: Sequence[tuple[int, int]]) -> None:
        folder = self._folder
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="configsvc-etcd-")
            folder = Path(self._temporary.name)
        self.members = [LocalMember(f"m{n}", folder, pair, self.options) for n, pair in enumerate(ports)]
        for member in self.members:
            member.cluster = ",".join(f"{other.name}={other.peer_url}" for other in self.members)

    def start_members(self) -> None:
        """Start those that do not run, and wait for all."""
        for member in self.members:
            member.start()
        for member in self.members:
            member.wait_ready()

    def stop(self) -> None:
        """End all members at once (their log is on disk), and remove temporary data."""
        for member in self.members:
            member.kill()
        if self._temporary:
            self._temporary.cleanup()
            self._temporary = None

    def leader(self) -> LocalMember | None:
        """The member that leads, as far as the members know."""
        for member in self.members:
            try:
                status = member.ask("/v3/maintenance/status", {})
            except (OSError, ValueError, http.client.HTTPException):
                continue
            if status.get("leader") == status.get("header", {}).get("member_id"):
                return member
        return None

    def wipe(self) -> None:
        """Kill all members and start them empty, under the same token: a history that goes back to revision 1."""
        self._replace(lambda member: None)

    def snapshot(self, path: Path) -> None:
        """Save a backup, by `etcdctl`."""
        run([self._tool("etcdctl"), f"--endpoints={self.members[0].url}", "snapshot", "save", str(path)])

    def restore(self, path: Path, *flags: str) -> None:
        """Kill all members and start them from a backup, by `etcdutl`; `flags` such as `--mark-compacted`."""

        def restore_one(member: LocalMember) -> None:
            command = [self._tool("etcdutl"), "snapshot", "restore", str(path), f"--name={member.name}"]
            command += [f"--initial-cluster={member.cluster}", f"--initial-cluster-token={self.options.cluster_token}"]
            command += [f"--initial-advertise-peer-urls={member.peer_url}", f"--data-dir={member.data_dir}"]
            run([*command, *flags])

        self._replace(restore_one)

    def _replace(self, fill: Callable[[LocalMember], None]) -> None:
        for member in self.members:
            member.kill()
            shutil.rmtree(member.data_dir, ignore_errors=True)
            fill(member)
        self.start_members()

    def _tool(self, program: str) -> str:
        return str(find_binary(self.options.binary, program))


class LocalEtcd(LocalCluster):
    """One member. `port` (and the next one, for peers) where the same is needed every time."""

    def __init__(
        self, *, folder: Path | None = None, port: int | None = None, options: LocalOptions | None = None
    ) -> None:
        super().__init__(1, folder=folder, ports=[(port, port + 1)] if port else None, options=options)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.members[0].url


def free_ports(members: int) -> list[tuple[int, int]]:
    """Pairs of ports that nobody listens on at this moment.

    Below those that systems give to outgoing connections: a member that is down must find its port free again.
    """
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as sock:
            try:
                sock.bind((HOST, port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == 2 * members:
            return list(zip(ports[::2], ports[1::2], strict=True))
    raise LocalEtcdError(f"no free ports from {PORTS.start} to {PORTS.stop - 1}")
